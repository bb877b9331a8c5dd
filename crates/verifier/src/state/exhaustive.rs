//! Every pair of small intervals under every operator and conditional jump, against all their concrete values.
//!
//! Intervals of `2^bits` values lie across the places where 32- and 64-bit numbers wrap or change sign, and low halves
//! with several upper halves above them. `SKEP_EXHAUSTIVE` says how many bits, 4 otherwise. Beyond 6, where an operator has a
//! thousand million pairs at each place, the places are the unsigned numbers from 0 and the signed ones around it. Each
//! operator is a test of its own, so that they run side by side.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer throughout"
)]

mod intervals;

use skep_abi::{AluOp, JmpOp, Width};

use intervals::{Hull, Image, Known, Run, for_pairs, runs};

use super::bounds::{Bounds, Interval};
use super::{branch, scalar_alu};

fn bits() -> u32 {
    std::env::var("SKEP_EXHAUSTIVE").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// The runs of unsigned numbers from 0, and of signed ones around it.
const UNSIGNED: usize = 0;
const SIGNED: usize = 1;

/// The runs to look at: all of them, but beyond 6 bits those of `wide`.
fn chosen<'r>(runs: &'r [Run], wide: &[usize]) -> Vec<&'r Run> {
    if bits() > 6 { wide.iter().map(|place| &runs[*place]).collect() } else { runs.iter().collect() }
}

fn for_run_pairs(wide: &[usize], mut each: impl FnMut(&Run, &Run)) {
    let runs = runs(bits());
    for left in chosen(&runs, wide) {
        each(left, left);
        // And an ordinary small operand on either side.
        if bits() <= 6 {
            each(left, &runs[UNSIGNED]);
            each(&runs[UNSIGNED], left);
        }
    }
}

/// Says how many pairs of intervals were held against their values.
fn say(what: &str, pairs: u64) {
    println!("{what}: {pairs} pairs of intervals hold all their values");
}

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];

/// One test for each operator or condition.
macro_rules! each {
    ($check:path: $($name:ident $what:expr)*) => { $(
        #[test]
        fn $name() {
            $check($what);
        }
    )* };
}

/// RFC 9669, for one pair of values.
fn concrete_alu(op: AluOp, width: Width, x: u64, y: u64) -> u64 {
    if width == Width::W32 {
        let (x, y) = (x as u32, y as u32);
        let (signed_x, signed_y) = (x as i32, y as i32);
        return u64::from(match op {
            AluOp::Add => x.wrapping_add(y),
            AluOp::Sub => x.wrapping_sub(y),
            AluOp::Mul => x.wrapping_mul(y),
            AluOp::Div => x.checked_div(y).unwrap_or(0),
            AluOp::Mod => x.checked_rem(y).unwrap_or(x),
            AluOp::Sdiv if y == 0 => 0,
            AluOp::Sdiv => signed_x.wrapping_div(signed_y) as u32,
            AluOp::Smod if y == 0 => x,
            AluOp::Smod => signed_x.wrapping_rem(signed_y) as u32,
            AluOp::And => x & y,
            AluOp::Or => x | y,
            AluOp::Xor => x ^ y,
            AluOp::Lsh => x << y,
            AluOp::Rsh => x >> y,
            AluOp::Arsh => (signed_x >> y) as u32,
            AluOp::Mov => y,
        });
    }
    let (signed_x, signed_y) = (x as i64, y as i64);
    match op {
        AluOp::Add => x.wrapping_add(y),
        AluOp::Sub => x.wrapping_sub(y),
        AluOp::Mul => x.wrapping_mul(y),
        AluOp::Div => x.checked_div(y).unwrap_or(0),
        AluOp::Mod => x.checked_rem(y).unwrap_or(x),
        AluOp::Sdiv if y == 0 => 0,
        AluOp::Sdiv => signed_x.wrapping_div(signed_y) as u64,
        AluOp::Smod if y == 0 => x,
        AluOp::Smod => signed_x.wrapping_rem(signed_y) as u64,
        AluOp::And => x & y,
        AluOp::Or => x | y,
        AluOp::Xor => x ^ y,
        AluOp::Lsh => x << y,
        AluOp::Rsh => x >> y,
        AluOp::Arsh => (signed_x >> y) as u64,
        AluOp::Mov => y,
    }
}

mod arithmetic_holds_every_result {
    use super::{AluOp, arithmetic};

    each!(arithmetic:
        add AluOp::Add
        sub AluOp::Sub
        mul AluOp::Mul
        div AluOp::Div
        modulo AluOp::Mod
        sdiv AluOp::Sdiv
        smod AluOp::Smod
        and AluOp::And
        or AluOp::Or
        xor AluOp::Xor
    );
}

