// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Says which version of it ran, before and behind a tail call: both halves of the result are equal unless a run was
// torn between two versions. Built with: clang-19 -O2 -g -target bpf -c version.bpf.c -o version.bpf.o
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile int version = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} first SEC(".maps");

unsigned long second_half(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, unsigned long(void *));
} next SEC(".maps") = {
	.values = { (void *)&second_half },
};

SEC("xdp")
unsigned long second_half(struct xdp_md *ctx)
{
	__u32 zero = 0, *before = bpf_map_lookup_elem(&first, &zero);

	return before ? (unsigned long)*before << 32 | (__u32)version : 0;
}

SEC("xdp")
unsigned long first_half(struct xdp_md *ctx)
{
	__u32 zero = 0, *before = bpf_map_lookup_elem(&first, &zero);
	__u64 *count = bpf_map_lookup_elem(&runs, &zero);

	if (!before || !count)
		return 0;
	(*count)++;
	*before = version;
	bpf_tail_call(ctx, &next, 0);
	return 1;
}

char _license[] SEC("license") = "Dual MIT/GPL";
