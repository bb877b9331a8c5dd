//! Atomic instructions of the interpreter.
//!
//! Invariant: each is one atomic operation of the host on the program's memory. Kernel counterpart: the `ATOMIC` cases of
//! `___bpf_prog_run`, kernel/bpf/core.c, 6.18.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use skep_abi::{AtomicOp, Size};

use super::memory::Kind;
use super::{FaultKind, Interp, Stopped};

impl Interp<'_> {
    fn check_aligned(&self, insn: usize, address: u64, size: Size, kind: Kind) -> Result<(), Stopped> {
        let len = u64::from(size.bytes());
        self.check(insn, address, len, kind)?;
        if !address.is_multiple_of(len) {
            self.stop(insn, FaultKind::Unaligned { address, len })?;
        }
        Ok(())
    }

    /// Read-modify-write; returns the old value, zero-extended. `compare` is r0, for `Cmpxchg`.
    pub(super) fn atomic(
        &self,
        insn: usize,
        op: AtomicOp,
        (address, size): (u64, Size),
        value: u64,
        compare: u64,
    ) -> Result<u64, Stopped> {
        self.check_aligned(insn, address, size, Kind::Write)?;
        if size == Size::Dw {
            // SAFETY: writable and aligned (checked above); map values are shared with other runs through atomics.
            let cell = unsafe { AtomicU64::from_ptr(address as usize as *mut u64) };
            Ok(atomic64(cell, op, value, compare))
        } else {
            // SAFETY: as above.
            let cell = unsafe { AtomicU32::from_ptr(address as usize as *mut u32) };
            Ok(u64::from(atomic32(cell, op, value, compare)))
        }
    }

    /// Load with acquire ordering, zero-extended.
    pub(super) fn load_acquire(&self, insn: usize, address: u64, size: Size) -> Result<u64, Stopped> {
        self.check_aligned(insn, address, size, Kind::Read)?;
        let at = address as usize;
        Ok(match size {
            // SAFETY: readable and aligned (checked above).
            Size::B => u64::from(unsafe { &*(at as *const AtomicU8) }.load(Ordering::Acquire)),
            // SAFETY: as above.
            Size::H => u64::from(unsafe { &*(at as *const AtomicU16) }.load(Ordering::Acquire)),
            // SAFETY: as above.
            Size::W => u64::from(unsafe { &*(at as *const AtomicU32) }.load(Ordering::Acquire)),
            // SAFETY: as above.
            Size::Dw => unsafe { &*(at as *const AtomicU64) }.load(Ordering::Acquire),
        })
    }

    /// Store with release ordering.
    #[expect(clippy::cast_possible_truncation, reason = "a store takes the low bytes")]
    pub(super) fn store_release(&self, insn: usize, address: u64, size: Size, value: u64) -> Result<(), Stopped> {
        self.check_aligned(insn, address, size, Kind::Write)?;
        let at = address as usize;
        match size {
            // SAFETY: writable and aligned (checked above).
            Size::B => unsafe { &*(at as *const AtomicU8) }.store(value as u8, Ordering::Release),
            // SAFETY: as above.
            Size::H => unsafe { &*(at as *const AtomicU16) }.store(value as u16, Ordering::Release),
            // SAFETY: as above.
            Size::W => unsafe { &*(at as *const AtomicU32) }.store(value as u32, Ordering::Release),
            // SAFETY: as above.
            Size::Dw => unsafe { &*(at as *const AtomicU64) }.store(value, Ordering::Release),
        }
        Ok(())
    }
}

/// One operation on a cell of 64 bits; the old value.
pub(crate) fn atomic64(cell: &AtomicU64, op: AtomicOp, value: u64, compare: u64) -> u64 {
    match op {
        AtomicOp::Add => cell.fetch_add(value, Ordering::SeqCst),
        AtomicOp::Or => cell.fetch_or(value, Ordering::SeqCst),
        AtomicOp::And => cell.fetch_and(value, Ordering::SeqCst),
        AtomicOp::Xor => cell.fetch_xor(value, Ordering::SeqCst),
        AtomicOp::Xchg => cell.swap(value, Ordering::SeqCst),
        AtomicOp::Cmpxchg => {
            cell.compare_exchange(compare, value, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|old| old)
        }
    }
}

/// One operation on a cell of 32 bits; the old value.
#[expect(clippy::cast_possible_truncation, reason = "32-bit operations use the low half of the registers")]
pub(crate) fn atomic32(cell: &AtomicU32, op: AtomicOp, value: u64, compare: u64) -> u32 {
    let value = value as u32;
    match op {
        AtomicOp::Add => cell.fetch_add(value, Ordering::SeqCst),
        AtomicOp::Or => cell.fetch_or(value, Ordering::SeqCst),
        AtomicOp::And => cell.fetch_and(value, Ordering::SeqCst),
        AtomicOp::Xor => cell.fetch_xor(value, Ordering::SeqCst),
        AtomicOp::Xchg => cell.swap(value, Ordering::SeqCst),
        AtomicOp::Cmpxchg => {
            cell.compare_exchange(compare as u32, value, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|old| old)
        }
    }
}
