// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Who owns an object: the path, a list, a tree, or a field; and where lists and trees are. `ok_` programs are accepted and run
// alike everywhere, `ok_verdict_` programs are accepted; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct item {
	__u64 key;
	struct bpf_list_node link;
	__u64 value;
};

struct twice {
	__u64 key;
	struct bpf_list_node link;
	struct bpf_list_node other;
	struct bpf_rb_node rb;
	struct bpf_refcount count;
};

struct node {
	__u64 key;
	struct bpf_rb_node rb;
};

struct holder {
	__u64 key;
	struct bpf_spin_lock lock;
	struct bpf_list_head items contains(item, link);
};

#define private(name) SEC(".data." #name) __hidden __attribute__((aligned(8)))
private(A) struct bpf_spin_lock lock;
private(A) struct bpf_list_head list contains(item, link);
private(A) struct bpf_list_head twices contains(twice, link);
private(A) struct bpf_rb_root tree contains(node, rb);
private(A) struct bpf_rb_root counted contains(twice, rb);
private(A) __u64 number;

struct slot {
	__u64 number;
	struct holder kptr *holder;
	struct item kptr *item;
	struct twice kptr *twice;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

static _Bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container(a, struct node, rb)->key < container(b, struct node, rb)->key;
}

static __always_inline struct slot *find(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&slots, &key);
}

#define LOCKED(body)                                                                                                   \
	bpf_spin_lock(&lock);                                                                                          \
	body;                                                                                                          \
	bpf_spin_unlock(&lock)

SEC("tc")
int ok_borrowed_under_the_lock(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	struct bpf_list_node *link;
	int result;

	if (!item)
		return -1;
	item->key = 6;
	bpf_spin_lock(&lock);
	push_front(&list, &item->link);
	/* It is still there. */
	item->value = 7;
	result = item->key * item->value;
	link = bpf_list_pop_front(&list);
	bpf_spin_unlock(&lock);
	if (link)
		drop(container(link, struct item, link));
	return result;
}

SEC("tc")
int bad_list_elsewhere(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	LOCKED(push_front((void *)&list + 8, &item->link));
	return 0;
}

SEC("tc")
int bad_list_somewhere(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	__u64 off = skb->mark & 8;

	if (!item)
		return 0;
	LOCKED(push_front((void *)&list + off, &item->link));
	return 0;
}

SEC("tc")
int bad_tree_as_list(struct __sk_buff *skb)
{
	struct bpf_list_node *link;

	LOCKED(link = bpf_list_pop_front((void *)&tree));
	if (link)
		drop(container(link, struct item, link));
	return 0;
}

SEC("tc")
int bad_list_as_tree(struct __sk_buff *skb)
{
	LOCKED(bpf_rbtree_first((void *)&list));
	return 0;
}

SEC("tc")
int bad_list_on_the_stack(struct __sk_buff *skb)
{
	struct bpf_list_head head = {};
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	LOCKED(push_front(&head, &item->link));
	return 0;
}

SEC("tc")
int bad_node_elsewhere(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	LOCKED(push_front(&list, (void *)&item->link + 8));
	return 0;
}

SEC("tc")
int bad_node_somewhere(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	__u64 off = skb->mark & 8;

	if (!item)
		return 0;
	LOCKED(push_front(&list, (void *)&item->link + off));
	return 0;
}

SEC("tc")
int bad_other_node_of_the_object(struct __sk_buff *skb)
{
	struct twice *twice = new_object(struct twice);

	if (!twice)
		return 0;
	LOCKED(push_front(&twices, &twice->other));
	return 0;
}

SEC("tc")
int bad_node_of_a_map(struct __sk_buff *skb)
{
	LOCKED(push_front(&list, (void *)&number));
	return 0;
}

SEC("tc")
int bad_null_node(struct __sk_buff *skb)
{
	LOCKED(push_front(&list, 0));
	return 0;
}

SEC("tc")
int bad_untested_node(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	LOCKED(push_front(&list, &item->link));
	return 0;
}

