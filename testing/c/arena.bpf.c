// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Arenas: what the verifier takes and refuses beyond single instructions, and what programs get to see.
#include "kfuncs.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)
#define BPF_MAP_TYPE_ARENA 33
#endif
#ifndef __ulong
#define __ulong(name, number) enum { ___bpf_concat(__unique_, __COUNTER__) = number } name
#endif

#define __arena __attribute__((address_space(1)))
#define arg_tag(tag) __attribute__((btf_decl_tag("arg:" #tag)))
#define PAGE 4096
#define PAGES 64
#define START (0x1ull << 44)
#define ANY_NODE (-1)

typedef volatile __u64 __arena *words;

KFUNC void __arena *bpf_arena_alloc_pages(void *map, void __arena *at, __u32 pages, int node, __u64 flags);
KFUNC void bpf_arena_free_pages(void *map, void __arena *at, __u32 pages);
KFUNC int bpf_arena_reserve_pages(void *map, void __arena *at, __u32 pages);
KFUNC void bpf_preempt_disable(void);

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PAGES);
	__ulong(map_extra, START);
} arena SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

#define page(number) ((void __arena *)(START + (number) * PAGE))
#define word(offset) ((words)(START + (offset)))

/* The arena has to be a map of the program. */
#define use_arena() asm volatile("%[map] = %[map]" : : [map] "r"(&arena))

static __always_inline void __arena *alloc(void __arena *at, __u32 pages)
{
	return bpf_arena_alloc_pages(&arena, at, pages, ANY_NODE, 0);
}

SEC("syscall") int ok_alloc_write_read(void *ctx)
{
	words it = alloc(0, 1);

	if (!it)
		return 1;
	if (it[0] || it[511])
		return 2;
	it[0] = 0x123456789abcdef0;
	it[511] = 7;
	return it[0] == 0x123456789abcdef0 && it[511] == 7 && it[1] == 0 ? 0 : 3;
}

/* A store over an edge of what is there is lost whole, whichever of its ends has no page; so is an atomic operation. */
SEC("syscall") int ok_stores_across_an_edge(void *ctx)
{
	words it = alloc(page(5), 1);

	if (!it)
		return 1;
	*word(5 * PAGE - 4) = ~0ull;
	*word(6 * PAGE - 4) = ~0ull;
	*(volatile __u16 __arena *)word(5 * PAGE - 1) = ~0;
	*(volatile __u16 __arena *)word(6 * PAGE - 1) = ~0;
	__sync_fetch_and_add(word(5 * PAGE - 4), ~0ull);
	__sync_fetch_and_add(word(6 * PAGE - 4), ~0ull);
	return it[0] || it[511] ? 2 : 0;
}

/* Where there is no page, loads bring 0 and stores are lost. */
SEC("tc") int ok_no_page(struct __sk_buff *skb)
{
	words it = word(3 * PAGE);

	use_arena();
	if (it[0] || it[-PAGE / 8])
		return 1;
	it[0] = 5;
	*(volatile __u8 __arena *)(it + 1) = 5;
	if (it[0] || it[1])
		return 2;
	return 7;
}

SEC("tc") int ok_outside(struct __sk_buff *skb)
{
	/* Behind the last page, and at both ends of what 32 bits and an offset reach. */
	words behind = word(PAGES * PAGE), low = word(0), high = word(0xfffffff8);

	use_arena();
	behind[0] = 1;
	low[-1] = 2;
	low[-4096] = 2;
	high[0] = 3;
	high[1] = 4;
	high[4095] = 5;
	return behind[0] + low[-1] + low[-4096] + high[0] + high[1] + high[4095] + skb->len;
}

SEC("syscall") int ok_store_across(void *ctx)
{
	words it = alloc(page(8), 1), across = (words)((__u64)it + PAGE - 4);

	if (!it)
		return 1;
	it[511] = 0x1111222233334444;
	/* Half of it would fit. */
	*across = 0xaaaabbbbccccdddd;
	if (it[511] != 0x1111222233334444)
		return 2;
	if (!alloc(page(9), 1))
		return 3;
	if (it[512])
		return 4;
	*across = 0xaaaabbbbccccdddd;
	return it[511] == 0xccccdddd33334444 && it[512] == 0xaaaabbbb ? 0 : 5;
}

