// Every way to define a map in .maps.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define __ulong(name, val) enum { name##_value = val } name

struct key {
	__u32 prefix;
	__u8 addr[4];
};

struct value {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key);
	__type(value, struct value);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} typed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 16);
	__uint(max_entries, 4);
	__uint(numa_node, 0);
} sized SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(value_size, 4);
	__ulong(map_extra, 5);
} bloom SEC(".maps");

int called(struct __sk_buff *skb);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct __sk_buff *));
} jumps SEC(".maps") = {
	.values = {
		[1] = (void *)&called,
		[3] = (void *)&called,
	},
};

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} inner_a SEC(".maps"), inner_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__uint(key_size, sizeof(__u32));
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { [0] = &inner_b, [2] = &inner_a },
};

SEC("tc")
int called(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct key lpm = {};
	int *value = bpf_map_lookup_elem(&inner_a, &key);
	void *inner = bpf_map_lookup_elem(&outer, &key);

	bpf_map_delete_elem(&typed, &lpm);
	return (value ? *value : 0) + !!inner;
}

SEC("tc")
int entry(struct __sk_buff *skb)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&sized, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	bpf_map_push_elem(&bloom, &key, 0);
	bpf_ringbuf_output(&ring, &key, sizeof(key), 0);
	bpf_tail_call(skb, &jumps, 1);
	return 0;
}
