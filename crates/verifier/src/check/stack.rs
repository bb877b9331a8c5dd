//! The stack: spills and fills, and reads of what was never written.
//!
//! Owns what a store leaves and a load finds. Invariant: a byte that may hold anything is `Misc` or `Invalid`; only a byte that
//! certainly is zero is `Zero`. Kernel counterpart: `check_stack_read`, `check_stack_write`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{Errno, Insn, Operand, Reg as R};

use crate::check::Access;
use crate::check::alu::MAX_VAR_OFF;
use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::state::reg::{Base, Reg};
use crate::state::stack::{ByteKind, MAX_STACK, SLOT, Slot};
use crate::verified::RejectionKind;

/// Slot and byte of a stack offset (negative, from the frame pointer).
pub(crate) fn place(off: i64) -> (usize, usize) {
    let below = usize::try_from(-off - 1).unwrap_or(0);
    (below / SLOT, below % SLOT)
}

/// A stack access by a helper or by the program itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StackRange {
    pub(crate) off: i32,
    pub(crate) size: i32,
}

impl Env<'_> {
    /// A load or a store through a stack pointer.
    pub(crate) fn check_stack(
        &mut self,
        n: u8,
        reg: &Reg,
        off: i32,
        size: u32,
        access: Access,
        value: Option<R>,
    ) -> Check {
        self.check_stack_bounds(n, off, size.cast_signed(), access)?;
        let fixed = reg.bounds.const_value().map(|v| i64::from(off).wrapping_add(v.cast_signed()));
        let bytes = size as usize;
        match (access, fixed) {
            (Access::Read, Some(at)) => self.read_fixed(reg.frame(), at, bytes, value),
            (Access::Read, None) => {
                let v = reg.bounds.var_off;
                let Some(dst) = value else {
                    return Err(reject!(
                        self,
                        EACCES,
                        "variable offset stack pointer cannot be passed into helper function; var_off={v} off={off} size={size}"
                    ));
                };
                if !self.caps.perfmon {
                    return Err(self.variable_stack_refused(n, reg));
                }
                self.read_variable(n, reg, off, bytes, dst)
            }
            (Access::Write, Some(at)) => self.write_fixed(reg.frame(), at, bytes, value),
            (Access::Write, None) => {
                if !self.caps.perfmon {
                    return Err(self.variable_stack_refused(n, reg));
                }
                self.write_variable(reg, off, bytes, value)
            }
        }
    }

    /// An object that is made at a whole slot below the stack is refused as a store there.
    pub(crate) fn check_not_below_stack(&mut self, n: u8, reg: &Reg) -> Check {
        let at = reg.bounds.const_value().and_then(|v| i64::from(reg.off).checked_add(v.cast_signed()));
        match (at, R::new(n)) {
            (Some(at), Some(r)) if at < -MAX_STACK && at % 8 == 0 => {
                self.check_mem(r, 0, 8, Access::Write, None, false)
            }
            _ => Ok(()),
        }
    }

    fn variable_stack_refused(&mut self, n: u8, reg: &Reg) -> Box<crate::env::Reject> {
        let v = reg.bounds.var_off;
        let text = "variable offset stack access prohibited for !root";
        reject!(self, EACCES, "R{n} {text}, var_off={v}")
    }

    /// The access lies within the frame's 512 bytes; reads within what was used, for a user who must not see the rest.
    pub(crate) fn check_stack_bounds(&mut self, n: u8, off: i32, size: i32, access: Access) -> Check {
        let reg = *self.reg(n);
        let verb = if access == Access::Read { " read from" } else { " write to" };
        let off = i64::from(off);
        let (min, max) = match reg.bounds.const_value() {
            Some(v) => {
                let min = off.wrapping_add(v.cast_signed());
                (min, min + i64::from(size))
            }
            None => {
                let b = reg.bounds.s64;
                if b.max >= MAX_VAR_OFF || b.min <= -MAX_VAR_OFF {
                    return Err(reject!(self, EACCES, "invalid unbounded variable-offset{verb} stack R{n}"));
                }
                (b.min + off, b.max + off + i64::from(size))
            }
        };
        let Some(frame) = self.cur.frames.get(reg.frame()) else {
            return Err(crate::env::internal!(self, "R{n} points to a frame that is gone"));
        };
        let used = i64::try_from(frame.stack.len() * SLOT).unwrap_or(MAX_STACK);
        let reads_all = self.caps.perfmon && self.options.profile.whole_stack;
        let lowest = if access == Access::Write || reads_all { -MAX_STACK } else { -used };
        if min < lowest || min > -1 || max > 0 || size < 0 {
            let errno = if min < lowest || min > -1 { Errno::EACCES } else { Errno::EINVAL };
            let text = if reg.bounds.is_const() {
                format!("invalid{verb} stack R{n} off={min} size={size}")
            } else {
                let v = reg.bounds.var_off;
                format!("invalid variable-offset{verb} stack R{n} var_off={v} off={off} size={size}")
            };
            return Err(self.reject(errno, RejectionKind::Safety, text));
        }
        self.grow_stack(reg.frame(), min);
        Ok(())
    }

    /// Makes the frame reach down to `off`.
    pub(crate) fn grow_stack(&mut self, frame: usize, off: i64) {
        let (slot, _) = place(off);
        if self.cur.frames[frame].stack.len() <= slot {
            self.cur.frame_at_mut(frame).grow(slot);
        }
        let depth = u32::try_from((slot + 1) * SLOT).unwrap_or(512);
        let sub = self.cur.frames[frame].subprog as usize;
        if let Some(info) = self.subprogs.get_mut(sub) {
            info.stack_depth = info.stack_depth.max(depth);
        }
    }

    fn step_at(&mut self, frame: usize, slot: usize) {
        let frame = u8::try_from(frame).unwrap_or(u8::MAX);
        let slot = u8::try_from(slot).unwrap_or(u8::MAX);
        self.push_step(Some((frame, slot)), None);
    }

    fn write_fixed(&mut self, frame: usize, off: i64, size: usize, value: Option<R>) -> Check {
        let (slot_index, byte) = place(off);
        let slot = self.cur.frames[frame].stack[slot_index];
        if !self.caps.perfmon && slot.is_spilled() && !slot.reg.is_scalar() && size != SLOT {
            return Err(reject!(self, EACCES, "attempt to corrupt spilled pointer on stack"));
        }
        self.destroy_dynptr_at(frame, slot_index)?;
        self.scratch_slot(slot_index);
        self.note_stack_use(frame, off);
        let aligned = off % 8 == 0;
        if size == SLOT {
            self.live_stack.write(frame, 1 << slot_index);
        }
        let reg = value.map(|r| *self.reg(r.number()));
        self.guard_store(&slot, reg.as_ref(), size);
        let keep_invalid = self.caps.perfmon;
        match (reg, self.stored_immediate()) {
            (Some(mut reg), _) if aligned && reg.is_scalar() && self.caps.bpf && self.keeps_spill(&reg, size) => {
                let follows = self.options.profile.follows_spills;
                let fits = size == SLOT || (reg.bounds.u64.max < 1u64 << (size * 8) && follows);
                if fits {
                    if follows {
                        self.identify_scalar(&mut reg);
                    }
                    if let Some(r) = value {
                        *self.reg_mut(r.number()) = reg;
                    }
                } else {
                    reg.unlink();
                }
                self.cur.frame_at_mut(frame).stack[slot_index].save(reg, size, keep_invalid);
            }
            (None, Some(imm)) if aligned && self.caps.bpf && self.remembers_constant(imm) => {
                let reg = Reg::constant(i64::from(imm).cast_unsigned());
                self.cur.frame_at_mut(frame).stack[slot_index].save(reg, size, keep_invalid);
            }
            (Some(reg), _) if reg.is_pointer() => {
                if size != SLOT {
                    self.print_line(self.insn, "; ");
                    return Err(reject!(self, EACCES, "invalid size of register spill"));
                }
                if frame != self.cur.depth() && reg.base() == Base::Stack {
                    let text = "cannot spill pointers to stack into stack frame of the caller";
                    return Err(reject!(self, EINVAL, "{text}"));
                }
                self.cur.frame_at_mut(frame).stack[slot_index].save(reg, size, keep_invalid);
            }
            (reg, imm) => {
                let zero = reg.is_some_and(|r| r.is_null()) || (value.is_none() && imm == Some(0));
                if let (true, Some(value)) = (zero, value) {
                    self.mark_precise(value.number())?;
                }
                let kind = if zero || mutant::active(Mutant::ZeroData) { ByteKind::Zero } else { ByteKind::Misc };
                let slot = &mut self.cur.frame_at_mut(frame).stack[slot_index];
                if mutant::active(Mutant::StaleSpill) {
                    return Ok(());
                }
                slot.scrub_special();
                for i in 0..size {
                    slot.bytes[byte.wrapping_sub(i) % SLOT] = kind;
                }
                return Ok(());
            }
        }
        self.step_at(frame, slot_index);
        Ok(())
    }

    /// What a store overwrites on the stack may still be read in speculation.
    fn guard_store(&mut self, slot: &Slot, reg: Option<&Reg>, size: usize) {
        let seen = |kind: &ByteKind| !matches!(kind, ByteKind::Misc | ByteKind::Zero);
        let kept = reg.is_some_and(|reg| reg.is_pointer() && !matches!(reg.base(), Base::Dynptr | Base::TpBuffer));
        if !self.caps.perfmon && (kept || slot.bytes[..size].iter().any(seen)) {
            self.aux[self.insn as usize].nospec_after = true;
        }
    }

    /// Whether a scalar is remembered on the stack when so many bytes of it are stored.
    fn keeps_spill(&self, reg: &Reg, size: usize) -> bool {
        let profile = &self.options.profile;
        (size == SLOT || profile.narrow_spills)
            && (profile.follows_spills || !(reg.bounds.is_unknown() || reg.is_null()))
    }

    /// Whether a stored constant is remembered as a number, and not as bytes.
    fn remembers_constant(&self, imm: i32) -> bool {
        let profile = &self.options.profile;
        profile.stored_constants && (profile.follows_spills || imm != 0)
    }

    /// Whether stack that was not written may be read.
    fn reads_unwritten(&self) -> bool {
        self.caps.perfmon && self.options.profile.unwritten_stack
    }

    /// The immediate of the store being checked.
    fn stored_immediate(&self) -> Option<i32> {
        match self.insn_at(self.insn) {
            Some(Insn::Store { src: Operand::Imm(imm), .. }) => Some(imm),
            _ => None,
        }
    }

    fn write_variable(&mut self, reg: &Reg, off: i32, size: usize, value: Option<R>) -> Check {
        let frame = reg.frame();
        let min = reg.bounds.s64.min + i64::from(off);
        let max = reg.bounds.s64.max + i64::from(off) + i64::try_from(size).unwrap_or(8);
        let zero = match value {
            Some(v) => self.reg(v.number()).is_null(),
            None => self.stored_immediate() == Some(0),
        };
        let mut zero_used = false;
        for at in min..max {
            self.destroy_dynptr_at(frame, place(at).0)?;
        }
        self.note_stack_use(frame, min);
        for at in min..max {
            let (slot_index, byte) = place(at);
            self.scratch_slot(slot_index);
            let slot = &mut self.cur.frame_at_mut(frame).stack[slot_index];
            let old = slot.bytes[byte];
            if zero && old == ByteKind::Spill && slot.is_spilled_scalar() && slot.reg.is_null() {
                zero_used = true;
                continue;
            }
            slot.scrub_special();
            let keep_zero = zero && slot.bytes[byte] == ByteKind::Zero;
            zero_used |= keep_zero;
            slot.bytes[byte] = if keep_zero { ByteKind::Zero } else { ByteKind::Misc };
        }
        if let (true, Some(value)) = (zero_used, value) {
            self.mark_precise(value.number())?;
        }
        Ok(())
    }

    fn read_fixed(&mut self, frame: usize, off: i64, size: usize, dst: Option<R>) -> Check {
        let (slot_index, byte) = place(off);
        self.scratch_slot(slot_index);
        self.note_stack_use(frame, off);
        self.live_stack.read(frame, 1 << slot_index);
        let slot = self.cur.frames[frame].stack[slot_index];
        if !slot.is_spilled() {
            self.check_readable(&slot.bytes, byte, off, size)?;
            if let Some(dst) = dst {
                self.read_data(frame, off, off + i64::try_from(size).unwrap_or(8), dst);
            }
            return Ok(());
        }
        let spilled = slot.bytes.iter().rev().take_while(|b| **b == ByteKind::Spill).count();
        let reg = slot.reg;
        if size != SLOT || spilled != SLOT {
            if !reg.is_scalar() {
                self.print_line(self.insn, "; ");
                return Err(reject!(self, EACCES, "invalid size of register fill"));
            }
            let Some(dst) = dst else { return Ok(()) };
            let whole = size == spilled || self.options.profile.follows_spills;
            if whole && size <= spilled && off % 8 == 0 {
                let mut copy = reg;
                if size < SLOT && reg.bounds.u64.max >= 1u64 << (size * 8) {
                    copy.unlink();
                }
                self.set_reg(dst.number(), copy);
            } else {
                let kinds = (0..size).map(|i| slot.bytes[(SLOT + byte - i) % SLOT]);
                let spills = kinds.clone().filter(|k| *k == ByteKind::Spill).count();
                let zeros = kinds.filter(|k| *k == ByteKind::Zero).count();
                if spills != size {
                    self.check_readable(&slot.bytes, byte, off, size)?;
                }
                if spills == size && reg.is_null() && self.options.profile.follows_spills {
                    self.set_zero(dst);
                } else if zeros == size {
                    self.set_zero(dst);
                    return Ok(());
                } else {
                    self.set_unknown(dst.number());
                    return Ok(());
                }
            }
        } else if let Some(dst) = dst {
            let mut copy = reg;
            if self.caps.bpf && self.options.profile.follows_spills {
                self.identify_scalar(&mut copy);
                self.cur.frame_at_mut(frame).stack[slot_index].reg = copy;
            }
            self.set_reg(dst.number(), copy);
        } else if !self.caps.perfmon && reg.is_pointer() {
            return Err(reject!(self, EACCES, "leaking pointer from stack off {off}"));
        }
        self.step_at(frame, slot_index);
        Ok(())
    }

    fn set_zero(&mut self, dst: R) {
        let precise = !self.caps.bpf;
        self.set_reg(dst.number(), Reg { precise, ..Reg::constant(0) });
    }

    fn check_readable(&mut self, bytes: &[ByteKind; SLOT], byte: usize, off: i64, size: usize) -> Check {
        for i in 0..size {
            let ok = match bytes[(SLOT + byte - i) % SLOT] {
                ByteKind::Misc | ByteKind::Zero | ByteKind::Spill => true,
                ByteKind::Invalid => self.reads_unwritten(),
                ByteKind::Dynptr | ByteKind::Iter | ByteKind::IrqFlag => false,
            };
            if !ok {
                return Err(reject!(self, EACCES, "invalid read from stack off {off}+{i} size {size}"));
            }
        }
        Ok(())
    }

    /// Loads data: zero if every byte is.
    fn read_data(&mut self, frame: usize, min: i64, max: i64, dst: R) {
        let mut zeros = true;
        for at in min..max {
            let (slot, byte) = place(at);
            self.scratch_slot(slot);
            zeros &= self.cur.frames[frame].stack[slot].bytes[byte] == ByteKind::Zero;
            if !zeros {
                break;
            }
        }
        if zeros {
            self.set_zero(dst);
        } else {
            self.set_unknown(dst.number());
        }
    }

    fn read_variable(&mut self, n: u8, reg: &Reg, off: i32, size: usize, dst: R) -> Check {
        let range = StackRange { off, size: i32::try_from(size).unwrap_or(8) };
        self.check_stack_initialized(n, range, false, Access::Read)?;
        let min = reg.bounds.s64.min + i64::from(off);
        let max = reg.bounds.s64.max + i64::from(off) + i64::try_from(size).unwrap_or(8);
        self.read_data(reg.frame(), min, max, dst);
        Ok(())
    }

    /// Every byte that may be read was written, by a helper or through a variable offset. `Write` lets a helper overwrite.
    pub(crate) fn check_stack_initialized(&mut self, n: u8, range: StackRange, zero_ok: bool, access: Access) -> Check {
        let StackRange { off, size } = range;
        if size == 0 && !zero_ok {
            return Err(reject!(self, EACCES, "invalid zero-sized read"));
        }
        // What is not certain to be overwritten is read.
        let reach = if self.options.profile.whole_stack { access } else { Access::Read };
        self.check_stack_bounds(n, off, size, reach)?;
        let reg = *self.reg(n);
        let frame = reg.frame();
        let (min, max) = match reg.bounds.const_value() {
            Some(v) => {
                let at = i64::from(off).wrapping_add(v.cast_signed());
                (at, at)
            }
            None => {
                if !self.caps.perfmon {
                    return Err(self.variable_stack_refused(n, &reg));
                }
                (reg.bounds.s64.min + i64::from(off), reg.bounds.s64.max + i64::from(off))
            }
        };
        self.note_stack_use(frame, min);
        for at in min..max + i64::from(size) {
            let (slot_index, byte) = place(at);
            let slot = self.cur.frames[frame].stack[slot_index];
            let clobber = access == Access::Write;
            match slot.bytes[byte] {
                ByteKind::Misc => {}
                kind @ (ByteKind::Zero | ByteKind::Invalid) if kind == ByteKind::Zero || self.reads_unwritten() => {
                    if clobber {
                        self.cur.frame_at_mut(frame).stack[slot_index].bytes[byte] = ByteKind::Misc;
                    }
                }
                _ if slot.is_spilled() && (slot.reg.is_scalar() || self.caps.perfmon) => {
                    if clobber {
                        let unknown = self.unknown();
                        let slot = &mut self.cur.frame_at_mut(frame).stack[slot_index];
                        slot.reg = unknown;
                        slot.scrub();
                    }
                }
                _ => {
                    let i = at - min;
                    if reg.bounds.is_const() {
                        let text = format!("invalid read from stack R{n} off {min}+{i} size {size}");
                        return Err(reject!(self, EACCES, "{text}"));
                    }
                    let v = reg.bounds.var_off;
                    return Err(reject!(self, EACCES, "invalid read from stack R{n} var_off {v}+{i} size {size}"));
                }
            }
            self.live_stack.read(frame, 1 << slot_index);
        }
        Ok(())
    }
}
