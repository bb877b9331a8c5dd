//! Exceptions as plain control flow.
//!
//! Throwing leaves all frames of a program. Here it is written out: a function that throws leaves its cookie in two words of
//! the vCPU and exits, and whoever called a function that may throw looks at them and exits too, down to the program's own
//! function, which clears them and calls the handler, or returns the cookie. The interpreter and the code generators need to
//! know nothing of it, and no frame but the program's own is ever skipped. Invariant: the words are clear whenever the
//! program's own function runs on. Kernel counterpart: `bpf_throw`, kernel/bpf/helpers.c, which unwinds the machine's stack.

use skep_abi::{AluOp, CallTarget, Insn, JmpOp, Operand, Reg, Size, Width};

use super::lower::{Out, plain};
use super::{Item, RewriteError, Target};
use crate::spec::ProgramSpec;
use crate::verified::{InsnFacts, MemKind, Need, Subprog};

/// Byte offsets of the words: what was thrown, and whether something was.
const COOKIE: i16 = 0;
const THROWN: i16 = 8;

/// What the rewrite of a program with exceptions needs to know.
pub(super) struct Exceptions<'a> {
    /// Whether a subprogram throws, or calls one that does.
    throws: Vec<bool>,
    /// First slot of the handler.
    handler: Option<u32>,
    /// Offset of the words from the vCPU's base.
    words: i32,
    facts: &'a [InsnFacts],
}

fn is_throw(spec: &ProgramSpec<'_>, insn: Insn) -> bool {
    let Insn::Call { target: CallTarget::Kfunc { id, .. } } = insn else { return false };
    usize::try_from(id).ok().and_then(|id| spec.kfuncs.get(id)).is_some_and(|kfunc| kfunc.name == "bpf_throw")
}

impl<'a> Exceptions<'a> {
    /// Finds the subprograms that throw; `None` if none does.
    pub(super) fn find(
        spec: &ProgramSpec<'_>,
        subprogs: &[Subprog],
        items: &[Item],
        words: Option<i32>,
        facts: &'a [InsnFacts],
    ) -> Result<Option<Self>, RewriteError> {
        let Some(first) = items.iter().find(|item| is_throw(spec, item.insn)) else { return Ok(None) };
        let Some(words) = words else {
            let what = "exceptions without a place for what is thrown".to_owned();
            return Err(Need { insn: crate::verified::InsnIdx(first.at), what }.into());
        };
        let sub_of = |at: u32| subprogs.partition_point(|subprog| subprog.start <= at).saturating_sub(1);
        let mut throws = vec![false; subprogs.len()];
        loop {
            let mut changed = false;
            for item in items {
                let may = is_throw(spec, item.insn)
                    || matches!((item.insn, item.target), (Insn::Call { .. }, Some(Target::Entry(to))) if throws.get(sub_of(to)) == Some(&true));
                if let Some(place) = throws.get_mut(sub_of(item.at)).filter(|known| may && !**known) {
                    *place = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let handler = subprogs.iter().find(|subprog| subprog.is_exception_callback).map(|subprog| subprog.start);
        Ok(Some(Self { throws, handler, words, facts }))
    }

    /// The instructions in place of a call of `bpf_throw` in subprogram `sub`.
    pub(super) fn throw(&self, spec: &ProgramSpec<'_>, sub: usize, insn: Insn) -> Option<Vec<Out>> {
        if !is_throw(spec, insn) {
            return None;
        }
        if sub == 0 {
            return Some(self.handle());
        }
        let mut out = self.words_address();
        out.push(in_memory(store(COOKIE, Operand::Reg(Reg::R1))));
        out.push(in_memory(store(THROWN, Operand::Imm(1))));
        out.push(plain(Insn::Exit));
        Some(out)
    }

    /// What follows a call in subprogram `sub`, if the callee may throw.
    pub(super) fn after_call(&self, subprogs: &[Subprog], sub: usize, item: &Item) -> Vec<Out> {
        let (Insn::Call { .. }, Some(Target::Entry(to))) = (item.insn, item.target) else { return Vec::new() };
        let callee = subprogs.partition_point(|subprog| subprog.start <= to).saturating_sub(1);
        if self.throws.get(callee) != Some(&true) {
            return Vec::new();
        }
        let next = item.at.saturating_add(1);
        let returns = self.facts.get(next as usize).is_some_and(|facts| facts.reachable);
        let mut out = Vec::new();
        if returns {
            out.extend(self.words_address());
            out.push(in_memory(load(Reg::AX, THROWN)));
            let nothing = Insn::Jcond { width: Width::W64, op: JmpOp::Eq, dst: Reg::AX, src: Operand::Imm(0), off: 0 };
            out.push(Out { target: Some(Target::Jump(next)), ..plain(nothing) });
        }
        if sub != 0 {
            out.push(plain(Insn::Exit));
            return out;
        }
        out.extend(self.words_address());
        out.push(in_memory(load(Reg::R1, COOKIE)));
        out.push(in_memory(store(THROWN, Operand::Imm(0))));
        out.extend(self.handle());
        out
    }

    /// The program's end after something was thrown; the cookie is in r1.
    fn handle(&self) -> Vec<Out> {
        let result = match self.handler {
            Some(handler) => {
                let call = Insn::Call { target: CallTarget::Subprog(0) };
                Out { target: Some(Target::Entry(handler)), ..plain(call) }
            }
            None => {
                let src = Operand::Reg(Reg::R1);
                plain(Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg::R0, src })
            }
        };
        vec![result, plain(Insn::Exit)]
    }

    /// Makes `AX` the address of the words.
    fn words_address(&self) -> Vec<Out> {
        let offset = Operand::Imm(self.words);
        let offset = Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg::AX, src: offset };
        vec![plain(offset), plain(Insn::MovPercpu { dst: Reg::AX, src: Reg::AX })]
    }
}

fn in_memory(insn: Insn) -> Out {
    let mut out = plain(insn);
    out.facts.mem = MemKind::Mem;
    out
}

fn load(dst: Reg, off: i16) -> Insn {
    Insn::Load { size: Size::Dw, sign_extend: false, dst, base: Reg::AX, off }
}

fn store(off: i16, src: Operand) -> Insn {
    Insn::Store { size: Size::Dw, base: Reg::AX, off, src }
}
