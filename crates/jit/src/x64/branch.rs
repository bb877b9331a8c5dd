//! Jumps and exits.
//!
//! Owns conditions: comparison and jump stay adjacent so that the CPU fuses them, and a comparison with zero is left out
//! where the flags already tell. Kernel counterpart: the `BPF_JMP` cases of `do_jit`, arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::{Insn, JmpOp, Operand, Reg, Width};

use super::asm::{Arith, Cond};
use super::relax::Label;
use super::{Cold, Flags, Lower, TMP, TMP2};
use crate::flow::Op;
use crate::flow::decode::target;

impl Lower<'_> {
    /// Emits the comparison and the jump; returns the last slot done.
    pub(super) fn lower_jcond(
        &mut self,
        at: usize,
        insn: Insn,
        parts: (Width, JmpOp, Reg, Operand),
        flags: Option<Flags>,
    ) -> usize {
        let (width, op, dst, src) = parts;
        let mut wide = width == Width::W64;
        let left = self.read(dst, TMP);
        let flags_tell = matches!(op, JmpOp::Eq | JmpOp::Ne)
            && src == Operand::Imm(0)
            && flags.is_some_and(|flags| flags.reg == left && (wide || !flags.wide));
        match src {
            _ if flags_tell => {}
            Operand::Reg(src) => {
                let right = self.read(src, TMP2);
                if op == JmpOp::Set {
                    self.asm.test(wide, left, right);
                } else {
                    self.asm.arith(wide, Arith::Cmp, left, right);
                }
            }
            Operand::Imm(imm) => {
                let signed = matches!(op, JmpOp::Sgt | JmpOp::Sge | JmpOp::Slt | JmpOp::Sle);
                if !signed && imm >= 0 && self.flow.slot(at).zext.has(dst) {
                    wide = false;
                }
                if op == JmpOp::Set {
                    self.asm.test_imm(wide, left, imm);
                } else if imm == 0 {
                    self.asm.test(wide, left, left);
                } else {
                    self.asm.arith_imm(wide, Arith::Cmp, left, imm);
                }
            }
        }
        self.emit_branch(at, insn, condition(op))
    }

    /// The conditional jump `insn` at `at`; a jump over an unconditional one becomes one jump. Returns the last slot done.
    pub(super) fn emit_branch(&mut self, at: usize, insn: Insn, cond: Cond) -> usize {
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
            self.asm.jcc(cond.inverted(), self.slots.at(far));
            return at + 1;
        }
        self.asm.jcc(cond, self.slots.at(to));
        at
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
                    self.asm.mov_imm(self.host(Reg::R0), 0, false);
                    self.asm.jmp(to);
                }
                Cold::Division(special) => {
                    self.asm.bind(special.at);
                    self.emit_special_division(&special);
                }
                Cold::Poke { at, index } => self.emit_poke_stub(at, index),
            }
        }
    }

    /// Whether the next op only asks whether the register of `flags` is zero.
    pub(super) fn next_tests(&self, at: usize, flags: Flags) -> bool {
        self.next_op(at).is_some_and(|(_, op)| {
            matches!(op, Op::Insn(Insn::Jcond { op: JmpOp::Eq | JmpOp::Ne, dst, src: Operand::Imm(0), .. })
                if dst != Reg::R10 && self.host(dst) == flags.reg)
        })
    }
}

pub(super) const fn condition(op: JmpOp) -> Cond {
    match op {
        JmpOp::Eq => Cond::E,
        JmpOp::Ne | JmpOp::Set => Cond::NE,
        JmpOp::Gt => Cond::A,
        JmpOp::Ge => Cond::AE,
        JmpOp::Lt => Cond::B,
        JmpOp::Le => Cond::BE,
        JmpOp::Sgt => Cond::G,
        JmpOp::Sge => Cond::GE,
        JmpOp::Slt => Cond::L,
        JmpOp::Sle => Cond::LE,
    }
}
