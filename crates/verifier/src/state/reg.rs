//! One register, or one spilled register.
//!
//! Owns the pointer types and what each carries. Invariant: for a scalar, `off` is meaningful only with [`Reg::add_const`];
//! for a pointer, the address is base + `off` + `bounds`. Kernel counterpart: `struct bpf_reg_state`,
//! include/linux/bpf_verifier.h, 6.18.

use super::bounds::Bounds;

/// What a register points to, or that it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's bpf_reg_type without prefix")]
pub enum Base {
    NotInit,
    Scalar,
    Ctx,
    ConstMap,
    MapValue,
    MapKey,
    Stack,
    PacketMeta,
    Packet,
    PacketEnd,
    FlowKeys,
    Socket,
    SockCommon,
    TcpSock,
    TpBuffer,
    XdpSock,
    BtfId,
    Mem,
    Arena,
    Buf,
    Func,
    Dynptr,
}

/// Modifiers of a type, as bits.
pub mod flags {
    #![expect(missing_docs, reason = "the names are the kernel's bpf_type_flag")]
    pub const MAYBE_NULL: u16 = 1;
    pub const RDONLY: u16 = 1 << 1;
    pub const RINGBUF: u16 = 1 << 2;
    pub const USER: u16 = 1 << 3;
    pub const PERCPU: u16 = 1 << 4;
    pub const UNTRUSTED: u16 = 1 << 5;
    pub const ALLOC: u16 = 1 << 6;
    pub const TRUSTED: u16 = 1 << 7;
    pub const RCU: u16 = 1 << 8;
    pub const NON_OWN: u16 = 1 << 9;
    pub const UNINIT: u16 = 1 << 10;
    pub const FIXED_SIZE: u16 = 1 << 11;
    pub const DYNPTR_PACKET: u16 = 1 << 12;
    pub const LOCAL_ITER: u16 = 1 << 13;
}

/// Base type and modifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct RegType {
    /// What it is.
    pub base: Base,
    /// Modifiers ([`flags`]).
    pub flags: u16,
}

impl RegType {
    /// Not initialised.
    pub const NOT_INIT: Self = Self::of(Base::NotInit);
    /// A number.
    pub const SCALAR: Self = Self::of(Base::Scalar);

    /// Without modifiers.
    #[must_use]
    pub const fn of(base: Base) -> Self {
        Self { base, flags: 0 }
    }

    /// With a modifier added.
    #[must_use]
    pub const fn with(self, flag: u16) -> Self {
        Self { base: self.base, flags: self.flags | flag }
    }

    /// With a modifier taken away.
    #[must_use]
    pub const fn without(self, flag: u16) -> Self {
        Self { base: self.base, flags: self.flags & !flag }
    }

    /// Whether it has the modifier.
    #[must_use]
    pub const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// May be null.
    #[must_use]
    pub const fn maybe_null(self) -> bool {
        self.has(flags::MAYBE_NULL)
    }

    /// Packet or packet metadata.
    #[must_use]
    pub fn is_packet(self) -> bool {
        matches!(self.base, Base::Packet | Base::PacketMeta)
    }

    /// A socket type.
    #[must_use]
    pub fn is_sock(self) -> bool {
        matches!(self.base, Base::Socket | Base::SockCommon | Base::TcpSock | Base::XdpSock)
    }

    /// Points to an object of the program (`bpf_obj_new`).
    #[must_use]
    pub fn is_alloc(self) -> bool {
        self.base == Base::BtfId && self.has(flags::ALLOC)
    }

    /// Points to an object that a list or tree owns, under its lock.
    #[must_use]
    pub fn is_non_owning(self) -> bool {
        self.is_alloc() && self.has(flags::NON_OWN)
    }

    /// Points to a map, its value or its key.
    #[must_use]
    pub fn is_map(self) -> bool {
        matches!(self.base, Base::ConstMap | Base::MapValue | Base::MapKey)
    }
}

/// Dynptr kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum DynptrKind {
    Local,
    Ringbuf,
    Skb,
    Xdp,
}

impl DynptrKind {
    /// As the log prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ringbuf => "ringbuf",
            Self::Skb => "skb",
            Self::Xdp => "xdp",
        }
    }
}

/// State of an open-coded iterator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum IterState {
    Active,
    Drained,
}

