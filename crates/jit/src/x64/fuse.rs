//! Several ops as one host instruction.
//!
//! Owns the patterns that only this CPU has: memory operands of arithmetic and comparisons, three-operand forms, tests.
//! Invariant: a pattern never spans a jump target, and a register that it leaves unwritten is dead. Kernel counterpart: none.

use skep_abi::{AluOp, Insn, JmpOp, Operand, Reg, Size, Width};

use super::asm::{Arith, Mem, OpSize, Shift};
use super::branch::condition;
use super::memory::op_size;
use super::{Flags, Lower};
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
            Op::Insn(Insn::Load { size, sign_extend: false, dst, base, off }) => {
                let mem = self.mem(base, off);
                if base != dst
                    && let Some(last) = self.fuse_update(at, size, dst, mem)
                {
                    return Some(last);
                }
                self.fuse_load(at, size, dst, mem)
            }
            Op::LoadPercpu { size, sign_extend: false, dst, off } => {
                let mem = Mem::new(self.frame.cpu, off);
                self.fuse_update(at, size, dst, mem).or_else(|| self.fuse_load(at, size, dst, mem))
            }
            Op::LoadIndexed { size, sign_extend: false, dst, base, index, off } => {
                let mem = Mem::indexed(self.host(base), self.host(index), 0, i32::from(off));
                self.fuse_load(at, size, dst, mem)
            }
            Op::Insn(Insn::Alu { width, op: AluOp::And, dst, src: Operand::Imm(imm) }) => {
                self.fuse_test(at, width, dst, dst, imm)
            }
            Op::Insn(Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Reg(src) })
                if src != Reg::R10 && src != dst =>
            {
                self.fuse_mov(at, width, dst, src)
            }
            _ => None,
        }
    }

    /// `t = *mem; t += x; *mem = t`, where `t` is not used afterwards: one instruction on memory.
    fn fuse_update(&mut self, at: usize, size: Size, t: Reg, mem: Mem) -> Option<usize> {
        let (middle, Op::Insn(Insn::Alu { width, op, dst, src })) = self.next_op(at)? else { return None };
        let (last, store) = self.next_op(middle)?;
        let (store_size, stored, to) = match store {
            Op::Insn(Insn::Store { size, base, off, src }) => (size, src, self.mem(base, off)),
            Op::StorePercpu { size, src, off } => (size, src, Mem::new(self.frame.cpu, off)),
            _ => return None,
        };
        let op = arith(op)?;
        // Narrow results are the low bits of an operation of any width.
        if (size == Size::Dw && width == Width::W32)
            || dst != t
            || stored != Operand::Reg(t)
            || store_size != size
            || to != mem
            || matches!(src, Operand::Reg(src) if src == t || src == Reg::R10)
            || self.live_after(last).has(t)
        {
            return None;
        }
        match src {
            Operand::Imm(imm) => self.asm.arith_mem_imm(op_size(size), op, mem, imm),
            Operand::Reg(src) => {
                let from = self.host(src);
                self.asm.arith_mem(op_size(size), op, mem, from);
            }
        }
        self.flags = None;
        Some(last)
    }

    /// A load whose only use is the next op.
    fn fuse_load(&mut self, at: usize, size: Size, loaded: Reg, mem: Mem) -> Option<usize> {
        let (next, op) = self.next_op(at)?;
        if self.live_after(next).has(loaded) && !matches!(op, Op::Insn(Insn::Alu { .. })) {
            return None;
        }
        match op {
            Op::Insn(insn @ Insn::Jcond { width, op, dst, src: Operand::Imm(imm), .. }) if dst == loaded => {
                self.fuse_load_compare(next, insn, (width, op), size, mem, imm)
            }
            Op::Insn(insn @ Insn::Jcond { width, op, dst, src: Operand::Reg(src), .. })
                if src == loaded && dst != loaded && dst != Reg::R10 && op != JmpOp::Set =>
            {
                if !matches!((size, width), (Size::W, Width::W32) | (Size::Dw, _))
                    || (size == Size::Dw && width == Width::W32)
                {
                    return None;
                }
                let left = self.host(dst);
                self.asm.arith(width == Width::W64, Arith::Cmp, left, mem);
                self.flags = None;
                Some(self.emit_branch(next, insn, condition(op)))
            }
            Op::Insn(Insn::Alu { width, op, dst, src: Operand::Reg(src) }) if src == loaded && dst != loaded => {
                if self.live_after(next).has(loaded) {
                    return None;
                }
                let fits = matches!((size, width), (Size::W, Width::W32) | (Size::Dw, Width::W64));
                if !fits {
                    return None;
                }
                let (wide, to) = (width == Width::W64, self.host(dst));
                if op == AluOp::Mul {
                    self.asm.imul(wide, to, mem);
                    self.flags = None;
                } else {
                    self.asm.arith(wide, arith(op)?, to, mem);
                    self.flags = Some(Flags { reg: to, wide });
                }
                Some(next)
            }
            _ => None,
        }
    }

    /// `if *(size *)mem op imm`: in the size of the access, where the zero-extended comparison means the same.
    fn fuse_load_compare(
        &mut self,
        next: usize,
        insn: Insn,
        (width, op): (Width, JmpOp),
        size: Size,
        mem: Mem,
        imm: i32,
    ) -> Option<usize> {
        let signed = matches!(op, JmpOp::Sgt | JmpOp::Sge | JmpOp::Slt | JmpOp::Sle);
        if op == JmpOp::Set {
            return None;
        }
        match size {
            Size::B | Size::H => {
                let limit = if size == Size::B { 0xff } else { 0xffff };
                // Both sides are not negative, so a signed comparison is an unsigned one.
                if !(0..=limit).contains(&imm) {
                    return None;
                }
                self.asm.cmp_narrow(op_size(size), mem, u16::try_from(imm).ok()?);
            }
            Size::W if width == Width::W32 => self.asm.arith_imm(false, Arith::Cmp, mem, imm),
            // The value is below 2^32: an immediate that is not negative compares unsigned in 32 bits.
            Size::W if imm >= 0 && !signed => self.asm.arith_imm(false, Arith::Cmp, mem, imm),
            Size::Dw if width == Width::W64 => self.asm.arith_imm(true, Arith::Cmp, mem, imm),
            Size::W | Size::Dw => return None,
        }
        self.flags = None;
        let op = match op {
            JmpOp::Sgt if size.bytes() < 4 => JmpOp::Gt,
            JmpOp::Sge if size.bytes() < 4 => JmpOp::Ge,
            JmpOp::Slt if size.bytes() < 4 => JmpOp::Lt,
            JmpOp::Sle if size.bytes() < 4 => JmpOp::Le,
            other => other,
        };
        Some(self.emit_branch(next, insn, condition(op)))
    }

    /// `t = x; t &= imm; if t == 0`, or without the copy, where `t` is not used afterwards.
    fn fuse_test(&mut self, at: usize, width: Width, t: Reg, x: Reg, imm: i32) -> Option<usize> {
        let (next, Op::Insn(insn @ Insn::Jcond { width: jump_width, op, dst, src: Operand::Imm(0), .. })) =
            self.next_op(at)?
        else {
            return None;
        };
        let same_width = jump_width == width || imm >= 0 || width == Width::W32;
        if dst != t || !matches!(op, JmpOp::Eq | JmpOp::Ne) || !same_width || self.live_after(next).has(t) {
            return None;
        }
        let from = self.host(x);
        self.asm.test_imm(width == Width::W64, from, imm);
        self.flags = None;
        Some(self.emit_branch(next, insn, condition(op)))
    }

    /// A copy and an operation on the copy.
    fn fuse_mov(&mut self, at: usize, width: Width, dst: Reg, src: Reg) -> Option<usize> {
        let (next, op) = self.next_op(at)?;
        let Op::Insn(Insn::Alu { width: op_width, op, dst: op_dst, src: operand }) = op else { return None };
        // A 32-bit copy before a 64-bit operation extends; the three-operand form would not.
        if op_dst != dst || (width == Width::W32 && op_width == Width::W64) {
            return None;
        }
        let wide = op_width == Width::W64;
        let (to, from) = (self.host(dst), self.host(src));
        match (op, operand) {
            (AluOp::And, Operand::Imm(imm)) => {
                if let Some((after, Op::Insn(Insn::Jcond { .. }))) = self.next_op(next)
                    && let Some(last) = self.fuse_test(next, op_width, dst, src, imm)
                {
                    let _ = after;
                    return Some(last);
                }
                let size = match imm {
                    0xff => OpSize::B8,
                    0xffff => OpSize::B16,
                    _ => return None,
                };
                self.asm.movzx(size, to, from);
            }
            (AluOp::Mul, Operand::Imm(imm)) => self.emit_mul_imm(wide, to, from, imm),
            (AluOp::Lsh, Operand::Imm(by @ 1..=3)) => {
                let scale = by.to_le_bytes()[0];
                if scale == 1 {
                    self.asm.lea(wide, to, Mem::indexed(from, from, 0, 0));
                } else {
                    return None;
                }
            }
            (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Reg(by))
                if self.options.features.bmi2 && by != dst && by != Reg::R10 =>
            {
                let shift = match op {
                    AluOp::Lsh => Shift::Shl,
                    AluOp::Rsh => Shift::Shr,
                    _ => Shift::Sar,
                };
                let by = self.host(by);
                self.asm.shift_x(wide, shift, to, from, by);
            }
            _ => return None,
        }
        self.flags = None;
        Some(next)
    }
}

/// The arithmetic instruction of an operation whose low bits depend on low bits alone.
const fn arith(op: AluOp) -> Option<Arith> {
    match op {
        AluOp::Add => Some(Arith::Add),
        AluOp::Sub => Some(Arith::Sub),
        AluOp::Or => Some(Arith::Or),
        AluOp::And => Some(Arith::And),
        AluOp::Xor => Some(Arith::Xor),
        _ => None,
    }
}
