//! The instructions and branches that made a value, found by walking back along the failing path.
//!
//! Owns the causal slice; what one instruction did to a value is [`step`]'s. Invariant: a step is in it because it wrote,
//! narrowed or ended one of the values looked for, and what it says of them is the verifier's state after that very step.
//! Register copies, spills and fills are followed, not shown.

mod step;

use std::collections::BTreeSet;

use skep_abi::{Operand, Reg as R};

use super::trace::{At, Loc, Trace};
use crate::env::Env;
use crate::state::frame::Frame;
use crate::state::reg::{Base, Reg};
use crate::state::stack::{SLOT, Slot};

/// Steps that are shown at most.
const MAX_CAUSES: usize = 14;

/// What a step of the path did to the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The value came in with the function's arguments, or never did.
    Entry,
    /// It was made or computed.
    Value,
    /// A condition told something of it, or led here.
    Branch,
    /// Something ended what was known of it.
    Loss,
}

impl Role {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Value => "value",
            Self::Branch => "branch",
            Self::Loss => "loss",
        }
    }
}

/// A step of the slice, before its place in the source is looked up.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) insn: u32,
    pub(super) role: Role,
    pub(super) what: String,
    /// How often the path passes here.
    pub(super) times: u32,
    /// How the value was lost, where that has a meaning of its own.
    pub(super) lost: Option<Lost>,
    /// The step of the path that was looked at last.
    step: usize,
}

/// Ways in which a pointer is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// The packet may have moved.
    Packet,
    /// It was given back.
    Released,
}

impl Found {
    /// A step that the path passes once.
    pub(super) fn new(insn: u32, role: Role, what: String) -> Self {
        Self { insn, role, what, times: 1, lost: None, step: 0 }
    }
}

/// The walk back.
pub(super) struct Slicer<'e, 'a> {
    env: &'e Env<'a>,
    trace: &'e Trace,
    /// The step before which the walk starts.
    end: usize,
    /// Frames as they were before the step being looked at.
    view: Vec<Frame>,
    wanted: BTreeSet<Loc>,
    found: Vec<Found>,
    /// The step that is being looked at.
    step: usize,
}

/// A step being looked at.
#[derive(Clone, Copy)]
struct Here {
    index: usize,
    insn: u32,
    frame: u8,
    /// The instruction that the path goes on with.
    next: Option<u32>,
}

fn same(a: &Slot, b: &Slot) -> bool {
    let plain = |r: &Reg| Reg { id: 0, precise: false, add_const: false, add_const32: false, ..*r };
    let (mut x, mut y) = (plain(&a.reg), plain(&b.reg));
    if x.is_scalar() && y.is_scalar() {
        (x.off, y.off) = (0, 0);
    }
    x == y && a.bytes == b.bytes
}

impl<'e, 'a> Slicer<'e, 'a> {
    /// A walk from the end of the path.
    pub(super) fn new(env: &'e Env<'a>, trace: &'e Trace) -> Self {
        let view = trace.last().iter().map(|f| Frame::clone(f)).collect();
        let end = trace.steps().len().saturating_sub(1);
        Self { env, trace, end, view, wanted: BTreeSet::new(), found: Vec::new(), step: 0 }
    }

    /// A walk from the state before step `end`.
    pub(super) fn from_step(env: &'e Env<'a>, trace: &'e Trace, end: usize) -> Self {
        let mut slicer = Self::new(env, trace);
        for index in (end..slicer.end).rev() {
            slicer.undo(index);
        }
        slicer.end = end;
        slicer
    }

    /// The running frame where the walk starts.
    pub(super) fn frame(&self) -> Option<&Frame> {
        self.view.get(usize::from(self.trace.steps().get(self.end)?.frame))
    }

    /// Looks for a register of the frame that is running where the walk starts.
    pub(super) fn want_reg(&mut self, number: u8) {
        let frame = self.trace.steps().get(self.end).map_or(0, |s| s.frame);
        self.want(frame, R::new(number).unwrap_or(R::R0));
    }

    /// Looks for the bytes of stack that this pointer leads to.
    pub(super) fn want_stack(&mut self, pointer: &Reg, off: i64, size: u64) {
        self.want_slots(pointer, off, size);
    }

    fn want(&mut self, frame: u8, reg: R) {
        if reg != R::R10 {
            self.wanted.insert(Loc { frame, at: At::Reg(reg.number()) });
        }
    }

    /// A register operand is looked for; where on the stack a pointer points is in the instruction that uses it.
    fn want_operand(&mut self, frame: u8, src: Operand) {
        let Operand::Reg(reg) = src else { return };
        if self.reg(frame, reg).is_some_and(|r| r.base() != Base::Stack) {
            self.want(frame, reg);
        }
    }

