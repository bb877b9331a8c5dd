//! Locks in map values and in objects, and interrupt flags on the stack.
//!
//! Owns what is held, in order. Invariant: one `bpf_spin_lock` at most is held, and beside it nothing; of `bpf_res_spin_lock`s,
//! whose taking may fail, any number, released in reverse order, as interrupt flags are. Kernel counterpart:
//! `process_spin_lock`, `process_irq_flag`, kernel/bpf/verifier.c, 6.18.

use crate::check::Access;
use crate::check::kfunc_arg::KfuncMeta;
use crate::check::stack::place;
use crate::env::{Check, Env, reject};
use crate::spec::FieldKind;
use crate::state::bounds::Interval;
use crate::state::frame::{RefKind, Reference};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};
use crate::state::stack::{ByteKind, SLOT, Slot};

/// What a call does with a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LockCall {
    /// Takes it, or gives it back.
    pub(crate) takes: bool,
    /// The lock may refuse to be taken (`bpf_res_spin_lock`).
    pub(crate) resilient: bool,
    /// Interrupts are off as long as it is held.
    pub(crate) irq: bool,
}

impl LockCall {
    /// What this kernel function does, if it is one of those on locks and interrupts.
    fn of(name: &str) -> Option<Self> {
        let call = |takes, irq| Some(Self { takes, resilient: true, irq });
        match name {
            "bpf_res_spin_lock" => call(true, false),
            "bpf_res_spin_unlock" => call(false, false),
            "bpf_res_spin_lock_irqsave" => call(true, true),
            "bpf_res_spin_unlock_irqrestore" => call(false, true),
            _ => None,
        }
    }

    /// The kernel's name of the functions, without what they do.
    const fn name(self) -> &'static str {
        if self.resilient { "bpf_res_spin" } else { "bpf_spin" }
    }

    const fn field(self) -> FieldKind {
        if self.resilient { FieldKind::ResSpinLock } else { FieldKind::SpinLock }
    }

    const fn held(self, object: Extra) -> RefKind {
        match self.resilient {
            true => RefKind::ResLock { object, irq: self.irq },
            false => RefKind::Lock { object },
        }
    }
}

