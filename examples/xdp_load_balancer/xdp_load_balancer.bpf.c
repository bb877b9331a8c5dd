// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A layer-4 load balancer at XDP: packets to the virtual address go to one of the backends, chosen by a hash of the
// flow and remembered in an LRU table; addresses are rewritten in place and both checksums are kept right.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_BACKENDS 4

struct backend {
	__u32 address; /* network byte order */
	__u8 mac[6];
	__u8 pad[2];
};

const volatile __u32 virtual_address = bpf_htonl(0x0a000064); /* 10.0.0.100 */
const volatile __u32 n_backends = 3;
const volatile struct backend backends[MAX_BACKENDS] = {
	{ .address = bpf_htonl(0xc0a80a01), .mac = { 2, 0, 0, 0, 10, 1 } }, /* 192.168.10.1 */
	{ .address = bpf_htonl(0xc0a80a02), .mac = { 2, 0, 0, 0, 10, 2 } },
	{ .address = bpf_htonl(0xc0a80a03), .mac = { 2, 0, 0, 0, 10, 3 } },
};

struct flow {
	__u32 source;
	__u32 destination;
	__u16 source_port;
	__u16 destination_port;
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, __u32); /* index of the backend */
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, __u64);
} packets_per_backend SEC(".maps");

/* One's complement sum of `sum` folded to 16 bits. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

static __always_inline __u32 hash(const struct flow *f)
{
	__u32 h = f->source * 0x9e3779b1u;

	h = (h ^ f->destination) * 0x85ebca6bu;
	h = (h ^ ((__u32)f->source_port << 16 | f->destination_port)) * 0xc2b2ae35u;
	h ^= h >> 15;
	return h ^ f->protocol;
}

/* The backend of this flow: the remembered one, or a new one by hash. */
static __noinline __u32 choose(struct flow *f)
{
	__u32 *known, index;

	if (!f)
		return 0;
	known = bpf_map_lookup_elem(&connections, f);
	if (known)
		return *known;
	index = n_backends ? hash(f) % n_backends : 0;
	bpf_map_update_elem(&connections, f, &index, BPF_ANY);
	return index;
}

SEC("xdp")
int balance(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct flow flow = {};
	__u32 index, old_address, new_address;
	__u64 *packets;
	__u16 *ports, *checksum = 0;
	__s64 diff;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->daddr != virtual_address || ip->ihl != 5 || (ip->frag_off & bpf_htons(0x3fff)))
		return XDP_PASS;

	ports = (void *)(ip + 1);
	if ((void *)(ports + 2) > end)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)ports;

		if ((void *)(tcp + 1) > end)
			return XDP_PASS;
		checksum = &tcp->check;
	} else if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)ports;

		if ((void *)(udp + 1) > end)
			return XDP_PASS;
		if (udp->check) /* 0: the sender made none */
			checksum = &udp->check;
	} else {
		return XDP_PASS;
	}

	flow.source = ip->saddr;
	flow.destination = ip->daddr;
	flow.source_port = ports[0];
	flow.destination_port = ports[1];
	flow.protocol = ip->protocol;
	index = choose(&flow);
	if (index >= MAX_BACKENDS)
		return XDP_ABORTED;

	old_address = ip->daddr;
	new_address = backends[index].address;
	diff = bpf_csum_diff(&old_address, 4, &new_address, 4, 0);
	ip->daddr = new_address;
	ip->check = ~fold((__u16)~ip->check + (__u64)diff);
	if (checksum)
		*checksum = ~fold((__u16)~*checksum + (__u64)diff);

	__builtin_memcpy(eth->h_source, eth->h_dest, 6);
	for (int i = 0; i < 6; i++)
		eth->h_dest[i] = backends[index].mac[i];

	packets = bpf_map_lookup_elem(&packets_per_backend, &index);
	if (packets)
		__sync_fetch_and_add(packets, 1);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
