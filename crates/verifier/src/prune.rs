//! When a path need not be walked: its state is covered by one whose paths are all known to be safe.
//!
//! Owns the comparison of states. Invariant: if a new state is within an old one, every value that the new path can have was
//! covered by the walk from the old one, as far as anything there depended on it. Kernel counterpart: `states_equal`,
//! `regsafe`, `stacksafe`, kernel/bpf/verifier.c, 6.18.

use crate::env::Env;
use crate::mutant::{self, Mutant};
use crate::state::frame::{Frame, RefKind, State};
use crate::state::reg::{Base, Extra, IterState, Reg};
use crate::state::stack::{ByteKind, SLOT, Slot};

/// How alike two states must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exactness {
    /// Imprecise scalars do not matter.
    NotExact,
    /// As [`Exactness::NotExact`], with every scalar the same: what is added to pointers is masked by what each path knows.
    SameScalars,
    /// Every scalar within the old one's range.
    RangeWithin,
    /// The same up to renaming of ids.
    Exact,
}

impl Exactness {
    fn may_leave_out(self) -> bool {
        matches!(self, Self::NotExact | Self::SameScalars)
    }
}

/// Renaming of the old state's ids to the new one's.
#[derive(Debug, Default)]
pub(crate) struct IdMap {
    pairs: Vec<(u32, u32)>,
    temporary: u32,
}

impl IdMap {
    fn check(&mut self, old: u32, new: u32) -> bool {
        if (old != 0) != (new != 0) {
            return false;
        }
        if old == 0 {
            return true;
        }
        for &(o, n) in &self.pairs {
            if o == old {
                return n == new;
            }
            if n == new {
                return false;
            }
        }
        self.pairs.push((old, new));
        true
    }

    /// Scalars without id count as linked to nothing.
    fn check_scalar(&mut self, old: u32, new: u32) -> bool {
        if mutant::active(Mutant::IdlessPruning) {
            return true;
        }
        let mut named = |id: u32| {
            if id != 0 {
                return id;
            }
            self.temporary += 1;
            // Ids are counted up from 1, temporary ones down from the top.
            u32::MAX - self.temporary
        };
        let (old, new) = (named(old), named(new));
        self.check(old, new)
    }
}

fn same_but_bounds(old: &Reg, new: &Reg) -> bool {
    old.ty == new.ty && old.off == new.off && old.extra == new.extra && old.dynptr_id == new.dynptr_id
}

/// Whether two registers are the same up to renaming of ids.
pub(crate) fn same_regs(old: &Reg, new: &Reg, ids: &mut IdMap) -> bool {
    same_but_bounds(old, new)
        && old.bounds == new.bounds
        && ids.check(old.id, new.id)
        && ids.check(old.ref_obj_id, new.ref_obj_id)
}

/// The scalar that an eight-byte load from the slot gives, where that is one.
fn scalar_in(slot: &Slot, uninit_ok: bool) -> Option<Reg> {
    if slot.is_spilled_scalar64() {
        return Some(slot.reg);
    }
    let misc = |b: &ByteKind| *b == ByteKind::Misc || (*b == ByteKind::Invalid && uninit_ok);
    slot.bytes.iter().all(misc).then_some(Reg::UNKNOWN)
}

/// Whether a path from `old` that was safe is safe with `new` in its place.
fn reg_safe(old: &Reg, new: &Reg, ids: &mut IdMap, exact: Exactness) -> bool {
    if exact == Exactness::Exact {
        return same_regs(old, new, ids);
    }
    if old.base() == Base::NotInit && (exact.may_leave_out() || new.base() == Base::NotInit) {
        return true;
    }
    if old.ty != new.ty {
        return false;
    }
    match old.base() {
        Base::Scalar if exact == Exactness::SameScalars => {
            same_but_bounds(old, new) && old.bounds == new.bounds && ids.check_scalar(old.id, new.id)
        }
        Base::Scalar => {
            if (!old.precise && exact == Exactness::NotExact) || mutant::active(Mutant::BlindPruning) {
                return true;
            }
            if (old.add_const, old.add_const32) != (new.add_const, new.add_const32)
                || (old.add_const && old.off != new.off)
            {
                return false;
            }
            ids.check_scalar(old.id, new.id) && new.bounds.within(&old.bounds)
        }
        Base::MapKey | Base::MapValue | Base::Mem | Base::Buf | Base::TpBuffer => {
            same_but_bounds(old, new)
                && new.bounds.within(&old.bounds)
                && ids.check(old.id, new.id)
                && ids.check(old.ref_obj_id, new.ref_obj_id)
        }
        Base::Packet | Base::PacketMeta => {
            let (o, n) = (old.range(), new.range());
            let shorter = mutant::active(Mutant::ShortPruning);
            let range_ok = if o < 0 || n < 0 { o == n } else { o <= n || shorter };
            range_ok && old.off == new.off && ids.check(old.id, new.id) && new.bounds.within(&old.bounds)
        }
        Base::Arena => true,
        _ => same_regs(old, new, ids),
    }
}

