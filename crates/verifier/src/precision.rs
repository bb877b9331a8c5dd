//! Which scalars had to be exact, found by walking back along the path.
//!
//! When safety depended on a scalar's bounds, every register and slot that it came from, back to its constants, is marked
//! precise in the kept states on the way. Invariant: a scalar that is not precise in a kept state decided nothing after it, so
//! states may differ in it. Kernel counterpart: `__mark_chain_precision`, `backtrack_insn`, kernel/bpf/verifier.c, 6.18.

use std::fmt::Write as _;
use std::rc::Rc;

use skep_abi::{AluOp, AtomicOp, CallTarget, Insn, Operand, Reg as R};

use crate::check::helper::TAIL_CALL;
use crate::env::{Check, Env, internal, log};
use crate::mutant::{self, Mutant};
use crate::state::frame::{Frame, Linked, MAX_FRAMES, State, Step};
use crate::state::reg::Base;

/// Registers r1-r5.
const ARGS: u16 = 0b11_1110;

/// What is still looked for, by frame.
#[derive(Debug, Default)]
pub(crate) struct Backtrack {
    frame: usize,
    /// Begun with the marks of a kept state, which may be on dead registers: where tracking gave up, all scalars are marked.
    spread: bool,
    regs: [u16; MAX_FRAMES],
    slots: [u64; MAX_FRAMES],
}

impl Backtrack {
    fn start(&mut self, frame: usize) {
        *self = Self { frame, ..Self::default() };
    }

    fn is_empty(&self) -> bool {
        self.regs[..=self.frame].iter().all(|&m| m == 0) && self.slots[..=self.frame].iter().all(|&m| m == 0)
    }

    fn has(&self, reg: R) -> bool {
        self.regs[self.frame] & (1 << reg.number()) != 0
    }

    fn set(&mut self, reg: R) {
        if reg != R::R10 {
            self.regs[self.frame] |= 1 << reg.number();
        }
    }

    fn clear(&mut self, reg: R) {
        self.regs[self.frame] &= !(1 << reg.number());
    }

    /// No value is in these registers here, nor on the frame's stack if that is asked. To look for one is a mistake, whose
    /// registers are returned, unless this walk looks for dead ones too: nothing behind can have used those.
    fn unset_here(&mut self, unset: u16, stack: bool) -> Option<u16> {
        let (regs, slots) = (&mut self.regs[self.frame], &mut self.slots[self.frame]);
        if self.spread {
            *regs &= !unset;
            if stack {
                *slots = 0;
            }
            return None;
        }
        (*regs & unset != 0 || (stack && *slots != 0)).then_some(*regs)
    }

    fn slot_bit(slot: u8) -> u64 {
        1u64.checked_shl(u32::from(slot)).unwrap_or(0)
    }

    /// Linked scalars are precise together.
    fn sync(&mut self, step: Option<&Step>) {
        let Some(linked) = step.and_then(|s| s.linked.as_deref()) else { return };
        let is_set = |l: &Linked| {
            let frame = l.frame as usize;
            if l.is_reg { self.regs[frame] & (1 << l.at) != 0 } else { self.slots[frame] & Self::slot_bit(l.at) != 0 }
        };
        if !linked.iter().any(is_set) || mutant::active(Mutant::UntracedLinks) {
            return;
        }
        for l in linked {
            let frame = l.frame as usize;
            if l.is_reg {
                self.regs[frame] |= 1 << l.at;
            } else {
                self.slots[frame] |= Self::slot_bit(l.at);
            }
        }
    }
}

/// How one instruction was walked back.
enum Walked {
    On,
    /// It cannot be followed; everything must be precise.
    GiveUp,
}

fn fmt_regs(mask: u16) -> String {
    let mut out = String::new();
    for i in (0..16).filter(|i| mask & (1 << i) != 0) {
        let _ = write!(out, "{}r{i}", if out.is_empty() { "" } else { "," });
    }
    out
}

fn fmt_slots(mask: u64) -> String {
    let mut out = String::new();
    for i in (0..64i64).filter(|i| mask & (1 << i) != 0) {
        let _ = write!(out, "{}{}", if out.is_empty() { "" } else { "," }, -(i + 1) * 8);
    }
    out
}

