//! Open-coded iterators.
//!
//! Owns the iterator's slots and its three calls. Invariant: an active iterator is a reference that `destroy` gives back; what
//! follows `next` has been walked with the iterator active and drained. Kernel counterpart: `process_iter_arg`,
//! `process_iter_next_call`, kernel/bpf/verifier.c, 6.18.

use crate::check::Access;
use crate::check::stack::place;
use crate::env::{Check, Env, reject};
use crate::state::reg::{Base, Extra, IterState, Reg, RegType};
use crate::state::stack::{ByteKind, SLOT, Slot};

/// A kind of iterator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IterKind {
    pub(crate) name: &'static str,
    /// 8-byte slots it takes.
    pub(crate) slots: usize,
    /// Bytes of an element that `next` gives.
    pub(crate) element: u32,
}

/// Iterators that this engine has, by index.
pub(crate) const KINDS: &[IterKind] = &[IterKind { name: "num", slots: 1, element: 4 }];

impl Env<'_> {
    /// Main slot of the iterator at argument `n`; `None` if the pointer cannot name one.
    fn iter_slot(&self, n: u8, slots: usize) -> Option<(usize, usize)> {
        let reg = self.reg(n);
        if reg.base() != Base::Stack {
            return None;
        }
        let off = i64::from(reg.off).checked_add(reg.bounds.const_value()?.cast_signed())?;
        if off % 8 != 0 || !(-512..0).contains(&off) {
            return None;
        }
        let slot = place(off).0;
        (slot + 1 >= slots).then_some((reg.frame(), slot))
    }

    fn check_iter_pointer(&mut self, n: u8) -> Check {
        let arg = n - 1;
        let reg = *self.reg(n);
        if reg.base() != Base::Stack {
            return Err(reject!(self, EINVAL, "arg#{arg} expected pointer to an iterator on stack"));
        }
        if !reg.bounds.is_const() {
            return Err(reject!(self, EINVAL, "iter has to be at a constant offset"));
        }
        let off = i64::from(reg.off).wrapping_add(reg.bounds.var_off.value.cast_signed());
        if off % 8 != 0 {
            return Err(reject!(self, EINVAL, "cannot pass in iter at an offset={off}"));
        }
        Ok(())
    }

    /// `bpf_iter_*_new`: makes the iterator in argument 1.
    pub(crate) fn iter_new(&mut self, kind: u8) -> Check {
        let k = KINDS[kind as usize];
        self.check_iter_pointer(1)?;
        let Some((frame, slot)) = self.iter_slot(1, k.slots) else {
            let reg = *self.reg(1);
            let off = i64::from(reg.off).wrapping_add(reg.bounds.var_off.value.cast_signed());
            return Err(reject!(self, EINVAL, "cannot pass in iter at an offset={off}"));
        };
        for i in 0..k.slots {
            let special =
                self.cur.frames[frame].stack.get(slot - i).is_some_and(|s| s.bytes[SLOT - 1] == ByteKind::Iter);
            if special {
                return Err(reject!(self, EINVAL, "expected uninitialized iter_{} as arg #0", k.name));
            }
        }
        for i in 0..k.slots {
            let off = i32::try_from(i * 8).unwrap_or(0);
            self.check_mem(skep_abi::Reg::R1, off, 8, Access::Write, None, false)?;
        }
        let id = self.acquire_reference();
        for i in 0..k.slots {
            let main = i == 0;
            let extra = Extra::Iter { kind, state: IterState::Active, depth: 0 };
            let ref_obj_id = if main { id } else { 0 };
            let reg = Reg { ref_obj_id, ..Reg::pointer(RegType::of(Base::Stack), extra) };
            self.cur.frame_at_mut(frame).stack[slot - i] = Slot { reg, bytes: [ByteKind::Iter; SLOT] };
            self.live_stack.write(frame, 1 << (slot - i));
            self.scratch_slot(slot - i);
        }
        Ok(())
    }

    /// The live iterator of argument 1.
    fn live_iter(&mut self, kind: u8) -> Check<(usize, usize)> {
        let k = KINDS[kind as usize];
        self.check_iter_pointer(1)?;
        let found = self.iter_slot(1, k.slots).filter(|&(frame, slot)| {
            (0..k.slots).all(|i| {
                self.cur.frames[frame].stack.get(slot - i).is_some_and(|s| {
                    s.bytes.iter().all(|b| *b == ByteKind::Iter)
                        && matches!(s.reg.extra, Extra::Iter { kind: have, .. } if have == kind)
                        && (i == 0) == (s.reg.ref_obj_id != 0)
                })
            })
        });
        let Some((frame, slot)) = found else {
            return Err(reject!(self, EINVAL, "expected an initialized iter_{} as arg #0", k.name));
        };
        for i in 0..k.slots {
            self.live_stack.read(frame, 1 << (slot - i));
            self.scratch_slot(slot - i);
        }
        Ok((frame, slot))
    }

    /// `bpf_iter_*_next`: walks on with the iterator drained, and queues the path on which it is active.
    pub(crate) fn iter_next(&mut self, kind: u8) -> Check {
        let k = KINDS[kind as usize];
        let (frame, slot) = self.live_iter(kind)?;
        let iter = self.cur.frames[frame].stack[slot].reg;
        let Extra::Iter { state, depth, .. } = iter.extra else {
            return Err(crate::env::internal!(self, "iterator without state"));
        };
        let at = self.insn;
        self.clear_caller_saved();
        if state == IterState::Active {
            let mut element = Reg::pointer(RegType::of(Base::Mem), Extra::MemSize(k.element));
            element.ref_obj_id = 0;
            let previous = self.previous_entry(at);
            let queued = self.push_branch(at + 1, at, false)?;
            queued.frame_at_mut(frame).stack[slot].reg.extra =
                Extra::Iter { kind, state: IterState::Active, depth: depth + 1 };
            queued.frame_mut().regs[0] = element;
            if let Some(previous) = previous {
                self.widen_pending(previous);
            }
        }
        self.cur.frame_at_mut(frame).stack[slot].reg.extra = Extra::Iter { kind, state: IterState::Drained, depth };
        self.set_reg(0, Reg::constant(0));
        Ok(())
    }

    /// `bpf_iter_*_destroy`.
    pub(crate) fn iter_destroy(&mut self, kind: u8) -> Check {
        let k = KINDS[kind as usize];
        let (frame, slot) = self.live_iter(kind)?;
        let id = self.cur.frames[frame].stack[slot].reg.ref_obj_id;
        if !self.release_reference(id) {
            return Err(crate::env::internal!(self, "iterator without reference"));
        }
        for i in 0..k.slots {
            self.cur.frame_at_mut(frame).stack[slot - i] = Slot::EMPTY;
            self.live_stack.write(frame, 1 << (slot - i));
        }
        Ok(())
    }
}
