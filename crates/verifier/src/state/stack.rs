//! A frame's stack: eight bytes per slot, each byte with a meaning.
//!
//! Owns slot contents. Invariant: `reg` is meaningful only where a byte is `Spill`, `Dynptr` or `Iter`. Slot `i` holds the
//! bytes at `fp - 8 * (i + 1)`; byte `j` of a slot is at `fp - 8 * i - 1 - j`, so byte 7 is the lowest address.
//! Kernel counterpart: `struct bpf_stack_state`, include/linux/bpf_verifier.h, 6.18.

use super::reg::Reg;

/// Bytes of a slot.
pub const SLOT: usize = 8;
/// Bytes of a frame.
pub const MAX_STACK: i64 = 512;

/// What one stack byte holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ByteKind {
    /// Never written.
    Invalid,
    /// Part of a spilled register.
    Spill,
    /// Some data.
    Misc,
    /// Known zero.
    Zero,
    /// Part of a dynptr.
    Dynptr,
    /// Part of an iterator.
    Iter,
    /// Saved interrupt flags.
    IrqFlag,
}

impl ByteKind {
    /// The log's letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Invalid => '?',
            Self::Spill => 'r',
            Self::Misc => 'm',
            Self::Zero => '0',
            Self::Dynptr => 'd',
            Self::Iter => 'i',
            Self::IrqFlag => 'f',
        }
    }
}

/// Eight bytes of stack.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Slot {
    /// The spilled register or special object.
    pub reg: Reg,
    /// Byte by byte, index 7 is the lowest address.
    pub bytes: [ByteKind; SLOT],
}

impl Slot {
    /// Never written.
    pub const EMPTY: Self = Self { reg: Reg::NOT_INIT, bytes: [ByteKind::Invalid; SLOT] };

    /// A whole register or the low part of one is spilled here.
    #[must_use]
    pub fn is_spilled(&self) -> bool {
        self.bytes[SLOT - 1] == ByteKind::Spill
    }

    /// A scalar is spilled here, whole or in part.
    #[must_use]
    pub fn is_spilled_scalar(&self) -> bool {
        self.is_spilled() && self.reg.is_scalar()
    }

    /// All eight bytes belong to one spilled scalar.
    #[must_use]
    pub fn is_spilled_scalar64(&self) -> bool {
        self.bytes[0] == ByteKind::Spill && self.reg.is_scalar()
    }

    /// A dynptr, an iterator or saved flags.
    #[must_use]
    pub fn is_special(&self) -> bool {
        matches!(self.bytes[SLOT - 1], ByteKind::Dynptr | ByteKind::Iter | ByteKind::IrqFlag)
    }

    /// Writes a register over the `size` bytes from the lowest address; `keep_invalid` leaves unwritten bytes above as such.
    pub fn save(&mut self, reg: Reg, size: usize, keep_invalid: bool) {
        self.reg = reg;
        for (j, byte) in self.bytes.iter_mut().enumerate() {
            if j >= SLOT.saturating_sub(size) {
                *byte = ByteKind::Spill;
            } else if *byte != ByteKind::Zero && !(keep_invalid && *byte == ByteKind::Invalid) {
                *byte = ByteKind::Misc;
            }
        }
    }

    /// What was written becomes plain data, and the register in it is forgotten.
    pub fn scrub(&mut self) {
        for byte in &mut self.bytes {
            if *byte != ByteKind::Invalid {
                *byte = ByteKind::Misc;
            }
        }
    }

    /// A write of data is about to destroy the register or object here.
    pub fn scrub_special(&mut self) {
        self.reg = Reg::NOT_INIT;
        if self.is_spilled() || self.is_special() {
            self.scrub();
        }
    }
}
