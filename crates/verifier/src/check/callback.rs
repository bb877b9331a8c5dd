//! Callbacks of helpers: entered any number of times, or later.
//!
//! Owns what a callback gets in its registers. Invariant: the path that goes on after the call has seen the callback run zero
//! times or any number of times, each leading back to the call. Kernel counterpart: `push_callback_call`,
//! `set_*_callback_state`, kernel/bpf/verifier.c, 6.18.

use std::rc::Rc;

use skep_abi::MapType;

use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::state::bounds::Interval;
use crate::state::frame::{Callback, Frame, State};
use crate::state::reg::{Base, DynptrKind, Extra, Reg, RegType};

impl Env<'_> {
    /// Queues a run of the callback `sub`; the current path goes on after the call.
    pub(crate) fn push_callback(&mut self, kind: Callback, sub: u32) -> Check {
        let at = self.insn;
        let Some(info) = self.subprogs.get_mut(sub as usize) else {
            return Err(crate::env::internal!(self, "callback without subprogram"));
        };
        info.is_cb = true;
        let start = info.start;
        let asynchronous = matches!(kind, Callback::Timer | Callback::Workqueue);
        if mutant::active(Mutant::NoCallback) {
            return Ok(());
        }
        if asynchronous {
            return self.push_async(kind, sub, start);
        }
        let number = self.next_frame()?;
        let mut callee = Frame::new(at, number, sub);
        self.set_callback_args(kind, &mut callee)?;
        callee.callback = Some(kind);
        callee.locks_before = self.cur.res.locks;
        let queued = self.push_branch(start, at, false)?;
        let caller = queued.depth();
        queued.frames.push(Rc::new(callee));
        queued.callback_unroll_depth += 1;
        queued.frame_at_mut(caller).callback_depth += 1;
        let frame = self.cur.frame_mut();
        frame.callback_depth = 0;
        Ok(())
    }

    fn push_async(&mut self, kind: Callback, sub: u32, start: u32) -> Check {
        self.subprogs[sub as usize].is_async_cb = true;
        let mut state = State::new(sub, start);
        state.sleepable = kind == Callback::Workqueue;
        let entry = self.cur.frame().async_entry + 1;
        let mut callee = Frame::new(u32::MAX, 0, sub);
        self.set_callback_args(kind, &mut callee)?;
        callee.in_async = true;
        callee.async_entry = entry;
        state.frames = vec![Rc::new(callee)];
        let at = self.insn;
        // It is no continuation of this path: nothing of it is tracked back into it.
        self.push_pending(state, at)?;
        Ok(())
    }

    fn set_callback_args(&mut self, kind: Callback, callee: &mut Frame) -> Check {
        let regs = self.cur.frame().regs;
        let map_reg = |base: Base, from: &Reg| Reg::pointer(RegType::of(base), from.extra);
        callee.callback_ret = Interval { min: 0, max: 1 };
        match kind {
            Callback::Loop => {
                callee.regs[1] = if mutant::active(Mutant::FirstIndex) { Reg::constant(0) } else { Reg::UNKNOWN };
                callee.regs[2] = regs[3];
            }
            Callback::ForEach => {
                let Some(shape) = self.map_of(&regs[1]) else {
                    return Err(crate::env::internal!(self, "for_each without map"));
                };
                let allowed = matches!(
                    shape.map_type,
                    MapType::Array
                        | MapType::PercpuArray
                        | MapType::Hash
                        | MapType::LruHash
                        | MapType::PercpuHash
                        | MapType::LruPercpuHash
                );
                if !allowed {
                    return Err(reject!(self, ENOTSUPP, "callback function not allowed for map"));
                }
                callee.regs[1] = map_reg(Base::ConstMap, &regs[1]);
                callee.regs[2] = map_reg(Base::MapKey, &regs[1]);
                callee.regs[3] = map_reg(Base::MapValue, &regs[1]);
                self.identify_locked_value(&mut callee.regs[3]);
                callee.regs[4] = regs[3];
            }
            Callback::Timer | Callback::Workqueue => {
                callee.regs[1] = map_reg(Base::ConstMap, &regs[1]);
                callee.regs[2] = map_reg(Base::MapKey, &regs[1]);
                callee.regs[3] = map_reg(Base::MapValue, &regs[1]);
                self.identify_locked_value(&mut callee.regs[3]);
                callee.callback_ret = Interval { min: 0, max: 0 };
            }
            Callback::UserRingbuf => {
                let extra = Extra::Dynptr { kind: DynptrKind::Local, first: true };
                let mut dynptr = Reg::pointer(RegType::of(Base::Dynptr), extra);
                dynptr.id = self.new_id();
                callee.regs[1] = dynptr;
                callee.regs[2] = regs[3];
            }
            Callback::Rbtree => (callee.regs[1], callee.regs[2]) = self.tree_callback_args()?,
            Callback::FindVma => {
                let vma = skep_abi::kfunc::kernel_type("vm_area_struct").unwrap_or(u16::MAX);
                callee.regs[1] = regs[1];
                callee.regs[2] = Reg::pointer(RegType::of(Base::BtfId), Extra::Kernel(vma));
                callee.regs[3] = regs[4];
            }
            Callback::Exception => {
                return Err(crate::env::unsupported!(self, "this kind of callback is not supported"));
            }
        }
        Ok(())
    }

    fn identify_locked_value(&mut self, reg: &mut Reg) {
        if self.map_of(reg).is_some_and(crate::spec::MapShape::has_lock) {
            reg.id = self.new_id();
        }
    }
}
