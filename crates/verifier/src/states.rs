//! The states that are kept for comparison.
//!
//! Owns them in an arena; parents are indices. Invariant: a state is dropped only when no path from it is open and its loop's
//! marks are complete, so the index of an ancestor of an open path always means that ancestor. Kernel counterpart:
//! `struct bpf_verifier_state_list`, 6.18.

use crate::state::frame::State;

/// A kept state and how useful it was.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) state: State,
    pub(crate) hits: u32,
    pub(crate) misses: u32,
    /// Taken out of its list for being useless, waiting to be dropped.
    pub(crate) evicted: bool,
}

/// The arena, and the lists, newest first in comparison. A list holds the states of a slot and a call site (and, rarely, of
/// others: which states wear each other out is the kernel's, whose table this is).
#[derive(Debug, Default)]
pub(crate) struct States {
    arena: Vec<Option<Box<Kept>>>,
    free: Vec<u32>,
    lists: Vec<Vec<u32>>,
    listed: u32,
    evicted: u32,
}

impl States {
    /// For a program of `len` slots.
    pub(crate) fn new(len: usize) -> Self {
        Self { lists: vec![Vec::new(); len.max(1)], ..Self::default() }
    }

    /// Forgets everything, for the next function.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.free.clear();
        for list in &mut self.lists {
            list.clear();
        }
        self.listed = 0;
        self.evicted = 0;
    }

    /// Keeps a state and lists it at its slot.
    pub(crate) fn keep(&mut self, state: State) -> u32 {
        let at = self.list_of(&state, state.insn);
        let kept = Some(Box::new(Kept { state, hits: 0, misses: 0, evicted: false }));
        let id = if let Some(id) = self.free.pop() {
            self.arena[id as usize] = kept;
            id
        } else {
            self.arena.push(kept);
            u32::try_from(self.arena.len() - 1).unwrap_or(u32::MAX)
        };
        if let Some(list) = self.lists.get_mut(at) {
            list.push(id);
        }
        self.listed += 1;
        id
    }

    /// How many are held now.
    pub(crate) fn held(&self) -> u32 {
        self.listed + self.evicted
    }

    /// The list for a path like `state` at slot `insn`.
    pub(crate) fn list_of(&self, state: &State, insn: u32) -> usize {
        let callsite = state.frames.last().map_or(u32::MAX, |f| f.callsite);
        (insn ^ callsite) as usize % self.lists.len().max(1)
    }

    /// The `i`th newest state of a list.
    pub(crate) fn nth_newest(&self, list: usize, i: usize) -> Option<u32> {
        let list = self.lists.get(list)?;
        list.len().checked_sub(i + 1).and_then(|k| list.get(k)).copied()
    }

    /// A kept state. `None` only through a bug of ours.
    pub(crate) fn get(&self, id: u32) -> Option<&Kept> {
        self.arena.get(id as usize)?.as_deref()
    }

    /// A kept state, to be written.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Kept> {
        self.arena.get_mut(id as usize)?.as_deref_mut()
    }

    /// Takes it out for a while; give it back with [`Self::put`].
    pub(crate) fn take(&mut self, id: u32) -> Option<Box<Kept>> {
        self.arena.get_mut(id as usize)?.take()
    }

    /// Puts back what [`Self::take`] gave.
    pub(crate) fn put(&mut self, id: u32, kept: Box<Kept>) {
        if let Some(place) = self.arena.get_mut(id as usize) {
            *place = Some(kept);
        }
    }

    /// Takes a state off its list; it is dropped by [`Self::drop_evicted`] once that is safe.
    pub(crate) fn evict(&mut self, id: u32) {
        let Some(kept) = self.get_mut(id) else { return };
        kept.evicted = true;
        let Some(kept) = self.get(id) else { return };
        let at = self.list_of(&kept.state, kept.state.insn);
        if let Some(list) = self.lists.get_mut(at) {
            list.retain(|&other| other != id);
        }
        self.listed -= 1;
        self.evicted += 1;
    }

    /// Drops an evicted state; the caller knows that nothing refers to it.
    pub(crate) fn drop_evicted(&mut self, id: u32) {
        if self.get(id).is_some_and(|k| k.evicted) {
            self.arena[id as usize] = None;
            self.free.push(id);
            self.evicted -= 1;
        }
    }
}
