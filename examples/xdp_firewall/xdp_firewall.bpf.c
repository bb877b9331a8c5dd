// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A stateless firewall at XDP: drops blocked sources (longest prefix match, IPv4 and IPv6), blocked ports and
// fragments that hide their port, and counts per verdict and per source.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_VLANS 2
#define MAX_EXTENSIONS 6
#define MAX_BLOCKED_PORTS 8
#define IP_FRAGMENT_OFFSET 0x1fff

enum verdict {
	ALLOWED,
	BLOCKED_SOURCE,
	BLOCKED_PORT,
	FRAGMENT,
	MALFORMED,
	N_VERDICTS,
};

/* Set these before load, e.g. `skep run … --set-rodata drop_fragments=0`. Port 0 ends the list. */
const volatile __u16 blocked_ports[MAX_BLOCKED_PORTS] = { 23, 445 };
const volatile __u8 drop_fragments = 1;

struct source_key {
	__u32 prefix_len;
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d, so that one trie serves both */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u64); /* packets dropped by this rule */
} blocked_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, N_VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

struct source_stats {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u8[16]);
	__type(value, struct source_stats);
} sources SEC(".maps");

/* The part of a packet that is still to be read. */
struct cursor {
	void *at;
	void *end;
};

static __always_inline int count(__u32 verdict, int action)
{
	__u64 *packets = bpf_map_lookup_elem(&verdicts, &verdict);

	if (packets)
		(*packets)++;
	return action;
}

static __always_inline int is_blocked_port(__u16 port)
{
	for (int i = 0; i < MAX_BLOCKED_PORTS; i++) {
		if (!blocked_ports[i])
			break;
		if (blocked_ports[i] == port)
			return 1;
	}
	return 0;
}

/* Drops a packet from a blocked source or to a blocked port. */
static __always_inline int judge(struct cursor *c, __u8 protocol, const __u8 source[16], __u64 bytes)
{
	struct source_key key = { .prefix_len = 128 };
	struct source_stats *stats;
	__u64 *rule;
	__u16 port;

	__builtin_memcpy(key.address, source, 16);
	rule = bpf_map_lookup_elem(&blocked_sources, &key);
	if (rule) {
		__sync_fetch_and_add(rule, 1);
		return count(BLOCKED_SOURCE, XDP_DROP);
	}

	stats = bpf_map_lookup_elem(&sources, source);
	if (stats) {
		__sync_fetch_and_add(&stats->packets, 1);
		__sync_fetch_and_add(&stats->bytes, bytes);
	} else {
		struct source_stats first = { .packets = 1, .bytes = bytes };

		bpf_map_update_elem(&sources, source, &first, BPF_NOEXIST);
	}

	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = c->at;

		if ((void *)(tcp + 1) > c->end)
			return count(MALFORMED, XDP_ABORTED);
		port = bpf_ntohs(tcp->dest);
	} else if (protocol == IPPROTO_UDP) {
		struct udphdr *udp = c->at;

		if ((void *)(udp + 1) > c->end)
			return count(MALFORMED, XDP_ABORTED);
		port = bpf_ntohs(udp->dest);
	} else {
		return count(ALLOWED, XDP_PASS);
	}
	if (is_blocked_port(port))
		return count(BLOCKED_PORT, XDP_DROP);
	return count(ALLOWED, XDP_PASS);
}

static __always_inline int ipv4(struct cursor *c, __u64 bytes)
{
	struct iphdr *ip = c->at;
	__u8 source[16] = {};
	__u32 length;

	if ((void *)(ip + 1) > c->end)
		return count(MALFORMED, XDP_ABORTED);
	length = ip->ihl * 4;
	if (length < sizeof(*ip))
		return count(MALFORMED, XDP_ABORTED);
	if (drop_fragments && (ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET)))
		return count(FRAGMENT, XDP_DROP);
	source[10] = 0xff;
	source[11] = 0xff;
	__builtin_memcpy(source + 12, &ip->saddr, 4);
	c->at += length;
	if (c->at > c->end)
		return count(MALFORMED, XDP_ABORTED);
	return judge(c, ip->protocol, source, bytes);
}

static __always_inline int ipv6(struct cursor *c, __u64 bytes)
{
	struct ipv6hdr *ip = c->at;
	__u8 source[16];
	__u8 next;

	if ((void *)(ip + 1) > c->end)
		return count(MALFORMED, XDP_ABORTED);
	__builtin_memcpy(source, &ip->saddr, 16);
	next = ip->nexthdr;
	c->at = ip + 1;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 *extension = c->at;
		__u32 length;

		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			if ((void *)(extension + 2) > c->end)
				return count(MALFORMED, XDP_ABORTED);
			length = (extension[1] + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if ((void *)(extension + 8) > c->end)
				return count(MALFORMED, XDP_ABORTED);
			if (drop_fragments && ((extension[2] << 8 | extension[3]) & 0xfff8))
				return count(FRAGMENT, XDP_DROP);
			length = 8;
			break;
		default:
			return judge(c, next, source, bytes);
		}
		next = extension[0];
		c->at += length;
		if (c->at > c->end)
			return count(MALFORMED, XDP_ABORTED);
	}
	return count(MALFORMED, XDP_DROP);
}

SEC("xdp")
int firewall(struct xdp_md *ctx)
{
	struct cursor c = {
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	__u64 bytes = c.end - c.at;
	struct ethhdr *eth = c.at;
	__u16 protocol;

	if ((void *)(eth + 1) > c.end)
		return count(MALFORMED, XDP_ABORTED);
	protocol = eth->h_proto;
	c.at = eth + 1;

	for (int i = 0; i < MAX_VLANS; i++) {
		__u16 *tag = c.at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 2) > c.end)
			return count(MALFORMED, XDP_ABORTED);
		protocol = tag[1];
		c.at = tag + 2;
	}

	if (protocol == bpf_htons(ETH_P_IP))
		return ipv4(&c, bytes);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return ipv6(&c, bytes);
	return count(ALLOWED, XDP_PASS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
