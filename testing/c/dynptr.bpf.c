// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Dynptrs of packets, slices of them, and the bits of words. `ok_` programs are accepted and run alike everywhere; `bad_`
// programs are refused. The packet is 64 bytes, byte N being N.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

SEC("tc")
int ok_skb_slice(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 buffer[8];
	__u8 *bytes;

	if (bpf_dynptr_from_skb(skb, 0, &packet))
		return -1;
	bytes = bpf_dynptr_slice(&packet, 16, buffer, sizeof(buffer));
	if (!bytes)
		return -2;
	return bytes[0] + bytes[7] + bpf_dynptr_size(&packet) + bpf_dynptr_is_rdonly(&packet) * 1000;
}

SEC("tc")
int ok_skb_slice_without_buffer(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice_rdwr(&packet, 20, 0, 4);
	if (!bytes)
		return -2;
	bytes[1] = 200;
	bytes = bpf_dynptr_slice(&packet, 21, 0, 1);
	return bytes ? bytes[0] : -3;
}

SEC("tc")
int ok_skb_bad_flags_make_null(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	int error = bpf_dynptr_from_skb(skb, 1, &packet);

	return error * 10 + bpf_dynptr_is_null(&packet) + (bpf_dynptr_slice(&packet, 0, 0, 1) ? 1000 : 0) +
	       (int)bpf_dynptr_size(&packet);
}

SEC("tc")
int ok_skb_adjust_and_clone(struct __sk_buff *skb)
{
	struct bpf_dynptr packet, copy;
	__u8 *bytes;
	int result;

	bpf_dynptr_from_skb(skb, 0, &packet);
	if (bpf_dynptr_clone(&packet, &copy) || bpf_dynptr_adjust(&copy, 10, 30))
		return -1;
	bytes = bpf_dynptr_slice(&copy, 2, 0, 1);
	if (!bytes)
		return -2;
	result = bytes[0] * 10000 + bpf_dynptr_size(&copy) * 100;
	result += bpf_dynptr_adjust(&copy, 5, 50) == -34;
	result += bpf_dynptr_adjust(&copy, 5, 4) == -22;
	result += bpf_dynptr_slice(&copy, 19, 0, 2) == 0;
	return result + (bpf_dynptr_size(&packet) == 64);
}

SEC("tc")
int ok_read_write_copy_memset(struct __sk_buff *skb)
{
	struct bpf_dynptr packet, copy;
	__u32 word = 0;
	int result = 0;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bpf_dynptr_clone(&packet, &copy);
	result += bpf_dynptr_memset(&packet, 4, 4, 7);
	result += bpf_dynptr_memset(&packet, 62, 4, 7) == -7;
	result += bpf_dynptr_copy(&packet, 32, &copy, 3, 6);
	result += (bpf_dynptr_copy(&packet, 60, &copy, 0, 6) == -7) * 2;
	bpf_dynptr_read(&word, sizeof(word), &packet, 32, 0);
	return result * 100 + (word & 0xff) + (word >> 24);
}

SEC("socket")
int ok_socket_filter_only_reads(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 byte = 1;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return bpf_dynptr_is_rdonly(&packet) * 100 + (bpf_dynptr_write(&packet, 0, &byte, 1, 0) == -22);
}

SEC("xdp")
int ok_xdp_slice(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;
	__u8 buffer[4];
	__u8 *bytes;

	if (bpf_dynptr_from_xdp(xdp, 0, &packet))
		return -1;
	bytes = bpf_dynptr_slice_rdwr(&packet, 30, buffer, sizeof(buffer));
	if (!bytes)
		return -2;
	bytes[0] += 100;
	bytes = bpf_dynptr_slice(&packet, 30, buffer, sizeof(buffer));
	return bytes ? bytes[0] + bpf_dynptr_is_rdonly(&packet) : -3;
}

SEC("tc")
int ok_bits(struct __sk_buff *skb)
{
	__u64 words[3] = { 1ull << 63 | 5, 0, 1ull << 10 };
	__u64 one = 0x8001;
	struct bpf_iter_bits it;
	int result = 0;
	int *bit;

	bpf_iter_bits_new(&it, words, 3);
	while ((bit = bpf_iter_bits_next(&it)))
		result += *bit;
	bpf_iter_bits_destroy(&it);
	bpf_iter_bits_new(&it, &one, 1);
	while ((bit = bpf_iter_bits_next(&it)))
		result += *bit * 1000;
	bpf_iter_bits_destroy(&it);
	result += (bpf_iter_bits_new(&it, &one, 0) == -22) * 1000000;
	bpf_iter_bits_destroy(&it);
	result += (bpf_iter_bits_new(&it, &one, 512) == -7) * 10000000;
	bpf_iter_bits_destroy(&it);
	return result;
}

