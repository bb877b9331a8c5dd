//! Loops whose marks are not complete yet.
//!
//! A state inside a loop that is found equivalent to one of its own ancestors proves nothing by itself: what must be precise
//! is known only when the whole loop was walked. Owns the visits of each loop and the edges that closed them. Invariant: while
//! a visit has such edges, its states are compared by range alone and neither cleaned nor dropped. Kernel counterpart:
//! `struct bpf_scc_visit`, `propagate_backedges`, kernel/bpf/verifier.c, 6.18.

use std::collections::HashMap;

use crate::env::{Check, Env};
use crate::state::frame::State;
use crate::state::reg::Base;

/// Rounds after which everything is made precise instead.
const MAX_ROUNDS: u32 = 64;

/// A path that ended by being within an ancestor's state.
#[derive(Debug)]
pub(crate) struct Backedge {
    state: State,
    equal: u32,
}

#[derive(Debug, Default)]
struct Visit {
    entry: Option<u32>,
    backedges: Vec<Backedge>,
}

/// Visits by call chain and loop.
#[derive(Debug, Default)]
pub(crate) struct Visits(HashMap<(Vec<u32>, u32), Visit>);

impl Visits {
    /// Forgets everything, for the next function.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Env<'_> {
    /// The outermost loop on the call chain of `state`, with the calls that lead to it.
    fn visit_key(&self, state: &State) -> Option<(Vec<u32>, u32)> {
        let mut calls = Vec::new();
        for frame in 0..state.frames.len() {
            let insn = state.frame_insn(frame);
            let scc = self.aux.get(insn as usize).map_or(0, |a| a.scc);
            if scc != 0 {
                return Some((calls, scc));
            }
            calls.push(insn);
        }
        None
    }

    /// A state was kept; it opens the visit of its loop if none is open.
    pub(crate) fn enter_loop(&mut self, id: u32) {
        let Some(key) = self.states.get(id).and_then(|k| self.visit_key(&k.state)) else { return };
        let visit = self.visits.0.entry(key).or_default();
        if visit.entry.is_none() {
            visit.entry = Some(id);
        }
    }

    /// Whether the loop of `state` has edges whose marks have not been spread.
    pub(crate) fn incomplete_marks(&self, state: &State) -> bool {
        !self.visits.0.is_empty()
            && self.visit_key(state).and_then(|key| self.visits.0.get(&key)).is_some_and(|v| !v.backedges.is_empty())
    }

    /// The current path has ended within the state `equal` of its own loop.
    pub(crate) fn add_backedge(&mut self, equal: u32) -> Check {
        let Some(key) = self.states.get(equal).and_then(|k| self.visit_key(&k.state)) else {
            return Err(crate::env::internal!(self, "loop without a component at insn {}", self.insn));
        };
        let state = self.cur.clone();
        self.visits.0.entry(key).or_default().backedges.push(Backedge { state, equal });
        Ok(())
    }

    /// All paths from kept state `id` are done; if it opened a loop, spreads the marks of the loop's edges.
    pub(crate) fn leave_loop(&mut self, id: u32) -> Check {
        let Some(key) = self.states.get(id).and_then(|k| self.visit_key(&k.state)) else { return Ok(()) };
        let Some(visit) = self.visits.0.get_mut(&key).filter(|v| v.entry == Some(id)) else { return Ok(()) };
        visit.entry = None;
        let mut backedges = std::mem::take(&mut visit.backedges);
        // States of the loop stay protected while their marks are spread.
        let mut round = 0;
        loop {
            let mut changed = false;
            round += 1;
            for edge in &mut backedges {
                if round > MAX_ROUNDS {
                    self.make_all_precise(edge);
                    continue;
                }
                let Some(old) = self.states.get(edge.equal) else { continue };
                let frames = old.state.frames.clone();
                changed |= self.spread_precision(&frames, &mut edge.state)?;
            }
            if !changed {
                return Ok(());
            }
        }
    }

    /// Gives up on minimal precision for an edge and its ancestors.
    fn make_all_precise(&mut self, edge: &mut Backedge) {
        let mark = |state: &mut State| {
            state.for_each_reg(|r| r.ty.base == Base::Scalar && !r.precise, |r| r.precise = true);
        };
        mark(&mut edge.state);
        let mut parent = edge.state.parent;
        while let Some(kept) = parent.and_then(|id| self.states.get_mut(id)) {
            mark(&mut kept.state);
            parent = kept.state.parent;
        }
    }
}
