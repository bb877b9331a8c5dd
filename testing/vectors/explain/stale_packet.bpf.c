// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A packet pointer that is used after the packet was moved.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int pop_header(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if (data + sizeof(*eth) + 4 > end)
		return XDP_DROP;
	if (bpf_xdp_adjust_head(ctx, 4))
		return XDP_DROP;
	eth->h_proto = 0x0008;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
