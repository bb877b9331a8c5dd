// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Programs with functions that extensions are tried on (see ext_programs.bpf.c): what may replace them and what not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define noinline __attribute__((noinline))

enum color { RED, GREEN };
struct pair {
	__u64 a, b;
};
struct wide {
	__u64 a;
};

noinline int of_ctx(struct xdp_md *ctx)
{
	volatile int result = 1;

	return ctx ? result : 0;
}

noinline int of_scalars(__u32 a, __u64 b, enum color c)
{
	volatile int result = a + b + c;

	return result;
}

noinline long of_long(struct xdp_md *ctx)
{
	volatile long result = 1;

	return ctx ? result : 0;
}

noinline int of_pair(struct pair *pair)
{
	return pair ? pair->a + pair->b : 0;
}

noinline int of_wide(struct wide *wide)
{
	return wide ? wide->a : 0;
}

noinline int of_int_pointer(int *value)
{
	return value ? *value : 0;
}

noinline int moves_packet(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 4);
}

static noinline int of_static(struct xdp_md *ctx)
{
	volatile int result = 1;

	return ctx ? result : 0;
}

/* Never called: its code is not part of the program. */
noinline int unused(struct xdp_md *ctx)
{
	volatile int result = 1;

	return result;
}

SEC("xdp")
int target(struct xdp_md *ctx)
{
	struct pair pair = { 1, 2 };
	struct wide wide = { 1 };
	volatile int value = 4;

	return of_ctx(ctx) + of_scalars(1, 2, GREEN) + of_long(ctx) + of_pair(&pair) + of_wide(&wide) +
	       of_int_pointer((int *)&value) + of_static(ctx) + moves_packet(ctx);
}

SEC("cgroup_skb/ingress")
int in_range(struct __sk_buff *skb)
{
	return 1;
}

char _license[] SEC("license") = "GPL";
