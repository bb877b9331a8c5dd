//! The conditional jumps of the failing path: which way each went, and which was passed most.
//!
//! Invariant: nothing is said of a jump that can go one way only.

use skep_abi::{Insn, Operand};

use super::describe::condition;
use super::slice::{Found, Role};
use super::trace::Trace;
use crate::env::Env;

/// What holds after the conditional jump at `at` when the path goes on at `next`; nothing for a jump that goes one way only.
pub(super) fn decision(env: &Env<'_>, at: u32, next: u32) -> Option<String> {
    let Insn::Jcond { op, dst, src, off, .. } = env.insn_at(at)? else { return None };
    if env.aux.get(at as usize)?.branch_seen != 3 {
        return None;
    }
    let taken = next == Env::relative(at, i32::from(off));
    let right = match src {
        Operand::Imm(v) => v.to_string(),
        Operand::Reg(r) => format!("r{}", r.number()),
    };
    Some(format!("r{} {} {right} on this path", dst.number(), condition(op, taken)))
}

/// The branches of the path that might have gone the other way, oldest first, from step `from` on.
pub(super) fn decisions(env: &Env<'_>, trace: &Trace, from: usize) -> Vec<Found> {
    const SHOWN: usize = 8;
    let steps = trace.steps();
    let mut found: Vec<Found> = Vec::new();
    for (step, next) in steps.iter().zip(steps.iter().skip(1)).skip(from) {
        let Some(what) = decision(env, step.insn, next.insn) else { continue };
        if let Some(seen) = found.iter_mut().find(|f| f.insn == step.insn) {
            seen.times += 1;
            seen.what = what;
        } else {
            found.push(Found::new(step.insn, Role::Branch, what));
        }
    }
    let cut = found.len().saturating_sub(SHOWN);
    found.drain(..cut);
    found
}

/// The conditional jump that the path passes most: the step where it does so last but one, and how often.
pub(super) fn hottest_condition(env: &Env<'_>, trace: &Trace) -> Option<(usize, usize)> {
    let mut seen: Vec<(usize, usize)> = vec![(0, 0); env.spec.insns.len()];
    let steps = trace.steps();
    for (index, step) in steps.iter().enumerate().take(steps.len().saturating_sub(1)) {
        if let (Some(Insn::Jcond { .. }), Some(seen)) = (env.insn_at(step.insn), seen.get_mut(step.insn as usize)) {
            *seen = (index, seen.1 + 1);
        }
    }
    seen.into_iter().filter(|&(_, count)| count > 1).max_by_key(|&(_, count)| count)
}
