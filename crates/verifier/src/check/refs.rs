//! References and locks that a path must give back.
//!
//! Owns acquisition and release. Invariant: every register that carries a `ref_obj_id` carries one that is outstanding.
//! Kernel counterpart: `acquire_reference`, `release_reference`, `check_resource_leak`, kernel/bpf/verifier.c, 6.18.

use crate::env::{Check, Env, log, reject};
use crate::spec::FieldKind;
use crate::state::frame::{RefKind, Reference};
use crate::state::reg::{Base, Extra, Reg, flags};

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

    /// `bpf_spin_lock` and `bpf_spin_unlock` on the lock that register `n` points to.
    pub(crate) fn process_spin_lock(&mut self, n: u8, lock: bool) -> Check {
        let reg = *self.reg(n);
        let name = if lock { "bpf_spin_lock" } else { "bpf_spin_unlock" };
        let Some(var) = reg.bounds.const_value() else {
            let text = "doesn't have constant offset. bpf_spin_lock has to be at the constant offset";
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        if reg.base() != Base::MapValue {
            return Err(crate::env::unsupported!(self, "{name} of an allocated object is not supported"));
        }
        let Some(shape) = self.map_of(&reg) else { return Err(crate::env::internal!(self, "R{n} without map")) };
        let Some(field) = shape.field(FieldKind::SpinLock) else {
            if shape.btf_value_type_id == 0 {
                let map = &shape.name;
                return Err(reject!(self, EINVAL, "map '{map}' has to have BTF in order to use bpf_spin_lock"));
            }
            return Err(reject!(self, EINVAL, "map '{}' has no valid bpf_spin_lock", shape.name));
        };
        let at = i64::from(reg.off).wrapping_add(var.cast_signed());
        if at != i64::from(field.offset) {
            let want = field.offset;
            return Err(reject!(self, EINVAL, "off {at} doesn't point to 'struct bpf_spin_lock' that is at {want}"));
        }
        let insn = self.insn;
        if lock {
            if self.cur.res.locks > 0 {
                return Err(reject!(self, EINVAL, "Locking two bpf_spin_locks are not allowed"));
            }
            let res = self.cur.res_mut();
            res.locks += 1;
            res.refs.push(Reference { kind: RefKind::Lock { object: reg.extra }, id: reg.id, insn });
            return Ok(());
        }
        let held = self.cur.res.refs.iter().rposition(|r| matches!(r.kind, RefKind::Lock { .. }));
        let Some(held) = held else {
            return Err(reject!(self, EINVAL, "bpf_spin_unlock without taking a lock"));
        };
        let taken = self.cur.res.refs[held];
        if taken.id != reg.id || taken.kind != (RefKind::Lock { object: reg.extra }) {
            return Err(reject!(self, EINVAL, "bpf_spin_unlock of different lock"));
        }
        let res = self.cur.res_mut();
        res.refs.remove(held);
        res.locks -= 1;
        self.invalidate_non_owning();
        Ok(())
    }

    fn invalidate_non_owning(&mut self) {
        self.cur.for_each_reg(|r| r.is_pointer() && r.ty.has(flags::NON_OWN), |r| *r = Reg::UNKNOWN);
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
