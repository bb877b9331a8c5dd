//! Which Linux first had what: the differences between kernel versions, as tables.
//!
//! Owns the versions from 5.15 on; what a table does not name was there before. Invariant: a version here is that of the
//! mainline release, except where a comment says that long-term kernels have it as well. Sources: the uapi headers and the
//! verifiers of Linux 6.1 and 6.12, and the public record of features by version for the rest.

use crate::insn::{CallTarget, Insn};
use crate::types::{AttachType, MapType, ProgType};

/// A release of Linux: `6.12`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelVersion(pub u8, pub u8);

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

const fn v(major: u8, minor: u8) -> KernelVersion {
    KernelVersion(major, minor)
}

/// The oldest release that the tables know.
const OLDEST: KernelVersion = v(5, 15);

/// Program types.
const PROG_TYPES: &[(ProgType, KernelVersion)] = &[(ProgType::Netfilter, v(6, 4))];

/// Attach types.
const ATTACH_TYPES: &[(AttachType, KernelVersion)] = &[
    (AttachType::TraceKprobeMulti, v(5, 18)),
    (AttachType::LsmCgroup, v(6, 0)),
    (AttachType::StructOps, v(6, 4)),
    (AttachType::Netfilter, v(6, 4)),
    (AttachType::TcxIngress, v(6, 6)),
    (AttachType::TcxEgress, v(6, 6)),
    (AttachType::TraceUprobeMulti, v(6, 6)),
    (AttachType::CgroupUnixConnect, v(6, 7)),
    (AttachType::CgroupUnixSendmsg, v(6, 7)),
    (AttachType::CgroupUnixRecvmsg, v(6, 7)),
    (AttachType::CgroupUnixGetpeername, v(6, 7)),
    (AttachType::CgroupUnixGetsockname, v(6, 7)),
    (AttachType::NetkitPrimary, v(6, 7)),
    (AttachType::NetkitPeer, v(6, 7)),
    (AttachType::TraceKprobeSession, v(6, 10)),
    (AttachType::TraceUprobeSession, v(6, 13)),
];

/// Map types.
const MAP_TYPES: &[(MapType, KernelVersion)] = &[
    (MapType::BloomFilter, v(5, 16)),
    (MapType::UserRingbuf, v(6, 1)),
    (MapType::CgrpStorage, v(6, 2)),
    (MapType::Arena, v(6, 9)),
];

/// Last helper id of a release.
const HELPERS: &[(u32, KernelVersion)] = &[
    (175, OLDEST),
    (179, v(5, 16)),
    (185, v(5, 17)),
    (193, v(5, 18)),
    (203, v(5, 19)),
    (207, v(6, 0)),
    (209, v(6, 1)),
    (211, v(6, 2)),
];

/// Helpers that programs of some types may call later than the others, by type and id.
const HELPERS_IN: &[(ProgType, u32, KernelVersion)] = &[
    (ProgType::RawTracepoint, 174, v(6, 10)),
    (ProgType::RawTracepointWritable, 174, v(6, 10)),
    (ProgType::SkMsg, 120, v(6, 10)),
];

/// Flags of `BPF_PROG_LOAD`, as bits.
const PROG_FLAGS: &[(u32, KernelVersion)] =
    &[(1 << 5, v(5, 18)), (1 << 6, v(6, 3)), (1 << 7, v(6, 8)), (1 << 16, v(6, 9))];

/// Fields of contexts, by structure.
const CTX_FIELDS: &[(&str, &str, KernelVersion)] = &[
    ("__sk_buff", "hwtstamp", v(5, 16)),
    ("bpf_sk_lookup", "ingress_ifindex", v(5, 17)),
    ("__sk_buff", "tstamp_type", v(5, 18)),
    ("bpf_sock_ops", "skb_hwtstamp", v(6, 3)),
];

