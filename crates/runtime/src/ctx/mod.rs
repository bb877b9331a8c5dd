//! Contexts: what a program gets in r1, and the packet behind it.
//!
//! Owns the run-time objects of each family of program types. R1 points to the user-visible struct at its UAPI offsets,
//! followed by the host pointers that the rewrite converts packet fields to. Invariant: between two calls of a run, those
//! pointers delimit initialised bytes of the packet's buffer. Kernel counterpart: `xdp_convert_ctx_access`,
//! `bpf_convert_ctx_access`, net/core/filter.c, 6.18.

pub(crate) mod map_elem;
mod plain;
mod skb;
mod user;
mod xdp;

use std::any::TypeId;
use std::ptr::NonNull;

use skep_abi::{ProgType, Size};

pub use self::plain::{RawTp, Syscall};
pub(crate) use self::skb::has_mac_header;
pub use self::skb::{SkBuff, Skb};
pub use self::user::{UserContext, UserLayout};
pub use self::xdp::{Redirect, Xdp, XdpAction, XdpBuff};

/// Which object a program expects in r1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CtxType {
    /// `struct xdp_md`.
    Xdp,
    /// `struct __sk_buff`.
    Skb,
    /// `u64 args[]`.
    RawTp,
    /// Bytes that the caller of `test_run` gives.
    Syscall,
    /// `struct bpf_iter__bpf_map_elem`.
    MapElem,
    /// A struct of the embedder, by its Rust type.
    User(TypeId),
    /// None: the program is an extension, which is entered as a function of another.
    Function,
}

impl CtxType {
    /// What a built-in program type gets; `None` where this engine cannot run it.
    #[must_use]
    pub fn of(prog_type: ProgType) -> Option<Self> {
        Some(match prog_type {
            ProgType::Xdp => Self::Xdp,
            ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::SocketFilter
            | ProgType::CgroupSkb
            | ProgType::LwtIn
            | ProgType::LwtOut
            | ProgType::LwtXmit
            | ProgType::LwtSeg6local
            | ProgType::SkSkb => Self::Skb,
            ProgType::RawTracepoint | ProgType::RawTracepointWritable | ProgType::Tracing => Self::RawTp,
            ProgType::Syscall
            | ProgType::Kprobe
            | ProgType::Tracepoint
            | ProgType::PerfEvent
            | ProgType::CgroupSysctl
            | ProgType::CgroupSockopt
            | ProgType::CgroupSock
            | ProgType::CgroupSockAddr
            | ProgType::CgroupDevice
            | ProgType::SockOps
            | ProgType::SkMsg
            | ProgType::SkReuseport
            | ProgType::SkLookup
            | ProgType::FlowDissector => Self::Syscall,
            _ => return None,
        })
    }
}

/// The object of one run, taken apart.
#[derive(Clone, Copy)]
pub struct CtxParts {
    object: NonNull<u8>,
    readable: u32,
    writable: u32,
    packet: Packet,
}

#[derive(Clone, Copy)]
enum Packet {
    None,
    Xdp(NonNull<XdpBuff>),
    Skb(NonNull<SkBuff>),
    /// First byte and end, of an embedder's context, or of what is lent to a syscall program.
    Bytes(u64, u64),
    /// The output of an iterator, and first byte and end of the value.
    MapElem(NonNull<map_elem::Seq>, (u64, u64)),
}

/// The packet of a run, as helpers use it.
pub enum PacketRef<'a> {
    /// The context has none that helpers know.
    None,
    /// XDP.
    Xdp(&'a mut XdpBuff),
    /// TC, socket filter, `cgroup_skb` and the like.
    Skb(&'a mut SkBuff),
}

impl CtxParts {
    /// An object without a packet: `len` bytes at `object`, the first `writable` of which a program may store to.
    #[inline]
    #[must_use]
    pub fn plain(object: NonNull<u8>, len: u32, writable: u32) -> Self {
        Self { object, readable: len, writable, packet: Packet::None }
    }

    #[inline]
    fn with_packet(self, packet: Packet) -> Self {
        Self { packet, ..self }
    }

    /// What r1 is.
    #[inline]
    pub(crate) fn object(&self) -> *mut u8 {
        self.object.as_ptr()
    }

    pub(crate) fn readable_len(&self) -> u32 {
        self.readable
    }

    pub(crate) fn writable_len(&self) -> u32 {
        self.writable
    }

    /// First byte and end of what a program may access of the packet, metadata included.
    pub(crate) fn packet_bounds(&self) -> Option<(u64, u64)> {
        match self.packet {
            Packet::None => None,
            // SAFETY: the buffer outlives the run, and no helper that changes it is active while a program's own access is
            // tested.
            Packet::Xdp(xdp) => Some(unsafe { xdp.as_ref() }.bounds()),
            // SAFETY: as above.
            Packet::Skb(skb) => Some(unsafe { skb.as_ref() }.bounds()),
            Packet::Bytes(start, end) | Packet::MapElem(_, (start, end)) => Some((start, end)),
        }
    }

    /// The packet, for the length of one helper call.
    pub(crate) fn packet(&self) -> PacketRef<'_> {
        match self.packet {
            Packet::None | Packet::Bytes(..) | Packet::MapElem(..) => PacketRef::None,
            // SAFETY: the run has exclusive use of its packet, and helpers do not overlap: the one that asks is the only user.
            Packet::Xdp(mut xdp) => PacketRef::Xdp(unsafe { xdp.as_mut() }),
            // SAFETY: as above.
            Packet::Skb(mut skb) => PacketRef::Skb(unsafe { skb.as_mut() }),
        }
    }

    /// The output of an iterator, for the length of one helper call.
    #[expect(clippy::mut_from_ref, reason = "as for `packet`")]
    pub(crate) fn seq(&self) -> Option<&mut map_elem::Seq> {
        match self.packet {
            // SAFETY: the run has exclusive use of its context, and helpers do not overlap: the one that asks is the only user.
            Packet::MapElem(mut seq, _) => Some(unsafe { seq.as_mut() }),
            _ => None,
        }
    }

    /// `LD_ABS` and `LD_IND`: a big-endian value, negative when the load lies outside of the packet.
    pub(crate) fn load_packet(&self, offset: i64, size: Size) -> i64 {
        match self.packet() {
            PacketRef::Skb(skb) => skb.load_absolute(offset, size),
            PacketRef::None | PacketRef::Xdp(_) => -14,
        }
    }
}

/// An object that programs can run on.
///
/// # Safety
/// `parts` describes memory that stays valid and unaliased while `self` is borrowed: its readable bytes are initialised,
/// and its type is the one that `ctx_type` names.
pub unsafe trait Context {
    /// Which programs accept it; the same for all values of the type.
    const TYPE: CtxType;
    /// Its memory, for one run.
    fn parts(&mut self) -> CtxParts;
}
