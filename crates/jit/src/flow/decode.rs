//! Slots to ops: decoding, jump targets, and the calls that are inlined.
//!
//! Owns the checks that later passes rely on: every jump of the result lands on an instruction of the same subprogram, every
//! call on the start of a subprogram. Kernel counterpart: `check_subprogs`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{CallTarget, Imm64, Insn, decode_xlated};
use skep_verifier::{InsnFacts, MapArg, MemKind, Xlated};

use super::{Flow, Key, Op, SlotInfo, SubFlow};
use crate::error::JitError;
use crate::layout::{Layout, MapAccess, Role};

/// `bpf_map_lookup_elem`.
const MAP_LOOKUP_ELEM: i32 = 1;
/// `bpf_get_smp_processor_id`.
const GET_SMP_PROCESSOR_ID: i32 = 8;

/// Decodes the whole program.
pub(super) fn decode(xlated: &Xlated, layout: &Layout) -> Result<Flow, JitError> {
    let count = xlated.insns.len();
    if count >= 1 << 24 || xlated.facts.len() < count {
        return Err(JitError::Internal("facts do not match the program"));
    }
    let mut flow = Flow {
        ops: vec![Op::Nop; count],
        slots: vec![SlotInfo::default(); count],
        subs: xlated.subprogs.iter().map(|sub| SubFlow::new(sub, layout.role)).collect(),
        needs_cpu: false,
        is_extension: layout.role == Role::Extension,
        arena: layout.maps.iter().find_map(|map| match map.access {
            MapAccess::Arena { base, .. } => Some(base),
            _ => None,
        }),
    };
    check_subprogs(&flow.subs, count)?;
    let nothing = InsnFacts::default();
    let mut wide = vec![false; count];
    for sub in 0..flow.subs.len() {
        let Some(&SubFlow { start, end, .. }) = flow.subs.get(sub) else { continue };
        let mut at = start;
        while at < end {
            let slot = slot_number(at);
            let insn = decode_xlated(&xlated.insns, at).map_err(|source| JitError::Decode { slot, source })?;
            let facts = xlated.facts.get(at).unwrap_or(&nothing);
            let op = lower(insn, facts, layout);
            if let Some(place) = flow.ops.get_mut(at) {
                *place = op;
            }
            if let Some(info) = flow.slots.get_mut(at) {
                info.divisor_nonzero = facts.divisor_nonzero;
                info.divisor_not_minus_one = facts.divisor_not_minus_one;
            }
            if let Some(target) = target(&insn, at) {
                mark_target(&mut flow, target, at, start, end)?;
            }
            if let Insn::LdImm64 { imm: Imm64::Func(off), .. } = insn {
                check_start(&flow, at, off)?;
            }
            if let Insn::Call { target: CallTarget::Subprog(off) } = insn {
                check_start(&flow, at, off)?;
            }
            if insn.slots() == 2
                && let Some(second) = wide.get_mut(at + 1)
            {
                *second = true;
            }
            at += insn.slots();
        }
        check_end(&flow, start, end)?;
        if let Some(first) = flow.slots.get_mut(start) {
            first.leader = true;
        }
    }
    for (at, (slot, second)) in flow.slots.iter().zip(&wide).enumerate() {
        if slot.leader && *second {
            return Err(JitError::Jump { slot: slot_number(at) });
        }
    }
    Ok(flow)
}

/// The slot that a jump at `at` goes to; `None` for what is no jump, and for jumps before the program.
pub(crate) fn target(insn: &Insn, at: usize) -> Option<usize> {
    match *insn {
        Insn::Ja { off, .. } => Some(resolve(at, off)),
        Insn::Jcond { off, .. } | Insn::MayGoto { off } => Some(resolve(at, i32::from(off))),
        _ => None,
    }
}

/// Slot `off` after the one that follows `at`; out of range becomes a slot that no program has.
pub(crate) fn resolve(at: usize, off: i32) -> usize {
    let next = i64::try_from(at).unwrap_or(i64::MAX / 2) + 1;
    usize::try_from(next + i64::from(off)).unwrap_or(usize::MAX)
}

fn check_subprogs(subs: &[SubFlow], count: usize) -> Result<(), JitError> {
    let mut at = 0;
    for sub in subs {
        if sub.start != at || sub.end <= sub.start {
            return Err(JitError::Internal("subprograms do not cover the program in order"));
        }
        at = sub.end;
    }
    if at != count || count == 0 {
        return Err(JitError::Internal("subprograms do not cover the program in order"));
    }
    Ok(())
}

fn check_start(flow: &Flow, at: usize, off: i32) -> Result<(), JitError> {
    match flow.sub_at(resolve(at, off)) {
        Some(_) => Ok(()),
        None => Err(JitError::Jump { slot: slot_number(at) }),
    }
}

/// The last instruction of a subprogram must not fall through.
fn check_end(flow: &Flow, start: usize, end: usize) -> Result<(), JitError> {
    let last = (start..end).rev().map(|at| flow.op(at)).find(|op| *op != Op::Nop);
    match last {
        Some(Op::Insn(Insn::Exit | Insn::Ja { .. })) => Ok(()),
        _ => Err(JitError::Jump { slot: slot_number(end - 1) }),
    }
}

fn mark_target(flow: &mut Flow, target: usize, at: usize, start: usize, end: usize) -> Result<(), JitError> {
    if !(start..end).contains(&target) {
        return Err(JitError::Jump { slot: slot_number(at) });
    }
    if let Some(slot) = flow.slots.get_mut(target) {
        slot.leader = true;
        slot.loop_head |= target <= at;
    }
    Ok(())
}

/// Chooses the op: calls whose code is known are inlined.
fn lower(insn: Insn, facts: &InsnFacts, layout: &Layout) -> Op {
    if facts.mem == MemKind::Arena {
        return Op::Arena(insn);
    }
    match insn {
        Insn::Call { target: CallTarget::Helper(GET_SMP_PROCESSOR_ID) } => Op::CpuId,
        Insn::Call { target: CallTarget::Helper(MAP_LOOKUP_ELEM) } => {
            let MapArg::Known(map) = facts.helper_map else { return Op::Insn(insn) };
            let access = layout.maps.get(map as usize).map(|map| map.access);
            match access {
                Some(access @ (MapAccess::Array { .. } | MapAccess::PerCpuArray { .. })) => {
                    let percpu = matches!(access, MapAccess::PerCpuArray { .. });
                    let key = facts.const_key.get().and_then(|key| u32::try_from(key).ok());
                    Op::Lookup { map, percpu, key: key.map_or(Key::Pointer, Key::Const) }
                }
                Some(MapAccess::Hash { .. }) => Op::LookupCall { map },
                _ => Op::Insn(insn),
            }
        }
        Insn::TailCall { imm } => {
            let map = u32::from(imm.map());
            let known = !imm.is_unknown()
                && matches!(layout.maps.get(map as usize).map(|map| map.access), Some(MapAccess::ProgArray { .. }));
            Op::TailCall { map: known.then_some(map), poke: imm.poke().filter(|_| known) }
        }
        other => Op::Insn(other),
    }
}

pub(crate) fn slot_number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
