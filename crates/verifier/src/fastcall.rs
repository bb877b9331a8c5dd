//! Saves of registers around calls that leave those registers alone (`bpf_fastcall`).
//!
//! A compiler that does not know what a kernel makes of such a call stores registers before it and loads them again behind it.
//! Where the call leaves them alone, stores and loads go, and with them the stack that nothing else used. Owns which these are.
//! Invariant: a slot that a save uses which goes is touched by saves alone, and a save is entered at its first store. Kernel
//! counterpart: `mark_fastcall_patterns`, `check_fastcall_stack_contract`, `remove_fastcall_spills_fills`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::kfunc::{KfuncRet, flags as kf};
use skep_abi::{CallTarget, Insn, Operand, Reg, Size};

use crate::check::helper::GET_SMP_PROCESSOR_ID;
use crate::env::Env;

/// r0-r5.
const CALLER_SAVED: u16 = 0b11_1111;
/// Pairs of a store and a load around one call, at most.
const MAX_PAIRS: u32 = 6;

/// The stack that the saves of one function use, as offsets from its frame pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saves {
    /// Where the kernel takes it to end: behind the saves of the call that has the fewest.
    end: i32,
    /// Where it ends.
    top: i32,
    /// It stays, since a call among them clobbers what it may.
    stays: bool,
}

/// What a call leaves alone.
struct Spared {
    registers: u16,
    /// The kernel makes code of the call, so that it does leave them alone.
    inlined: bool,
}

