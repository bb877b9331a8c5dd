//! What a conditional jump says of its operands.
//!
//! [`is_branch_taken`] decides a comparison whose outcome the bounds already fix; [`refine`] narrows both operands on
//! one side of a jump that stays open. Invariant: operands for which the jump goes that way stay inside.
//! Kernel counterpart: `is_scalar_branch_taken`, `regs_refine_cond_op`, `reg_set_min_max`, kernel/bpf/verifier.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer throughout"
)]

use skep_abi::{JmpOp, Width};

use super::bounds::{Bounds, Integer, Interval};
use super::tnum::Tnum;
use crate::mutant::{self, Mutant};

/// Whether `dst op src` is true of all operands, or of none.
#[must_use]
pub fn is_branch_taken(op: JmpOp, width: Width, dst: &Bounds, src: &Bounds) -> Option<bool> {
    match op {
        JmpOp::Eq => equal(width, dst, src),
        JmpOp::Ne => equal(width, dst, src).map(|equal| !equal),
        JmpOp::Set => bits_in_common(width, dst, src),
        JmpOp::Gt => greater(width, dst, src, false, true),
        JmpOp::Ge => greater(width, dst, src, false, false),
        JmpOp::Lt => greater(width, dst, src, false, false).map(|ge| !ge),
        JmpOp::Le => greater(width, dst, src, false, true).map(|gt| !gt),
        JmpOp::Sgt => greater(width, dst, src, true, true),
        JmpOp::Sge => greater(width, dst, src, true, false),
        JmpOp::Slt => greater(width, dst, src, true, false).map(|ge| !ge),
        JmpOp::Sle => greater(width, dst, src, true, true).map(|gt| !gt),
    }
}

/// The operands for which the jump goes the way of `taken`: `(dst, src)`, synced. A contradiction (a side that no
/// execution takes) leaves that operand's bits and forgets its intervals, as the kernel does.
#[must_use]
pub fn refine(op: JmpOp, width: Width, taken: bool, dst: &Bounds, src: &Bounds) -> (Bounds, Bounds) {
    let (mut dst, mut src) = (*dst, *src);
    impose(op, width, taken, &mut dst, &mut src);
    settle(&mut dst);
    settle(&mut src);
    (dst, src)
}

/// The first half of [`refine`]: what the jump says itself, not yet carried between the views.
pub(super) fn impose(op: JmpOp, width: Width, taken: bool, dst: &mut Bounds, src: &mut Bounds) {
    Relation::of(op, taken).impose(width, dst, src);
}

/// The second half of [`refine`], for one operand.
pub(super) fn settle(operand: &mut Bounds) {
    operand.sync();
    if operand.check().is_err() {
        operand.unbound();
    }
}

/// The same for a register that is compared with itself, twice: on the side that no execution takes both ends move, as in
/// the kernel.
#[must_use]
pub fn refine_same(op: JmpOp, width: Width, taken: bool, both: &Bounds) -> (Bounds, Bounds) {
    let (mut low, mut high) = (*both, *both);
    Relation::of(op, taken).impose(width, &mut low, &mut high);
    low.u64.narrow(high.u64);
    low.s64.narrow(high.s64);
    low.u32.narrow(high.u32);
    low.s32.narrow(high.s32);
    settle(&mut low);
    (low, low)
}

/// The bits as `width` sees them.
fn bits_in(width: Width, bounds: &Bounds) -> Tnum {
    match width {
        Width::W32 => bounds.var_off.subreg(),
        Width::W64 => bounds.var_off,
    }
}

fn equal(width: Width, dst: &Bounds, src: &Bounds) -> Option<bool> {
    let (a, b) = (bits_in(width, dst), bits_in(width, src));
    if a.is_const() && b.is_const() {
        return Some(a.value == b.value);
    }
    let apart32 = dst.u32.disjoint(src.u32) || dst.s32.disjoint(src.s32);
    let apart64 = width == Width::W64 && (dst.u64.disjoint(src.u64) || dst.s64.disjoint(src.s64));
    (!a.overlaps(b) || apart32 || apart64).then_some(false)
}

