//! Jumps and exits.
//!
//! Owns conditions: zero tests are single instructions, comparisons take immediates where they have a form. Kernel
//! counterpart: the `BPF_JMP` cases of `build_insn`, arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{Insn, JmpOp, Operand, Reg, Width};

use super::asm::{Cond, HostReg, Logic};
use super::relax::Label;
use super::{Cold, Lower, TMP, TMP2};
use crate::flow::Op;
use crate::flow::decode::target;

/// What a conditional jump tests.
#[derive(Clone, Copy)]
pub(super) enum Test {
    Flags(Cond),
    Zero { wide: bool, reg: HostReg, zero: bool },
}

impl Lower<'_> {
    /// Emits the comparison and the jump; returns the last slot done.
    pub(super) fn lower_jcond(&mut self, at: usize, insn: Insn, parts: (Width, JmpOp, Reg, Operand)) -> usize {
        let (width, op, dst, src) = parts;
        let wide = width == Width::W64;
        let left = self.read(dst, TMP);
        let test = match (op, src) {
            (JmpOp::Eq | JmpOp::Ne, Operand::Imm(0)) => Test::Zero { wide, reg: left, zero: op == JmpOp::Eq },
            (JmpOp::Set, _) => {
                self.emit_test(wide, left, src);
                Test::Flags(Cond::NE)
            }
            (_, Operand::Imm(imm)) if self.asm.try_cmp_imm(wide, left, imm) => Test::Flags(condition(op)),
            _ => {
                let right = self.operand(wide, src, TMP2);
                self.asm.cmp(wide, left, right);
                Test::Flags(condition(op))
            }
        };
        self.emit_branch(at, insn, test)
    }

    pub(super) fn emit_test(&mut self, wide: bool, left: HostReg, src: Operand) {
        if let Operand::Imm(imm) = src
            && self.asm.try_logic_imm(wide, Logic::Tst, left, left, super::alu::extended(wide, imm))
        {
            return;
        }
        let right = self.operand(wide, src, TMP2);
        self.asm.tst(wide, left, right);
    }

    /// The conditional jump `insn` at `at`; a jump over an unconditional one becomes one jump. Returns the last slot done.
    pub(super) fn emit_branch(&mut self, at: usize, insn: Insn, test: Test) -> usize {
        let Some(to) = target(&insn, at) else { return at };
        if to == at + 1 {
            return at;
        }
        if self.options.optimize
            && to == at + 2
            && !self.flow.slot(at + 1).leader
            && let Op::Insn(over @ Insn::Ja { .. }) = self.flow.op(at + 1)
            && let Some(far) = target(&over, at + 1)
        {
            self.emit_jump_if(test, true, self.slots.at(far));
            return at + 1;
        }
        self.emit_jump_if(test, false, self.slots.at(to));
        at
    }

    fn emit_jump_if(&mut self, test: Test, invert: bool, to: Label) {
        match test {
            Test::Flags(cond) => self.asm.jcc(if invert { cond.inverted() } else { cond }, to),
            Test::Zero { wide, reg, zero } => self.asm.jump_if_zero(wide, zero != invert, reg, to),
        }
    }

    pub(super) fn emit_ja(&mut self, at: usize, insn: Insn) {
        let Some(to) = target(&insn, at) else { return };
        if self.options.optimize && self.flow.op(to) == Op::Insn(Insn::Exit) && self.frame.leaves_quickly() {
            self.emit_leave();
        } else if to != at + 1 {
            self.asm.jmp(self.slots.at(to));
        }
    }

    pub(super) fn emit_exit(&mut self) {
        if let Some(exit) = self.exit
            && self.exit_bound
            && !self.frame.leaves_quickly()
        {
            self.asm.jmp(exit);
            return;
        }
        let exit = self.exit_label();
        if !self.exit_bound {
            self.asm.bind(exit);
            self.exit_bound = true;
        }
        self.emit_leave();
    }

    /// The label of the subprogram's first exit, bound or not yet.
    pub(super) fn exit_label(&mut self) -> Label {
        match self.exit {
            Some(exit) => exit,
            None => {
                let exit = self.asm.new_label();
                self.exit = Some(exit);
                exit
            }
        }
    }

    fn emit_leave(&mut self) {
        self.asm.mov(true, super::x(0), self.host(Reg::R0));
        self.frame.emit_unwind(&mut self.asm);
        self.asm.ret();
    }

    /// Out-of-line parts of the subprogram just emitted.
    pub(super) fn emit_cold(&mut self) {
        if let Some(exit) = self.exit
            && !self.exit_bound
        {
            // Something leaves, but no exit instruction is left.
            self.asm.bind(exit);
            self.emit_leave();
        }
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Null { at, to } => {
                    self.asm.bind(at);
                    self.asm.mov_imm(self.host(Reg::R0), 0);
                    self.asm.jmp(to);
                }
                Cold::Poke { at, index } => self.emit_poke_stub(at, index),
            }
        }
    }
}

pub(super) const fn condition(op: JmpOp) -> Cond {
    match op {
        JmpOp::Eq => Cond::EQ,
        JmpOp::Ne | JmpOp::Set => Cond::NE,
        JmpOp::Gt => Cond::HI,
        JmpOp::Ge => Cond::HS,
        JmpOp::Lt => Cond::LO,
        JmpOp::Le => Cond::LS,
        JmpOp::Sgt => Cond::GT,
        JmpOp::Sge => Cond::GE,
        JmpOp::Slt => Cond::LT,
        JmpOp::Sle => Cond::LE,
    }
}
