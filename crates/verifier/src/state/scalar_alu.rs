//! Arithmetic on scalars: bounds of the result from the bounds of the operands.
//!
//! Each operator has three parts: the intervals of the low half, those of the whole, and the bits. Invariant: as
//! [`Bounds`] — the result holds every concrete result. The precision is Linux 6.18's, so that register states can be
//! compared: division, modulo and shifts by an unknown amount forget everything.
//! Kernel counterpart: `adjust_scalar_min_max_vals`, kernel/bpf/verifier.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer throughout"
)]

use skep_abi::{AluOp, EndKind, Width};

use super::bounds::{Bounds, Interval};
use super::tnum::Tnum;
use crate::mutant::{self, Mutant};

/// The bounds of `dst op src` (for `Mov` of `src`), zero-extended if `width` is 32 bits, and synced.
///
/// Division and modulo by zero are defined (RFC 9669), so no operand is refused here; a shift amount out of range is.
#[must_use]
pub fn alu(op: AluOp, width: Width, dst: &Bounds, src: &Bounds) -> Bounds {
    let mut result = match op {
        AluOp::Mov => *src,
        AluOp::Add => add(dst, src),
        AluOp::Sub => sub(dst, src),
        AluOp::Mul => mul(dst, src),
        AluOp::And => and(dst, src),
        AluOp::Or => or(dst, src),
        AluOp::Xor => xor(dst, src),
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => match shift_amount(width, src) {
            Some(amount) => shift(op, width, dst, amount),
            None => return Bounds::UNKNOWN,
        },
        AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => return Bounds::UNKNOWN,
    };
    if width == Width::W32 && !mutant::active(Mutant::NoZeroExtension) {
        result.zero_extend32();
    }
    result.sync();
    result
}

/// The bounds of `-dst`.
#[must_use]
pub fn neg(width: Width, dst: &Bounds) -> Bounds {
    let mut result = sub(&Bounds::ZERO, dst);
    result.var_off = dst.var_off.neg();
    if width == Width::W32 {
        result.zero_extend32();
    }
    result.sync();
    result
}

/// The bounds of a byte-order conversion of `dst` on a little-endian machine: a truncation, after the bits have moved.
#[must_use]
pub fn end(kind: EndKind, bits: u8, dst: &Bounds) -> Bounds {
    let mut result = match kind {
        EndKind::ToLe => *dst,
        _ if mutant::active(Mutant::UnmovedBytes) => *dst,
        EndKind::ToBe | EndKind::Bswap => Bounds { var_off: dst.var_off.bswap(bits), ..Bounds::UNKNOWN },
    };
    result.sync();
    result.truncate(bits / 8);
    result
}

/// The two cases to analyse apart before `dst &= src` or `dst |= src` with a known `src`: `dst` 0, and `dst` all ones.
///
/// A shifted-out sign is 0 or -1, and what follows is a choice between two constants; one set of bounds for both would
/// lose it. The caller goes on with the second and explores the first later, from the same instruction.
#[must_use]
pub fn fork(op: AluOp, dst: &Bounds, src: &Bounds) -> Option<(Bounds, Bounds)> {
    if !matches!(op, AluOp::And | AluOp::Or) || !src.is_const() {
        return None;
    }
    if dst.s64 == Interval::new(-1, 0) {
        Some((Bounds::ZERO, Bounds::constant(u64::MAX)))
    } else if dst.s32 == Interval::new(-1, 0) {
        let (mut zero, mut ones) = (*dst, *dst);
        zero.set32(0);
        ones.set32(u32::MAX);
        Some((zero, ones))
    } else {
        None
    }
}

/// The bounds of an immediate operand: sign-extended to 64 bits, except for a 32-bit move, which zero-extends.
#[must_use]
pub fn imm(op: AluOp, width: Width, imm: i32) -> Bounds {
    match (op, width) {
        _ if mutant::active(Mutant::UnsignedImmediate) => Bounds::constant(u64::from(imm as u32)),
        (AluOp::Mov, Width::W32) => Bounds::constant(u64::from(imm as u32)),
        _ => Bounds::constant(i64::from(imm) as u64),
    }
}

/// The bounds of `dst + src` in 64 bits, not synced: also the variable part of a pointer plus a scalar.
#[must_use]
pub fn add(dst: &Bounds, src: &Bounds) -> Bounds {
    Bounds {
        var_off: dst.var_off.add(src.var_off),
        u64: wrap_both_or_none(dst.u64.min.overflowing_add(src.u64.min), dst.u64.max.overflowing_add(src.u64.max)),
        s64: unless_overflow(dst.s64.min.checked_add(src.s64.min), dst.s64.max.checked_add(src.s64.max)),
        u32: wrap_both_or_none(dst.u32.min.overflowing_add(src.u32.min), dst.u32.max.overflowing_add(src.u32.max)),
        s32: unless_overflow(dst.s32.min.checked_add(src.s32.min), dst.s32.max.checked_add(src.s32.max)),
    }
}

