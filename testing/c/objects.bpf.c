// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Objects that programs make, own, count, keep in map values, and hang into lists and trees. `ok_` programs are accepted
// and run alike everywhere; `bad_` programs are refused.
#include "kfuncs.h"

char _license[] SEC("license") = "GPL";

struct item {
	__u64 key;
	struct bpf_list_node link;
	__u32 value;
};

struct tree_item {
	__u64 key;
	struct bpf_rb_node rb;
	struct bpf_list_node link;
	struct bpf_refcount count;
	__u32 value;
};

struct other {
	__u64 key;
	struct bpf_list_node link;
	struct bpf_rb_node rb;
	struct bpf_refcount count;
};

struct holder {
	__u64 key;
	struct bpf_list_node link;
	struct bpf_spin_lock lock;
	struct bpf_list_head items contains(item, link);
};

#define private(name) SEC(".data." #name) __hidden __attribute__((aligned(8)))
private(A) struct bpf_spin_lock lock;
private(A) struct bpf_list_head list contains(item, link);
private(B) struct bpf_spin_lock tree_lock;
private(B) struct bpf_rb_root tree contains(tree_item, rb);
private(C) struct bpf_spin_lock node_lock;
private(C) struct bpf_list_head nodes contains(tree_item, link);

private(D) struct bpf_spin_lock holder_lock;
private(D) struct bpf_list_head holders contains(holder, link);

struct slot {
	__u64 number;
	struct item kptr *item;
	struct tree_item kptr *node;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct slot);
} hash SEC(".maps");

static _Bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container(a, struct tree_item, rb)->key < container(b, struct tree_item, rb)->key;
}

static void add(struct tree_item *node)
{
	bpf_rbtree_add_impl(&tree, &node->rb, less, 0, 0);
}

SEC("tc")
int ok_make_and_drop(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return -1;
	/* The kernel does not clear what it hands out: what is there before is not asked for. */
	item->key = 40;
	item->value = 2;
	result = item->key + item->value;
	drop(item);
	return result;
}

SEC("tc")
int ok_list(struct __sk_buff *skb)
{
	int result = 0;

	for (int i = 1; i <= 4; i++) {
		struct item *item = new_object(struct item);

		if (!item)
			return -1;
		item->key = i;
		bpf_spin_lock(&lock);
		if (i & 1)
			push_front(&list, &item->link);
		else
			push_back(&list, &item->link);
		bpf_spin_unlock(&lock);
	}
	for (int i = 0; i < 5; i++) {
		struct bpf_list_node *link;
		struct item *item;

		bpf_spin_lock(&lock);
		link = i == 1 ? bpf_list_pop_back(&list) : bpf_list_pop_front(&list);
		bpf_spin_unlock(&lock);
		if (!link) {
			result = result * 10 + 9;
			continue;
		}
		item = container(link, struct item, link);
		result = result * 10 + item->key;
		drop(item);
	}
	return result;
}

SEC("tc")
int ok_tree(struct __sk_buff *skb)
{
	static const __u8 keys[8] = { 5, 2, 7, 1, 9, 3, 8, 2 };
	int result = 0;

	for (int i = 0; i < 8; i++) {
		struct tree_item *node = new_object(struct tree_item);

		if (!node)
			return -1;
		node->key = keys[i];
		bpf_spin_lock(&tree_lock);
		add(node);
		bpf_spin_unlock(&tree_lock);
	}
	for (int i = 0; i < 8; i++) {
		struct bpf_rb_node *rb;
		struct tree_item *node;

		bpf_spin_lock(&tree_lock);
		rb = bpf_rbtree_first(&tree);
		if (!rb) {
			bpf_spin_unlock(&tree_lock);
			return -2;
		}
		rb = bpf_rbtree_remove(&tree, rb);
		bpf_spin_unlock(&tree_lock);
		if (!rb)
			return -3;
		node = container(rb, struct tree_item, rb);
		result = result * 10 + node->key;
		drop(node);
	}
	return result;
}

SEC("tc")
int ok_one_object_in_list_and_tree(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item), *second;
	struct bpf_list_node *link;
	struct bpf_rb_node *rb;
	int result = 0;

	if (!node)
		return -1;
	node->key = 3;
	second = again(node);
	bpf_spin_lock(&tree_lock);
	add(node);
	bpf_spin_unlock(&tree_lock);
	bpf_spin_lock(&node_lock);
	result += push_back(&nodes, &second->link);
	bpf_spin_unlock(&node_lock);
	bpf_spin_lock(&tree_lock);
	rb = bpf_rbtree_first(&tree);
	rb = rb ? bpf_rbtree_remove(&tree, rb) : 0;
	bpf_spin_unlock(&tree_lock);
	if (rb) {
		node = container(rb, struct tree_item, rb);
		node->value = 7;
		drop(node);
	}
	bpf_spin_lock(&node_lock);
	link = bpf_list_pop_front(&nodes);
	bpf_spin_unlock(&node_lock);
	if (link) {
		node = container(link, struct tree_item, link);
		result += node->value * 10 + node->key;
		drop(node);
	}
	return result;
}