impl Env<'_> {
    /// The scalar in `reg` of the running frame decided something.
    pub(crate) fn mark_precise(&mut self, reg: u8) -> Check {
        if !self.caps.bpf || mutant::active(Mutant::NoPrecision) {
            return Ok(());
        }
        let depth = self.cur.depth();
        self.backtrack.start(depth);
        if !self.reg(reg).is_scalar() {
            return Err(internal!(self, "backtracking misuse"));
        }
        self.backtrack.regs[depth] |= 1 << reg;
        let cur = std::mem::replace(&mut self.cur, State::hollow());
        let done = self.walk_back(&cur);
        self.cur = cur;
        done.map(|_| ())
    }

    /// The scalar in a stack slot of frame `frame` decided something.
    pub(crate) fn mark_slot_precise(&mut self, frame: usize, slot: usize) -> Check {
        if !self.caps.bpf {
            return Ok(());
        }
        self.backtrack.start(self.cur.depth());
        self.backtrack.slots[frame] |= 1 << slot;
        let cur = std::mem::replace(&mut self.cur, State::hollow());
        let done = self.walk_back(&cur);
        self.cur = cur;
        done.map(|_| ())
    }

    /// The current path continues as a kept state whose frames are `old`: what was precise there is precise here.
    pub(crate) fn spread_precision_to_cur(&mut self, old: &[Rc<Frame>]) -> Check {
        let mut cur = std::mem::replace(&mut self.cur, State::hollow());
        let done = self.spread_precision(old, &mut cur);
        self.cur = cur;
        done.map(|_| ())
    }

    /// As [`Self::spread_precision_to_cur`], for any state; says whether a mark was new.
    pub(crate) fn spread_precision(&mut self, old: &[Rc<Frame>], state: &mut State) -> Check<bool> {
        if !self.caps.bpf {
            return Ok(false);
        }
        self.backtrack.start(state.depth());
        self.backtrack.spread = true;
        for (number, frame) in old.iter().enumerate().rev() {
            let mut first = true;
            for (i, reg) in frame.regs.iter().enumerate().take(10) {
                if !reg.is_scalar() || !reg.precise {
                    continue;
                }
                if self.level2() {
                    if first {
                        log!(self, "frame {number}: propagating r{i}");
                    } else {
                        log!(self, ",r{i}");
                    }
                }
                first = false;
                self.backtrack.regs[number] |= 1 << i;
            }
            for (i, slot) in frame.stack.iter().enumerate() {
                if !slot.is_spilled_scalar() || !slot.reg.precise {
                    continue;
                }
                if self.level2() {
                    let off = -(i64::try_from(i).unwrap_or(0) + 1) * 8;
                    if first {
                        log!(self, "frame {number}: propagating fp{off}");
                    } else {
                        log!(self, ",fp{off}");
                    }
                }
                first = false;
                self.backtrack.slots[number] |= 1 << i;
            }
            if !first && self.level2() {
                log!(self, "\n");
            }
        }
        if self.backtrack.is_empty() {
            return Ok(false);
        }
        self.walk_back(state)
    }

    /// Walks from the end of `start` to where everything looked for was made; says whether a mark was new.
    fn walk_back(&mut self, start: &State) -> Check<bool> {
        let mut changed = false;
        let mut at: Option<u32> = None;
        let (mut first_insn, mut last, mut next) = (start.first_insn, start.insn, None::<u32>);
        let mut skip_first = true;
        loop {
            if self.level2() {
                let frame = self.backtrack.frame;
                let next = next.map_or(-1, i64::from);
                let last = if last == u32::MAX { -1 } else { i64::from(last) };
                log!(self, "mark_precise: frame{frame}: last_idx {last} first_idx {first_insn} subseq_idx {next} \n");
            }
            if last == u32::MAX {
                return self.at_function_entry(start, at);
            }
            let mut left = self.history_of(start, at).len();
            let mut insn = last;
            loop {
                if skip_first {
                    skip_first = false;
                } else {
                    let step = left.checked_sub(1).and_then(|k| self.history_of(start, at).get(k)).cloned();
                    let step = step.filter(|s| s.insn == insn);
                    if let Walked::GiveUp = self.walk_back_insn(insn, next, step.as_ref())? {
                        self.force_all_precise(start);
                        return Ok(true);
                    }
                }
                if self.backtrack.is_empty() {
                    return Ok(changed);
                }
                next = Some(insn);
                let history = self.history_of(start, at);
                if insn == first_insn && (left == 0 || (left == 1 && history.first().is_some_and(|s| s.insn == insn))) {
                    break;
                }
                insn = match left.checked_sub(1).and_then(|k| history.get(k)).filter(|s| s.insn == insn) {
                    Some(step) => {
                        left -= 1;
                        step.prev
                    }
                    None => insn.wrapping_sub(1),
                };
                if insn as usize >= self.code.len() {
                    return Err(internal!(self, "backtracking idx {insn}"));
                }
            }
            at = match at {
                None => start.parent,
                Some(id) => self.states.get(id).and_then(|k| k.state.parent),
            };
            let Some(id) = at else { break };
            changed |= self.mark_kept(id);
            if self.backtrack.is_empty() {
                return Ok(changed);
            }
            next = Some(first_insn);
            let Some(kept) = self.states.get(id) else { break };
            last = kept.state.last_insn;
            first_insn = kept.state.first_insn;
        }
        if !self.backtrack.is_empty() {
            self.force_all_precise(start);
            changed = true;
        }
        Ok(changed)
    }

    fn history_of<'s>(&'s self, start: &'s State, at: Option<u32>) -> &'s [Step] {
        match at {
            None => &start.history,
            Some(id) => self.states.get(id).map_or(&[], |k| &k.state.history),
        }
    }

    /// The walk reached the first instruction: only a global function's arguments may be left.
    fn at_function_entry(&mut self, start: &State, at: Option<u32>) -> Check<bool> {
        let frames = match at {
            None => &start.frames,
            Some(id) => match self.states.get(id) {
                Some(kept) => &kept.state.frames,
                None => return Err(internal!(self, "backtracking lost a state")),
            },
        };
        let global = frames.len() == 1 && frames[0].subprog > 0 && frames[0].callsite == u32::MAX;
        if !global || self.backtrack.slots[0] != 0 || self.backtrack.regs[0] & !ARGS != 0 {
            let (regs, slots) = (self.backtrack.regs[0], self.backtrack.slots[0]);
            return Err(internal!(self, "backtracking func entry subprog 0 reg_mask {regs:x} stack_mask {slots:x}"));
        }
        let mask = std::mem::take(&mut self.backtrack.regs[0]);
        if let Some(kept) = at.and_then(|id| self.states.get_mut(id)) {
            for reg in (1..=5u8).filter(|r| mask & (1 << r) != 0) {
                let reg = &mut kept.state.frame_at_mut(0).regs[reg as usize];
                reg.precise |= reg.is_scalar();
            }
        }
        Ok(true)
    }

    /// Marks what is looked for in a kept state, and stops looking for what was marked before.
    fn mark_kept(&mut self, id: u32) -> bool {
        let mut changed = false;
        let Some(mut kept) = self.states.take(id) else { return false };
        for number in (0..=self.backtrack.frame).rev() {
            if number >= kept.state.frames.len() {
                continue;
            }
            let mut regs = self.backtrack.regs[number];
            let mut slots = self.backtrack.slots[number];
            if regs != 0 || slots != 0 {
                for i in (0..11).filter(|i| self.backtrack.regs[number] & (1 << i) != 0) {
                    let reg = &kept.state.frames[number].regs[i];
                    if reg.ty.base != Base::Scalar || reg.precise {
                        regs &= !(1 << i);
                    } else {
                        kept.state.frame_at_mut(number).regs[i].precise = true;
                        changed = true;
                    }
                }
                for i in (0..64).filter(|i| self.backtrack.slots[number] & (1 << i) != 0) {
                    let slot = kept.state.frames[number].stack.get(i);
                    if slot.is_none_or(|s| !s.is_spilled_scalar() || s.reg.precise) {
                        slots &= !(1 << i);
                    } else {
                        kept.state.frame_at_mut(number).stack[i].reg.precise = true;
                        changed = true;
                    }
                }
                self.backtrack.regs[number] = regs;
                self.backtrack.slots[number] = slots;
            }
            if self.level2() {
                log!(
                    self,
                    "mark_precise: frame{number}: parent state regs={} stack={}: ",
                    fmt_regs(regs),
                    fmt_slots(slots)
                );
                self.print_state(&kept.state, number, true);
            }
        }
        self.states.put(id, kept);
        changed
    }

    /// Marks every scalar of every ancestor, up to one of which that was done before: a program may give up at every
    /// instruction, and the chain is as long as the program's run.
    fn force_all_precise(&mut self, start: &State) {
        if self.level2() {
            log!(self, "mark_precise: frame{}: falling back to forcing all scalars precise\n", start.depth());
        }
        let mut at = start.parent;
        while let Some(id) = at {
            // Above a state that was marked whole, all were marked with it: each walk has its own stretch of the path to mark.
            let Some(mut kept) = self.states.take(id) else { break };
            if kept.state.all_precise {
                self.states.put(id, kept);
                break;
            }
            kept.state.all_precise = true;
            for number in 0..kept.state.frames.len() {
                for i in 0..10 {
                    let reg = &kept.state.frames[number].regs[i];
                    if reg.is_scalar() && !reg.precise {
                        kept.state.frame_at_mut(number).regs[i].precise = true;
                        if self.level2() {
                            log!(self, "force_precise: frame{number}: forcing r{i} to be precise\n");
                        }
                    }
                }
                for i in 0..kept.state.frames[number].stack.len() {
                    let slot = &kept.state.frames[number].stack[i];
                    if slot.is_spilled_scalar() && !slot.reg.precise {
                        kept.state.frame_at_mut(number).stack[i].reg.precise = true;
                        if self.level2() {
                            let off = -(i64::try_from(i).unwrap_or(0) + 1) * 8;
                            log!(self, "force_precise: frame{number}: forcing fp{off} to be precise\n");
                        }
                    }
                }
            }
            at = kept.state.parent;
            self.states.put(id, kept);
        }
        self.backtrack.start(0);
    }

    /// Undoes one instruction: what was looked for after it becomes what is looked for before it.
    fn walk_back_insn(&mut self, at: u32, next: Option<u32>, step: Option<&Step>) -> Check<Walked> {
        let Some(insn) = self.insn_at(at) else { return Ok(Walked::On) };
        if self.level2() {
            let frame = self.backtrack.frame;
            let (regs, slots) = (fmt_regs(self.backtrack.regs[frame]), fmt_slots(self.backtrack.slots[frame]));
            log!(self, "mark_precise: frame{frame}: regs={regs} stack={slots} before {at}: ");
            self.print_insn(at);
        }
        self.backtrack.sync(step);
        let stack = step.and_then(|s| s.stack);
        let bt = &mut self.backtrack;
        match insn {
            Insn::Alu { op: AluOp::Mov, dst, src, .. } => {
                if bt.has(dst) {
                    bt.clear(dst);
                    if let Operand::Reg(src) = src
                        && !mutant::active(Mutant::UntracedCopy)
                    {
                        bt.set(src);
                    }
                }
            }
            Insn::MovSx { dst, src, .. } | Insn::AddrSpaceCast { dst, src, .. } | Insn::MovPercpu { dst, src } => {
                if bt.has(dst) {
                    bt.clear(dst);
                    bt.set(src);
                }
            }
            Insn::Alu { dst, src, .. } => {
                if let (true, Operand::Reg(src)) = (bt.has(dst), src) {
                    bt.set(src);
                }
            }
            Insn::Neg { .. } | Insn::End { .. } | Insn::Ja { .. } | Insn::MayGoto { .. } => {}
            Insn::LdImm64 { dst, .. } => bt.clear(dst),
            Insn::LdAbs { .. } | Insn::LdInd { .. } => {
                if bt.has(R::R0) {
                    bt.clear(R::R0);
                    return Ok(Walked::GiveUp);
                }
            }
            Insn::Load { dst, .. } | Insn::LoadAcquire { dst, .. } => self.undo_load(dst, stack),
            Insn::Atomic { op, fetch, base, src, .. } => {
                let loaded = if op == AtomicOp::Cmpxchg { R::R0 } else { src };
                if (fetch || matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg)) && bt.has(loaded) {
                    self.undo_load(loaded, stack);
                } else {
                    return self.undo_store(base, Some(src), stack);
                }
            }
            Insn::Store { base, src: Operand::Reg(src), .. } | Insn::StoreRelease { base, src, .. } => {
                return self.undo_store(base, Some(src), stack);
            }
            Insn::Store { base, src: Operand::Imm(_), .. } => return self.undo_store(base, None, stack),
            Insn::Jcond { dst, src: Operand::Reg(src), .. } => {
                if bt.has(dst) || bt.has(src) {
                    if !step.is_some_and(|s| s.src_is_stack) {
                        bt.set(src);
                    }
                    if !step.is_some_and(|s| s.dst_is_stack) {
                        bt.set(dst);
                    }
                }
            }
            Insn::Jcond { .. } => {}
            Insn::Call { target } => {
                self.undo_call(at, target, next)?;
                return Ok(Walked::On);
            }
            Insn::Exit => {
                self.undo_exit(next)?;
                return Ok(Walked::On);
            }
            Insn::TailCall { .. } => return Ok(Walked::GiveUp),
        }
        self.backtrack.sync(step);
        Ok(Walked::On)
    }

    fn undo_load(&mut self, dst: R, stack: Option<(u8, u8)>) {
        let bt = &mut self.backtrack;
        if !bt.has(dst) {
            return;
        }
        bt.clear(dst);
        if let Some((frame, slot)) = stack {
            bt.slots[frame as usize] |= Backtrack::slot_bit(slot);
        }
    }

    fn undo_store(&mut self, base: R, src: Option<R>, stack: Option<(u8, u8)>) -> Check<Walked> {
        let bt = &mut self.backtrack;
        if bt.has(base) {
            // A scalar made by subtracting pointers.
            return Ok(Walked::GiveUp);
        }
        if let Some((frame, slot)) = stack {
            let bit = Backtrack::slot_bit(slot);
            if bt.slots[frame as usize] & bit != 0 {
                bt.slots[frame as usize] &= !bit;
                if let Some(src) = src
                    && !mutant::active(Mutant::UntracedSpill)
                {
                    bt.set(src);
                }
            }
        }
        Ok(Walked::On)
    }

    fn undo_call(&mut self, at: u32, target: CallTarget, next: Option<u32>) -> Check {
        let frame = self.backtrack.frame;
        let regs = self.backtrack.regs[frame];
        let into_callback = self.aux[at as usize].calls_callback && next != Some(at + 1);
        if let CallTarget::Subprog(off) = target {
            let callee = self.subprog_starting(i64::from(Self::relative(at, off)));
            let global = callee.is_some_and(|s| self.subprogs[s].is_global);
            if global {
                if let Some(regs) = self.backtrack.unset_here(ARGS, false) {
                    return Err(internal!(self, "global subprog unexpected regs {regs:x}"));
                }
                self.backtrack.clear(R::R0);
                return Ok(());
            }
            if let Some(regs) = self.backtrack.unset_here(!ARGS, true) {
                return Err(internal!(self, "static subprog unexpected regs {regs:x}"));
            }
            let Some(outer) = frame.checked_sub(1) else {
                return Err(internal!(self, "backtracking left the outermost frame"));
            };
            self.backtrack.regs[frame] = 0;
            if !mutant::active(Mutant::UntracedArguments) {
                self.backtrack.regs[outer] |= regs & ARGS;
            }
            self.backtrack.frame = outer;
        } else if into_callback {
            if let Some(regs) = self.backtrack.unset_here(!ARGS, true) {
                return Err(internal!(self, "callback unexpected regs {regs:x}"));
            }
            let Some(outer) = frame.checked_sub(1) else {
                return Err(internal!(self, "backtracking left the outermost frame"));
            };
            self.backtrack.regs[frame] = 0;
            self.backtrack.frame = outer;
        } else {
            // A tail call in a subprogram returned from it, on the path that it left by.
            if target == CallTarget::Helper(TAIL_CALL) && next.is_some_and(|next| next != at + 1) {
                self.undo_exit(next)?;
            }
            if let Some(regs) = self.backtrack.unset_here(ARGS, false) {
                return Err(internal!(self, "backtracking call unexpected regs {regs:x}"));
            }
            self.backtrack.clear(R::R0);
        }
        Ok(())
    }

    fn undo_exit(&mut self, next: Option<u32>) -> Check {
        let frame = self.backtrack.frame;
        if next.is_some_and(|n| self.aux.get(n as usize).is_some_and(|a| a.calls_callback)) {
            self.backtrack.regs[frame] &= !ARGS;
        }
        if let Some(regs) = self.backtrack.unset_here(ARGS, false) {
            return Err(internal!(self, "backtracking exit unexpected regs {regs:x}"));
        }
        let before = next.and_then(|n| n.checked_sub(1)).and_then(|n| self.insn_at(n));
        let r0 = self.backtrack.has(R::R0) && matches!(before, Some(Insn::Call { target: CallTarget::Subprog(_) }));
        self.backtrack.clear(R::R0);
        if frame + 1 >= MAX_FRAMES {
            return Err(internal!(self, "backtracking too deep"));
        }
        self.backtrack.frame = frame + 1;
        if r0 {
            self.backtrack.set(R::R0);
        }
        Ok(())
    }
}
