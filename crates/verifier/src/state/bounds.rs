//! What is known of a scalar: its bits, and the intervals it lies in as u64, i64, u32 and i32.
//!
//! The five views describe one value; [`Bounds::sync`] carries what one has learnt into the others. Invariant: the
//! value is in all five views at once (each operation only ever loses information about it). An interval with
//! `min > max` or a contradiction between views can arise on a branch that no execution takes; [`Bounds::check`] finds
//! it. Kernel counterpart: `reg_bounds_sync` and the fields of `struct bpf_reg_state`, kernel/bpf/verifier.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer throughout"
)]

use skep_abi::Width;

use super::tnum::Tnum;

/// The values from `min` to `max`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Interval<T> {
    /// Smallest.
    pub min: T,
    /// Largest.
    pub max: T,
}

/// An integer type with its extremes.
pub trait Integer: Copy + Ord {
    /// Smallest value.
    const MIN: Self;
    /// Largest value.
    const MAX: Self;

    /// One more, wrapping.
    #[must_use]
    fn next(self) -> Self;

    /// One less, wrapping.
    #[must_use]
    fn previous(self) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => { $(
        impl Integer for $t {
            const MIN: Self = <$t>::MIN;
            const MAX: Self = <$t>::MAX;

            fn next(self) -> Self {
                self.wrapping_add(1)
            }

            fn previous(self) -> Self {
                self.wrapping_sub(1)
            }
        }
    )* };
}
integers!(u64 i64 u32 i32);

impl<T: Integer> Interval<T> {
    /// Every value of the type.
    pub const FULL: Self = Self { min: T::MIN, max: T::MAX };

    /// `min..=max`, as given: it may be empty.
    #[must_use]
    pub const fn new(min: T, max: T) -> Self {
        Self { min, max }
    }

    /// One value.
    #[must_use]
    pub const fn constant(value: T) -> Self {
        Self::new(value, value)
    }

    /// Whether it is one value.
    #[must_use]
    pub fn is_const(self) -> bool {
        self.min == self.max
    }

    /// Whether it is every value.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.min == T::MIN && self.max == T::MAX
    }

    /// Whether it has no value.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.min > self.max
    }

    /// Whether `value` is in it.
    #[must_use]
    pub fn contains(self, value: T) -> bool {
        self.min <= value && value <= self.max
    }

    /// Whether all of it is in `other`.
    #[must_use]
    pub fn within(self, other: Self) -> bool {
        other.min <= self.min && self.max <= other.max
    }

    /// Whether no value is in both.
    #[must_use]
    pub fn disjoint(self, other: Self) -> bool {
        self.min > other.max || self.max < other.min
    }

    /// What is in both.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self::new(self.min.max(other.min), self.max.min(other.max))
    }

    /// Keeps what is also in `other`.
    pub fn narrow(&mut self, other: Self) {
        *self = self.meet(other);
    }

    /// Both ends under `f`, when they are still in order: then `f` kept the interval in one piece.
    fn in_order<U: Integer>(self, f: impl Fn(T) -> U) -> Option<Interval<U>> {
        let image = Interval::new(f(self.min), f(self.max));
        (!image.is_empty()).then_some(image)
    }
}

/// What is known of a scalar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// Its bits.
    pub var_off: Tnum,
    /// As an unsigned 64-bit number.
    pub u64: Interval<u64>,
    /// As a signed 64-bit number.
    pub s64: Interval<i64>,
    /// Its low half, unsigned.
    pub u32: Interval<u32>,
    /// Its low half, signed.
    pub s32: Interval<i32>,
}

impl Bounds {
    /// Nothing known.
    pub const UNKNOWN: Self = Self {
        var_off: Tnum::UNKNOWN,
        u64: Interval::FULL,
        s64: Interval::FULL,
        u32: Interval::FULL,
        s32: Interval::FULL,
    };
    /// The constant 0.
    pub const ZERO: Self = Self::constant(0);

