// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Locks that may refuse to be taken, interrupt flags, and work queues.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct guarded {
	struct bpf_res_spin_lock lock;
	__u32 count;
};

struct item {
	__u64 key;
	struct bpf_list_node link;
};

struct locked_item {
	__u64 key;
	struct bpf_res_spin_lock lock;
};

struct leaf {
	__u64 key;
	struct bpf_rb_node rb;
};

struct locked_node {
	__u64 key;
	struct bpf_res_spin_lock lock;
	struct bpf_list_node link;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct guarded);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct guarded);
} hash SEC(".maps");

struct unguarded {
	__u32 count;
	__u32 other;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unguarded);
} bare SEC(".maps");

#define private(name) SEC(".data." #name) __hidden __attribute__((aligned(8)))
private(A) struct bpf_res_spin_lock lock_a;
private(B) struct bpf_res_spin_lock lock_b;
private(C) struct bpf_res_spin_lock list_lock;
private(C) struct bpf_list_head list contains(item, link);
private(D) struct bpf_spin_lock plain;

static __always_inline struct guarded *value(__u32 key)
{
	return bpf_map_lookup_elem(&values, &key);
}

SEC("tc")
int ok_lock(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	if (!v)
		return -1;
	if (bpf_res_spin_lock(&v->lock))
		return -2;
	v->count += 3;
	bpf_res_spin_unlock(&v->lock);
	return v->count;
}

SEC("tc")
int ok_two_locks(struct __sk_buff *skb)
{
	struct guarded *a = value(0), *b = value(1);

	if (!a || !b)
		return -1;
	if (bpf_res_spin_lock(&a->lock))
		return -2;
	if (bpf_res_spin_lock(&b->lock)) {
		bpf_res_spin_unlock(&a->lock);
		return -3;
	}
	a->count += 1;
	b->count += 2;
	bpf_res_spin_unlock(&b->lock);
	bpf_res_spin_unlock(&a->lock);
	return 7;
}

/* The same value by two lookups: no verifier knows, and the second lock is refused. */
SEC("tc")
int ok_twice_the_same(struct __sk_buff *skb)
{
	struct guarded *a = value(0), *b = value(0);
	int result;

	if (!a || !b)
		return -1;
	if (bpf_res_spin_lock(&a->lock))
		return -2;
	result = bpf_res_spin_lock(&b->lock);
	if (!result)
		bpf_res_spin_unlock(&b->lock);
	bpf_res_spin_unlock(&a->lock);
	return -result;
}

SEC("tc")
int ok_lock_again_after_refusal(struct __sk_buff *skb)
{
	struct guarded *a = value(1), *b = value(1);
	int first, second;

	if (!a || !b)
		return -1;
	if (bpf_res_spin_lock(&a->lock))
		return -2;
	first = bpf_res_spin_lock(&b->lock);
	if (!first)
		bpf_res_spin_unlock(&b->lock);
	bpf_res_spin_unlock(&a->lock);
	second = bpf_res_spin_lock(&b->lock);
	if (!second)
		bpf_res_spin_unlock(&b->lock);
	return first == -35 && second == 0;
}

SEC("tc")
int ok_hash(struct __sk_buff *skb)
{
	struct guarded fresh = { .count = 5 };
	__u32 key = 9;
	struct guarded *v;
	int result;

	bpf_map_update_elem(&hash, &key, &fresh, BPF_ANY);
	v = bpf_map_lookup_elem(&hash, &key);
	if (!v)
		return -1;
	if (bpf_res_spin_lock(&v->lock))
		return -2;
	v->count++;
	result = v->count;
	bpf_res_spin_unlock(&v->lock);
	return result;
}

SEC("tc")
int ok_irqsave(struct __sk_buff *skb)
{
	struct guarded *v = value(0);
	unsigned long a, b;

	if (!v)
		return -1;
	if (bpf_res_spin_lock_irqsave(&lock_a, &a))
		return -2;
	if (bpf_res_spin_lock_irqsave(&v->lock, &b)) {
		bpf_res_spin_unlock_irqrestore(&lock_a, &a);
		return -3;
	}
	v->count = 11;
	bpf_res_spin_unlock_irqrestore(&v->lock, &b);
	bpf_res_spin_unlock_irqrestore(&lock_a, &a);
	return v->count;
}

