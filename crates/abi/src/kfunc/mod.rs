//! The kernel functions that programs call by name: prototypes, and which program types may call them.
//!
//! Invariant: the tables are those of Linux 6.18; `testing` asks the running kernel about every function in every program
//! type. Kernel counterpart: `BTF_KFUNCS_START`, kernel/bpf/helpers.c, net/core/filter.c and others, 6.18; the suffixes of
//! argument names, Documentation/bpf/kfuncs.rst.

mod table;

pub use table::KFUNCS;

use crate::types::{AttachType, ProgType};

/// A kernel function as the verifier sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KfuncProto {
    /// Its name.
    pub name: &'static str,
    /// What r1 and the following hold, one for each parameter.
    pub args: &'static [KfuncArg],
    /// What r0 holds afterwards.
    pub ret: KfuncRet,
    /// `KF_*` ([`flags`]).
    pub flags: u32,
    /// Who may call it: groups of program types.
    hooks: u32,
}

impl KfuncProto {
    /// Whether it has the flag.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether programs of this type may call it.
    #[must_use]
    pub fn allowed(&self, prog: ProgType, attach: AttachType) -> bool {
        self.hooks & hooks::of(prog) != 0 && (!self.has(flags::SESSION) || attach == AttachType::TraceKprobeSession)
    }
}

/// `KF_*`, as far as the verifier asks.
pub mod flags {
    /// The result is a new reference.
    pub const ACQUIRE: u32 = 1 << 0;
    /// The argument that carries a reference is given back.
    pub const RELEASE: u32 = 1 << 1;
    /// The result may be null.
    pub const RET_NULL: u32 = 1 << 2;
    /// Objects must be referenced or trusted.
    pub const TRUSTED: u32 = 1 << 3;
    /// For sleepable programs, outside of critical sections.
    pub const SLEEPABLE: u32 = 1 << 4;
    /// Objects may also be protected by an RCU section.
    pub const RCU: u32 = 1 << 5;
    /// Leaves registers alone that are neither arguments nor the result: the kernel makes code of the call.
    pub const FASTCALL: u32 = 1 << 7;
    /// Makes, steps and destroys an iterator.
    pub const ITER_NEW: u32 = 1 << 8;
    /// As [`ITER_NEW`].
    pub const ITER_NEXT: u32 = 1 << 9;
    /// As [`ITER_NEW`].
    pub const ITER_DESTROY: u32 = 1 << 10;
    /// For sessions of kprobes alone.
    pub const SESSION: u32 = 1 << 11;
    /// A list or tree operation, allowed under a lock.
    pub const GRAPH: u32 = 1 << 12;
    /// For programs that are bound to a device, which none is here.
    pub const DEVICE: u32 = 1 << 6;
    /// Takes or gives back a lock, allowed under another.
    pub const LOCK: u32 = 1 << 14;
    /// Works on the stack alone, allowed under a lock.
    pub const NUM: u32 = 1 << 13;
}

/// Groups of program types that functions are registered for.
mod hooks {
    use crate::types::ProgType;

    /// XDP.
    pub(super) const XDP: u32 = 1 << 0;
    /// TC classifiers.
    pub(super) const TC: u32 = 1 << 1;
    /// TC actions.
    pub(super) const ACT: u32 = 1 << 2;
    /// Stream parsers.
    pub(super) const SK_SKB: u32 = 1 << 3;
    /// Socket filters.
    pub(super) const SOCKET: u32 = 1 << 4;
    /// Light-weight tunnels.
    pub(super) const LWT: u32 = 1 << 5;
    /// Control groups.
    pub(super) const CGROUP: u32 = 1 << 6;
    /// `syscall` programs.
    pub(super) const SYSCALL: u32 = 1 << 7;
    /// Tracing, tracepoints and perf events.
    pub(super) const TRACING: u32 = 1 << 8;
    /// Kprobes.
    pub(super) const KPROBE: u32 = 1 << 9;
    /// Netfilter.
    pub(super) const NETFILTER: u32 = 1 << 10;
    /// `struct_ops`.
    pub(super) const STRUCT_OPS: u32 = 1 << 11;
    /// Types for which nothing is registered of their own.
    pub(super) const OTHER: u32 = 1 << 12;
    /// Every type.
    pub(super) const ALL: u32 = (1 << 13) - 1;
    /// What the general functions are registered for.
    pub(super) const GENERIC: u32 = XDP | TC | CGROUP | SYSCALL | TRACING | STRUCT_OPS;
    /// Types with a socket buffer as their context.
    pub(super) const SKB: u32 = TC | ACT | SK_SKB | SOCKET | CGROUP | LWT | NETFILTER;

