// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Callbacks as loops: what one round needs of a value is asked of what the round before leaves in it.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64[8]);
} values SEC(".maps");

/*
 * The way that is walked first leaves the offset as it was, the second makes it LEFT, the last adds it to a pointer. The second
 * comes to a state of the first that nothing is known to depend on: the last way is not walked yet.
 */
#define ROUND(LEFT)                                                                                                   \
	asm volatile("r6 = %[offset];"                                                                                \
		     "call %[random];"                                                                                \
		     "r7 = r0;"                                                                                       \
		     "if r7 == 7 goto 3f;"                                                                            \
		     "r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1;"                        \
		     "if r7 == 8 goto 1f;"                                                                            \
		     "r1 = 1;"                                                                                        \
		     "goto 2f;"                                                                                       \
		     "1: r1 = " #LEFT ";"                                                                             \
		     "2: *(u64 *)(r6 + 0) = r1;"                                                                      \
		     "r1 = 0;"                                                                                        \
		     "if r7 == 9 goto +0;"                                                                            \
		     "r0 = 0; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1; r0 += 1;"                \
		     "if r7 == 10 goto +0;"                                                                           \
		     "if r7 == 11 goto +0;"                                                                           \
		     "goto 4f;"                                                                                       \
		     "3: r1 = 0;"                                                                                     \
		     "*(u32 *)(r10 - 4) = r1;"                                                                        \
		     "r2 = r10;"                                                                                      \
		     "r2 += -4;"                                                                                      \
		     "r1 = %[values] ll;"                                                                             \
		     "call %[lookup];"                                                                                \
		     "if r0 == 0 goto 4f;"                                                                            \
		     "r1 = *(u64 *)(r6 + 0);"                                                                         \
		     "r0 += r1;"                                                                                      \
		     "r0 = *(u8 *)(r0 + 0);"                                                                          \
		     "4:" ::[offset] "r"(offset),                                                                     \
		     [random] "i"(BPF_FUNC_get_prandom_u32), [lookup] "i"(BPF_FUNC_map_lookup_elem),                  \
		     [values] "i"(&values)                                                                            \
		     : "memory", "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7")

static __attribute__((noinline)) long leaves_another_offset(__u32 round, __u64 *offset)
{
	ROUND(100000);
	return 0;
}

static __attribute__((noinline)) long leaves_an_offset_within(__u32 round, __u64 *offset)
{
	ROUND(1);
	return 0;
}

/* The kernel forgets the second way and accepts; the program reads far behind the map's value. */
SEC("socket")
int bad_stricter_callback_leaves_another_offset(struct __sk_buff *skb)
{
	__u64 offset = 1;

	bpf_loop(10, leaves_another_offset, &offset, 0);
	return 0;
}

SEC("socket")
int ok_callback_leaves_an_offset_within(struct __sk_buff *skb)
{
	__u64 offset = 1;

	bpf_loop(10, leaves_an_offset_within, &offset, 0);
	return 0;
}
