//! The generator of random numbers that all generated tests share.
//!
//! Invariant: one seed gives one sequence, on every machine and in every version, so a failure is named by its seed.

/// A xorshift generator with a multiplied output (`xorshift64*`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed; neighbouring seeds give unrelated sequences.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut warm_up = 0;
        while warm_up < 4 {
            random.word();
            warm_up += 1;
        }
        random
    }

    /// 64 random bits.
    pub const fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, 0 if that is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { (self.word() >> 11) % bound }
    }

    /// A number from `min` to `max`, both included.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bounds are i32, so is the result")]
    pub const fn range(&mut self, min: i32, max: i32) -> i32 {
        let count = (max as i64 - min as i64 + 1) as u64;
        (min as i64 + self.below(count).cast_signed()) as i32
    }

    /// True once in `times`.
    pub const fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).expect("an index of a slice")]
    }

    /// An immediate: an edge value, a neighbour of one, or any.
    pub fn immediate(&mut self) -> i32 {
        let edges = [0, 1, -1, 8, 16, 31, 32, 63, 64, 127, 128, 255, 0x7fff, 0x8000, 0xffff, 0x1_0000];
        let edge = match self.below(5) {
            0 => i32::MAX,
            1 => i32::MIN,
            2 => 1 << self.below(31),
            _ => self.pick(&edges),
        };
        match self.below(4) {
            0 => edge.wrapping_add(self.range(-2, 2)),
            1 => self.range(i32::MIN, i32::MAX),
            _ => edge,
        }
    }

    /// A 64-bit constant: a power of two or its negative, a neighbour of one, or any.
    pub fn constant(&mut self) -> u64 {
        let edge = 1u64 << self.below(64);
        let near = self.below(5).wrapping_sub(2);
        match self.below(5) {
            0 => self.word(),
            1 => i64::from(self.immediate()).cast_unsigned(),
            2 => edge.wrapping_add(near).wrapping_neg(),
            _ => edge.wrapping_add(near),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_sequence() {
        let (mut a, mut b, mut other) = (Random::new(7), Random::new(7), Random::new(8));
        let words: Vec<u64> = (0..4).map(|_| a.word()).collect();
        assert_eq!(words, (0..4).map(|_| b.word()).collect::<Vec<_>>());
        assert_ne!(words, (0..4).map(|_| other.word()).collect::<Vec<_>>());
    }

    #[test]
    fn ranges_reach_both_ends() {
        let mut random = Random::new(1);
        let seen: std::collections::BTreeSet<i32> = (0..200).map(|_| random.range(-2, 2)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [-2, -1, 0, 1, 2]);
        assert!((i32::MIN..=i32::MAX).contains(&random.range(i32::MIN, i32::MAX)));
    }
}