SEC("tc")
int bad_inserted_twice(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	LOCKED(push_front(&list, &item->link); push_front(&list, &item->link));
	return 0;
}

SEC("tc")
int bad_first_is_inserted(struct __sk_buff *skb)
{
	bpf_spin_lock(&lock);
	struct bpf_list_node *first = bpf_list_front(&list);

	if (first)
		push_back(&list, first);
	bpf_spin_unlock(&lock);
	return 0;
}

SEC("tc")
int bad_first_is_dropped(struct __sk_buff *skb)
{
	struct bpf_list_node *first;

	LOCKED(first = bpf_list_front(&list));
	if (first)
		drop(container(first, struct item, link));
	return 0;
}

SEC("tc")
int bad_first_is_not_tested(struct __sk_buff *skb)
{
	int result;

	LOCKED(result = container(bpf_list_front(&list), struct item, link)->key);
	return result;
}

SEC("tc")
int bad_popped_is_not_tested(struct __sk_buff *skb)
{
	struct bpf_list_node *link;

	LOCKED(link = bpf_list_pop_front(&list));
	drop(container(link, struct item, link));
	return 0;
}

SEC("tc")
int bad_popped_is_lost(struct __sk_buff *skb)
{
	LOCKED(bpf_list_pop_back(&list));
	return 0;
}

SEC("tc")
int bad_removal_of_an_owned_node(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	LOCKED(rb = bpf_rbtree_remove(&tree, (void *)&item->link));
	if (rb)
		drop(container(rb, struct node, rb));
	drop(item);
	return 0;
}

SEC("tc")
int bad_first_is_removed_untested(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	LOCKED(rb = bpf_rbtree_remove(&tree, bpf_rbtree_first(&tree)));
	if (rb)
		drop(container(rb, struct node, rb));
	return 0;
}

SEC("tc")
int bad_removal_of_null(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	LOCKED(rb = bpf_rbtree_remove(&tree, 0));
	if (rb)
		drop(container(rb, struct node, rb));
	return 0;
}

SEC("tc")
int bad_null_list(struct __sk_buff *skb)
{
	LOCKED(bpf_list_front(0));
	return 0;
}

SEC("tc")
int bad_removal_of_a_number(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	LOCKED(rb = bpf_rbtree_remove(&tree, (void *)&number));
	if (rb)
		drop(container(rb, struct node, rb));
	return 0;
}

SEC("tc")
int bad_removal_from_another_tree(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	bpf_spin_lock(&lock);
	rb = bpf_rbtree_first(&tree);
	if (rb)
		rb = bpf_rbtree_remove(&counted, rb);
	bpf_spin_unlock(&lock);
	if (rb)
		drop(container(rb, struct twice, rb));
	return 0;
}

SEC("tc")
int bad_second_look_after_the_removal(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb, *first;

	bpf_spin_lock(&lock);
	first = bpf_rbtree_first(&tree);
	if (!first) {
		bpf_spin_unlock(&lock);
		return 0;
	}
	rb = bpf_rbtree_remove(&tree, first);
	bpf_spin_unlock(&lock);
	if (rb)
		drop(container(rb, struct node, rb));
	return container(first, struct node, rb)->key;
}

static _Bool order_keeps(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return new_object(struct node) ? 1 : 0;
}

static _Bool order_drops(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	drop(container(a, struct node, rb));
	return 0;
}

static _Bool order_unlocks(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_spin_unlock(&lock);
	return 0;
}

static _Bool order_inserts(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_rbtree_add_impl(&tree, a, less, 0, 0);
	return 0;
}

static _Bool order_writes(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	*(volatile __u64 *)a = 1;
	return 0;
}

static _Bool order_reads_beyond(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return *(volatile __u64 *)(container(a, struct node, rb) + 1);
}

