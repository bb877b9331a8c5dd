//! Leading an execution through the states that a verification walked.
//!
//! Where the walk split, an execution goes one way; where states overlap, it may be in several at once, so a follower holds a
//! set of places. Invariant: the set is never empty while the verifier was right.

use std::rc::Rc;

use skep_abi::Insn;
use skep_verifier::shadow::{Node, Recording};
use skep_verifier::state::frame::Frame;

use super::hold::{Mode, Scene};

/// Places that an execution may be in at once; more than a few means that states overlap a lot.
const MOST: usize = 64;
/// Instructions in a row that leave no trace in the rewritten program.
const DEEPEST: u32 = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    node: u32,
    mode: Mode,
}

/// Where the caller of a function that was walked by itself stands.
#[derive(Debug)]
struct Outer {
    places: Vec<Place>,
    base: usize,
    depth: usize,
}

/// One execution in one recording.
#[derive(Debug)]
pub(super) struct Follower<'r> {
    recording: &'r Recording,
    program: &'r [Option<Insn>],
    /// Instructions that the rewrite removed although a path reaches them.
    removed: &'r [bool],
    places: Vec<Place>,
    /// Functions on the real call chain below the first of the states' chains.
    base: usize,
    outer: Vec<Outer>,
    found: Vec<Place>,
}

impl<'r> Follower<'r> {
    pub(super) fn new(recording: &'r Recording, program: &'r [Option<Insn>], removed: &'r [bool]) -> Self {
        let (places, found) = (Vec::with_capacity(4), Vec::with_capacity(4));
        Self { recording, program, removed, places, base: 0, outer: Vec::new(), found }
    }

    /// The execution is about to execute `insn`, `depth` functions deep.
    pub(super) fn arrive(&mut self, insn: u32, depth: usize, scene: &Scene<'_, '_, '_>) -> Result<(), String> {
        while let Some(outer) = self.outer.pop_if(|outer| outer.depth >= depth) {
            (self.places, self.base) = (outer.places, outer.base);
        }
        // The walk of an instruction may split in two that both begin before it; only jumps come back to themselves.
        let jumps = matches!(self.program.get(insn as usize), Some(Some(Insn::Jcond { .. } | Insn::MayGoto { .. })));
        let places = std::mem::take(&mut self.found);
        let mut candidates = Candidates { insn, frames: depth - self.base, splits: !jumps, places };
        candidates.places.clear();
        if self.places.is_empty() {
            candidates.add(self.recording, self.recording.roots().first().copied(), Mode::Strict);
        }
        for place in &self.places {
            self.after(*place, 0, &mut candidates);
        }
        if candidates.places.is_empty() && self.enter_global(insn, depth) {
            candidates.frames = 1;
            let roots = self.recording.roots().iter().copied();
            let own = roots.filter(|root| self.recording.node(*root).is_some_and(|n| !n.frames[0].in_async));
            candidates.add(self.recording, own, Mode::Strict);
        }
        self.found = candidates.places;
        self.settle(insn, scene)
    }

    /// The call chain in one of the states that the execution is in.
    pub(super) fn state(&self) -> Option<&'r [Rc<Frame>]> {
        self.places.first().and_then(|place| self.recording.node(place.node)).map(|node| node.frames.as_slice())
    }

    /// A call of a function that was walked by itself: the caller waits.
    fn enter_global(&mut self, insn: u32, depth: usize) -> bool {
        let starts = |root: &u32| self.recording.node(*root).is_some_and(|node| node.insn == insn);
        if !self.recording.roots().iter().skip(1).any(starts) {
            return false;
        }
        let places = std::mem::take(&mut self.places);
        self.outer.push(Outer { places, base: self.base, depth: depth - 1 });
        self.base = depth - 1;
        true
    }

    /// Adds what may come after `place`.
    fn after(&self, place: Place, steps: u32, to: &mut Candidates) {
        let Some(from) = self.recording.node(place.node) else { return };
        // A callback's end leads back to its call, which does not execute again.
        let over_call = self.is_exit(from) && from.frames.last().is_some_and(|frame| frame.callback.is_some());
        for next in self.recording.next(place.node) {
            let Some(node) = self.recording.node(next) else { continue };
            if node.speculative || steps > DEEPEST {
                continue;
            }
            if over_call || self.removed.get(node.insn as usize) == Some(&true) {
                let joined = node.join.as_ref();
                let mode = joined.map_or(place.mode, |join| place.mode.max(mode_after(join.whole)));
                self.after(Place { node: joined.map_or(next, |join| join.node), mode }, steps + 1, to);
            } else {
                to.add(self.recording, Some(next), place.mode);
            }
        }
    }

    fn is_exit(&self, node: &Node) -> bool {
        matches!(self.program.get(node.insn as usize), Some(Some(Insn::Exit)))
    }

    /// Keeps the candidates that the execution is within.
    fn settle(&mut self, insn: u32, scene: &Scene<'_, '_, '_>) -> Result<(), String> {
        self.places.clear();
        let mut missed = None;
        for place in &self.found {
            let Some(node) = self.recording.node(place.node) else { continue };
            let live = |at| self.recording.live_regs(at);
            let mut within = scene.chain(&node.frames, self.base, place.mode, live, insn);
            let mut settled = *place;
            if let (Ok(()), Some(join)) = (&within, &node.join) {
                settled = Place { node: join.node, mode: place.mode.max(mode_after(join.whole)) };
                within = match join.whole {
                    true => scene.chain(&join.frames, self.base, settled.mode, live, insn),
                    false => scene.covered(&join.frames, self.base),
                };
            }
            match within {
                Ok(()) if self.places.len() < MOST && !self.places.contains(&settled) => self.places.push(settled),
                Ok(()) => {}
                Err(miss) => missed = missed.or(Some((miss, place.mode))),
            }
        }
        if !self.places.is_empty() {
            return Ok(());
        }
        Err(match missed {
            Some((miss, mode)) => format!("insn {insn}: {miss} ({mode:?})"),
            None => format!("insn {insn}: no path of the verification comes here"),
        })
    }
}

fn mode_after(whole: bool) -> Mode {
    if whole { Mode::Within } else { Mode::Loose }
}

/// Nodes that stand before the right instruction in the right depth.
struct Candidates {
    insn: u32,
    frames: usize,
    splits: bool,
    places: Vec<Place>,
}

impl Candidates {
    fn add(&mut self, recording: &Recording, nodes: impl IntoIterator<Item = u32>, mode: Mode) {
        for id in nodes {
            let fits = |node: &Node| node.insn == self.insn && node.frames.len() == self.frames;
            let place = Place { node: id, mode };
            if recording.node(id).is_some_and(fits) && !self.places.contains(&place) {
                self.places.push(place);
                if self.splits {
                    self.add(recording, recording.next(id), mode);
                }
            }
        }
    }
}
