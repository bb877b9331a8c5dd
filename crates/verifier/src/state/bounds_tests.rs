//! Settling takes short cuts; here they are held against all steps, on views that may contradict each other.

use super::*;

/// Numbers that repeat with the seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Small, near a place where a view wraps, or anything.
    fn value(&mut self) -> u64 {
        let near = [0, 1 << 31, 1 << 32, 1 << 63, (1 << 63) + (1 << 31), 0u64.wrapping_sub(1 << 31)];
        match self.next() % 4 {
            0 => self.next() >> 48,
            3 => self.next(),
            _ => near[(self.next() % 6) as usize].wrapping_add(self.next() >> 60).wrapping_sub(8),
        }
    }

    fn bounds(&mut self) -> Bounds {
        let mut bounds = Bounds::UNKNOWN;
        let kinds = self.next();
        let (a, b) = (self.value(), self.value());
        if kinds & 1 != 0 {
            bounds.u64 = Interval::new(a.min(b), a.max(b));
        }
        if kinds & 2 != 0 {
            bounds.s64 = Interval::new((a as i64).min(b as i64), (a as i64).max(b as i64));
        }
        let (a, b) = if kinds & 64 != 0 { (self.value(), self.value()) } else { (a, b) };
        if kinds & 4 != 0 {
            bounds.u32 = Interval::new((a as u32).min(b as u32), (a as u32).max(b as u32));
        }
        if kinds & 8 != 0 {
            bounds.s32 = Interval::new((a as i32).min(b as i32), (a as i32).max(b as i32));
        }
        if kinds & 48 == 48 {
            let mask = self.value();
            bounds.var_off = Tnum::new(a & !mask, mask);
        }
        bounds
    }
}

/// [`Bounds::sync`] with every step taken.
fn settled_in_full(mut bounds: Bounds) -> Bounds {
    bounds.learn_from_bits();
    (0..3).for_each(|_| bounds.deduce());
    bounds.learn_bits();
    bounds.learn_from_bits();
    bounds
}

#[test]
fn settles_as_without_short_cuts() {
    let mut numbers = Numbers(1);
    // How often something was learnt at all, and how often a contradiction was met.
    let (mut learnt, mut contradictions) = (0, 0);
    for _ in 0..200_000 {
        let before = numbers.bounds();
        let after = settled_in_full(before);
        assert_eq!(before.synced(), after, "{before:x?}");
        assert_eq!(after.synced(), settled_in_full(after), "{before:x?}, twice");
        learnt += u32::from(after != before);
        contradictions += u32::from(after.check().is_err());
    }
    assert!(learnt > 10_000 && contradictions > 1000, "{learnt} {contradictions}");
}
