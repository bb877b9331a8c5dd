// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A key whose padding was never written. (A privileged program may read such bytes; an unprivileged one may not.)
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct flow {
	__u32 mark;
	__u8 protocol;
	__u32 hash;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, __u64);
} flows SEC(".maps");

SEC("socket")
int count_flows(struct __sk_buff *skb)
{
	struct flow flow;
	__u64 *count;

	flow.mark = skb->mark;
	flow.protocol = skb->protocol;
	flow.hash = skb->len;
	count = bpf_map_lookup_elem(&flows, &flow);
	if (count)
		*count += 1;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