SEC("xdp")
int ok_irq(struct xdp_md *ctx)
{
	unsigned long a, b;
	int result = 1;

	bpf_local_irq_save(&a);
	bpf_local_irq_save(&b);
	result += 40;
	bpf_local_irq_restore(&b);
	bpf_local_irq_restore(&a);
	return result;
}

static __noinline int save(unsigned long *flags)
{
	bpf_local_irq_save(flags);
	return 0;
}

static __noinline int restore(unsigned long *flags)
{
	bpf_local_irq_restore(flags);
	return 0;
}

SEC("tc")
int ok_irq_in_functions(struct __sk_buff *skb)
{
	unsigned long flags;

	save(&flags);
	restore(&flags);
	return 3;
}

/* A list below a lock that may refuse. */
SEC("tc")
int ok_list(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	struct bpf_list_node *node;
	int result;

	if (!item)
		return -1;
	item->key = 17;
	if (bpf_res_spin_lock(&list_lock)) {
		drop(item);
		return -2;
	}
	push_front(&list, &item->link);
	node = bpf_list_pop_front(&list);
	bpf_res_spin_unlock(&list_lock);
	if (!node)
		return -3;
	item = container(node, struct item, link);
	result = item->key;
	drop(item);
	return result;
}

SEC("tc")
int ok_object(struct __sk_buff *skb)
{
	struct locked_node *item = new_object(struct locked_node);
	int result;

	if (!item)
		return -1;
	if (bpf_res_spin_lock(&item->lock)) {
		drop(item);
		return -2;
	}
	item->key = 23;
	bpf_res_spin_unlock(&item->lock);
	result = item->key;
	drop(item);
	return result;
}

/* What the program and who drives it tell each other: the lock is held; give it back; how often to look for that. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[3]);
} signals SEC(".maps");

SEC("tc")
int ok_hold(struct __sk_buff *skb)
{
	__u32 key = 0;
	volatile __u64 *signal = bpf_map_lookup_elem(&signals, &key);
	struct bpf_iter_num outer, inner;
	int rounds, told = 0;

	if (!signal)
		return -1;
	rounds = signal[2];
	if (bpf_res_spin_lock(&lock_a))
		return -2;
	signal[0] = 1;
	bpf_iter_num_new(&outer, 0, rounds);
	while (bpf_iter_num_next(&outer) && !told) {
		bpf_iter_num_new(&inner, 0, 1 << 20);
		while (bpf_iter_num_next(&inner) && !told)
			told = signal[1] != 0;
		bpf_iter_num_destroy(&inner);
	}
	bpf_iter_num_destroy(&outer);
	bpf_res_spin_unlock(&lock_a);
	return told;
}

SEC("tc")
int ok_try(struct __sk_buff *skb)
{
	int result = bpf_res_spin_lock(&lock_a);

	if (!result)
		bpf_res_spin_unlock(&lock_a);
	return -result;
}

/* A tree below such a lock, whose order takes another one. */
private(E) struct bpf_res_spin_lock tree_lock;
private(E) struct bpf_rb_root tree contains(leaf, rb);

static _Bool less_and_locks(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	_Bool less = container(a, struct leaf, rb)->key < container(b, struct leaf, rb)->key;

	if (!bpf_res_spin_lock(&lock_b))
		bpf_res_spin_unlock(&lock_b);
	return less;
}

static _Bool unlocks(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_res_spin_unlock(&tree_lock);
	return 0;
}

