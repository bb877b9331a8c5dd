//! The path being walked, with what each instruction changed.
//!
//! Owns the record from which a refusal is explained. Invariant: [`Trace::last`] is the state before the last step, and undoing
//! the changes of a step gives the state before it, so that a walk back sees every state of the path. Kept only in the second
//! pass over a program that was refused.

use std::rc::Rc;

use crate::env::Env;
use crate::state::frame::{Frame, REGS, State};
use crate::state::reg::Reg;
use crate::state::stack::Slot;

/// Steps that are kept at most; of a longer path the older half is forgotten.
const MAX_STEPS: usize = 1 << 17;

/// A register or a stack slot of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum At {
    /// By number.
    Reg(u8),
    /// By index, 0 at `fp-8`.
    Slot(u8),
}

/// A register or slot of one frame of the chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Loc {
    pub(crate) frame: u8,
    pub(crate) at: At,
}

/// An instruction of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) insn: u32,
    /// Number of the running frame.
    pub(crate) frame: u8,
    /// Its changes start here in [`Trace::changes`], and end where those of the next step start.
    changes: usize,
}

/// A place that an instruction changed, with what was there before.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) loc: Loc,
    pub(crate) before: Slot,
}

/// Where a path that is left is taken up again.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    steps: usize,
    changes: usize,
    start: usize,
    last: Vec<Rc<Frame>>,
}

/// The record.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    steps: Vec<Step>,
    changes: Vec<Change>,
    last: Vec<Rc<Frame>>,
    /// Steps and changes forgotten from the front.
    forgotten: (usize, usize),
    /// The path's first step, counted with the forgotten ones: later than 0 in an asynchronous callback, which nothing enters
    /// from the path that set it.
    start: usize,
}

fn slot_of(reg: Reg) -> Slot {
    Slot { reg, ..Slot::EMPTY }
}

impl Trace {
    fn first(&self) -> usize {
        self.start.saturating_sub(self.forgotten.0).min(self.steps.len())
    }

    /// The steps that are kept, oldest first.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps[self.first()..]
    }

    /// What step `index` of [`Self::steps`] changed; nothing for the last one, which was not completed.
    pub(crate) fn changes(&self, index: usize) -> &[Change] {
        let index = self.first() + index;
        let from = self.steps.get(index).map_or(0, |s| s.changes);
        let to = self.steps.get(index + 1).map_or(from, |s| s.changes);
        self.changes.get(from..to).unwrap_or(&[])
    }

    /// Whether the beginning of the path was forgotten.
    pub(crate) fn is_cut(&self) -> bool {
        self.start < self.forgotten.0
    }

    /// The frames before the last step.
    pub(crate) fn last(&self) -> &[Rc<Frame>] {
        &self.last
    }

    /// Forgets everything, before another function is walked.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn record(&mut self, state: &State) {
        if state.frame().in_async && self.last.first().is_none_or(|f| f.async_entry != state.frames[0].async_entry) {
            self.start = self.forgotten.0 + self.steps.len();
            self.last.clear();
        } else if !self.steps.is_empty() {
            self.record_changes(state);
        }
        if self.steps.len() >= MAX_STEPS {
            self.forget_half();
        }
        self.last.clone_from(&state.frames);
        let frame = u8::try_from(state.depth()).unwrap_or(u8::MAX);
        self.steps.push(Step { insn: state.insn, frame, changes: self.changes.len() });
    }

    fn record_changes(&mut self, state: &State) {
        let none = Frame::new(0, 0, 0);
        for number in 0..self.last.len().max(state.frames.len()) {
            let (before, after) = (self.last.get(number), state.frames.get(number));
            if let (Some(a), Some(b)) = (before, after)
                && Rc::ptr_eq(a, b)
            {
                continue;
            }
            let entered_anew = matches!((before, after), (Some(a), Some(b)) if a.callsite != b.callsite);
            let before: &Frame = before.filter(|_| !entered_anew).map_or(&none, |f| f);
            let after: &Frame = after.map_or(&none, |f| f);
            let frame = u8::try_from(number).unwrap_or(u8::MAX);
            for i in 0..REGS {
                if before.regs[i] != after.regs[i] {
                    let at = At::Reg(u8::try_from(i).unwrap_or(u8::MAX));
                    let before = slot_of(before.regs[i]);
                    self.changes.push(Change { loc: Loc { frame, at }, before });
                }
            }
            for i in 0..before.stack.len().max(after.stack.len()) {
                let slot = |f: &Frame| f.stack.get(i).copied().unwrap_or(Slot::EMPTY);
                if slot(before) != slot(after) {
                    let at = At::Slot(u8::try_from(i).unwrap_or(u8::MAX));
                    self.changes.push(Change { loc: Loc { frame, at }, before: slot(before) });
                }
            }
        }
    }

    fn forget_half(&mut self) {
        let steps = self.steps.len() / 2;
        let changes = self.steps[steps].changes;
        self.steps.drain(..steps);
        self.changes.drain(..changes);
        for step in &mut self.steps {
            step.changes -= changes;
        }
        self.forgotten = (self.forgotten.0 + steps, self.forgotten.1 + changes);
    }

    fn mark(&self) -> Mark {
        Mark {
            steps: self.forgotten.0 + self.steps.len(),
            changes: self.forgotten.1 + self.changes.len(),
            start: self.start,
            last: self.last.clone(),
        }
    }

    fn rewind(&mut self, mark: Mark) {
        self.steps.truncate(mark.steps.saturating_sub(self.forgotten.0));
        self.changes.truncate(mark.changes.saturating_sub(self.forgotten.1));
        self.start = mark.start;
        self.last = mark.last;
    }
}

impl Env<'_> {
    /// The current instruction is about to be checked.
    pub(crate) fn trace_step(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.record(&self.cur);
        }
    }

    /// Where a branch that waits leaves the path.
    pub(crate) fn trace_mark(&self) -> Option<Mark> {
        self.trace.as_ref().map(|t| t.mark())
    }

    /// A branch that waited is taken up.
    pub(crate) fn trace_rewind(&mut self, mark: Option<Mark>) {
        if let (Some(trace), Some(mark)) = (&mut self.trace, mark) {
            trace.rewind(mark);
        }
    }
}
