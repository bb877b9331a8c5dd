//! Every operator on every pair of 4-bit tristate numbers, against every concrete value they hold.

use super::*;

/// All tristate numbers of `bits` bits, placed at bit `place`, each with the values that it holds.
fn all(bits: u32, place: u32) -> Vec<(Tnum, Vec<u64>)> {
    let words = 0..1u64 << bits;
    let pairs = words.clone().flat_map(|mask| words.clone().map(move |value| (value, mask)));
    pairs
        .filter(|(value, mask)| value & mask == 0)
        .map(|(value, mask)| {
            let held = words.clone().filter(|word| word & !mask == value).map(|word| word << place).collect();
            (Tnum::new(value << place, mask << place), held)
        })
        .collect()
}

/// The most precise tristate number that holds `values`.
fn best(values: impl Iterator<Item = u64>) -> Tnum {
    values.map(Tnum::constant).reduce(Tnum::union).expect("no tristate number is empty")
}

type Pair = (fn(Tnum, Tnum) -> Tnum, fn(u64, u64) -> u64);

/// 4 bits low, across the middle of the word, and at its top, where sums wrap.
const PLACES: [u32; 3] = [0, 30, 60];

#[test]
fn bitwise_and_sums_are_the_best_possible() {
    let operators: [Pair; 5] = [
        (Tnum::add, u64::wrapping_add),
        (Tnum::sub, u64::wrapping_sub),
        (|a, b| a & b, |x, y| x & y),
        (|a, b| a | b, |x, y| x | y),
        (|a, b| a ^ b, |x, y| x ^ y),
    ];
    for place in PLACES {
        let numbers = all(4, place);
        for (abstractly, concretely) in operators {
            for (a, xs) in &numbers {
                for (b, ys) in &numbers {
                    let exact = best(xs.iter().flat_map(|x| ys.iter().map(|y| concretely(*x, *y))));
                    assert_eq!(abstractly(*a, *b), exact, "{a} and {b} at bit {place}");
                }
            }
        }
    }
}

#[test]
fn products_hold_every_product() {
    for place in PLACES {
        let (left, right) = (all(4, place), all(4, 0));
        for (a, xs) in &left {
            for (b, ys) in &right {
                let (product, turned) = (a.mul(*b), b.mul(*a));
                for x in xs {
                    for y in ys {
                        let exact = x.wrapping_mul(*y);
                        assert!(product.contains(exact) && turned.contains(exact), "{a} * {b}: {exact:#x}");
                    }
                }
            }
        }
    }
}

/// Long multiplication over every bit, without the end that it may come to early.
fn long_product(a: Tnum, b: Tnum) -> Tnum {
    (0..64).filter(|place| a.max() >> place & 1 == 1).fold(Tnum::ZERO, |sum, place| {
        let with = sum.add(Tnum::new(b.value << place, b.mask << place));
        if a.value >> place & 1 == 1 { with } else { sum.union(with) }
    })
}

#[test]
fn products_end_early_where_nothing_changes() {
    let small = [0u64, 1, 2, 3, 5, 8, 0x80, 0xfffe];
    let words: Vec<u64> = small.iter().flat_map(|word| [*word, word.wrapping_neg(), word << 30, word << 60]).collect();
    let pairs = words.iter().flat_map(|value| words.iter().map(move |mask| Tnum::new(value & !mask, *mask)));
    let numbers: Vec<Tnum> = pairs.collect();
    for a in &numbers {
        for b in &numbers {
            assert_eq!(a.mul(*b), long_product(*a, *b), "{a} * {b}");
        }
    }
}

#[test]
fn products_of_constants_are_constant() {
    for (x, y) in [(3, 5), (u64::MAX, u64::MAX), (1 << 63, 2), (0, 77), (0x1_0000_0001, 0xffff_ffff)] {
        assert_eq!(Tnum::constant(x).mul(Tnum::constant(y)), Tnum::constant(x.wrapping_mul(y)));
    }
}

#[test]
fn unary_operators_hold_every_result() {
    for place in [0, 4, 12, 28, 30, 44, 60] {
        for (a, xs) in &all(4, place) {
            assert_eq!(a.neg(), best(xs.iter().map(|x| x.wrapping_neg())), "-{a}");
            assert_eq!(a.subreg(), best(xs.iter().map(|x| x & LOW32)));
            assert_eq!(a.clear_subreg(), best(xs.iter().map(|x| x & !LOW32)));
            for bytes in [1, 2, 4, 8] {
                assert_eq!(a.cast(bytes), best(xs.iter().map(|x| x & low_bits(u32::from(bytes) * 8))));
            }
            let swap16 = |x: u64| (x & 0xff) << 8 | (x >> 8) & 0xff;
            let swap32 = |x: u64| (x & LOW32).swap_bytes() >> 32;
            assert_eq!(a.bswap(16), best(xs.iter().map(|x| swap16(*x))));
            assert_eq!(a.bswap(32), best(xs.iter().map(|x| swap32(*x))));
            assert_eq!(a.bswap(64), best(xs.iter().map(|x| x.swap_bytes())));
        }
    }
}

