// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Callbacks that get a dynptr: a command of a user's ring buffer. This engine has no such maps, so nothing here is accepted.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

static long submits_what_it_gets(struct bpf_dynptr *dynptr, void *at)
{
	bpf_ringbuf_submit_dynptr(dynptr, 0);
	return 0;
}

static long makes_what_it_gets(struct bpf_dynptr *dynptr, void *at)
{
	return bpf_ringbuf_reserve_dynptr(&ring, 8, 0, dynptr) ? 1 : 0;
}

static long reads_beyond_what_it_gets(struct bpf_dynptr *dynptr, void *at)
{
	__u8 *data = bpf_dynptr_data(dynptr, 0, 8);

	return data ? ((volatile __u8 *)data)[8] : 0;
}

#define DRAIN(name, function)                                                                                          \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		return bpf_user_ringbuf_drain(&commands, function, 0, 0);                                              \
	}
DRAIN(bad_command_is_submitted, submits_what_it_gets)
DRAIN(bad_command_is_made, makes_what_it_gets)
DRAIN(bad_beyond_the_command, reads_beyond_what_it_gets)