SEC("tc")
int bad_write_to_read_only_slice(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, 0, 8);
	if (bytes)
		bytes[0] = 1;
	return 0;
}

SEC("tc")
int bad_slice_is_not_tested(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, 0, 8);
	return bytes[0];
}

SEC("tc")
int bad_beyond_the_slice(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, 0, 8);
	return bytes ? *(volatile __u8 *)(bytes + 8) : 0;
}

SEC("tc")
int bad_slice_after_the_packet_moved(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, 0, 8);
	if (!bytes)
		return 0;
	bpf_skb_pull_data(skb, 40);
	return bytes[0];
}

SEC("tc")
int ok_slice_of_an_overwritten_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, 0, 8);
	if (!bytes)
		return 0;
	bpf_dynptr_from_skb(skb, 0, &packet);
	return bytes[0];
}

SEC("tc")
int bad_slice_size_varies(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 buffer[8];
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, buffer, skb->len & 7);
	return bytes ? bytes[0] : 0;
}

SEC("tc")
int bad_buffer_is_too_small(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 buffer[8];
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice(&packet, 16, buffer, 520);
	return bytes ? bytes[0] : 0;
}

SEC("socket")
int bad_writable_slice_of_a_read_only_packet(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;
	__u8 *bytes;

	bpf_dynptr_from_skb(skb, 0, &packet);
	bytes = bpf_dynptr_slice_rdwr(&packet, 16, 0, 8);
	return bytes ? bytes[0] : 0;
}

SEC("tc")
int bad_dynptr_of_nothing(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	return bpf_dynptr_size(&packet);
}

SEC("tc")
int bad_record_is_written_after_its_clone_was_submitted(struct __sk_buff *skb)
{
	struct bpf_dynptr record, copy;
	__u8 byte = 1;

	bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &record);
	bpf_dynptr_clone(&record, &copy);
	bpf_ringbuf_submit_dynptr(&copy, 0);
	return bpf_dynptr_write(&record, 0, &byte, 1, 0);
}

SEC("tc")
int bad_record_is_lost(struct __sk_buff *skb)
{
	struct bpf_dynptr record, copy;

	bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &record);
	bpf_dynptr_clone(&record, &copy);
	return 0;
}

SEC("xdp")
int bad_skb_dynptr_at_xdp(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;

	return bpf_dynptr_from_skb((void *)xdp, 0, &packet);
}

SEC("tc")
int bad_write_to_an_iterators_element(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number;

	bpf_iter_num_new(&it, 0, 3);
	while ((number = bpf_iter_num_next(&it)))
		*number = 0;
	bpf_iter_num_destroy(&it);
	return 0;
}

SEC("tc")
int bad_element_after_its_iterator(struct __sk_buff *skb)
{
	struct bpf_iter_num it;
	int *number;

	bpf_iter_num_new(&it, 0, 3);
	number = bpf_iter_num_next(&it);
	bpf_iter_num_destroy(&it);
	return number ? *number : 0;
}

SEC("tc")
int bad_bits_are_not_destroyed(struct __sk_buff *skb)
{
	struct bpf_iter_bits it;
	__u64 word = 7;

	bpf_iter_bits_new(&it, &word, 1);
	return 0;
}

SEC("tc")
int bad_bits_by_the_functions_of_numbers(struct __sk_buff *skb)
{
	struct bpf_iter_bits it;
	__u64 word = 7;

	bpf_iter_bits_new(&it, &word, 1);
	bpf_iter_num_destroy((void *)&it);
	return 0;
}

SEC("tc")
int bad_function_of_another_program_type(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	return bpf_dynptr_from_xdp((void *)skb, 0, &packet);
}