impl Env<'_> {
    /// Finds the saves of every function, before any path is walked.
    pub(crate) fn find_saves(&mut self) {
        if !self.options.profile.fastcall {
            return;
        }
        let targets = self.jump_targets();
        for sub in 0..self.subprogs.len() {
            let (start, end) = (self.subprogs[sub].start, self.subprogs[sub].end);
            let lowest = (start..end).filter_map(|at| self.stored(at)).map(|(_, off)| off).min();
            let Some(lowest) = lowest.filter(|&off| off < 0) else { continue };
            for at in start..end {
                if let Some(Insn::Call { target }) = self.insn_at(at) {
                    self.find_saves_around(sub, at, target, lowest, &targets);
                }
            }
        }
    }

    /// Slots that a jump leads to.
    fn jump_targets(&self) -> Vec<bool> {
        let mut targets = vec![false; self.code.len()];
        for (at, insn) in (0..).zip(&self.code) {
            let off = match *insn {
                Some(Insn::Ja { off, .. }) => off,
                Some(Insn::Jcond { off, .. } | Insn::MayGoto { off }) => i32::from(off),
                _ => continue,
            };
            if let Some(target) = targets.get_mut(Self::relative(at, off) as usize) {
                *target = true;
            }
        }
        targets
    }

    /// The register that a whole word of the frame is stored from, and the place of that.
    fn stored(&self, at: u32) -> Option<(Reg, i32)> {
        match self.insn_at(at)? {
            Insn::Store { size: Size::Dw, base: Reg::R10, off, src: Operand::Reg(reg) } => Some((reg, i32::from(off))),
            _ => None,
        }
    }

    fn loaded(&self, at: u32) -> Option<(Reg, i32)> {
        match self.insn_at(at)? {
            Insn::Load { size: Size::Dw, sign_extend: false, dst, base: Reg::R10, off } => Some((dst, i32::from(off))),
            _ => None,
        }
    }

    /// The innermost pair is at the function's lowest place, each further one a word above. None goes past where a jump comes in.
    fn find_saves_around(&mut self, sub: usize, call: u32, target: CallTarget, lowest: i32, targets: &[bool]) {
        let Some(spared) = self.spared_by(target) else { return };
        let is_target = |at: u32| targets.get(at as usize).copied().unwrap_or(true);
        let (mut left, mut off, mut pairs) = (spared.registers, lowest, 0);
        while pairs < MAX_PAIRS {
            let (Some(store), load) = (call.checked_sub(pairs + 1), call + pairs + 1) else { break };
            let saved = self.stored(store).filter(|saved| self.loaded(load) == Some(*saved));
            let fits = |&(reg, at): &(Reg, i32)| at == off && left & (1 << reg.number()) != 0;
            let Some((reg, _)) = saved.filter(fits) else { break };
            if is_target(store + 1) || is_target(load) {
                break;
            }
            left &= !(1 << reg.number());
            self.aux[store as usize].is_save = true;
            self.aux[load as usize].is_save = true;
            (off, pairs) = (off + 8, pairs + 1);
        }
        if pairs == 0 {
            return;
        }
        if spared.inlined {
            self.aux[call as usize].saves = pairs;
        }
        let known = self.subprogs[sub].saves.unwrap_or(Saves { end: 0, top: i32::MIN, stays: false });
        self.subprogs[sub].saves =
            Some(Saves { end: known.end.min(off), top: known.top.max(off), stays: known.stays || !spared.inlined });
    }

    /// What a call leaves alone by its prototype; nothing for a call of the program's own functions.
    fn spared_by(&self, target: CallTarget) -> Option<Spared> {
        let (args, void, inlined) = match target {
            CallTarget::Subprog(_) => return None,
            CallTarget::Helper(id) => {
                let proto = self.available_proto(id)?;
                let void = proto.ret.kind == skep_abi::helper::RetKind::Void;
                let own = self.spec.helpers.is_some_and(|table| table.get(proto.id).is_some());
                (self.call_arg_count(target)?, void, proto.flags.allow_fastcall && !own)
            }
            CallTarget::Kfunc { id, .. } => {
                let proto = self.kfunc(id)?;
                (u32::try_from(proto.args.len()).ok()?, proto.ret == KfuncRet::Void, proto.has(kf::FASTCALL))
            }
        };
        let clobbered = ((1u16 << (args.min(5) + 1)) - 1) & !u16::from(void);
        Some(Spared { registers: CALLER_SAVED & !clobbered, inlined }).filter(|spared| spared.registers != 0)
    }

    /// The current instruction uses the stack of `frame` at `off`. What saves keep there they then have to keep.
    ///
    /// The kernel does not count what helpers read, nor what a function reads of its caller's stack, so that they may read
    /// there what was never stored; and it takes the function that reads for the one that is read of.
    pub(crate) fn note_stack_use(&mut self, frame: usize, off: i64) {
        if self.aux[self.insn as usize].is_save {
            return;
        }
        for frame in [frame, self.cur.depth()] {
            let sub = self.cur.frames[frame].subprog as usize;
            let used = self.subprogs[sub].saves.is_some_and(|saves| off < i64::from(saves.top));
            if used {
                self.keep_saves(sub);
            }
        }
    }

    /// Whether this engine makes code of the call too.
    fn is_inlined(&self, at: u32) -> bool {
        matches!(self.insn_at(at), Some(Insn::Call { target: CallTarget::Helper(GET_SMP_PROCESSOR_ID) }))
    }

    fn keep_saves(&mut self, sub: usize) {
        let info = &mut self.subprogs[sub];
        info.saves = None;
        for aux in &mut self.aux[info.start as usize..info.end as usize] {
            (aux.is_save, aux.saves) = (false, 0);
        }
    }

    /// Takes the stack that only saves used from the functions, once every path was walked.
    pub(crate) fn drop_saves(&mut self) {
        for sub in 0..self.subprogs.len() {
            let info = &self.subprogs[sub];
            let Some(saves) = info.saves.filter(|saves| !saves.stays) else { continue };
            let depth = saves.end.unsigned_abs();
            let any = (info.start..info.end).any(|at| self.aux[at as usize].saves > 0);
            let all = (info.start..info.end).all(|at| self.aux[at as usize].saves == 0 || self.is_inlined(at));
            if any && depth < info.stack_depth {
                let info = &mut self.subprogs[sub];
                info.save_depth = info.stack_depth - depth;
                info.stack_depth = depth;
                info.runs_saves = !all;
            }
        }
        for at in 0..self.aux.len() {
            let pairs = self.aux[at].saves as usize;
            if pairs > 0 && self.is_inlined(u32::try_from(at).unwrap_or(u32::MAX)) {
                for n in 1..=pairs {
                    self.facts[at - n].is_save = true;
                    self.facts[at + n].is_save = true;
                }
            }
        }
    }
}
