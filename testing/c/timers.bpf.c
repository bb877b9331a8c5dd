// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Timers in map values. `ok_verdict_` programs are accepted; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct timed {
	__u64 count;
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct timed);
} values SEC(".maps"), others SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[4]);
} plain SEC(".maps");

static __always_inline struct timed *find(void *map, __u32 key)
{
	return bpf_map_lookup_elem(map, &key);
}

static int tick(void *map, __u32 *key, struct timed *value)
{
	value->count += *key;
	return 0;
}

static int tick_returns_one(void *map, __u32 *key, struct timed *value)
{
	return 1;
}

static int tick_writes_the_key(void *map, __u32 *key, struct timed *value)
{
	*key = 1;
	return 0;
}

static int tick_reads_beyond_the_key(void *map, __u32 *key, struct timed *value)
{
	return ((volatile __u32 *)key)[1] ? 0 : 0;
}

static int tick_reads_the_timer(void *map, __u32 *key, struct timed *value)
{
	value->count = *(volatile __u64 *)&value->timer;
	return 0;
}

static int tick_starts_itself(void *map, __u32 *key, struct timed *value)
{
	bpf_timer_set_callback(&value->timer, tick_starts_itself);
	bpf_timer_start(&value->timer, 1000, 0);
	return 0;
}

static int tick_sleeps(void *map, __u32 *key, struct timed *value)
{
	bpf_copy_from_user(&value->count, 8, 0);
	return 0;
}

#define WITH(name, function)                                                                                           \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		struct timed *value = find(&values, 0);                                                                \
                                                                                                                       \
		if (value)                                                                                             \
			bpf_timer_set_callback(&value->timer, function);                                               \
		return 0;                                                                                              \
	}
WITH(ok_verdict_tick, tick)
WITH(ok_verdict_tick_starts_itself, tick_starts_itself)
WITH(bad_tick_returns_one, tick_returns_one)
WITH(bad_tick_writes_the_key, tick_writes_the_key)
WITH(bad_tick_reads_beyond_the_key, tick_reads_beyond_the_key)
WITH(bad_tick_reads_the_timer, tick_reads_the_timer)

SEC("syscall")
int bad_tick_sleeps(void *args)
{
	struct timed *value = find(&values, 0);

	if (value)
		bpf_timer_set_callback(&value->timer, tick_sleeps);
	return 0;
}

SEC("tc")
int ok_verdict_made(struct __sk_buff *skb)
{
	struct timed *value = find(&values, 0);

	if (value)
		bpf_timer_init(&value->timer, &values, 1);
	return 0;
}

SEC("tc")
int bad_made_for_another_map(struct __sk_buff *skb)
{
	struct timed *value = find(&values, 0);

	if (value)
		bpf_timer_init(&value->timer, &others, 1);
	return 0;
}

SEC("tc")
int bad_timer_elsewhere(struct __sk_buff *skb)
{
	struct timed *value = find(&values, 0);

	if (value)
		bpf_timer_cancel((void *)&value->timer + 8);
	return 0;
}

SEC("tc")
int bad_timer_somewhere(struct __sk_buff *skb)
{
	struct timed *value = find(&values, 0);

	if (value)
		bpf_timer_cancel((void *)&value->timer + (skb->mark & 8));
	return 0;
}

SEC("tc")
int bad_timer_of_a_plain_value(struct __sk_buff *skb)
{
	struct timed *value = find(&plain, 0);

	if (value)
		bpf_timer_cancel(&value->timer);
	return 0;
}

SEC("tc")
int bad_write_to_the_timer(struct __sk_buff *skb)
{
	struct timed *value = find(&values, 0);

	if (value)
		*(volatile __u64 *)&value->timer = 1;
	return 0;
}

SEC("tc")
int bad_timer_on_the_stack(struct __sk_buff *skb)
{
	struct bpf_timer timer = {};

	return bpf_timer_cancel(&timer);
}
