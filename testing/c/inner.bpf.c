// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Values of maps in maps, read by their addresses. `ok_` programs are accepted and run alike everywhere.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[4]);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { &first, 0, &second },
};

/* What the program and who drives it tell each other: that the value was found; that the map was replaced; rounds to wait. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[3]);
} signals SEC(".maps");

static __always_inline __u64 *find(__u32 slot, __u32 key)
{
	void *map = bpf_map_lookup_elem(&outer, &slot);

	return map ? bpf_map_lookup_elem(map, &key) : 0;
}

SEC("xdp")
int ok_probe_of_inner_values(struct xdp_md *ctx)
{
	__u64 *a = find(0, 1), *b = find(2, 0);
	__u64 copies[2] = {};

	if (!a || !b)
		return -1;
	a[3] = 30;
	b[0] = 12;
	if (bpf_probe_read_kernel(&copies[0], 8, &a[3]) || bpf_probe_read_kernel(&copies[1], 8, &b[0]))
		return -2;
	return copies[0] + copies[1];
}

SEC("xdp")
int ok_probe_of_a_string(struct xdp_md *ctx)
{
	__u64 *value = find(2, 1);
	char text[8];

	if (!value)
		return -1;
	value[1] = 0x636261;
	return bpf_probe_read_kernel_str(text, sizeof(text), &value[1]) * 100 + (text[2] == 'c');
}

static int wait(__u32 round, void *ctx)
{
	__u32 key = 0;
	volatile __u64 *signal = bpf_map_lookup_elem(&signals, &key);

	return !signal || signal[1];
}

/* The map may be replaced, and its last handle closed, between the lookup and the read. */
SEC("xdp")
int ok_probe_after_a_while(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *value = find(0, 0);
	volatile __u64 *signal = bpf_map_lookup_elem(&signals, &key);
	__u64 copy = 0;

	if (!value || !signal)
		return -1;
	value[2] = 77;
	signal[0] = 1;
	bpf_loop(signal[2], wait, 0, 0);
	if (bpf_probe_read_kernel(&copy, 8, &value[2]))
		return -2;
	return copy;
}