static __always_inline int insert(__u64 key, _Bool (*less)(struct bpf_rb_node *, const struct bpf_rb_node *))
{
	struct leaf *leaf = new_object(struct leaf);

	if (!leaf)
		return -1;
	leaf->key = key;
	if (bpf_res_spin_lock(&tree_lock)) {
		drop(leaf);
		return -2;
	}
	bpf_rbtree_add_impl(&tree, &leaf->rb, less, 0, 0);
	bpf_res_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int ok_order_takes_another_lock(struct __sk_buff *skb)
{
	struct bpf_rb_node *node;
	int first = -3;

	if (insert(9, less_and_locks) || insert(4, less_and_locks) || insert(6, less_and_locks))
		return -1;
	for (int i = 0; i < 3; i++) {
		struct leaf *leaf;

		if (bpf_res_spin_lock(&tree_lock))
			return -2;
		node = bpf_rbtree_first(&tree);
		if (!node) {
			bpf_res_spin_unlock(&tree_lock);
			return -4;
		}
		node = bpf_rbtree_remove(&tree, node);
		bpf_res_spin_unlock(&tree_lock);
		if (!node)
			return -5;
		leaf = container(node, struct leaf, rb);
		if (!i)
			first = leaf->key;
		drop(leaf);
	}
	return first;
}

SEC("tc")
int bad_order_unlocks(struct __sk_buff *skb)
{
	return insert(1, unlocks);
}

/* Both orders, by threads that the test starts. */
__u64 both = 0;

SEC("tc")
int ok_a_then_b(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	if (bpf_res_spin_lock(&lock_b)) {
		bpf_res_spin_unlock(&lock_a);
		return 0;
	}
	both++;
	bpf_res_spin_unlock(&lock_b);
	bpf_res_spin_unlock(&lock_a);
	return 1;
}

SEC("tc")
int ok_b_then_a(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_b))
		return 0;
	if (bpf_res_spin_lock(&lock_a)) {
		bpf_res_spin_unlock(&lock_b);
		return 0;
	}
	both++;
	bpf_res_spin_unlock(&lock_a);
	bpf_res_spin_unlock(&lock_b);
	return 1;
}

SEC("raw_tp")
int bad_in_raw_tp(void *ctx)
{
	struct guarded *v = value(0);

	if (v && !bpf_res_spin_lock(&v->lock))
		bpf_res_spin_unlock(&v->lock);
	return 0;
}

/* The kernel does not look into structs that have such a lock alone. */
SEC("tc")
int bad_object_with_a_lock_alone(struct __sk_buff *skb)
{
	struct locked_item *item = new_object(struct locked_item);

	if (!item)
		return 0;
	if (!bpf_res_spin_lock(&item->lock))
		bpf_res_spin_unlock(&item->lock);
	drop(item);
	return 0;
}

SEC("tc")
int bad_no_lock_map(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct unguarded *v = bpf_map_lookup_elem(&bare, &key);

	if (!v)
		return 0;
	if (bpf_res_spin_lock((void *)v))
		return 1;
	bpf_res_spin_unlock((void *)v);
	return 0;
}

SEC("tc")
int bad_offset(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	if (v)
		bpf_res_spin_lock((void *)&v->count);
	return 0;
}

SEC("tc")
int bad_variable_offset(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	if (v)
		bpf_res_spin_lock((void *)v + (skb->mark & 3));
	return 0;
}

SEC("tc")
int bad_argument(struct __sk_buff *skb)
{
	__u64 local = 0;

	return bpf_res_spin_lock((void *)&local);
}

SEC("tc")
int bad_null(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	return bpf_res_spin_lock((void *)v);
}

SEC("tc")
int bad_not_released(struct __sk_buff *skb)
{
	return bpf_res_spin_lock(&lock_a);
}

