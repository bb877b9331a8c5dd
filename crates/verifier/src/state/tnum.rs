//! Tristate numbers: what is known of each bit of a 64-bit value.
//!
//! A bit is 0, 1 or unknown; `mask` has a one for each unknown bit, `value` the known ones. Invariant: `value & mask` is
//! 0 for every number made here. Each operator over-approximates: if `a` contains `x` and `b` contains `y`, then
//! `a op b` contains `x op y` (proved exhaustively for small widths in `tests`). The results are as precise as the
//! kernel's, not more: register states are compared and printed with them.
//! Kernel counterpart: kernel/bpf/tnum.c, 6.18.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitXor};

/// A tristate number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tnum {
    /// The bits known to be one.
    pub value: u64,
    /// The unknown bits.
    pub mask: u64,
}

impl Tnum {
    /// Nothing known.
    pub const UNKNOWN: Self = Self::new(0, u64::MAX);
    /// The constant 0.
    pub const ZERO: Self = Self::constant(0);
    /// The unknown 32-bit value, zero-extended.
    pub const UNKNOWN_U32: Self = Self::new(0, LOW32);

    /// From known ones and unknown bits, which must not overlap.
    #[must_use]
    pub const fn new(value: u64, mask: u64) -> Self {
        Self { value, mask }
    }

    /// Exactly `value`.
    #[must_use]
    pub const fn constant(value: u64) -> Self {
        Self::new(value, 0)
    }

    /// The smallest tristate number that holds all of `min..=max`: their common high bits.
    #[must_use]
    pub const fn range(min: u64, max: u64) -> Self {
        let low = low_bits(u64::BITS - (min ^ max).leading_zeros());
        Self::new(min & !low, low)
    }

    /// Every bit is known.
    #[must_use]
    pub const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// Each of the low 32 bits is known (`tnum_subreg_is_const`).
    #[must_use]
    pub const fn is_const_low32(self) -> bool {
        self.mask & LOW32 == 0
    }