/// What only some types carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Extra {
    /// Nothing.
    None,
    /// Map pointer, value or key: index in the program's maps, whether it is that map's inner map, and an id that tells
    /// apart the inner maps of two lookups.
    Map {
        /// Index in the program's map list.
        map: u32,
        /// The inner map of `map` is meant.
        inner: bool,
        /// Which lookup it came from; 0 for none.
        uid: u32,
    },
    /// Packet pointers: bytes proven readable from the base; [`AT_PKT_END`], [`BEYOND_PKT_END`].
    Range(i32),
    /// Size of a `Mem`.
    MemSize(u32),
    /// A slice of a dynptr, which may be a copy in the buffer that came with the call.
    Slice {
        /// Its size.
        size: u32,
        /// Frame of the buffer; the outermost where the buffer is not on the stack.
        frame: u8,
        /// Where a buffer on the stack begins, as an offset from that frame's pointer; 0 if there can be no copy there.
        at: i16,
        /// The reference to the ring buffer's record that it, or its buffer, is of, 0 for none, or [`OF_A_CALLER`]; [`GAVE_AWAY`]
        /// once that is gone.
        record: u32,
    },
    /// Frame of a stack pointer.
    Frame(u8),
    /// An object of a struct of the program's BTF.
    Btf(u32),
    /// An object of a kernel type, its number in [`skep_abi::kfunc::KERNEL_TYPES`].
    Kernel(u16),
    /// First or second slot of a dynptr.
    Dynptr {
        /// Its kind.
        kind: DynptrKind,
        /// First slot (in stack order, the upper one).
        first: bool,
    },
    /// Iterator slot.
    Iter {
        /// Which iterator, index in the kfunc table's iterator kinds.
        kind: u8,
        /// Its state.
        state: IterState,
        /// Times `next` was called on this path.
        depth: u32,
    },
    /// Saved interrupt flags.
    Irq {
        /// Saved by the function that took a lock.
        of_lock: bool,
    },
    /// Callback subprogram.
    Func(u32),
}

/// No reference: that of a slice whose record was given away, or whose packet may have moved.
pub const GAVE_AWAY: u32 = u32::MAX;
/// No reference: that of a slice of whatever a function was given, a packet perhaps.
pub const OF_A_CALLER: u32 = u32::MAX - 1;
/// Packet pointer equal to the end.
pub const AT_PKT_END: i32 = -1;
/// Packet pointer beyond the end.
pub const BEYOND_PKT_END: i32 = -2;

/// A register's abstract value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg {
    /// Its type.
    pub ty: RegType,
    /// The scalar's exact bounds mattered to safety.
    pub precise: bool,
    /// A linked scalar that is its id's base value plus `off`.
    pub add_const: bool,
    /// With [`Reg::add_const`]: the addition was in 32 bits.
    pub add_const32: bool,
    /// Fixed part of a pointer's offset.
    pub off: i32,
    /// Identity: linked scalars, values of one lookup, one packet base; 0 for none.
    pub id: u32,
    /// Reference that must be released, 0 for none.
    pub ref_obj_id: u32,
    /// Dynptr that this slice belongs to, 0 for none.
    pub dynptr_id: u32,
    /// Variable part.
    pub bounds: Bounds,
    /// Type-specific part.
    pub extra: Extra,
}

impl Reg {
    /// Unreadable.
    pub const NOT_INIT: Self = Self {
        ty: RegType::NOT_INIT,
        precise: false,
        add_const: false,
        add_const32: false,
        off: 0,
        id: 0,
        ref_obj_id: 0,
        dynptr_id: 0,
        bounds: Bounds::UNKNOWN,
        extra: Extra::None,
    };

    /// A number of which nothing is known.
    pub const UNKNOWN: Self = Self { ty: RegType::SCALAR, ..Self::NOT_INIT };

    /// A number.
    #[must_use]
    pub const fn scalar(bounds: Bounds) -> Self {
        Self { ty: RegType::SCALAR, bounds, ..Self::NOT_INIT }
    }

    /// A known number.
    #[must_use]
    pub const fn constant(value: u64) -> Self {
        Self::scalar(Bounds::constant(value))
    }

    /// A pointer at offset 0.
    #[must_use]
    pub const fn pointer(ty: RegType, extra: Extra) -> Self {
        Self { ty, bounds: Bounds::ZERO, extra, ..Self::NOT_INIT }
    }

    /// A stack pointer to the top of `frame`.
    #[must_use]
    pub const fn stack(frame: u8) -> Self {
        Self::pointer(RegType::of(Base::Stack), Extra::Frame(frame))
    }

    /// Its base type.
    #[must_use]
    pub const fn base(&self) -> Base {
        self.ty.base
    }

    /// Whether it is a number.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.ty.base == Base::Scalar
    }

    /// Whether it is a pointer of any kind.
    #[must_use]
    pub fn is_pointer(&self) -> bool {
        !matches!(self.ty.base, Base::Scalar | Base::NotInit)
    }

    /// The constant, for a scalar.
    #[must_use]
    pub fn const_scalar(&self) -> Option<u64> {
        if self.is_scalar() { self.bounds.const_value() } else { None }
    }

    /// The constant 0, or a null pointer as the program writes it.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.const_scalar() == Some(0)
    }

    /// Frame of a stack pointer.
    #[must_use]
    pub fn frame(&self) -> usize {
        match self.extra {
            Extra::Frame(f) => f as usize,
            _ => 0,
        }
    }

    /// Proven range of a packet pointer.
    #[must_use]
    pub fn range(&self) -> i32 {
        match self.extra {
            Extra::Range(r) => r,
            _ => 0,
        }
    }

    /// Size of a `Mem`.
    #[must_use]
    pub fn mem_size(&self) -> u32 {
        match self.extra {
            Extra::MemSize(size) | Extra::Slice { size, .. } => size,
            _ => 0,
        }
    }

    /// No longer linked to other scalars.
    pub fn unlink(&mut self) {
        self.id = 0;
        self.add_const = false;
        self.add_const32 = false;
        if self.is_scalar() {
            self.off = 0;
        }
    }

    /// Forgets what is known of a scalar; keeps `precise` off.
    #[must_use]
    pub fn forget(self) -> Self {
        Self::UNKNOWN
    }
}