    /// The group that a program type belongs to.
    #[must_use]
    pub(super) const fn of(prog: ProgType) -> u32 {
        match prog {
            ProgType::Xdp => XDP,
            ProgType::SchedCls => TC,
            ProgType::SchedAct => ACT,
            ProgType::SkSkb => SK_SKB,
            ProgType::SocketFilter => SOCKET,
            ProgType::LwtIn | ProgType::LwtOut | ProgType::LwtXmit | ProgType::LwtSeg6local => LWT,
            ProgType::CgroupSkb
            | ProgType::CgroupSock
            | ProgType::CgroupDevice
            | ProgType::CgroupSockAddr
            | ProgType::CgroupSockopt
            | ProgType::CgroupSysctl
            | ProgType::SockOps => CGROUP,
            ProgType::Syscall => SYSCALL,
            ProgType::Tracing | ProgType::Tracepoint | ProgType::PerfEvent | ProgType::Lsm => TRACING,
            ProgType::Kprobe => KPROBE,
            ProgType::Netfilter => NETFILTER,
            ProgType::StructOps => STRUCT_OPS,
            _ => OTHER,
        }
    }
}

/// What one argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KfuncArg {
    /// A number.
    Scalar,
    /// A constant (`__k`).
    Constant,
    /// Anything at all: not looked at (`__ign`, `__prog`).
    Ignored,
    /// The program's context.
    Ctx,
    /// An initialised dynptr on the stack.
    Dynptr,
    /// The same, or null.
    DynptrOrNull,
    /// Room for a dynptr on the stack (`__uninit`).
    NewDynptr(NewDynptr),
    /// An iterator on the stack.
    Iter(Iter),
    /// A `bpf_list_head` in a map value or an object.
    ListHead,
    /// A `bpf_list_node` in an object.
    ListNode,
    /// A `bpf_rb_root` in a map value or an object.
    RbRoot,
    /// A `bpf_rb_node` in an object.
    RbNode,
    /// An object of the program, to be given back (`__alloc`).
    Alloc,
    /// An object of the program with a `bpf_refcount` (`__refcounted_kptr`).
    Refcounted,
    /// A static function of the program.
    Callback,
    /// A `bpf_res_spin_lock` in a map value or an object.
    ResLock,
    /// Room for interrupt flags on the stack, or what is saved there.
    IrqFlag,
    /// A `bpf_wq` in a map value.
    Workqueue,
    /// A map (`__map`).
    Map,
    /// A kernel object of this type.
    Object(&'static str),
    /// This many bytes of memory that is read and written; the text is the C type.
    Mem(u32, &'static str),
    /// Memory whose size is the next argument (`__sz`), at least that of what it points to.
    MemSized,
    /// The same, or null (`__opt`).
    MemSizedOrNull,
    /// Size of the memory argument before it, constant with `true` (`__szk`).
    Size(bool),
}

/// What a dynptr is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewDynptr {
    /// The socket buffer.
    Skb,
    /// The packet at XDP.
    Xdp,
    /// What the dynptr before it is made of.
    Clone,
}

/// An open-coded iterator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Iter {
    /// Its number, for comparison.
    pub kind: u8,
    /// Its name in the log.
    pub name: &'static str,
    /// 8-byte slots that it takes.
    pub slots: u8,
}

/// What r0 holds after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KfuncRet {
    /// Nothing.
    Void,
    /// A number.
    Scalar,
    /// Read-only memory of this size.
    Mem(u32),
    /// A kernel object of this type.
    Object(&'static str),
    /// A list node of the list argument.
    ListNode,
    /// A tree node of the tree argument.
    RbNode,
    /// A new object of the program, of the type that the constant argument names.
    NewObject,
    /// The same, one for each CPU.
    NewPercpuObject,
    /// Another reference to the object argument.
    SameObject,
    /// Memory that the dynptr argument leads to, of the size of the constant argument; writable with `true`.
    Slice(bool),
    /// The context as the kernel has it.
    KernelCtx,
    /// An object of the kernel type that the constant argument numbers, for reading.
    ReadOnlyCast,
}

