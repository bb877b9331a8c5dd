//! Context layouts: what a program of each type may read and write behind r1.
//!
//! Owns the fields at their uapi offsets and where the run-time object keeps the words that packet fields become. A
//! layout may name one offset twice, for different sizes; [`CtxLayout::find`] is the one place that decides. Invariant:
//! its answers are Linux 6.18's, which `testing` compares access by access. Kernel counterpart: the `is_valid_access`
//! callbacks, net/core/filter.c and kernel/trace/bpf_trace.c.

mod iter;
mod skb;
mod sock;
mod trace;
mod xdp;

use std::borrow::Cow;

pub use self::iter::{BPF_MAP_ELEM, KERNEL_STRUCTS, KernelField, KernelFieldKind, KernelStruct, kernel_struct};
use crate::types::{AttachType, ProgType};

/// The context of a program type, or of an embedder's own extension point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CtxLayout {
    /// Name for people.
    pub name: Cow<'static, str>,
    /// Name of the C structure, which global functions have as argument type.
    pub btf_name: Cow<'static, str>,
    /// Size that programs and users see, in bytes.
    pub size: u32,
    /// Size of the run-time object, with the words of converted fields.
    pub rt_size: u32,
    /// Fields by offset.
    pub fields: Cow<'static, [CtxField]>,
    /// A stretch of plain memory, where any aligned access of 1 to 8 bytes is allowed.
    pub region: Option<CtxRegion>,
}

/// Plain memory in a context: registers, tracepoint arguments, a system call's argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxRegion {
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
    /// Whether it may be written.
    pub write: bool,
}

/// One field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of an access")]
pub struct CtxField {
    /// Name, `cb[1]` for elements of arrays.
    pub name: &'static str,
    /// Byte offset in the user's structure.
    pub offset: u16,
    /// Bytes of a whole access.
    pub size: u8,
    /// What a load gives.
    pub kind: CtxFieldKind,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written as a whole.
    pub write: bool,
    /// Which parts may be read.
    pub narrow: Narrow,
    /// Whether the parts that may be read may be written too.
    pub write_narrow: bool,
    /// Whether 8 bytes may be accessed at this 4-byte field, reaching into the next.
    pub wide8: bool,
    /// Offset and size of the run-time word that a load is converted to; `None` where the field is its own storage.
    pub rt: Option<(u16, u8)>,
}

/// Which parts of a field may be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Narrow {
    /// The whole only.
    No,
    /// 1, 2 or 4 bytes at the field's own offset.
    Start,
    /// Any aligned part.
    Any,
}

/// What a load of a field gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CtxFieldKind {
    /// A number.
    Scalar,
    /// Start of the packet, `PTR_TO_PACKET`.
    PacketData,
    /// End of the packet, `PTR_TO_PACKET_END`.
    PacketEnd,
    /// Start of the metadata before the packet, `PTR_TO_PACKET_META`.
    PacketMeta,
    /// A full socket, `PTR_TO_SOCKET`.
    Sock,
    /// A full socket or null.
    SockOrNull,
    /// A socket of any state or null, `PTR_TO_SOCK_COMMON`.
    SockCommonOrNull,
    /// The flow dissector's keys, `PTR_TO_FLOW_KEYS`.
    FlowKeys,
    /// Memory of a writable tracepoint, `PTR_TO_TP_BUFFER`.
    TpBuffer,
    /// A trusted kernel object of this type.
    Btf(&'static str),
    /// Memory whose size is only known when the program is attached, which it may not write, or null.
    RdonlyBufOrNull,
    /// Memory whose size is only known when the program is attached, or null.
    BufOrNull,
}

impl CtxField {
    /// A number of 4 bytes, readable in parts.
    #[must_use]
    pub const fn word(name: &'static str, offset: u16) -> Self {
        Self {
            name,
            offset,
            size: 4,
            kind: CtxFieldKind::Scalar,
            read: true,
            write: false,
            narrow: Narrow::Any,
            write_narrow: false,
            wide8: false,
            rt: None,
        }
    }

