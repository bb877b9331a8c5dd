// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Global variables in an arena that takes any address.
#include "kfuncs.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)
#define BPF_MAP_TYPE_ARENA 33
#endif
#define __arena __attribute__((address_space(1)))

KFUNC void __arena *bpf_arena_alloc_pages(void *map, void __arena *at, __u32 pages, int node, __u64 flags);

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 8);
} arena SEC(".maps");

struct node {
	struct node __arena *next;
	__u64 value;
};

__u64 __arena first = 40;
__u32 __arena table[1200];
struct node __arena *__arena head;
struct node __arena nodes[8];
static __u64 __arena hidden = 2;

#define use_arena() asm volatile("%[map] = %[map]" : : [map] "r"(&arena))

SEC("tc") int ok_initial(struct __sk_buff *skb)
{
	use_arena();
	return first + hidden + table[3] + table[1199] + !head;
}

SEC("tc") int ok_written(struct __sk_buff *skb)
{
	__u32 at = skb->len & 7;

	use_arena();
	first += 2;
	hidden++;
	table[1199] = 7;
	table[skb->len & 127] = 5;
	return first + hidden * 100 + table[1199] * 1000 + table[64] * 10000 + table[at] * 100000;
}

SEC("tc") int ok_pointers(struct __sk_buff *skb)
{
	struct node __arena *it;
	__u64 sum = 0;

	use_arena();
	for (int i = 0; i < 8; i++) {
		nodes[i].value = i + 1;
		nodes[i].next = head;
		head = &nodes[i];
	}
	it = head;
	for (int i = 0; i < 16 && it; i++, it = it->next)
		sum = sum * 3 + it->value;
	return sum;
}

SEC("syscall") int ok_pages_behind(void *ctx)
{
	__u64 start = (__u64)&first & ~0xfffull;
	__u64 page = (__u64)bpf_arena_alloc_pages(&arena, 0, 1, -1, 0);
	__u64 rest = (__u64)bpf_arena_alloc_pages(&arena, 0, 6, -1, 0);

	return (page - start) / 4096 + 10 * !rest;
}

char _license[] SEC("license") = "GPL";
