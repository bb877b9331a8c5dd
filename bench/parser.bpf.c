// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A parser of 3,000 instructions, for the time that verifying takes: Ethernet with VLAN tags, IPv4 with options, IPv6 with
// extension headers, TCP with options, all loops unrolled.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_VLANS 4
#define MAX_EXTENSIONS 8
#define MAX_OPTIONS 56

struct vlan {
	__be16 tci;
	__be16 proto;
};

struct extension {
	__u8 next;
	__u8 len;
	__u8 data[6];
};

struct summary {
	__u32 vlans;
	__u32 extensions;
	__u32 options;
	__u32 mss;
	__u32 window_scale;
	__u32 timestamps;
	__u32 sack;
	__u32 ports;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct summary);
} summaries SEC(".maps");

static __always_inline int parse_options(__u8 *base, void *end, struct summary *sum)
{
	__u32 off = 0;

#pragma unroll
	for (int i = 0; i < MAX_OPTIONS; i++) {
		__u8 *p = base + (off & 63), kind, len;

		if (p + 10 > (__u8 *)end)
			return 0;
		kind = p[0];
		len = p[1];
		if (kind == 0)
			return 0;
		if (kind == 1) {
			off += 1;
			continue;
		}
		sum->options++;
		switch (kind) {
		case 2:
			sum->mss = p[2] << 8 | p[3];
			break;
		case 3:
			sum->window_scale = p[2] > 14 ? 14 : p[2];
			break;
		case 4:
			sum->sack++;
			break;
		case 8:
			sum->timestamps = p[2] << 24 | p[3] << 16 | p[4] << 8 | p[5];
			break;
		}
		off += len;
	}
	return 0;
}

SEC("xdp")
int parse(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u32 zero = 0;
	struct summary *sum = bpf_map_lookup_elem(&summaries, &zero);
	__be16 proto;
	__u8 next;

	if (!sum || (void *)(eth + 1) > end)
		return XDP_DROP;
	proto = eth->h_proto;
	data = eth + 1;
#pragma unroll
	for (int i = 0; i < MAX_VLANS; i++) {
		struct vlan *vlan = data;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > end)
			return XDP_DROP;
		proto = vlan->proto;
		data = vlan + 1;
		sum->vlans++;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end || ip->ihl < 5)
			return XDP_DROP;
		next = ip->protocol;
		data += ip->ihl * 4;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end)
			return XDP_DROP;
		next = ip->nexthdr;
		data = ip + 1;
#pragma unroll
		for (int i = 0; i < MAX_EXTENSIONS; i++) {
			struct extension *ext = data;

			if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
				break;
			if ((void *)(ext + 1) > end)
				return XDP_DROP;
			next = ext->next;
			data += (ext->len + 1) * 8;
			sum->extensions++;
		}
	} else {
		return XDP_PASS;
	}
	if (next == IPPROTO_TCP) {
		struct tcphdr *tcp = data;

		if ((void *)(tcp + 1) > end)
			return XDP_DROP;
		sum->ports = (__u32)tcp->source << 16 | tcp->dest;
		if (parse_options((__u8 *)(tcp + 1), end, sum))
			return XDP_DROP;
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
