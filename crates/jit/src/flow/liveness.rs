//! Which registers are read later, and the removal of instructions whose results are not.
//!
//! Owns `live_out` of every slot. One backward sweep when nothing jumps back; with loops, sweeps until nothing changes,
//! starting from "nothing is live", which is the least solution. Invariant: removal happens only after that. Kernel
//! counterpart: `compute_live_registers`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Insn;

use super::decode::target;
use super::effect::{Effect, RegSet, effect};
use super::{Flow, Op};

/// Sweeps before giving up on precision; nesting deeper than this is unheard of.
const MAX_SWEEPS: usize = 16;

/// Computes liveness; with `remove`, drops dead pure ops.
pub(super) fn compute(flow: &mut Flow, remove: bool) {
    let mut live_in = vec![RegSet::EMPTY; flow.ops.len() + 1];
    let backward = flow.slots.iter().any(|slot| slot.loop_head);
    let effects: Vec<Effect> = flow.ops.iter().map(effect).collect();
    let mut sweeps = 0;
    loop {
        let changed = sweep(flow, &effects, &mut live_in, remove);
        sweeps += 1;
        if !changed || !backward {
            break;
        }
        if sweeps == MAX_SWEEPS {
            for slot in &mut flow.slots {
                slot.live_out = RegSet(0xfff);
                slot.live_in = RegSet(0xfff);
            }
            return;
        }
    }
    if remove {
        for ((op, slot), effect) in flow.ops.iter_mut().zip(&flow.slots).zip(&effects) {
            if is_dead(effect, slot.live_out) {
                *op = Op::Nop;
            }
        }
    }
}

fn is_dead(effect: &Effect, live_out: RegSet) -> bool {
    effect.pure && (effect.writes & live_out).is_empty()
}

/// One backward pass; whether a loop head's liveness changed. Dead pure ops count as gone, so chains die in one pass.
fn sweep(flow: &mut Flow, effects: &[Effect], live_in: &mut [RegSet], remove: bool) -> bool {
    let mut changed = false;
    for at in (0..flow.ops.len()).rev() {
        let after = live_in.get(at + 1).copied().unwrap_or_default();
        let op = flow.op(at);
        let jump = |insn: &Insn| target(insn, at).and_then(|t| live_in.get(t)).copied().unwrap_or_default();
        let out = match op {
            Op::Insn(Insn::Exit) => RegSet::EMPTY,
            Op::Insn(ref insn @ Insn::Ja { .. }) => jump(insn),
            Op::Insn(ref insn @ (Insn::Jcond { .. } | Insn::MayGoto { .. })) => after | jump(insn),
            _ => after,
        };
        let (Some(slot), Some(effect)) = (flow.slots.get_mut(at), effects.get(at)) else { continue };
        slot.live_out = out;
        let before = if remove && is_dead(effect, out) { out } else { (out & !effect.writes) | effect.reads };
        slot.live_in = before;
        let loop_head = slot.loop_head;
        if let Some(place) = live_in.get_mut(at) {
            changed |= loop_head && *place != before;
            *place = before;
        }
    }
    changed
}
