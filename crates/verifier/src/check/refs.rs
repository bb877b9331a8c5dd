//! References and locks that a path must give back.
//!
//! Owns acquisition and release. Invariant: every register that carries a `ref_obj_id` carries one that is outstanding.
//! Kernel counterpart: `acquire_reference`, `release_reference`, `check_resource_leak`, kernel/bpf/verifier.c, 6.18.

use crate::env::{Check, Env, log, reject};
use crate::state::frame::{RefKind, Reference};
use crate::state::reg::{Extra, Reg};

impl Env<'_> {
    /// Takes a reference at the current instruction.
    pub(crate) fn acquire_reference(&mut self) -> u32 {
        let id = self.new_id();
        let insn = self.insn;
        self.cur.res_mut().refs.push(Reference { kind: RefKind::Ptr, id, insn });
        id
    }

    /// Gives a reference back; every register that carried it can no longer be read. False if it was not outstanding.
    pub(crate) fn release_reference(&mut self, id: u32) -> bool {
        if !self.cur.res.holds(id) {
            return false;
        }
        self.cur.res_mut().refs.retain(|r| r.id != id || r.kind != RefKind::Ptr);
        let dead = if self.caps.perfmon { Reg::UNKNOWN } else { Reg::NOT_INIT };
        self.cur.for_each_reg(|r| r.is_pointer() && r.ref_obj_id == id, |r| *r = dead);
        // The kernel lets programs use slices on, and write what others have got meanwhile.
        self.cur.lose_slices_of(id);
        true
    }

    /// Nothing may be held here: `what` would lose it.
    pub(crate) fn check_resource_leak(&mut self, exception: bool, locks: bool, what: &str) -> Check {
        if locks && self.cur.res.locks > 0 {
            return Err(reject!(self, EINVAL, "{what} cannot be used inside bpf_spin_lock-ed region"));
        }
        let innermost = self.cur.depth() == 0 || exception;
        if innermost {
            let mut leak = false;
            for r in self.cur.res.refs.clone() {
                if r.kind == RefKind::Ptr {
                    log!(self, "Unreleased reference id={} alloc_insn={}\n", r.id, r.insn);
                    leak = true;
                }
            }
            if leak {
                return Err(reject!(self, EINVAL, "{what} would lead to reference leak"));
            }
        }
        if !locks {
            return Ok(());
        }
        let res = &self.cur.res;
        let section = if res.irq != 0 {
            "bpf_local_irq_save"
        } else if res.rcu > 0 {
            "bpf_rcu_read_lock"
        } else if res.preempt > 0 {
            "bpf_preempt_disable"
        } else {
            return Ok(());
        };
        Err(reject!(self, EINVAL, "{what} cannot be used inside {section}-ed region"))
    }

    /// Identity of the map behind a register, with which inner map it is.
    pub(crate) fn same_map(a: &Reg, b: &Reg) -> bool {
        match (a.extra, b.extra) {
            (Extra::Map { map: m, inner: i, uid: u }, Extra::Map { map: n, inner: j, uid: v }) => {
                m == n && i == j && u == v
            }
            _ => false,
        }
    }
}
