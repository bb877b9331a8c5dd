// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A filter whose decision is a function of its own, which an extension program may replace (see policy_strict.bpf.c).
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Verdicts by action; the last counts the decisions of extensions. */
__u64 verdicts[8] SEC(".percpu");

/* Global and not inlined: it is verified by its prototype alone, so that another function can take its place. */
__attribute__((noinline)) int decide(struct xdp_md *ctx, __u32 protocol)
{
	volatile int verdict = XDP_PASS;

	return ctx && protocol ? verdict : XDP_PASS;
}

SEC("xdp")
int filter(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	int verdict;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	verdict = decide(ctx, bpf_ntohs(eth->h_proto));
	verdicts[verdict & 7]++;
	return verdict;
}

char _license[] SEC("license") = "Dual MIT/GPL";