/// The bounds of `dst - src` in 64 bits, not synced: also the variable part of a pointer minus a scalar.
#[must_use]
pub fn sub(dst: &Bounds, src: &Bounds) -> Bounds {
    Bounds {
        var_off: dst.var_off.sub(src.var_off),
        u64: wrap_both_or_none(dst.u64.min.overflowing_sub(src.u64.max), dst.u64.max.overflowing_sub(src.u64.min)),
        s64: unless_overflow(dst.s64.min.checked_sub(src.s64.max), dst.s64.max.checked_sub(src.s64.min)),
        u32: wrap_both_or_none(dst.u32.min.overflowing_sub(src.u32.max), dst.u32.max.overflowing_sub(src.u32.min)),
        s32: unless_overflow(dst.s32.min.checked_sub(src.s32.max), dst.s32.max.checked_sub(src.s32.min)),
    }
}

/// An interval whose ends both wrapped, or neither, is still in order.
fn wrap_both_or_none<T: super::bounds::Integer>(min: (T, bool), max: (T, bool)) -> Interval<T> {
    if min.1 == max.1 || mutant::active(Mutant::WrappingSum) { Interval::new(min.0, max.0) } else { Interval::FULL }
}

fn unless_overflow<T: super::bounds::Integer>(min: Option<T>, max: Option<T>) -> Interval<T> {
    match (min, max) {
        (Some(min), Some(max)) => Interval::new(min, max),
        _ => Interval::FULL,
    }
}

fn mul(dst: &Bounds, src: &Bounds) -> Bounds {
    Bounds {
        var_off: dst.var_off.mul(src.var_off),
        u64: unless_overflow(dst.u64.min.checked_mul(src.u64.min), dst.u64.max.checked_mul(src.u64.max)),
        s64: signed_products(dst.s64, src.s64, i64::checked_mul),
        u32: unless_overflow(dst.u32.min.checked_mul(src.u32.min), dst.u32.max.checked_mul(src.u32.max)),
        s32: signed_products(dst.s32, src.s32, i32::checked_mul),
    }
}

/// The extremes of a product of signed intervals are products of their ends.
fn signed_products<T: super::bounds::Integer>(
    a: Interval<T>,
    b: Interval<T>,
    multiply: impl Fn(T, T) -> Option<T>,
) -> Interval<T> {
    let corners = [(a.min, b.min), (a.min, b.max), (a.max, b.min), (a.max, b.max)];
    let mut hull: Option<Interval<T>> = None;
    for (x, y) in corners {
        let Some(product) = multiply(x, y) else {
            return Interval::FULL;
        };
        let so_far = hull.unwrap_or(Interval::constant(product));
        hull = Some(Interval::new(so_far.min.min(product), so_far.max.max(product)));
    }
    hull.unwrap_or(Interval::FULL)
}

fn and(dst: &Bounds, src: &Bounds) -> Bounds {
    bitwise(dst, src, dst.var_off & src.var_off, |bits, a, b| Interval::new(bits.min, a.max.min(b.max)))
}

fn or(dst: &Bounds, src: &Bounds) -> Bounds {
    bitwise(dst, src, dst.var_off | src.var_off, |bits, a, b| Interval::new(a.min.max(b.min), bits.max))
}

fn xor(dst: &Bounds, src: &Bounds) -> Bounds {
    bitwise(dst, src, dst.var_off ^ src.var_off, |bits, _, _| bits)
}

/// The frame of the bitwise operators: `unsigned` says what the bits of the result and the operands' intervals leave.
fn bitwise(
    dst: &Bounds,
    src: &Bounds,
    bits: Tnum,
    unsigned: impl Fn(Interval<u64>, Interval<u64>, Interval<u64>) -> Interval<u64>,
) -> Bounds {
    let whole = match (dst.const_value(), src.const_value()) {
        (Some(_), Some(_)) => return Bounds::constant(bits.value),
        _ => unsigned(Interval::new(bits.min(), bits.max()), dst.u64, src.u64),
    };
    let mut result =
        Bounds { var_off: bits, u64: whole, s64: same_sign(whole.min as i64, whole.max as i64), ..Bounds::UNKNOWN };
    if dst.const32().is_some() && src.const32().is_some() {
        result.set32(bits.value as u32);
        return result;
    }
    let widen = |half: Interval<u32>| Interval::new(u64::from(half.min), u64::from(half.max));
    let low = bits.subreg();
    let half = unsigned(Interval::new(low.min(), low.max()), widen(dst.u32), widen(src.u32));
    result.u32 = Interval::new(half.min as u32, half.max as u32);
    result.s32 = same_sign(half.min as i32, half.max as i32);
    result
}

