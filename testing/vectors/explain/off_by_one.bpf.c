// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An index that is bounded one too high.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 16

struct histogram {
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct histogram);
} sizes SEC(".maps");

SEC("xdp")
int count_sizes(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct histogram *histogram = bpf_map_lookup_elem(&sizes, &zero);
	__u64 size = ctx->data_end - ctx->data;
	__u64 slot = size / 128;

	if (!histogram)
		return XDP_PASS;
	if (slot > SLOTS)
		slot = SLOTS;
	histogram->slots[slot] += 1;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