#define ORDER(name, order)                                                                                             \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		struct node *node = new_object(struct node);                                                           \
                                                                                                                       \
		if (!node)                                                                                             \
			return 0;                                                                                      \
		LOCKED(bpf_rbtree_add_impl(&tree, &node->rb, order, 0, 0));                                            \
		return 0;                                                                                              \
	}
ORDER(bad_order_makes_objects, order_keeps)
ORDER(bad_order_drops, order_drops)
ORDER(bad_order_unlocks, order_unlocks)
ORDER(bad_order_inserts, order_inserts)
ORDER(bad_order_writes, order_writes)
ORDER(bad_order_reads_beyond, order_reads_beyond)

SEC("tc")
int bad_count_of_a_kernel_object(struct __sk_buff *skb)
{
	drop(again(skb));
	return 0;
}

SEC("tc")
int ok_count_of_a_borrowed_object(struct __sk_buff *skb)
{
	struct twice *twice = new_object(struct twice), *more;
	struct bpf_list_node *link;

	if (!twice)
		return -1;
	bpf_spin_lock(&lock);
	push_front(&twices, &twice->link);
	more = again(twice);
	link = bpf_list_pop_front(&twices);
	bpf_spin_unlock(&lock);
	if (link)
		drop(container(link, struct twice, link));
	if (!more)
		return -2;
	more->key = 5;
	drop(more);
	return 5;
}

SEC("tc")
int bad_count_of_a_borrowed_object_is_not_tested(struct __sk_buff *skb)
{
	struct twice *twice = new_object(struct twice), *more;

	if (!twice)
		return 0;
	bpf_spin_lock(&lock);
	push_front(&twices, &twice->link);
	more = again(twice);
	bpf_spin_unlock(&lock);
	drop(more);
	return 0;
}

SEC("tc")
int ok_count_of_an_owned_object_is_not_tested(struct __sk_buff *skb)
{
	struct twice *twice = new_object(struct twice), *more;

	if (!twice)
		return -1;
	more = again(twice);
	drop(twice);
	drop(more);
	return 1;
}

SEC("tc")
int ok_list_of_an_object_in_a_field(struct __sk_buff *skb)
{
	struct holder *holder = new_object(struct holder);
	struct item *item = new_object(struct item);
	struct slot *slot = find();

	if (!holder || !item || !slot)
		goto out;
	bpf_spin_lock(&holder->lock);
	push_front(&holder->items, &item->link);
	bpf_spin_unlock(&holder->lock);
	holder = bpf_kptr_xchg(&slot->holder, holder);
	item = 0;
out:
	if (holder)
		drop(holder);
	if (item)
		drop(item);
	return 3;
}

SEC("tc")
int bad_list_of_an_object_that_is_not_owned(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	struct slot *slot = find();
	struct holder *holder = slot ? slot->holder : 0;

	if (!item)
		return 0;
	if (!holder) {
		drop(item);
		return 0;
	}
	bpf_spin_lock(&holder->lock);
	push_front(&holder->items, &item->link);
	bpf_spin_unlock(&holder->lock);
	return 0;
}

SEC("tc")
int bad_object_after_it_was_given(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item), *old;
	struct slot *slot = find();

	if (!item)
		return 0;
	if (!slot) {
		drop(item);
		return 0;
	}
	old = bpf_kptr_xchg(&slot->item, item);
	if (old)
		drop(old);
	return item->key;
}

SEC("tc")
int bad_old_object_is_not_tested(struct __sk_buff *skb)
{
	struct slot *slot = find();

	if (slot)
		drop(bpf_kptr_xchg(&slot->item, 0));
	return 0;
}

SEC("tc")
int bad_middle_of_an_object_is_given(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item), *old;
	struct slot *slot = find();

	if (!item)
		return 0;
	if (!slot) {
		drop(item);
		return 0;
	}
	old = bpf_kptr_xchg((void **)&slot->item, &item->link);
	if (old)
		drop(old);
	return 0;
}