#[test]
#[expect(clippy::cast_possible_truncation, reason = "the 32-bit shift looks at the low half")]
fn shifts_are_the_best_possible() {
    for place in [0, 28, 31, 60] {
        for (a, xs) in &all(4, place) {
            for shift in 0..64u8 {
                assert_eq!(a.lshift(shift), best(xs.iter().map(|x| x << shift)), "{a} << {shift}");
                assert_eq!(a.rshift(shift), best(xs.iter().map(|x| x >> shift)), "{a} >> {shift}");
                let wide = best(xs.iter().map(|x| (x.cast_signed() >> shift).cast_unsigned()));
                assert_eq!(a.arshift(shift, 64), wide, "{a} s>> {shift}");
                if shift < 32 {
                    let half = |x: &u64| u64::from(((*x as u32).cast_signed() >> shift).cast_unsigned());
                    assert_eq!(a.arshift(shift, 32), best(xs.iter().map(half)), "{a} s>> {shift} in 32 bits");
                }
            }
            assert!(a.lshift(64).is_unknown() && a.rshift(64).is_unknown() && a.arshift(64, 64).is_unknown());
        }
    }
}

#[test]
fn set_operators_agree_with_the_sets() {
    let numbers = all(4, 0);
    for (a, xs) in &numbers {
        for (b, ys) in &numbers {
            let common: Vec<u64> = xs.iter().copied().filter(|x| ys.contains(x)).collect();
            assert_eq!(a.overlaps(*b), !common.is_empty(), "{a} and {b}");
            assert_eq!(a.subset_of(*b), common.len() == xs.len(), "{a} in {b}");
            assert_eq!(a.union(*b), best(xs.iter().chain(ys).copied()), "{a} or {b}");
            if !common.is_empty() {
                assert_eq!(a.intersect(*b), best(common.into_iter()), "{a} and {b}");
            }
        }
        for x in 0..16 {
            assert_eq!(a.contains(x), xs.contains(&x));
        }
        assert_eq!(Some(&a.min()), xs.iter().min());
        assert_eq!(Some(&a.max()), xs.iter().max());
        for size in [0, 1, 2, 4, 8] {
            assert_eq!(a.is_aligned(size), xs.iter().all(|x| size == 0 || x % size == 0), "{a} by {size}");
        }
    }
}

#[test]
fn at_least_finds_the_next_value() {
    for place in [0, 30, 60] {
        for (a, xs) in &all(4, place) {
            for floor in
                (0..16).flat_map(|low| [(low << place) - u64::from(low != 0), low << place, (low << place) | 1])
            {
                let next = xs.iter().copied().filter(|x| *x >= floor).min();
                assert_eq!(a.at_least(floor), next, "{a} from {floor:#x}");
            }
        }
    }
}

#[test]
fn ranges_are_the_best_tnum_with_free_low_bits() {
    for min in 0..64u64 {
        for max in min..64 {
            let range = Tnum::range(min, max);
            assert!((min..=max).all(|x| range.contains(x)), "{min}..={max}");
            let free = range.mask + 1;
            assert!(free.is_power_of_two(), "{min}..={max} gives {range}");
            // One free bit fewer would not do.
            assert!(min == max || min / (free / 2) != max / (free / 2), "{min}..={max} gives {range}");
        }
    }
    assert_eq!(Tnum::range(0, u64::MAX), Tnum::UNKNOWN);
    assert_eq!(Tnum::range(1 << 63, u64::MAX), Tnum::new(1 << 63, u64::MAX >> 1));
}

#[test]
fn with_subreg_replaces_the_low_half() {
    let high = Tnum::new(0x5_0000_0001, 0x8_0000_0002);
    let low = Tnum::new(0xffff_ffff_0000_0010, 0x3);
    assert_eq!(high.with_subreg(low), Tnum::new(0x5_0000_0010, 0x8_0000_0003));
}

#[test]
fn prints_as_in_the_log() {
    assert_eq!(Tnum::new(0x40, 0x3f).to_string(), "(0x40; 0x3f)");
    assert_eq!(Tnum::UNKNOWN.to_string(), "(0x0; 0xffffffffffffffff)");
}
