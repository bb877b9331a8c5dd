// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Sections in which a program may not sleep: under RCU, without preemption. `ok_` programs are accepted and run alike
// everywhere, `ok_verdict_` programs are accepted; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

static __u64 bytes;

__attribute__((noinline)) int sleeps(int number)
{
	return bpf_copy_from_user(&bytes, 8, 0) + number;
}

static __attribute__((noinline)) int leaves(int number)
{
	bpf_rcu_read_unlock();
	return number;
}

SEC("tc")
int ok_sections(struct __sk_buff *skb)
{
	int result;

	bpf_rcu_read_lock();
	bpf_preempt_disable();
	result = skb->len;
	bpf_preempt_enable();
	bpf_rcu_read_unlock();
	return result;
}

SEC("tc")
int ok_nested_sections(struct __sk_buff *skb)
{
	bpf_preempt_disable();
	bpf_preempt_disable();
	bpf_preempt_enable();
	bpf_preempt_enable();
	bpf_rcu_read_lock();
	return leaves(4);
}

SEC("tc")
int bad_end_under_rcu(struct __sk_buff *skb)
{
	bpf_rcu_read_lock();
	return 0;
}

SEC("tc")
int bad_end_without_preemption(struct __sk_buff *skb)
{
	bpf_preempt_disable();
	bpf_preempt_disable();
	bpf_preempt_enable();
	return 0;
}

SEC("tc")
int bad_tail_call_under_rcu(struct __sk_buff *skb)
{
	bpf_rcu_read_lock();
	bpf_tail_call(skb, &programs, 0);
	bpf_rcu_read_unlock();
	return 0;
}

SEC("tc")
int bad_unlock_without_lock(struct __sk_buff *skb)
{
	bpf_rcu_read_unlock();
	return 0;
}

SEC("tc")
int bad_enable_without_disable(struct __sk_buff *skb)
{
	bpf_preempt_enable();
	return 0;
}

SEC("tc")
int bad_unlock_on_one_path(struct __sk_buff *skb)
{
	if (skb->mark)
		bpf_rcu_read_lock();
	asm volatile("" ::: "memory");
	bpf_rcu_read_unlock();
	return 0;
}

SEC("tc")
int bad_enable_on_one_path(struct __sk_buff *skb)
{
	if (skb->mark)
		bpf_preempt_disable();
	asm volatile("" ::: "memory");
	bpf_preempt_enable();
	return 0;
}

SEC("tc")
int bad_end_on_one_path_under_rcu(struct __sk_buff *skb)
{
	if (!skb->mark)
		bpf_rcu_read_lock();
	asm volatile("" ::: "memory");
	return 0;
}

SEC("tc")
int bad_end_on_one_path_without_preemption(struct __sk_buff *skb)
{
	if (!skb->mark)
		bpf_preempt_disable();
	asm volatile("" ::: "memory");
	return 0;
}

SEC("syscall")
int ok_verdict_sleeping_helper(void *args)
{
	return bpf_copy_from_user(&bytes, 8, 0);
}

SEC("syscall")
int bad_sleeping_helper_under_rcu(void *args)
{
	bpf_rcu_read_lock();
	bpf_copy_from_user(&bytes, 8, 0);
	bpf_rcu_read_unlock();
	return 0;
}

SEC("syscall")
int bad_sleeping_helper_without_preemption(void *args)
{
	bpf_preempt_disable();
	bpf_copy_from_user(&bytes, 8, 0);
	bpf_preempt_enable();
	return 0;
}

SEC("kprobe/none")
int bad_sleeping_helper_where_nothing_sleeps(void *args)
{
	return bpf_copy_from_user(&bytes, 8, 0);
}

SEC("syscall")
int ok_verdict_sleeping_function(void *args)
{
	return sleeps(1);
}

SEC("syscall")
int bad_sleeping_function_under_rcu(void *args)
{
	int result;

	bpf_rcu_read_lock();
	result = sleeps(1);
	bpf_rcu_read_unlock();
	return result;
}

SEC("syscall")
int bad_sleeping_function_without_preemption(void *args)
{
	int result;

	bpf_preempt_disable();
	result = sleeps(1);
	bpf_preempt_enable();
	return result;
}

SEC("kprobe/none")
int bad_sleeping_function_where_nothing_sleeps(void *args)
{
	return sleeps(1);
}

SEC("syscall")
int ok_verdict_sleeping_kernel_function(void *args)
{
	return bpf_copy_from_user_str(&bytes, 8, 0, 0);
}

SEC("syscall")
int bad_sleeping_kernel_function_under_rcu(void *args)
{
	bpf_rcu_read_lock();
	bpf_copy_from_user_str(&bytes, 8, 0, 0);
	bpf_rcu_read_unlock();
	return 0;
}

SEC("syscall")
int bad_sleeping_kernel_function_without_preemption(void *args)
{
	bpf_preempt_disable();
	bpf_copy_from_user_str(&bytes, 8, 0, 0);
	bpf_preempt_enable();
	return 0;
}

SEC("tc")
int bad_sleeping_kernel_function_where_nothing_sleeps(struct __sk_buff *skb)
{
	return bpf_copy_from_user_str(&bytes, 8, 0, 0);
}