    /// A readable whole of this kind and size.
    #[must_use]
    pub const fn new(name: &'static str, offset: u16, size: u8, kind: CtxFieldKind) -> Self {
        Self { size, kind, narrow: Narrow::No, ..Self::word(name, offset) }
    }

    /// Only readable as a whole.
    #[must_use]
    pub const fn whole(mut self) -> Self {
        self.narrow = Narrow::No;
        self
    }

    /// Readable in parts from its start.
    #[must_use]
    pub const fn start(mut self) -> Self {
        self.narrow = Narrow::Start;
        self
    }

    /// Readable in any part.
    #[must_use]
    pub const fn parts(mut self) -> Self {
        self.narrow = Narrow::Any;
        self
    }

    /// Of this size.
    #[must_use]
    pub const fn sized(mut self, size: u8) -> Self {
        self.size = size;
        self
    }

    /// Writable as a whole.
    #[must_use]
    pub const fn writable(mut self) -> Self {
        self.write = true;
        self
    }

    /// Writable as a whole and in the parts that are readable.
    #[must_use]
    pub const fn writable_parts(mut self) -> Self {
        self.write = true;
        self.write_narrow = true;
        self
    }

    /// Of an embedder's packet pointer: programs may write the bytes that it points to. The pointer itself stays read-only.
    #[must_use]
    pub const fn writable_bytes(mut self) -> Self {
        self.write_narrow = true;
        self
    }

    /// Accessible with 8 bytes too.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.wide8 = true;
        self
    }

    /// Kept in the run-time word at `offset`.
    #[must_use]
    pub const fn at_rt(mut self, offset: u16) -> Self {
        self.rt = Some((offset, 8));
        self
    }

    /// Whether this access is one of the field's.
    #[must_use]
    pub fn allows(&self, offset: u32, size: u32, write: bool) -> bool {
        if write && !self.write || !write && !self.read {
            return false;
        }
        let start = u32::from(self.offset);
        let whole = u32::from(self.size);
        let Some(inside) = offset.checked_sub(start) else { return false };
        if inside == 0 && (size == whole || (self.wide8 && size == 8)) {
            return true;
        }
        if size >= whole || !size.is_power_of_two() || (write && !self.write_narrow) {
            return false;
        }
        match self.narrow {
            Narrow::No => false,
            Narrow::Start => inside == 0,
            Narrow::Any => inside.is_multiple_of(size) && inside.saturating_add(size) <= whole,
        }
    }
}

/// What [`CtxLayout::find`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CtxAccess<'a> {
    /// A field, or a part of one.
    Field(&'a CtxField),
    /// Plain memory: a number.
    Region,
}

impl CtxLayout {
    /// The structure `name` of `size` bytes, whose fields are their own storage.
    #[must_use]
    pub fn new(name: &'static str, size: u32, fields: Vec<CtxField>) -> Self {
        Self {
            name: Cow::Borrowed(name),
            btf_name: Cow::Borrowed(name),
            size,
            rt_size: size,
            fields: Cow::Owned(fields),
            region: None,
        }
    }

    /// What an access of `size` bytes at `offset` reaches, or `None`: `invalid bpf_context access off=… size=…`.
    #[must_use]
    pub fn find(&self, offset: u32, size: u32, write: bool) -> Option<CtxAccess<'_>> {
        if let Some(field) = self.fields.iter().find(|field| field.allows(offset, size, write)) {
            return Some(CtxAccess::Field(field));
        }
        let region = self.region?;
        let inside = offset >= region.start && offset.checked_add(size)? <= region.end;
        let aligned = matches!(size, 1 | 2 | 4 | 8) && offset.is_multiple_of(size);
        (inside && aligned && (region.write || !write)).then_some(CtxAccess::Region)
    }

    /// The field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&CtxField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether some field is a packet pointer.
    #[must_use]
    pub fn has_packet(&self) -> bool {
        self.fields.iter().any(|field| field.kind == CtxFieldKind::PacketData)
    }

    /// A layout of the tables.
    const fn fixed(name: &'static str, size: u32, rt_size: u32, fields: &'static [CtxField]) -> Self {
        Self {
            name: Cow::Borrowed(name),
            btf_name: Cow::Borrowed(name),
            size,
            rt_size,
            fields: Cow::Borrowed(fields),
            region: None,
        }
    }

    const fn with_region(mut self, start: u32, end: u32, write: bool) -> Self {
        self.region = Some(CtxRegion { start, end, write });
        self
    }
}

