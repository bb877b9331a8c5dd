//! Accesses to the arena.
//!
//! A pointer into the arena is 32 bits, and is added to a base that a register holds: a load is one instruction. All that such a
//! sum can reach may be read; a store asks the table of pages first, since where there is no page it is lost. Invariant: no
//! instruction here faults. Kernel counterpart: the `BPF_PROBE_MEM32` cases of `do_jit`, arch/x86/net/bpf_jit_comp.c, 6.18, which
//! has no test and lets stores fault.

use skep_abi::{AtomicOp, Insn, Operand, Reg, Size};

use super::asm::{Arith, Cond, HostReg, Mem, OpSize, Shift};
use super::relax::Label;
use super::{Lower, TMP, TMP2, unsupported};
use crate::error::JitError;
use crate::flow::narrow_result;
use crate::layout::ArenaTable;

impl Lower<'_> {
    pub(super) fn lower_arena(&mut self, at: usize, insn: Insn) -> Result<(), JitError> {
        match insn {
            Insn::Load { size, sign_extend, dst, base, off } => {
                let mem = self.arena_mem(at, base, off)?;
                self.emit_load(size, sign_extend, dst, mem);
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                let mem = self.arena_mem(at, base, off)?;
                self.emit_load(size, false, dst, mem);
            }
            Insn::Store { size, base, off, src } => self.arena_store(at, size, base, off, src)?,
            Insn::StoreRelease { size, base, off, src } => self.arena_store(at, size, base, off, Operand::Reg(src))?,
            Insn::Atomic { op: AtomicOp::And | AtomicOp::Or | AtomicOp::Xor, fetch: true, .. } => {
                return Err(unsupported(at, "an atomic operation on the arena that is a loop"));
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let mem = self.arena_mem(at, base, off)?;
                let skip = self.check_page(mem, size);
                self.lower_atomic(at, op, fetch, size, mem, src);
                self.asm.bind(skip);
                if let Some(result) = narrow_result(&insn) {
                    let result = self.host(result);
                    self.asm.mov(false, result, result);
                }
            }
            _ => return Err(unsupported(at, "an instruction on the arena")),
        }
        Ok(())
    }

    fn arena_store(&mut self, at: usize, size: Size, base: Reg, off: i16, src: Operand) -> Result<(), JitError> {
        let mem = self.arena_mem(at, base, off)?;
        let skip = self.check_page(mem, size);
        self.emit_store_to(size, mem, src);
        self.asm.bind(skip);
        Ok(())
    }

    /// `[arena + base + off]`; TMP2 may hold the arena's base from here on.
    fn arena_mem(&mut self, at: usize, base: Reg, off: i16) -> Result<Mem, JitError> {
        if base == Reg::R10 {
            return Err(JitError::Internal("the frame pointer leads into the arena"));
        }
        let arena = self.arena_base(at)?;
        Ok(Mem::indexed(arena, self.host(base), 0, i32::from(off)))
    }

    fn arena_base(&mut self, at: usize) -> Result<HostReg, JitError> {
        if let Some(reg) = self.frame.arena {
            return Ok(reg);
        }
        let base = self.flow.arena.ok_or_else(|| unsupported(at, "an arena that is not described"))?;
        self.asm.mov_imm(TMP2, base, false);
        Ok(TMP2)
    }

    /// Goes to the label if there is no page for one of the bytes. TMP is lost.
    fn check_page(&mut self, mem: Mem, size: Size) -> Label {
        let skip = self.asm.new_label();
        let pointer = mem.index.map_or(mem.base, |(index, _)| index);
        let last = i32::from(size.bytes()) - 1;
        for distance in [0, last].into_iter().take(if last == 0 { 1 } else { 2 }) {
            self.asm.lea(true, TMP, Mem::new(pointer, mem.disp + ArenaTable::GUARD + distance));
            self.asm.shift_imm(true, Shift::Shr, TMP, ArenaTable::PAGE_BITS);
            let entry = Mem::indexed(mem.base, TMP, 0, ArenaTable::OFFSET);
            self.asm.arith_mem_imm(OpSize::B8, Arith::Cmp, entry, 0);
            self.asm.jcc(Cond::E, skip);
        }
        skip
    }

    /// A pointer as user space sees it: with the upper half of the arena's base, and null stays null.
    pub(super) fn emit_cast_user(&mut self, at: usize, dst: Reg, src: Reg) -> Result<(), JitError> {
        let arena = self.arena_base(at)?;
        let (to, from) = (self.host(dst), self.read(src, TMP));
        let skip = self.asm.new_label();
        self.asm.mov(false, to, from);
        self.asm.test(false, to, to);
        self.asm.jcc(Cond::E, skip);
        self.asm.arith(true, Arith::Add, to, arena);
        self.asm.bind(skip);
        Ok(())
    }
}
