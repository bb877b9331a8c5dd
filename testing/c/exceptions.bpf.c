// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Exceptions: thrown at any depth, handled by the program's own function or returned. `ok_` programs are accepted and run
// alike everywhere; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __attribute__((noinline)) void count(__u32 key)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &key);

	if (counter)
		*counter += 1;
}

static __attribute__((noinline)) int throws_if_long(struct __sk_buff *skb, __u32 limit)
{
	if (skb->len > limit)
		bpf_throw(limit + 7);
	return skb->len;
}

static __attribute__((noinline)) int middle(struct __sk_buff *skb, __u32 limit)
{
	int len = throws_if_long(skb, limit);

	count(0);
	return len + 1;
}

__attribute__((noinline)) int global(struct __sk_buff *skb)
{
	volatile int result = middle(skb, 63);

	return result + 1;
}

__attribute__((noinline)) int handler(__u64 cookie)
{
	return cookie * 2 + 1;
}

SEC("tc")
int ok_throw_in_the_program(struct __sk_buff *skb)
{
	if (skb->len == 64)
		bpf_throw(33);
	return 1;
}

SEC("tc")
handles_exceptions(handler)
int ok_throw_to_the_handler(struct __sk_buff *skb)
{
	if (skb->len == 64)
		bpf_throw(33);
	return 1;
}

SEC("tc")
int ok_throw_two_calls_below(struct __sk_buff *skb)
{
	volatile int before = 5;
	int len = middle(skb, 10);

	return len + before;
}

SEC("tc")
int ok_not_thrown_two_calls_below(struct __sk_buff *skb)
{
	volatile int before = 5;
	int len = middle(skb, 100);

	return len + before;
}

SEC("tc")
handles_exceptions(handler)
int ok_throw_below_a_global_function(struct __sk_buff *skb)
{
	int result = global(skb);

	return result + 100000;
}

SEC("tc")
handles_exceptions(handler)
int ok_throw_always(struct __sk_buff *skb)
{
	bpf_throw(9);
	return 0;
}

static __attribute__((noinline)) int only_throws(struct __sk_buff *skb)
{
	bpf_throw(skb->len);
	return 0;
}

SEC("tc")
int ok_call_that_never_returns(struct __sk_buff *skb)
{
	return only_throws(skb) + 3;
}

SEC("tc")
int ok_loop_of_calls_that_may_throw(struct __sk_buff *skb)
{
	int sum = 0;

	for (int i = 0; i < 10; i++)
		sum += middle(skb, 68 - i);
	return sum;
}

SEC("tc")
int bad_throw_in_an_rcu_section(struct __sk_buff *skb)
{
	bpf_rcu_read_lock();
	bpf_throw(1);
	bpf_rcu_read_unlock();
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

SEC("tc")
int bad_throw_with_a_record(struct __sk_buff *skb)
{
	void *record = bpf_ringbuf_reserve(&ring, 8, 0);

	if (!record)
		return 0;
	bpf_throw(1);
	return 0;
}

SEC("tc")
int bad_throw_below_with_a_record(struct __sk_buff *skb)
{
	void *record = bpf_ringbuf_reserve(&ring, 8, 0);

	if (!record)
		return 0;
	throws_if_long(skb, 3);
	bpf_ringbuf_discard(record, 0);
	return 0;
}

__attribute__((noinline)) int global_throws(struct __sk_buff *skb)
{
	if (skb->len > 3)
		bpf_throw(7);
	return 1;
}

/* Accepted, though the record is lost when the function throws: such a program is not run here. */
SEC("tc")
int ok_verdict_throw_below_a_global_function_with_a_record(struct __sk_buff *skb)
{
	void *record = bpf_ringbuf_reserve(&ring, 8, 0);

	if (!record)
		return 0;
	global_throws(skb);
	bpf_ringbuf_discard(record, 0);
	return 0;
}

static int throwing_callback(__u32 index, void *context)
{
	bpf_throw(index);
	return 0;
}

SEC("tc")
int bad_throw_in_a_callback(struct __sk_buff *skb)
{
	bpf_loop(2, throwing_callback, 0, 0);
	return 0;
}

static __attribute__((noinline)) int below_callback(__u32 index)
{
	if (index)
		bpf_throw(index);
	return 0;
}

static int calling_callback(__u32 index, void *context)
{
	return below_callback(index);
}

SEC("tc")
int bad_throw_below_a_callback(struct __sk_buff *skb)
{
	bpf_loop(2, calling_callback, 0, 0);
	return 0;
}

__attribute__((noinline)) int throwing_handler(__u64 cookie)
{
	bpf_throw(cookie);
	return 0;
}

SEC("tc")
handles_exceptions(throwing_handler)
int bad_handler_throws(struct __sk_buff *skb)
{
	bpf_throw(1);
	return 0;
}

__attribute__((noinline)) int two_arguments(__u64 cookie, __u64 more)
{
	return cookie + more;
}

SEC("tc")
handles_exceptions(two_arguments)
int bad_handler_takes_two_arguments(struct __sk_buff *skb)
{
	bpf_throw(1);
	return 0;
}

SEC("tc")
handles_exceptions(handler)
int bad_handler_is_called(struct __sk_buff *skb)
{
	return handler(skb->len);
}

/* What it gives is what the program gives. */
SEC("cgroup_skb/ingress")
handles_exceptions(handler)
int bad_handler_gives_no_result_of_this_program_type(struct __sk_buff *skb)
{
	bpf_throw(0);
	return 0;
}

SEC("tc")
handles_exceptions(handler) handles_exceptions(throwing_handler)
int bad_two_handlers(struct __sk_buff *skb)
{
	return 0;
}

SEC("cgroup_skb/ingress")
int bad_cookie_is_no_result_of_this_program_type(struct __sk_buff *skb)
{
	bpf_throw(5);
	return 0;
}

SEC("tc")
int bad_cookie_is_a_pointer(struct __sk_buff *skb)
{
	bpf_throw((__u64)skb);
	return 0;
}

/* Functions of a program that traces have stacks of their own, unless the handler, which runs beside it, calls them too. */
#define room(words, value) \
	__u64 room[words]; \
	__builtin_memset(room, value, sizeof(room)); \
	asm volatile("" : : "r"(&room) : "memory")

static __attribute__((noinline)) int deep(int value)
{
	room(26, value);
	return room[0] + room[25];
}

static __attribute__((noinline)) int wide(int value)
{
	room(38, value);
	return deep(value) + room[0] + room[37];
}

static __attribute__((noinline)) int narrow(int value)
{
	room(6, value);
	return wide(value) + room[0] + room[5];
}

__attribute__((noinline)) int wide_handler(__u64 cookie)
{
	return wide(1) + cookie;
}

SEC("tp/sched/sched_switch")
handles_exceptions(handler)
int ok_own_stacks(void *ctx)
{
	int result = narrow(1);

	if (result == 1)
		bpf_throw(1);
	return result;
}

SEC("tp/sched/sched_switch")
handles_exceptions(wide_handler)
int ok_own_stacks_thrown(void *ctx)
{
	if (wide(1) != 0)
		bpf_throw(5);
	return 0;
}

SEC("tp/sched/sched_switch")
handles_exceptions(wide_handler)
int bad_stacks_shared_with_the_handler(void *ctx)
{
	if (narrow(1) == 1)
		bpf_throw(1);
	return 0;
}

__attribute__((noinline)) void handler_without_result(__u64 cookie)
{
	count(1);
}

SEC("tc")
handles_exceptions(handler_without_result)
int bad_handler_without_result(struct __sk_buff *skb)
{
	bpf_throw(0);
	return 0;
}
