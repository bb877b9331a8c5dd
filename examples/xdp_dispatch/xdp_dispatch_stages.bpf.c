// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Other stages for xdp_dispatch.bpf.c: an object of their own that shares its maps, to be put into the prog array while
// packets flow.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
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

/* For STAGE_TCP: no new connections over IPv4. */
SEC("xdp")
int refuse_connections(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;
	struct tcphdr *tcp;

	count(STAGE_TCP);
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return XDP_PASS;
	tcp = (void *)ip + ip->ihl * 4;
	if ((void *)(tcp + 1) > end)
		return XDP_PASS;
	return tcp->syn && !tcp->ack ? XDP_DROP : XDP_PASS;
}

/* For STAGE_UDP: everything is dropped. */
SEC("xdp")
int drop_udp(struct xdp_md *ctx)
{
	count(STAGE_UDP);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
