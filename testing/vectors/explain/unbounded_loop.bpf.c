// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A loop whose end the program reads from the packet.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int checksum(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 words, sum = 0;

	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	words = bpf_ntohl(ip->daddr);
	for (__u32 i = 0; i < words; i++)
		sum += (sum << 3) ^ i;
	return sum & 1 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
