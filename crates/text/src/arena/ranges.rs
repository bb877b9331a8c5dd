//! Which parts of an arena are in use.
//!
//! First fit by address, in granules; holes join when they meet. Invariant: holes are disjoint, none touches another,
//! and every byte beyond the frontier is in the last hole.

use std::collections::BTreeMap;

/// The unit of allocation, and its alignment: a cache line.
pub(crate) const GRANULE: usize = 64;

/// The holes of an arena.
pub(crate) struct Ranges {
    holes: BTreeMap<usize, usize>,
}

impl Ranges {
    pub(crate) fn new(len: usize) -> Ranges {
        Ranges { holes: BTreeMap::from([(0, len)]) }
    }

    /// Takes `len` bytes, a multiple of the granule.
    pub(crate) fn take(&mut self, len: usize) -> Option<usize> {
        let (&start, &hole) = self.holes.iter().find(|&(_, &hole)| hole >= len)?;
        self.holes.remove(&start);
        if hole > len {
            self.holes.insert(start + len, hole - len);
        }
        Some(start)
    }

    /// Gives a range back.
    pub(crate) fn give(&mut self, mut start: usize, mut len: usize) {
        if let Some((&before, &before_len)) = self.holes.range(..start).next_back()
            && before + before_len == start
        {
            self.holes.remove(&before);
            start = before;
            len += before_len;
        }
        if let Some(after) = self.holes.remove(&(start + len)) {
            len += after;
        }
        self.holes.insert(start, len);
    }

    /// Bytes in no hole.
    pub(crate) fn used(&self, len: usize) -> usize {
        len - self.holes.values().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_join_and_are_taken_lowest_first() {
        let mut ranges = Ranges::new(1024);
        let taken: Vec<usize> = (0..4).map(|_| ranges.take(128).unwrap()).collect();
        assert_eq!(taken, [0, 128, 256, 384]);
        ranges.give(128, 128);
        assert_eq!(ranges.take(256), Some(512));
        assert_eq!(ranges.take(64), Some(128));
        ranges.give(128, 64);
        ranges.give(384, 128);
        ranges.give(0, 128);
        ranges.give(256, 128);
        ranges.give(512, 256);
        assert_eq!(ranges.used(1024), 0);
        assert_eq!(ranges.take(1024), Some(0));
        assert_eq!(ranges.take(64), None);
    }
}