SEC("tc")
int ok_second_insertion_fails(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item), *second;
	struct bpf_list_node *link;
	int result;

	if (!node)
		return -1;
	second = again(node);
	bpf_spin_lock(&node_lock);
	result = push_back(&nodes, &node->link);
	result += push_back(&nodes, &second->link) * 10;
	link = bpf_list_pop_front(&nodes);
	bpf_spin_unlock(&node_lock);
	if (link) {
		drop(container(link, struct tree_item, link));
		result += 1;
	}
	return result;
}

SEC("tc")
int ok_keep_in_a_map(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item), *old;
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);
	int result = 0;

	if (!item)
		return -1;
	item->key = 12;
	if (!slot) {
		drop(item);
		return -2;
	}
	old = bpf_kptr_xchg(&slot->item, item);
	if (old) {
		result += 1000;
		drop(old);
	}
	old = slot->item;
	if (old)
		result += old->key;
	old = bpf_kptr_xchg(&slot->item, 0);
	if (old) {
		result += old->key * 2;
		drop(old);
	}
	return result + (slot->item ? 500 : 0);
}

SEC("tc")
int ok_deleted_with_its_value(struct __sk_buff *skb)
{
	struct item *item;
	struct slot empty = {}, *slot;
	__u32 key = 3;

	bpf_map_update_elem(&hash, &key, &empty, 0);
	slot = bpf_map_lookup_elem(&hash, &key);
	if (!slot)
		return -1;
	item = new_object(struct item);
	if (!item)
		return -2;
	item = bpf_kptr_xchg(&slot->item, item);
	if (item)
		drop(item);
	return bpf_map_delete_elem(&hash, &key);
}

SEC("tc")
int ok_list_in_an_object(struct __sk_buff *skb)
{
	struct holder *holder = new_object(struct holder);
	int result = 0;

	if (!holder)
		return -1;
	for (int i = 1; i < 4; i++) {
		struct item *item = new_object(struct item);

		if (!item)
			break;
		item->key = i;
		bpf_spin_lock(&holder->lock);
		result = result * 10 + push_back(&holder->items, &item->link) + i;
		bpf_spin_unlock(&holder->lock);
	}
	/* With all that is in it. */
	drop(holder);
	return result;
}

static struct holder *pop_holder(void)
{
	struct bpf_list_node *link;

	bpf_spin_lock(&holder_lock);
	link = bpf_list_pop_front(&holders);
	bpf_spin_unlock(&holder_lock);
	return link ? container(link, struct holder, link) : 0;
}

SEC("tc")
int bad_lock_of_another_object(struct __sk_buff *skb)
{
	struct holder *first = pop_holder(), *second = pop_holder();
	struct item *item = new_object(struct item);

	if (!item)
		goto out;
	if (!first || !second) {
		drop(item);
		goto out;
	}
	bpf_spin_lock(&first->lock);
	push_back(&second->items, &item->link);
	bpf_spin_unlock(&first->lock);
out:
	if (first)
		drop(first);
	if (second)
		drop(second);
	return 0;
}

static __attribute__((noinline)) int unlocks(void)
{
	bpf_spin_unlock(&tree_lock);
	bpf_spin_lock(&tree_lock);
	return 0;
}

static _Bool unlocking_order(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return unlocks();
}

/* The kernel accepts this one, which changes the tree under its own insertion. */
SEC("tc")
int bad_stricter_order_unlocks_below(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item);

	if (!node)
		return 0;
	bpf_spin_lock(&tree_lock);
	bpf_rbtree_add_impl(&tree, &node->rb, unlocking_order, 0, 0);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int bad_object_is_lost(struct __sk_buff *skb)
{
	return new_object(struct item) ? 1 : 0;
}

SEC("tc")
int bad_object_is_not_tested(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	item->key = 1;
	drop(item);
	return 0;
}

SEC("tc")
int bad_use_after_drop(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	drop(item);
	return item->key;
}

SEC("tc")
int bad_double_drop(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	drop(item);
	drop(item);
	return 0;
}

SEC("tc")
int bad_drop_of_the_middle(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	drop(&item->link);
	return 0;
}

SEC("tc")
int bad_write_to_the_link(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	*(volatile __u64 *)&item->link = 1;
	drop(item);
	return 0;
}

SEC("tc")
int bad_beyond_the_object(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	int result;

	if (!item)
		return 0;
	result = *(volatile __u32 *)((void *)item + sizeof(*item));
	drop(item);
	return result;
}

SEC("tc")
int bad_list_without_the_lock(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	push_front(&list, &item->link);
	return 0;
}

