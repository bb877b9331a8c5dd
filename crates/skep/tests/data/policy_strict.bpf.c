// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What takes the place of decide() in policy.bpf.c: IPv4 alone passes. The counters are the filter's, if they are adopted.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

__u64 verdicts[8] SEC(".percpu");

SEC("freplace/decide")
int strict(struct xdp_md *ctx, __u32 protocol)
{
	verdicts[7]++;
	return protocol == ETH_P_IP ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
