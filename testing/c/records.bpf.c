// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Records of a user's ring buffer as arguments of global functions; `bad_` programs are refused. No engine of ours has such maps.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

__attribute__((noinline)) int takes_dynptr(const struct bpf_dynptr *dynptr)
{
	asm volatile("" : "+r"(dynptr) : : "memory");
	return 0;
}

static long pass_moved(struct bpf_dynptr *record, void *context)
{
	return takes_dynptr((void *)record + 16);
}

static long pass_moved_somewhere(struct bpf_dynptr *record, void *context)
{
	return takes_dynptr((void *)record + (*(__u32 *)context & 16));
}

SEC("tc")
int bad_moved_record_passed(struct __sk_buff *skb)
{
	return bpf_user_ringbuf_drain(&records, pass_moved, 0, 0);
}

SEC("tc")
int bad_record_moved_somewhere_passed(struct __sk_buff *skb)
{
	__u32 by = skb->mark;

	return bpf_user_ringbuf_drain(&records, pass_moved_somewhere, &by, 0);
}

SEC("tc")
int bad_context_as_a_dynptr(struct __sk_buff *skb)
{
	return takes_dynptr((void *)skb + 8);
}
