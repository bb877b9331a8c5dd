//! What a jump says exactly: the exhaustive tests see only that it says nothing wrong.

use super::*;

fn u64s(min: u64, max: u64) -> Bounds {
    Bounds { u64: Interval::new(min, max), ..Bounds::UNKNOWN }.synced()
}

fn u32s(min: u32, max: u32) -> Bounds {
    Bounds { u32: Interval::new(min, max), ..Bounds::UNKNOWN }.synced()
}

#[test]
fn equal_operands_know_what_either_knew() {
    let (a, b) = refine(JmpOp::Eq, Width::W32, true, &u32s(3, 10), &u32s(7, 20));
    assert_eq!((a.u32, a.s32), (Interval::new(7, 10), Interval::new(7, 10)));
    assert_eq!((b.u32, b.s32), (a.u32, a.s32));
    let (a, b) = refine(JmpOp::Ne, Width::W64, false, &u64s(7, 20), &u64s(3, 10));
    assert_eq!((a, b), (u64s(7, 10), u64s(7, 10)));
}

/// `if r1 < r1` moves both ends, though nothing goes that way.
#[test]
fn a_register_compared_with_itself_moves_both_ends() {
    assert_eq!(refine_same(JmpOp::Lt, Width::W64, true, &u64s(3, 10)).0.u64, Interval::new(4, 9));
    assert_eq!(refine_same(JmpOp::Ge, Width::W64, true, &u64s(3, 10)).0, u64s(3, 10));
}

/// Without a bit, the interval is what the remaining bits leave.
#[test]
fn cleared_bits_forget_the_interval() {
    let (dst, _) = refine(JmpOp::Set, Width::W64, false, &u64s(5, 9), &Bounds::constant(8));
    assert_eq!(dst.u64, Interval::new(0, 7));
}