SEC("syscall") int ok_free(void *ctx)
{
	words it = alloc(0, 2), again;

	if (!it)
		return 1;
	it[0] = 1;
	it[512] = 2;
	bpf_arena_free_pages(&arena, (void __arena *)it, 1);
	if (it[0] || it[512] != 2)
		return 2;
	it[0] = 3;
	if (it[0])
		return 3;
	again = alloc((void __arena *)it, 1);
	if (again != it)
		return 4;
	return it[0] || it[512] != 2 ? 5 : 0;
}

SEC("syscall") int ok_places(void *ctx)
{
	__u64 first = (__u64)alloc(0, 3), second = (__u64)alloc(0, 1);
	__u64 far = (__u64)alloc(page(40), 2), taken = (__u64)alloc(page(41), 1), odd = (__u64)alloc(page(50) + 8, 1);

	if (far != (__u64)page(40))
		return 1;
	if (taken || odd)
		return 2;
	if (alloc(page(PAGES - 1), 2) || alloc(0, PAGES + 1) || alloc(0, 0) || alloc(page(PAGES), 1))
		return 3;
	if (bpf_arena_alloc_pages(&arena, 0, 1, ANY_NODE, 1))
		return 4;
	if (bpf_arena_alloc_pages(&values, 0, 1, ANY_NODE, 0))
		return 5;
	bpf_arena_free_pages(&values, page(0), 1);
	if (!bpf_arena_alloc_pages(&arena, 0, 1, 0, 0))
		return 6;
	return (first - START) / PAGE + 100 * ((second - START) / PAGE);
}

/* Only the low half of an address counts. */
SEC("syscall") int ok_low_half(void *ctx)
{
	words it = alloc((void __arena *)0x5000000ull, 1);

	if (it)
		return 1;
	it = alloc((void __arena *)0x5000ull, 1);
	if ((__u64)it != START + 0x5000)
		return 2;
	*word(0x5000) = 9;
	if (*(words)0x700000005000ull != 9)
		return 3;
	bpf_arena_free_pages(&arena, (void __arena *)0x123400005fffull, 1);
	return *word(0x5000) ? 4 : 0;
}

SEC("syscall") int ok_reserve(void *ctx)
{
	int status = 0;

	status |= bpf_arena_reserve_pages(&arena, page(10), 5) ? 1 : 0;
	status |= alloc(page(12), 1) ? 2 : 0;
	status |= bpf_arena_reserve_pages(&arena, page(14), 2) == -16 ? 0 : 4;
	status |= bpf_arena_reserve_pages(&arena, page(PAGES - 1), 2) == -22 ? 0 : 8;
	status |= bpf_arena_reserve_pages(&arena, page(PAGES - 1), 0) == 0 ? 0 : 16;
	status |= bpf_arena_reserve_pages(&values, page(0), 1) == -22 ? 0 : 32;
	status |= bpf_arena_reserve_pages(&arena, page(20) + 1, 1) == 0 ? 0 : 64;
	*word(10 * PAGE) = 1;
	status |= *word(10 * PAGE) ? 128 : 0;
	bpf_arena_free_pages(&arena, page(10), 2);
	status |= alloc(page(10), 2) ? 0 : 256;
	return status;
}

/* Which pages are found depends on what was allocated and freed before. */
SEC("syscall") int ok_fit(void *ctx)
{
	words places = alloc(page(30), 1), random = places + 8;
	struct bpf_iter_num rounds;
	__u64 sum = 0;

	if (!places)
		return 1;
	*random = 12345;
	bpf_iter_num_new(&rounds, 0, 300);
	while (bpf_iter_num_next(&rounds)) {
		__u64 now = *random, slot = now >> 16 & 7, pages = (now >> 20 & 3) + 1;

		*random = (__u32)(now * 1103515245 + 12345);
		if (places[slot]) {
			bpf_arena_free_pages(&arena, (void __arena *)(places[slot] & ~0xfffull), places[slot] & 0xfff);
			places[slot] = 0;
		} else {
			__u64 at = (__u64)alloc(0, pages);

			if (at)
				places[slot] = at | pages;
			sum = sum * 31 + (at - START) / PAGE;
		}
	}
	bpf_iter_num_destroy(&rounds);
	return sum;
}

