// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Open-coded iterators and callbacks: where they live, what they give, and what is known after they ran any number of times.
// `ok_` programs are accepted and run alike everywhere; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u64);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

static __u8 bytes[64];

SEC("tc")
int ok_numbers(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, sum = 0;

	bpf_iter_num_new(&it, 1, 5);
	while ((number = bpf_iter_num_next(&it)))
		sum += *number;
	bpf_iter_num_destroy(&it);
	return sum;
}

SEC("tc")
int ok_next_after_the_end(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int result = 0;

	bpf_iter_num_new(&it, 3, 4);
	while (bpf_iter_num_next(&it))
		result++;
	if (bpf_iter_num_next(&it))
		result += 100;
	bpf_iter_num_destroy(&it);
	return result;
}

/* It gives nothing, so what is not tested is not reached. */
SEC("tc")
int ok_nothing_after_the_end(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, result = 0;

	bpf_iter_num_new(&it, 3, 4);
	while (bpf_iter_num_next(&it))
		result++;
	number = bpf_iter_num_next(&it);
	if (number)
		result = *(int *)(long)skb->mark;
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int ok_made_again(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, sum = 0;

	bpf_iter_num_new(&it, 1, 3);
	bpf_iter_num_destroy(&it);
	bpf_iter_num_new(&it, 7, 9);
	number = bpf_iter_num_next(&it);
	if (number)
		sum = *number;
	bpf_iter_num_destroy(&it);
	return sum;
}

static __attribute__((noinline)) int sum_of_rest(struct bpf_iter_num *it)
{
	int *number, sum = 0;

	while ((number = bpf_iter_num_next(it)))
		sum += *number;
	return sum;
}

SEC("tc")
int ok_stepped_in_a_function(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int sum;

	bpf_iter_num_new(&it, 1, 7);
	sum = sum_of_rest(&it);
	bpf_iter_num_destroy(&it);
	return sum;
}

SEC("tc")
int bad_iterator_is_kept(struct __sk_buff *skb)
{
	struct bpf_iter_num it;

	bpf_iter_num_new(&it, 1, 5);
	return 0;
}

SEC("tc")
int bad_made_twice(struct __sk_buff *skb)
{
	struct bpf_iter_num it;

	bpf_iter_num_new(&it, 1, 5);
	bpf_iter_num_new(&it, 1, 5);
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_made_over_another(struct __sk_buff *skb)
{
	__u64 words[4] = {}, bits = 5;

	bpf_iter_num_new((void *)&words[1], 1, 5);
	bpf_iter_bits_new((void *)&words[0], &bits, 1);
	bpf_iter_bits_destroy((void *)&words[0]);
	bpf_iter_num_destroy((void *)&words[1]);
	return 0;
}

SEC("tc")
int bad_not_made(struct __sk_buff *skb)
{
	struct bpf_iter_num it = {};

	bpf_iter_num_next(&it);
	return 0;
}

SEC("tc")
int bad_next_after_destruction(struct __sk_buff *skb)
{
	struct bpf_iter_num it;

	bpf_iter_num_new(&it, 1, 5);
	bpf_iter_num_destroy(&it);
	bpf_iter_num_next(&it);
	return 0;
}

SEC("tc")
int bad_destroyed_twice(struct __sk_buff *skb)
{
	struct bpf_iter_num it;

	bpf_iter_num_new(&it, 1, 5);
	bpf_iter_num_destroy(&it);
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_iterator_in_a_map(struct __sk_buff *skb)
{
	__u32 key = 0;
	void *it = bpf_map_lookup_elem(&values, &key);

	if (it) {
		bpf_iter_num_new(it, 1, 5);
		bpf_iter_num_destroy(it);
	}
	return 0;
}

SEC("tc")
int bad_iterator_between_slots(struct __sk_buff *skb)
{
	__u64 words[3] = {};
	void *it = (void *)words + 4;

	bpf_iter_num_new(it, 1, 5);
	bpf_iter_num_destroy(it);
	return 0;
}

SEC("tc")
int bad_iterator_somewhere(struct __sk_buff *skb)
{
	__u64 words[3] = {};
	void *it = (void *)words + (skb->mark & 8);

	bpf_iter_num_new(it, 1, 5);
	bpf_iter_num_destroy(it);
	return 0;
}

SEC("tc")
int bad_iterator_at_the_top(struct __sk_buff *skb)
{
	__u64 word = 5;

	asm volatile("r1 = r10; r1 += -8; r2 = %0; r3 = 1; call bpf_iter_bits_new"
		     :: "r"(&word) : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
	return 0;
}

SEC("tc")
int bad_iterator_below_the_stack(struct __sk_buff *skb)
{
	asm volatile("r1 = r10; r1 += -520; r2 = 1; r3 = 1; call bpf_iter_num_new"
		     ::: "r0", "r1", "r2", "r3", "r4", "r5", "memory");
	return 0;
}

SEC("tc")
int bad_iterator_is_read(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int result;

	bpf_iter_num_new(&it, 1, 5);
	result = *(volatile int *)&it;
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int bad_iterator_is_written(struct __sk_buff *skb)
{
	struct bpf_iter_num it;

	bpf_iter_num_new(&it, 1, 5);
	*(volatile __u8 *)&it = 0;
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_iterator_is_given_to_a_helper(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int result;

	bpf_iter_num_new(&it, 1, 5);
	result = bpf_csum_diff(0, 0, (void *)&it, 8, 0);
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int bad_second_slot_of_an_iterator(struct __sk_buff *skb)
{
	struct bpf_iter_bits it;
	__u64 bits = 5;

	bpf_iter_bits_new(&it, &bits, 1);
	bpf_iter_bits_next((void *)&it + 8);
	bpf_iter_bits_destroy(&it);
	return 0;
}

SEC("tc")
int bad_second_slot_is_overwritten(struct __sk_buff *skb)
{
	struct bpf_iter_bits it;
	__u64 bits = 5;

	bpf_iter_bits_new(&it, &bits, 1);
	*((volatile __u8 *)&it + 15) = 0;
	bpf_iter_bits_destroy(&it);
	return 0;
}

SEC("tc")
int bad_upper_slot_of_an_iterator(struct __sk_buff *skb)
{
	__u64 words[4] = {}, bits = 5;

	bpf_iter_bits_new((void *)&words[0], &bits, 1);
	bpf_iter_bits_new((void *)&words[2], &bits, 1);
	bpf_iter_bits_next((void *)&words[1]);
	bpf_iter_bits_destroy((void *)&words[0]);
	bpf_iter_bits_destroy((void *)&words[2]);
	return 0;
}

/* After some branches nothing but the call tells that the iterator matters. */
SEC("tc")
int bad_iterator_on_one_path_stepped_later(struct __sk_buff *skb)
{
	struct bpf_iter_num it = {};
	__u64 mark = skb->mark;

	if (mark)
		bpf_iter_num_new(&it, 1, 5);
	else
		mark = 7;
	if (skb->len == 3)
		mark = 0;
	asm volatile("" : "+r"(mark) :: "memory");
	bpf_iter_num_next(&it);
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_drained_on_one_path(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, result = 0;

	bpf_iter_num_new(&it, 3, 40);
	if (!skb->mark)
		bpf_iter_num_next(&it);
	else
		while (bpf_iter_num_next(&it))
			result++;
	asm volatile("" : "+r"(result) :: "memory");
	number = bpf_iter_num_next(&it);
	if (number)
		result = number[1];
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int bad_element_is_not_tested(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int result;

	bpf_iter_num_new(&it, 1, 5);
	result = *bpf_iter_num_next(&it);
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int bad_element_is_written(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number;

	bpf_iter_num_new(&it, 1, 5);
	number = bpf_iter_num_next(&it);
	if (number)
		*number = 1;
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_element_beyond(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, result = 0;

	bpf_iter_num_new(&it, 1, 5);
	number = bpf_iter_num_next(&it);
	if (number)
		result = ((volatile int *)number)[1];
	bpf_iter_num_destroy(&it);
	return result;
}

SEC("tc")
int bad_argument_after_next(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int result;

	bpf_iter_num_new(&it, 1, 5);
	asm volatile("r1 = %1; r5 = 1; call bpf_iter_num_next; %0 = r5"
		     : "=r"(result) : "r"(&it) : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
	bpf_iter_num_destroy(&it);
	return result;
}

/* On one path the slot holds an iterator of numbers, on the other half an iterator of bits. */
SEC("tc")
int bad_either_iterator(struct __sk_buff *skb)
{
	__u64 words[2] = {}, bits = 5;

	if (skb->mark)
		bpf_iter_num_new((void *)words, 1, 5);
	else
		bpf_iter_bits_new((void *)words, &bits, 1);
	bpf_iter_num_destroy((void *)words);
	return 0;
}

SEC("tc")
int bad_either_iterator_the_other_way(struct __sk_buff *skb)
{
	__u64 words[2] = {}, bits = 5;

	if (!skb->mark)
		bpf_iter_num_new((void *)words, 1, 5);
	else
		bpf_iter_bits_new((void *)words, &bits, 1);
	bpf_iter_num_destroy((void *)words);
	return 0;
}

SEC("tc")
int bad_iterator_on_one_path(struct __sk_buff *skb)
{
	struct bpf_iter_num it = {};

	if (skb->mark)
		bpf_iter_num_new(&it, 1, 5);
	asm volatile("" ::: "memory");
	bpf_iter_num_destroy(&it);
	return 0;
}

/* The index is fine the first time around. */
SEC("tc")
int bad_index_after_some_rounds(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	__u64 at = 0;

	bpf_iter_num_new(&it, 0, 100);
	while (bpf_iter_num_next(&it)) {
		((volatile __u8 *)bytes)[at] = 1;
		at += 7;
		asm volatile("" : "+r"(at));
	}
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_index_after_the_loop(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	__u64 at = 100;

	bpf_iter_num_new(&it, 0, 100);
	while (bpf_iter_num_next(&it)) {
		at = 1;
		asm volatile("" : "+r"(at));
	}
	bpf_iter_num_destroy(&it);
	asm volatile("" : "+r"(at));
	return ((volatile __u8 *)bytes)[at];
}

/* What is wrong shows only if the first branch is taken in one round and the second in the next. */
SEC("tc")
int bad_index_by_two_rounds(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	__u64 a = 0, b = 0;

	bpf_iter_num_new(&it, 0, 100);
	while (bpf_iter_num_next(&it)) {
		if (bpf_get_prandom_u32() == 1)
			b = a;
		if (bpf_get_prandom_u32() == 2)
			a = 200;
		asm volatile("" : "+r"(a), "+r"(b));
	}
	bpf_iter_num_destroy(&it);
	return ((volatile __u8 *)bytes)[b];
}

struct at {
	__u64 i;
	__u64 j;
};

static int next(__u32 index, struct at *at)
{
	at->i++;
	return 0;
}

static int resets(__u32 index, struct at *at)
{
	at->i = 0;
	return 0;
}

static int grows(__u32 index, struct at *at)
{
	((volatile __u8 *)bytes)[at->i] = 1;
	at->i = 64;
	return 0;
}

static int copies(__u32 index, struct at *at)
{
	((volatile __u8 *)bytes)[at->j] = 1;
	at->j = at->i;
	at->i = 64;
	return 0;
}

static int by_index(__u32 index, void *at)
{
	((volatile __u8 *)bytes)[index] = 1;
	return 0;
}

static int stops(__u32 index, struct at *at)
{
	at->i += 2;
	return at->i > 6;
}

static int returns_two(__u32 index, void *at)
{
	return 2;
}

static int returns_less_than_none(__u32 index, void *at)
{
	return -1;
}

static long returns_an_address(__u32 index, void *at)
{
	long result;

	asm volatile("%0 = %1" : "=r"(result) : "r"(bytes));
	return result;
}

static long returns_a_negative_number(__u32 index, void *at)
{
	return -1;
}

static long returns_two_later(__u32 index, void *at)
{
	long result = 0;

	if (!bpf_get_prandom_u32())
		result = 2;
	asm volatile("" : "+r"(result));
	return result;
}

static int returns_either(__u32 index, void *at)
{
	return bpf_get_prandom_u32() & 3;
}

SEC("tc")
int ok_loop(struct __sk_buff *skb)
{
	struct at at = { 0, 3 };

	return bpf_loop(10, stops, &at, 0) * 100 + at.i * 10 + at.j;
}

#define LOOP(name, function, start)                                                                                    \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		struct at at = { start, 0 };                                                                           \
                                                                                                                       \
		bpf_loop(100, function, &at, 0);                                                                       \
		return ((volatile __u8 *)bytes)[at.i];                                                                 \
	}
LOOP(bad_index_after_some_calls, next, 0)
LOOP(bad_index_after_no_call, resets, 64)
LOOP(bad_index_of_the_second_call, grows, 0)
LOOP(bad_index_of_the_third_call, copies, 0)
LOOP(bad_index_of_the_loop, by_index, 0)
LOOP(bad_callback_returns_two, returns_two, 0)
LOOP(bad_callback_returns_less_than_none, returns_less_than_none, 0)
LOOP(bad_callback_returns_any, returns_either, 0)
LOOP(bad_callback_returns_a_pointer, returns_an_address, 0)
LOOP(bad_callback_returns_a_negative_number, returns_a_negative_number, 0)
LOOP(bad_callback_returns_two_later, returns_two_later, 0)

/* Three calls are walked, no more. */
SEC("tc")
int ok_index_after_three_calls(struct __sk_buff *skb)
{
	struct at at = { 61, 0 };

	bpf_loop(2, next, &at, 0);
	return ((volatile __u8 *)bytes)[at.i & 63] + at.i;
}

__attribute__((noinline)) int everybodys(__u32 index, void *at)
{
	return 0;
}

SEC("tc")
int bad_callback_is_global(struct __sk_buff *skb)
{
	return bpf_loop(2, everybodys, skb, 0);
}

static long adds(void *map, __u32 *key, __u64 *value, struct at *at)
{
	at->i += *value;
	*value += *key;
	return 0;
}

static long writes_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	*key = 1;
	return 0;
}

static long reads_beyond_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	return ((volatile __u32 *)key)[1] ? 1 : 0;
}

static long reads_beyond_the_value(void *map, __u32 *key, __u64 *value, void *at)
{
	return ((volatile __u64 *)value)[1] ? 1 : 0;
}

static long helper_reads_beyond_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	return bpf_csum_diff(0, 0, key, 8, 0) ? 1 : 0;
}

static long helper_reads_one_byte_beyond_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	long number;

	return bpf_strtol((char *)key, 5, 0, &number) ? 1 : 0;
}

static long reads_one_byte_beyond_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	return ((volatile __u8 *)key)[4] ? 1 : 0;
}

static long helper_writes_the_key(void *map, __u32 *key, __u64 *value, void *at)
{
	return bpf_strtol("1", 1, 0, (long *)(void *)key) ? 1 : 0;
}

SEC("tc")
int ok_every_element(struct __sk_buff *skb)
{
	struct at at = {};

	bpf_for_each_map_elem(&values, adds, &at, 0);
	return bpf_for_each_map_elem(&values, adds, &at, 0) * 10 + at.i;
}

#define EACH(name, map, function)                                                                                      \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		return bpf_for_each_map_elem(map, function, 0, 0);                                                     \
	}
EACH(bad_key_is_written, &values, writes_the_key)
EACH(bad_beyond_the_key, &values, reads_beyond_the_key)
EACH(bad_beyond_the_value, &values, reads_beyond_the_value)
EACH(bad_helper_beyond_the_key, &values, helper_reads_beyond_the_key)
EACH(bad_byte_beyond_the_key, &values, reads_one_byte_beyond_the_key)
EACH(bad_helper_one_byte_beyond_the_key, &values, helper_reads_one_byte_beyond_the_key)
EACH(bad_helper_writes_the_key, &values, helper_writes_the_key)
EACH(bad_elements_of_a_queue, &queue, reads_beyond_the_value)

static int leaves_a_record(__u32 index, void *at)
{
	return bpf_ringbuf_reserve(&ring, 8, 0) ? 1 : 0;
}
LOOP(bad_callback_keeps_a_record, leaves_a_record, 0)

static int submits(__u32 index, void **record)
{
	if (*record)
		bpf_ringbuf_submit(*record, 0);
	*record = 0;
	return 0;
}

SEC("tc")
int bad_record_is_submitted_by_a_callback(struct __sk_buff *skb)
{
	void *record = bpf_ringbuf_reserve(&ring, 8, 0);

	bpf_loop(3, submits, &record, 0);
	return 0;
}