    /// No bit is known.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.mask == u64::MAX
    }

    /// The smallest value, unsigned.
    #[must_use]
    pub const fn min(self) -> u64 {
        self.value
    }

    /// The largest value, unsigned.
    #[must_use]
    pub const fn max(self) -> u64 {
        self.value | self.mask
    }

    /// The smallest value that is not below `floor`.
    ///
    /// At the highest bit where `floor` contradicts a known bit: if the known bit is one, the rest is the least
    /// possible; if it is zero, the next free zero bit above has to rise.
    #[must_use]
    pub const fn at_least(self, floor: u64) -> Option<u64> {
        let conflicts = (floor ^ self.value) & !self.mask;
        if conflicts == 0 {
            return Some(floor);
        }
        let upto = low_bits(u64::BITS - conflicts.leading_zeros());
        let top = upto ^ (upto >> 1);
        if self.value & top != 0 {
            return Some(floor & !upto | self.value & upto);
        }
        let free = self.mask & !floor & !upto;
        if free == 0 {
            return None;
        }
        let rise = free & free.wrapping_neg();
        Some(floor & !(rise | (rise - 1)) | rise | self.value & (rise - 1))
    }

    /// Whether it can be `concrete`.
    #[must_use]
    pub const fn contains(self, concrete: u64) -> bool {
        concrete & !self.mask == self.value
    }

    /// Whether everything it can be, `other` can be (`tnum_in(other, self)`).
    #[must_use]
    pub const fn subset_of(self, other: Self) -> bool {
        self.mask & !other.mask == 0 && other.contains(self.value)
    }

    /// Whether some value is in both (`tnum_overlap`).
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        (self.value ^ other.value) & !(self.mask | other.mask) == 0
    }

    /// What both allow. Where they contradict each other, the bit is one, as in the kernel.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        let mask = self.mask & other.mask;
        Self::new((self.value | other.value) & !mask, mask)
    }

    /// What either allows.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        let mask = self.mask | other.mask | (self.value ^ other.value);
        Self::new(self.value & !mask, mask)
    }

    /// Sum modulo 2^64. The carries of the smallest and the largest operands differ exactly where a carry is unknown.
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        let least = self.value.wrapping_add(other.value);
        let most = least.wrapping_add(self.mask.wrapping_add(other.mask));
        Self::settle(least, (least ^ most) | self.mask | other.mask)
    }

    /// Difference modulo 2^64; borrows are unknown where the extreme operands borrow differently.
    #[must_use]
    pub const fn sub(self, other: Self) -> Self {
        let known = self.value.wrapping_sub(other.value);
        let most = known.wrapping_add(self.mask);
        let least = known.wrapping_sub(other.mask);
        Self::settle(known, (least ^ most) | self.mask | other.mask)
    }

    /// Two's complement negation.
    #[must_use]
    pub const fn neg(self) -> Self {
        Self::ZERO.sub(self)
    }

    /// Product modulo 2^64, by long multiplication: a known one adds the shifted multiplicand, an unknown bit joins the
    /// sums with and without it. Once all bits from a place on are unknown, what is added there changes nothing.
    #[must_use]
    pub const fn mul(self, other: Self) -> Self {
        let mut sum = Self::ZERO;
        let mut bits = self.max();
        while bits != 0 {
            let place = bits.trailing_zeros();
            if sum.mask >> place == u64::MAX >> place {
                break;
            }
            bits &= bits - 1;
            let with = sum.add(Self::new(other.value << place, other.mask << place));
            sum = if (self.value >> place) & 1 == 1 { with } else { sum.union(with) };
        }
        sum
    }

    /// Shifted left by `shift`, which is below 64; a larger one gives unknown.
    #[must_use]
    pub const fn lshift(self, shift: u8) -> Self {
        match (self.value.checked_shl(shift as u32), self.mask.checked_shl(shift as u32)) {
            (Some(value), Some(mask)) => Self::new(value, mask),
            _ => Self::UNKNOWN,
        }
    }

    /// Shifted right, zeros coming in, by `shift`, which is below 64; a larger one gives unknown.
    #[must_use]
    pub const fn rshift(self, shift: u8) -> Self {
        match (self.value.checked_shr(shift as u32), self.mask.checked_shr(shift as u32)) {
            (Some(value), Some(mask)) => Self::new(value, mask),
            _ => Self::UNKNOWN,
        }
    }

    /// Shifted right with copies of bit `bits - 1` coming in; `bits` is 32 or 64, and `shift` below it. The 32-bit form
    /// looks at the low half only and gives a zero-extended result.
    #[must_use]
    pub const fn arshift(self, shift: u8, bits: u8) -> Self {
        if shift >= bits {
            return Self::UNKNOWN;
        }
        if bits == 32 {
            let value = (low_signed(self.value) >> shift).cast_unsigned();
            let mask = (low_signed(self.mask) >> shift).cast_unsigned();
            Self::new(value as u64, mask as u64)
        } else {
            let value = (self.value.cast_signed() >> shift).cast_unsigned();
            let mask = (self.mask.cast_signed() >> shift).cast_unsigned();
            Self::new(value, mask)
        }
    }

    /// The low `bytes` bytes, zero-extended.
    #[must_use]
    pub const fn cast(self, bytes: u8) -> Self {
        let keep = low_bits(bytes as u32 * 8);
        Self::new(self.value & keep, self.mask & keep)
    }

    /// The low 32 bits, zero-extended.
    #[must_use]
    pub const fn subreg(self) -> Self {
        self.cast(4)
    }

    /// With the low 32 bits zero.
    #[must_use]
    pub const fn clear_subreg(self) -> Self {
        Self::new(self.value & !LOW32, self.mask & !LOW32)
    }

    /// With the low 32 bits of `low`.
    #[must_use]
    pub const fn with_subreg(self, low: Self) -> Self {
        let (high, low) = (self.clear_subreg(), low.subreg());
        Self::new(high.value | low.value, high.mask | low.mask)
    }

    /// Whether every value is a multiple of `size`, a power of two; 0 asks for nothing.
    #[must_use]
    pub const fn is_aligned(self, size: u64) -> bool {
        size == 0 || self.max() & (size - 1) == 0
    }

    /// The low `bits` (16, 32 or 64) with their bytes reversed, zero-extended.
    #[must_use]
    pub const fn bswap(self, bits: u8) -> Self {
        let down = 64 - bits as u32;
        Self::new(self.value.swap_bytes() >> down, self.mask.swap_bytes() >> down)
    }

    /// `value` with the unknown bits taken out.
    const fn settle(value: u64, mask: u64) -> Self {
        Self::new(value & !mask, mask)
    }
}

impl BitAnd for Tnum {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        let ones = self.value & other.value;
        Self::new(ones, self.max() & other.max() & !ones)
    }
}

impl BitOr for Tnum {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        let ones = self.value | other.value;
        Self::new(ones, (self.mask | other.mask) & !ones)
    }
}

impl BitXor for Tnum {
    type Output = Self;

    fn bitxor(self, other: Self) -> Self {
        Self::settle(self.value ^ other.value, self.mask | other.mask)
    }
}

/// `(0x40; 0x3f)`, value and mask, or the number if it is known, as in the kernel's log.
impl fmt::Display for Tnum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_const() {
            return if self.value <= 0xffff { write!(f, "{}", self.value) } else { write!(f, "{:#x}", self.value) };
        }
        write!(f, "({:#x}; {:#x})", self.value, self.mask)
    }
}

impl fmt::Debug for Tnum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const LOW32: u64 = 0xffff_ffff;

/// A word with its low `count` bits set; all of them from 64 on.
const fn low_bits(count: u32) -> u64 {
    match u64::MAX.checked_shl(count) {
        Some(high) => !high,
        None => u64::MAX,
    }
}

/// The low half as a signed number.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low_signed(word: u64) -> i32 {
    word as i32
}

#[cfg(test)]
#[path = "tnum_tests.rs"]
mod tests;
