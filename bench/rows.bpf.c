// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The rows of `skep bench run`: one program each, the same object for our engine and for the kernel. Results go into the
// return value, so that nothing is optimised away. The input is one Ethernet frame of 1514 bytes (bench/README.md).
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PAYLOAD 1500

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} percpu_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} hash SEC(".maps");

/* How often the map rows look up in one run; the cost of a run is divided by it. */
#define LOOKUPS 32

SEC("xdp")
int trivial(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int alu_loop(struct xdp_md *ctx)
{
	__u64 x = ctx->rx_queue_index + 0x9e3779b97f4a7c15ull;

	for (int i = 0; i < 1000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return (__u32)x;
}

SEC("xdp")
int collatz(struct xdp_md *ctx)
{
	__u64 n = ctx->rx_queue_index + 837799;
	__u32 steps = 0;

	while (n != 1 && steps < 1000) {
		n = n & 1 ? 3 * n + 1 : n >> 1;
		steps++;
	}
	return steps;
}

SEC("xdp")
int sum_bytes(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 sum = 0;

	if ((void *)(data + PAYLOAD) > end)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < PAYLOAD; i++)
		sum += data[i];
	return sum;
}

SEC("xdp")
int header_checksum(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u16 *ip = data + ETH_HLEN;
	__u32 sum = 0;

	if ((void *)(ip + 10) > end)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < 10; i++)
		sum += ip[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum & 0xffff;
}

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define SIP_ROUND(v0, v1, v2, v3)                                                                                      \
	do {                                                                                                           \
		v0 += v1;                                                                                              \
		v1 = ROTATE(v1, 13) ^ v0;                                                                              \
		v0 = ROTATE(v0, 32);                                                                                   \
		v2 += v3;                                                                                              \
		v3 = ROTATE(v3, 16) ^ v2;                                                                              \
		v0 += v3;                                                                                              \
		v3 = ROTATE(v3, 21) ^ v0;                                                                              \
		v2 += v1;                                                                                              \
		v1 = ROTATE(v1, 17) ^ v2;                                                                              \
		v2 = ROTATE(v2, 32);                                                                                   \
	} while (0)

SEC("xdp")
int siphash(struct xdp_md *ctx)
{
	__u64 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 v0 = 0x736f6d6570736575ull, v1 = 0x646f72616e646f6dull;
	__u64 v2 = 0x6c7967656e657261ull, v3 = 0x7465646279746573ull;
	__u64 last = 64ull << 56;

	if ((void *)(data + 8) > end)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < 8; i++) {
		v3 ^= data[i];
		SIP_ROUND(v0, v1, v2, v3);
		SIP_ROUND(v0, v1, v2, v3);
		v0 ^= data[i];
	}
	v3 ^= last;
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	v0 ^= last;
	v2 ^= 0xff;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		SIP_ROUND(v0, v1, v2, v3);
	return (__u32)(v0 ^ v1 ^ v2 ^ v3);
}

SEC("xdp")
int copy_and_scan(struct xdp_md *ctx)
{
	__u64 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 copy[32];
	__u8 *bytes = (void *)copy;
	__u32 found = 0;

	if ((void *)(data + 32) > end)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 32; i++)
		copy[i] = data[i];
	asm volatile("" ::"r"(copy) : "memory");
#pragma clang loop unroll(disable)
	for (int i = 0; i < sizeof(copy); i++)
		if (bytes[i] == 0x2a)
			found++;
	return found;
}

SEC("xdp")
int header_parse(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp;
	__u32 mixed;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->ihl < 5 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	tcp = (void *)ip + ip->ihl * 4;
	if ((void *)(tcp + 1) > end)
		return XDP_PASS;
	mixed = ip->saddr ^ ip->daddr ^ (__u32)bpf_ntohs(tcp->source) << 16 ^ bpf_ntohs(tcp->dest);
	mixed ^= bpf_ntohl(tcp->seq) ^ bpf_ntohl(tcp->ack_seq) ^ bpf_ntohs(tcp->window) ^ bpf_ntohs(ip->tot_len);
	mixed ^= tcp->doff << 4 | tcp->syn << 1 | tcp->fin;
	return mixed;
}

SEC("xdp")
int primes(struct xdp_md *ctx)
{
	__u32 limit = 200 + ctx->rx_queue_index;
	__u32 count = 0;

	for (__u32 n = 2; n < limit && n < 1000; n++) {
		__u32 prime = 1;

		for (__u32 d = 2; d * d <= n && d < 32; d++) {
			if (n % d == 0) {
				prime = 0;
				break;
			}
		}
		count += prime;
	}
	return count;
}

SEC("xdp")
int array_lookup(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < LOOKUPS; i++) {
		__u64 *value = bpf_map_lookup_elem(&array, &key);

		if (!value)
			return 0;
		sum += *value;
		key = (key + 7) & 255;
	}
	return (__u32)sum;
}

SEC("xdp")
int percpu_array_lookup(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < LOOKUPS; i++) {
		__u64 *value = bpf_map_lookup_elem(&percpu_array, &key);

		if (!value)
			return 0;
		sum += *value;
		key = (key + 7) & 255;
	}
	return (__u32)sum;
}

/* The loop of the two rows above without their lookups. */
SEC("xdp")
int lookup_loop(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < LOOKUPS; i++) {
		volatile __u32 stored = key;

		sum += stored;
		key = (key + 7) & 255;
	}
	return (__u32)sum;
}

SEC("xdp")
int hash_lookup(struct xdp_md *ctx)
{
	__u64 key = ctx->rx_queue_index;
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < LOOKUPS; i++) {
		__u64 *value = bpf_map_lookup_elem(&hash, &key);

		if (value)
			sum += *value;
		key = (key + 7) & 511;
	}
	return (__u32)sum;
}

char _license[] SEC("license") = "Dual MIT/GPL";