/// The context of a program type at its most common attach type.
///
/// `None` for types whose context is described by BTF: tracing, LSM, `struct_ops`, and extensions.
#[must_use]
pub fn ctx_layout(prog: ProgType) -> Option<&'static CtxLayout> {
    use AttachType as A;
    let attach = match prog {
        ProgType::CgroupSock => A::CgroupInetSockCreate,
        ProgType::CgroupSockAddr => A::CgroupInet4Connect,
        ProgType::CgroupSockopt => A::CgroupSetsockopt,
        ProgType::Xdp => A::Xdp,
        _ => A::default(),
    };
    ctx_layout_for(prog, attach)
}

/// Whether this access to the context takes CAP_BPF: `cgroup_skb` programs that everybody may load see no packet and set no
/// time stamp.
#[must_use]
pub fn access_needs_bpf(prog: ProgType, off: u32, write: bool) -> bool {
    const DATA_AND_END: std::ops::Range<u32> = 76..84;
    const TSTAMP: std::ops::Range<u32> = 152..160;
    prog == ProgType::CgroupSkb && (DATA_AND_END.contains(&off) || (write && TSTAMP.contains(&off)))
}

/// The context of a program type at this attach type.
#[must_use]
pub fn ctx_layout_for(prog: ProgType, attach: AttachType) -> Option<&'static CtxLayout> {
    use ProgType as P;
    Some(match prog {
        P::SocketFilter => &skb::SOCKET_FILTER,
        P::SchedCls | P::SchedAct => &skb::SCHED,
        P::CgroupSkb => &skb::CGROUP_SKB,
        P::LwtIn | P::LwtOut | P::LwtXmit | P::LwtSeg6local => &skb::LWT,
        P::SkSkb => &skb::SK_SKB,
        P::FlowDissector => &skb::FLOW_DISSECTOR,
        P::Xdp if attach == AttachType::XdpDevmap => &xdp::XDP_DEVMAP,
        P::Xdp => &xdp::XDP,
        P::Kprobe => &trace::KPROBE,
        P::Tracepoint => &trace::TRACEPOINT,
        P::PerfEvent => &trace::PERF_EVENT,
        P::RawTracepoint => &trace::RAW_TP,
        P::RawTracepointWritable => &trace::RAW_TP_WRITABLE,
        P::Syscall => &trace::SYSCALL,
        P::Netfilter => &trace::NETFILTER,
        P::LircMode2 => &trace::LIRC,
        P::CgroupSock => sock::cgroup_sock(attach),
        P::CgroupSockAddr => sock::sock_addr(attach),
        P::SockOps => &sock::SOCK_OPS,
        P::SkMsg => &sock::SK_MSG,
        P::SkLookup => &sock::SK_LOOKUP,
        P::SkReuseport => &sock::SK_REUSEPORT,
        P::CgroupDevice => &sock::CGROUP_DEVICE,
        P::CgroupSysctl => &sock::CGROUP_SYSCTL,
        P::CgroupSockopt if attach == AttachType::CgroupGetsockopt => &sock::GETSOCKOPT,
        P::CgroupSockopt => &sock::SETSOCKOPT,
        P::Tracing | P::Lsm | P::StructOps | P::Ext => return None,
    })
}
