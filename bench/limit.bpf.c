// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A loop whose end no verifier sees before it has looked at a million instructions: how long until it says so.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int limit(struct __sk_buff *skb)
{
	__u64 sum = 0;

	for (__u64 i = 0; i < 0x100000000ULL; i++) {
		if (skb->len & 1)
			sum += skb->hash;
		else
			sum ^= i;
	}
	return (int)sum;
}

char _license[] SEC("license") = "Dual MIT/GPL";