fn bits_in_common(width: Width, dst: &Bounds, src: &Bounds) -> Option<bool> {
    let (known, other) = match (src.const_in(width), dst.const_in(width)) {
        (Some(known), _) => (known, bits_in(width, dst)),
        (None, Some(known)) => (known, bits_in(width, src)),
        (None, None) => return None,
    };
    if other.value & known != 0 {
        Some(true)
    } else if other.max() & known == 0 {
        Some(false)
    } else {
        None
    }
}

/// `dst > src` (`strict`) or `dst >= src`.
fn greater(width: Width, dst: &Bounds, src: &Bounds, signed: bool, strict: bool) -> Option<bool> {
    match (width, signed) {
        (Width::W32, false) => above(dst.u32, src.u32, strict),
        (Width::W32, true) => above(dst.s32, src.s32, strict),
        (Width::W64, false) => above(dst.u64, src.u64, strict),
        (Width::W64, true) => above(dst.s64, src.s64, strict),
    }
}

fn above<T: Integer>(a: Interval<T>, b: Interval<T>, strict: bool) -> Option<bool> {
    let (always, never) = if strict { (a.min > b.max, a.max <= b.min) } else { (a.min >= b.max, a.max < b.min) };
    if always {
        Some(true)
    } else if never {
        Some(false)
    } else {
        None
    }
}

/// A fact about two operands; each jump condition and its negation is one.
#[derive(Clone, Copy)]
enum Relation {
    Equal,
    Different,
    SomeBit,
    NoBit,
    /// `low < high` or `low <= high`; `swapped` if `dst` is the high one.
    Below {
        signed: bool,
        strict: bool,
        swapped: bool,
    },
}

impl Relation {
    /// What holds where the jump goes the way of `taken`. Each condition with an opposite says what that says of the other
    /// side.
    const fn of(op: JmpOp, taken: bool) -> Self {
        match (op, taken) {
            (JmpOp::Eq, true) | (JmpOp::Ne, false) => Self::Equal,
            (JmpOp::Eq, false) | (JmpOp::Ne, true) => Self::Different,
            (JmpOp::Set, true) => Self::SomeBit,
            (JmpOp::Set, false) => Self::NoBit,
            (JmpOp::Gt, true) | (JmpOp::Le, false) => Self::Below { signed: false, strict: true, swapped: true },
            (JmpOp::Gt, false) | (JmpOp::Le, true) => Self::Below { signed: false, strict: false, swapped: false },
            (JmpOp::Ge, true) | (JmpOp::Lt, false) => Self::Below { signed: false, strict: false, swapped: true },
            (JmpOp::Ge, false) | (JmpOp::Lt, true) => Self::Below { signed: false, strict: true, swapped: false },
            (JmpOp::Sgt, true) | (JmpOp::Sle, false) => Self::Below { signed: true, strict: true, swapped: true },
            (JmpOp::Sgt, false) | (JmpOp::Sle, true) => Self::Below { signed: true, strict: false, swapped: false },
            (JmpOp::Sge, true) | (JmpOp::Slt, false) => Self::Below { signed: true, strict: false, swapped: true },
            (JmpOp::Sge, false) | (JmpOp::Slt, true) => Self::Below { signed: true, strict: true, swapped: false },
        }
    }

