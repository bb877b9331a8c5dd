//! Poked tail calls: machine code whose jumps follow the slots of prog arrays.
//!
//! A poked tail call has two sites. The *target* site holds the last jump, to the callee; the *gate* site is a no-op
//! while the slot is empty and otherwise a jump to the stub that unwinds and goes through the target. A filled slot first
//! gets its target, then its gate; an emptied one closes its gate and leaves the target stale, for runs that are past the
//! gate: the callee stays until a grace period after it left the slot. Invariant: after a change of a slot has returned,
//! its sites are a function of the slot. Kernel counterpart: `prog_array_map_poke_run`, kernel/bpf/arraymap.c, 6.18.

use std::collections::BTreeMap;

use skep_jit::{Image, SiteKind};
use skep_runtime::inject::{Mistake, made};
use skep_runtime::map::prog_array::SlotWatcher;
use skep_text::{CodeAddr, InstalledCode, SiteBytes, SiteId};
use skep_verifier::Poke;

/// The two sites of a poked tail call, and the stub between them.
#[derive(Clone, Copy)]
struct Sites {
    gate: SiteId,
    stub: CodeAddr,
    target: SiteId,
}

/// The poked tail calls of one program through one array.
pub(crate) struct PokeWatcher {
    code: InstalledCode,
    by_key: BTreeMap<u32, Vec<Sites>>,
}

impl PokeWatcher {
    /// The watchers of a program, each with the used map whose slots it follows.
    pub(crate) fn of(code: &InstalledCode, image: &Image, pokes: &[Poke]) -> Vec<(u32, Self)> {
        let mut targets = BTreeMap::new();
        let mut gates = BTreeMap::new();
        for (site, id) in image.sites.iter().zip(code.sites()) {
            match site.kind {
                SiteKind::PokeTarget { index } => drop(targets.insert(index, id)),
                SiteKind::PokeGate { index, stub } => {
                    gates.entry(index).or_insert_with(Vec::new).push((id, code.addr(stub)));
                }
                SiteKind::Stats { .. } | SiteKind::Function { .. } => {}
            }
        }
        let mut by_map: BTreeMap<u32, BTreeMap<u32, Vec<Sites>>> = BTreeMap::new();
        for (index, poke) in (0u16..).zip(pokes) {
            let Some(&target) = targets.get(&index) else { continue };
            for &(gate, stub) in gates.get(&index).into_iter().flatten() {
                let keys = by_map.entry(poke.map).or_default();
                keys.entry(poke.key).or_default().push(Sites { gate, stub, target });
            }
        }
        by_map.into_iter().map(|(map, by_key)| (map, Self { code: code.clone(), by_key })).collect()
    }
}

impl SlotWatcher for PokeWatcher {
    fn slot_changed(&self, key: u32, target: u64) {
        let Some(sites) = self.by_key.get(&key) else { return };
        let arena = self.code.arena();
        let poke = |changes: &[(SiteId, SiteBytes)]| {
            // SAFETY: a gate jumps to its own stub, which runs with the registers of the gate; a target jumps to the
            // entry that the callee's program published for tail calls, which the array keeps for as long as its slot
            // has it and a grace period longer.
            let poked = unsafe { arena.poke(changes) };
            if let Err(error) = poked {
                // The slot's word is right; these calls take the old way until the next change.
                eprintln!("skep: a tail call could not be patched: {error}");
            }
        };
        let sites = if made(Mistake::OneSiteLess) { &sites[..sites.len() - 1] } else { &sites[..] };
        if target == 0 {
            let gates: Vec<_> = sites.iter().map(|s| (s.gate, SiteBytes::Nop)).collect();
            return poke(&gates);
        }
        let targets: Vec<_> = sites.iter().map(|s| (s.target, SiteBytes::Jump(CodeAddr(target)))).collect();
        let gates: Vec<_> = sites.iter().map(|s| (s.gate, SiteBytes::Jump(s.stub))).collect();
        if made(Mistake::GateFirst) {
            poke(&gates);
        }
        poke(&targets);
        poke(&gates);
    }
}
