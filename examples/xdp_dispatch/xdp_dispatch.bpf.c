// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A parser in stages: the entry program finds the protocol and tail-calls the stage that a prog array holds for it. A
// stage can be replaced while packets flow; an empty slot means that the protocol is passed unseen.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum stage {
	STAGE_IPV4,
	STAGE_IPV6,
	STAGE_TCP,
	STAGE_UDP,
	STAGE_ICMP,
	N_STAGES,
};

int parse_ipv4(struct xdp_md *ctx);
int parse_ipv6(struct xdp_md *ctx);
int parse_tcp(struct xdp_md *ctx);
int parse_udp(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, N_STAGES);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} stages SEC(".maps") = {
	.values = {
		[STAGE_IPV4] = (void *)&parse_ipv4,
		[STAGE_IPV6] = (void *)&parse_ipv6,
		[STAGE_TCP] = (void *)&parse_tcp,
		[STAGE_UDP] = (void *)&parse_udp,
	},
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, N_STAGES);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline void count(__u32 stage)
{
	__u64 *packets = bpf_map_lookup_elem(&seen, &stage);

	if (packets)
		(*packets)++;
}

/* The transport header's stage, by a variable index: a cached tail call. */
static __always_inline int next(struct xdp_md *ctx, __u8 protocol)
{
	__u32 stage;

	switch (protocol) {
	case IPPROTO_TCP:
		stage = STAGE_TCP;
		break;
	case IPPROTO_UDP:
		stage = STAGE_UDP;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		stage = STAGE_ICMP;
		break;
	default:
		return XDP_PASS;
	}
	bpf_tail_call(ctx, &stages, stage);
	return XDP_PASS;
}

SEC("xdp")
int dispatch(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* Constant indices: poked tail calls, direct jumps that are patched when the slot changes. */
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		bpf_tail_call_static(ctx, &stages, STAGE_IPV4);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		bpf_tail_call_static(ctx, &stages, STAGE_IPV6);
	return XDP_PASS;
}

SEC("xdp")
int parse_ipv4(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || ip->ihl < 5)
		return XDP_ABORTED;
	count(STAGE_IPV4);
	if (ip->frag_off & bpf_htons(0x1fff))
		return XDP_PASS;
	return next(ctx, ip->protocol);
}

SEC("xdp")
int parse_ipv6(struct xdp_md *ctx)
{
	struct ipv6hdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	count(STAGE_IPV6);
	return next(ctx, ip->nexthdr);
}

SEC("xdp")
int parse_tcp(struct xdp_md *ctx)
{
	count(STAGE_TCP);
	return XDP_PASS;
}

SEC("xdp")
int parse_udp(struct xdp_md *ctx)
{
	count(STAGE_UDP);
	return XDP_PASS;
}

/* Not in the array at first: put it into slot STAGE_ICMP to drop echo requests. */
SEC("xdp")
int drop_icmp(struct xdp_md *ctx)
{
	count(STAGE_ICMP);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
