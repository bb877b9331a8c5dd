//! Dynptrs: objects on the stack that describe memory.
//!
//! Owns the two slots of a dynptr. Invariant: a slot of kind `Dynptr` is one half of a pair, the upper slot (lower address)
//! being the first. Kernel counterpart: `mark_stack_slots_dynptr`, `process_dynptr_func`, kernel/bpf/verifier.c, 6.18.

use skep_abi::helper::{ArgType, TypeFlags};

use crate::check::Access;
use crate::check::arg::CallMeta;
use crate::check::stack::place;
use crate::env::{Check, Env, reject};
use crate::state::reg::{Base, DynptrKind, Extra, Reg, RegType};
use crate::state::stack::{ByteKind, SLOT, Slot};

/// Slots of a dynptr.
const DYNPTR_SLOTS: usize = 2;

impl Env<'_> {
    /// Index of the main slot of the dynptr at a stack pointer: the one at the lower address.
    fn dynptr_slot(&self, reg: &Reg) -> Option<usize> {
        let off = i64::from(reg.off).checked_add(reg.bounds.const_value()?.cast_signed())?;
        if off % 8 != 0 || !(-512..0).contains(&off) {
            return None;
        }
        let slot = place(off).0;
        (slot >= DYNPTR_SLOTS - 1).then_some(slot)
    }

    /// The dynptr that argument `n` names: on the stack, or given to a callback.
    pub(crate) fn dynptr_of(&self, n: u8) -> Reg {
        let reg = *self.reg(n);
        if reg.base() == Base::Dynptr {
            return reg;
        }
        let slot = self.dynptr_slot(&reg).and_then(|s| self.cur.frames.get(reg.frame())?.stack.get(s));
        slot.map_or(Reg::NOT_INIT, |s| s.reg)
    }

    fn is_dynptr_at(&self, frame: usize, slot: usize) -> bool {
        let Some(pair) = slot.checked_sub(1) else { return false };
        let Some(frame) = self.cur.frames.get(frame) else { return false };
        let whole = |i: usize| frame.stack.get(i).is_some_and(|s| s.bytes.iter().all(|b| *b == ByteKind::Dynptr));
        let first =
            |i: usize| frame.stack.get(i).is_some_and(|s| matches!(s.reg.extra, Extra::Dynptr { first: true, .. }));
        whole(slot) && whole(pair) && first(slot)
    }

    /// Checks a dynptr argument, and makes the dynptr where the helper initialises one.
    pub(crate) fn check_dynptr_arg(&mut self, n: u8, arg: ArgType, meta: &mut CallMeta) -> Check {
        let reg = *self.reg(n);
        if arg.flags.has(TypeFlags::UNINIT) {
            return self.make_dynptr(n, &reg, arg, meta);
        }
        if reg.base() == Base::Dynptr && !arg.flags.has(TypeFlags::RDONLY) {
            return Err(reject!(self, EINVAL, "cannot pass pointer to const bpf_dynptr, the helper mutates it"));
        }
        let live = match reg.base() {
            Base::Dynptr => true,
            _ => self.dynptr_slot(&reg).is_some_and(|s| self.is_dynptr_at(reg.frame(), s)),
        };
        if !live {
            return Err(reject!(self, EINVAL, "Expected an initialized dynptr as arg #{}", n - 1));
        }
        let Extra::Dynptr { kind, .. } = self.dynptr_of(n).extra else {
            return Err(reject!(self, EINVAL, "Expected an initialized dynptr as arg #{}", n - 1));
        };
        if let Some(want) = wanted_kind(arg.flags)
            && kind != want
        {
            let (name, at) = (want.name(), n - 1);
            return Err(reject!(self, EINVAL, "Expected a dynptr of type {name} as arg #{at}"));
        }
        if let Some(slot) = self.dynptr_slot(&reg).filter(|_| reg.base() == Base::Stack) {
            self.live_stack.read(reg.frame(), (1 << slot) | (1 << (slot - 1)));
        }
        Ok(())
    }

    fn make_dynptr(&mut self, n: u8, reg: &Reg, arg: ArgType, meta: &mut CallMeta) -> Check {
        if reg.base() == Base::Dynptr {
            return Err(reject!(self, EINVAL, "Dynptr has to be an uninitialized dynptr"));
        }
        self.check_not_below_stack(n, reg)?;
        let Some(slot) = self.dynptr_slot(reg) else {
            let text = if reg.bounds.is_const() {
                let off = i64::from(reg.off).wrapping_add(reg.bounds.var_off.value.cast_signed());
                format!("cannot pass in dynptr at an offset={off}")
            } else {
                "dynptr has to be at a constant offset".to_owned()
            };
            self.note(&text);
            return Err(reject!(self, EINVAL, "Dynptr has to be an uninitialized dynptr"));
        };
        // The store takes away what lies there.
        let Some(r) = skep_abi::Reg::new(n) else { return Ok(()) };
        for i in 0..2 {
            self.check_mem(r, i * 8, 8, Access::Write, None, false)?;
        }
        let Some(kind) = wanted_kind(arg.flags) else {
            return Err(crate::env::unsupported!(self, "dynptr of this kind is not supported"));
        };
        let (id, source) = (self.new_id(), meta.ref_obj_id);
        let ref_obj_id = match kind {
            DynptrKind::Ringbuf if meta.clones => source,
            DynptrKind::Ringbuf => self.acquire_reference(),
            _ => source,
        };
        let make = |first: bool| Slot {
            reg: Reg { id, ref_obj_id, ..Reg::pointer(RegType::of(Base::Dynptr), Extra::Dynptr { kind, first }) },
            bytes: [ByteKind::Dynptr; SLOT],
        };
        let frame = reg.frame();
        let stack = self.cur.frame_at_mut(frame);
        stack.stack[slot] = make(true);
        stack.stack[slot - 1] = make(false);
        self.live_stack.write(frame, (1 << slot) | (1 << (slot - 1)));
        self.scratch_slot(slot);
        self.scratch_slot(slot - 1);
        Ok(())
    }

    /// Takes the dynptr of argument `n`, and all that share its memory, away. False if there is none.
    pub(crate) fn release_dynptr(&mut self, n: u8) -> Check<bool> {
        let reg = *self.reg(n);
        let Some(slot) = self.dynptr_slot(&reg) else { return Ok(false) };
        let dynptr = self.dynptr_of(n);
        if dynptr.ref_obj_id == 0 {
            self.forget_dynptr(reg.frame(), slot);
            return Ok(true);
        }
        let held = self.release_reference(dynptr.ref_obj_id);
        for frame in 0..self.cur.frames.len() {
            for i in 1..self.cur.frames[frame].stack.len() {
                let s = &self.cur.frames[frame].stack[i];
                let same = s.bytes[SLOT - 1] == ByteKind::Dynptr && s.reg.ref_obj_id == dynptr.ref_obj_id;
                if same && matches!(s.reg.extra, Extra::Dynptr { first: true, .. }) {
                    self.forget_dynptr(frame, i);
                }
            }
        }
        Ok(held)
    }

    fn forget_dynptr(&mut self, frame: usize, slot: usize) {
        let stack = self.cur.frame_at_mut(frame);
        for i in [slot, slot.wrapping_sub(1)] {
            if let Some(s) = stack.stack.get_mut(i) {
                *s = Slot::EMPTY;
            }
        }
        self.live_stack.write(frame, (1 << slot) | (1 << slot.saturating_sub(1)));
    }

    /// A store is about to hit slot `slot`: a dynptr there is lost, with the slices of it.
    pub(crate) fn destroy_dynptr_at(&mut self, frame: usize, slot: usize) -> Check {
        let Some(hit) = self.cur.frames[frame].stack.get(slot).copied() else { return Ok(()) };
        if hit.bytes[SLOT - 1] != ByteKind::Dynptr {
            return Ok(());
        }
        let Extra::Dynptr { first, .. } = hit.reg.extra else { return Ok(()) };
        let main = if first { slot } else { slot + 1 };
        let owned = self.cur.frames[frame].stack.get(main).map_or(Reg::NOT_INIT, |s| s.reg);
        if owned.ref_obj_id != 0 {
            let shared = self.cur.frames.iter().flat_map(|f| &f.stack).filter(|s| {
                s.bytes[SLOT - 1] == ByteKind::Dynptr
                    && s.reg.ref_obj_id == owned.ref_obj_id
                    && matches!(s.reg.extra, Extra::Dynptr { first: true, .. })
            });
            if shared.count() < 2 {
                return Err(reject!(self, EINVAL, "cannot overwrite referenced dynptr"));
            }
        }
        self.forget_dynptr(frame, main);
        let dead = self.unknown();
        self.cur.for_each_reg(
            // A slice by a kernel function is as good as the packet or memory that it is of, whatever becomes of the dynptr.
            |r| matches!(r.extra, Extra::MemSize(_)) && r.dynptr_id != 0 && r.dynptr_id == owned.id,
            |r| *r = dead,
        );
        Ok(())
    }

    /// A store to a slice may change the buffer on the stack that came with it. The kernel does not look at this, and goes on with
    /// what it knows of the stack.
    pub(crate) fn check_slice_store(&mut self, reg: &Reg) {
        let Extra::Slice { size, frame, at, .. } = reg.extra else { return };
        let (start, end) = (i64::from(at), i64::from(at).saturating_add(i64::from(size)).min(0));
        let Some(frame) = self.cur.frames.get(usize::from(frame)) else { return };
        let known = (start..end).map(place).any(|(slot, byte)| {
            frame.stack.get(slot).is_some_and(|s| !matches!(s.bytes[byte], ByteKind::Misc | ByteKind::Invalid))
        });
        if known {
            self.need("a store to a slice over what its buffer is used for");
        }
    }

    /// The format string of `bpf_snprintf` and its arguments agree.
    pub(crate) fn check_snprintf(&mut self) -> Check {
        let args = *self.reg(5);
        let Some(bytes) = args.bounds.const_value().filter(|v| v % 8 == 0) else {
            return Err(reject!(self, EINVAL, "Invalid format string"));
        };
        let fmt = *self.reg(3);
        let Some(shape) = self.map_of(&fmt) else {
            return Err(reject!(self, EFAULT, "failed to retrieve map value address"));
        };
        let at = fmt.bounds.const_value().map(|v| i64::from(fmt.off).wrapping_add(v.cast_signed()));
        let text = at.and_then(|at| shape.contents.as_deref()?.get(usize::try_from(at).ok()?..));
        // More arguments than the format takes are accepted; more than 12 fail when the program runs.
        let ok = text.and_then(skep_abi::format::format_args_count).is_some_and(|taken| taken <= bytes / 8);
        if ok {
            return Ok(());
        }
        Err(reject!(self, EINVAL, "Invalid format string"))
    }
}

fn wanted_kind(f: TypeFlags) -> Option<DynptrKind> {
    if f.has(TypeFlags::DYNPTR_LOCAL) {
        Some(DynptrKind::Local)
    } else if f.has(TypeFlags::DYNPTR_RINGBUF) {
        Some(DynptrKind::Ringbuf)
    } else if f.has(TypeFlags::DYNPTR_SKB) {
        Some(DynptrKind::Skb)
    } else if f.has(TypeFlags::DYNPTR_XDP) {
        Some(DynptrKind::Xdp)
    } else {
        None
    }
}