fn arithmetic(op: AluOp) {
    let mut pairs = 0;
    for_run_pairs(&[UNSIGNED, SIGNED], |left, right| {
        for width in WIDTHS {
            let image = |x, y| Hull::of(concrete_alu(op, width, x, y));
            pairs += for_pairs(left, right, image, |Known { bounds: dst, .. }, Known { bounds: src, .. }, exact| {
                let ours = scalar_alu::alu(op, width, dst, src);
                let names = (&left.name, &right.name);
                assert!(exact.fits(&ours), "{op:?} {width:?} {names:?}\n{dst:x?}\n{src:x?}\n{ours:x?}");
            });
        }
    });
    say(&format!("{op:?}"), pairs);
}

mod forks_hold_every_result {
    use super::{AluOp, forks};

    each!(forks: and AluOp::And or AluOp::Or);
}

/// The two cases of a fork together hold every result.
fn forks(op: AluOp) {
    let (bits, mut forks, mut pairs) = (bits(), 0, 0);
    let signs = [Run::whole(bits, 0), Run::low(bits, 0)];
    for right in chosen(&runs(bits), &[UNSIGNED, SIGNED]) {
        for (left, width) in signs.iter().flat_map(|left| WIDTHS.map(|width| (left, width))) {
            let image = |x, y| Hull::of(concrete_alu(op, width, x, y));
            pairs += for_pairs(left, right, image, |Known { bounds: dst, .. }, Known { bounds: src, .. }, exact| {
                let Some((zero, ones)) = scalar_alu::fork(op, dst, src) else { return };
                forks += 1;
                let mut both = hull(&scalar_alu::alu(op, width, &zero, src));
                both.merge(&hull(&scalar_alu::alu(op, width, &ones, src)));
                assert!(exact.u64.within(both.u64) && exact.s64.within(both.s64), "{op:?} {dst:x?} {src:x?}");
                assert!(exact.u32.within(both.u32) && exact.s32.within(both.s32), "{op:?} {dst:x?} {src:x?}");
            });
        }
    }
    assert!(forks > 0);
    say(&format!("{op:?}, explored in two cases {forks} times"), pairs);
}

fn hull(bounds: &Bounds) -> Hull {
    let Bounds { var_off, u64, s64, u32, s32 } = *bounds;
    Hull { u64, s64, u32, s32, all: var_off.value, any: var_off.max() }
}

const SHIFTS: [AluOp; 3] = [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh];

mod shifts_hold_every_result {
    use super::{AluOp, shifts};

    each!(shifts: lsh AluOp::Lsh rsh AluOp::Rsh arsh AluOp::Arsh);
}

fn shifts(op: AluOp) {
    let mut pairs = 0;
    for run in runs(bits()) {
        for width in WIDTHS {
            for amount in 0..if width == Width::W32 { 32 } else { 64 } {
                let amounts = Run::new("amount".into(), 0, |_| vec![amount], |_, _| Bounds::constant(amount));
                let image = |x, y| Hull::of(concrete_alu(op, width, x, y));
                pairs +=
                    for_pairs(&run, &amounts, image, |Known { bounds: dst, .. }, Known { bounds: src, .. }, exact| {
                        let ours = scalar_alu::alu(op, width, dst, src);
                        assert!(exact.fits(&ours), "{op:?} {width:?} by {amount}\n{dst:x?}\n{ours:x?}");
                    });
            }
        }
    }
    say(&format!("{op:?} by each amount"), pairs);
}

mod shifts_by_intervals_hold_every_result {
    use super::{AluOp, shifts_by_intervals};

    each!(shifts_by_intervals: lsh AluOp::Lsh rsh AluOp::Rsh arsh AluOp::Arsh);
}

/// Amounts are intervals too; what is beyond the width counts modulo the width (RFC 9669).
fn shifts_by_intervals(op: AluOp) {
    let amounts = Run::whole(bits(), 1 << (bits() - 1));
    let mut pairs = 0;
    for run in chosen(&runs(bits()), &[UNSIGNED, SIGNED]) {
        for (width, mask) in [(Width::W32, 31), (Width::W64, 63)] {
            let image = |x, y: u64| Hull::of(concrete_alu(op, width, x, y & mask));
            pairs += for_pairs(run, &amounts, image, |Known { bounds: dst, .. }, Known { bounds: src, .. }, exact| {
                let ours = scalar_alu::alu(op, width, dst, src);
                assert!(exact.fits(&ours), "{op:?} {width:?}\n{dst:x?}\n{src:x?}\n{ours:x?}");
            });
        }
    }
    say(&format!("{op:?} by an interval"), pairs);
}