/* A pointer is stored as user space sees it, and null stays null. */
SEC("syscall") int ok_casts(void *ctx)
{
	words it = alloc(page(7), 1);
	volatile words __arena *place = (volatile words __arena *)it;
	__u64 stored;

	if (!it)
		return 1;
	it[0] = 1;
	place[1] = it + 1;
	place[2] = 0;
	stored = it[1];
	if (stored != START + 7 * PAGE + 8 || it[2])
		return 2;
	if (place[1] != it + 1 || *place[1] != stored)
		return 3;
	return 0;
}

struct node {
	struct node __arena *next;
	__u64 value;
};

SEC("syscall") int ok_list(void *ctx)
{
	struct node __arena *head = 0, *it;
	__u64 sum = 0;
	struct bpf_iter_num numbers;
	int *number;

	it = alloc(0, 1);
	if (!it)
		return -1;
	bpf_iter_num_new(&numbers, 0, 100);
	while ((number = bpf_iter_num_next(&numbers))) {
		it->next = head;
		it->value = *number;
		head = it++;
	}
	bpf_iter_num_destroy(&numbers);
	bpf_iter_num_new(&numbers, 0, 1000);
	while (head && (number = bpf_iter_num_next(&numbers))) {
		sum += head->value + *number * 1000;
		head = head->next;
	}
	bpf_iter_num_destroy(&numbers);
	return sum;
}

SEC("syscall") int ok_widths(void *ctx)
{
	words it = alloc(0, 1);
	__s64 sum;

	if (!it)
		return 1;
	it[0] = 0x8182838485868788;
	it[1] = 0;
	*((volatile __u8 __arena *)it + 8) = 0xff;
	*((volatile __u16 __arena *)it + 5) = 0xfffe;
	*((volatile __u32 __arena *)it + 3) = 0xfffffffd;
	sum = *(volatile __s8 __arena *)it * 3 + *((volatile __s16 __arena *)it + 1) * 5;
	sum += (__s64) * ((volatile __s32 __arena *)it + 1) * 7;
	sum += *((volatile __u8 __arena *)it + 2) + *((volatile __u16 __arena *)it + 3);
	sum += *(volatile __u32 __arena *)((__u64)it + 3);
	return (sum ^ sum >> 32 ^ it[1] ^ it[1] >> 32);
}

SEC("syscall") int ok_atomics(void *ctx)
{
	__u64 __arena *it = alloc(0, 1);
	__u64 sum = 0;

	if (!it)
		return 1;
	it[0] = 10;
	sum = sum * 31 + __sync_fetch_and_add(it, 5);
	__sync_fetch_and_add(it, 1);
	__sync_fetch_and_or(it + 1, 0xf0);
	__sync_fetch_and_and(it + 1, 0x30);
	__sync_fetch_and_xor(it + 1, 0x11);
	sum = sum * 31 + __sync_val_compare_and_swap(it, 16, 99);
	sum = sum * 31 + __sync_val_compare_and_swap(it, 16, 98);
	sum = sum * 31 + __sync_lock_test_and_set(it, 55);
	sum = sum * 31 + __sync_fetch_and_add((__u32 __arena *)(it + 2), 3);
	sum = sum * 31 + __sync_val_compare_and_swap((__u32 __arena *)(it + 2), 3, 4);
	return sum + it[0] * 7 + it[1] * 11 + it[2] * 13;
}

/* Where there is no page, an atomic operation changes nothing, and what it was to bring stays what it was. */
SEC("tc") int ok_atomics_no_page(struct __sk_buff *skb)
{
	__u64 added = 5, swapped = 6, expected = 7;

	use_arena();
	asm volatile("r1 = %[at] ll; r1 = addr_space_cast(r1, 0, 1);"
		     "r2 = %[added]; r2 = atomic_fetch_add((u64 *)(r1 + 0), r2); %[added] = r2;"
		     "r2 = %[swapped]; r2 = xchg_64(r1 + 0, r2); %[swapped] = r2;"
		     "r0 = %[expected]; r2 = 9; r0 = cmpxchg_64(r1 + 0, r0, r2); %[expected] = r0;"
		     : [added] "+r"(added), [swapped] "+r"(swapped), [expected] "+r"(expected)
		     : [at] "i"(START + 20 * PAGE)
		     : "r0", "r1", "r2", "memory");
	return added * 100 + swapped * 10 + expected;
}

