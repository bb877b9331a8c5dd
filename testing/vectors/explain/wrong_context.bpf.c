// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The structure of another program type as context.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int drop_marked(struct __sk_buff *skb)
{
	if (skb->tc_index == 7)
		return XDP_DROP;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