#[test]
fn shifts_by_an_unknown_or_large_amount_know_nothing() {
    let three_or_four = Bounds { u64: Interval::new(3, 4), ..Bounds::UNKNOWN }.synced();
    for op in SHIFTS {
        for amount in [three_or_four, Bounds::constant(64), Bounds::constant(u64::MAX)] {
            assert!(scalar_alu::alu(op, Width::W64, &Bounds::constant(9), &amount).is_unknown());
        }
        assert!(scalar_alu::alu(op, Width::W32, &Bounds::constant(9), &Bounds::constant(32)).is_unknown());
    }
}

#[test]
fn extensions_and_swaps_hold_every_result() {
    use skep_abi::EndKind;
    let nothing = Run::new("nothing".into(), 0, |_| vec![0], |_, _| Bounds::ZERO);
    let unary = |run: &Run, name: &str, exact: &dyn Fn(u64) -> u64, ours: &dyn Fn(&Bounds) -> Bounds| {
        let image = |x, _| Hull::of(exact(x));
        for_pairs(run, &nothing, image, |Known { bounds: dst, .. }, _, exact| {
            let ours = ours(dst);
            assert!(exact.fits(&ours), "{name} of {}\n{dst:x?}\n{ours:x?}", run.name);
        });
    };
    let mut all = runs(bits());
    all.extend([7, 8, 15, 16].map(|edge| Run::whole(bits(), 1 << edge)));
    all.extend([7, 8, 15, 16].map(|edge| Run::whole(bits(), 0u64.wrapping_sub(1 << edge))));
    all.extend([7, 8, 15, 16].map(|edge| Run::low(bits(), 1 << edge)));
    for run in &all {
        let narrow = |x: u64| x as u32;
        unary(run, "neg", &|x| x.wrapping_neg(), &|b| scalar_alu::neg(Width::W64, b));
        unary(run, "neg32", &|x| u64::from(narrow(x).wrapping_neg()), &|b| scalar_alu::neg(Width::W32, b));
        unary(run, "s8", &|x| x as i8 as u64, &|b| b.movsx(Width::W64, 8));
        unary(run, "s16", &|x| x as i16 as u64, &|b| b.movsx(Width::W64, 16));
        unary(run, "s32", &|x| x as i32 as u64, &|b| b.movsx(Width::W64, 32));
        unary(run, "s8 in 32", &|x| u64::from(x as i8 as u32), &|b| b.movsx(Width::W32, 8));
        unary(run, "s16 in 32", &|x| u64::from(x as i16 as u32), &|b| b.movsx(Width::W32, 16));
        for bytes in [1, 2, 4, 8] {
            let keep = u64::MAX >> (64 - 8 * u32::from(bytes));
            unary(run, "load", &|x| x & keep, &|b| {
                let mut loaded = *b;
                loaded.truncate(bytes);
                loaded
            });
            let bits = bytes * 8;
            if bits == 8 {
                continue;
            }
            let swapped = |x: u64| x.swap_bytes() >> (64 - u32::from(bits));
            unary(run, "le", &|x| x & keep, &|b| scalar_alu::end(EndKind::ToLe, bits, b));
            unary(run, "be", &swapped, &|b| scalar_alu::end(EndKind::ToBe, bits, b));
            unary(run, "bswap", &swapped, &|b| scalar_alu::end(EndKind::Bswap, bits, b));
        }
    }
}

/// A condition, its opposite, and the numbers that it compares.
type Condition = (JmpOp, Option<JmpOp>, usize);

const SET: Condition = (JmpOp::Set, None, SIGNED);
const EQ: Condition = (JmpOp::Eq, Some(JmpOp::Ne), SIGNED);
const GT: Condition = (JmpOp::Gt, Some(JmpOp::Le), UNSIGNED);
const GE: Condition = (JmpOp::Ge, Some(JmpOp::Lt), UNSIGNED);
const SGT: Condition = (JmpOp::Sgt, Some(JmpOp::Sle), SIGNED);
const SGE: Condition = (JmpOp::Sge, Some(JmpOp::Slt), SIGNED);

fn concrete_jump(op: JmpOp, width: Width, x: u64, y: u64) -> bool {
    let (x, y, signed_x, signed_y) = match width {
        Width::W32 => (x & 0xffff_ffff, y & 0xffff_ffff, i64::from(x as i32), i64::from(y as i32)),
        Width::W64 => (x, y, x as i64, y as i64),
    };
    match op {
        JmpOp::Eq => x == y,
        JmpOp::Ne => x != y,
        JmpOp::Set => x & y != 0,
        JmpOp::Gt => x > y,
        JmpOp::Ge => x >= y,
        JmpOp::Lt => x < y,
        JmpOp::Le => x <= y,
        JmpOp::Sgt => signed_x > signed_y,
        JmpOp::Sge => signed_x >= signed_y,
        JmpOp::Slt => signed_x < signed_y,
        JmpOp::Sle => signed_x <= signed_y,
    }
}

