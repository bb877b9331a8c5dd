//! Constants in registers, from the code alone.
//!
//! Owns the facts that the JIT turns into immediates. What the walk saw on one path does not hold on a path that was pruned, so
//! these come from an analysis of the code that needs no path: at each slot, what every way there agrees on. Invariant: a
//! constant given here is in the register on every run. No kernel counterpart.

use skep_abi::{AluOp, Imm64, Insn, Operand, Width};

use crate::cfg::successors;
use crate::env::Env;
use crate::state::bounds::Bounds;
use crate::state::scalar_alu;
use crate::verified::Const;

/// r0-r10 at a slot: a constant, or not.
type Regs = [Option<u64>; 11];

fn after(insn: Option<Insn>, before: &Regs) -> Regs {
    let mut regs = *before;
    let mut forget = |r: skep_abi::Reg| {
        if let Some(slot) = regs.get_mut(r.index()) {
            *slot = None;
        }
    };
    match insn {
        Some(Insn::Alu { width, op, dst, src }) => {
            let s = match src {
                Operand::Reg(r) => before.get(r.index()).copied().flatten(),
                Operand::Imm(imm) => scalar_alu::imm(op, width, imm).const_value(),
            };
            let d = before.get(dst.index()).copied().flatten();
            let value = match (op, width, d, s) {
                (AluOp::Mov, Width::W64, _, s) => s,
                (AluOp::Mov, Width::W32, _, Some(s)) => Some(s & 0xffff_ffff),
                (_, _, Some(d), Some(s)) if op != AluOp::Mov => {
                    scalar_alu::alu(op, width, &Bounds::constant(d), &Bounds::constant(s)).const_value()
                }
                _ => None,
            };
            if let Some(slot) = regs.get_mut(dst.index()) {
                *slot = value;
            }
        }
        Some(Insn::LdImm64 { dst, imm: Imm64::Const(v) }) => {
            if let Some(slot) = regs.get_mut(dst.index()) {
                *slot = Some(v);
            }
        }
        Some(
            Insn::LdImm64 { dst, .. }
            | Insn::MovSx { dst, .. }
            | Insn::Neg { dst, .. }
            | Insn::End { dst, .. }
            | Insn::AddrSpaceCast { dst, .. }
            | Insn::MovPercpu { dst, .. }
            | Insn::Load { dst, .. }
            | Insn::LoadAcquire { dst, .. },
        ) => forget(dst),
        Some(Insn::Atomic { src, .. }) => {
            forget(src);
            forget(skep_abi::Reg::R0);
        }
        Some(Insn::Call { .. } | Insn::LdAbs { .. } | Insn::LdInd { .. } | Insn::TailCall { .. }) => {
            for slot in &mut regs[..=5] {
                *slot = None;
            }
        }
        Some(
            Insn::Store { .. }
            | Insn::StoreRelease { .. }
            | Insn::Ja { .. }
            | Insn::Jcond { .. }
            | Insn::MayGoto { .. }
            | Insn::Exit,
        ) => {}
        None => regs = [None; 11],
    }
    regs
}

impl Env<'_> {
    /// Fills the constants of [`crate::InsnFacts`].
    pub(crate) fn find_constants(&mut self) {
        let insns = self.spec.insns;
        let mut at_slot: Vec<Option<Regs>> = vec![None; insns.len()];
        let mut work: Vec<u32> = Vec::new();
        let entries: Vec<u32> = self.subprogs.iter().map(|s| s.start).collect();
        for start in entries {
            at_slot[start as usize] = Some([None; 11]);
            work.push(start);
        }
        while let Some(at) = work.pop() {
            let Some(before) = at_slot[at as usize] else { continue };
            let regs = after(self.insn_at(at), &before);
            for &to in successors(insns, at).as_slice() {
                let Some(place) = at_slot.get_mut(to as usize) else { continue };
                let joined = match place {
                    None => regs,
                    Some(old) => {
                        let mut joined = *old;
                        for (j, r) in joined.iter_mut().zip(&regs) {
                            if *j != *r {
                                *j = None;
                            }
                        }
                        joined
                    }
                };
                if *place != Some(joined) {
                    *place = Some(joined);
                    work.push(to);
                }
            }
        }
        for (at, regs) in at_slot.iter().enumerate() {
            let regs = regs.unwrap_or([None; 11]);
            self.note_constants(at, &regs);
        }
    }

    fn note_constants(&mut self, at: usize, regs: &Regs) {
        let Some(insn) = self.code[at] else { return };
        let of = |r: skep_abi::Reg| regs.get(r.index()).copied().flatten();
        let known = |v: Option<u64>| v.map_or(Const::Unknown, Const::Known);
        let facts = &mut self.facts[at];
        let (dst, src) = match insn {
            Insn::Alu { dst, src, .. } | Insn::Jcond { dst, src, .. } => (of(dst), src),
            Insn::Store { src, .. } => (None, src),
            _ => return,
        };
        facts.dst_const = known(dst);
        let value = match src {
            Operand::Reg(r) => of(r),
            Operand::Imm(_) => return,
        };
        facts.src_const = known(value);
        let Insn::Alu { width, op, .. } = insn else { return };
        if !matches!(op, AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod) {
            return;
        }
        let Some(v) = value else { return };
        let (low, minus_one) = match width {
            Width::W32 => (v & 0xffff_ffff, u64::from(u32::MAX)),
            Width::W64 => (v, u64::MAX),
        };
        facts.divisor_nonzero = low != 0;
        facts.divisor_not_minus_one = low != minus_one;
    }
}
