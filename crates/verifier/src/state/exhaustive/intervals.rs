//! Runs of neighbouring values, all their intervals, and what each pair of intervals makes.
//!
//! Owns the walk over pairs: the image of a pair of intervals is merged from those of smaller pairs, so each pair costs one
//! merge however many values it holds. Invariant: every pair of intervals of both runs is checked once. Kernel counterpart:
//! none.

use super::super::bounds::{Bounds, Integer, Interval};
use super::super::branch::settle;
use super::super::tnum::Tnum;

/// What values have in common: it grows as values are merged into it.
pub(super) trait Image: Copy {
    /// Of no value.
    const EMPTY: Self;

    /// Takes in what `other` has.
    fn merge(&mut self, other: &Self);
}

impl<T: Image, const N: usize> Image for [T; N] {
    const EMPTY: Self = [T::EMPTY; N];

    fn merge(&mut self, other: &Self) {
        self.iter_mut().zip(other).for_each(|(a, b)| a.merge(b));
    }
}

/// Which of several things happened, one bit each.
impl Image for u8 {
    const EMPTY: Self = 0;

    fn merge(&mut self, other: &Self) {
        *self |= other;
    }
}

/// The least interval of each kind around some values, and the bits that all or any of them have.
#[derive(Clone, Copy)]
pub(super) struct Hull {
    pub(super) u64: Interval<u64>,
    pub(super) s64: Interval<i64>,
    pub(super) u32: Interval<u32>,
    pub(super) s32: Interval<i32>,
    pub(super) all: u64,
    pub(super) any: u64,
}

impl Image for Hull {
    const EMPTY: Self = Self { u64: empty(), s64: empty(), u32: empty(), s32: empty(), all: u64::MAX, any: 0 };

    fn merge(&mut self, other: &Self) {
        self.u64 = join(self.u64, other.u64);
        self.s64 = join(self.s64, other.s64);
        self.u32 = join(self.u32, other.u32);
        self.s32 = join(self.s32, other.s32);
        self.all &= other.all;
        self.any |= other.any;
    }
}

impl Hull {
    pub(super) fn is_empty(&self) -> bool {
        self.u64.is_empty()
    }

    pub(super) fn of(value: u64) -> Self {
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

    pub(super) fn fits(&self, bounds: &Bounds) -> bool {
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

/// The bounds of an interval.
pub(super) struct Known {
    pub(super) bounds: Bounds,
    /// What they settle to once more, after a jump that said nothing new.
    pub(super) settled: Bounds,
}

/// A run of neighbouring values: the concrete ones at each place, and what is known of each interval of places.
pub(super) struct Run {
    pub(super) name: String,
    concrete: Vec<Vec<u64>>,
    known: Vec<Vec<Known>>,
}

impl Run {
    /// `2^bits` values around `middle`, all 64 bits of them known to be near.
    pub(super) fn whole(bits: u32, middle: u64) -> Self {
        Self::spread(bits, middle, 1)
    }

    /// The same, `stride` apart: wide intervals, of which some values are looked at.
    pub(super) fn spread(bits: u32, middle: u64, stride: u64) -> Self {
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
    pub(super) fn low(bits: u32, middle: u32) -> Self {
        let first = middle.wrapping_sub(1 << (bits - 1));
        let at = move |place: u64| first.wrapping_add(place as u32);
        let uppers = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
        let concrete = move |place| uppers.iter().map(|upper| upper << 32 | u64::from(at(place))).collect();
        Self::new(format!("low halves around {middle:#x}"), bits, concrete, |a, b| {
            let (min, max) = (at(a), at(b));
            Bounds { u32: ordered(min, max), s32: ordered(min as i32, max as i32), ..Bounds::UNKNOWN }
        })
    }

    pub(super) fn new(
        name: String,
        bits: u32,
        concrete: impl Fn(u64) -> Vec<u64>,
        bounds: impl Fn(u64, u64) -> Bounds,
    ) -> Self {
        let places = 0..1u64 << bits;
        let know = |a: u64, b: u64| {
            let bounds = bounds(a, b.max(a)).synced();
            let mut settled = bounds;
            settle(&mut settled);
            Known { bounds, settled }
        };
        let row = |a| places.clone().map(|b| know(a, b)).collect();
        Self { name, concrete: places.clone().map(concrete).collect(), known: places.clone().map(row).collect() }
    }

    fn len(&self) -> usize {
        self.concrete.len()
    }
}

fn ordered<T: Integer>(min: T, max: T) -> Interval<T> {
    if min <= max { Interval::new(min, max) } else { Interval::FULL }
}

/// Runs at each place where some view of the number wraps, and an ordinary one.
pub(super) fn runs(bits: u32) -> Vec<Run> {
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

/// Calls `check` with every pair of intervals and the merged images of their values under `image`; says how many pairs.
pub(super) fn for_pairs<I: Image>(
    left: &Run,
    right: &Run,
    image: impl Fn(u64, u64) -> I,
    mut check: impl FnMut(&Known, &Known, &I),
) -> u64 {
    let at = |x: usize, y: usize| {
        let mut merged = I::EMPTY;
        for x in &left.concrete[x] {
            right.concrete[y].iter().for_each(|y| merged.merge(&image(*x, *y)));
        }
        merged
    };
    let images: Vec<Vec<I>> = (0..left.len()).map(|x| (0..right.len()).map(|y| at(x, y)).collect()).collect();
    for a in 0..left.len() {
        let mut columns = vec![I::EMPTY; right.len()];
        for (b, row) in images.iter().enumerate().skip(a) {
            columns.iter_mut().zip(row).for_each(|(column, image)| column.merge(image));
            let dst = &left.known[a][b];
            for (c, from_c) in right.known.iter().enumerate() {
                let mut merged = I::EMPTY;
                for (column, src) in columns.iter().zip(from_c).skip(c) {
                    merged.merge(column);
                    check(dst, src, &merged);
                }
            }
        }
    }
    intervals(left) * intervals(right)
}

fn intervals(run: &Run) -> u64 {
    let places = run.len() as u64;
    places * (places + 1) / 2
}
