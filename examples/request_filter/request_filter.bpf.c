// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A filter inside a server: the context is the server's own struct, described in Rust (see the README), with a read-only
// part, a writable part and the request's bytes between two pointers.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Must match `Request` in crates/skep/examples/embedder.rs. */
struct request {
	__u32 client;
	__u16 port;
	__u8 is_tls;
	__u8 pad;
	__u32 priority; /* writable */
	__u32 pad2;
	__u8 *body;
	__u8 *body_end;
};

enum verdict {
	ACCEPT,
	REJECT,
};

const volatile __u64 requests_per_client = 3;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} clients SEC(".maps");

SEC("request")
int filter(struct request *ctx)
{
	__u32 client = ctx->client;
	__u8 *body = ctx->body;
	__u64 *seen, one = 1;

	seen = bpf_map_lookup_elem(&clients, &client);
	if (seen) {
		if (__sync_fetch_and_add(seen, 1) >= requests_per_client)
			return REJECT;
	} else {
		bpf_map_update_elem(&clients, &client, &one, BPF_NOEXIST);
	}

	if (body + 5 > ctx->body_end)
		return REJECT;
	if (body[0] == 'G' && body[1] == 'E' && body[2] == 'T' && body[3] == ' ' && body[4] == '/')
		ctx->priority = ctx->is_tls ? 2 : 1;
	return ACCEPT;
}

char _license[] SEC("license") = "Dual MIT/GPL";
