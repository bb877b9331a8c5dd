// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A TC classifier that counts packets and bytes per IPv4 flow, marks heavy flows and reports each new flow through a
// ring buffer. Fields are read with bpf_skb_load_bytes, so that it works on packets whose data is not linear.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct flow {
	__u32 source;
	__u32 destination;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

struct counters {
	__u64 packets;
	__u64 bytes;
};

/* A flow is heavy from this many packets on; its packets carry `heavy_mark`. */
const volatile __u64 heavy_packets = 3;
const volatile __u32 heavy_mark = 0x2a;

__u64 skipped; /* packets that are not IPv4 TCP or UDP */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct flow);
	__type(value, struct counters);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} new_flows SEC(".maps");

static __noinline int parse(struct __sk_buff *skb, struct flow *flow)
{
	struct iphdr ip;
	__u16 ports[2];

	if (!flow)
		return -1;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return -1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0)
		return -1;
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
		return -1;
	if (ip.frag_off & bpf_htons(0x1fff))
		return -1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, ports, sizeof(ports)) < 0)
		return -1;
	flow->source = ip.saddr;
	flow->destination = ip.daddr;
	flow->source_port = bpf_ntohs(ports[0]);
	flow->destination_port = bpf_ntohs(ports[1]);
	flow->protocol = ip.protocol;
	return 0;
}

SEC("tc")
int count_flows(struct __sk_buff *skb)
{
	struct flow flow = {};
	struct counters *known;

	if (parse(skb, &flow) < 0) {
		__sync_fetch_and_add(&skipped, 1);
		return TC_ACT_OK;
	}
	known = bpf_map_lookup_elem(&flows, &flow);
	if (!known) {
		struct counters first = { .packets = 1, .bytes = skb->len };
		struct flow *report;

		if (bpf_map_update_elem(&flows, &flow, &first, BPF_NOEXIST))
			return TC_ACT_OK;
		report = bpf_ringbuf_reserve(&new_flows, sizeof(*report), 0);
		if (report) {
			*report = flow;
			bpf_ringbuf_submit(report, 0);
		}
		return TC_ACT_OK;
	}
	__sync_fetch_and_add(&known->bytes, skb->len);
	if (__sync_fetch_and_add(&known->packets, 1) + 1 >= heavy_packets)
		skb->mark = heavy_mark;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
