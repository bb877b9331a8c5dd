// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Kernel functions that the programs here call, and what they need of clang's attributes.
#pragma once
#include <linux/bpf.h>
#include <linux/version.h>
#include <bpf/bpf_helpers.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
/* What <linux/bpf.h> has since then. */
struct bpf_list_head {
	__u64 words[2];
} __attribute__((aligned(8)));
struct bpf_list_node {
	__u64 words[3];
} __attribute__((aligned(8)));
struct bpf_rb_root {
	__u64 words[2];
} __attribute__((aligned(8)));
struct bpf_rb_node {
	__u64 words[4];
} __attribute__((aligned(8)));
struct bpf_refcount {
	__u32 words[1];
} __attribute__((aligned(4)));
struct bpf_iter_num {
	__u64 words[1];
} __attribute__((aligned(8)));
#endif

struct bpf_res_spin_lock {
	__u32 val;
} __attribute__((aligned(4)));
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 10, 0)
struct bpf_wq {
	__u64 words[2];
} __attribute__((aligned(8)));
#endif

#define KFUNC extern __ksym
#define contains(type, node) __attribute__((btf_decl_tag("contains:" #type ":" #node)))
#define handles_exceptions(function) __attribute__((btf_decl_tag("exception_callback:" #function)))
#define kptr __attribute__((btf_type_tag("kptr")))
#define kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))
#define container(pointer, type, member) ((type *)((void *)(pointer) - __builtin_offsetof(type, member)))
#define new_object(type) ((type *)bpf_obj_new_impl(__builtin_btf_type_id(*(type *)0, 0), 0))
#define drop(object) bpf_obj_drop_impl(object, 0)
#define again(object) bpf_refcount_acquire_impl(object, 0)

KFUNC int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *dynptr);
KFUNC int bpf_dynptr_from_xdp(struct xdp_md *xdp, __u64 flags, struct bpf_dynptr *dynptr);
KFUNC void *bpf_dynptr_slice(const struct bpf_dynptr *dynptr, __u32 offset, void *buffer, __u32 size);
KFUNC void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *dynptr, __u32 offset, void *buffer, __u32 size);
KFUNC int bpf_dynptr_adjust(const struct bpf_dynptr *dynptr, __u32 start, __u32 end);
KFUNC _Bool bpf_dynptr_is_null(const struct bpf_dynptr *dynptr);
KFUNC _Bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *dynptr);
KFUNC __u32 bpf_dynptr_size(const struct bpf_dynptr *dynptr);
KFUNC int bpf_dynptr_clone(const struct bpf_dynptr *dynptr, struct bpf_dynptr *clone);
KFUNC int bpf_dynptr_copy(struct bpf_dynptr *to, __u32 to_offset, struct bpf_dynptr *from, __u32 offset, __u32 size);
KFUNC int bpf_dynptr_memset(struct bpf_dynptr *to, __u32 offset, __u32 size, __u8 value);

struct bpf_iter_bits {
	__u64 words[2];
} __attribute__((aligned(8)));
KFUNC int bpf_iter_bits_new(struct bpf_iter_bits *it, const __u64 *words, __u32 count);
KFUNC int *bpf_iter_bits_next(struct bpf_iter_bits *it);
KFUNC void bpf_iter_bits_destroy(struct bpf_iter_bits *it);
KFUNC int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end);
KFUNC int *bpf_iter_num_next(struct bpf_iter_num *it);
KFUNC void bpf_iter_num_destroy(struct bpf_iter_num *it);

KFUNC void bpf_throw(__u64 cookie);
KFUNC void bpf_rcu_read_lock(void);
KFUNC void bpf_rcu_read_unlock(void);
KFUNC void bpf_preempt_disable(void);
KFUNC void bpf_preempt_enable(void);
KFUNC int bpf_copy_from_user_str(void *to, __u32 size, const void *from, __u64 flags);
KFUNC void bpf_local_irq_save(unsigned long *flags);
KFUNC void bpf_local_irq_restore(unsigned long *flags);
KFUNC int bpf_res_spin_lock(struct bpf_res_spin_lock *lock);
KFUNC void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock);
KFUNC int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags);
KFUNC void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags);
KFUNC int bpf_wq_init(struct bpf_wq *wq, void *map, unsigned int flags);
KFUNC int bpf_wq_start(struct bpf_wq *wq, unsigned int flags);
KFUNC int bpf_wq_set_callback_impl(struct bpf_wq *wq, int (*callback)(void *map, int *key, void *value),
				   unsigned int flags, void *aux);

KFUNC void *bpf_obj_new_impl(__u64 type, void *meta);
KFUNC void bpf_obj_drop_impl(void *object, void *meta);
KFUNC void *bpf_refcount_acquire_impl(void *object, void *meta);
KFUNC int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta, __u64 offset);
KFUNC int bpf_list_push_back_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta, __u64 offset);
KFUNC struct bpf_list_node *bpf_list_pop_front(struct bpf_list_head *head);
KFUNC struct bpf_list_node *bpf_list_pop_back(struct bpf_list_head *head);
KFUNC struct bpf_list_node *bpf_list_front(struct bpf_list_head *head);
KFUNC void *bpf_percpu_obj_new_impl(__u64 type, void *meta);
KFUNC void bpf_percpu_obj_drop_impl(void *object, void *meta);
KFUNC int bpf_rbtree_add_impl(struct bpf_rb_root *root, struct bpf_rb_node *node,
			      _Bool (*less)(struct bpf_rb_node *, const struct bpf_rb_node *), void *meta, __u64 offset);
KFUNC struct bpf_rb_node *bpf_rbtree_first(struct bpf_rb_root *root);
KFUNC struct bpf_rb_node *bpf_rbtree_remove(struct bpf_rb_root *root, struct bpf_rb_node *node);

static inline int push_front(struct bpf_list_head *head, struct bpf_list_node *node)
{
	return bpf_list_push_front_impl(head, node, 0, 0);
}

static inline int push_back(struct bpf_list_head *head, struct bpf_list_node *node)
{
	return bpf_list_push_back_impl(head, node, 0, 0);
}
