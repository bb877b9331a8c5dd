//! What a prototype says: the kinds of arguments and results, as the verifier tells them apart.
//!
//! Kernel counterpart: `struct bpf_func_proto`, `enum bpf_arg_type`, `enum bpf_return_type`, `enum bpf_type_flag`,
//! include/linux/bpf.h, 6.18.

use std::borrow::Cow;

/// A helper function as the verifier sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelperProto {
    /// Its number, the immediate of the call.
    pub id: u32,
    /// Its name, `bpf_map_lookup_elem`.
    pub name: Cow<'static, str>,
    /// Properties of the function as a whole.
    pub flags: ProtoFlags,
    /// What r0 holds afterwards.
    pub ret: RetType,
    /// What r1 to r5 must hold.
    pub args: [ArgType; 5],
}

/// Properties of a helper as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as in the kernel's structure")]
pub struct ProtoFlags {
    /// For programs with a GPL-compatible licence only.
    pub gpl_only: bool,
    /// Memory arguments may point into the packet.
    pub pkt_access: bool,
    /// For sleepable programs only, outside of locks.
    pub might_sleep: bool,
    /// Only clobbers r0 when the JIT inlines it (`bpf_fastcall`).
    pub allow_fastcall: bool,
    /// Packet pointers are invalid afterwards (`bpf_helper_changes_pkt_data`). A tail call that falls through has changed
    /// nothing: for it, this holds after a call of the subprogram that it is in.
    pub changes_pkt: bool,
}

impl ProtoFlags {
    /// None of them.
    pub const NONE: Self =
        Self { gpl_only: false, pkt_access: false, might_sleep: false, allow_fastcall: false, changes_pkt: false };

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self {
            gpl_only: self.gpl_only || other.gpl_only,
            pkt_access: self.pkt_access || other.pkt_access,
            might_sleep: self.might_sleep || other.might_sleep,
            allow_fastcall: self.allow_fastcall || other.allow_fastcall,
            changes_pkt: self.changes_pkt || other.changes_pkt,
        }
    }
}

/// Base kind of an argument, `ARG_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ArgKind {
    /// Not an argument.
    DontCare,
    /// A map that is known at verification.
    ConstMapPtr,
    /// Initialised memory of the map's key size.
    PtrToMapKey,
    /// Memory of the map's value size.
    PtrToMapValue,
    /// Memory; its size is the next argument, or fixed.
    PtrToMem,
    /// Arena pointer or scalar.
    PtrToArena,
    /// Size of the memory argument before it, at least 1.
    ConstSize,
    /// Size of the memory argument before it, may be 0.
    ConstSizeOrZero,
    /// The context, unmodified.
    PtrToCtx,
    /// Any initialised value.
    Anything,
    /// A `bpf_spin_lock` in a map value or an allocated object.
    PtrToSpinLock,
    /// `PTR_TO_SOCK_COMMON` or what is one.
    PtrToSockCommon,
    /// A full socket.
    PtrToSocket,
    /// A kernel object of the type `btf`.
    PtrToBtfId,
    /// A ring-buffer record.
    PtrToRingbufMem,
    /// Constant size of what is allocated.
    ConstAllocSizeOrZero,
    /// A socket, by BTF type or by register type.
    PtrToBtfIdSockCommon,
    /// A per-CPU kernel object.
    PtrToPercpuBtfId,
    /// A callback.
    PtrToFunc,
    /// Stack memory for the callback's context.
    PtrToStack,
    /// A zero-terminated string in a frozen read-only map.
    PtrToConstStr,
    /// A `bpf_timer` in a map value.
    PtrToTimer,
    /// A kptr field in a map value or an object.
    KptrXchgDest,
    /// A dynptr on the stack.
    PtrToDynptr,
}

/// Base kind of a result, `RET_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RetKind {
    /// A scalar.
    Integer,
    /// Nothing.
    Void,
    /// A value of the map argument.
    PtrToMapValue,
    /// A full socket.
    PtrToSocket,
    /// A `bpf_tcp_sock`.
    PtrToTcpSock,
    /// A `bpf_sock` of any state.
    PtrToSockCommon,
    /// Memory of the size that a constant argument says.
    PtrToMem,
    /// A kernel variable: memory for a plain type, an object for a structure.
    PtrToMemOrBtfId,
    /// A kernel object of the type `btf`.
    PtrToBtfId,
}

/// Modifiers, with the kernel's bits (`enum bpf_type_flag`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TypeFlags(pub u32);

#[expect(missing_docs, reason = "the names are the kernel's, without PTR_ and MEM_")]
impl TypeFlags {
    pub const NONE: Self = Self(0);
    pub const MAYBE_NULL: Self = Self(1 << 8);
    pub const RDONLY: Self = Self(1 << 9);
    pub const RINGBUF: Self = Self(1 << 10);
    pub const USER: Self = Self(1 << 11);
    pub const PERCPU: Self = Self(1 << 12);
    pub const RELEASE: Self = Self(1 << 13);
    pub const UNTRUSTED: Self = Self(1 << 14);
    pub const UNINIT: Self = Self(1 << 15);
    pub const DYNPTR_LOCAL: Self = Self(1 << 16);
    pub const DYNPTR_RINGBUF: Self = Self(1 << 17);
    pub const FIXED_SIZE: Self = Self(1 << 18);
    pub const ALLOC: Self = Self(1 << 19);
    pub const TRUSTED: Self = Self(1 << 20);
    pub const RCU: Self = Self(1 << 21);
    pub const NON_OWN_REF: Self = Self(1 << 22);
    pub const DYNPTR_SKB: Self = Self(1 << 23);
    pub const DYNPTR_XDP: Self = Self(1 << 24);
    pub const ALIGNED: Self = Self(1 << 25);
    pub const WRITE: Self = Self(1 << 26);
    pub const DYNPTR_SKB_META: Self = Self(1 << 27);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What one argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArgType {
    /// Base kind.
    pub kind: ArgKind,
    /// Modifiers.
    pub flags: TypeFlags,
    /// Bytes of memory with `FIXED_SIZE`.
    pub size: u32,
    /// Kernel type of a `PtrToBtfId`.
    pub btf: Option<&'static str>,
}

impl ArgType {
    /// Without size and kernel type.
    #[must_use]
    pub const fn new(kind: ArgKind, flags: TypeFlags) -> Self {
        Self { kind, flags, size: 0, btf: None }
    }

    /// Whether a null pointer will do.
    #[must_use]
    pub const fn may_be_null(self) -> bool {
        self.flags.has(TypeFlags::MAYBE_NULL)
    }

    /// Whether it is the size of the memory argument before it.
    #[must_use]
    pub const fn is_mem_size(self) -> bool {
        matches!(self.kind, ArgKind::ConstSize | ArgKind::ConstSizeOrZero)
    }
}

/// What r0 holds after the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RetType {
    /// Base kind.
    pub kind: RetKind,
    /// Modifiers.
    pub flags: TypeFlags,
    /// Kernel type of a `PtrToBtfId`.
    pub btf: Option<&'static str>,
}

impl RetType {
    /// Without kernel type.
    #[must_use]
    pub const fn new(kind: RetKind, flags: TypeFlags) -> Self {
        Self { kind, flags, btf: None }
    }

    /// Whether it may be null.
    #[must_use]
    pub const fn may_be_null(self) -> bool {
        self.flags.has(TypeFlags::MAYBE_NULL)
    }
}