    /// Exactly `value`.
    #[must_use]
    pub const fn constant(value: u64) -> Self {
        Self {
            var_off: Tnum::constant(value),
            u64: Interval::constant(value),
            s64: Interval::constant(value as i64),
            u32: Interval::constant(value as u32),
            s32: Interval::constant(value as i32),
        }
    }

    /// Every bit is known (`tnum_is_const(reg->var_off)`).
    #[must_use]
    pub const fn is_const(&self) -> bool {
        self.var_off.is_const()
    }

    /// The value, if every bit is known.
    #[must_use]
    pub const fn const_value(&self) -> Option<u64> {
        if self.var_off.is_const() { Some(self.var_off.value) } else { None }
    }

    /// The low half, if each of its bits is known.
    #[must_use]
    pub const fn const32(&self) -> Option<u32> {
        if self.var_off.is_const_low32() { Some(self.var_off.value as u32) } else { None }
    }

    /// The constant as `width` sees it, zero-extended.
    #[must_use]
    pub fn const_in(&self, width: Width) -> Option<u64> {
        match width {
            Width::W32 => self.const32().map(u64::from),
            Width::W64 => self.const_value(),
        }
    }

    /// Nothing is known: `scalar()` in the log.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::UNKNOWN
    }

    /// Whether the upper half is known to be zero (`get_reg_width` up to 32).
    #[must_use]
    pub const fn fits_u32(&self) -> bool {
        self.u64.max <= u32::MAX as u64
    }

    /// Whether `value` is possible in every view.
    #[must_use]
    pub fn contains(&self, value: u64) -> bool {
        self.var_off.contains(value)
            && self.u64.contains(value)
            && self.s64.contains(value as i64)
            && self.u32.contains(value as u32)
            && self.s32.contains(value as i32)
    }

    /// Whether the intervals lie in those of `wider`; the bits are compared separately (`range_within`).
    #[must_use]
    pub fn range_within(&self, wider: &Self) -> bool {
        self.u64.within(wider.u64)
            && self.s64.within(wider.s64)
            && self.u32.within(wider.u32)
            && self.s32.within(wider.s32)
    }

    /// Whether intervals and bits lie in those of `wider`.
    #[must_use]
    pub fn within(&self, wider: &Self) -> bool {
        self.range_within(wider) && self.var_off.subset_of(wider.var_off)
    }

    /// Forgets every interval, keeps the bits.
    pub fn unbound(&mut self) {
        self.unbound64();
        self.unbound32();
    }

    /// Forgets the 64-bit intervals.
    pub fn unbound64(&mut self) {
        self.u64 = Interval::FULL;
        self.s64 = Interval::FULL;
    }

    /// Forgets the 32-bit intervals.
    pub fn unbound32(&mut self) {
        self.u32 = Interval::FULL;
        self.s32 = Interval::FULL;
    }

    /// The low half is `value`; the 64-bit intervals stay (`__mark_reg32_known`).
    pub(crate) fn set32(&mut self, value: u32) {
        self.var_off = self.var_off.with_subreg(Tnum::constant(u64::from(value)));
        self.u32 = Interval::constant(value);
        self.s32 = Interval::constant(value as i32);
    }

    /// Carries knowledge between the views until it settles for practice: intervals from bits, intervals from each
    /// other, bits from intervals, and once more intervals from bits.
    ///
    /// A step that taught nothing is not repeated: it would teach nothing again. `settles_as_without_short_cuts` holds this
    /// against all steps.
    pub fn sync(&mut self) {
        if self.is_const() && *self == Self::constant(self.var_off.value) {
            return;
        }
        // A copy that nothing points to, which the compiler keeps in registers.
        let mut views = *self;
        views.learn_from_bits();
        let first = views;
        // A third round reaches what a 32-bit fact says of a 64-bit sign, and that of a 32-bit interval.
        for _ in 0..3 {
            let before = views;
            views.deduce();
            if views == before {
                break;
            }
        }
        views.learn_bits();
        if views != first {
            views.learn_from_bits();
        }
        *self = views;
    }

    /// One round: intervals from each other.
    #[inline(always)]
    fn deduce(&mut self) {
        self.deduce32();
        self.deduce64();
        self.deduce_mixed();
    }

    /// The same, by value.
    #[must_use]
    pub fn synced(mut self) -> Self {
        self.sync();
        self
    }

    /// Finds a contradiction between the views, named as the kernel does. Only dead code has one.
    ///
    /// # Errors
    /// The kernel's words for the contradiction.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.u64.is_empty() || self.s64.is_empty() || self.u32.is_empty() || self.s32.is_empty() {
            return Err("range bounds violation");
        }
        if let Some(value) = self.const_value()
            && (self.u64 != Interval::constant(value) || self.s64 != Interval::constant(value as i64))
        {
            return Err("const tnum out of sync with range bounds");
        }
        if let Some(value) = self.const32()
            && (self.u32 != Interval::constant(value) || self.s32 != Interval::constant(value as i32))
        {
            return Err("const subreg tnum out of sync with range bounds");
        }
        Ok(())
    }

    /// The low half zero-extended to 64 bits, as every 32-bit operation leaves it (`zext_32_to_64`; not synced).
    pub fn zero_extend32(&mut self) {
        self.var_off = self.var_off.subreg();
        self.u64 = Interval::new(u64::from(self.u32.min), u64::from(self.u32.max));
        self.s64 = if self.s32.min >= 0 && self.s32.max >= self.s32.min {
            Interval::new(i64::from(self.s32.min), i64::from(self.s32.max))
        } else {
            Interval::new(0, i64::from(u32::MAX))
        };
    }

    /// The low `bytes` (1, 2, 4 or 8) zero-extended, as a narrow load of a spilled value gives it.
    pub fn truncate(&mut self, bytes: u8) {
        if bytes >= 8 {
            return;
        }
        let keep = u64::MAX >> (64 - 8 * u32::from(bytes));
        self.var_off = self.var_off.cast(bytes);
        self.u64 = if self.u64.min & !keep == self.u64.max & !keep {
            Interval::new(self.u64.min & keep, self.u64.max & keep)
        } else {
            Interval::new(0, keep)
        };
        self.s64 = Interval::new(self.u64.min as i64, self.u64.max as i64);
        if bytes < 4 {
            self.unbound32();
        }
        self.sync();
    }

    /// An unknown value of `bytes` bytes, zero-extended: a load from memory.
    #[must_use]
    pub fn unknown_bytes(bytes: u8) -> Self {
        let mut loaded = Self::UNKNOWN;
        loaded.truncate(bytes);
        loaded
    }

    /// `dst = (s8|s16|s32)src` or its 32-bit form, from a value with these bounds.
    #[must_use]
    pub fn movsx(&self, width: Width, bits: u8) -> Self {
        let mut extended = *self;
        match width {
            Width::W64 => extended.sign_extend(bits),
            Width::W32 => {
                extended.sign_extend32(bits);
                extended.zero_extend32();
                extended.sync();
            }
        }
        extended
    }

    /// The low `bits` (8, 16, 32) sign-extended to 64 (`coerce_reg_to_size_sx`).
    pub fn sign_extend(&mut self, bits: u8) {
        if let Some(value) = self.const_value() {
            *self = Self::constant(sign_extended(value, bits) as u64);
            return;
        }
        let same_top = self.s64.min >> bits == self.s64.max >> bits;
        let (a, b) = (sign_extended(self.s64.min as u64, bits), sign_extended(self.s64.max as u64, bits));
        let ends = Interval::new(a.min(b), a.max(b));
        if same_top && (ends.min >= 0) == (ends.max >= 0) {
            *self = Self {
                var_off: Tnum::range(ends.min as u64, ends.max as u64),
                u64: Interval::new(ends.min as u64, ends.max as u64),
                s64: ends,
                u32: Interval::new(ends.min as u32, ends.max as u32),
                s32: Interval::new(ends.min as i32, ends.max as i32),
            };
            return;
        }
        let s64 = signed_range(bits);
        *self = Self { s64, s32: Interval::new(s64.min as i32, s64.max as i32), ..Self::UNKNOWN };
    }

    /// The low `bits` (8, 16) sign-extended to 32; the upper half is left to [`Bounds::zero_extend32`]
    /// (`coerce_subreg_to_size_sx`).
    pub fn sign_extend32(&mut self, bits: u8) {
        if let Some(value) = self.const_value() {
            let value = sign_extended(value, bits) as u32;
            self.var_off = Tnum::constant(u64::from(value));
            self.u32 = Interval::constant(value);
            self.s32 = Interval::constant(value as i32);
            return;
        }
        let same_top = self.s32.min >> bits == self.s32.max >> bits;
        let low = |end: i32| sign_extended(end as u64, bits) as i32;
        let (a, b) = (low(self.s32.min), low(self.s32.max));
        let ends = Interval::new(a.min(b), a.max(b));
        if same_top && (ends.min >= 0) == (ends.max >= 0) {
            self.s32 = ends;
            self.u32 = Interval::new(ends.min as u32, ends.max as u32);
            self.var_off = Tnum::range(i64::from(ends.min) as u64, i64::from(ends.max) as u64).subreg();
            return;
        }
        let range = signed_range(bits);
        self.s32 = Interval::new(range.min as i32, range.max as i32);
        self.u32 = Interval::FULL;
        self.var_off = Tnum::UNKNOWN_U32;
    }

    /// Intervals from bits: the smallest and largest number that the known bits leave possible.
    #[inline(always)]
    pub(crate) fn learn_from_bits(&mut self) {
        self.learn_from_bits32();
        let Tnum { value, mask } = self.var_off;
        let sign = mask & (1 << 63);
        self.s64.narrow(Interval::new((value | sign) as i64, (value | (mask ^ sign)) as i64));
        self.u64.narrow(Interval::new(value, value | mask));
        if let Some(only) = self.only_value() {
            *self = Self::constant(only);
        }
    }

    /// The one value that has the known bits and lies in the unsigned interval, if there is no other. Where bits and
    /// interval contradict each other, a value of the bits.
    #[inline(always)]
    fn only_value(&self) -> Option<u64> {
        let most = self.var_off.max();
        let next = |floor: u64| self.var_off.at_least(floor).unwrap_or(most);
        let after = |value: u64| value.checked_add(1).map_or(most, next);
        let first = next(self.u64.min);
        let alone = if first == self.u64.min {
            after(first) > self.u64.max
        } else {
            first == most || (first <= self.u64.max && after(first) > self.u64.max)
        };
        alone.then_some(first)
    }

    /// The 32-bit half of [`Bounds::learn_from_bits`].
    #[inline(always)]
    pub(crate) fn learn_from_bits32(&mut self) {
        let (value, mask) = (self.var_off.value as u32, self.var_off.mask as u32);
        let sign = mask & (1 << 31);
        self.s32.narrow(Interval::new((value | sign) as i32, (value | (mask ^ sign)) as i32));
        self.u32.narrow(Interval::new(value, value | mask));
    }

    /// Bits from intervals: the common leading bits of the ends, of the whole and of the low half.
    #[inline(always)]
    fn learn_bits(&mut self) {
        let whole = self.var_off.intersect(Tnum::range(self.u64.min, self.u64.max));
        let half = Tnum::range(u64::from(self.u32.min), u64::from(self.u32.max));
        self.var_off = whole.with_subreg(whole.subreg().intersect(half));
    }

    /// 32-bit intervals from 64-bit ones and from each other.
    #[inline(always)]
    fn deduce32(&mut self) {
        // Where the upper half cannot change, the low half moves through one interval from end to end.
        if self.u64.min >> 32 == self.u64.max >> 32 {
            self.u32.narrow(Interval::new(self.u64.min as u32, self.u64.max as u32));
            if let Some(signed) = self.u64.in_order(|end| end as i32) {
                self.s32.narrow(signed);
            }
        }
        if self.s64.min >> 32 == self.s64.max >> 32 {
            if let Some(unsigned) = self.s64.in_order(|end| end as u32) {
                self.u32.narrow(unsigned);
            }
            if let Some(signed) = self.s64.in_order(|end| end as i32) {
                self.s32.narrow(signed);
            }
        }
        // Where it steps once, a low half that goes from negative to positive passes its sign boundary in order too.
        let steps_once = |min: u64, max: u64| ((min >> 32) as u32).wrapping_add(1) == (max >> 32) as u32;
        let rises = |min: u64, max: u64| (min as i32) < 0 && (max as i32) >= 0;
        for (min, max) in [(self.u64.min, self.u64.max), (self.s64.min as u64, self.s64.max as u64)] {
            if steps_once(min, max) && rises(min, max) {
                self.s32.narrow(Interval::new(min as i32, max as i32));
            }
        }
        // Within one half of the number circle both orders agree.
        if let Some(signed) = self.u32.in_order(|end| end as i32) {
            self.s32.narrow(signed);
        }
        if let Some(unsigned) = self.s32.in_order(|end| end as u32) {
            self.u32.narrow(unsigned);
        } else if self.u32.max < self.s32.min as u32 {
            // Only the piece from 0 up to s32.max is left.
            self.s32.min = self.u32.min as i32;
            self.u32.max = self.u32.max.min(self.s32.max as u32);
        } else if (self.s32.max as u32) < self.u32.min {
            // Only the piece from s32.min up to -1 is left.
            self.s32.max = self.u32.max as i32;
            self.u32.min = self.u32.min.max(self.s32.min as u32);
        }
    }

    /// 64-bit intervals from each other.
    #[inline(always)]
    fn deduce64(&mut self) {
        if let Some(signed) = self.u64.in_order(|end| end as i64) {
            self.s64.narrow(signed);
        }
        if let Some(unsigned) = self.s64.in_order(|end| end as u64) {
            self.u64.narrow(unsigned);
        } else if self.u64.max < self.s64.min as u64 {
            self.s64.min = self.u64.min as i64;
            self.u64.max = self.u64.max.min(self.s64.max as u64);
        } else if (self.s64.max as u64) < self.u64.min {
            self.s64.max = self.u64.max as i64;
            self.u64.min = self.u64.min.max(self.s64.min as u64);
        }
    }

    /// 64-bit intervals from 32-bit ones: with the upper half of an end kept, its low half can be raised to the
    /// smallest low half, or lowered to the largest.
    #[inline(always)]
    fn deduce_mixed(&mut self) {
        self.splice(self.u32);
        if let Some(unsigned) = self.s32.in_order(|end| end as u32) {
            self.splice(unsigned);
        }
        // A small signed number whose low half is not negative is that low half: all-ones above would need it negative.
        let small = Interval::new(i64::from(i32::MIN), i64::from(i32::MAX));
        if self.s32.min >= 0 && self.s64.within(small) {
            self.s64 = Interval::new(i64::from(self.s32.min), i64::from(self.s32.max));
            self.u64 = Interval::new(self.s64.min as u64, self.s64.max as u64);
            self.var_off = self.var_off.intersect(Tnum::range(self.u64.min, self.u64.max));
        }
    }

    #[inline(always)]
    fn splice(&mut self, low: Interval<u32>) {
        let with_low = |end: u64, low: u32| (end & !0xffff_ffff) | u64::from(low);
        self.u64.narrow(Interval::new(with_low(self.u64.min, low.min), with_low(self.u64.max, low.max)));
        self.s64.narrow(Interval::new(
            with_low(self.s64.min as u64, low.min) as i64,
            with_low(self.s64.max as u64, low.max) as i64,
        ));
    }
}

/// The low `bits` of `value` as a signed number.
const fn sign_extended(value: u64, bits: u8) -> i64 {
    match bits {
        8 => value as i8 as i64,
        16 => value as i16 as i64,
        32 => value as i32 as i64,
        _ => value as i64,
    }
}

/// What a signed number of `bits` can be.
const fn signed_range(bits: u8) -> Interval<i64> {
    let max = i64::MAX >> (64 - bits as u32);
    Interval { min: !max, max }
}

#[cfg(test)]
#[path = "bounds_tests.rs"]
mod tests;
