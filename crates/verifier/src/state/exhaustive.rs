//! Every pair of small intervals under every operator and conditional jump, against all their concrete values.
//!
//! Intervals of `2^bits` values lie across the places where 32- and 64-bit numbers wrap or change sign, and low halves
//! with several upper halves above them. `SKEP_EXHAUSTIVE` says how many bits, 4 otherwise: 6 takes minutes; 8 takes an
//! hour in release and looks at two places only.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer throughout"
)]

use skep_abi::{AluOp, JmpOp, Width};

use super::bounds::{Bounds, Integer, Interval};
use super::tnum::Tnum;
use super::{branch, scalar_alu};

/// The least interval of each kind around some values, and the bits that all or any of them have.
#[derive(Clone, Copy)]
struct Hull {
    u64: Interval<u64>,
    s64: Interval<i64>,
    u32: Interval<u32>,
    s32: Interval<i32>,
    all: u64,
    any: u64,
}

impl Hull {
    const EMPTY: Self = Self { u64: empty(), s64: empty(), u32: empty(), s32: empty(), all: u64::MAX, any: 0 };

    fn is_empty(&self) -> bool {
        self.u64.is_empty()
    }

    fn of(value: u64) -> Self {
        let low = value as u32;
        Self {
            u64: Interval::constant(value),
            s64: Interval::constant(value as i64),
            u32: Interval::constant(low),
            s32: Interval::constant(low as i32),
            all: value,
            any: value,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.u64 = join(self.u64, other.u64);
        self.s64 = join(self.s64, other.s64);
        self.u32 = join(self.u32, other.u32);
        self.s32 = join(self.s32, other.s32);
        self.all &= other.all;
        self.any |= other.any;
    }

    fn fits(&self, bounds: &Bounds) -> bool {
        let Tnum { value, mask } = bounds.var_off;
        self.is_empty()
            || self.u64.within(bounds.u64)
                && self.s64.within(bounds.s64)
                && self.u32.within(bounds.u32)
                && self.s32.within(bounds.s32)
                && self.all & !mask == value
                && self.any & !mask == value
    }
}

const fn empty<T: Integer>() -> Interval<T> {
    Interval { min: T::MAX, max: T::MIN }
}

fn join<T: Integer>(a: Interval<T>, b: Interval<T>) -> Interval<T> {
    Interval::new(a.min.min(b.min), a.max.max(b.max))
}

/// A run of neighbouring values: the concrete ones at each place, and the bounds of each interval of places.
struct Run {
    name: String,
    concrete: Vec<Vec<u64>>,
    bounds: Vec<Vec<Bounds>>,
}

impl Run {
    /// `2^bits` values around `middle`, all 64 bits of them known to be near.
    fn whole(bits: u32, middle: u64) -> Self {
        Self::spread(bits, middle, 1)
    }

    /// The same, `stride` apart: wide intervals, of which some values are looked at.
    fn spread(bits: u32, middle: u64, stride: u64) -> Self {
        let first = middle.wrapping_sub(stride << (bits - 1));
        let at = move |place: u64| first.wrapping_add(place.wrapping_mul(stride));
        Self::new(
            format!("around {middle:#x} by {stride:#x}"),
            bits,
            move |place| vec![at(place)],
            |a, b| {
                let (min, max) = (at(a), at(b));
                Bounds { u64: ordered(min, max), s64: ordered(min as i64, max as i64), ..Bounds::UNKNOWN }
            },
        )
    }

    /// Low halves around `middle` with any upper half.
    fn low(bits: u32, middle: u32) -> Self {
        let first = middle.wrapping_sub(1 << (bits - 1));
        let at = move |place: u64| first.wrapping_add(place as u32);
        let uppers = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
        let concrete = move |place| uppers.iter().map(|upper| upper << 32 | u64::from(at(place))).collect();
        Self::new(format!("low halves around {middle:#x}"), bits, concrete, |a, b| {
            let (min, max) = (at(a), at(b));
            Bounds { u32: ordered(min, max), s32: ordered(min as i32, max as i32), ..Bounds::UNKNOWN }
        })
    }

    fn new(name: String, bits: u32, concrete: impl Fn(u64) -> Vec<u64>, bounds: impl Fn(u64, u64) -> Bounds) -> Self {
        let places = 0..1u64 << bits;
        let row = |a| places.clone().map(|b| bounds(a, b.max(a)).synced()).collect();
        Self { name, concrete: places.clone().map(concrete).collect(), bounds: places.clone().map(row).collect() }
    }

