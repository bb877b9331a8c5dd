// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Maps whose number of entries a loader makes: perf event arrays without one, ring buffers of any.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 5000);
} ring SEC(".maps");

/* Nobody has opened an event. */
SEC("xdp")
int ok_perf_array_has_an_entry_per_cpu(struct xdp_md *xdp)
{
	__u32 length = xdp->data_end - xdp->data;

	return bpf_perf_event_output(xdp, &events, BPF_F_CURRENT_CPU, &length, sizeof(length));
}

SEC("xdp")
int ok_ring_has_a_power_of_two(struct xdp_md *xdp)
{
	return bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE);
}