    fn want_slots(&mut self, pointer: &Reg, off: i64, size: u64) {
        let Some(var) = pointer.bounds.const_value() else { return };
        let start = off.wrapping_add(i64::from(pointer.off)).wrapping_add(var.cast_signed());
        let frame = u8::try_from(pointer.frame()).unwrap_or(u8::MAX);
        for at in start..start.saturating_add(i64::try_from(size).unwrap_or(8)).min(0) {
            let slot = usize::try_from(-at - 1).unwrap_or(usize::MAX) / SLOT;
            if let Ok(slot) = u8::try_from(slot) {
                self.wanted.insert(Loc { frame, at: At::Slot(slot) });
            }
        }
    }

    fn reg(&self, frame: u8, reg: R) -> Option<&Reg> {
        self.view.get(usize::from(frame))?.regs.get(reg.index())
    }

    fn value(&self, loc: Loc) -> Slot {
        let Some(frame) = self.view.get(usize::from(loc.frame)) else { return Slot::EMPTY };
        match loc.at {
            At::Reg(n) => Slot { reg: frame.regs.get(usize::from(n)).copied().unwrap_or(Reg::NOT_INIT), ..Slot::EMPTY },
            At::Slot(i) => frame.stack.get(usize::from(i)).copied().unwrap_or(Slot::EMPTY),
        }
    }

    fn undo(&mut self, step: usize) {
        for change in self.trace.changes(step).iter().rev() {
            let number = usize::from(change.loc.frame);
            while self.view.len() <= number {
                self.view.push(Frame::new(0, change.loc.frame, 0));
            }
            let frame = &mut self.view[number];
            match change.loc.at {
                At::Reg(n) => frame.regs[usize::from(n)] = change.before.reg,
                At::Slot(i) => {
                    frame.grow(usize::from(i));
                    frame.stack[usize::from(i)] = change.before;
                }
            }
        }
    }

    /// Walks back to where everything looked for was made, and gives the steps, first cause first.
    pub(super) fn run(mut self) -> Vec<Found> {
        let steps = self.trace.steps();
        for index in (0..self.end).rev() {
            if self.wanted.is_empty() {
                break;
            }
            let step = steps[index];
            self.step = index;
            let after: Vec<(Loc, Slot)> = self.wanted.iter().map(|&loc| (loc, self.value(loc))).collect();
            self.undo(index);
            let here = Here { index, insn: step.insn, frame: step.frame, next: steps.get(index + 1).map(|s| s.insn) };
            for (loc, after) in after {
                self.look_at(here, loc, &after);
            }
        }
        self.entry();
        self.finish()
    }

    /// What is still looked for came in from outside.
    fn entry(&mut self) {
        self.step = usize::MAX;
        let Some(first) = self.trace.steps().first().filter(|_| !self.trace.is_cut()) else { return };
        let sub = self.env.subprog_at(first.insn);
        for loc in std::mem::take(&mut self.wanted) {
            let At::Reg(n) = loc.at else { continue };
            let reg = self.value(loc).reg;
            match reg.base() {
                Base::NotInit => {
                    self.push(first.insn, Role::Entry, format!("r{n} holds nothing when the program starts"))
                }
                Base::Ctx if sub == 0 => {}
                _ => {
                    let name = self.env.function_call(sub);
                    let argument = self.argument(sub, n);
                    let what = format!("{argument} of {name} is {} to begin with", self.env.describe(&reg));
                    self.push(first.insn, Role::Entry, what);
                }
            }
        }
    }

    fn argument(&self, sub: usize, n: u8) -> String {
        match self.env.parameter_name(sub, n) {
            Some(name) => format!("argument `{name}` (r{n})"),
            None => format!("argument {n} (r{n})"),
        }
    }

    fn finish(mut self) -> Vec<Found> {
        self.found.reverse();
        if self.found.len() > MAX_CAUSES {
            // The first cause and the steps nearest to the failure say most.
            let cut = self.found.len() - MAX_CAUSES;
            self.found.drain(2..2 + cut);
        }
        self.found
    }

    fn push(&mut self, insn: u32, role: Role, what: String) {
        let step = self.step;
        let seen =
            self.found.iter_mut().find(|f| f.insn == insn && f.role == role && (f.step != step || f.what == what));
        match seen {
            // Met again in another turn of a loop; what is shown is the turn nearest to the failure.
            Some(seen) if seen.step != step => {
                seen.step = step;
                seen.times += 1;
            }
            Some(_) => {}
            None => self.found.push(Found { step, ..Found::new(insn, role, what) }),
        }
    }

    fn push_lost(&mut self, insn: u32, lost: Lost, what: String) {
        self.push(insn, Role::Loss, what);
        if let Some(found) = self.found.iter_mut().find(|f| f.insn == insn && f.role == Role::Loss) {
            found.lost = Some(lost);
        }
    }
}
