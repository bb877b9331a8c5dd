// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The result of a lookup that is used as if it were always there.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct stats {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct stats);
} per_interface SEC(".maps");

SEC("xdp")
int count_bytes(struct xdp_md *ctx)
{
	__u32 interface = ctx->ingress_ifindex;
	struct stats *stats = bpf_map_lookup_elem(&per_interface, &interface);

	stats->packets += 1;
	stats->bytes += ctx->data_end - ctx->data;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
