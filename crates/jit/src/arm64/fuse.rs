//! Several ops as one host instruction.
//!
//! Owns the patterns that only this CPU has: bit tests. Invariant: a pattern never spans a
//! jump target, and a register that it leaves unwritten is dead. Kernel counterpart: none.

use skep_abi::{AluOp, Insn, JmpOp, Operand, Reg, Width};

use super::asm::Cond;
use super::branch::Test;
use super::{Lower, TMP};
use crate::flow::Op;

impl Lower<'_> {
    /// The next op behind `at` that does something, unless a jump may arrive before or at it.
    pub(super) fn next_op(&self, at: usize) -> Option<(usize, Op)> {
        let mut next = at + 1;
        loop {
            if self.flow.slot(next).leader {
                return None;
            }
            match self.flow.ops.get(next)? {
                Op::Nop => next += 1,
                op => return Some((next, *op)),
            }
        }
    }

    /// Emits `op` and its successors as one, if there is a pattern; returns the last slot done.
    pub(super) fn fuse(&mut self, at: usize, op: Op) -> Option<usize> {
        match op {
            Op::Insn(Insn::Alu { width, op: AluOp::And, dst, src: Operand::Imm(imm) }) => {
                self.fuse_test(at, width, dst, imm)
            }
            _ => None,
        }
    }

    /// `t &= imm; if t == 0`, where `t` is not used afterwards.
    fn fuse_test(&mut self, at: usize, width: Width, t: Reg, imm: i32) -> Option<usize> {
        let (next, Op::Insn(insn @ Insn::Jcond { width: jump_width, op, dst, src: Operand::Imm(0), .. })) =
            self.next_op(at)?
        else {
            return None;
        };
        let same_width = jump_width == width || imm >= 0 || width == Width::W32;
        if dst != t || !matches!(op, JmpOp::Eq | JmpOp::Ne) || !same_width || self.live_after(next).has(t) {
            return None;
        }
        let from = self.read(t, TMP);
        self.emit_test(width == Width::W64, from, Operand::Imm(imm));
        let cond = if op == JmpOp::Eq { Cond::EQ } else { Cond::NE };
        Some(self.emit_branch(next, insn, Test::Flags(cond)))
    }
}