SEC("tc")
int ok_slice_of_a_record(struct __sk_buff *skb)
{
	struct bpf_dynptr record;
	__u64 *slice;
	int result = 1;

	bpf_ringbuf_reserve_dynptr(&ring, 64, 0, &record);
	slice = bpf_dynptr_slice_rdwr(&record, 8, 0, 16);
	if (slice) {
		slice[0] = 40;
		slice[1] = skb->len;
		result = slice[0] + slice[1];
	}
	bpf_ringbuf_discard_dynptr(&record, 0);
	return result;
}

/* The kernel takes these, and the record's memory is somebody else's by then. */
SEC("tc")
int ok_verdict_slice_of_a_submitted_record(struct __sk_buff *skb)
{
	struct bpf_dynptr record;
	__u64 *slice;

	bpf_ringbuf_reserve_dynptr(&ring, 64, 0, &record);
	slice = bpf_dynptr_slice_rdwr(&record, 0, 0, 64);
	bpf_ringbuf_submit_dynptr(&record, 0);
	if (slice)
		slice[1] = 5;
	return 0;
}

static __noinline __u64 *slice_of_a_copy(struct bpf_dynptr *record)
{
	struct bpf_dynptr copy;

	bpf_dynptr_clone(record, &copy);
	return bpf_dynptr_slice_rdwr(&copy, 0, 0, 64);
}

SEC("tc")
int ok_verdict_slice_of_a_copy_that_is_gone(struct __sk_buff *skb)
{
	struct bpf_dynptr record;
	__u64 *slice;

	bpf_ringbuf_reserve_dynptr(&ring, 64, 0, &record);
	slice = slice_of_a_copy(&record);
	bpf_ringbuf_discard_dynptr(&record, 0);
	if (slice)
		bpf_skb_load_bytes(skb, 0, slice, 8);
	return 0;
}

union room {
	__u8 bytes[8];
	__u64 *pointer;
};

/* A packet in pieces is copied to the buffer, which then is what the slice leads to: the store changes the pointer. */
SEC("xdp")
int ok_verdict_slice_over_a_pointer(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;
	union room room = {};
	__u32 zero = 0;
	__u64 *slice, *value = bpf_map_lookup_elem(&values, &zero);

	if (!value || bpf_dynptr_from_xdp(xdp, 0, &packet))
		return 1;
	slice = bpf_dynptr_slice_rdwr(&packet, 16, room.bytes, sizeof(room.bytes));
	if (!slice)
		return 2;
	*(__u64 *volatile *)&room.pointer = value;
	*slice = 7;
	asm volatile("" ::: "memory");
	**(__u64 *volatile *)&room.pointer = 1;
	return 3;
}

SEC("xdp")
int ok_verdict_slice_whose_buffer_was_submitted(struct xdp_md *xdp)
{
	__u64 *slice, *record = bpf_ringbuf_reserve(&ring, 8, 0);
	struct bpf_dynptr packet;

	if (!record)
		return 1;
	bpf_dynptr_from_xdp(xdp, 0, &packet);
	slice = bpf_dynptr_slice_rdwr(&packet, 16, record, 8);
	bpf_ringbuf_submit(record, 0);
	if (slice)
		*slice = 7;
	return 2;
}

SEC("xdp")
int ok_verdict_slice_whose_buffer_is_a_slice(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;
	__u64 room[2];
	__u64 *slice;

	bpf_dynptr_from_xdp(xdp, 0, &packet);
	slice = bpf_dynptr_slice_rdwr(&packet, 16, room, 16);
	if (!slice)
		return 1;
	slice = bpf_dynptr_slice_rdwr(&packet, 32, slice, 8);
	if (slice)
		*slice = 7;
	return 2;
}

SEC("xdp")
int ok_slice_with_a_buffer(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;
	union room room;
	__u64 *slice;

	if (bpf_dynptr_from_xdp(xdp, 0, &packet))
		return 1;
	slice = bpf_dynptr_slice_rdwr(&packet, 16, room.bytes, sizeof(room.bytes));
	if (!slice)
		return 2;
	*slice += 7;
	return *slice & 0xff;
}

/* Behind a dynptr there is what the caller has put there. */
__noinline int size_of_a_moved_dynptr(struct bpf_dynptr *packet)
{
	asm volatile("%[packet] += 16" : [packet] "+r"(packet));
	return bpf_dynptr_size(packet);
}

SEC("tc")
int bad_moved_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return size_of_a_moved_dynptr(&packet);
}

