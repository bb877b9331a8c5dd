//! Which pages of an arena are free.
//!
//! Owns the choice of pages where a program asks for any. Invariant: ranges do not overlap and do not touch, so that a run of
//! free pages is one range. The choice is the kernel's, which programs can see: the smallest range that is large enough, of
//! several the one that came to be last, from its start. Kernel counterpart: kernel/bpf/range_tree.c, 6.18.

/// Free pages, as ranges.
#[derive(Debug)]
pub(super) struct FreePages {
    ranges: Vec<Range>,
    /// Ranges that ever came to be.
    made: u64,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    /// One past the last page.
    end: u32,
    made: u64,
}

impl Range {
    fn len(&self) -> u32 {
        self.end - self.start
    }
}

impl FreePages {
    /// All of this many pages are free.
    pub(super) fn new(pages: u32) -> Self {
        let mut free = Self { ranges: Vec::new(), made: 0 };
        free.insert(0, pages);
        free
    }

    /// Where this many pages are free.
    pub(super) fn find(&self, pages: u32) -> Option<u32> {
        let fits = self.ranges.iter().filter(|range| range.len() >= pages);
        fits.min_by_key(|range| (range.len(), u64::MAX - range.made)).map(|range| range.start)
    }

    /// Whether all pages of `start..end` are free.
    pub(super) fn has(&self, start: u32, end: u32) -> bool {
        self.ranges.iter().any(|range| range.start <= start && end <= range.end)
    }

    /// Takes pages, free or not.
    pub(super) fn take(&mut self, start: u32, end: u32) {
        while let Some(at) = self.ranges.iter().position(|range| range.start < end && start < range.end) {
            let range = self.ranges.swap_remove(at);
            if range.start < start {
                self.insert(range.start, start);
            }
            if end < range.end {
                self.insert(end, range.end);
            }
        }
    }

    /// Gives pages back, taken or not.
    pub(super) fn give(&mut self, start: u32, end: u32) {
        if self.has(start, end) {
            return;
        }
        self.take(start, end);
        let (mut first, mut last) = (start, end);
        self.ranges.retain(|range| {
            let touches = range.end == start || range.start == end;
            if touches {
                first = first.min(range.start);
                last = last.max(range.end);
            }
            !touches
        });
        self.insert(first, last);
    }

    fn insert(&mut self, start: u32, end: u32) {
        self.made += 1;
        self.ranges.push(Range { start, end, made: self.made });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_fits_is_taken_and_the_newest_of_these() {
        let mut free = FreePages::new(100);
        assert_eq!(free.find(100), Some(0));
        assert_eq!(free.find(101), None);
        free.take(10, 20);
        free.take(24, 30);
        free.take(34, 40);
        // 0..10, 20..24, 30..34 and 40..100.
        assert_eq!(free.find(3), Some(30));
        assert_eq!(free.find(5), Some(0));
        assert_eq!(free.find(11), Some(40));
        free.take(20, 21);
        free.give(20, 21);
        assert_eq!(free.find(4), Some(20));
    }

    #[test]
    fn neighbours_become_one() {
        let mut free = FreePages::new(10);
        free.take(0, 10);
        assert_eq!(free.find(1), None);
        free.give(2, 4);
        free.give(6, 8);
        assert!(!free.has(2, 8));
        free.give(3, 7);
        assert!(free.has(2, 8) && !free.has(1, 8) && !free.has(2, 9));
        assert_eq!(free.find(6), Some(2));
        free.give(3, 5);
        assert_eq!(free.ranges.len(), 1);
    }

    #[test]
    fn pages_are_free_or_not() {
        let (mut free, mut model) = (FreePages::new(64), [true; 64]);
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, len) = (random >> 33 & 63, (random >> 40 & 7) + 1);
            let (start, end) = (start as u32, (start + len).min(64) as u32);
            let state = random >> 60 & 1 != 0;
            if state {
                free.give(start, end)
            } else {
                free.take(start, end)
            }
            model[start as usize..end as usize].fill(state);
            let (from, to) = ((random >> 20 & 63) as u32, 64);
            for end in from + 1..=to {
                assert_eq!(free.has(from, end), model[from as usize..end as usize].iter().all(|page| *page));
            }
            let longest = model.split(|page| !page).map(<[bool]>::len).max().unwrap() as u32;
            assert_eq!(free.find(longest.max(1)).is_some(), longest > 0);
            assert_eq!(free.find(longest + 1), None);
        }
    }
}
