// Names that are different in C and would be the same in generated code.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

// As the skeleton's own methods and types are called.
int hits SEC(".percpu") = 1;
int of_sum SEC(".percpu.sum") = 2;
int of_initial SEC(".percpu.initial") = 3;
int lower SEC(".data.ab") = 4;
int upper SEC(".data.aB") = 5;
int also_upper SEC(".data.a_b") = 6;
int loaded = 7;
int maps = 8;

struct MapAMapKey {
	int member;
};
struct Skeleton {
	int member;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct MapAMapKey);
} map_a SEC(".maps"), mapA SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct Skeleton);
} other SEC(".maps");

SEC("xdp")
int object(struct xdp_md *ctx)
{
	hits += of_sum + of_initial + lower + upper + also_upper + loaded + maps;
	return XDP_PASS;
}

SEC("xdp")
int Open(struct xdp_md *ctx)
{
	return XDP_DROP;
}
