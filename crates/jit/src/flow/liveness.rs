//! Which registers are read later, and the removal of instructions whose results are not.
//!
//! Owns `live_out` of every slot. One backward sweep when nothing jumps back; with loops, sweeps until nothing changes,
//! starting from "nothing is live", which is the least solution. Invariant: removal happens only after that. Kernel
//! counterpart: `compute_live_registers`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{Insn, Reg};

use super::decode::{slot_number, target};
use super::effect::{Effect, RegSet, effect};
use super::{Flow, Op};
use crate::error::JitError;

/// Sweeps before giving up on precision; nesting deeper than this is unheard of.
const MAX_SWEEPS: usize = 16;

/// Computes liveness; with `remove`, drops dead pure ops. Then fills in what subprograms use.
pub(super) fn compute(flow: &mut Flow, remove: bool) -> Result<(), JitError> {
    let mut live_in = vec![RegSet::EMPTY; flow.ops.len() + 1];
    let backward = flow.slots.iter().any(|slot| slot.loop_head);
    let effects: Vec<Effect> = flow.ops.iter().map(effect).collect();
    let mut sweeps = 0;
    while sweep(flow, &effects, &mut live_in, remove) && backward {
        sweeps += 1;
        if sweeps == MAX_SWEEPS {
            for slot in &mut flow.slots {
                slot.live_out = RegSet(0xfff);
                slot.live_in = RegSet(0xfff);
            }
            break;
        }
    }
    summarize(flow, &effects, remove)
}

/// Removes the dead, and adds up the effects of the others.
fn summarize(flow: &mut Flow, effects: &[Effect], remove: bool) -> Result<(), JitError> {
    let Flow { ops, slots, subs, needs_cpu, .. } = flow;
    for (number, sub) in subs.iter_mut().enumerate() {
        for at in sub.start..sub.end {
            let (Some(op), Some(slot), Some(effect)) = (ops.get_mut(at), slots.get(at), effects.get(at)) else { break };
            if remove && is_dead(*effect, slot.live_out) {
                *op = Op::Nop;
                continue;
            }
            if effect.writes().has(Reg::R10) {
                return Err(JitError::Unsupported { slot: slot_number(at), what: "a write to the frame pointer" });
            }
            sub.used = sub.used | effect.mentions();
            sub.has_calls |= effect.calls();
            sub.needs_cpu |= effect.needs_cpu();
            sub.has_division |= effect.is_division();
            sub.has_arena |= matches!(op, Op::Arena(_) | Op::Insn(Insn::AddrSpaceCast { .. }));
        }
        // What takes the place of a subprogram finds the vCPU's base where the subprogram would.
        *needs_cpu |= sub.needs_cpu || (number > 0 && sub.replaceable);
    }
    Ok(())
}

fn is_dead(effect: Effect, live_out: RegSet) -> bool {
    effect.is_pure() && (effect.writes() & live_out).is_empty()
}

/// One backward pass; whether a loop head's liveness changed. Dead pure ops count as gone, so chains die in one pass.
fn sweep(flow: &mut Flow, effects: &[Effect], live_in: &mut [RegSet], remove: bool) -> bool {
    let mut changed = false;
    let mut after = RegSet::EMPTY;
    let ops = flow.ops.iter().zip(&mut flow.slots).zip(effects).enumerate().rev();
    for (at, ((op, slot), effect)) in ops {
        let jump = |insn: &Insn| target(insn, at).and_then(|t| live_in.get(t)).copied().unwrap_or_default();
        let out = match op {
            Op::Insn(Insn::Exit) => RegSet::EMPTY,
            Op::Insn(insn @ Insn::Ja { .. }) => jump(insn),
            Op::Insn(insn @ (Insn::Jcond { .. } | Insn::MayGoto { .. })) => after | jump(insn),
            _ => after,
        };
        slot.live_out = out;
        let before = if remove && is_dead(*effect, out) { out } else { (out & !effect.writes()) | effect.reads() };
        slot.live_in = before;
        after = before;
        if slot.leader
            && let Some(place) = live_in.get_mut(at)
        {
            changed |= slot.loop_head && *place != before;
            *place = before;
        }
    }
    changed
}
