//! Stack slots that may still be read, learnt while paths are walked.
//!
//! Owns, for each call chain, what every slot of the running function reads and always writes in every frame of the chain.
//! Invariant: a slot that is not live at an instruction is read by no path known so far from there; states are cleaned only
//! when all their paths are known. Kernel counterpart: kernel/bpf/liveness.c, 6.18.

use std::collections::HashMap;

use skep_abi::RawInsn;

use crate::cfg::successors;
use crate::state::frame::{MAX_FRAMES, State};

/// One bit per 8-byte slot.
pub(crate) type SlotMask = u64;

#[derive(Clone, Copy, Debug, Default)]
struct Masks {
    may_read: SlotMask,
    must_write: SlotMask,
    live_before: SlotMask,
}

/// A function entered through one call chain.
#[derive(Debug)]
struct Instance {
    start: u32,
    end: u32,
    /// Instance of the caller and the call's slot.
    outer: Option<(usize, u32)>,
    frames: Vec<Option<Vec<Masks>>>,
    visited: Vec<bool>,
    updated: bool,
}

/// The marks of all call chains.
#[derive(Debug, Default)]
pub(crate) struct LiveStack {
    instances: Vec<Instance>,
    by_chain: HashMap<Vec<(u32, u32)>, usize>,
    /// Instance of the path being walked; unknown after calls, returns and changes of path.
    current: Option<usize>,
    insn: u32,
    writes: [SlotMask; MAX_FRAMES],
}

fn chain(state: &State, depth: usize, start_of: impl Fn(u32) -> (u32, u32)) -> Vec<(u32, u32)> {
    state.frames.iter().take(depth + 1).map(|f| (f.callsite, start_of(f.subprog).0)).collect()
}

impl LiveStack {
    /// The chain of frames has changed.
    pub(crate) fn moved(&mut self) {
        self.current = None;
    }

    /// Forgets everything, for the next function.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn instance(&mut self, state: &State, depth: usize, start_of: &impl Fn(u32) -> (u32, u32)) -> usize {
        let key = chain(state, depth, start_of);
        if let Some(&found) = self.by_chain.get(&key) {
            return found;
        }
        let outer = depth.checked_sub(1).map(|d| (self.instance(state, d, start_of), state.frames[depth].callsite));
        let (start, end) = start_of(state.frames[depth].subprog);
        self.instances.push(Instance {
            start,
            end,
            outer,
            frames: vec![None; depth + 1],
            visited: vec![false; (end - start) as usize],
            updated: true,
        });
        let id = self.instances.len() - 1;
        self.by_chain.insert(key, id);
        id
    }

    /// The instruction at `state.insn` starts.
    pub(crate) fn begin(&mut self, state: &State, start_of: &impl Fn(u32) -> (u32, u32)) {
        self.insn = state.insn;
        self.writes = [0; MAX_FRAMES];
        if self.current.is_none() {
            self.current = Some(self.instance(state, state.depth(), start_of));
        }
    }

    /// The current instruction may read these slots of `frame`.
    pub(crate) fn read(&mut self, frame: usize, slots: SlotMask) {
        let Some(current) = self.current else { return };
        let insn = self.insn;
        self.instances[current].mark_read(frame, insn, slots);
    }

    /// The current instruction writes these slots of `frame` whole.
    pub(crate) fn write(&mut self, frame: usize, slots: SlotMask) {
        if let Some(acc) = self.writes.get_mut(frame) {
            *acc |= slots;
        }
    }

    /// The current instruction ends: what it wrote on every visit kills.
    pub(crate) fn commit(&mut self) {
        let Some(current) = self.current else { return };
        let writes = self.writes;
        let insn = self.insn;
        self.instances[current].commit(insn, &writes);
    }

    /// A path has ended: spreads what was learnt along the chain.
    pub(crate) fn update(&mut self, insns: &[RawInsn], state: &State, start_of: &impl Fn(u32) -> (u32, u32)) {
        let mut at = Some(self.instance(state, state.depth(), start_of));
        while let Some(id) = at {
            if self.instances[id].updated {
                self.instances[id].solve(insns);
                self.instances[id].updated = false;
            }
            let instance = &self.instances[id];
            let outer = instance.outer;
            if let Some((outer, callsite)) = outer {
                let live: Vec<SlotMask> =
                    (0..instance.frames.len() - 1).map(|f| instance.live_before(instance.start, f)).collect();
                for (frame, mask) in live.into_iter().enumerate() {
                    self.instances[outer].mark_read(frame, callsite, mask);
                }
            }
            at = outer.map(|(id, _)| id);
        }
    }

    /// Masks of live slots of every frame of a kept state; `None` where nothing is known.
    pub(crate) fn live_slots(
        &mut self,
        state: &State,
        start_of: &impl Fn(u32) -> (u32, u32),
        calls_callback: &impl Fn(u32) -> bool,
    ) -> [SlotMask; MAX_FRAMES] {
        let mut live = [0; MAX_FRAMES];
        for depth in 0..state.frames.len() {
            let id = self.instance(state, depth, start_of);
            let instance = &self.instances[id];
            let at = if depth == state.depth() {
                state.insn
            } else {
                let callsite = state.frames[depth + 1].callsite;
                if calls_callback(callsite) { callsite } else { callsite + 1 }
            };
            for (frame, mask) in live.iter_mut().enumerate().take(depth + 1) {
                *mask |= instance.live_before(at, frame);
            }
        }
        live
    }
}

