//! Multiplication and division.
//!
//! Owns the choice between multiplication by a reciprocal (constant divisors, Granlund and Montgomery 1994), shifts, and the
//! `div` instruction with what eBPF asks around it: x / 0 = 0, x % 0 = x, INT_MIN / -1 = INT_MIN, INT_MIN % -1 = 0.
//! Invariant: rax and rdx come back unless nobody reads them. Kernel counterpart: the `BPF_DIV` cases of `do_jit`,
//! arch/x86/net/bpf_jit_comp.c, 6.18, and `fixup` code of kernel/bpf/verifier.c.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modular arithmetic on reciprocals")]

use skep_abi::{AluOp, Operand, Reg};

use super::asm::{Arith, Cond, HostReg, Mem, R9, RAX, RDX, Shift, Unary};
use super::relax::Label;
use super::{Cold, Lower, TMP, TMP2};

/// A division being lowered.
#[derive(Clone, Copy)]
struct Division {
    wide: bool,
    signed: bool,
    modulo: bool,
    to: HostReg,
}

/// Divisors that `div` must not see.
#[derive(Clone, Copy)]
pub(super) struct SpecialDivision {
    division: Division,
    divisor: HostReg,
    pub(super) at: Label,
    back: Label,
}

impl Lower<'_> {
    pub(super) fn emit_mul(&mut self, wide: bool, dst: Reg, src: Operand) {
        let to = self.host(dst);
        match src {
            Operand::Reg(src) => {
                let from = self.read(src, TMP);
                self.asm.imul(wide, to, from);
            }
            Operand::Imm(imm) => self.emit_mul_imm(wide, to, to, imm),
        }
    }

    /// `to = from * imm`.
    pub(super) fn emit_mul_imm(&mut self, wide: bool, to: HostReg, from: HostReg, imm: i32) {
        match imm {
            0 => self.asm.mov_imm(to, 0, false),
            1 => self.asm.mov(wide, to, from),
            3 | 5 | 9 => {
                let scale = [0, 0, 0, 1, 0, 2, 0, 0, 0, 3].get(imm as usize).copied().unwrap_or(0);
                self.asm.lea(wide, to, Mem::indexed(from, from, scale, 0));
            }
            2.. if imm.count_ones() == 1 => {
                if to != from {
                    self.asm.mov(wide, to, from);
                }
                self.asm.shift_imm(wide, Shift::Shl, to, imm.trailing_zeros() as u8);
            }
            _ => self.asm.imul_imm(wide, to, from, imm),
        }
    }

    pub(super) fn lower_division(&mut self, at: usize, wide: bool, op: AluOp, dst: Reg, src: Operand) {
        let signed = matches!(op, AluOp::Sdiv | AluOp::Smod);
        let modulo = matches!(op, AluOp::Mod | AluOp::Smod);
        let division = Division { wide, signed, modulo, to: self.host(dst) };
        match src {
            Operand::Reg(src) => {
                let zext = self.flow.slot(at).zext;
                let narrow = self.options.optimize && !signed && zext.has(dst) && zext.has(src);
                let divisor = self.read(src, TMP);
                self.emit_div(at, Division { wide: wide && !narrow, ..division }, divisor);
            }
            Operand::Imm(imm) if signed => self.emit_sdiv_const(division, imm),
            Operand::Imm(imm) => {
                let divisor = if wide { i64::from(imm) as u64 } else { u64::from(imm as u32) };
                self.emit_udiv_const(at, division, divisor, imm);
            }
        }
    }

    /// Division by a register.
    fn emit_div(&mut self, at: usize, division: Division, divisor: HostReg) {
        let Division { wide, signed, modulo, to } = division;
        let info = self.flow.slot(at);
        let live = self.live_after(at);
        let done = self.asm.new_label();
        if !(info.divisor_nonzero && (!signed || info.divisor_not_minus_one)) {
            let special = self.asm.new_label();
            if signed {
                // 0 and -1 become 1 and 0.
                self.asm.lea(wide, TMP2, Mem::new(divisor, 1));
                self.asm.arith_imm(wide, Arith::Cmp, TMP2, 1);
                self.asm.jcc(Cond::BE, special);
            } else {
                self.asm.test(wide, divisor, divisor);
                self.asm.jcc(Cond::E, special);
            }
            self.cold.push(Cold::Division(SpecialDivision { division, divisor, at: special, back: done }));
        }
        let keep_rax = to != RAX && live.has(Reg::R0);
        let keep_rdx = to != RDX && live.has(Reg::R3);
        let mut by = divisor;
        if divisor == RAX || divisor == RDX {
            self.asm.mov(true, TMP, divisor);
            by = TMP;
        }
        if keep_rax && divisor != RAX {
            self.asm.mov(true, R9, RAX);
        }
        if keep_rdx && divisor != RDX {
            self.asm.mov(true, TMP2, RDX);
        }
        if to != RAX {
            self.asm.mov(wide, RAX, to);
        }
        if signed {
            self.asm.sign_extend_rax(wide);
            self.asm.unary(wide, Unary::Idiv, by);
        } else {
            self.asm.mov_imm(RDX, 0, false);
            self.asm.unary(wide, Unary::Div, by);
        }
        let result = if modulo { RDX } else { RAX };
        if to != result {
            self.asm.mov(wide, to, result);
        }
        if keep_rax {
            self.asm.mov(true, RAX, if divisor == RAX { TMP } else { R9 });
        }
        if keep_rdx {
            self.asm.mov(true, RDX, if divisor == RDX { TMP } else { TMP2 });
        }
        self.asm.bind(done);
    }

    /// The cold part: the divisor is 0, or -1 in a signed division.
    pub(super) fn emit_special_division(&mut self, special: &SpecialDivision) {
        let SpecialDivision { division: Division { wide, signed, modulo, to }, divisor, back, .. } = *special;
        if signed {
            let zero = self.asm.new_label();
            self.asm.test(wide, divisor, divisor);
            self.asm.jcc(Cond::E, zero);
            if modulo {
                self.asm.mov_imm(to, 0, false);
            } else {
                self.asm.unary(wide, Unary::Neg, to);
            }
            self.asm.jmp(back);
            self.asm.bind(zero);
        }
        if !modulo {
            self.asm.mov_imm(to, 0, false);
        } else if !wide {
            self.asm.mov(false, to, to);
        }
        self.asm.jmp(back);
    }

    fn emit_udiv_const(&mut self, at: usize, division: Division, divisor: u64, imm: i32) {
        let Division { wide, modulo, to, .. } = division;
        match (divisor, modulo) {
            // The verifier refuses it; defined all the same.
            (0, false) => self.asm.mov_imm(to, 0, false),
            (0, true) | (1, false) => {
                if !wide {
                    self.asm.mov(false, to, to);
                }
            }
            (1, true) => self.asm.mov_imm(to, 0, false),
            _ if divisor.is_power_of_two() && modulo => {
                self.asm.arith_imm(false, Arith::And, to, (divisor - 1) as i32);
            }
            _ if divisor.is_power_of_two() => {
                self.asm.shift_imm(wide, Shift::Shr, to, divisor.trailing_zeros() as u8);
            }
            _ if wide => {
                self.emit_quotient64(at, to, divisor);
                self.finish_const(division, imm);
            }
            _ => {
                self.emit_quotient32(to, divisor);
                self.finish_const(division, imm);
            }
        }
    }

    /// TMP holds the quotient: store it, or the remainder.
    fn finish_const(&mut self, division: Division, imm: i32) {
        let Division { wide, modulo, to, .. } = division;
        if modulo {
            self.asm.imul_imm(wide, TMP, TMP, imm);
            self.asm.arith(wide, Arith::Sub, to, TMP);
        } else {
            self.asm.mov(wide, to, TMP);
        }
    }

    /// TMP = low half of `to` / `divisor`.
    fn emit_quotient32(&mut self, to: HostReg, divisor: u64) {
        let magic = Unsigned::new(divisor, 32);
        self.asm.mov(false, TMP2, to);
        if let Ok(imm) = i32::try_from(magic.multiplier) {
            self.asm.imul_imm(true, TMP, TMP2, imm);
        } else {
            self.asm.mov_imm(TMP, magic.multiplier, false);
            self.asm.imul(true, TMP, TMP2);
        }
        if magic.overflows {
            self.asm.shift_imm(true, Shift::Shr, TMP, 32);
            self.asm.arith(false, Arith::Sub, TMP2, TMP);
            self.asm.shift_imm(false, Shift::Shr, TMP2, 1);
            self.asm.arith(false, Arith::Add, TMP, TMP2);
            self.asm.shift_imm(false, Shift::Shr, TMP, magic.shift - 1);
        } else {
            self.asm.shift_imm(true, Shift::Shr, TMP, 32 + magic.shift);
        }
    }

    /// TMP = `to` / `divisor`.
    fn emit_quotient64(&mut self, at: usize, to: HostReg, divisor: u64) {
        let magic = Unsigned::new(divisor, 64);
        self.asm.mov_imm(TMP, magic.multiplier, false);
        if self.options.features.bmi2 {
            let keep_rdx = to != RDX && self.live_after(at).has(Reg::R3);
            if keep_rdx {
                self.asm.mov(true, TMP2, RDX);
            }
            self.asm.mov(true, RDX, to);
            self.asm.mulx(true, TMP, TMP, TMP);
            if keep_rdx {
                self.asm.mov(true, RDX, TMP2);
            }
        } else {
            self.emit_high_half(to, Unary::Mul);
        }
        if magic.overflows {
            self.asm.mov(true, TMP2, to);
            self.asm.arith(true, Arith::Sub, TMP2, TMP);
            self.asm.shift_imm(true, Shift::Shr, TMP2, 1);
            self.asm.arith(true, Arith::Add, TMP, TMP2);
            self.asm.shift_imm(true, Shift::Shr, TMP, magic.shift - 1);
        } else {
            self.asm.shift_imm(true, Shift::Shr, TMP, magic.shift);
        }
    }

    /// TMP = high half of TMP * `to`; all other registers but TMP2 and r9 stay.
    fn emit_high_half(&mut self, to: HostReg, op: Unary) {
        self.asm.mov(true, R9, RAX);
        self.asm.mov(true, TMP2, RDX);
        self.asm.mov(true, RAX, to);
        self.asm.unary(true, op, TMP);
        self.asm.mov(true, TMP, RDX);
        self.asm.mov(true, RDX, TMP2);
        self.asm.mov(true, RAX, R9);
    }

    fn emit_sdiv_const(&mut self, division: Division, imm: i32) {
        let Division { wide, modulo, to, .. } = division;
        match (imm, modulo) {
            (0, false) | (1 | -1, true) => return self.asm.mov_imm(to, 0, false),
            (0, true) | (1, false) => {
                if !wide {
                    self.asm.mov(false, to, to);
                }
                return;
            }
            (-1, false) => return self.asm.unary(wide, Unary::Neg, to),
            _ => {}
        }
        let magnitude = imm.unsigned_abs();
        // log2, rounded up; at least 1 because the magnitude is at least 2.
        let log = 32 - (magnitude - 1).leading_zeros();
        if wide {
            let multiplier = (1_u128 << (63 + log)) / u128::from(magnitude) + 1;
            self.asm.mov_imm(TMP, multiplier as u64, false);
            self.emit_high_half(to, Unary::Imul);
            self.asm.arith(true, Arith::Add, TMP, to);
            self.asm.shift_imm(true, Shift::Sar, TMP, (log - 1) as u8);
            self.asm.mov(true, TMP2, to);
        } else {
            let multiplier = (1_u64 << (31 + log)) / u64::from(magnitude) + 1;
            self.asm.movsx(true, super::asm::OpSize::B32, TMP2, to);
            self.asm.mov_imm(TMP, multiplier, false);
            self.asm.imul(true, TMP, TMP2);
            self.asm.shift_imm(true, Shift::Sar, TMP, (31 + log) as u8);
        }
        // Rounded down so far; towards zero means one more for a negative dividend.
        self.asm.shift_imm(true, Shift::Shr, TMP2, 63);
        self.asm.arith(true, Arith::Add, TMP, TMP2);
        if imm < 0 {
            self.asm.unary(true, Unary::Neg, TMP);
        }
        self.finish_const(division, imm);
    }
}

/// Reciprocal of an unsigned constant that is no power of two: `x / d = x * multiplier >> (bits + shift)`, or, when the
/// multiplier has one bit more than `bits` (not stored), with `t = x * multiplier >> bits`:
/// `x / d = ((x - t) / 2 + t) >> (shift - 1)`.
struct Unsigned {
    multiplier: u64,
    shift: u8,
    overflows: bool,
}

impl Unsigned {
    fn new(divisor: u64, bits: u32) -> Self {
        let log = 64 - (divisor - 1).leading_zeros();
        // The smallest shift whose rounded-up reciprocal is exact for all x: its error is at most 2^shift.
        for shift in 0..log {
            let power = 1_u128.checked_shl(bits + shift).unwrap_or(0);
            let multiplier = power / u128::from(divisor) + 1;
            let error = multiplier * u128::from(divisor) - power;
            if error <= 1 << shift && multiplier >> bits == 0 {
                return Self { multiplier: multiplier as u64, shift: shift as u8, overflows: false };
            }
        }
        let excess = (1_u128 << log) - u128::from(divisor);
        let multiplier = (excess << bits) / u128::from(divisor) + 1;
        Self { multiplier: multiplier as u64, shift: log as u8, overflows: true }
    }
}