impl Env<'_> {
    /// The lock that register `n` points to is taken or given back.
    pub(crate) fn process_lock(&mut self, n: u8, call: LockCall) -> Check {
        let reg = *self.reg(n);
        // Whoever orders a tree may take other locks, and give them back; the tree's own is found missing when the order is
        // told, unless it is taken again: then the tree may have changed meanwhile.
        let taken_again =
            call.takes && self.tree_callback().is_some_and(|order| self.cur.res.locks < order.locks_before);
        if taken_again || (!call.resilient && self.in_tree_callback()) {
            return Err(reject!(self, EACCES, "can't spin_{{lock,unlock}} in rbtree cb"));
        }
        let name = call.name();
        let Some(var) = reg.bounds.const_value() else {
            let text = format!("doesn't have constant offset. {name}_lock has to be at the constant offset");
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        let shape = self.map_of(&reg);
        if let Some(shape) = shape
            && shape.btf_value_type_id == 0
        {
            let map = &shape.name;
            return Err(reject!(self, EINVAL, "map '{map}' has to have BTF in order to use {name}_lock"));
        }
        let Some(field) = self.record_of(&reg).iter().copied().find(|f| f.kind == call.field()) else {
            let (what, of) = shape.map_or(("local", "kptr"), |shape| ("map", shape.name.as_ref()));
            return Err(reject!(self, EINVAL, "{what} '{of}' has no valid {name}_lock"));
        };
        let at = i64::from(reg.off).wrapping_add(var.cast_signed());
        if at != i64::from(field.offset) {
            let want = field.offset;
            return Err(reject!(self, EINVAL, "off {at} doesn't point to 'struct {name}_lock' that is at {want}"));
        }
        let object = Self::lock_object(&reg);
        if call.takes { self.take_lock(call, object, reg.id) } else { self.release_lock(call, object, reg.id) }
    }

    fn take_lock(&mut self, call: LockCall, object: Extra, id: u32) -> Check {
        if !call.resilient && self.cur.res.locks > 0 {
            return Err(reject!(self, EINVAL, "Locking two bpf_spin_locks are not allowed"));
        }
        let same = |kind: RefKind| matches!(kind, RefKind::ResLock { object: of, .. } if of == object);
        if call.resilient && self.cur.res.refs.iter().any(|r| r.id == id && same(r.kind)) {
            return Err(reject!(self, EINVAL, "Acquiring the same lock again, AA deadlock detected"));
        }
        let insn = self.insn;
        let res = self.cur.res_mut();
        res.locks += 1;
        res.refs.push(Reference { kind: call.held(object), id, insn });
        Ok(())
    }

    fn release_lock(&mut self, call: LockCall, object: Extra, id: u32) -> Check {
        let name = call.name();
        let Some(last) = self.cur.res.refs.iter().rposition(|r| r.kind.is_lock()) else {
            return Err(reject!(self, EINVAL, "{name}_unlock without taking a lock"));
        };
        let kind = call.held(object);
        let Some(held) = self.cur.res.refs.iter().rposition(|r| r.kind == kind && r.id == id) else {
            return Err(reject!(self, EINVAL, "{name}_unlock of different lock"));
        };
        if held != last {
            return Err(reject!(self, EINVAL, "{name}_unlock cannot be out of order"));
        }
        let res = self.cur.res_mut();
        res.refs.remove(held);
        res.locks -= 1;
        self.invalidate_non_owning();
        Ok(())
    }

    /// The lock argument of a kernel function.
    pub(crate) fn check_res_lock(&mut self, n: u8, meta: &KfuncMeta) -> Check {
        let ty = self.reg(n).ty;
        if ty != RegType::of(Base::MapValue) && ty != RegType::of(Base::BtfId).with(flags::ALLOC) {
            return Err(reject!(self, EINVAL, "arg#{} doesn't point to map value or allocated object", n - 1));
        }
        let Some(call) = LockCall::of(meta.proto.name) else {
            return Err(crate::env::internal!(self, "a lock of {}", meta.proto.name));
        };
        self.process_lock(n, call)
    }

    /// Queues the path on which a lock was not to be had; the current path goes on with it.
    pub(crate) fn push_lock_failure(&mut self, name: &str) -> Check {
        if !LockCall::of(name).is_some_and(|call| call.takes) {
            return Ok(());
        }
        const MAX_ERRNO: i32 = 4095;
        let mut failed = self.unknown();
        failed.bounds.s64 = Interval { min: -i64::from(MAX_ERRNO), max: -1 };
        failed.bounds.s32 = Interval { min: -MAX_ERRNO, max: -1 };
        failed.bounds.sync();
        let at = self.insn;
        let queued = self.push_branch(at + 1, at, false)?;
        let regs = &mut queued.frame_mut().regs;
        regs[..=5].fill(Reg::NOT_INIT);
        regs[0] = failed;
        Ok(())
    }

    /// What a function that takes a lock returns where it has taken it.
    pub(crate) fn lock_result(&self, name: &str) -> Option<Reg> {
        let takes = LockCall::of(name).is_some_and(|call| call.takes);
        takes.then(|| Reg { precise: !self.caps.bpf, ..Reg::constant(0) })
    }
}

