//! The prototypes, in the order of the alphabet within each family.

use super::KfuncArg::{
    Alloc, Callback, Constant, Ctx, Dynptr, DynptrOrNull, Ignored, IrqFlag, ListHead, ListNode, Map, Mem, MemSized,
    MemSizedOrNull, NewDynptr as Room, Object, RbNode, RbRoot, Refcounted, ResLock, Scalar, Size, Workqueue,
};
use super::flags::{
    ACQUIRE, DEVICE, FASTCALL, GRAPH, ITER_DESTROY, ITER_NEW, ITER_NEXT, LOCK, NUM, RCU, RELEASE, RET_NULL, SESSION,
    SLEEPABLE, TRUSTED,
};
use super::hooks::{ALL, GENERIC, KPROBE, SKB, STRUCT_OPS, SYSCALL, TC, TRACING, XDP};
use super::{Iter, KfuncArg, KfuncProto, KfuncRet, NewDynptr};

const INT: KfuncRet = KfuncRet::Scalar;
const VOID: KfuncRet = KfuncRet::Void;
const NONE: u32 = 0;

const ITER_NUM: KfuncArg = KfuncArg::Iter(Iter { kind: 0, name: "num", slots: 1 });
const ITER_TASK_VMA: KfuncArg = KfuncArg::Iter(Iter { kind: 2, name: "task_vma", slots: 1 });
const ITER_BITS: KfuncArg = KfuncArg::Iter(Iter { kind: 1, name: "bits", slots: 2 });

/// `name[flags; hooks](arguments) -> result;`
macro_rules! kfuncs {
    ($($name:ident [$flags:expr; $hooks:expr] ($($arg:expr),*) -> $ret:expr;)*) => {
        /// Every kernel function that this engine knows.
        pub static KFUNCS: &[KfuncProto] = &[$(KfuncProto {
            name: stringify!($name),
            args: &[$($arg),*],
            ret: $ret,
            flags: $flags,
            hooks: $hooks,
        }),*];
    };
}

const fn object(name: &'static str) -> KfuncRet {
    KfuncRet::Object(name)
}

const CPUMASK: KfuncArg = Object("bpf_cpumask");
const MASK: KfuncArg = Object("cpumask");
const TASK: KfuncArg = Object("task_struct");
const CGRP: KfuncArg = Object("cgroup");
const CRYPTO: KfuncArg = Object("bpf_crypto_ctx");
const CT: KfuncArg = Object("nf_conn");
const CT_INIT: KfuncArg = Object("nf_conn___init");
/// Where the kernel has no more than tracing for masks of CPUs.
const MASKS: u32 = TRACING | STRUCT_OPS | SYSCALL;