SEC("tc")
int bad_same_again(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	if (!bpf_res_spin_lock(&lock_a))
		bpf_res_spin_unlock(&lock_a);
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int bad_unlock_without_lock(struct __sk_buff *skb)
{
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int bad_unlock_of_other(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	bpf_res_spin_unlock(&lock_b);
	return 0;
}

SEC("tc")
int bad_unlock_out_of_order(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	if (bpf_res_spin_lock(&lock_b)) {
		bpf_res_spin_unlock(&lock_a);
		return 0;
	}
	bpf_res_spin_unlock(&lock_a);
	bpf_res_spin_unlock(&lock_b);
	return 0;
}

SEC("tc")
int bad_unlock_as_irq(struct __sk_buff *skb)
{
	unsigned long flags;

	if (bpf_res_spin_lock_irqsave(&lock_a, &flags))
		return 0;
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int bad_unlock_after_refusal(struct __sk_buff *skb)
{
	bpf_res_spin_lock(&lock_a);
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int bad_call_under_lock(struct __sk_buff *skb)
{
	int result;

	if (bpf_res_spin_lock(&lock_a))
		return 0;
	result = bpf_get_prandom_u32();
	bpf_res_spin_unlock(&lock_a);
	return result;
}

SEC("tc")
int bad_spin_lock_below(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	bpf_spin_lock(&plain);
	bpf_spin_unlock(&plain);
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int ok_below_spin_lock(struct __sk_buff *skb)
{
	int result = 0;

	bpf_spin_lock(&plain);
	if (!bpf_res_spin_lock(&lock_a)) {
		result = 6;
		bpf_res_spin_unlock(&lock_a);
	}
	bpf_spin_unlock(&plain);
	return result;
}

SEC("tc")
int bad_spin_unlock_out_of_order(struct __sk_buff *skb)
{
	bpf_spin_lock(&plain);
	if (bpf_res_spin_lock(&lock_a)) {
		bpf_spin_unlock(&plain);
		return 0;
	}
	bpf_spin_unlock(&plain);
	bpf_res_spin_unlock(&lock_a);
	return 0;
}

SEC("tc")
int bad_spin_unlock(struct __sk_buff *skb)
{
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	bpf_spin_unlock(&plain);
	return 0;
}

SEC("tc")
int bad_list_without_lock(struct __sk_buff *skb)
{
	struct bpf_list_node *node = bpf_list_pop_front(&list);

	if (node)
		drop(container(node, struct item, link));
	return 0;
}

SEC("tc")
int bad_list_under_other_lock(struct __sk_buff *skb)
{
	struct bpf_list_node *node;

	if (bpf_res_spin_lock(&lock_a))
		return 0;
	node = bpf_list_pop_front(&list);
	bpf_res_spin_unlock(&lock_a);
	if (node)
		drop(container(node, struct item, link));
	return 0;
}

SEC("tc")
int bad_direct_access(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	return v ? *(volatile __u32 *)&v->lock : 0;
}

SEC("socket")
int bad_socket(struct __sk_buff *skb)
{
	if (!bpf_res_spin_lock(&lock_a))
		bpf_res_spin_unlock((void *)0);
	return 0;
}

SEC("tc")
int bad_irq_not_restored(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	return 0;
}

SEC("tc")
int bad_irq_out_of_order(struct __sk_buff *skb)
{
	unsigned long a, b;

	bpf_local_irq_save(&a);
	bpf_local_irq_save(&b);
	bpf_local_irq_restore(&a);
	bpf_local_irq_restore(&b);
	return 0;
}

SEC("tc")
int bad_irq_three_out_of_order(struct __sk_buff *skb)
{
	unsigned long a, b, c;

	bpf_local_irq_save(&a);
	bpf_local_irq_save(&b);
	bpf_local_irq_restore(&b);
	bpf_local_irq_save(&c);
	bpf_local_irq_restore(&a);
	bpf_local_irq_restore(&c);
	return 0;
}

SEC("tc")
int bad_irq_twice(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	bpf_local_irq_save(&flags);
	bpf_local_irq_restore(&flags);
	return 0;
}

SEC("tc")
int bad_irq_restored_twice(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	bpf_local_irq_restore(&flags);
	bpf_local_irq_restore(&flags);
	return 0;
}

SEC("tc")
int bad_irq_overwritten(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	*(volatile unsigned long *)&flags = 1;
	bpf_local_irq_restore(&flags);
	return 0;
}

SEC("tc")
int bad_irq_read(struct __sk_buff *skb)
{
	unsigned long flags;
	int result;

	bpf_local_irq_save(&flags);
	result = *(volatile unsigned long *)&flags;
	bpf_local_irq_restore(&flags);
	return result;
}

SEC("tc")
int bad_irq_part_overwritten(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	*(volatile char *)&flags = 1;
	bpf_local_irq_restore(&flags);
	return 0;
}

SEC("tc")
int bad_irq_elsewhere(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	if (v)
		bpf_local_irq_save((void *)v);
	return 0;
}

SEC("tc")
int bad_irq_misaligned(struct __sk_buff *skb)
{
	char room[16];

	bpf_local_irq_save((void *)&room[4]);
	return 0;
}

SEC("tc")
int bad_irq_below_the_stack(struct __sk_buff *skb)
{
	char room[8], *below = room;

	asm volatile("%0 += -520" : "+r"(below));
	bpf_local_irq_save((void *)below);
	return 0;
}

SEC("tc")
int bad_irq_variable_offset(struct __sk_buff *skb)
{
	char room[32];

	bpf_local_irq_save((void *)&room[skb->mark & 8]);
	return 0;
}

SEC("tc")
int bad_irq_of_a_lock(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	if (bpf_res_spin_lock(&lock_a))
		return 0;
	bpf_res_spin_unlock_irqrestore(&lock_a, &flags);
	return 0;
}

SEC("tc")
int bad_irq_of_another_class(struct __sk_buff *skb)
{
	unsigned long flags, others;

	bpf_local_irq_save(&flags);
	if (bpf_res_spin_lock_irqsave(&lock_a, &others)) {
		bpf_local_irq_restore(&flags);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&lock_a, &flags);
	return 0;
}

SEC("tc")
int bad_irq_not_restored_on_one_way(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	if (skb->mark)
		bpf_local_irq_restore(&flags);
	return 0;
}

/* Work queues are verified, and not run. */
struct job {
	__u64 count;
	struct bpf_wq work;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct job);
} jobs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct job);
} other_jobs SEC(".maps");

static int work(void *map, int *key, void *value)
{
	struct job *job = value;

	job->count += *key;
	return 0;
}

static int bad_work(void *map, int *key, void *value)
{
	return 1;
}

static __always_inline struct job *first_job(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&jobs, &key);
}

SEC("tc")
int ok_verdict_work(struct __sk_buff *skb)
{
	struct job *job = first_job();

	if (!job)
		return 0;
	if (bpf_wq_init(&job->work, &jobs, 0))
		return 1;
	if (bpf_wq_set_callback_impl(&job->work, work, 0, 0))
		return 2;
	return bpf_wq_start(&job->work, 0);
}

SEC("tc")
int bad_work_of_another_map(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? bpf_wq_init(&job->work, &other_jobs, 0) : 0;
}

SEC("tc")
int bad_work_offset(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? bpf_wq_init((void *)&job->count, &jobs, 0) : 0;
}

SEC("tc")
int bad_work_map_without_queue(struct __sk_buff *skb)
{
	struct guarded *v = value(0);

	return v ? bpf_wq_start((void *)v, 0) : 0;
}

SEC("tc")
int bad_work_argument(struct __sk_buff *skb)
{
	struct bpf_wq local = {};

	return bpf_wq_start(&local, 0);
}

SEC("tc")
int bad_work_no_map(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? bpf_wq_init(&job->work, job, 0) : 0;
}

SEC("tc")
int bad_work_result(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? bpf_wq_set_callback_impl(&job->work, bad_work, 0, 0) : 0;
}

SEC("tc")
int bad_work_without_function(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? bpf_wq_set_callback_impl(&job->work, (void *)0, 0, 0) : 0;
}

SEC("raw_tp")
int bad_work_in_raw_tp(void *ctx)
{
	struct job *job = first_job();

	return job ? bpf_wq_start(&job->work, 0) : 0;
}

SEC("tc")
int bad_work_direct_access(struct __sk_buff *skb)
{
	struct job *job = first_job();

	return job ? *(volatile __u64 *)&job->work : 0;
}
