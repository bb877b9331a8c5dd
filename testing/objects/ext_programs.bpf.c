// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Extensions that are verified for the functions of ext_target.bpf.c, here and by the kernel. The section names the
// function; a program whose name starts with `cg_` is for the program in_range(), any other for target().
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define noinline __attribute__((noinline))

enum color { RED, GREEN };
enum other_color { CYAN, MAGENTA, YELLOW };
struct pair {
	__u64 a, b;
};
/* The same name as in the target, and more behind the pointer. */
struct wide {
	__u64 a[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} table SEC(".maps");

SEC("freplace/of_ctx")
int good(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data;
}

SEC("freplace/of_ctx")
int reads_the_packet(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data;

	return data + 1 > (unsigned char *)(long)ctx->data_end ? 0 : *data;
}

SEC("freplace/of_ctx")
int reads_beyond_the_packet(struct xdp_md *ctx)
{
	return *(unsigned char *)(long)ctx->data;
}

SEC("freplace/of_ctx")
int writes_the_context(struct xdp_md *ctx)
{
	ctx->data = 0;
	return 0;
}

SEC("freplace/of_ctx")
int any_value(struct xdp_md *ctx)
{
	return 4242;
}

SEC("freplace/of_ctx")
long other_result(struct xdp_md *ctx)
{
	return 1;
}

SEC("freplace/of_ctx")
void no_result(struct xdp_md *ctx)
{
}

SEC("freplace/of_ctx")
int too_many(struct xdp_md *ctx, int more)
{
	return more;
}

SEC("freplace/of_ctx")
int too_few(void)
{
	return 1;
}

SEC("freplace/of_ctx")
int other_context(struct __sk_buff *skb)
{
	return 1;
}

SEC("freplace/of_ctx")
int a_number_for_a_pointer(__u64 ctx)
{
	return ctx;
}

SEC("freplace/of_ctx")
int moves_it(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 4);
}

SEC("freplace/moves_packet")
int moves_it_too(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 8);
}

SEC("freplace/moves_packet")
int moves_nothing(struct xdp_md *ctx)
{
	return 0;
}

SEC("freplace/moves_packet")
int tail_calls(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &table, 1);
	return 0;
}

/* A tail call may change the packet. */
SEC("freplace/of_ctx")
int tail_calls_too(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &table, 1);
	return 0;
}

SEC("freplace/of_scalars")
int scalars(__u32 a, __u64 b, enum color c)
{
	return a * b * c;
}

SEC("freplace/of_scalars")
int signed_scalars(int a, long b, enum color c)
{
	return a * b * c;
}

SEC("freplace/of_scalars")
int narrow_scalars(__u16 a, __u64 b, enum color c)
{
	return a * b * c;
}

SEC("freplace/of_scalars")
int other_enum(__u32 a, __u64 b, enum other_color c)
{
	return a * b * c;
}

SEC("freplace/of_scalars")
int scalar_for_enum(__u32 a, __u64 b, __u32 c)
{
	return a * b * c;
}

SEC("freplace/of_long")
int int_for_long(struct xdp_md *ctx)
{
	return 1;
}

SEC("freplace/of_pair")
int pairs(struct pair *pair)
{
	return pair ? pair->b : 0;
}

SEC("freplace/of_pair")
int unchecked_pair(struct pair *pair)
{
	return pair->b;
}

SEC("freplace/of_pair")
int another_struct(struct wide *wide)
{
	return 0;
}

SEC("freplace/of_wide")
int reads_beyond_what_is_passed(struct wide *wide)
{
	return wide ? wide->a[63] : 0;
}

SEC("freplace/of_int_pointer")
int int_pointer(int *value)
{
	return value ? *value : 0;
}

SEC("freplace/of_static")
int for_a_static_function(struct xdp_md *ctx)
{
	return 1;
}

SEC("freplace/unused")
int for_a_function_that_is_gone(struct xdp_md *ctx)
{
	return 1;
}

SEC("freplace/target")
int for_the_program(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("freplace/in_range")
int cg_one(struct __sk_buff *skb)
{
	return 1;
}

SEC("freplace/in_range")
int cg_out_of_range(struct __sk_buff *skb)
{
	return 2;
}

static noinline int inner(struct xdp_md *ctx)
{
	volatile int result = ctx->data_end - ctx->data;

	return result;
}

SEC("freplace/of_ctx")
int with_functions(struct xdp_md *ctx)
{
	return inner(ctx) + 1;
}

char _license[] SEC("license") = "GPL";
