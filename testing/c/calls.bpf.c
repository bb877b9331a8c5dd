// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What a call leaves: tail calls of functions, slices, arguments of kernel functions. `ok_` programs are accepted and run alike
// everywhere; `bad_` programs are refused.
#include "kfuncs.h"

#define noinline __attribute__((noinline))

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[4]);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_WRONLY_PROG);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[4]);
} write_only SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u64);
	__type(value, __u64);
} hash SEC(".maps");

static __u8 bytes[64];
static const volatile __u64 constant = 5;

static noinline int leave(struct __sk_buff *skb)
{
	int result = 1;

	bpf_tail_call(skb, &programs, 0);
	asm volatile("" : "+r"(result));
	return result;
}

SEC("tc")
int ok_tail_call_of_a_function(struct __sk_buff *skb)
{
	/* Nobody is there, and so it returns. */
	return leave(skb) + 4;
}

SEC("tc")
int bad_result_of_a_tail_call_as_index(struct __sk_buff *skb)
{
	return ((volatile __u8 *)bytes)[leave(skb)];
}

SEC("tc")
int bad_packet_after_a_tail_call_of_a_function(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + 8 > end)
		return 0;
	leave(skb);
	return data[0];
}

static noinline int load_or_leave(struct __sk_buff *skb)
{
	int result;

	/* r0 = *(u8 *)skb[1000], which returns 0 from this function. */
	asm volatile("r6 = %1; .8byte 0x000003e800000030; %0 = r0"
		     : "=r"(result) : "r"(skb) : "r0", "r1", "r2", "r3", "r4", "r5", "r6");
	return (result & 1) + 1;
}

SEC("tc")
int bad_result_of_a_failed_load(struct __sk_buff *skb)
{
	return ((volatile __u8 *)bytes)[load_or_leave(skb) + 61] + ((volatile __u8 *)bytes)[64 - load_or_leave(skb)];
}

SEC("tc")
int ok_result_of_a_failed_load(struct __sk_buff *skb)
{
	return load_or_leave(skb) + 7;
}

SEC("tc")
int bad_packet_after_a_write_to_its_dynptr(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_dynptr packet;
	__u8 byte = 1;

	bpf_dynptr_from_skb(skb, 0, &packet);
	if (data + 8 > end)
		return 0;
	bpf_dynptr_write(&packet, 0, &byte, 1, 0);
	return data[0];
}

SEC("xdp")
int bad_slice_after_the_head_moved(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;
	__u8 buffer[8], *slice;

	bpf_dynptr_from_xdp(xdp, 0, &packet);
	slice = bpf_dynptr_slice(&packet, 0, buffer, 8);
	if (!slice)
		return 0;
	bpf_xdp_adjust_head(xdp, 0);
	return slice[0];
}

SEC("tc")
int ok_read_only_slice_of_memory_that_was_overwritten(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key), *slice, buffer[1];
	struct bpf_dynptr memory;

	if (!value)
		return 0;
	bpf_dynptr_from_mem(value, 32, 0, &memory);
	slice = bpf_dynptr_slice(&memory, 0, buffer, 8);
	if (!slice)
		return 0;
	*(volatile __u64 *)&memory = 0;
	return *(volatile __u64 *)slice;
}

SEC("tc")
int ok_slice_of_memory_that_was_overwritten(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key), *slice, buffer[1];
	struct bpf_dynptr memory;

	if (!value)
		return 0;
	bpf_dynptr_from_mem(value, 32, 0, &memory);
	slice = bpf_dynptr_slice_rdwr(&memory, 0, buffer, 8);
	if (!slice)
		return 0;
	*(volatile __u64 *)&memory = 0;
	return *(volatile __u64 *)slice;
}

SEC("tc")
int bad_slice_as_key(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u64 buffer[1];
	void *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = bpf_dynptr_slice(&packet, 0, buffer, 8);
	return slice && bpf_map_lookup_elem(&hash, slice) ? 1 : 0;
}

static noinline __u8 *slice_in_a_buffer(struct bpf_dynptr *packet)
{
	__u8 buffer[8];

	return bpf_dynptr_slice(packet, 0, buffer, 8);
}

/* The kernel accepts this one: the slice may be a copy in a buffer whose function has returned. */
SEC("tc")
int bad_stricter_slice_in_a_buffer_that_is_gone(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = slice_in_a_buffer(&packet);
	return slice ? slice[0] : 0;
}

static noinline __u8 *slice_in_this_buffer(struct bpf_dynptr *packet, __u8 *buffer)
{
	return bpf_dynptr_slice(packet, 3, buffer, 8);
}

