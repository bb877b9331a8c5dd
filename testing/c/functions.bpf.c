// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Rules about functions that came after Linux 6.6 (`tests/profiles.rs`). `ok_` programs are accepted and run alike everywhere.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct pair {
	__u64 first, second;
};

struct locked {
	struct bpf_spin_lock lock;
	__u32 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct locked);
} numbers SEC(".maps");

extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;

__attribute__((noinline)) int sum(struct pair *pair)
{
	return pair ? pair->first + pair->second : 0;
}

__attribute__((noinline)) int first(struct pair *pair __attribute__((btf_decl_tag("arg:nonnull"))))
{
	return pair->first;
}

static __attribute__((noinline)) int lock(struct locked *locked)
{
	bpf_spin_lock(&locked->lock);
	return 1;
}

SEC("tc")
int ok_argument_that_is_not_null(struct __sk_buff *skb)
{
	struct pair pair = {skb->len, 2};

	return first(&pair);
}

SEC("tc")
int ok_global_function_without_preemption(struct __sk_buff *skb)
{
	struct pair pair = {3, skb->len};
	int result;

	bpf_preempt_disable();
	result = sum(&pair);
	bpf_preempt_enable();
	return result;
}

SEC("tc")
int ok_function_that_ends_with_a_lock(struct __sk_buff *skb)
{
	struct locked *locked;
	__u32 key = 0;
	int result;

	locked = bpf_map_lookup_elem(&numbers, &key);
	if (!locked)
		return 0;
	result = lock(locked);
	locked->number += skb->len;
	bpf_spin_unlock(&locked->lock);
	return result;
}