mod jumps_keep_every_operand_that_goes_their_way {
    use super::{EQ, GE, GT, SET, SGE, SGT, jumps};

    each!(jumps: set SET eq EQ gt GT ge GE sgt SGT sge SGE);
}

fn jumps((op, opposite, wide): Condition) {
    // The opposite narrows by the same two relations; beyond 6 bits one of them has to do.
    let opposite = opposite.filter(|_| bits() <= 6);
    let mut pairs = 0;
    for_run_pairs(&[wide], |left, right| {
        for width in WIDTHS {
            // The values of dst and src for which it jumps, and those for which it does not.
            let image = |x, y| {
                let (x_hull, y_hull, none) = (Hull::of(x), Hull::of(y), Hull::EMPTY);
                let jumps = concrete_jump(op, width, x, y);
                assert!(opposite.is_none_or(|opposite| concrete_jump(opposite, width, x, y) != jumps));
                if jumps { [x_hull, y_hull, none, none] } else { [none, none, x_hull, y_hull] }
            };
            pairs += for_pairs(left, right, image, |dst, src, [x, y, not_x, not_y]| {
                let names = (&left.name, &right.name);
                keeps(op, width, (dst, src), [x, y, not_x, not_y], names);
                if let Some(opposite) = opposite {
                    keeps(opposite, width, (dst, src), [not_x, not_y, x, y], names);
                }
            });
        }
    });
    let or = opposite.map_or_else(String::new, |opposite| format!(" and {opposite:?}"));
    say(&format!("{op:?}{or}"), pairs);
}

/// Whether both sides of a jump keep what goes their way: `sides` are `dst` and `src` where it jumps, and where not.
fn keeps(op: JmpOp, width: Width, (dst, src): (&Known, &Known), sides: [&Hull; 4], names: (&String, &String)) {
    let context =
        |taken: bool| format!("{op:?} {width:?} {names:?}, taken: {taken}\n{:x?}\n{:x?}", dst.bounds, src.bounds);
    let decided = branch::is_branch_taken(op, width, &dst.bounds, &src.bounds);
    for (taken, [x, y]) in [(true, [sides[0], sides[1]]), (false, [sides[2], sides[3]])] {
        if decided == Some(!taken) {
            assert!(x.is_empty(), "{}", context(taken));
        } else if decided.is_none() {
            let (dst, src) = refined(op, width, taken, dst, src);
            assert!(x.fits(&dst) && y.fits(&src), "{}\n{dst:x?}\n{src:x?}", context(taken));
        }
    }
}

/// [`branch::refine`], with what an operand of which the jump says nothing settles to looked up.
fn refined(op: JmpOp, width: Width, taken: bool, dst: &Known, src: &Known) -> (Bounds, Bounds) {
    let mut operands = (dst.bounds, src.bounds);
    branch::impose(op, width, taken, &mut operands.0, &mut operands.1);
    for (operand, known) in [(&mut operands.0, dst), (&mut operands.1, src)] {
        if *operand == known.bounds {
            *operand = known.settled;
        } else {
            branch::settle(operand);
        }
    }
    operands
}

mod order_of_intervals_is_decided_exactly {
    use super::{EQ, GE, GT, SGE, SGT, decisions};

    each!(decisions: eq EQ gt GT ge GE sgt SGT sge SGE);
}

/// Where both operands are intervals in the order that the jump looks at, it is decided whenever it can be.
fn decisions((op, opposite, _): Condition) {
    let run = Run::whole(bits(), 1 << (bits() - 1));
    let mut pairs = 0;
    for op in [Some(op), opposite].into_iter().flatten() {
        for width in WIDTHS {
            let image = |x, y| if concrete_jump(op, width, x, y) { 0b01u8 } else { 0b10 };
            pairs += for_pairs(&run, &run, image, |Known { bounds: dst, .. }, Known { bounds: src, .. }, sides| {
                let exact = [None, Some(true), Some(false), None][usize::from(*sides)];
                assert_eq!(branch::is_branch_taken(op, width, dst, src), exact, "{op:?} {dst:x?} {src:x?}");
            });
        }
    }
    say(&format!("{op:?} and its opposite, decided"), pairs);
}
