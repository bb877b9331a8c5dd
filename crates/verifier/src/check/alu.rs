//! Arithmetic on numbers and on pointers.
//!
//! Owns the rules of what may be added to which pointer. Invariant: the fixed and the variable part of a pointer's offset stay
//! within ±2^29, so that later sums of them cannot overflow. Kernel counterpart: `check_alu_op`, `adjust_ptr_min_max_vals`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::{AluOp, EndKind, Insn, Operand, Reg as R, Width};

use crate::env::{Check, Env, reject};
use crate::print::type_name;
use crate::state::bounds::Bounds;
use crate::state::reg::{Base, Extra, Reg, RegType, flags};
use crate::state::scalar_alu;

/// Largest offset of a pointer (`BPF_MAX_VAR_OFF`).
pub(crate) const MAX_VAR_OFF: i64 = 1 << 29;

fn symbol(op: AluOp) -> &'static str {
    match op {
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        AluOp::Div | AluOp::Sdiv => "/=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Mod | AluOp::Smod => "%=",
        AluOp::Xor => "^=",
        AluOp::Mov => "=",
        AluOp::Arsh => "s>>=",
    }
}

impl Env<'_> {
    /// Checks one arithmetic instruction.
    pub(crate) fn check_alu(&mut self, insn: Insn) -> Check {
        match insn {
            Insn::Neg { width, dst } => {
                self.check_src(dst)?;
                self.check_no_pointer_leak(dst)?;
                self.check_dst_no_mark(dst)?;
                let reg = *self.reg(dst.number());
                if reg.is_scalar() && self.options.profile.unary_results {
                    let bounds = scalar_alu::neg(width, &reg.bounds);
                    self.set_scalar_result(dst, reg, bounds);
                    self.reg_mut(dst.number()).unlink();
                } else {
                    self.set_unknown(dst.number());
                }
                Ok(())
            }
            Insn::End { kind, bits, dst } => {
                self.check_src(dst)?;
                self.check_no_pointer_leak(dst)?;
                self.check_dst_no_mark(dst)?;
                let reg = *self.reg(dst.number());
                if !reg.is_scalar() || !self.options.profile.unary_results {
                    self.set_unknown(dst.number());
                } else if kind != EndKind::ToLe || bits != 64 {
                    let bounds = scalar_alu::end(kind, bits, &reg.bounds);
                    let mut new = Reg { bounds, ..reg };
                    new.unlink();
                    self.set_reg(dst.number(), new);
                }
                Ok(())
            }
            Insn::MovSx { width, bits, dst, src } => self.check_mov_reg(width, Some(bits), dst, src),
            Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Reg(src) } => {
                self.check_mov_reg(width, None, dst, src)
            }
            Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Imm(imm) } => {
                self.check_dst_no_mark(dst)?;
                let bounds = scalar_alu::imm(AluOp::Mov, width, imm);
                let precise = !self.caps.bpf;
                self.set_reg(dst.number(), Reg { precise, ..Reg::scalar(bounds) });
                Ok(())
            }
            Insn::Alu { width, op, dst, src } => self.check_binary(width, op, dst, src),
            _ => Err(crate::env::internal!(self, "not arithmetic")),
        }
    }

    fn check_no_pointer_leak(&mut self, dst: R) -> Check {
        if self.leaks(dst.number()) {
            return Err(reject!(self, EACCES, "R{} pointer arithmetic prohibited", dst.number()));
        }
        Ok(())
    }

    fn set_scalar_result(&mut self, dst: R, old: Reg, bounds: Bounds) {
        self.set_reg(dst.number(), Reg { bounds, ..old });
    }

    /// Gives a scalar that is about to be copied an identity, so that a later bound on one is a bound on both.
    pub(crate) fn identify_scalar(&mut self, reg: &mut Reg) {
        if !reg.is_scalar() {
            return;
        }
        if reg.add_const {
            reg.unlink();
        }
        if reg.id == 0 && !reg.bounds.is_const() {
            reg.id = self.new_id();
        }
    }

    fn check_mov_reg(&mut self, width: Width, sign_from: Option<u8>, dst: R, src: R) -> Check {
        self.check_src(src)?;
        self.check_dst_no_mark(dst)?;
        let s = src.number();
        let mut value = *self.reg(s);
        if width == Width::W64 && sign_from.is_none() {
            self.identify_scalar(&mut value);
            *self.reg_mut(s) = value;
            self.set_reg(dst.number(), value);
            return Ok(());
        }
        if self.leaks(s) {
            let text = if width == Width::W64 { "sign-extension part of" } else { "partial copy of" };
            return Err(reject!(self, EACCES, "R{s} {text} pointer"));
        }
        if !value.is_scalar() {
            self.set_unknown(dst.number());
            if width == Width::W32 {
                let reg = self.reg_mut(dst.number());
                reg.bounds.zero_extend32();
                reg.bounds.sync();
            }
            return Ok(());
        }
        let unchanged = match sign_from {
            None => value.bounds.fits_u32() && self.options.profile.links_low_halves,
            Some(bits) => value.bounds.u64.max < 1u64 << (bits - 1),
        };
        if unchanged {
            self.identify_scalar(&mut value);
            *self.reg_mut(s) = value;
        }
        let mut result = value;
        if !unchanged {
            result.unlink();
        }
        match sign_from {
            Some(bits) => result.bounds = value.bounds.movsx(width, bits),
            None => {
                result.bounds.zero_extend32();
                result.bounds.sync();
            }
        }
        self.set_reg(dst.number(), result);
        Ok(())
    }

    fn check_binary(&mut self, width: Width, op: AluOp, dst: R, src: Operand) -> Check {
        if let Operand::Reg(src) = src {
            self.check_src(src)?;
        }
        self.check_src(dst)?;
        if let Operand::Imm(imm) = src {
            if matches!(op, AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod) && imm == 0 {
                return Err(reject!(self, EINVAL, "div by zero"));
            }
            let bits = if width == Width::W64 { 64 } else { 32 };
            if matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh) && !(0..bits).contains(&imm) {
                return Err(reject!(self, EINVAL, "invalid shift {imm}"));
            }
        }
        self.check_dst_no_mark(dst)?;
        let d = dst.number();
        let dst_reg = *self.reg(d);
        let src_reg = match src {
            Operand::Reg(s) => *self.reg(s.number()),
            Operand::Imm(imm) => Reg::scalar(scalar_alu::imm(op, width, imm)),
        };
        if self.is_arena_alu(width, &dst_reg, &src_reg) {
            self.set_arena(d);
            return Ok(());
        }
        if !src_reg.is_scalar() {
            if !dst_reg.is_scalar() {
                if op == AluOp::Sub && self.caps.perfmon {
                    self.set_unknown(d);
                    return Ok(());
                }
                return Err(reject!(self, EACCES, "R{d} pointer {} pointer prohibited", symbol(op)));
            }
            self.mark_precise(d)?;
            return self.pointer_alu(width, op, (d, src), src_reg, dst_reg, true);
        }
        if let Operand::Reg(s) = src
            && (!dst_reg.is_scalar() || dst_reg.precise)
        {
            self.mark_precise(s.number())?;
        }
        if !dst_reg.is_scalar() {
            return self.pointer_alu(width, op, (d, src), dst_reg, src_reg, false);
        }
        self.sanitize_numbers(op, dst, src)?;
        let mut dst_reg = dst_reg;
        if let Some((zero, ones)) = scalar_alu::fork(op, &dst_reg.bounds, &src_reg.bounds) {
            let at = self.insn;
            let branch = self.push_branch(at, at, false)?;
            branch.frame_mut().regs[d as usize].bounds = zero;
            dst_reg.bounds = ones;
        }
        self.scalar_binary(width, op, dst, src, dst_reg, src_reg);
        Ok(())
    }

    /// `dst = addr_space_cast(src, to, from)`: of user space's address into a pointer to the arena, or back into a number.
    pub(crate) fn check_addr_space_cast(&mut self, dst: R, src: R, imm: i32) -> Check {
        if self.arena.is_none() {
            let text = "addr_space_cast insn can only be used in a program that has an associated arena";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        self.check_src(src)?;
        self.check_dst(dst)?;
        if imm == 1 {
            self.set_arena(dst.number());
        }
        Ok(())
    }

    /// A pointer to anywhere in the arena.
    fn set_arena(&mut self, reg: u8) {
        let anywhere = Reg { ty: RegType::of(Base::Arena), ..self.unknown() };
        self.set_reg(reg, anywhere);
    }

    /// Whether arithmetic is on a pointer into the arena, or with one: that gives a pointer into the arena, whatever is done,
    /// and is done in 32 bits.
    fn is_arena_alu(&mut self, width: Width, dst: &Reg, src: &Reg) -> bool {
        let is_arena = dst.base() == Base::Arena || src.base() == Base::Arena;
        if self.arena.is_some() && width == Width::W64 {
            let at = self.insn as usize;
            self.facts[at].alu32 |= is_arena;
            let aux = &mut self.aux[at];
            aux.other_alu |= !is_arena;
            if self.facts[at].alu32 && aux.other_alu {
                // The kernel does both in 32 bits, and what it knows of the other is then wrong.
                self.need("one 64-bit operation on pointers into the arena and on other values");
            }
        }
        is_arena
    }

    fn scalar_binary(&mut self, width: Width, op: AluOp, dst: R, src: Operand, dst_reg: Reg, src_reg: Reg) {
        let bounds = scalar_alu::alu(op, width, &dst_reg.bounds, &src_reg.bounds);
        let mut result = Reg { bounds, ..dst_reg };
        // rX += constant keeps the distance to the scalar it was copied from.
        let distance = match (op, src_reg.bounds.const_in(width)) {
            (AluOp::Add, Some(v)) => distance(width, v, false),
            (AluOp::Sub, Some(v)) => distance(width, v, true),
            _ => None,
        };
        let linked = self.caps.bpf
            && self.options.profile.linked_sums
            && dst_reg.id != 0
            && !dst_reg.add_const
            && src != Operand::Reg(dst)
            && (width == Width::W64 || dst_reg.bounds.fits_u32());
        result.unlink();
        if let (true, Some(off)) = (linked, distance) {
            result.id = dst_reg.id;
            result.add_const = true;
            result.add_const32 = width == Width::W32;
            result.off = off;
        }
        self.set_reg(dst.number(), result);
    }

    /// `dst` becomes `pointer op scalar`, or `scalar op pointer` with `reversed`.
    fn pointer_alu(
        &mut self,
        width: Width,
        op: AluOp,
        (d, src): (u8, Operand),
        ptr: Reg,
        scalar: Reg,
        reversed: bool,
    ) -> Check {
        let b = &scalar.bounds;
        let known = b.is_const();
        let bad_known = known && (!b.s64.is_const() || !b.u64.is_const());
        if bad_known || b.s64.is_empty() || b.u64.is_empty() {
            // Bounds from a branch that cannot be taken.
            self.set_unknown(d);
            return Ok(());
        }
        if width == Width::W32 {
            if op == AluOp::Sub && self.caps.perfmon {
                self.set_unknown(d);
                return Ok(());
            }
            return Err(reject!(self, EACCES, "R{d} 32-bit pointer arithmetic prohibited"));
        }
        let name = type_name(ptr.ty);
        if ptr.ty.maybe_null() {
            let text = format!("R{d} pointer arithmetic on {name} prohibited, null-check it first");
            return Err(reject!(self, EACCES, "{text}"));
        }
        if ptr.base() == Base::Mem && ptr.ty.has(flags::UNTRUSTED) {
            self.set_reg(d, ptr);
            return Ok(());
        }
        let allowed = match ptr.base() {
            Base::Ctx
            | Base::MapValue
            | Base::MapKey
            | Base::Stack
            | Base::Packet
            | Base::PacketMeta
            | Base::TpBuffer
            | Base::BtfId
            | Base::Mem
            | Base::Buf
            | Base::Func
            | Base::Dynptr => true,
            Base::FlowKeys => known,
            Base::ConstMap => known && b.s64.min == 0 && op == AluOp::Add,
            _ => false,
        };
        if !allowed {
            return Err(reject!(self, EACCES, "R{d} pointer arithmetic on {name} prohibited"));
        }
        self.check_sane_offset(&scalar, ptr.ty)?;
        self.check_sane_offset(&ptr, ptr.ty)?;
        let step = self.sanitize_move((op, d, src), &ptr, &scalar.bounds, reversed)?;
        let result = match op {
            AluOp::Add => self.pointer_add(ptr, scalar),
            AluOp::Sub => {
                if reversed {
                    return Err(reject!(self, EACCES, "R{d} tried to subtract pointer from scalar"));
                }
                if ptr.base() == Base::Stack {
                    return Err(reject!(self, EACCES, "R{d} subtraction from stack pointer prohibited"));
                }
                self.pointer_sub(ptr, scalar)
            }
            AluOp::And | AluOp::Or | AluOp::Xor => {
                return Err(reject!(self, EACCES, "R{d} bitwise operator {} on pointer prohibited", symbol(op)));
            }
            _ => {
                return Err(reject!(self, EACCES, "R{d} pointer arithmetic with {} operator prohibited", symbol(op)));
            }
        };
        let mut result = result;
        result.precise = false;
        self.set_reg(d, result);
        self.check_sane_offset(&result, ptr.ty)?;
        result.bounds.sync();
        self.set_reg(d, result);
        self.check_unprivileged_pointer(d)?;
        self.sanitize_moved(step, &result)
    }

    fn pointer_add(&mut self, ptr: Reg, scalar: Reg) -> Reg {
        let mut out = ptr;
        if let Some(off) = fixed(&scalar).and_then(|k| i64::from(ptr.off).checked_add(k))
            && let Ok(off) = i32::try_from(off)
        {
            out.off = off;
            out.bounds.unbound32();
            return out;
        }
        out.bounds = scalar_alu::add(&ptr.bounds, &scalar.bounds);
        out.bounds.unbound32();
        if ptr.ty.is_packet() {
            out.id = self.new_id();
            out.extra = Extra::Range(0);
        }
        out
    }

    fn pointer_sub(&mut self, ptr: Reg, scalar: Reg) -> Reg {
        let mut out = ptr;
        if let Some(off) = fixed(&scalar).and_then(|k| i64::from(ptr.off).checked_sub(k))
            && let Ok(off) = i32::try_from(off)
        {
            out.off = off;
            out.bounds.unbound32();
            return out;
        }
        out.bounds = scalar_alu::sub(&ptr.bounds, &scalar.bounds);
        out.bounds.unbound32();
        if ptr.ty.is_packet() {
            out.id = self.new_id();
            if scalar.bounds.s64.min < 0 {
                out.extra = Extra::Range(0);
            }
        }
        out
    }

    fn check_sane_offset(&mut self, reg: &Reg, ty: RegType) -> Check {
        let name = type_name(ty);
        let smin = reg.bounds.s64.min;
        if let Some(v) = reg.bounds.const_value() {
            let v = v.cast_signed();
            if v >= MAX_VAR_OFF || v <= -MAX_VAR_OFF {
                return Err(reject!(self, EINVAL, "math between {name} pointer and {v} is not allowed"));
            }
        }
        if !reg.is_scalar() && (i64::from(reg.off) >= MAX_VAR_OFF || i64::from(reg.off) <= -MAX_VAR_OFF) {
            return Err(reject!(self, EINVAL, "{name} pointer offset {} is not allowed", reg.off));
        }
        if smin == i64::MIN {
            let text = "register with unbounded min value is not allowed";
            return Err(reject!(self, EINVAL, "math between {name} pointer and {text}"));
        }
        if smin >= MAX_VAR_OFF || smin <= -MAX_VAR_OFF {
            return Err(reject!(self, EINVAL, "value {smin} makes {name} pointer be out of bounds"));
        }
        Ok(())
    }

    /// Without `CAP_PERFMON` a pointer must stay within its object at every step.
    fn check_unprivileged_pointer(&mut self, d: u8) -> Check {
        if self.caps.perfmon {
            return Ok(());
        }
        let reg = *self.reg(d);
        match reg.base() {
            Base::Stack => {
                let var = reg.bounds.var_off;
                let off = i64::from(reg.off).wrapping_add(var.value.cast_signed());
                if !reg.bounds.is_const() {
                    let text = format!("variable stack access prohibited for !root, var_off={var}");
                    return Err(reject!(self, EACCES, "R{d} {text} off={off}"));
                }
                if !(-512..0).contains(&off) {
                    let text = "stack pointer arithmetic goes out of range, prohibited for !root";
                    return Err(reject!(self, EACCES, "R{d} {text}; off={off}"));
                }
            }
            Base::MapValue if self.check_map_region(d, reg.off, 1, false, false).is_err() => {
                let text = "pointer arithmetic of map value goes out of range, prohibited for !root";
                return Err(reject!(self, EACCES, "R{d} {text}"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The signed distance that adding or subtracting a constant makes, if it fits.
fn distance(width: Width, value: u64, negate: bool) -> Option<i32> {
    let off = match width {
        Width::W64 => i32::try_from(value.cast_signed()).ok()?,
        Width::W32 => u32::try_from(value & 0xffff_ffff).ok()?.cast_signed(),
    };
    if negate { off.checked_neg() } else { Some(off) }
}

/// The constant of a scalar operand.
fn fixed(scalar: &Reg) -> Option<i64> {
    scalar.bounds.const_value().map(u64::cast_signed)
}
