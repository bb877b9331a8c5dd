// Iterators over the elements of maps: of an array, a hash map and per-CPU maps. Built by build.sh.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

// As much of the kernel's structures as is used, as an object with CO-RE needs it: places do not matter.
#define CORE __attribute__((preserve_access_index))
struct seq_file;
struct bpf_iter_meta {
	__u64 seq_num;
	struct seq_file *seq;
} CORE;
struct bpf_map {
	char name[16];
	__u32 id;
	__u32 max_entries;
	__u32 value_size;
} CORE;
struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__uint(value_size, 12);
} odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} percpu_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u64);
} queue SEC(".maps");

int first SEC(".percpu") = 3;
int hits SEC(".percpu") = 40;

__u64 sum;
int fail_at = -1;
int cpus;

// Text, as most iterators write it.
SEC("iter/bpf_map_elem")
int dump(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;

	if (!key || !value) {
		BPF_SEQ_PRINTF(seq, "end after %llu\n", ctx->meta->seq_num);
		return 0;
	}
	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(seq, "%s has %u entries\n", ctx->map->name, ctx->map->max_entries);
	BPF_SEQ_PRINTF(seq, "%u: %llu\n", *key, *value);
	sum += *value;
	return 0;
}

// Bytes, and a new value for each element.
SEC("iter/bpf_map_elem")
int drain(struct bpf_iter__bpf_map_elem *ctx)
{
	__u64 *value = ctx->value;

	if (!ctx->key || !value)
		return 0;
	bpf_seq_write(ctx->meta->seq, value, sizeof(*value));
	*value = 0;
	return 0;
}

// The first 4 bytes of each CPU's value: two of them, 16 bytes apart where a value has 12 bytes.
SEC("iter/bpf_map_elem")
int two_cpus(struct bpf_iter__bpf_map_elem *ctx)
{
	char *value = ctx->value;

	if (!ctx->key || !value)
		return 0;
	bpf_seq_write(ctx->meta->seq, value, 4);
	bpf_seq_write(ctx->meta->seq, value + 16, 4);
	return 0;
}

// The variables of a .percpu section: 8 bytes of each CPU.
SEC("iter/bpf_map_elem")
int percpu_data(struct bpf_iter__bpf_map_elem *ctx)
{
	int *value = ctx->value;

	if (!ctx->key || !value)
		return 0;
	BPF_SEQ_PRINTF(ctx->meta->seq, "%d %d, %d %d\n", value[0], value[1], value[2], value[3]);
	return 0;
}

// More than an element's output may have.
char page[4096];
SEC("iter/bpf_map_elem")
int flood(struct bpf_iter__bpf_map_elem *ctx)
{
	int i;

	if (!ctx->key)
		return 0;
	for (i = 0; i < 9; i++)
		if (bpf_seq_write(ctx->meta->seq, page, sizeof(page)))
			sum++;
	return 0;
}

// Four elements of three pages: more than one buffer of the reader.
SEC("iter/bpf_map_elem")
int pages(struct bpf_iter__bpf_map_elem *ctx)
{
	int i;

	sum++;
	if (!ctx->key)
		return 0;
	for (i = 0; i < 3; i++)
		bpf_seq_write(ctx->meta->seq, page, sizeof(page));
	return 0;
}

// Asks for one element again, once or for ever.
SEC("iter/bpf_map_elem")
int again(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 *key = ctx->key;

	sum++;
	if (!key)
		return 0;
	bpf_seq_write(ctx->meta->seq, key, 4);
	if (*key == fail_at) {
		fail_at = -1;
		return 1;
	}
	return 0;
}

SEC("raw_tp")
int hit(void *ctx)
{
	hits++;
	first--;
	return 0;
}
