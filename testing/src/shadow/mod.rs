//! Shadow execution: an interpreted run held against what the verifier knew at every instruction.
//!
//! The verifier records the states that it walked (`skep_verifier::shadow`); the interpreter shows each instruction before it
//! executes; here the registers and the stack must lie in a state of the path taken. Where a path was given up because an
//! earlier state covered it, the execution goes on from that state, and from there what was compared must hold: pointers,
//! precise scalars, and that every branch taken was walked. Invariant: one violation is reported, the first.

mod addresses;
mod follow;
mod hold;

use std::cell::RefCell;

use skep_abi::Insn;
use skep_runtime::interp::{Moment, Observer};
use skep_runtime::map::Map;
use skep_verifier::shadow::Recording;
use skep_verifier::{ProgramSpec, Xlated};

use addresses::shows_address;
use follow::Follower;
use hold::{PacketWords, Scene};

/// What a program's executions are held against.
#[derive(Debug)]
pub struct Model<'p> {
    xlated: &'p Xlated,
    program: Vec<Option<Insn>>,
    removed: Vec<bool>,
    words: Option<PacketWords>,
    recordings: Vec<&'p Recording>,
}

impl<'p> Model<'p> {
    /// The program as it runs, and one or more recordings of its verification.
    #[must_use]
    pub fn new(spec: &ProgramSpec<'_>, xlated: &'p Xlated, recordings: Vec<&'p Recording>) -> Self {
        let mut program = vec![None; spec.insns.len()];
        let mut at = 0;
        while let Ok(insn) = skep_abi::decode(spec.insns, at) {
            program[at] = Some(insn);
            at += insn.slots();
            if at >= program.len() {
                break;
            }
        }
        let mut removed = vec![true; program.len()];
        for source in &xlated.source {
            if let Some(gone) = removed.get_mut(*source as usize) {
                *gone = false;
            }
        }
        Self { xlated, program, removed, words: PacketWords::of(spec.prog_type), recordings }
    }

    /// Whether there is anything to hold an execution against.
    #[must_use]
    pub fn has_recordings(&self) -> bool {
        !self.recordings.is_empty()
    }

    /// A witness of one execution. `maps` are those of the program's specification, in its order.
    #[must_use]
    pub fn witness<'w>(&'w self, maps: &'w [Map], stack_fill: u8) -> Witness<'w> {
        let follower = |recording: &&'w Recording| Follower::new(recording, &self.program, &self.removed);
        let followers = self.recordings.iter().map(follower).collect();
        let state =
            Inner { followers, frames: Vec::new(), last: None, violation: None, steps: 0, showed_address: false };
        Witness { model: self, maps, stack_fill, state: RefCell::new(state) }
    }
}

/// Sees one execution.
#[derive(Debug)]
pub struct Witness<'w> {
    model: &'w Model<'w>,
    maps: &'w [Map],
    stack_fill: u8,
    state: RefCell<Inner<'w>>,
}

#[derive(Debug)]
struct Inner<'w> {
    followers: Vec<Follower<'w>>,
    /// Frame pointer and last registers of each function on the call chain.
    frames: Vec<(u64, [u64; 12])>,
    /// Slot, instruction and depth seen last.
    last: Option<(usize, u32, usize)>,
    violation: Option<String>,
    steps: u64,
    showed_address: bool,
}

impl Witness<'_> {
    /// What was wrong first.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        self.state.borrow().violation.clone()
    }

    /// Instructions held against the states.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state.borrow().steps
    }

    /// Whether an address became data, so that the result is that of this process alone.
    #[must_use]
    pub fn showed_address(&self) -> bool {
        self.state.borrow().showed_address
    }
}

impl Observer for Witness<'_> {
    fn instruction(&self, moment: &Moment<'_, '_>) -> bool {
        let Some(insn) = self.model.xlated.source.get(moment.slot).copied() else { return true };
        let depth = moment.depth as usize;
        let mut state = self.state.borrow_mut();
        let inner = &mut *state;
        let before = inner.last.replace((moment.slot, insn, depth));
        if before.is_some_and(|(slot, of, deep)| of == insn && deep == depth && moment.slot > slot) {
            // Further instructions of the same original one.
            return true;
        }
        inner.frames.truncate(depth - 1);
        inner.frames.push((moment.regs[10], *moment.regs));
        inner.steps += 1;
        let scene = Scene::new(moment, self.maps, self.model.words, &inner.frames);
        for follower in &mut inner.followers {
            if let Err(what) = follower.arrive(insn, depth, &scene) {
                inner.violation = Some(what);
                return false;
            }
        }
        let state = inner.followers.iter().find_map(|follower| follower.state());
        if let (Some(frames), Some(Some(insn))) = (state, self.model.program.get(insn as usize)) {
            inner.showed_address |= shows_address(insn, frames);
        }
        true
    }

    fn stack_fill(&self) -> u8 {
        self.stack_fill
    }
}