impl Env<'_> {
    /// Whether the state of the current path is covered by `old`.
    pub(crate) fn states_equal(&self, old: &State, new: &State, exact: Exactness) -> bool {
        if old.frames.len() != new.frames.len()
            || (old.speculative && !new.speculative)
            || old.sleepable != new.sleepable
        {
            return false;
        }
        let mut ids = IdMap::default();
        if !resources_equal(old, new, &mut ids) {
            return false;
        }
        old.frames.iter().zip(&new.frames).enumerate().all(|(i, (o, n))| {
            let live = self.aux.get(old.frame_insn(i) as usize).map_or(u16::MAX, |a| a.live_regs);
            o.callsite == n.callsite && self.frames_equal(o, n, live, &mut ids, exact)
        })
    }

    fn frames_equal(&self, old: &Frame, new: &Frame, live: u16, ids: &mut IdMap, exact: Exactness) -> bool {
        if old.callback_depth > new.callback_depth || old.subprog != new.subprog {
            return false;
        }
        for i in 0..old.regs.len() {
            if live & (1 << i) != 0 && !reg_safe(&old.regs[i], &new.regs[i], ids, exact) {
                return false;
            }
        }
        self.stack_safe(old, new, ids, exact)
    }

    fn stack_safe(&self, old: &Frame, new: &Frame, ids: &mut IdMap, exact: Exactness) -> bool {
        let uninit_ok = self.caps.perfmon;
        for (i, o) in old.stack.iter().enumerate() {
            let n = new.stack.get(i);
            if !exact.may_leave_out() && n.is_none_or(|n| n.bytes != o.bytes) {
                return false;
            }
            if !Self::slot_safe(o, n, ids, exact, uninit_ok) {
                return false;
            }
        }
        true
    }

    fn slot_safe(old: &Slot, new: Option<&Slot>, ids: &mut IdMap, exact: Exactness, uninit_ok: bool) -> bool {
        for j in 0..SLOT {
            let kind = old.bytes[j];
            if kind == ByteKind::Invalid || (uninit_ok && kind == ByteKind::Misc) {
                continue;
            }
            let Some(new) = new else { return false };
            if let (Some(o), Some(n)) = (scalar_in(old, uninit_ok), scalar_in(new, uninit_ok)) {
                return reg_safe(&o, &n, ids, exact);
            }
            if kind == ByteKind::Misc && new.bytes[j] == ByteKind::Zero {
                continue;
            }
            if kind != new.bytes[j] {
                return false;
            }
            if j != SLOT - 1 {
                continue;
            }
            let (o, n) = (&old.reg, &new.reg);
            let same = match kind {
                ByteKind::Spill => reg_safe(o, n, ids, exact),
                ByteKind::Dynptr => o.extra == n.extra && ids.check(o.ref_obj_id, n.ref_obj_id),
                ByteKind::Iter => {
                    let key = |r: &Reg| match r.extra {
                        Extra::Iter { kind, state, .. } => Some((kind, state)),
                        _ => None,
                    };
                    key(o) == key(n) && ids.check(o.ref_obj_id, n.ref_obj_id)
                }
                ByteKind::IrqFlag => o.extra == n.extra && ids.check(o.ref_obj_id, n.ref_obj_id),
                ByteKind::Misc | ByteKind::Zero | ByteKind::Invalid => true,
            };
            if !same {
                return false;
            }
        }
        true
    }
}

fn resources_equal(old: &State, new: &State, ids: &mut IdMap) -> bool {
    let (o, n) = (&old.res, &new.res);
    if o.refs.len() != n.refs.len()
        || o.locks != n.locks
        || o.preempt != n.preempt
        || o.rcu != n.rcu
        || !ids.check(o.irq, n.irq)
    {
        return false;
    }
    o.refs.iter().zip(&n.refs).all(|(a, b)| {
        let same_kind = match (a.kind, b.kind) {
            (RefKind::Lock { object: x }, RefKind::Lock { object: y }) => x == y,
            (x, y) => x == y,
        };
        same_kind && ids.check(a.id, b.id)
    })
}

/// Whether two states on one path could be a loop that never ends: registers the same to the last bit.
pub(crate) fn maybe_looping(old: &State, new: &State) -> bool {
    old.frames.len() == new.frames.len()
        && old
            .frame()
            .regs
            .iter()
            .zip(&new.frame().regs)
            .all(|(o, n)| same_but_bounds(o, n) && o.bounds == n.bounds && o.id == n.id && o.ref_obj_id == n.ref_obj_id)
}

/// Whether an active iterator stands at different depths, which is progress.
pub(crate) fn iter_depths_differ(old: &State, new: &State) -> bool {
    old.frames.iter().zip(&new.frames).any(|(o, n)| {
        o.stack.iter().zip(&n.stack).any(|(o, n)| match (o.bytes[SLOT - 1], o.reg.extra, n.reg.extra) {
            (ByteKind::Iter, Extra::Iter { depth: a, .. }, Extra::Iter { state: IterState::Active, depth: b, .. }) => {
                a != b
            }
            _ => false,
        })
    })
}
