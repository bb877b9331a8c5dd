//! Code that no path reaches, and saves of registers that nothing clobbers.
//!
//! Invariant: what is removed was never executed on any path of the verification, or leaves registers as they are and is all
//! that uses its place on the stack. Kernel counterpart: `opt_hard_wire_dead_code_branches`, `opt_remove_dead_code`,
//! `opt_remove_nops`, `remove_fastcall_spills_fills`, kernel/bpf/verifier.c, 6.18.

use std::collections::HashSet;

use skep_abi::{Imm64, Insn};

use super::{Item, Target};

/// Fixes the branches with one dead side, then removes dead instructions, needless saves and jumps to the next one.
pub(super) fn remove(items: &mut Vec<Item>) {
    fix_branches(items);
    drop_dead_callbacks(items);
    items.retain(|item| item.facts.reachable && !item.facts.is_save);
    let nexts: Vec<Option<u32>> = items.iter().skip(1).map(|item| Some(item.at)).chain([None]).collect();
    let mut nexts = nexts.into_iter();
    items.retain(|item| {
        let next = nexts.next().flatten();
        let jumps_to_next = matches!(item.target, Some(Target::Jump(to)) if Some(to) == next);
        !(jumps_to_next && matches!(item.insn, Insn::Ja { .. } | Insn::MayGoto { .. }))
    });
}

/// A callback that no path enters (`bpf_loop` of no rounds) is gone, and its address is null: nothing will call it.
fn drop_dead_callbacks(items: &mut [Item]) {
    let live: HashSet<u32> = items.iter().filter(|item| item.facts.reachable).map(|item| item.at).collect();
    for item in items {
        if let (Insn::LdImm64 { dst, imm: Imm64::Func(_) }, Some(Target::Entry(to))) = (item.insn, item.target)
            && !live.contains(&to)
        {
            item.insn = Insn::LdImm64 { dst, imm: Imm64::Const(0) };
            item.target = None;
        }
    }
}

/// A conditional jump with a dead side becomes a plain jump to the other.
fn fix_branches(items: &mut [Item]) {
    let live: HashSet<u32> = items.iter().filter(|item| item.facts.reachable).map(|item| item.at).collect();
    let mut next_live = None;
    for item in items.iter_mut().rev() {
        let next = item.at + 1;
        let here = item.facts.reachable.then_some(item.at);
        if let (Insn::Jcond { off, .. } | Insn::MayGoto { off }, Some(Target::Jump(to)), true) =
            (item.insn, item.target, item.facts.reachable)
        {
            let plain = Insn::Ja { off: i32::from(off), long: false };
            if !live.contains(&next) {
                item.insn = plain;
            } else if !live.contains(&to) {
                (item.insn, item.target) = (plain, next_live.map(Target::Jump));
            }
        }
        next_live = here.or(next_live);
    }
}
