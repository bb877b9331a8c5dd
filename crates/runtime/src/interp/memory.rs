//! The memory that a run may touch, and loads and stores that are tested against it.
//!
//! Invariant: [`Interp::check`] returns `Ok` only for bytes that stay valid for the rest of the run. Kernel counterpart:
//! none; the kernel relies on its verifier.

use skep_abi::Size;

use super::{FaultKind, Interp, Stopped};
use crate::frame::EXCEPTION_WORDS;
use crate::map::MapRef;
use crate::object;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

impl Interp<'_> {
    /// Tests that the run may access these bytes.
    pub(super) fn check(&self, insn: usize, address: u64, len: u64, kind: Kind) -> Result<(), Stopped> {
        if len == 0 || self.allowed(address, len, kind) {
            return Ok(());
        }
        let fault = match kind {
            Kind::Read => FaultKind::Read { address, len },
            Kind::Write => FaultKind::Write { address, len },
        };
        self.stop(insn, fault).map(|never| match never {})
    }

    /// Whether a helper may read these bytes for the program.
    pub(crate) fn may_read(&self, address: u64, len: u64) -> bool {
        let inside = |map: &MapRef| map.ops().contains_inside(address, len).is_some_and(|access| access.read);
        self.allowed(address, len, Kind::Read)
            || self.program.get().maps.iter().any(inside)
            || self.callers.borrow().iter().any(|caller| caller.maps.iter().any(inside))
    }

    fn allowed(&self, address: u64, len: u64, kind: Kind) -> bool {
        let inside = |start: u64, end: u64| address >= start && address <= end && len <= end - address;
        if inside(self.stack_low.get(), self.stack.1) {
            return true;
        }
        let exception = (self.cpu_base.as_ptr() as u64).wrapping_add(u64::from(EXCEPTION_WORDS.unsigned_abs()));
        if inside(exception, exception + 16) {
            return true;
        }
        let ctx = self.ctx.object() as u64;
        let ctx_len = if kind == Kind::Write { self.ctx.writable_len() } else { self.ctx.readable_len() };
        if inside(ctx, ctx + u64::from(ctx_len)) {
            return true;
        }
        if let Some((start, end)) = self.ctx.packet_bounds()
            && inside(start, end)
        {
            return true;
        }
        let in_value = |map: &MapRef| {
            let access = map.ops().contains(address, len);
            access.is_some_and(|access| if kind == Kind::Read { access.read } else { access.write })
        };
        if self.program.get().maps.iter().any(in_value) {
            return true;
        }
        if self.callers.borrow().iter().any(|caller| caller.maps.iter().any(in_value)) {
            return true;
        }
        if self.inner_map_contains(address, len, kind) {
            return true;
        }
        if object::contains(address, len) {
            return true;
        }
        self.granted.borrow().iter().any(|g| inside(g.start, g.start + g.len) && (g.writable || kind == Kind::Read))
    }

    /// Loads and zero-extends.
    pub(super) fn load(&self, insn: usize, address: u64, size: Size) -> Result<u64, Stopped> {
        self.check(insn, address, u64::from(size.bytes()), Kind::Read)?;
        // SAFETY: readable (checked above). Another run may write a map value meanwhile, as it may in the kernel: the access
        // is volatile, so that nothing is assumed about the bytes.
        Ok(unsafe { read(address, size) })
    }

    /// Stores the low bytes of `value`.
    pub(super) fn store(&self, insn: usize, address: u64, size: Size, value: u64) -> Result<(), Stopped> {
        self.check(insn, address, u64::from(size.bytes()), Kind::Write)?;
        // SAFETY: writable (checked above); volatile as in `load`.
        unsafe { write(address, size, value) };
        Ok(())
    }
}

/// # Safety
/// The bytes are readable.
pub(crate) unsafe fn read(address: u64, size: Size) -> u64 {
    let at = address as usize as *const u8;
    let aligned = address.is_multiple_of(u64::from(size.bytes()));
    match (size, aligned) {
        // SAFETY: readable (caller).
        (Size::B, _) => u64::from(unsafe { at.read_volatile() }),
        // SAFETY: readable (caller) and aligned.
        (Size::H, true) => u64::from(unsafe { at.cast::<u16>().read_volatile() }),
        // SAFETY: as above.
        (Size::W, true) => u64::from(unsafe { at.cast::<u32>().read_volatile() }),
        // SAFETY: as above.
        (Size::Dw, true) => unsafe { at.cast::<u64>().read_volatile() },
        // SAFETY: readable (caller).
        (Size::H, false) => u64::from(unsafe { at.cast::<u16>().read_unaligned() }),
        // SAFETY: as above.
        (Size::W, false) => u64::from(unsafe { at.cast::<u32>().read_unaligned() }),
        // SAFETY: as above.
        (Size::Dw, false) => unsafe { at.cast::<u64>().read_unaligned() },
    }
}

/// # Safety
/// The bytes are writable.
#[expect(clippy::cast_possible_truncation, reason = "a store takes the low bytes")]
pub(crate) unsafe fn write(address: u64, size: Size, value: u64) {
    let at = address as usize as *mut u8;
    let aligned = address.is_multiple_of(u64::from(size.bytes()));
    match (size, aligned) {
        // SAFETY: writable (caller).
        (Size::B, _) => unsafe { at.write_volatile(value as u8) },
        // SAFETY: writable (caller) and aligned.
        (Size::H, true) => unsafe { at.cast::<u16>().write_volatile(value as u16) },
        // SAFETY: as above.
        (Size::W, true) => unsafe { at.cast::<u32>().write_volatile(value as u32) },
        // SAFETY: as above.
        (Size::Dw, true) => unsafe { at.cast::<u64>().write_volatile(value) },
        // SAFETY: writable (caller).
        (Size::H, false) => unsafe { at.cast::<u16>().write_unaligned(value as u16) },
        // SAFETY: as above.
        (Size::W, false) => unsafe { at.cast::<u32>().write_unaligned(value as u32) },
        // SAFETY: as above.
        (Size::Dw, false) => unsafe { at.cast::<u64>().write_unaligned(value) },
    }
}