/// Unsigned ends seen as signed ones: an interval only if they did not cross the sign boundary.
fn same_sign<T: super::bounds::Integer>(min: T, max: T) -> Interval<T> {
    if min <= max { Interval::new(min, max) } else { Interval::FULL }
}

/// The amount of a shift, if it is known and below the width.
fn shift_amount(width: Width, src: &Bounds) -> Option<u8> {
    let (known, bits) = match width {
        Width::W32 => (src.const32().is_some() && src.u32.is_const() && src.s32.is_const(), 32),
        Width::W64 => (src.is_const() && src.u64.is_const() && src.s64.is_const(), 64),
    };
    (known && src.u64.max < bits).then_some(src.u64.max as u8)
}

fn shift(op: AluOp, width: Width, dst: &Bounds, amount: u8) -> Bounds {
    match (width, op) {
        (Width::W32, AluOp::Lsh) => lsh32(dst, amount),
        (Width::W32, AluOp::Rsh) => rsh32(dst, amount),
        (Width::W32, _) => arsh32(dst, amount),
        (Width::W64, AluOp::Lsh) => lsh64(dst, amount),
        (Width::W64, AluOp::Rsh) => rsh64(dst, amount),
        (Width::W64, _) => arsh64(dst, amount),
    }
}

/// Left-shifted ends, if no value loses a set bit at the top.
fn lsh_u32(half: Interval<u32>, amount: u8) -> Interval<u32> {
    if amount > 31 || u64::from(half.max) > 1 << (31 - amount) {
        Interval::FULL
    } else {
        Interval::new(half.min << amount, half.max << amount)
    }
}

fn lsh32(dst: &Bounds, amount: u8) -> Bounds {
    let var_off = dst.var_off.subreg().lshift(amount).subreg();
    let mut result = Bounds { var_off, u32: lsh_u32(dst.u32, amount), ..Bounds::UNKNOWN };
    result.learn_from_bits32();
    result
}

fn lsh64(dst: &Bounds, amount: u8) -> Bounds {
    let u64 = if dst.u64.max > 1 << (63 - amount) {
        Interval::FULL
    } else {
        Interval::new(dst.u64.min << amount, dst.u64.max << amount)
    };
    // `<<= 32` begins a sign extension (`s>>= 32` ends it): the low half's sign becomes the whole's.
    let s64 = if amount == 32 {
        Interval::new(i64::from(dst.s32.min) << 32, i64::from(dst.s32.max) << 32)
    } else {
        Interval::FULL
    };
    let mut result =
        Bounds { var_off: dst.var_off.lshift(amount), u64, s64, u32: lsh_u32(dst.u32, amount), s32: Interval::FULL };
    result.learn_from_bits();
    result
}

fn rsh32(dst: &Bounds, amount: u8) -> Bounds {
    let u32 = Interval::new(dst.u32.min >> amount, dst.u32.max >> amount);
    let mut result = Bounds { var_off: dst.var_off.subreg().rshift(amount), u32, ..Bounds::UNKNOWN };
    result.learn_from_bits32();
    result
}

fn rsh64(dst: &Bounds, amount: u8) -> Bounds {
    let u64 = Interval::new(dst.u64.min >> amount, dst.u64.max >> amount);
    let mut result = Bounds { var_off: dst.var_off.rshift(amount), u64, ..Bounds::UNKNOWN };
    result.learn_from_bits();
    result
}

fn arsh32(dst: &Bounds, amount: u8) -> Bounds {
    let s32 = Interval::new(dst.s32.min >> amount, dst.s32.max >> amount);
    let mut result = Bounds { var_off: dst.var_off.subreg().arshift(amount, 32), s32, ..Bounds::UNKNOWN };
    result.learn_from_bits32();
    result
}

fn arsh64(dst: &Bounds, amount: u8) -> Bounds {
    let s64 = Interval::new(dst.s64.min >> amount, dst.s64.max >> amount);
    let mut result = Bounds { var_off: dst.var_off.arshift(amount, 64), s64, ..Bounds::UNKNOWN };
    result.learn_from_bits();
    result
}