    fn len(&self) -> usize {
        self.concrete.len()
    }
}

fn ordered<T: Integer>(min: T, max: T) -> Interval<T> {
    if min <= max { Interval::new(min, max) } else { Interval::FULL }
}

fn bits() -> u32 {
    std::env::var("SKEP_EXHAUSTIVE").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Runs at each place where some view of the number wraps, and an ordinary one.
fn runs(bits: u32) -> Vec<Run> {
    let mut runs: Vec<Run> = [
        1 << (bits - 1),
        0,
        1 << 31,
        1 << 32,
        1 << 63,
        (1 << 63) + (1 << 31),
        (1 << 40) + 5,
        0u64.wrapping_sub(1 << 31),
    ]
    .map(|middle| Run::whole(bits, middle))
    .into();
    runs.extend([0, 1 << 31].map(|middle| Run::low(bits, middle)));
    runs.extend([61, 0x1005, 0x0fff_fff1, 0x4000_0001].map(|stride| Run::spread(bits, 3, stride)));
    runs
}

/// Calls `check` with every pair of intervals and the merged images of their values under `image`.
///
/// The images of an interval pair grow from those of smaller pairs, so each pair costs one merge.
fn for_pairs<const N: usize>(
    left: &Run,
    right: &Run,
    image: impl Fn(u64, u64) -> [Hull; N],
    mut check: impl FnMut(&Bounds, &Bounds, &[Hull; N]),
) {
    let merge = |into: &mut [Hull; N], from: &[Hull; N]| into.iter_mut().zip(from).for_each(|(a, b)| a.merge(b));
    let at = |x: usize, y: usize| {
        let mut hulls = [Hull::EMPTY; N];
        for x in &left.concrete[x] {
            for y in &right.concrete[y] {
                merge(&mut hulls, &image(*x, *y));
            }
        }
        hulls
    };
    let images: Vec<Vec<[Hull; N]>> = (0..left.len()).map(|x| (0..right.len()).map(|y| at(x, y)).collect()).collect();
    for a in 0..left.len() {
        let mut columns = vec![[Hull::EMPTY; N]; right.len()];
        for (b, row) in images.iter().enumerate().skip(a) {
            for (column, image) in columns.iter_mut().zip(row) {
                merge(column, image);
            }
            for c in 0..right.len() {
                let mut hulls = [Hull::EMPTY; N];
                for (d, column) in columns.iter().enumerate().skip(c) {
                    merge(&mut hulls, column);
                    check(&left.bounds[a][b], &right.bounds[c][d], &hulls);
                }
            }
        }
    }
}

fn for_run_pairs(mut each: impl FnMut(&Run, &Run)) {
    let runs = runs(bits());
    // Beyond 6 bits an ordinary place and the one where all signs change have to do.
    let places = if bits() > 6 { 2 } else { runs.len() };
    for left in &runs[..places] {
        each(left, left);
        // And an ordinary small operand on either side.
        if places > 2 {
            each(left, &runs[0]);
            each(&runs[0], left);
        }
    }
}

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];

const ALU: [AluOp; 10] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Mod,
    AluOp::Sdiv,
    AluOp::Smod,
    AluOp::And,
    AluOp::Or,
    AluOp::Xor,
];

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

#[test]
fn arithmetic_holds_every_result() {
    for_run_pairs(|left, right| {
        for op in ALU {
            for width in WIDTHS {
                let image = |x, y| [Hull::of(concrete_alu(op, width, x, y))];
                for_pairs(left, right, image, |dst, src, [exact]| {
                    let ours = scalar_alu::alu(op, width, dst, src);
                    let names = (&left.name, &right.name);
                    assert!(exact.fits(&ours), "{op:?} {width:?} {names:?}\n{dst:x?}\n{src:x?}\n{ours:x?}");
                });
            }
        }
    });
}

