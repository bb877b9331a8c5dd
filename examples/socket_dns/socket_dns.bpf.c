// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A socket filter that keeps DNS over UDP and cuts every other packet to nothing. Packet bytes are read with the classic
// absolute and indirect loads, by the special offsets that count from the link and from the network header, so that it
// works on a raw socket, on a datagram socket and in a test run. A load beyond the packet's end drops the packet.
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

unsigned long long load_byte(void *skb, unsigned long long off) __asm__("llvm.bpf.load.byte");
unsigned long long load_half(void *skb, unsigned long long off) __asm__("llvm.bpf.load.half");

#define DNS_PORT 53
#define KEEP_ALL 0xffffffff

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 256);
	__type(key, __u8);
	__type(value, __u64);
} packets_per_protocol SEC(".maps");

SEC("socket")
int dns_only(struct __sk_buff *skb)
{
	__s64 transport;
	__u64 one = 1, *packets;
	__u8 protocol;

	if (load_half(skb, SKF_LL_OFF + 12) != ETH_P_IP)
		return 0;
	protocol = load_byte(skb, SKF_NET_OFF + 9);
	packets = bpf_map_lookup_elem(&packets_per_protocol, &protocol);
	if (packets)
		(*packets)++;
	else
		bpf_map_update_elem(&packets_per_protocol, &protocol, &one, BPF_NOEXIST);
	if (protocol != IPPROTO_UDP)
		return 0;
	if (load_half(skb, SKF_NET_OFF + 6) & 0x1fff)
		return 0;
	transport = SKF_NET_OFF + (load_byte(skb, SKF_NET_OFF) & 0xf) * 4;
	if (load_half(skb, transport) != DNS_PORT && load_half(skb, transport + 2) != DNS_PORT)
		return 0;
	return KEEP_ALL;
}

char _license[] SEC("license") = "Dual MIT/GPL";
