// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Spin locks in map values, and timers beside them: where they are, who holds them, and what may be done meanwhile. `ok_`
// programs are accepted and run alike everywhere; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct locked {
	__u64 count;
	struct bpf_spin_lock lock;
	__u32 rest;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct locked);
} values SEC(".maps"), others SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[2]);
} plain SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

static __always_inline struct locked *find(void *map, __u32 key)
{
	return bpf_map_lookup_elem(map, &key);
}

static __attribute__((noinline)) int add_and_unlock(struct locked *value)
{
	value->count += 2;
	bpf_spin_unlock(&value->lock);
	return 3;
}

__attribute__((noinline)) int of_all(int number)
{
	return number + 1;
}

SEC("tc")
int ok_count_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return -1;
	bpf_spin_lock(&value->lock);
	value->count = 5;
	value->rest = 1;
	value->count += value->rest;
	bpf_spin_unlock(&value->lock);
	return value->count;
}

SEC("tc")
int ok_unlocked_in_a_function(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 1);

	if (!value)
		return -1;
	bpf_spin_lock(&value->lock);
	value->count = 10;
	return add_and_unlock(value) + value->count;
}

SEC("tc")
int bad_end_with_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (value)
		bpf_spin_lock(&value->lock);
	return 0;
}

SEC("tc")
int bad_lock_on_one_path(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	if (skb->mark)
		bpf_spin_lock(&value->lock);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_unlocked_on_one_path(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	if (value->count)
		bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_two_locks(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0), *other = find(&others, 0);

	if (!value || !other)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_spin_lock(&other->lock);
	bpf_spin_unlock(&other->lock);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_unlock_of_another_value(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0), *other = find(&values, 1);

	if (!value || !other)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_spin_unlock(&other->lock);
	return 0;
}

SEC("tc")
int bad_unlock_of_another_map(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0), *other = find(&others, 0);

	if (!value || !other)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_spin_unlock(&other->lock);
	return 0;
}

/* Both are global data, whose pointers have no identity but the map's. */
SEC(".data.first") __hidden struct bpf_spin_lock first_lock;
SEC(".data.second") __hidden struct bpf_spin_lock second_lock;

SEC("tc")
int bad_unlock_of_other_data(struct __sk_buff *skb)
{
	bpf_spin_lock(&first_lock);
	bpf_spin_unlock(&second_lock);
	return 0;
}

SEC("tc")
int bad_either_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0), *other = find(&values, 1);

	if (!value || !other)
		return 0;
	if (skb->mark)
		bpf_spin_lock(&value->lock);
	else
		bpf_spin_lock(&other->lock);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_either_lock_the_other_way(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0), *other = find(&values, 1);

	if (!value || !other)
		return 0;
	if (skb->mark)
		bpf_spin_lock(&value->lock);
	else
		bpf_spin_lock(&other->lock);
	bpf_spin_unlock(&other->lock);
	return 0;
}

SEC("tc")
int bad_lock_of_either_data(struct __sk_buff *skb)
{
	if (skb->mark)
		bpf_spin_lock(&first_lock);
	else
		bpf_spin_lock(&second_lock);
	asm volatile("" ::: "memory");
	bpf_spin_unlock(&first_lock);
	return 0;
}

SEC("tc")
int bad_lock_of_either_data_the_other_way(struct __sk_buff *skb)
{
	if (skb->mark)
		bpf_spin_lock(&first_lock);
	else
		bpf_spin_lock(&second_lock);
	asm volatile("" ::: "memory");
	bpf_spin_unlock(&second_lock);
	return 0;
}

SEC("tc")
int bad_helper_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	value->count = bpf_get_prandom_u32();
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_kernel_function_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_global_function_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	value->count = of_all(value->rest);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_tail_call_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_tail_call(skb, &programs, 0);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_packet_load_under_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	asm volatile("r6 = %0; .8byte 0x30;" :: "r"(skb) : "r0", "r1", "r2", "r3", "r4", "r5", "r6");
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_lock_elsewhere(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value)
		return 0;
	bpf_spin_lock((void *)&value->lock + 4);
	bpf_spin_unlock((void *)&value->lock + 4);
	return 0;
}

SEC("tc")
int bad_lock_somewhere(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);
	__u64 off = skb->mark & 4;

	if (!value)
		return 0;
	bpf_spin_lock((void *)&value->lock + off);
	bpf_spin_unlock((void *)&value->lock + off);
	return 0;
}

SEC("tc")
int bad_lock_of_a_plain_value(struct __sk_buff *skb)
{
	struct locked *value = find(&plain, 0);

	if (!value)
		return 0;
	bpf_spin_lock(&value->lock);
	bpf_spin_unlock(&value->lock);
	return 0;
}

SEC("tc")
int bad_read_of_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	return value ? *(volatile __u32 *)&value->lock : 0;
}

SEC("tc")
int bad_read_of_its_first_byte(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	return value ? *(volatile __u8 *)&value->lock : 0;
}

SEC("tc")
int bad_read_of_its_last_byte(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	return value ? *((volatile __u8 *)&value->lock + 3) : 0;
}

SEC("tc")
int bad_read_into_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);
	__u64 off = skb->mark & 15;

	return value ? *((volatile __u8 *)value + off) : 0;
}

SEC("tc")
int bad_write_to_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (value)
		*(volatile __u32 *)&value->lock = 1;
	return 0;
}

SEC("tc")
int bad_helper_reads_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	return value ? bpf_csum_diff(0, 0, (void *)value, 12, 0) : 0;
}

SEC("tc")
int bad_helper_writes_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	return value ? bpf_skb_load_bytes(skb, 0, value, sizeof(*value)) : 0;
}

SEC("tc")
int ok_helper_writes_beside_the_lock(struct __sk_buff *skb)
{
	struct locked *value = find(&values, 0);

	if (!value || bpf_skb_load_bytes(skb, 4, value, 8))
		return -1;
	return value->count;
}
