//! The walk over all paths, and where it may stop.
//!
//! Owns the worklist: the path being walked, the branches that wait, the kept states. Invariant: a kept state's `branches` is
//! the number of open paths from it, so 0 means that everything after it is known to be safe. Kernel counterpart: `do_check`,
//! `is_state_visited`, `pop_stack`, kernel/bpf/verifier.c, 6.18.

use std::rc::Rc;

use skep_abi::Errno;

use crate::env::{Check, Env, log, reject};
use crate::explain::trace::Mark;
use crate::mutant::{self, Mutant};
use crate::prune::{Exactness, iter_depths_differ, maybe_looping};
use crate::state::frame::{Linked, State, Step};
use crate::state::reg::{Base, Extra, IterState, Reg};
use crate::state::stack::Slot;
use crate::verified::RejectionKind;

/// Steps after which a state is kept in any case.
const MAX_HISTORY: usize = 40;

/// A branch that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) state: State,
    pub(crate) prev_insn: u32,
    pub(crate) log_end: usize,
    pub(crate) mark: Option<Mark>,
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// The instruction at [`Env::insn`].
    Continue,
    /// The path ends.
    End,
}

impl Env<'_> {
    /// First and last slot of a subprogram, as the stack analysis wants them.
    pub(crate) fn extents(&self) -> Vec<(u32, u32)> {
        self.subprogs.iter().map(|s| (s.start, s.end)).collect()
    }

    /// Walks every path from `self.cur`.
    pub(crate) fn explore(&mut self) -> Check {
        let extents = self.extents();
        let start_of = |sub: u32| extents.get(sub as usize).copied().unwrap_or((0, 0));
        let mut print_state = false;
        self.executed = u32::MAX;
        loop {
            self.history_pushed = false;
            self.prev_insn = self.executed;
            if self.insn as usize >= self.code.len() {
                let (at, len) = (self.insn, self.code.len());
                return Err(reject!(self, EFAULT, "invalid insn idx {at} insn_cnt {len}"));
            }
            self.stats.processed += 1;
            if self.stats.processed > self.stop && !self.grow_loud() {
                let message = format!("BPF program is too large. Processed {} insn", self.stats.processed);
                return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, message));
            }
            self.cur.last_insn = self.prev_insn;
            self.cur.insn = self.insn;
            self.recorder.arrive(&mut self.cur);
            let aux = self.aux[self.insn as usize];
            let mut flow = Flow::Continue;
            if aux.prune_point && self.is_visited(&start_of)? {
                self.log_pruned(print_state);
                flow = Flow::End;
            }
            if flow == Flow::Continue {
                if aux.jmp_point {
                    self.push_step(None, None);
                }
                self.log_before(&mut print_state);
                self.executed = self.insn;
                self.aux[self.insn as usize].processed += 1;
                self.trace_step();
                self.live_stack.begin(&self.cur, &start_of);
                flow = self.execute(&mut print_state)?;
            }
            if flow == Flow::End {
                self.scratch_all();
                if !self.end_path(&start_of)? {
                    return Ok(());
                }
                print_state = true;
            }
        }
    }

    /// Checks the instruction that was arrived at; a path of speculation alone may end there.
    fn execute(&mut self, print_state: &mut bool) -> Check<Flow> {
        let at = self.insn as usize;
        if self.cur.speculative && self.aux[at].nospec {
            return Ok(Flow::End);
        }
        let checked = self.check_insn(print_state);
        self.live_stack.commit();
        match checked {
            Err(refused) if self.stop_speculation(&refused) => Ok(Flow::End),
            Ok(_) if self.cur.speculative && self.aux[at].nospec_after => Ok(Flow::End),
            checked => checked,
        }
    }

    /// From here on the log is written, where its beginning was left out; false at the limit of instructions.
    fn grow_loud(&mut self) -> bool {
        let Some(loud) = self.loud.take() else { return false };
        self.options = loud;
        self.stop = loud.profile.max_processed;
        self.scratch_all();
        self.stats.processed <= self.stop
    }

    fn log_pruned(&mut self, print_state: bool) {
        if self.options.log_level & 3 == 0 {
            return;
        }
        let at = self.insn;
        if print_state {
            let prev = i64::from(self.prev_insn.cast_signed());
            let speculative = if self.cur.speculative { " (speculative execution)" } else { "" };
            log!(self, "\nfrom {prev} to {at}{speculative}: safe\n");
        } else {
            log!(self, "{at}: safe\n");
        }
    }

    fn log_before(&mut self, print_state: &mut bool) {
        if self.options.log_level & 3 == 0 {
            return;
        }
        let at = self.insn;
        if self.level2() && *print_state {
            let prev = self.prev_insn.cast_signed();
            let speculative = if self.cur.speculative { " (speculative execution)" } else { "" };
            log!(self, "\nfrom {prev} to {at}{speculative}:");
            self.print_cur(true);
            *print_state = false;
        }
        if self.print.regs != 0 || self.print.slots != 0 {
            self.print_insn_state();
        }
        self.print_line(at, "; ");
        self.print.prev_log_pos = self.log.end();
        log!(self, "{at}: ");
        self.print_insn(at);
        self.print.insn_width = self.log.end() - self.print.prev_log_pos;
        self.print.prev_log_pos = self.log.end();
    }

    /// The current path is done: counts down its ancestors, and takes up a waiting branch. False when none waits.
    fn end_path(&mut self, start_of: &impl Fn(u32) -> (u32, u32)) -> Check<bool> {
        self.live_stack.update(self.spec.insns, &self.cur, start_of);
        let mut at = self.cur.parent;
        while let Some(id) = at {
            let Some(kept) = self.states.get_mut(id) else { break };
            kept.state.branches = kept.state.branches.saturating_sub(1);
            if kept.state.branches != 0 {
                break;
            }
            at = kept.state.parent;
            self.leave_loop(id)?;
            self.drop_if_unused(id);
        }
        let Some(next) = self.pending.pop() else { return Ok(false) };
        if !self.level2() {
            self.log.reset(next.log_end);
        }
        self.trace_rewind(next.mark);
        self.cur = next.state;
        self.insn = self.cur.insn;
        self.executed = next.prev_insn;
        self.live_stack.moved();
        Ok(true)
    }

    fn drop_if_unused(&mut self, id: u32) {
        let unused =
            self.states.get(id).is_some_and(|k| k.evicted && k.state.branches == 0 && !self.incomplete_marks(&k.state));
        if unused {
            self.states.drop_evicted(id);
        }
    }

    /// Lets a branch wait: the path as it is now, to be continued at `insn`.
    pub(crate) fn push_branch(&mut self, insn: u32, prev_insn: u32, speculative: bool) -> Check<&mut State> {
        let mut state = self.cur.clone();
        state.insn = insn;
        state.speculative |= speculative;
        state.branches = 1;
        if let Some(parent) = state.parent.and_then(|id| self.states.get_mut(id)) {
            parent.state.branches += 1;
        }
        self.push_pending(state, prev_insn)
    }

    /// Lets any state wait.
    pub(crate) fn push_pending(&mut self, state: State, prev_insn: u32) -> Check<&mut State> {
        if self.pending.len() + 1 > self.options.profile.max_pending as usize {
            let message = format!("The sequence of {} jumps is too complex.", self.pending.len() + 1);
            return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, message));
        }
        let (log_end, mark) = (self.log.end(), self.trace_mark());
        self.pending.push(Pending { state, prev_insn, log_end, mark });
        let last = self.pending.len() - 1;
        Ok(&mut self.pending[last].state)
    }

    /// Records the current instruction in the way back.
    pub(crate) fn push_step(&mut self, stack: Option<(u8, u8)>, linked: Option<Rc<[Linked]>>) {
        if self.history_pushed
            && let Some(step) = self.cur.history.last_mut()
        {
            step.stack = stack.or(step.stack);
            step.linked = linked;
            return;
        }
        let (insn, prev) = (self.insn, self.prev_insn);
        self.cur.history.push(Step { insn, prev, stack, linked, src_is_stack: false, dst_is_stack: false });
        self.history_pushed = true;
    }

    /// Records which operands of the current jump are stack pointers.
    pub(crate) fn push_step_operands(&mut self, dst_is_stack: bool, src_is_stack: bool) {
        if !dst_is_stack && !src_is_stack {
            return;
        }
        self.push_step(None, None);
        if let Some(step) = self.cur.history.last_mut() {
            step.dst_is_stack = dst_is_stack;
            step.src_is_stack = src_is_stack;
        }
    }

    /// Whether the current state is covered by a kept one; if not, may keep it.
    fn is_visited(&mut self, start_of: &impl Fn(u32) -> (u32, u32)) -> Check<bool> {
        let at = self.insn;
        let aux = self.aux[at as usize];
        let force_new = self.test_state_freq || aux.force_checkpoint || self.cur.history.len() > MAX_HISTORY;
        let far = self.jmps_processed - self.prev_jmps >= 2 && self.stats.processed - self.prev_processed >= 8;
        let mut add_new = force_new || far;
        self.clean_states(at, start_of);
        let list = self.states.list_of(&self.cur, at);
        let mut seen = 0u32;
        let mut i = 0;
        while let Some(id) = self.states.nth_newest(list, i) {
            i += 1;
            seen += 1;
            let Some(kept) = self.states.get(id).filter(|k| k.state.insn == at) else { continue };
            let old = &kept.state;
            let (open, mut hit, mut in_loop) = (old.branches > 0, false, false);
            if open {
                match self.compare_open(old, aux)? {
                    OpenMatch::Loop => (hit, in_loop) = (true, true),
                    OpenMatch::Infinite => return Err(self.infinite_loop(id)),
                    OpenMatch::Miss => {
                        let near = self.jmps_processed - self.prev_jmps < 20
                            && self.stats.processed - self.prev_processed < 100;
                        if !force_new && near {
                            add_new = false;
                        }
                    }
                }
            } else if self.options.prune {
                in_loop = self.incomplete_marks(old);
                let exact = match (in_loop, self.explores_limits) {
                    (true, _) => Exactness::RangeWithin,
                    (false, true) => Exactness::SameScalars,
                    (false, false) => Exactness::NotExact,
                };
                hit = self.states_equal(old, &self.cur, exact);
            }
            if hit {
                return self.hit(id, in_loop, aux.jmp_point).map(|()| true);
            }
            let limit_base = if aux.force_checkpoint && open { 64 } else { 3 };
            let Some(kept) = self.states.get_mut(id) else { continue };
            if add_new {
                kept.misses += 1;
            }
            if kept.misses > kept.hits * limit_base + limit_base {
                self.states.evict(id);
                self.drop_if_unused(id);
                i -= 1;
            }
        }
        self.stats.max_states_per_insn = self.stats.max_states_per_insn.max(seen);
        if (!self.caps.bpf && seen > 64) || !add_new {
            return Ok(false);
        }
        self.keep_cur();
        Ok(false)
    }

    /// The current path joins a kept one.
    fn hit(&mut self, id: u32, in_loop: bool, jmp_point: bool) -> Check {
        let Some(kept) = self.states.get_mut(id) else { return Ok(()) };
        kept.hits += 1;
        let frames = kept.state.frames.clone();
        self.recorder.join(&self.cur, &kept.state, &frames, in_loop);
        if jmp_point {
            self.push_step(None, None);
        }
        if !mutant::active(Mutant::ForgetfulJoin) {
            self.spread_precision_to_cur(&frames)?;
        }
        if in_loop {
            self.add_backedge(id)?;
        }
        Ok(())
    }

    /// Keeps the current state for later comparison.
    fn keep_cur(&mut self) {
        self.stats.total_states += 1;
        self.prev_jmps = self.jmps_processed;
        self.prev_processed = self.stats.processed;
        if self.caps.bpf {
            // What earlier states needed says nothing about what comes after this one.
            self.cur.for_each_reg(|r| r.is_scalar() && r.precise, |r| r.precise = false);
        }
        let mut kept = self.cur.clone();
        kept.branches = 1;
        let depth = kept.dfs_depth;
        let id = self.states.keep(kept);
        self.stats.peak_states = self.stats.peak_states.max(self.states.held());
        self.enter_loop(id);
        self.cur.parent = Some(id);
        self.cur.first_insn = self.insn;
        self.cur.dfs_depth = depth + 1;
        self.cur.history.clear();
        self.history_pushed = false;
    }

    /// Compares with a state on the current path, which proves nothing yet, but may show a loop.
    fn compare_open(&self, old: &State, aux: crate::env::InsnAux) -> Check<OpenMatch> {
        let cur = &self.cur;
        if old.frames.len() == cur.frames.len()
            && old.frame().in_async
            && old.frame().async_entry != cur.frame().async_entry
        {
            return Ok(OpenMatch::Miss);
        }
        if aux.iter_next {
            if self.states_equal(old, cur, Exactness::RangeWithin) && self.iter_is_active() {
                return Ok(OpenMatch::Loop);
            }
            return Ok(OpenMatch::Miss);
        }
        let may_goto = matches!(self.insn_at(self.insn), Some(skep_abi::Insn::MayGoto { .. }));
        if may_goto && old.may_goto_depth != cur.may_goto_depth && self.states_equal(old, cur, Exactness::RangeWithin) {
            return Ok(OpenMatch::Loop);
        }
        if aux.calls_callback {
            if self.states_equal(old, cur, Exactness::RangeWithin) {
                return Ok(OpenMatch::Loop);
            }
            return Ok(OpenMatch::Miss);
        }
        if maybe_looping(old, cur)
            && self.states_equal(old, cur, Exactness::Exact)
            && !iter_depths_differ(old, cur)
            && old.may_goto_depth == cur.may_goto_depth
            && old.callback_unroll_depth == cur.callback_unroll_depth
        {
            return Ok(OpenMatch::Infinite);
        }
        Ok(OpenMatch::Miss)
    }

    /// Whether the iterator in r1 of an iterator's `next` is active.
    fn iter_is_active(&self) -> bool {
        let reg = self.reg(1);
        if reg.base() != Base::Stack {
            return false;
        }
        let off = i64::from(reg.off).wrapping_add(reg.bounds.var_off.value.cast_signed());
        let slot = usize::try_from((-off - 1) / 8).ok();
        let slot = slot.and_then(|s| self.cur.frames.get(reg.frame()).and_then(|f| f.stack.get(s)));
        slot.is_some_and(|s| matches!(s.reg.extra, Extra::Iter { state: IterState::Active, .. }))
    }

    fn infinite_loop(&mut self, id: u32) -> Box<crate::env::Reject> {
        let at = self.insn;
        self.print_line(at, "; ");
        let refusal = reject!(self, EINVAL, "infinite loop detected at insn {at}");
        log!(self, "cur state:");
        self.print_cur(true);
        log!(self, "old state:");
        if let Some(kept) = self.states.take(id) {
            let depth = kept.state.depth();
            self.print_state(&kept.state, depth, true);
            self.states.put(id, kept);
        }
        refusal
    }

    /// Forgets what is dead in the finished states at a slot, so that they cover more.
    fn clean_states(&mut self, at: u32, start_of: &impl Fn(u32) -> (u32, u32)) {
        let list = self.states.list_of(&self.cur, at);
        let mut i = 0;
        while let Some(id) = self.states.nth_newest(list, i) {
            i += 1;
            let Some(kept) = self.states.get(id).filter(|k| k.state.insn == at) else { continue };
            let state = &kept.state;
            if state.branches > 0 || state.cleaned || !same_callsites(state, &self.cur) || self.incomplete_marks(state)
            {
                continue;
            }
            let Some(mut kept) = self.states.take(id) else { continue };
            self.clean(&mut kept.state, start_of);
            self.states.put(id, kept);
        }
    }

    fn clean(&mut self, state: &mut State, start_of: &impl Fn(u32) -> (u32, u32)) {
        state.cleaned = true;
        let aux = &self.aux;
        let calls_callback = |at: u32| aux.get(at as usize).is_some_and(|a| a.calls_callback);
        let live_slots = self.live_stack.live_slots(state, start_of, &calls_callback);
        let frames = state.frames.len();
        for (number, &live_slots) in live_slots.iter().enumerate().take(frames) {
            let live = self.aux.get(state.frame_insn(number) as usize).map_or(u16::MAX, |a| a.live_regs);
            let frame = state.frame_at_mut(number);
            for (i, reg) in frame.regs.iter_mut().enumerate().take(10) {
                if live & (1 << i) == 0 {
                    *reg = Reg::NOT_INIT;
                }
            }
            for (i, slot) in frame.stack.iter_mut().enumerate() {
                let alive = i >= 64 || live_slots & (1 << i) != 0;
                if !alive {
                    *slot = Slot::EMPTY;
                }
            }
        }
    }
}

fn same_callsites(a: &State, b: &State) -> bool {
    a.frames.len() == b.frames.len() && a.frames.iter().zip(&b.frames).all(|(x, y)| x.callsite == y.callsite)
}

/// How the current state compares with one on its own path.
enum OpenMatch {
    /// Within it, and the loop makes progress elsewhere.
    Loop,
    /// The same: the loop never ends.
    Infinite,
    /// Different.
    Miss,
}
