// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Global functions: verified once by their prototypes, and what their callers pass. `ok_` programs are accepted and run alike
// everywhere; `bad_` programs are refused.
#include "kfuncs.h"

#define global __attribute__((noinline))
#define is_context __attribute__((btf_decl_tag("arg:ctx")))
#define not_null __attribute__((btf_decl_tag("arg:nonnull")))

char _license[] SEC("license") = "GPL";

struct pair {
	__u64 first;
	__u64 second;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pair);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pair);
} read_only SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_WRONLY_PROG);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pair);
} write_only SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

global int sum(struct pair *pair)
{
	if (!pair)
		return -7;
	pair->second += 1;
	return pair->first + pair->second;
}

global int sum_of(struct pair *pair not_null)
{
	return pair->first + pair->second;
}

global int twice(int number)
{
	return number * 2;
}

global int mark_of(struct __sk_buff *skb)
{
	return skb->len + skb->mark;
}

global int length_of(void *context is_context)
{
	return ((struct __sk_buff *)context)->len;
}

global int size_of(const struct bpf_dynptr *dynptr)
{
	return bpf_dynptr_size(dynptr);
}

global int pull(struct __sk_buff *skb)
{
	return bpf_skb_pull_data(skb, 0);
}

global int untested(struct pair *pair)
{
	return pair->first;
}

global int tests_the_other(struct pair *a, struct pair *b)
{
	return a ? b->first : 0;
}

global int reads_beyond(struct pair *pair)
{
	return pair ? *(volatile __u32 *)(pair + 1) : 0;
}

global int writes_the_dynptr(const struct bpf_dynptr *dynptr)
{
	return bpf_ringbuf_reserve_dynptr(&ring, 8, 0, (struct bpf_dynptr *)dynptr);
}

global void *gives_a_pointer(struct pair *pair)
{
	void *result = pair;

	asm volatile("" : "+r"(result));
	return result;
}

global long gives_its_argument(struct pair *pair)
{
	long result;

	asm volatile("%0 = %1" : "=r"(result) : "r"(pair));
	return result;
}

global int never_called(struct pair *pair)
{
	return pair->first;
}

SEC("tc")
int ok_memory_of_the_stack(struct __sk_buff *skb)
{
	struct pair pair = { 3, 4 };

	return sum(&pair) * 10 + sum(0) + sum_of(&pair) + twice(skb->len);
}

SEC("tc")
int ok_memory_of_a_map(struct __sk_buff *skb)
{
	__u32 key = skb->mark;
	struct pair *pair = bpf_map_lookup_elem(&values, &key);

	/* It may be null as it is. */
	return sum(pair) + mark_of(skb) + length_of(skb);
}

SEC("tc")
int ok_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return size_of(&packet);
}

SEC("tc")
int bad_memory_is_too_small(struct __sk_buff *skb)
{
	__u64 half[1] = { skb->len };
	volatile __u64 pad = 1;

	return sum((struct pair *)(&half[0])) + pad;
}

SEC("tc")
int bad_memory_is_too_small_by_one(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct pair *pair = bpf_map_lookup_elem(&values, &key);

	return pair ? sum((void *)pair + 1) : 0;
}

/* The kernel accepts this one, and the function reads through null. */
SEC("tc")
int bad_stricter_null_where_there_is_none(struct __sk_buff *skb)
{
	return sum_of(0);
}

SEC("tc")
int bad_untested_where_there_is_no_null(struct __sk_buff *skb)
{
	__u32 key = skb->mark;

	return sum_of(bpf_map_lookup_elem(&values, &key));
}

SEC("tc")
int bad_memory_that_is_not_written(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct pair *pair = bpf_map_lookup_elem(&read_only, &key);

	return pair ? sum(pair) : 0;
}

SEC("tc")
int bad_memory_that_is_not_read(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct pair *pair = bpf_map_lookup_elem(&write_only, &key);

	return pair ? sum(pair) : 0;
}

SEC("tc")
int bad_number_as_memory(struct __sk_buff *skb)
{
	return sum((struct pair *)(long)skb->len);
}

SEC("tc")
int bad_pointer_as_number(struct __sk_buff *skb)
{
	return twice((int)(long)skb);
}

SEC("tc")
int bad_number_as_context(struct __sk_buff *skb)
{
	return mark_of((struct __sk_buff *)(long)skb->len);
}

SEC("tc")
int bad_memory_as_context(struct __sk_buff *skb)
{
	__u64 words[40] = {};

	return mark_of((void *)words);
}

SEC("tc")
int bad_context_that_was_moved(struct __sk_buff *skb)
{
	return mark_of((void *)skb + 8);
}

SEC("tc")
int bad_memory_as_tagged_context(struct __sk_buff *skb)
{
	__u64 words[40] = {};

	return length_of(words);
}

SEC("tc")
int bad_memory_as_dynptr(struct __sk_buff *skb)
{
	__u64 words[2] = {};

	return size_of((void *)words);
}

SEC("tc")
int bad_packet_after_it_was_moved(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + 8 > end || pull(skb))
		return 0;
	return data[0];
}

SEC("tc")
int bad_result_as_index(struct __sk_buff *skb)
{
	__u8 bytes[8] = {};
	__u64 at = twice(0);

	asm volatile("" : "+r"(at));
	return *((volatile __u8 *)bytes + at);
}

SEC("tc")
int bad_argument_after_the_call(struct __sk_buff *skb)
{
	int result;

	asm volatile("r2 = 7; r1 = 1; call twice; %0 = r2" : "=r"(result)::"r0", "r1", "r2", "r3", "r4", "r5");
	return result;
}

#define CALLS(name, call)                                                                                              \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		struct pair pair = {};                                                                                 \
                                                                                                                       \
		return call;                                                                                           \
	}
CALLS(bad_function_does_not_test, untested(&pair))
CALLS(bad_function_tests_another, tests_the_other(&pair, &pair))
CALLS(bad_function_reads_beyond, reads_beyond(&pair))
CALLS(bad_function_gives_its_argument, gives_its_argument(&pair) & 1)
CALLS(bad_function_gives_a_pointer, (long)gives_a_pointer(&pair) == 1)

SEC("tc")
int bad_function_writes_the_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return writes_the_dynptr(&packet);
}

SEC("kprobe/none")
int bad_function_of_another_context(void *registers)
{
	return mark_of(registers);
}
