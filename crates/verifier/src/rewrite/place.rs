//! Positions and jump offsets of the rewritten program.
//!
//! Invariant: every jump, call and callback address leads to where its original target went; if that was removed, to what
//! follows it. Kernel counterpart: `bpf_patch_insn_data`, `adjust_subprog_starts`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{CallTarget, Imm64, Insn};

use super::lower::{Expansion, Lowered, Out};
use super::{RewriteError, Target};
use crate::verified::{Buffers, InsnFacts, Subprog, Xlated};

/// Gives every instruction its slot.
pub(super) fn place(lowered: Lowered, subprogs: &[Subprog], used_maps: Vec<u32>) -> Result<Xlated, RewriteError> {
    let Lowered { code, stack, mut pokes } = lowered;
    let positions = Positions::of(&code);
    let mut xlated = Xlated {
        insns: Vec::with_capacity(positions.end),
        facts: Vec::with_capacity(positions.end),
        subprogs: Vec::new(),
        used_maps,
        pokes: Vec::new(),
        source: Vec::with_capacity(positions.end),
        buffers: Buffers::default(),
    };
    for expansion in &code {
        for out in expansion.prologue.iter().chain(&expansion.body) {
            emit(&mut xlated, &positions, expansion.at, out)?;
        }
    }
    for poke in &mut pokes {
        poke.insn = positions.slot(positions.jump(poke.insn))?;
    }
    xlated.pokes = pokes;
    for (subprog, stack_depth) in subprogs.iter().zip(stack) {
        let (start, end) = (positions.entry(subprog.start), positions.entry(subprog.end));
        // A subprogram that is never called is gone with its code.
        if start < end {
            let (start, end) = (positions.slot(start)?, positions.slot(end)?);
            xlated.subprogs.push(Subprog { start, end, stack_depth, ..subprog.clone() });
        }
    }
    Ok(xlated)
}

/// Where the expansions begin, in order of their original slots.
struct Positions {
    /// Original slot, slot of its prologue, slot of its body.
    starts: Vec<(u32, usize, usize)>,
    end: usize,
}

impl Positions {
    fn of(code: &[Expansion]) -> Self {
        let slots = |outs: &[Out]| outs.iter().map(|out| out.insn.slots()).sum::<usize>();
        let mut starts = Vec::with_capacity(code.len());
        let mut end = 0;
        for expansion in code {
            let body = end + slots(&expansion.prologue);
            starts.push((expansion.at, end, body));
            end = body + slots(&expansion.body);
        }
        Self { starts, end }
    }

    /// The first expansion that is not before `at`.
    fn find(&self, at: u32) -> Option<&(u32, usize, usize)> {
        self.starts.get(self.starts.partition_point(|(original, ..)| *original < at))
    }

    fn entry(&self, at: u32) -> usize {
        self.find(at).map_or(self.end, |(_, entry, _)| *entry)
    }

    fn jump(&self, at: u32) -> usize {
        self.find(at).map_or(self.end, |(_, _, body)| *body)
    }

    fn slot(&self, position: usize) -> Result<u32, RewriteError> {
        u32::try_from(position).map_err(|_| RewriteError::Internal { insn: u32::MAX, what: "the program is too long" })
    }
}

fn emit(xlated: &mut Xlated, positions: &Positions, at: u32, out: &Out) -> Result<(), RewriteError> {
    let insn = match out.target {
        Some(target) => aim(out.insn, distance(xlated.insns.len(), positions, at, target)?, at)?,
        None => out.insn,
    };
    let (first, second) = insn.encode();
    xlated.insns.push(first);
    xlated.facts.push(out.facts);
    xlated.source.push(at);
    if let Some(second) = second {
        xlated.insns.push(second);
        xlated.facts.push(InsnFacts::default());
        xlated.source.push(at.saturating_add(1));
    }
    Ok(())
}

/// Slots from the one after `from` to the target.
fn distance(from: usize, positions: &Positions, at: u32, target: Target) -> Result<i32, RewriteError> {
    let to = match target {
        Target::Jump(slot) => positions.jump(slot),
        Target::Entry(slot) => positions.entry(slot),
    };
    if to >= positions.end {
        return Err(RewriteError::Internal { insn: at, what: "a jump leads past the end" });
    }
    let (from, to) = (positions.slot(from)?, positions.slot(to)?);
    i32::try_from(i64::from(to) - i64::from(from) - 1).map_err(|_| RewriteError::JumpTooFar { insn: at })
}

/// The same instruction with another distance.
fn aim(insn: Insn, distance: i32, at: u32) -> Result<Insn, RewriteError> {
    let short = || i16::try_from(distance).map_err(|_| RewriteError::JumpTooFar { insn: at });
    Ok(match insn {
        Insn::Ja { long, .. } => Insn::Ja { off: distance, long: long || i16::try_from(distance).is_err() },
        Insn::Jcond { width, op, dst, src, .. } => Insn::Jcond { width, op, dst, src, off: short()? },
        Insn::MayGoto { .. } => Insn::MayGoto { off: short()? },
        Insn::Call { target: CallTarget::Subprog(_) } => Insn::Call { target: CallTarget::Subprog(distance) },
        Insn::LdImm64 { dst, imm: Imm64::Func(_) } => Insn::LdImm64 { dst, imm: Imm64::Func(distance) },
        _ => return Err(RewriteError::Internal { insn: at, what: "an instruction without a target has one" }),
    })
}
