// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Extensions of policy.bpf.c that say which version they are: one for decide(), one for the program itself.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile int answer = 0;
__u64 verdicts[8] SEC(".percpu");

SEC("freplace/decide")
int numbered(struct xdp_md *ctx, __u32 protocol)
{
	verdicts[7]++;
	return answer;
}

SEC("freplace/filter")
int whole(struct xdp_md *ctx)
{
	/* A helper that needs the run's state, which the program itself does not. */
	verdicts[7] += (bpf_get_prandom_u32() | 1) != 0;
	return answer;
}

/* Refused: it moves the packet, and decide() does not. */
SEC("freplace/decide")
int refused(struct xdp_md *ctx, __u32 protocol)
{
	return bpf_xdp_adjust_head(ctx, 2);
}

char _license[] SEC("license") = "Dual MIT/GPL";