__noinline int size_of_a_dynptr_moved_by(struct bpf_dynptr *packet, __u8 by)
{
	asm volatile("%[packet] += %[by]" : [packet] "+r"(packet) : [by] "r"((__u64)by));
	return bpf_dynptr_size(packet);
}

SEC("tc")
int bad_dynptr_moved_by_a_number(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return size_of_a_dynptr_moved_by(&packet, skb->len);
}

__noinline int clone_of_a_moved_dynptr(struct bpf_dynptr *packet)
{
	struct bpf_dynptr copy;

	asm volatile("%[packet] += -8" : [packet] "+r"(packet));
	return bpf_dynptr_clone(packet, &copy);
}

SEC("tc")
int bad_clone_of_a_moved_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return clone_of_a_moved_dynptr(&packet);
}

__noinline int read_of_a_moved_dynptr(struct bpf_dynptr *packet)
{
	__u8 byte = 0;

	asm volatile("%[packet] += 16" : [packet] "+r"(packet));
	bpf_dynptr_read(&byte, 1, packet, 0, 0);
	return byte;
}

SEC("tc")
int bad_read_of_a_moved_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return read_of_a_moved_dynptr(&packet);
}

/* A function does not know whether it is given a packet's dynptr; the kernel takes it for none. */
__noinline int store_to_a_moved_packet(struct __sk_buff *skb, struct bpf_dynptr *packet)
{
	__u8 room[8];
	__u8 *slice = bpf_dynptr_slice_rdwr(packet, 0, room, sizeof(room));

	if (!slice)
		return 1;
	bpf_skb_change_tail(skb, 200, 0);
	*slice = 7;
	return 2;
}

SEC("tc")
int ok_verdict_slice_of_a_moved_packet(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return store_to_a_moved_packet(skb, &packet);
}

__noinline int load_from_a_moved_packet(struct __sk_buff *skb, struct bpf_dynptr *packet)
{
	struct bpf_dynptr copy;
	__u8 *slice;

	bpf_dynptr_clone(packet, &copy);
	slice = bpf_dynptr_slice(&copy, 0, 0, 8);
	bpf_skb_change_tail(skb, 200, 0);
	return slice ? *slice : 0;
}

SEC("tc")
int ok_verdict_slice_of_a_copy_of_a_moved_packet(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return load_from_a_moved_packet(skb, &packet);
}

__noinline int store_over_a_pointer(struct bpf_dynptr *packet)
{
	union room room = {};
	__u32 zero = 0;
	__u64 *slice, *value = bpf_map_lookup_elem(&values, &zero);

	if (!value)
		return 1;
	slice = bpf_dynptr_slice_rdwr(packet, 16, room.bytes, sizeof(room.bytes));
	if (!slice)
		return 2;
	*(__u64 *volatile *)&room.pointer = value;
	*slice = 7;
	asm volatile("" ::: "memory");
	**(__u64 *volatile *)&room.pointer = 1;
	return 3;
}

SEC("xdp")
int ok_verdict_slice_over_a_pointer_of_a_function(struct xdp_md *xdp)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_xdp(xdp, 0, &packet);
	return store_over_a_pointer(&packet);
}

__noinline int sum_of_a_slice(struct bpf_dynptr *packet)
{
	__u8 room[8];
	__u8 *slice = bpf_dynptr_slice_rdwr(packet, 16, room, sizeof(room));

	if (!slice)
		return 1;
	slice[1] += 3;
	return slice[0] + slice[1];
}

SEC("tc")
int ok_slice_of_a_function(struct __sk_buff *skb)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(skb, 0, &packet);
	return sum_of_a_slice(&packet);
}

/* Memory of a caller is no packet to the kernel either. */
__noinline int store_behind_a_change(struct __sk_buff *skb, __u64 *word)
{
	bpf_skb_change_tail(skb, 200, 0);
	if (!word)
		return 1;
	*word = 7;
	return 2;
}

SEC("tc")
int ok_verdict_packet_is_moved_by_a_function(struct __sk_buff *skb)
{
	__u64 *word = (void *)(long)skb->data;

	if ((void *)(word + 1) > (void *)(long)skb->data_end)
		return 1;
	return store_behind_a_change(skb, word);
}

SEC("tc")
int ok_word_of_a_function_that_moves_the_packet(struct __sk_buff *skb)
{
	__u64 word = 1;

	return store_behind_a_change(skb, &word) + word;
}
