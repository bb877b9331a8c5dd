//! Multiplication and division.
//!
//! The CPU divides by 0 to 0 and INT_MIN by -1 to INT_MIN, as eBPF wants; remainders come from a multiplication, which makes
//! x % 0 = x and INT_MIN % -1 = 0 as well. Invariant: no checks are needed. Kernel counterpart: the `BPF_DIV` cases of
//! `build_insn`, arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{AluOp, Operand, Reg};

use super::asm::{Logic, Op3};
use super::{Lower, TMP, TMP2};

impl Lower<'_> {
    pub(super) fn emit_mul(&mut self, wide: bool, dst: Reg, src: Operand) {
        let to = self.host(dst);
        match src {
            Operand::Imm(imm @ 1..) if imm.count_ones() == 1 => {
                let by = imm.trailing_zeros().to_le_bytes()[0];
                if by == 0 {
                    self.asm.mov(wide, to, to);
                } else {
                    self.asm.shift_imm(wide, Op3::Lsl, to, to, by);
                }
            }
            _ => {
                let from = self.operand(wide, src, TMP);
                self.asm.op3(wide, Op3::Mul, to, to, from);
            }
        }
    }

    pub(super) fn lower_division(&mut self, at: usize, wide: bool, op: AluOp, dst: Reg, src: Operand) {
        let to = self.host(dst);
        let signed = matches!(op, AluOp::Sdiv | AluOp::Smod);
        let modulo = matches!(op, AluOp::Mod | AluOp::Smod);
        if let Operand::Imm(imm @ 2..) = src
            && !signed
            && imm.count_ones() == 1
        {
            if modulo {
                self.asm.try_logic_imm(false, Logic::And, to, to, u64::from(imm.unsigned_abs() - 1));
            } else {
                self.asm.shift_imm(wide, Op3::Lsr, to, to, imm.trailing_zeros().to_le_bytes()[0]);
            }
            return;
        }
        let zext = self.flow.slot(at).zext;
        let narrow = match src {
            Operand::Reg(src) => zext.has(src),
            Operand::Imm(imm) => imm >= 0,
        };
        let wide = wide && !(self.options.optimize && narrow && !signed && zext.has(dst));
        let by = self.operand(wide, src, TMP);
        let op = if signed { Op3::Sdiv } else { Op3::Udiv };
        if modulo {
            self.asm.op3(wide, op, TMP2, to, by);
            self.asm.msub(wide, to, TMP2, by, to);
        } else {
            self.asm.op3(wide, op, to, to, by);
        }
    }
}
