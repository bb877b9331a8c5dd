// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The rows of `skep bench percpu`: 128 increments in one run, spread over 8 counters so that they do not wait for each
// other, each row with another kind of counter. `loop_only` is the loop without them.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define ROUNDS 16
#define COUNTERS 8

#define barrier() asm volatile("" ::: "memory")

__u64 counters[COUNTERS] SEC(".percpu");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} percpu_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} array SEC(".maps");

SEC("xdp")
int loop_only(struct xdp_md *ctx)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUNDS; i++)
		barrier();
	return XDP_PASS;
}

SEC("xdp")
int percpu_variable(struct xdp_md *ctx)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUNDS; i++) {
#pragma clang loop unroll(full)
		for (int k = 0; k < COUNTERS; k++) {
			counters[k]++;
			barrier();
		}
	}
	return XDP_PASS;
}

SEC("xdp")
int percpu_lookup(struct xdp_md *ctx)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUNDS; i++) {
#pragma clang loop unroll(full)
		for (int k = 0; k < COUNTERS; k++) {
			__u32 key = k;
			__u64 *value = bpf_map_lookup_elem(&percpu_array, &key);

			if (value)
				(*value)++;
		}
	}
	return XDP_PASS;
}

SEC("xdp")
int shared_atomic(struct xdp_md *ctx)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUNDS; i++) {
#pragma clang loop unroll(full)
		for (int k = 0; k < COUNTERS; k++) {
			__u32 key = k;
			__u64 *value = bpf_map_lookup_elem(&array, &key);

			if (value)
				__sync_fetch_and_add(value, 1);
		}
	}
	return XDP_PASS;
}

/* Loses updates with more than one thread: what sharing a line costs even without atomics. */
SEC("xdp")
int shared_line(struct xdp_md *ctx)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUNDS; i++) {
#pragma clang loop unroll(full)
		for (int k = 0; k < COUNTERS; k++) {
			__u32 key = k;
			__u64 *value = bpf_map_lookup_elem(&array, &key);

			if (value)
				(*value)++;
		}
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
