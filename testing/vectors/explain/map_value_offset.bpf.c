// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A map whose value is smaller than the structure it is read as.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct config {
	__u32 enabled;
	__u32 limit;
	__u64 mask;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} configuration SEC(".maps");

SEC("xdp")
int filter(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct config *config = bpf_map_lookup_elem(&configuration, &zero);

	if (!config || !config->enabled)
		return XDP_PASS;
	if (ctx->ingress_ifindex & config->mask)
		return XDP_DROP;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
