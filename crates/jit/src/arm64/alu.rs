//! Arithmetic: moves, sums, logic, shifts, extensions, byte order.
//!
//! Owns one host sequence per ALU instruction; multiplication and division are in [`super::muldiv`]. Invariant: a 32-bit
//! operation leaves the upper half zero, which every 32-bit host instruction does by itself. Kernel counterpart: the
//! `BPF_ALU` cases of `build_insn`, arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{AluOp, EndKind, Operand, Reg, Width};

use super::asm::{HostReg, Logic, Op3};
use super::{Lower, TMP};

impl Lower<'_> {
    pub(super) fn lower_alu(&mut self, at: usize, width: Width, op: AluOp, dst: Reg, src: Operand) {
        let wide = width == Width::W64;
        match op {
            AluOp::Mov => self.emit_mov(wide, dst, src),
            AluOp::Add => self.emit_add(wide, dst, src, 1),
            AluOp::Sub => self.emit_add(wide, dst, src, -1),
            AluOp::Or => self.emit_logic(wide, Op3::Orr, Logic::Orr, dst, src),
            AluOp::And => self.emit_logic(wide, Op3::And, Logic::And, dst, src),
            AluOp::Xor => self.emit_logic(wide, Op3::Eor, Logic::Eor, dst, src),
            AluOp::Lsh => self.emit_shift(wide, Op3::Lsl, dst, src),
            AluOp::Rsh => self.emit_shift(wide, Op3::Lsr, dst, src),
            AluOp::Arsh => self.emit_shift(wide, Op3::Asr, dst, src),
            AluOp::Mul => self.emit_mul(wide, dst, src),
            AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => self.lower_division(at, wide, op, dst, src),
        }
    }

    fn emit_mov(&mut self, wide: bool, dst: Reg, src: Operand) {
        let to = self.host(dst);
        match src {
            Operand::Imm(imm) => self.asm.mov_imm(to, extended(wide, imm)),
            Operand::Reg(src) => {
                let from = self.read(src, TMP);
                self.asm.mov(wide, to, from);
            }
        }
    }

    /// The operand in a register.
    pub(super) fn operand(&mut self, wide: bool, src: Operand, tmp: HostReg) -> HostReg {
        match src {
            Operand::Reg(src) => self.read(src, tmp),
            Operand::Imm(imm) => {
                self.asm.mov_imm(tmp, extended(wide, imm));
                tmp
            }
        }
    }

    fn emit_add(&mut self, wide: bool, dst: Reg, src: Operand, sign: i32) {
        let to = self.host(dst);
        if let Operand::Imm(imm) = src
            && let Some(imm) = imm.checked_mul(sign)
            && self.asm.try_add_imm(wide, to, to, imm)
        {
            return;
        }
        let from = self.operand(wide, src, TMP);
        self.asm.op3(wide, if sign > 0 { Op3::Add } else { Op3::Sub }, to, to, from);
    }

    fn emit_logic(&mut self, wide: bool, op: Op3, logic: Logic, dst: Reg, src: Operand) {
        let to = self.host(dst);
        if let Operand::Imm(imm) = src {
            // A mask without an upper half leaves none.
            let wide = wide && !(op == Op3::And && imm >= 0);
            if self.asm.try_logic_imm(wide, logic, to, to, extended(wide, imm)) {
                return;
            }
        }
        let from = self.operand(wide, src, TMP);
        self.asm.op3(wide, op, to, to, from);
    }

    fn emit_shift(&mut self, wide: bool, op: Op3, dst: Reg, src: Operand) {
        let to = self.host(dst);
        match src {
            Operand::Imm(by) => {
                let by = by.to_le_bytes()[0] & if wide { 63 } else { 31 };
                if by == 0 {
                    self.asm.mov(wide, to, to);
                } else {
                    self.asm.shift_imm(wide, op, to, to, by);
                }
            }
            Operand::Reg(src) => {
                let by = self.read(src, TMP);
                self.asm.op3(wide, op, to, to, by);
            }
        }
    }

    pub(super) fn emit_movsx(&mut self, width: Width, bits: u8, dst: Reg, src: Reg) {
        let from = self.read(src, TMP);
        self.asm.bitfield(width == Width::W64, true, self.host(dst), from, 0, bits - 1);
    }

    pub(super) fn emit_end(&mut self, kind: EndKind, bits: u8, dst: Reg) {
        let to = self.host(dst);
        match (kind, bits) {
            (EndKind::ToLe, 16) => self.asm.bitfield(false, false, to, to, 0, 15),
            (EndKind::ToLe, 32) => self.asm.mov(false, to, to),
            (EndKind::ToLe, _) => {}
            (_, 16) => {
                self.asm.rev16(to, to);
                self.asm.bitfield(false, false, to, to, 0, 15);
            }
            (_, 32) => self.asm.rev(false, to, to),
            (_, _) => self.asm.rev(true, to, to),
        }
    }
}

/// An immediate as the operation sees it.
pub(super) fn extended(wide: bool, imm: i32) -> u64 {
    if wide { i64::from(imm).cast_unsigned() } else { u64::from(imm.cast_unsigned()) }
}
