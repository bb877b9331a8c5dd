//! Calls of subprograms.
//!
//! Owns frames: who is entered with what. Invariant: a static function is walked anew for each caller's state, a global one
//! once by its prototype alone. Kernel counterpart: `check_func_call`, `setup_func_entry`, kernel/bpf/verifier.c, 6.18.

use std::rc::Rc;

use skep_abi::Errno;

use crate::env::{Check, Env, log, reject};
use crate::prune::{IdMap, same_regs};
use crate::state::frame::{Frame, MAX_FRAMES, State};
use crate::state::reg::Reg;
use crate::verified::RejectionKind;

impl Env<'_> {
    /// `call pc+off`.
    pub(crate) fn check_subprog_call(&mut self, off: i32) -> Check {
        let at = self.insn;
        let target = Self::relative(at, off);
        let Some(sub) = self.subprog_starting(i64::from(target)) else {
            return Err(crate::env::internal!(self, "no program starts at insn {target}"));
        };
        if self.subprogs[sub].is_global {
            return self.check_global_call(sub);
        }
        let number = self.next_frame()?;
        let index = u32::try_from(sub).unwrap_or(u32::MAX);
        let mut callee = Frame::new(at, number, index);
        callee.regs[1..=5].copy_from_slice(&self.cur.frame().regs[1..=5]);
        self.clear_caller_saved();
        self.cur.frames.push(Rc::new(callee));
        self.scratch_all();
        self.insn = target;
        if self.options.log_level & 3 != 0 {
            let depth = self.cur.depth();
            log!(self, "caller:\n");
            self.print_frame(depth - 1);
            log!(self, "callee:\n");
            self.print_frame(depth);
        }
        self.live_stack_moved_after_commit();
        Ok(())
    }

    /// Number of the frame that a call would enter.
    pub(crate) fn next_frame(&mut self) -> Check<u8> {
        let next = self.cur.frames.len();
        if next >= MAX_FRAMES {
            let message = format!("the call stack of {} frames is too deep", next + 1);
            return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, message));
        }
        Ok(u8::try_from(next).unwrap_or(u8::MAX))
    }

    fn check_global_call(&mut self, sub: usize) -> Check {
        let passed = self.check_global_args(sub);
        if self.cur.res.locks > 0 {
            self.note("global function calls are not allowed while holding a lock,");
            return Err(reject!(self, EINVAL, "use static function instead"));
        }
        if self.cur.res.preempt > 0 && !self.options.profile.globals_without_preemption {
            self.note("global function calls are not allowed with preemption disabled,");
            return Err(reject!(self, EINVAL, "use static function instead"));
        }
        let name = self.subprogs[sub].name.clone();
        let res = &self.cur.res;
        let atomic = res.rcu > 0 || res.preempt > 0 || res.irq != 0 || !self.cur.sleepable;
        if self.subprogs[sub].might_sleep && atomic {
            self.note("global functions that may sleep are not allowed in non-sleepable context,");
            self.note("i.e., in a RCU/IRQ/preempt-disabled section, or in");
            return Err(reject!(self, EINVAL, "a non-sleepable BPF program context"));
        }
        if let Err(refused) = passed {
            let kind = refused.kind;
            if kind == RejectionKind::Internal {
                return Err(refused);
            }
            let message = format!("Caller passes invalid args into func#{sub} ('{name}')");
            return Err(self.reject(refused.errno, kind, message));
        }
        if self.options.log_level & 3 != 0 {
            log!(self, "Func#{sub} ('{name}') is global and assumed valid.\n");
        }
        if self.subprogs[sub].might_throw && self.holds_anything() {
            // The kernel takes this, and what is held is lost when the function throws.
            self.need("a global function that may throw while something is held");
        }
        if self.subprogs[sub].changes_pkt_data {
            self.clear_packet_pointers();
        }
        self.subprogs[sub].called = true;
        self.clear_caller_saved();
        self.set_unknown(0);
        self.insn += 1;
        Ok(())
    }

    /// A reference, a lock or a section that the path must give back.
    fn holds_anything(&self) -> bool {
        let res = &self.cur.res;
        !res.refs.is_empty() || res.locks > 0 || res.preempt > 0 || res.rcu > 0 || res.irq != 0
    }

    /// r0-r5 of the running frame cannot be read after a call.
    pub(crate) fn clear_caller_saved(&mut self) {
        for n in 0..=5 {
            self.set_reg(n, Reg::NOT_INIT);
        }
    }

    /// The frames have changed: the stack analysis must not commit to the wrong one.
    pub(crate) fn live_stack_moved_after_commit(&mut self) {
        self.live_stack.commit();
        self.live_stack.moved();
    }

    /// The newest state at `insn` on the path to the current state's parent, in a loop of callbacks or iterators.
    pub(crate) fn previous_entry(&self, insn: u32) -> Option<u32> {
        let parent = self.cur.parent.and_then(|id| self.states.get(id))?;
        self.previous_entry_from(parent.state.dfs_depth, insn)
    }

    /// The newest kept state at `insn` on the current path, above `dfs_depth`.
    pub(crate) fn previous_entry_from(&self, dfs_depth: u32, insn: u32) -> Option<u32> {
        let list = self.states.list_of(&self.cur, insn);
        let mut i = 0;
        while let Some(id) = self.states.nth_newest(list, i) {
            i += 1;
            let Some(kept) = self.states.get(id).filter(|k| k.state.insn == insn) else { continue };
            let s = &kept.state;
            let same = s.frames.len() == self.cur.frames.len()
                && s.frames.iter().zip(&self.cur.frames).all(|(a, b)| a.callsite == b.callsite);
            if s.branches > 0 && s.dfs_depth < dfs_depth && same {
                return Some(id);
            }
        }
        None
    }

    /// Widens the branch that was pushed last against an earlier state of the same loop.
    pub(crate) fn widen_pending(&mut self, previous: u32) {
        let Some(kept) = self.states.get(previous) else { return };
        let old = kept.state.frames.clone();
        if let Some(pending) = self.pending.last_mut() {
            widen(&old, &mut pending.state);
        }
    }

    /// Widens the current state against an earlier state of the same loop.
    pub(crate) fn widen_cur(&mut self, previous: u32) {
        let Some(kept) = self.states.get(previous) else { return };
        let old = kept.state.frames.clone();
        widen(&old, &mut self.cur);
    }
}

/// Scalars that changed since the last iteration and decided nothing become unknown, so that the loop converges. One that was linked to others and is not, or the reverse, has changed.
fn widen(old: &[Rc<Frame>], new: &mut State) {
    let mut ids = IdMap::default();
    let mut changed =
        |o: &Reg, n: &Reg| o.is_scalar() && n.is_scalar() && !o.precise && !n.precise && !same_regs(o, n, &mut ids);
    for (number, old) in old.iter().enumerate().take(new.frames.len()).rev() {
        for i in 0..10 {
            if changed(&old.regs[i], &new.frames[number].regs[i]) {
                new.frame_at_mut(number).regs[i] = Reg::UNKNOWN;
            }
        }
        for i in 0..old.stack.len().min(new.frames[number].stack.len()) {
            let (o, n) = (&old.stack[i], &new.frames[number].stack[i]);
            if o.is_spilled() && n.is_spilled() && changed(&o.reg, &n.reg) {
                new.frame_at_mut(number).stack[i].reg = Reg::UNKNOWN;
            }
        }
    }
}
