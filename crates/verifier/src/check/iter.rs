//! Open-coded iterators.
//!
//! Owns the iterator's slots and its three calls. Invariant: an active iterator is a reference that `destroy` gives back; what
//! follows `next` has been walked with the iterator active and drained. Kernel counterpart: `process_iter_arg`,
//! `process_iter_next_call`, kernel/bpf/verifier.c, 6.18.

use skep_abi::kfunc::{Iter, KfuncRet, flags as kf, kernel_type};

use crate::check::Access;
use crate::check::kfunc_arg::KfuncMeta;
use crate::env::{Check, Env, reject};
use crate::state::reg::{Base, Extra, IterState, Reg, RegType, flags};
use crate::state::stack::{ByteKind, SLOT, Slot};

impl Env<'_> {
    /// An iterator argument: made, looked at or destroyed, as the function does.
    pub(crate) fn check_iter_arg(&mut self, n: u8, iter: Iter, meta: &mut KfuncMeta) -> Check<(usize, usize)> {
        if self.reg(n).base() != Base::Stack {
            return Err(reject!(self, EINVAL, "arg#{} expected pointer to an iterator on stack", n - 1));
        }
        if meta.proto.has(kf::ITER_NEW) {
            return self.iter_new(n, iter);
        }
        let (frame, slot) = self.live_iter(n, iter)?;
        meta.ref_obj_id = self.cur.frames[frame].stack[slot].reg.ref_obj_id;
        if meta.proto.has(kf::ITER_DESTROY) {
            self.iter_destroy(frame, slot, usize::from(iter.slots))?;
        }
        Ok((frame, slot))
    }

    /// `bpf_iter_*_new`: makes the iterator.
    fn iter_new(&mut self, n: u8, iter: Iter) -> Check<(usize, usize)> {
        let reg = *self.reg(n);
        self.check_not_below_stack(n, &reg)?;
        let slots = usize::from(iter.slots);
        let found = self.stack_object(n, "iter", slots);
        let special = |env: &Self, frame: usize, slot: usize| {
            let stack = &env.cur.frames[frame].stack;
            (0..slots).any(|i| stack.get(slot - i).is_some_and(|s| s.bytes.contains(&ByteKind::Iter)))
        };
        let Some((frame, slot)) = found.filter(|&(frame, slot)| !special(self, frame, slot)) else {
            return Err(reject!(self, EINVAL, "expected uninitialized iter_{} as arg #{}", iter.name, n - 1));
        };
        let Some(r) = skep_abi::Reg::new(n) else { return Err(crate::env::internal!(self, "argument {n}")) };
        for i in 0..slots {
            let off = i32::try_from(i * 8).unwrap_or(0);
            self.check_mem(r, off, 8, Access::Write, None, false)?;
        }
        let id = self.acquire_reference();
        for i in 0..slots {
            let extra = Extra::Iter { kind: iter.kind, state: IterState::Active, depth: 0 };
            let ref_obj_id = if i == 0 { id } else { 0 };
            let reg = Reg { ref_obj_id, ..Reg::pointer(RegType::of(Base::Stack), extra) };
            self.cur.frame_at_mut(frame).stack[slot - i] = Slot { reg, bytes: [ByteKind::Iter; SLOT] };
            self.live_stack.write(frame, 1 << (slot - i));
            self.scratch_slot(slot - i);
        }
        Ok((frame, slot))
    }

    /// The live iterator of argument `n`.
    fn live_iter(&mut self, n: u8, iter: Iter) -> Check<(usize, usize)> {
        let slots = usize::from(iter.slots);
        let found = self.stack_object(n, "iter", slots);
        let live = found.filter(|&(frame, slot)| {
            (0..slots).all(|i| {
                self.cur.frames[frame].stack.get(slot - i).is_some_and(|s| {
                    s.bytes.iter().all(|b| *b == ByteKind::Iter)
                        && matches!(s.reg.extra, Extra::Iter { kind, .. } if kind == iter.kind)
                        && (i == 0) == (s.reg.ref_obj_id != 0)
                })
            })
        });
        let Some((frame, slot)) = live else {
            return Err(reject!(self, EINVAL, "expected an initialized iter_{} as arg #{}", iter.name, n - 1));
        };
        for i in 0..slots {
            self.live_stack.read(frame, 1 << (slot - i));
            self.scratch_slot(slot - i);
        }
        Ok((frame, slot))
    }

    /// `bpf_iter_*_next`: walks on with the iterator drained, and queues the path on which it is active.
    pub(crate) fn iter_next(&mut self, meta: &KfuncMeta) -> Check {
        let (frame, slot) = meta.iter;
        let iter = self.cur.frames[frame].stack[slot].reg;
        let Extra::Iter { kind, state, depth } = iter.extra else {
            return Err(crate::env::internal!(self, "iterator without state"));
        };
        let element = match meta.proto.ret {
            KfuncRet::Mem(size) => {
                let ty = RegType::of(Base::Mem).with(flags::RDONLY);
                Reg { ref_obj_id: iter.ref_obj_id, ..Reg::pointer(ty, Extra::MemSize(size)) }
            }
            KfuncRet::Object(name) => {
                let number = kernel_type(name).unwrap_or(u16::MAX);
                Reg::pointer(RegType::of(Base::BtfId).with(flags::TRUSTED), Extra::Kernel(number))
            }
            _ => return Err(crate::env::internal!(self, "iterator of nothing")),
        };
        let at = self.insn;
        self.clear_caller_saved();
        // The kernel numbers the element before it knows that there is one.
        self.new_id();
        if state == IterState::Active {
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
    fn iter_destroy(&mut self, frame: usize, slot: usize, slots: usize) -> Check {
        let id = self.cur.frames[frame].stack[slot].reg.ref_obj_id;
        if !self.release_reference(id) {
            return Err(crate::env::internal!(self, "iterator without reference"));
        }
        for i in 0..slots {
            self.cur.frame_at_mut(frame).stack[slot - i] = Slot::EMPTY;
            self.live_stack.write(frame, 1 << (slot - i));
        }
        Ok(())
    }
}
