// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Programs on an embedder's context that call its helper. Built as version.bpf.c is.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct message {
	__u64 seed;
	__u32 result; /* writable */
	__u32 pad;
	__u8 *body;
	__u8 *body_end;
};

static long (*sum)(const void *bytes, __u32 len, __u64 seed) = (void *)1000;
static long (*fill)(void *bytes, __u32 len) = (void *)1001;

SEC("message/good")
int good(struct message *ctx)
{
	__u8 *body = ctx->body, local[4] = { 1, 2, 3, 4 };

	fill(local + 1, 2);
	if (body + 4 > ctx->body_end)
		return -1;
	ctx->result = sum(body, 4, ctx->seed);
	return sum(local, sizeof(local), 0);
}

SEC("?message/beyond")
int beyond(struct message *ctx)
{
	__u8 *body = ctx->body;

	if (body + 4 > ctx->body_end)
		return -1;
	return sum(body, 5, 0);
}

SEC("?message/read_only")
int read_only(struct message *ctx)
{
	ctx->seed = 1;
	return 0;
}

SEC("?message/packet_write")
int packet_write(struct message *ctx)
{
	__u8 *body = ctx->body;

	if (body + 1 > ctx->body_end)
		return -1;
	body[0] = 1;
	return 0;
}

SEC("?message/hole")
int hole(struct message *ctx)
{
	return ctx->pad;
}

char _license[] SEC("license") = "Dual MIT/GPL";