SEC("tc")
int bad_object_of_another_list_in_a_field(struct __sk_buff *skb)
{
	struct node *node = new_object(struct node);
	struct item *old;
	struct slot *slot = find();

	if (!node)
		return 0;
	if (!slot) {
		drop(node);
		return 0;
	}
	old = bpf_kptr_xchg((void **)&slot->item, node);
	if (old)
		drop(old);
	return 0;
}

SEC("tc")
int bad_exchange_under_another_type_of_field(struct __sk_buff *skb)
{
	struct item *old;

	old = bpf_kptr_xchg((void **)&number, 0);
	if (old)
		drop(old);
	return 0;
}

SEC("tc")
int ok_number_beside_the_node(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return -1;
	item->value = 258;
	result = *(volatile __u8 *)&item->value + *((volatile __u8 *)&item->value + 1);
	drop(item);
	return result;
}

SEC("tc")
int bad_half_of_the_node(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return 0;
	result = *((volatile __u8 *)&item->link + 23);
	drop(item);
	return result;
}

SEC("tc")
int bad_object_somewhere(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return 0;
	result = *(volatile __u8 *)((void *)item + (skb->mark & 7));
	drop(item);
	return result;
}

SEC("tc")
int bad_before_the_object(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return 0;
	result = *((volatile __u8 *)item - 1);
	drop(item);
	return result;
}

SEC("tc")
int bad_across_members(struct __sk_buff *skb)
{
	struct twice *twice = new_object(struct twice);
	int result;

	if (!twice)
		return 0;
	result = *(volatile __u64 *)((void *)twice + 4);
	drop(twice);
	return result;
}

struct small {
	__u64 a;
	__u64 b;
};

SEC("tc")
int bad_type_of_the_second_path(struct __sk_buff *skb)
{
	__u64 type = __builtin_btf_type_id(*(struct item *)0, 0);
	struct item *item;
	int result;

	if (!skb->mark)
		type = __builtin_btf_type_id(*(struct small *)0, 0);
	asm volatile("" : "+r"(type));
	item = bpf_obj_new_impl(type, 0);
	if (!item)
		return 0;
	result = ((volatile struct item *)item)->value;
	drop(item);
	return result;
}

SEC("tc")
int bad_type_of_the_first_path(struct __sk_buff *skb)
{
	__u64 type = __builtin_btf_type_id(*(struct item *)0, 0);
	struct item *item;
	int result;

	if (skb->mark)
		type = __builtin_btf_type_id(*(struct small *)0, 0);
	asm volatile("" : "+r"(type));
	item = bpf_obj_new_impl(type, 0);
	if (!item)
		return 0;
	result = ((volatile struct item *)item)->value;
	drop(item);
	return result;
}

struct large {
	__u64 words[65];
};

struct pointed {
	__u64 a;
	void *pointer;
};

#define PERCPU(name, type)                                                                                             \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		type *object = bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(type *)0, 0), 0);                       \
                                                                                                                       \
		if (object)                                                                                            \
			bpf_percpu_obj_drop_impl(object, 0);                                                           \
		return 0;                                                                                              \
	}
PERCPU(ok_verdict_percpu, struct small)
PERCPU(bad_percpu_is_too_large, struct large)
PERCPU(bad_percpu_has_a_pointer, struct pointed)
PERCPU(bad_percpu_has_a_node, struct item)

SEC("tc")
int bad_percpu_is_dropped_as_another(struct __sk_buff *skb)
{
	struct small *object = bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(struct small *)0, 0), 0);

	if (object)
		drop(object);
	return 0;
}

SEC("tc")
int bad_object_is_dropped_as_percpu(struct __sk_buff *skb)
{
	struct small *object = new_object(struct small);

	if (object)
		bpf_percpu_obj_drop_impl(object, 0);
	return 0;
}

SEC("tc")
int bad_percpu_is_read(struct __sk_buff *skb)
{
	struct small *object = bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(struct small *)0, 0), 0);
	int result;

	if (!object)
		return 0;
	result = *(volatile __u64 *)&object->a;
	bpf_percpu_obj_drop_impl(object, 0);
	return result;
}