/// The prototype of a kernel function; `None` for one that is not in the table.
#[must_use]
pub fn kfunc(name: &str) -> Option<&'static KfuncProto> {
    KFUNCS.iter().find(|proto| proto.name == name)
}

/// Types of the kernel's objects that prototypes name, by number.
pub const KERNEL_TYPES: &[&str] = &[
    "task_struct",
    "cgroup",
    "bpf_cpumask",
    "cpumask",
    "bpf_crypto_ctx",
    "nf_conn",
    "nf_conn___init",
    "xfrm_state",
    "sk_buff",
    "xdp_buff",
    "pt_regs",
    "vm_area_struct",
    "sock",
    "tcp_sock",
    "tcp6_sock",
    "udp6_sock",
    "tcp_timewait_sock",
    "tcp_request_sock",
    "unix_sock",
    "mptcp_sock",
    "inode",
    "file",
    "path",
    "socket",
    "linux_binprm",
    "seq_file",
    "cgroup_subsys_state",
    "kmem_cache",
    "bpf_key",
    "sock_common",
    "sk_buff_head",
    "prog_test_ref_kfunc",
    "prog_test_member",
    "bpf_iter_meta",
    "bpf_map",
];

/// Kernel types whose first member is an object of another one.
const FIRST_MEMBERS: &[(&str, &str)] = &[
    ("bpf_cpumask", "cpumask"),
    ("mptcp_sock", "sock"),
    ("sock", "sock_common"),
    ("tcp6_sock", "tcp_sock"),
    ("tcp_request_sock", "sock_common"),
    ("tcp_sock", "sock"),
    ("tcp_timewait_sock", "sock_common"),
    ("udp6_sock", "sock"),
    ("unix_sock", "sock"),
];

/// Whether an object of the kernel type `have` is, or begins with, one of the type `wanted`.
#[must_use]
pub fn begins_with(have: &str, wanted: &str) -> bool {
    let mut have = have;
    while have != wanted {
        match FIRST_MEMBERS.iter().find(|(outer, _)| *outer == have) {
            Some((_, first)) => have = first,
            None => return false,
        }
    }
    true
}

/// Number of a kernel type in [`KERNEL_TYPES`].
#[must_use]
pub fn kernel_type(name: &str) -> Option<u16> {
    KERNEL_TYPES.iter().position(|known| *known == name).and_then(|at| u16::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_table_has_a_number() {
        for proto in KFUNCS {
            let objects = proto.args.iter().filter_map(|arg| match arg {
                KfuncArg::Object(name) => Some(*name),
                _ => None,
            });
            let result = match proto.ret {
                KfuncRet::Object(name) => Some(name),
                _ => None,
            };
            for name in objects.chain(result) {
                assert!(kernel_type(name).is_some(), "{}: {name}", proto.name);
            }
            assert!(proto.args.len() <= 5, "{}", proto.name);
        }
    }

    #[test]
    fn sockets_begin_with_each_other() {
        assert!(begins_with("tcp6_sock", "sock_common") && begins_with("sock", "sock"));
        assert!(!begins_with("sock", "tcp_sock") && !begins_with("task_struct", "sock"));
    }

    #[test]
    fn flags_are_bits_of_their_own() {
        use flags::*;
        let all = [
            ACQUIRE,
            RELEASE,
            RET_NULL,
            TRUSTED,
            SLEEPABLE,
            RCU,
            DEVICE,
            FASTCALL,
            ITER_NEW,
            ITER_NEXT,
            ITER_DESTROY,
            SESSION,
            GRAPH,
            NUM,
            LOCK,
        ];
        let joined = all.iter().fold(0u32, |known, flag| known | flag);
        assert_eq!(joined.count_ones() as usize, all.len());
    }

    #[test]
    fn names_are_there_once() {
        for (at, proto) in KFUNCS.iter().enumerate() {
            assert!(KFUNCS[..at].iter().all(|other| other.name != proto.name), "{}", proto.name);
        }
    }
}