SEC("tc")
int ok_slice_in_the_callers_buffer(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 buffer[8], *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = slice_in_this_buffer(&packet, buffer);
	return slice ? slice[0] : 0;
}

SEC("tc")
int bad_buffer_that_is_not_written(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = bpf_dynptr_slice(&packet, 0, (void *)&constant, 8);
	return slice ? slice[0] : 0;
}

SEC("tc")
int bad_buffer_that_is_not_read(struct __sk_buff *skb)
{
	__u32 key = 0;
	void *buffer = bpf_map_lookup_elem(&write_only, &key);
	struct bpf_dynptr packet;
	__u8 *slice;

	if (!buffer)
		return 0;
	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = bpf_dynptr_slice(&packet, 0, buffer, 8);
	return slice ? slice[0] : 0;
}

SEC("tc")
int bad_buffer_that_may_be_null(struct __sk_buff *skb)
{
	__u64 key = skb->mark;
	struct bpf_dynptr packet;
	__u8 *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	slice = bpf_dynptr_slice(&packet, 0, bpf_map_lookup_elem(&hash, &key), 16);
	return slice ? slice[0] : 0;
}

/* The kernel accepts this one: it does not remember that the size decided. */
SEC("tc")
int bad_stricter_size_of_the_second_path(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u64 size = 8;
	__u8 *slice;

	bpf_dynptr_from_skb(skb, 0, &packet);
	if (!skb->mark)
		size = 4;
	asm volatile("" : "+r"(size));
	slice = bpf_dynptr_slice(&packet, 0, 0, size);
	return slice ? slice[7] : 0;
}

SEC("tc")
int bad_dynptr_in_a_map(struct __sk_buff *skb)
{
	__u32 key = 0;
	void *value = bpf_map_lookup_elem(&values, &key);

	return value ? bpf_dynptr_size(value) : 0;
}

SEC("tc")
int bad_memory_as_context(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u64 words[24] = {};

	return bpf_dynptr_from_skb((void *)words, 0, &packet);
}

SEC("tc")
int bad_moved_context(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	return bpf_dynptr_from_skb((void *)skb + 8, 0, &packet);
}

SEC("syscall")
int bad_string_to_nowhere(void *args)
{
	return bpf_copy_from_user_str(0, 8, 0, 0);
}

/* The kernel accepts this one. */
SEC("syscall")
int bad_stricter_string_to_an_untested_value(void *args)
{
	__u64 key = (long)args;

	return bpf_copy_from_user_str(bpf_map_lookup_elem(&hash, &key), 8, 0, 0);
}

SEC("syscall")
int bad_string_to_an_object(void *args)
{
	return bpf_copy_from_user_str((void *)bpf_get_current_task_btf(), 8, 0, 0);
}

noinline int first_word(__u64 *word)
{
	return word ? *word : 0;
}

SEC("syscall")
int ok_verdict_context_as_memory(void *args)
{
	return first_word(args);
}

struct big {
	__u8 bytes[65536];
};

noinline int of_big(struct big *big)
{
	return big ? big->bytes[0] : 0;
}

SEC("syscall")
int bad_context_is_not_so_large(void *args)
{
	return of_big(args);
}

struct as_large {
	__u8 bytes[65535];
};

noinline int of_as_large(struct as_large *large)
{
	return large ? large->bytes[0] : 0;
}

SEC("syscall")
int ok_verdict_context_as_large(void *args)
{
	return of_as_large(args);
}

SEC("tc")
int bad_element_is_written_by_a_function(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, result = 0;

	bpf_iter_num_new(&it, 1, 5);
	number = bpf_iter_num_next(&it);
	if (number)
		result = first_word((void *)number);
	bpf_iter_num_destroy(&it);
	return result;
}

noinline int half_word(__u32 *word)
{
	return word ? *word : 0;
}

SEC("tc")
int bad_element_may_be_written_by_a_function(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number, result = 0;

	bpf_iter_num_new(&it, 1, 5);
	number = bpf_iter_num_next(&it);
	if (number)
		result = half_word((void *)number);
	bpf_iter_num_destroy(&it);
	return result;
}

/* A slice of memory on the first path, of the packet on the second. */
SEC("tc")
int bad_slice_of_either(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key);
	struct bpf_dynptr dynptr;
	__u8 buffer[8], *slice;

	if (!value)
		return 0;
	if (skb->mark)
		bpf_dynptr_from_mem(value, 32, 0, &dynptr);
	else
		bpf_dynptr_from_skb(skb, 0, &dynptr);
	asm volatile("" ::: "memory");
	slice = bpf_dynptr_slice(&dynptr, 0, buffer, 8);
	if (!slice)
		return 0;
	bpf_skb_pull_data(skb, 0);
	return slice[0];
}