SEC("tc")
int bad_list_with_another_lock(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	bpf_spin_lock(&tree_lock);
	push_front(&list, &item->link);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int bad_object_of_another_type(struct __sk_buff *skb)
{
	struct other *other = new_object(struct other);

	if (!other)
		return 0;
	bpf_spin_lock(&lock);
	push_front(&list, &other->link);
	bpf_spin_unlock(&lock);
	return 0;
}

SEC("tc")
int bad_drop_after_insertion(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	bpf_spin_lock(&lock);
	push_front(&list, &item->link);
	bpf_spin_unlock(&lock);
	drop(item);
	return 0;
}

SEC("tc")
int bad_use_after_the_lock(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	bpf_spin_lock(&lock);
	push_front(&list, &item->link);
	bpf_spin_unlock(&lock);
	return item->key;
}

SEC("tc")
int bad_first_of_the_tree_after_the_lock(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	bpf_spin_lock(&tree_lock);
	rb = bpf_rbtree_first(&tree);
	bpf_spin_unlock(&tree_lock);
	return rb ? container(rb, struct tree_item, rb)->key : 0;
}

SEC("tc")
int bad_removed_node_is_lost(struct __sk_buff *skb)
{
	struct bpf_rb_node *rb;

	bpf_spin_lock(&tree_lock);
	rb = bpf_rbtree_first(&tree);
	if (rb)
		rb = bpf_rbtree_remove(&tree, rb);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

static _Bool removing_order(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_rbtree_remove(&tree, a);
	return 0;
}

SEC("tc")
int bad_order_changes_the_tree(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item);

	if (!node)
		return 0;
	bpf_spin_lock(&tree_lock);
	bpf_rbtree_add_impl(&tree, &node->rb, removing_order, 0, 0);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int bad_second_reference_is_lost(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item);

	if (!node)
		return 0;
	again(node);
	drop(node);
	return 0;
}

SEC("tc")
int bad_count_of_an_uncounted_object(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);

	if (!item)
		return 0;
	drop(again(item));
	drop(item);
	return 0;
}

SEC("tc")
int bad_store_to_the_field(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);

	if (!item)
		return 0;
	if (slot)
		slot->item = item;
	drop(item);
	return 0;
}

SEC("tc")
int bad_exchange_loses_the_old_object(struct __sk_buff *skb)
{
	struct item *item = new_object(struct item);
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);

	if (!item)
		return 0;
	if (slot)
		item = bpf_kptr_xchg(&slot->item, item);
	else
		drop(item);
	return 0;
}

SEC("tc")
int bad_exchange_with_another_type(struct __sk_buff *skb)
{
	struct other *other = new_object(struct other);
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);
	void *old;

	if (!other)
		return 0;
	if (!slot) {
		drop(other);
		return 0;
	}
	old = bpf_kptr_xchg((void **)&slot->item, other);
	if (old)
		drop(old);
	return 0;
}

SEC("tc")
int bad_field_is_read_without_a_test(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);

	return slot ? slot->item->key : 0;
}

SEC("tc")
int bad_drop_of_a_borrowed_object(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct slot *slot = bpf_map_lookup_elem(&slots, &key);
	struct item *item = slot ? slot->item : 0;

	if (item)
		drop(item);
	return 0;
}

SEC("kprobe/none")
int bad_program_type_has_no_objects(void *context)
{
	struct item *item = new_object(struct item);

	if (item)
		drop(item);
	return 0;
}

SEC("tc")
int bad_unchecked_node_in_a_tree(struct __sk_buff *skb)
{
	struct tree_item *item = new_object(struct tree_item);

	bpf_spin_lock(&tree_lock);
	bpf_rbtree_add_impl(&tree, &item->rb, less, 0, 0);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int bad_unchecked_removed_node_in_a_tree(struct __sk_buff *skb)
{
	struct bpf_rb_node *node;

	bpf_spin_lock(&tree_lock);
	node = bpf_rbtree_first(&tree);
	if (!node) {
		bpf_spin_unlock(&tree_lock);
		return 0;
	}
	node = bpf_rbtree_remove(&tree, node);
	bpf_rbtree_add_impl(&tree, node, less, 0, 0);
	bpf_spin_unlock(&tree_lock);
	return 0;
}

SEC("tc")
int bad_unchecked_node_in_a_list(struct __sk_buff *skb)
{
	struct bpf_list_node *node;

	bpf_spin_lock(&lock);
	node = bpf_list_pop_front(&list);
	push_front(&list, node);
	bpf_spin_unlock(&lock);
	return 0;
}

struct front {
	struct bpf_list_node link;
	__u64 key;
};
private(E) struct bpf_spin_lock front_lock;
private(E) struct bpf_list_head fronts contains(front, link);

SEC("tc")
int bad_unchecked_first_member_in_a_list(struct __sk_buff *skb)
{
	struct front *item = new_object(struct front);
	struct bpf_list_node *node;

	if (item)
		drop(item);
	bpf_spin_lock(&front_lock);
	node = bpf_list_pop_front(&fronts);
	push_front(&fronts, node);
	bpf_spin_unlock(&front_lock);
	return 0;
}

/* The kernel looks for the count behind where the pointer leads to, and returns that. */
SEC("tc")
int ok_verdict_count_of_a_moved_object(struct __sk_buff *skb)
{
	struct tree_item *node = new_object(struct tree_item), *other;

	if (!node)
		return 1;
	other = again((void *)node + 8);
	drop(node);
	if (!other)
		return 2;
	other->value = 5;
	drop(other);
	return 3;
}
