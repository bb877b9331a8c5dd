// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Tail-call sections as iproute2 reads them: `N/M` is slot M of the prog array, of which the object has one.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int by_name(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} calls SEC(".maps") = {
	.values = { [0] = (void *)&by_name },
};

SEC("xdp")
int by_name(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int entry(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &calls, 3);
	return XDP_ABORTED;
}

SEC("2/3")
int in_slot_3(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* The slot is taken by name already. */
SEC("2/0")
int too_late(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
