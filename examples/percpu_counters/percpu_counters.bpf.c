// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Global per-CPU variables: one image of initial values, one copy per CPU, written without a lookup and without atomics.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define N_SIZES 8

struct last_packet {
	__u32 length;
	__u16 protocol;
	_Bool is_vlan;
};

int hits SEC(".percpu");
__u64 bytes SEC(".percpu") = 0;
char smallest_class SEC(".percpu") = N_SIZES;
__u32 by_size[N_SIZES] SEC(".percpu");
struct last_packet last SEC(".percpu.last") = { .length = 0xffffffff };

SEC("xdp")
int count(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 length = ctx->data_end - ctx->data;
	__u32 class = 0;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	hits++;
	bytes += length;
	for (__u32 limit = 64; class < N_SIZES - 1 && length > limit; limit *= 2)
		class++;
	by_size[class & (N_SIZES - 1)]++;
	if (class < smallest_class)
		smallest_class = class;
	last.length = length;
	last.protocol = bpf_ntohs(eth->h_proto);
	last.is_vlan = eth->h_proto == bpf_htons(ETH_P_8021Q);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
