// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A ring-buffer record that one of the returns forgets.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u32 interface;
	__u32 size;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

SEC("xdp")
int report(struct xdp_md *ctx)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return XDP_PASS;
	event->interface = ctx->ingress_ifindex;
	event->size = ctx->data_end - ctx->data;
	if (event->size < 64)
		return XDP_DROP;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
