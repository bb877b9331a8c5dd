//! Contexts that an embedder describes in Rust.
//!
//! A `#[repr(C)]` struct, and a table of its fields that the verifier checks accesses against. Packet pointers are real
//! 8-byte fields of the struct. Invariant: the layout lies inside the struct. Kernel counterpart: none; in the kernel each
//! program type has code of its own (`struct bpf_verifier_ops`).

use std::any::TypeId;
use std::ptr::NonNull;

use skep_abi::ctx::{CtxFieldKind, CtxLayout};

use super::{Context, CtxParts, CtxType, Packet};

/// A struct that programs get in r1.
///
/// # Safety
/// The type is `repr(C)`, has no padding inside the readable fields of its layout, and every bit pattern is valid for the
/// writable ones. Where the layout has packet pointers, they delimit memory that is valid, initialised and unaliased
/// whenever the value is passed to a run, and both are null when there is no packet. Programs write its bytes only where
/// the layout says so ([`CtxField::writable_bytes`](skep_abi::ctx::CtxField::writable_bytes)).
pub unsafe trait UserContext: Sized + 'static {
    /// The fields, as the verifier sees them.
    fn layout() -> CtxLayout;

    /// First byte and end of the packet, for the interpreter's checks: the values of the packet-pointer fields.
    fn packet(&self) -> Option<(u64, u64)> {
        None
    }
}

/// A checked description of an embedder's context.
#[derive(Clone, Debug)]
pub struct UserLayout {
    layout: CtxLayout,
    writable: u32,
}

impl UserLayout {
    /// A description; `None` if a field lies outside of `size_of::<T>()` or overlaps another.
    #[must_use]
    pub fn new<T: UserContext>(layout: CtxLayout) -> Option<Self> {
        let end = u32::try_from(size_of::<T>()).ok()?;
        if layout.size > end || layout.rt_size > end {
            return None;
        }
        let mut fields: Vec<_> = layout.fields.iter().collect();
        fields.sort_by_key(|field| field.offset);
        let mut from = 0;
        let mut writable = 0;
        for field in fields {
            let offset = u32::from(field.offset);
            let to = offset + u32::from(field.size);
            let pointer = !matches!(field.kind, CtxFieldKind::Scalar);
            if offset < from || to > layout.size || (pointer && (field.size != 8 || field.write)) {
                return None;
            }
            from = to;
            if field.write {
                writable = to;
            }
        }
        Some(Self { layout, writable })
    }

    /// The verifier's table.
    #[must_use]
    pub fn layout(&self) -> &CtxLayout {
        &self.layout
    }

    /// End of the last writable field.
    #[must_use]
    pub fn writable(&self) -> u32 {
        self.writable
    }
}

// SAFETY: `UserContext` promises what `Context` asks for.
unsafe impl<T: UserContext> Context for T {
    const TYPE: CtxType = CtxType::User(TypeId::of::<T>());

    #[inline]
    fn parts(&mut self) -> CtxParts {
        let packet = self.packet().map_or(Packet::None, |(start, end)| Packet::Bytes(start, end));
        let len = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        CtxParts::plain(NonNull::from(self).cast(), len, len).with_packet(packet)
    }
}