    /// Narrows `a` and `b` to what satisfies the relation; not synced.
    fn impose(self, width: Width, a: &mut Bounds, b: &mut Bounds) {
        match self {
            Self::Equal => make_equal(width, a, b),
            Self::Below { swapped: true, signed, strict } => order(width, signed, strict, b, a),
            Self::Below { swapped: false, signed, strict } => order(width, signed, strict, a, b),
            // What is left can only learn from a constant on one side.
            Self::Different | Self::SomeBit | Self::NoBit => {
                let (known, other) = match (b.const_in(width), a.const_in(width)) {
                    (Some(known), _) => (known, a),
                    (None, Some(known)) => (known, b),
                    (None, None) => return,
                };
                match self {
                    Self::Different => exclude(width, other, known),
                    Self::SomeBit => set_bit(width, other, known),
                    _ => clear_bits(width, other, known),
                }
            }
        }
    }
}

fn make_equal(width: Width, a: &mut Bounds, b: &mut Bounds) {
    match width {
        Width::W32 => {
            a.u32.narrow(b.u32);
            a.s32.narrow(b.s32);
            (b.u32, b.s32) = (a.u32, a.s32);
            let low = a.var_off.subreg().intersect(b.var_off.subreg());
            a.var_off = a.var_off.with_subreg(low);
            b.var_off = b.var_off.with_subreg(low);
        }
        Width::W64 => {
            a.u64.narrow(b.u64);
            a.s64.narrow(b.s64);
            (b.u64, b.s64) = (a.u64, a.s64);
            a.var_off = a.var_off.intersect(b.var_off);
            b.var_off = a.var_off;
        }
    }
}

fn order(width: Width, signed: bool, strict: bool, low: &mut Bounds, high: &mut Bounds) {
    match (width, signed) {
        (Width::W32, false) => order_in(strict, &mut low.u32, &mut high.u32),
        (Width::W32, true) => order_in(strict, &mut low.s32, &mut high.s32),
        (Width::W64, false) => order_in(strict, &mut low.u64, &mut high.u64),
        (Width::W64, true) => order_in(strict, &mut low.s64, &mut high.s64),
    }
}

/// `low` ends before `high` does, and `high` begins after `low` does. The jump is open, so neither step wraps:
/// `high.max` is not the type's least value, nor `low.min` its greatest.
fn order_in<T: Integer>(strict: bool, low: &mut Interval<T>, high: &mut Interval<T>) {
    let strict = strict || mutant::active(Mutant::StrictBranch);
    let (ceiling, floor) = if strict { (high.max.previous(), low.min.next()) } else { (high.max, low.min) };
    low.max = low.max.min(ceiling);
    high.min = high.min.max(floor);
}

/// `known` is not the value: an interval that ends there loses that end.
fn exclude(width: Width, other: &mut Bounds, known: u64) {
    match width {
        Width::W32 => {
            trim(&mut other.u32, known as u32);
            trim(&mut other.s32, known as i32);
        }
        Width::W64 => {
            trim(&mut other.u64, known);
            trim(&mut other.s64, known as i64);
        }
    }
}

fn trim<T: Integer>(interval: &mut Interval<T>, gone: T) {
    if interval.min == gone {
        interval.min = gone.next();
    }
    if interval.max == gone {
        interval.max = gone.previous();
    }
}

/// One of the bits of `known` is set; which one is clear only when it has one.
fn set_bit(width: Width, other: &mut Bounds, known: u64) {
    if !known.is_power_of_two() && !mutant::active(Mutant::AllBitsSet) {
        return;
    }
    let bit = Tnum::constant(known);
    other.var_off = match width {
        Width::W32 => other.var_off.with_subreg(other.var_off.subreg() | bit),
        Width::W64 => other.var_off | bit,
    };
}

/// None of the bits of `known` is set. The intervals are learnt anew from the bits, so that a side that no execution
/// takes stays free of contradictions.
fn clear_bits(width: Width, other: &mut Bounds, known: u64) {
    other.unbound();
    let rest = Tnum::constant(!known);
    other.var_off = match width {
        Width::W32 => other.var_off.with_subreg(other.var_off.subreg() & rest),
        Width::W64 => other.var_off & rest,
    };
}

#[cfg(test)]
#[path = "branch_tests.rs"]
mod tests;