impl Instance {
    fn masks(&mut self, frame: usize, insn: u32) -> Option<&mut Masks> {
        let len = self.visited.len();
        let index = insn.checked_sub(self.start)? as usize;
        self.frames.get_mut(frame)?.get_or_insert_with(|| vec![Masks::default(); len]).get_mut(index)
    }

    fn mark_read(&mut self, frame: usize, insn: u32, slots: SlotMask) {
        if slots == 0 {
            return;
        }
        let Some(masks) = self.masks(frame, insn) else { return };
        let new = masks.may_read | slots;
        if new != masks.may_read {
            masks.may_read = new;
            self.updated = true;
        }
    }

    fn commit(&mut self, insn: u32, writes: &[SlotMask; MAX_FRAMES]) {
        let Some(index) = insn.checked_sub(self.start).map(|i| i as usize) else { return };
        let Some(&visited) = self.visited.get(index) else { return };
        let frames = self.frames.len();
        for (frame, &mask) in writes.iter().enumerate().take(frames) {
            if mask == 0 && (!visited || self.frames[frame].is_none()) {
                continue;
            }
            let Some(masks) = self.masks(frame, insn) else { return };
            let new = if visited { masks.must_write & mask } else { mask };
            if new != masks.must_write {
                masks.must_write = new;
                self.updated = true;
            }
        }
        self.visited[index] = true;
    }

    fn live_before(&self, insn: u32, frame: usize) -> SlotMask {
        let Some(Some(masks)) = self.frames.get(frame) else { return 0 };
        insn.checked_sub(self.start).and_then(|i| masks.get(i as usize)).map_or(0, |m| m.live_before)
    }

    /// Live-variable analysis to the fixed point.
    fn solve(&mut self, insns: &[RawInsn]) {
        let mut changed = true;
        while changed {
            changed = false;
            for frame in self.frames.iter_mut().flatten() {
                for at in (self.start..self.end).rev() {
                    let out = successors(insns, at).as_slice().iter().fold(0, |live, &to| {
                        let masks = to.checked_sub(self.start).and_then(|i| frame.get(i as usize));
                        live | masks.map_or(0, |m| m.live_before)
                    });
                    let masks = &mut frame[(at - self.start) as usize];
                    let live = (out & !masks.must_write) | masks.may_read;
                    changed |= live != masks.live_before;
                    masks.live_before = live;
                }
            }
        }
    }
}