/// The two cases of a fork together hold every result.
#[test]
fn forks_hold_every_result() {
    let (bits, mut forks) = (bits(), 0);
    let signs = [Run::whole(bits, 0), Run::low(bits, 0)];
    for (left, right) in signs.iter().flat_map(|left| runs(bits).into_iter().map(move |right| (left, right))) {
        for op in [AluOp::And, AluOp::Or] {
            for width in WIDTHS {
                let image = |x, y| [Hull::of(concrete_alu(op, width, x, y))];
                for_pairs(left, &right, image, |dst, src, [exact]| {
                    let Some((zero, ones)) = scalar_alu::fork(op, dst, src) else { return };
                    forks += 1;
                    let mut both = hull(&scalar_alu::alu(op, width, &zero, src));
                    both.merge(&hull(&scalar_alu::alu(op, width, &ones, src)));
                    assert!(exact.u64.within(both.u64) && exact.s64.within(both.s64), "{op:?} {dst:x?} {src:x?}");
                    assert!(exact.u32.within(both.u32) && exact.s32.within(both.s32), "{op:?} {dst:x?} {src:x?}");
                });
            }
        }
    }
    assert!(forks > 0);
}

fn hull(bounds: &Bounds) -> Hull {
    let Bounds { var_off, u64, s64, u32, s32 } = *bounds;
    Hull { u64, s64, u32, s32, all: var_off.value, any: var_off.max() }
}

#[test]
fn shifts_hold_every_result() {
    for run in runs(bits()) {
        for width in WIDTHS {
            for amount in 0..if width == Width::W32 { 32 } else { 64 } {
                let amounts = Run::new("amount".into(), 0, |_| vec![amount], |_, _| Bounds::constant(amount));
                for op in [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh] {
                    let image = |x, y| [Hull::of(concrete_alu(op, width, x, y))];
                    for_pairs(&run, &amounts, image, |dst, src, [exact]| {
                        let ours = scalar_alu::alu(op, width, dst, src);
                        assert!(exact.fits(&ours), "{op:?} {width:?} by {amount}\n{dst:x?}\n{ours:x?}");
                    });
                }
            }
        }
    }
}

#[test]
fn shifts_by_an_unknown_or_large_amount_know_nothing() {
    let three_or_four = Bounds { u64: Interval::new(3, 4), ..Bounds::UNKNOWN }.synced();
    for op in [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh] {
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
        let image = |x, _| [Hull::of(exact(x))];
        for_pairs(run, &nothing, image, |dst, _, [exact]| {
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

const JMP: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Ne,
    JmpOp::Set,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Slt,
    JmpOp::Sle,
];

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

#[test]
fn jumps_keep_every_operand_that_goes_their_way() {
    for_run_pairs(|left, right| {
        for op in JMP {
            for width in WIDTHS {
                // The values of dst and src for which it jumps, and those for which it does not.
                let image = |x, y| {
                    let (x_hull, y_hull, none) = (Hull::of(x), Hull::of(y), Hull::EMPTY);
                    if concrete_jump(op, width, x, y) {
                        [x_hull, y_hull, none, none]
                    } else {
                        [none, none, x_hull, y_hull]
                    }
                };
                for_pairs(left, right, image, |dst, src, hulls| {
                    let context = || format!("{op:?} {width:?} {:?}\n{dst:x?}\n{src:x?}", (&left.name, &right.name));
                    match branch::outcome(op, width, dst, src) {
                        branch::Outcome::Always => assert!(hulls[2].is_empty(), "falls through: {}", context()),
                        branch::Outcome::Never => assert!(hulls[0].is_empty(), "jumps: {}", context()),
                        branch::Outcome::Unknown(split) => {
                            let ours = [split.taken.0, split.taken.1, split.fallthrough.0, split.fallthrough.1];
                            for (side, (exact, ours)) in hulls.iter().zip(&ours).enumerate() {
                                assert!(exact.fits(ours), "side {side}: {}\n{ours:x?}", context());
                            }
                        }
                    }
                });
            }
        }
    });
}

/// Where both operands are intervals in the order that the jump looks at, it is decided whenever it can be.
#[test]
fn order_of_intervals_is_decided_exactly() {
    let bits = bits();
    let run = Run::whole(bits, 1 << (bits - 1));
    for op in JMP.into_iter().filter(|op| !matches!(op, JmpOp::Set)) {
        for width in WIDTHS {
            let image = |x, y| {
                let jumps = concrete_jump(op, width, x, y);
                if jumps { [Hull::of(1), Hull::EMPTY] } else { [Hull::EMPTY, Hull::of(1)] }
            };
            for_pairs(&run, &run, image, |dst, src, [yes, no]| {
                let exact = match (yes.is_empty(), no.is_empty()) {
                    (false, true) => Some(true),
                    (true, false) => Some(false),
                    _ => None,
                };
                assert_eq!(branch::is_branch_taken(op, width, dst, src), exact, "{op:?} {dst:x?} {src:x?}");
            });
        }
    }
}