/// Kernel functions, by the beginning of their names; the longest that fits counts.
const KFUNCS: &[(&str, KernelVersion)] = &[
    ("bpf_xdp_ct_lookup", v(5, 18)),
    ("bpf_skb_ct_lookup", v(5, 18)),
    ("bpf_ct_release", v(5, 18)),
    ("bpf_xdp_ct_alloc", v(6, 0)),
    ("bpf_skb_ct_alloc", v(6, 0)),
    ("bpf_ct_insert_entry", v(6, 0)),
    ("bpf_ct_set_timeout", v(6, 0)),
    ("bpf_ct_change_timeout", v(6, 0)),
    ("bpf_ct_set_status", v(6, 0)),
    ("bpf_ct_change_status", v(6, 0)),
    ("bpf_ct_set_nat_info", v(6, 1)),
    ("bpf_lookup_user_key", v(6, 1)),
    ("bpf_lookup_system_key", v(6, 1)),
    ("bpf_key_put", v(6, 1)),
    ("bpf_verify_pkcs7_signature", v(6, 1)),
    ("bpf_rcu_read_", v(6, 2)),
    ("bpf_obj_new_impl", v(6, 2)),
    ("bpf_obj_drop_impl", v(6, 2)),
    ("bpf_list_pop_", v(6, 2)),
    ("bpf_task_acquire", v(6, 2)),
    ("bpf_task_release", v(6, 2)),
    ("bpf_task_from_pid", v(6, 2)),
    ("bpf_cgroup_", v(6, 2)),
    ("bpf_cgroup_from_id", v(6, 4)),
    ("bpf_cast_to_kern_ctx", v(6, 2)),
    ("bpf_rdonly_cast", v(6, 2)),
    ("bpf_cpumask_", v(6, 3)),
    ("bpf_cpumask_first_and", v(6, 5)),
    ("bpf_cpumask_any_", v(6, 5)),
    ("bpf_cpumask_weight", v(6, 8)),
    ("bpf_rbtree_remove", v(6, 3)),
    ("bpf_rbtree_first", v(6, 3)),
    ("bpf_xdp_metadata_rx_timestamp", v(6, 3)),
    ("bpf_xdp_metadata_rx_hash", v(6, 3)),
    ("bpf_xdp_metadata_rx_vlan_tag", v(6, 8)),
    ("bpf_rbtree_add_impl", v(6, 4)),
    ("bpf_list_push_", v(6, 4)),
    ("bpf_refcount_acquire_impl", v(6, 4)),
    ("bpf_dynptr_slice", v(6, 4)),
    ("bpf_dynptr_from_skb", v(6, 4)),
    ("bpf_dynptr_from_xdp", v(6, 4)),
    ("bpf_iter_num_", v(6, 4)),
    ("bpf_dynptr_adjust", v(6, 5)),
    ("bpf_dynptr_is_null", v(6, 5)),
    ("bpf_dynptr_is_rdonly", v(6, 5)),
    ("bpf_dynptr_size", v(6, 5)),
    ("bpf_dynptr_clone", v(6, 5)),
    ("bpf_sock_destroy", v(6, 5)),
    ("bpf_task_under_cgroup", v(6, 5)),
    ("bpf_map_sum_elem_count", v(6, 6)),
    ("bpf_throw", v(6, 7)),
    ("bpf_percpu_obj_", v(6, 7)),
    ("bpf_sock_addr_set_sun_path", v(6, 7)),
    ("bpf_iter_task_", v(6, 7)),
    ("bpf_iter_css_", v(6, 7)),
    ("bpf_task_get_cgroup1", v(6, 8)),
    ("bpf_arena_", v(6, 9)),
    ("bpf_arena_reserve_pages", v(6, 17)),
    ("bpf_sk_assign_tcp_reqsk", v(6, 9)),
    ("bpf_preempt_", v(6, 10)),
    ("bpf_kfunc_call_test_release", v(5, 18)),
    ("bpf_kfunc_call_memb_release", v(5, 19)),
    ("bpf_xdp_get_xfrm_state", v(6, 8)),
    ("bpf_xdp_xfrm_state_release", v(6, 8)),
    ("bpf_copy_from_user_str", v(6, 12)),
    ("bpf_wq_", v(6, 10)),
    ("bpf_crypto_", v(6, 10)),
    ("bpf_session_", v(6, 10)),
    ("bpf_iter_bits_", v(6, 11)),
    ("bpf_local_irq_", v(6, 14)),
    ("bpf_res_spin_", v(6, 15)),
];

/// Kernel functions that no row names came with this release or later.
const OTHER_KFUNCS: KernelVersion = v(6, 16);

fn first<T: PartialEq>(table: &[(T, KernelVersion)], what: &T) -> KernelVersion {
    table.iter().find(|(known, _)| known == what).map_or(OLDEST, |(_, since)| *since)
}