kfuncs! {
    // Of all programs.
    bpf_arena_alloc_pages [TRUSTED | SLEEPABLE; ALL] (Map, Ignored, Scalar, Scalar, Scalar) -> INT;
    bpf_arena_free_pages [TRUSTED | SLEEPABLE; ALL] (Map, Ignored, Scalar) -> VOID;
    bpf_arena_reserve_pages [TRUSTED | SLEEPABLE; ALL] (Map, Ignored, Scalar) -> INT;
    bpf_cast_to_kern_ctx [FASTCALL; ALL] (Ctx) -> KfuncRet::KernelCtx;
    bpf_copy_from_user_str [SLEEPABLE; ALL] (MemSized, Size(false), Ignored, Scalar) -> INT;
    bpf_dynptr_adjust [NONE; ALL] (Dynptr, Scalar, Scalar) -> INT;
    bpf_dynptr_clone [NONE; ALL] (Dynptr, Room(NewDynptr::Clone)) -> INT;
    bpf_dynptr_copy [NONE; ALL] (Dynptr, Scalar, Dynptr, Scalar, Scalar) -> INT;
    bpf_dynptr_is_null [NONE; ALL] (Dynptr) -> INT;
    bpf_dynptr_is_rdonly [NONE; ALL] (Dynptr) -> INT;
    bpf_dynptr_memset [NONE; ALL] (Dynptr, Scalar, Scalar, Scalar) -> INT;
    bpf_dynptr_size [NONE; ALL] (Dynptr) -> INT;
    bpf_dynptr_slice [RET_NULL; ALL] (Dynptr, Scalar, MemSizedOrNull, Size(true)) -> KfuncRet::Slice(false);
    bpf_dynptr_slice_rdwr [RET_NULL; ALL] (Dynptr, Scalar, MemSizedOrNull, Size(true)) -> KfuncRet::Slice(true);
    bpf_iter_bits_destroy [ITER_DESTROY; ALL] (ITER_BITS) -> VOID;
    bpf_iter_bits_new [ITER_NEW; ALL] (ITER_BITS, Ignored, Scalar) -> INT;
    bpf_iter_bits_next [ITER_NEXT | RET_NULL; ALL] (ITER_BITS) -> KfuncRet::Mem(4);
    bpf_iter_num_destroy [ITER_DESTROY | NUM; ALL] (ITER_NUM) -> VOID;
    bpf_iter_num_new [ITER_NEW | NUM; ALL] (ITER_NUM, Scalar, Scalar) -> INT;
    bpf_iter_num_next [ITER_NEXT | RET_NULL | NUM; ALL] (ITER_NUM) -> KfuncRet::Mem(4);
    bpf_iter_task_vma_destroy [ITER_DESTROY; ALL] (ITER_TASK_VMA) -> VOID;
    bpf_iter_task_vma_new [ITER_NEW | RCU; ALL] (ITER_TASK_VMA, TASK, Scalar) -> INT;
    bpf_iter_task_vma_next [ITER_NEXT | RET_NULL; ALL] (ITER_TASK_VMA) -> object("vm_area_struct");
    bpf_local_irq_restore [NONE; ALL] (IrqFlag) -> VOID;
    bpf_local_irq_save [NONE; ALL] (IrqFlag) -> VOID;
    bpf_preempt_disable [NONE; ALL] () -> VOID;
    bpf_preempt_enable [NONE; ALL] () -> VOID;
    bpf_rcu_read_lock [NONE; ALL] () -> VOID;
    bpf_rcu_read_unlock [NONE; ALL] () -> VOID;
    bpf_rdonly_cast [FASTCALL; ALL] (Ignored, Constant) -> KfuncRet::ReadOnlyCast;
    bpf_res_spin_lock [LOCK; ALL] (ResLock) -> INT;
    bpf_res_spin_lock_irqsave [LOCK; ALL] (ResLock, IrqFlag) -> INT;
    bpf_res_spin_unlock [LOCK; ALL] (ResLock) -> VOID;
    bpf_res_spin_unlock_irqrestore [LOCK; ALL] (ResLock, IrqFlag) -> VOID;
    bpf_wq_init [NONE; ALL] (Workqueue, Map, Scalar) -> INT;
    bpf_wq_set_callback_impl [NONE; ALL] (Workqueue, Callback, Scalar, Ignored) -> INT;
    bpf_wq_start [NONE; ALL] (Workqueue, Scalar) -> INT;
    // Objects of the program, lists and trees of them.
    bpf_list_back [RET_NULL | GRAPH; GENERIC] (ListHead) -> KfuncRet::ListNode;
    bpf_list_front [RET_NULL | GRAPH; GENERIC] (ListHead) -> KfuncRet::ListNode;
    bpf_list_pop_back [ACQUIRE | RET_NULL | GRAPH; GENERIC] (ListHead) -> KfuncRet::ListNode;
    bpf_list_pop_front [ACQUIRE | RET_NULL | GRAPH; GENERIC] (ListHead) -> KfuncRet::ListNode;
    bpf_list_push_back_impl [GRAPH; GENERIC] (ListHead, ListNode, Ignored, Scalar) -> INT;
    bpf_list_push_front_impl [GRAPH; GENERIC] (ListHead, ListNode, Ignored, Scalar) -> INT;
    bpf_obj_drop_impl [RELEASE; GENERIC] (Alloc, Ignored) -> VOID;
    bpf_obj_new_impl [ACQUIRE | RET_NULL; GENERIC] (Constant, Ignored) -> KfuncRet::NewObject;
    bpf_percpu_obj_drop_impl [RELEASE; GENERIC] (Alloc, Ignored) -> VOID;
    bpf_percpu_obj_new_impl [ACQUIRE | RET_NULL; GENERIC] (Constant, Ignored) -> KfuncRet::NewPercpuObject;
    bpf_rbtree_add_impl [GRAPH; GENERIC] (RbRoot, RbNode, Callback, Ignored, Scalar) -> INT;
    bpf_rbtree_first [RET_NULL | GRAPH; GENERIC] (RbRoot) -> KfuncRet::RbNode;
    bpf_rbtree_left [RET_NULL | GRAPH; GENERIC] (RbRoot, RbNode) -> KfuncRet::RbNode;
    bpf_rbtree_remove [ACQUIRE | RET_NULL | GRAPH; GENERIC] (RbRoot, RbNode) -> KfuncRet::RbNode;
    bpf_rbtree_right [RET_NULL | GRAPH; GENERIC] (RbRoot, RbNode) -> KfuncRet::RbNode;
    bpf_rbtree_root [RET_NULL | GRAPH; GENERIC] (RbRoot) -> KfuncRet::RbNode;
    bpf_refcount_acquire_impl [ACQUIRE | RET_NULL | RCU | GRAPH; GENERIC] (Refcounted, Ignored) -> KfuncRet::SameObject;
    bpf_throw [NONE; GENERIC] (Scalar) -> VOID;
    // Packets.
    bpf_dynptr_from_skb [NONE; SKB] (Ctx, Scalar, Room(NewDynptr::Skb)) -> INT;
    bpf_dynptr_from_xdp [NONE; XDP] (Ctx, Scalar, Room(NewDynptr::Xdp)) -> INT;
    // The kernel's objects.
    bpf_cgroup_acquire [ACQUIRE | RCU | RET_NULL; GENERIC] (CGRP) -> object("cgroup");
    bpf_cgroup_ancestor [ACQUIRE | RCU | RET_NULL; GENERIC] (CGRP, Scalar) -> object("cgroup");
    bpf_cgroup_from_id [ACQUIRE | RET_NULL; GENERIC] (Scalar) -> object("cgroup");
    bpf_cgroup_release [RELEASE; GENERIC] (CGRP) -> VOID;
    bpf_cpumask_acquire [ACQUIRE | TRUSTED; MASKS] (CPUMASK) -> object("bpf_cpumask");
    bpf_cpumask_and [RCU; MASKS] (CPUMASK, MASK, MASK) -> INT;
    bpf_cpumask_any_and_distribute [RCU; MASKS] (MASK, MASK) -> INT;
    bpf_cpumask_any_distribute [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_clear [RCU; MASKS] (CPUMASK) -> VOID;
    bpf_cpumask_clear_cpu [RCU; MASKS] (Scalar, CPUMASK) -> VOID;
    bpf_cpumask_copy [RCU; MASKS] (CPUMASK, MASK) -> VOID;
    bpf_cpumask_create [ACQUIRE | RET_NULL; MASKS] () -> object("bpf_cpumask");
    bpf_cpumask_empty [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_equal [RCU; MASKS] (MASK, MASK) -> INT;
    bpf_cpumask_first [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_first_and [RCU; MASKS] (MASK, MASK) -> INT;
    bpf_cpumask_first_zero [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_full [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_intersects [RCU; MASKS] (MASK, MASK) -> INT;
    bpf_cpumask_or [RCU; MASKS] (CPUMASK, MASK, MASK) -> VOID;
    bpf_cpumask_release [RELEASE; MASKS] (CPUMASK) -> VOID;
    bpf_cpumask_set_cpu [RCU; MASKS] (Scalar, CPUMASK) -> VOID;
    bpf_cpumask_setall [RCU; MASKS] (CPUMASK) -> VOID;
    bpf_cpumask_subset [RCU; MASKS] (MASK, MASK) -> INT;
    bpf_cpumask_test_and_clear_cpu [RCU; MASKS] (Scalar, CPUMASK) -> INT;
    bpf_cpumask_test_and_set_cpu [RCU; MASKS] (Scalar, CPUMASK) -> INT;
    bpf_cpumask_test_cpu [RCU; MASKS] (Scalar, MASK) -> INT;
    bpf_cpumask_weight [RCU; MASKS] (MASK) -> INT;
    bpf_cpumask_xor [RCU; MASKS] (CPUMASK, MASK, MASK) -> VOID;
    bpf_crypto_ctx_acquire [ACQUIRE | RCU | RET_NULL; SYSCALL] (CRYPTO) -> object("bpf_crypto_ctx");
    bpf_crypto_ctx_create [ACQUIRE | RET_NULL | SLEEPABLE; SYSCALL]
        (MemSized, Size(false), Mem(4, "INT ")) -> object("bpf_crypto_ctx");
    bpf_crypto_ctx_release [RELEASE; SYSCALL] (CRYPTO) -> VOID;
    bpf_crypto_decrypt [RCU; TC | XDP] (CRYPTO, Dynptr, Dynptr, DynptrOrNull) -> INT;
    bpf_crypto_encrypt [RCU; TC | XDP] (CRYPTO, Dynptr, Dynptr, DynptrOrNull) -> INT;
    bpf_ct_change_status [TRUSTED; TC | XDP] (CT, Scalar) -> INT;
    bpf_ct_change_timeout [TRUSTED; TC | XDP] (CT, Scalar) -> INT;
    bpf_ct_insert_entry [ACQUIRE | RET_NULL | RELEASE; TC | XDP] (CT_INIT) -> object("nf_conn");
    bpf_ct_release [RELEASE; TC | XDP] (CT) -> VOID;
    bpf_ct_set_status [TRUSTED; TC | XDP] (CT_INIT, Scalar) -> INT;
    bpf_ct_set_timeout [TRUSTED; TC | XDP] (CT_INIT, Scalar) -> VOID;
    bpf_sk_assign_tcp_reqsk [TRUSTED; TC] (Ctx, Object("sock"), MemSized, Size(false)) -> INT;
    bpf_session_cookie [SESSION; KPROBE] () -> KfuncRet::Mem(8);
    bpf_session_is_return [SESSION; KPROBE] () -> INT;
    bpf_kfunc_call_memb_release [RELEASE; ALL] (Object("prog_test_member")) -> VOID;
    bpf_kfunc_call_test_release [RELEASE; ALL] (Object("prog_test_ref_kfunc")) -> VOID;
    bpf_skb_ct_alloc [ACQUIRE | RET_NULL; TC]
        (Ctx, MemSized, Size(false), MemSized, Size(false)) -> object("nf_conn___init");
    bpf_skb_ct_lookup [ACQUIRE | RET_NULL; TC]
        (Ctx, MemSized, Size(false), MemSized, Size(false)) -> object("nf_conn");
    bpf_task_acquire [ACQUIRE | RCU | RET_NULL; GENERIC] (TASK) -> object("task_struct");
    bpf_task_from_pid [ACQUIRE | RET_NULL; GENERIC] (Scalar) -> object("task_struct");
    bpf_task_from_vpid [ACQUIRE | RET_NULL; GENERIC] (Scalar) -> object("task_struct");
    bpf_task_get_cgroup1 [ACQUIRE | RCU | RET_NULL; GENERIC] (TASK, Scalar) -> object("cgroup");
    bpf_task_release [RELEASE; GENERIC] (TASK) -> VOID;
    bpf_task_under_cgroup [RCU; GENERIC] (TASK, CGRP) -> INT;
    bpf_xdp_ct_alloc [ACQUIRE | RET_NULL; XDP]
        (Ctx, MemSized, Size(false), MemSized, Size(false)) -> object("nf_conn___init");
    bpf_xdp_ct_lookup [ACQUIRE | RET_NULL; XDP]
        (Ctx, MemSized, Size(false), MemSized, Size(false)) -> object("nf_conn");
    bpf_xdp_get_xfrm_state [ACQUIRE | RET_NULL; XDP] (Ctx, MemSized, Size(false)) -> object("xfrm_state");
    bpf_xdp_metadata_rx_hash [DEVICE; XDP] (Ctx, Mem(4, "INT "), Mem(4, "ENUM xdp_rss_hash_type")) -> INT;
    bpf_xdp_metadata_rx_timestamp [DEVICE; XDP] (Ctx, Mem(8, "INT ")) -> INT;
    bpf_xdp_metadata_rx_vlan_tag [DEVICE; XDP] (Ctx, Mem(2, "INT "), Mem(2, "INT ")) -> INT;
    bpf_xdp_xfrm_state_release [RELEASE; XDP] (Object("xfrm_state")) -> VOID;
}
