//! Arithmetic: moves, sums, logic, shifts, extensions, byte order.
//!
//! Owns one host sequence per ALU instruction; multiplication and division are in [`super::muldiv`]. Invariant: a 32-bit
//! operation leaves the upper half zero, which every 32-bit host instruction does by itself. Kernel counterpart: the
//! `BPF_ALU` cases of `do_jit`, arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::{AluOp, EndKind, Operand, Reg, Width};

use super::asm::{Arith, HostReg, Mem, OpSize, RCX, Shift, Unary};
use super::{Flags, Lower, TMP};

impl Lower<'_> {
    pub(super) fn lower_alu(
        &mut self,
        at: usize,
        width: Width,
        op: AluOp,
        dst: Reg,
        src: Operand,
        flags: Option<Flags>,
    ) {
        let wide = width == Width::W64;
        match op {
            AluOp::Mov => self.emit_mov(at, wide, dst, src, flags),
            AluOp::Add => self.emit_arith(wide, Arith::Add, dst, src),
            AluOp::Sub => self.emit_arith(wide, Arith::Sub, dst, src),
            AluOp::Or => self.emit_arith(wide, Arith::Or, dst, src),
            AluOp::And => self.emit_arith(wide, Arith::And, dst, src),
            AluOp::Xor => self.emit_arith(wide, Arith::Xor, dst, src),
            AluOp::Lsh => self.emit_shift(at, wide, Shift::Shl, dst, src),
            AluOp::Rsh => self.emit_shift(at, wide, Shift::Shr, dst, src),
            AluOp::Arsh => self.emit_shift(at, wide, Shift::Sar, dst, src),
            AluOp::Mul => self.emit_mul(wide, dst, src),
            AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => self.lower_division(at, wide, op, dst, src),
        }
    }

    fn emit_mov(&mut self, at: usize, wide: bool, dst: Reg, src: Operand, flags: Option<Flags>) {
        let to = self.host(dst);
        match src {
            Operand::Imm(imm) => {
                let value = if wide { i64::from(imm).cast_unsigned() } else { u64::from(imm.cast_unsigned()) };
                let keep = flags.filter(|flags| flags.reg != to && self.next_tests(at, *flags));
                self.asm.mov_imm(to, value, keep.is_some());
                self.flags = keep;
            }
            Operand::Reg(Reg::R10) => {
                let mem = self.frame.mem(Reg::R10, 0);
                self.asm.lea(wide, to, mem);
            }
            Operand::Reg(src) => {
                let from = self.host(src);
                self.asm.mov(wide, to, from);
                self.flags = flags.filter(|flags| flags.reg != to);
            }
        }
    }

    fn emit_arith(&mut self, wide: bool, op: Arith, dst: Reg, src: Operand) {
        let to = self.host(dst);
        let imm = match src {
            Operand::Reg(src) => {
                let from = self.read(src, TMP);
                self.asm.arith(wide, op, to, from);
                self.flags = Some(Flags { reg: to, wide });
                return;
            }
            Operand::Imm(imm) => imm,
        };
        match (op, imm) {
            (Arith::And, 0xff) => self.asm.movzx(OpSize::B8, to, to),
            (Arith::And, 0xffff) => self.asm.movzx(OpSize::B16, to, to),
            (Arith::And, 0) => self.asm.mov_imm(to, 0, false),
            // The mask has no upper half: neither has the result.
            (Arith::And, 1..) => {
                self.asm.arith_imm(false, op, to, imm);
                self.flags = Some(Flags { reg: to, wide: false });
            }
            (Arith::And, -1) | (Arith::Add | Arith::Sub | Arith::Or | Arith::Xor, 0) => {
                if !wide {
                    self.asm.mov(false, to, to);
                }
            }
            (Arith::Xor, -1) => self.asm.unary(wide, Unary::Not, to),
            // -128 has a one-byte form, 128 has not.
            (Arith::Add, 128) => self.arith_imm(wide, Arith::Sub, to, -128),
            (Arith::Sub, 128) => self.arith_imm(wide, Arith::Add, to, -128),
            _ => self.arith_imm(wide, op, to, imm),
        }
    }

    fn arith_imm(&mut self, wide: bool, op: Arith, to: HostReg, imm: i32) {
        self.asm.arith_imm(wide, op, to, imm);
        self.flags = Some(Flags { reg: to, wide });
    }

    fn emit_shift(&mut self, at: usize, wide: bool, op: Shift, dst: Reg, src: Operand) {
        let to = self.host(dst);
        match src {
            Operand::Imm(by) => {
                let by = by.to_le_bytes()[0] & if wide { 63 } else { 31 };
                if by == 0 && !wide {
                    self.asm.mov(false, to, to);
                }
                self.asm.shift_imm(wide, op, to, by);
            }
            Operand::Reg(src) => {
                let by = self.read(src, TMP);
                if self.options.features.bmi2 {
                    self.asm.shift_x(wide, op, to, to, by);
                } else if by == RCX {
                    self.asm.shift_cl(wide, op, to);
                } else {
                    self.emit_shift_cl(at, wide, op, to, by);
                }
            }
        }
    }

    /// A shift by a register that is not rcx, without BMI2.
    fn emit_shift_cl(&mut self, at: usize, wide: bool, op: Shift, to: HostReg, by: HostReg) {
        if to == RCX {
            self.asm.mov(true, super::TMP2, RCX);
            self.asm.mov(false, RCX, by);
            self.asm.shift_cl(wide, op, super::TMP2);
            self.asm.mov(true, RCX, super::TMP2);
            return;
        }
        let keep = self.live_after(at).has(Reg::R4);
        if keep {
            self.asm.mov(true, super::TMP2, RCX);
        }
        self.asm.mov(false, RCX, by);
        self.asm.shift_cl(wide, op, to);
        if keep {
            self.asm.mov(true, RCX, super::TMP2);
        }
    }

    pub(super) fn emit_rotate(&mut self, width: Width, dst: Reg, src: Reg, left: u8) {
        let wide = width == Width::W64;
        let (to, from) = (self.host(dst), self.read(src, TMP));
        let bits = if wide { 64 } else { 32 };
        if to != from && self.options.features.bmi2 {
            self.asm.rorx(wide, to, from, (bits - left) % bits);
            return;
        }
        self.asm.mov(true, to, from);
        self.asm.shift_imm(wide, Shift::Rol, to, left);
    }

    pub(super) fn emit_add_imm(&mut self, dst: Reg, base: Reg, imm: i32) {
        let to = self.host(dst);
        let mem = self.frame.mem(base, imm);
        if mem.disp == 0 {
            self.asm.mov(true, to, mem.base);
        } else if mem.base == to {
            self.arith_imm(true, Arith::Add, to, mem.disp);
        } else {
            self.asm.lea(true, to, mem);
        }
    }

    pub(super) fn emit_movsx(&mut self, width: Width, bits: u8, dst: Reg, src: Reg) {
        let size = match bits {
            8 => OpSize::B8,
            16 => OpSize::B16,
            _ => OpSize::B32,
        };
        let from = self.read(src, TMP);
        self.asm.movsx(width == Width::W64, size, self.host(dst), from);
    }

    pub(super) fn emit_neg(&mut self, width: Width, dst: Reg) {
        let to = self.host(dst);
        self.asm.unary(width == Width::W64, Unary::Neg, to);
        self.flags = Some(Flags { reg: to, wide: width == Width::W64 });
    }

    pub(super) fn emit_end(&mut self, kind: EndKind, bits: u8, dst: Reg) {
        let to = self.host(dst);
        match (kind, bits) {
            (EndKind::ToLe, 16) => self.asm.movzx(OpSize::B16, to, to),
            (EndKind::ToLe, 32) => self.asm.mov(false, to, to),
            (EndKind::ToLe, _) => {}
            (_, 16) => {
                self.asm.bswap(false, to);
                self.asm.shift_imm(false, Shift::Shr, to, 16);
            }
            (_, 32) => self.asm.bswap(false, to),
            (_, _) => self.asm.bswap(true, to),
        }
    }

    pub(super) fn emit_percpu(&mut self, dst: Reg, src: Reg) {
        let (to, from, cpu) = (self.host(dst), self.host(src), self.frame.cpu);
        if to == from {
            self.asm.arith(true, Arith::Add, to, cpu);
        } else {
            self.asm.lea(true, to, Mem::indexed(cpu, from, 0, 0));
        }
    }
}
