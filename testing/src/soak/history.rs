//! What a slot of a prog array held, and when.
//!
//! Time is a counter that everybody adds to. Whoever changes a slot reads it before and after; in between, a run may see
//! what was there or what comes. Invariant: a moment at which a run could see a program in a slot is inside one of the
//! slot's entries for that program.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counter.
#[derive(Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// A moment that no other call gets.
    pub(super) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    /// A moment not later than the next tick.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A slot held `program` (0: nothing), as runs may have seen it, from before `from` was over until `to`.
#[derive(Clone, Copy)]
struct Entry {
    program: u32,
    from: u64,
    to: u64,
}

/// Entries that there is room for from the beginning: what a history takes later is the soak's own, between blocks of the
/// engine, whose memory is what is looked at.
const ROOM: usize = 64;

/// The entries of a slot, oldest first.
pub(super) struct History(Mutex<VecDeque<Entry>>);

impl History {
    /// An empty slot.
    pub(super) fn new() -> Self {
        // All of the room is written once, so that it is resident from the beginning.
        let mut entries = VecDeque::from(vec![Entry { program: 0, from: 0, to: u64::MAX }; ROOM]);
        entries.truncate(1);
        Self(Mutex::new(entries))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change to `program` is about to begin.
    pub(super) fn begin(&self, program: u32, clock: &Clock) {
        let mut entries = self.lock();
        entries.push_back(Entry { program, from: clock.tick(), to: u64::MAX });
    }

    /// The change that began last is over. What was over before `oldest` is forgotten.
    pub(super) fn end(&self, clock: &Clock, oldest: u64) {
        let to = clock.tick();
        let mut entries = self.lock();
        let before = entries.len().saturating_sub(2);
        if let Some(entry) = entries.get_mut(before) {
            entry.to = to;
        }
        while entries.len() > 1 && entries.front().is_some_and(|entry| entry.to < oldest) {
            entries.pop_front();
        }
    }

    /// Forgets everything but what is there now, and the memory that it took beyond its first room.
    pub(super) fn forget(&self) {
        let mut entries = self.lock();
        let over = entries.len().saturating_sub(1);
        entries.drain(..over);
        entries.shrink_to(ROOM);
    }

    /// The first moment from `from` to `until` at which a run may have seen `program`.
    pub(super) fn seen(&self, program: u32, from: u64, until: u64) -> Option<u64> {
        let entries = self.lock();
        let fitting =
            entries.iter().filter(|entry| entry.program == program && entry.from <= until && entry.to >= from);
        fitting.map(|entry| entry.from.max(from)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_seen_while_it_is_there_and_no_longer() {
        let (clock, history) = (Clock::default(), History::new());
        let start = clock.tick();
        history.begin(7, &clock);
        let inside = clock.tick();
        history.end(&clock, 0);
        let after = clock.tick();
        assert_eq!(history.seen(7, start, start), None, "before it began");
        assert_eq!((history.seen(0, inside, inside), history.seen(7, inside, inside)), (Some(inside), Some(inside)));
        assert_eq!((history.seen(0, after, after), history.seen(7, after, after)), (None, Some(after)));
        history.begin(8, &clock);
        let over = clock.now();
        history.end(&clock, over);
        assert!(history.seen(7, 0, over).is_some(), "it was over at this very moment, not before");
        history.begin(9, &clock);
        history.end(&clock, over + 1);
        assert_eq!(history.seen(7, 0, u64::MAX - 1), None, "forgotten");
        assert!(history.seen(8, 0, u64::MAX - 1).is_some());
    }
}