/* Arithmetic on pointers into the arena has 32 bits. */
SEC("tc") int ok_arithmetic(struct __sk_buff *skb)
{
	__u64 sum = 0, at = START + 0xfffffff0, len = skb->len;

	use_arena();
	asm volatile("%[at] = addr_space_cast(%[at], 0, 1);"
		     "r1 = %[at]; r1 += 0x20; %[sum] += r1;"
		     "r1 = %[sum]; r1 -= 0x30; %[sum] = r1;"
		     "%[sum] <<= 33; %[sum] += %[len];"
		     "r1 = %[sum]; r1 s>>= 2; %[sum] *= r1; %[sum] ^= 0x55"
		     : [at] "+r"(at), [sum] "+r"(sum)
		     : [len] "r"(len)
		     : "r1");
	return sum * 3 + at;
}

/* No register is left for the arena's base: r6 to r9 live across a call, and so does what counts the rounds. */
SEC("syscall") int ok_all_registers(void *ctx)
{
	words it = alloc(0, 1);
	register __u64 sum asm("r0");
	register words in asm("r1") = it;

	if (!it)
		return 1;
	asm volatile("r6 = r1; r6 = addr_space_cast(r6, 0, 1); r7 = 1; r8 = 2; r9 = 3;"
		     "1: call %[cpu];"
		     "*(u64 *)(r6 + 8) = r7; *(u8 *)(r6 + 16) = 200;"
		     "r0 = *(s8 *)(r6 + 16); r0 += r7; *(u32 *)(r6 + 20) = r0;"
		     "r0 = atomic_fetch_add((u64 *)(r6 + 0), r0);"
		     "r0 = *(u64 *)(r6 + 8); r7 += r0; r8 += r7; r9 += 1;"
		     "r0 = r6; r0 = addr_space_cast(r0, 1, 0); r8 += r0;"
		     "may_goto 3f;"
		     "if r9 < 20 goto 1b;"
		     "3: r8 += r9; r0 = r8"
		     : "=r"(sum), "+r"(in)
		     : [cpu] "i"(BPF_FUNC_ktime_get_ns)
		     : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "memory");
	return sum + it[0] * 3 + it[1] * 5 + it[2] * 7;
}

/* What the kernel does in 32 bits on both ways, and takes for a number of 64 on one. */
SEC("tc") int ok_verdict_mixed_sum(struct __sk_buff *skb)
{
	__u64 sum = skb->len;

	use_arena();
	asm volatile("r1 = 0x700000000 ll; if %[sum] > 100 goto 1f;"
		     "r1 = %[at] ll; r1 = addr_space_cast(r1, 0, 1);"
		     "1: r1 += 8; %[sum] = r1"
		     : [sum] "+r"(sum)
		     : [at] "i"(START)
		     : "r1");
	return sum >> 32;
}

SEC("tc") int ok_verdict_mixed_atomic(struct __sk_buff *skb)
{
	__u64 mine = skb->len, *to = &mine;

	use_arena();
	asm volatile("r1 = %[to]; r2 = *(u64 *)(r1 + 0); if r2 > 100 goto 1f;"
		     "r1 = %[at] ll; r1 = addr_space_cast(r1, 0, 1);"
		     "1: lock *(u64 *)(r1 + 0) += r2"
		     :
		     : [to] "r"(to), [at] "i"(START)
		     : "r1", "r2", "memory");
	return mine;
}

__noinline int sum_of(struct node __arena *it arg_tag(arena), int add)
{
	if (!it)
		return add;
	return it->value + add;
}

SEC("syscall") int ok_global_function(void *ctx)
{
	struct node __arena *it = alloc(0, 1);

	if (!it)
		return 1;
	it->value = 40;
	return sum_of(it, 2) + sum_of(0, 100) + sum_of((void __arena *)0x1234567890, 1);
}

static __noinline words step(words it, int by)
{
	it[by & 1] += by;
	return it + 1;
}

SEC("syscall") int ok_static_function(void *ctx)
{
	words it = alloc(0, 1);

	if (!it)
		return 1;
	return *step(step(step(it, 3), 5), 8) + it[0] + it[1] * 16 + it[2] * 256;
}

__noinline int no_arena(words it arg_tag(arena))
{
	return (__u64)it & 0xff;
}

SEC("tc") int ok_argument_without_arena(struct __sk_buff *skb)
{
	return no_arena((words)(__u64)skb->len);
}

SEC("tc") int ok_any_address(struct __sk_buff *skb)
{
	words it = (words)(__u64)skb;

	use_arena();
	return it[0] ? 3 : 4;
}