impl Env<'_> {
    /// The place of interrupt flags that argument `n` points to, on the stack.
    pub(crate) fn check_irq_flag(&mut self, n: u8, meta: &KfuncMeta) -> Check {
        let at = n - 1;
        if self.reg(n).base() != Base::Stack {
            return Err(reject!(self, EINVAL, "arg#{at} doesn't point to an irq flag on stack"));
        }
        let name = meta.proto.name;
        let of_lock = LockCall::of(name).is_some();
        if matches!(name, "bpf_local_irq_save" | "bpf_res_spin_lock_irqsave") {
            self.save_irq(n, of_lock)
        } else {
            self.restore_irq(n, of_lock)
        }
    }

    fn save_irq(&mut self, n: u8, of_lock: bool) -> Check {
        let reg = *self.reg(n);
        self.check_not_below_stack(n, &reg)?;
        let found = self.stack_object(n, "irq_flag", 1);
        let taken = |env: &Self, frame: usize, slot: usize| {
            env.cur.frames[frame].stack.get(slot).is_some_and(|s| s.bytes.contains(&ByteKind::IrqFlag))
        };
        let Some((frame, slot)) = found.filter(|&(frame, slot)| !taken(self, frame, slot)) else {
            return Err(reject!(self, EINVAL, "expected uninitialized irq flag as arg#{}", n - 1));
        };
        let Some(r) = skep_abi::Reg::new(n) else { return Err(crate::env::internal!(self, "argument {n}")) };
        self.check_mem(r, 0, 8, Access::Write, None, false)?;
        let (id, insn) = (self.new_id(), self.insn);
        let res = self.cur.res_mut();
        res.refs.push(Reference { kind: RefKind::Irq, id, insn });
        res.irq = id;
        let reg = Reg { ref_obj_id: id, ..Reg::pointer(RegType::of(Base::Stack), Extra::Irq { of_lock }) };
        self.cur.frame_at_mut(frame).stack[slot] = Slot { reg, bytes: [ByteKind::IrqFlag; SLOT] };
        self.live_stack.write(frame, 1 << slot);
        self.scratch_slot(slot);
        Ok(())
    }

    fn restore_irq(&mut self, n: u8, of_lock: bool) -> Check {
        let found = self.stack_object(n, "irq_flag", 1).and_then(|(frame, slot)| {
            let flag = self.cur.frames[frame].stack.get(slot)?;
            flag.bytes.iter().all(|b| *b == ByteKind::IrqFlag).then_some((frame, slot, flag.reg))
        });
        let Some((frame, slot, flag)) = found else {
            return Err(reject!(self, EINVAL, "expected an initialized irq flag as arg#{}", n - 1));
        };
        self.live_stack.read(frame, 1 << slot);
        if flag.extra != (Extra::Irq { of_lock }) {
            let (saved, used) = if of_lock { ("native", "lock") } else { ("lock", "native") };
            let text = format!("irq flag acquired by {saved} kfuncs cannot be restored with {used} kfuncs");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        let id = flag.ref_obj_id;
        if id != self.cur.res.irq {
            let newest = self.cur.res.irq;
            let insn = self.cur.res.refs.iter().find(|r| r.id == newest).map_or(0, |r| r.insn);
            let text = format!("expected id={newest} acquired at insn_idx={insn}");
            return Err(reject!(self, EACCES, "cannot restore irq state out of order, {text}"));
        }
        let res = self.cur.res_mut();
        res.refs.retain(|r| r.id != id || r.kind != RefKind::Irq);
        res.irq = res.refs.iter().rfind(|r| r.kind == RefKind::Irq).map_or(0, |r| r.id);
        self.cur.frame_at_mut(frame).stack[slot] = Slot::EMPTY;
        self.live_stack.write(frame, 1 << slot);
        self.scratch_slot(slot);
        Ok(())
    }

    /// Frame and main slot of an object of this many slots that argument `n` points to; `None` if the pointer cannot name one.
    pub(crate) fn stack_object(&mut self, n: u8, name: &str, slots: usize) -> Option<(usize, usize)> {
        let reg = *self.reg(n);
        if reg.base() != Base::Stack {
            return None;
        }
        let Some(var) = reg.bounds.const_value() else {
            self.note(&format!("{name} has to be at a constant offset"));
            return None;
        };
        let off = i64::from(reg.off).wrapping_add(var.cast_signed());
        let found = (off % 8 == 0 && (-512..0).contains(&off)).then(|| place(off).0).filter(|slot| slot + 1 >= slots);
        if found.is_none() {
            self.note(&format!("cannot pass in {name} at an offset={off}"));
        }
        found.map(|slot| (reg.frame(), slot))
    }
}