/// The first release with this program type.
#[must_use]
pub fn prog_type(prog: ProgType) -> KernelVersion {
    first(PROG_TYPES, &prog)
}

/// The first release with this attach type.
#[must_use]
pub fn attach_type(attach: AttachType) -> KernelVersion {
    first(ATTACH_TYPES, &attach)
}

/// The first release with this map type.
#[must_use]
pub fn map_type(map: MapType) -> KernelVersion {
    first(MAP_TYPES, &map)
}

/// The first release with this helper.
#[must_use]
pub fn helper(id: u32) -> KernelVersion {
    HELPERS.iter().find(|(last, _)| id <= *last).map_or(KernelVersion(u8::MAX, 0), |(_, since)| *since)
}

/// The first release in which programs of this type may call this helper, if that is later than for others.
#[must_use]
pub fn helper_in(prog: ProgType, id: u32) -> KernelVersion {
    HELPERS_IN.iter().find(|(p, h, _)| (*p, *h) == (prog, id)).map_or(OLDEST, |(_, _, since)| *since)
}

/// Whether kernels look at the attach type with which a program of this type is loaded; where they do not, it may be newer than
/// they are.
#[must_use]
pub fn checks_attach_type(prog: ProgType) -> bool {
    !matches!(prog, ProgType::Kprobe | ProgType::SchedCls | ProgType::SchedAct)
}

/// The first release with all of these load flags.
#[must_use]
pub fn prog_flags(flags: u32) -> KernelVersion {
    PROG_FLAGS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, since)| *since).max().unwrap_or(OLDEST)
}

/// The first release with this field of a context.
#[must_use]
pub fn ctx_field(structure: &str, field: &str) -> KernelVersion {
    let found = CTX_FIELDS.iter().find(|(s, f, _)| *s == structure && *f == field);
    found.map_or(OLDEST, |(_, _, since)| *since)
}

/// The first release with this kernel function.
#[must_use]
pub fn kfunc(name: &str) -> KernelVersion {
    let fits = KFUNCS.iter().filter(|(start, _)| name.starts_with(start));
    fits.max_by_key(|(start, _)| start.len()).map_or(OTHER_KFUNCS, |(_, since)| *since)
}

/// The first release with this instruction; what it calls is asked about by [`helper`] and [`kfunc`].
#[must_use]
pub fn insn(insn: Insn) -> KernelVersion {
    use crate::insn::{AluOp, EndKind};
    match insn {
        // BPF_CPU v4: clang's -mcpu=v4.
        Insn::MovSx { .. }
        | Insn::Load { sign_extend: true, .. }
        | Insn::End { kind: EndKind::Bswap, .. }
        | Insn::Alu { op: AluOp::Sdiv | AluOp::Smod, .. }
        | Insn::Ja { long: true, .. } => v(6, 6),
        Insn::MayGoto { .. } | Insn::AddrSpaceCast { .. } => v(6, 9),
        Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => v(6, 15),
        Insn::Call { target: CallTarget::Kfunc { .. } } => v(5, 18),
        _ => OLDEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_table_names_is_old() {
        assert_eq!(prog_type(ProgType::Xdp), OLDEST);
        assert_eq!(prog_type(ProgType::Netfilter), v(6, 4));
        assert_eq!(map_type(MapType::Ringbuf), OLDEST);
        assert_eq!(prog_flags(1 | 1 << 4), OLDEST);
        assert_eq!(prog_flags(1 << 5 | 1 << 7), v(6, 8));
    }

    #[test]
    fn helpers_and_kernel_functions() {
        assert_eq!((helper(1), helper(181), helper(209), helper(211)), (OLDEST, v(5, 17), v(6, 1), v(6, 2)));
        assert!(helper(212) > v(7, 3));
        assert_eq!(kfunc("bpf_cpumask_first"), v(6, 3));
        assert_eq!(kfunc("bpf_cpumask_first_and"), v(6, 5));
        assert_eq!(kfunc("bpf_something_new"), OTHER_KFUNCS);
    }

    #[test]
    fn releases_are_ordered_by_number() {
        assert!(v(5, 19) < v(6, 0) && v(6, 9) < v(6, 12));
        assert_eq!(v(6, 12).to_string(), "6.12");
    }
}