SEC("tc") int bad_argument_of_the_stack(struct __sk_buff *skb)
{
	__u64 mine = 0;

	use_arena();
	return sum_of((void __arena *)(__u64)&mine, 1);
}

SEC("tc") int bad_argument_of_the_context(struct __sk_buff *skb)
{
	return sum_of((void __arena *)(__u64)skb, 1);
}

__noinline int twice_tagged(words it arg_tag(arena) arg_tag(nonnull))
{
	return (__u64)it & 0xff;
}

SEC("tc") int bad_argument_twice_tagged(struct __sk_buff *skb)
{
	return twice_tagged((words)(__u64)skb->len);
}

__noinline int tagged_context(struct __sk_buff *skb arg_tag(ctx) arg_tag(arena))
{
	return skb->len;
}

SEC("tc") int bad_argument_tagged_context(struct __sk_buff *skb)
{
	return tagged_context(skb);
}

__noinline int tagged_dynptr(struct bpf_dynptr *dynptr arg_tag(arena))
{
	return bpf_dynptr_is_null(dynptr);
}

SEC("tc") int bad_argument_tagged_dynptr(struct __sk_buff *skb)
{
	struct bpf_dynptr dynptr;

	bpf_dynptr_from_skb(skb, 0, &dynptr);
	return tagged_dynptr(&dynptr);
}

__noinline int tagged_number(__u64 it arg_tag(arena))
{
	return it & 0xff;
}

SEC("tc") int bad_argument_tagged_number(struct __sk_buff *skb)
{
	return tagged_number(skb->len);
}

SEC("tc") int bad_alloc_without_sleep(struct __sk_buff *skb)
{
	return !alloc(0, 1);
}

SEC("tc") int bad_free_without_sleep(struct __sk_buff *skb)
{
	bpf_arena_free_pages(&arena, page(0), 1);
	return 0;
}

SEC("tc") int bad_reserve_without_sleep(struct __sk_buff *skb)
{
	return bpf_arena_reserve_pages(&arena, page(0), 1);
}

SEC("syscall") int bad_alloc_in_section(void *ctx)
{
	int got;

	bpf_rcu_read_lock();
	got = !!alloc(0, 1);
	bpf_rcu_read_unlock();
	return got;
}

SEC("syscall") int bad_alloc_without_preemption(void *ctx)
{
	bpf_preempt_disable();
	return !alloc(0, 1);
}

SEC("syscall") int bad_alloc_no_map(void *ctx)
{
	return !bpf_arena_alloc_pages(0, 0, 1, ANY_NODE, 0);
}

SEC("syscall") int bad_alloc_number(void *ctx)
{
	return !bpf_arena_alloc_pages((void *)0x1234, 0, 1, ANY_NODE, 0);
}

SEC("syscall") int bad_alloc_of_stack(void *ctx)
{
	__u64 mine = 0;

	return !bpf_arena_alloc_pages(&mine, 0, 1, ANY_NODE, 0);
}

SEC("syscall") int bad_alloc_of_context(void *ctx)
{
	return !bpf_arena_alloc_pages(ctx, 0, 1, ANY_NODE, 0);
}

SEC("syscall") int bad_alloc_of_value(void *ctx)
{
	__u32 zero = 0;
	void *value = bpf_map_lookup_elem(&values, &zero);

	return value ? !bpf_arena_alloc_pages(value, 0, 1, ANY_NODE, 0) : 0;
}

SEC("syscall") int bad_alloc_of_arena(void *ctx)
{
	words it = alloc(0, 1);
	void *kernel = 0;

	asm volatile("%[kernel] = addr_space_cast(%[it], 0, 1)" : [kernel] "=r"(kernel) : [it] "r"(it));
	return !bpf_arena_alloc_pages(kernel, 0, 1, ANY_NODE, 0);
}

SEC("syscall") int bad_alloc_pages_of_pointer(void *ctx)
{
	return !bpf_arena_alloc_pages(&arena, 0, (__u64)ctx, ANY_NODE, 0);
}

SEC("syscall") int bad_result_without_cast(void *ctx)
{
	__u64 it = (__u64)alloc(0, 1);

	return *(volatile __u64 *)it;
}

struct bpf_map;

static long visit(struct bpf_map *map, void *key, void *value, void *ctx)
{
	return 0;
}

SEC("tc") int bad_elements(struct __sk_buff *skb)
{
	return bpf_for_each_map_elem(&arena, visit, 0, 0);
}

char _license[] SEC("license") = "GPL";
