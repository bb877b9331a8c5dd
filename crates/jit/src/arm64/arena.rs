//! Accesses to the arena.
//!
//! A pointer into the arena is 32 bits, and is added to a base that a register holds. All that such a sum can reach may be read;
//! a store asks the table of pages first, since where there is no page it is lost. Invariant: no instruction here faults, so what
//! the CPU refuses where it is not aligned is tested for that as well. Kernel counterpart: the `BPF_PROBE_MEM32` cases of
//! `build_insn`, arch/arm64/net/bpf_jit_comp.c, 6.18, which has no test and lets stores fault.

use skep_abi::{Insn, Operand, Reg, Size};

use super::asm::{Cond, HostReg, Log2, Logic, Mem, Op3};
use super::memory::log2;
use super::relax::Label;
use super::{Lower, TMP, TMP2, TMP3, unsupported};
use crate::error::JitError;
use crate::flow::narrow_result;
use crate::layout::ArenaTable;

impl Lower<'_> {
    pub(super) fn lower_arena(&mut self, at: usize, insn: Insn) -> Result<(), JitError> {
        let arena = self.arena_base(at)?;
        match insn {
            Insn::Load { size, sign_extend, dst, base, off } => {
                let (to, opc) = (self.host(dst), if sign_extend { 2 } else { 1 });
                self.arena_access(arena, size, opc, to, (base, off));
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                let to = self.host(dst);
                self.arena_access(arena, size, 1, to, (base, off));
                self.asm.barrier();
            }
            Insn::Store { size, base, off, src } => {
                let skip = self.check_page(arena, base, off, size);
                let from = self.stored(src);
                self.arena_access(arena, size, 0, from, (base, off));
                self.asm.bind(skip);
            }
            Insn::StoreRelease { size, base, off, src } => {
                let skip = self.check_page(arena, base, off, size);
                let from = self.stored(Operand::Reg(src));
                self.asm.barrier();
                self.arena_access(arena, size, 0, from, (base, off));
                self.asm.bind(skip);
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let skip = self.check_page(arena, base, off, size);
                self.asm.op3(true, Op3::Add, TMP, self.host(base), arena);
                self.emit_address(TMP, Mem { base: TMP, off: i32::from(off) });
                let low = u64::from(size.bytes()) - 1;
                self.asm.try_logic_imm(true, Logic::Tst, TMP, TMP, low);
                self.asm.jcc(Cond::NE, skip);
                self.emit_atomic(op, fetch, size, TMP, src);
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

    fn arena_base(&self, at: usize) -> Result<HostReg, JitError> {
        self.frame.arena.ok_or_else(|| unsupported(at, "an arena that is not described"))
    }

    /// Store (`opc` 0), zero-extending (1) or sign-extending (2) load. TMP is lost.
    fn arena_access(&mut self, arena: HostReg, size: Size, opc: u32, reg: HostReg, (base, off): (Reg, i16)) {
        let pointer = self.host(base);
        if off == 0 {
            self.asm.access_indexed(log2(size), opc, reg, arena, pointer);
            return;
        }
        self.asm.op3(true, Op3::Add, TMP, pointer, arena);
        let mem = Mem { base: TMP, off: i32::from(off) };
        if !self.asm.try_access(log2(size), opc, reg, mem) {
            self.asm.mov_imm(TMP3, i64::from(off).cast_unsigned());
            self.asm.access_indexed(log2(size), opc, reg, TMP, TMP3);
        }
    }

    /// Goes to the label if there is no page for one of the bytes. TMP and TMP3 are lost.
    fn check_page(&mut self, arena: HostReg, base: Reg, off: i16, size: Size) -> Label {
        let skip = self.asm.new_label();
        let last = i32::from(size.bytes()) - 1;
        for distance in [0, last].into_iter().take(if last == 0 { 1 } else { 2 }) {
            let place = i32::from(off) + ArenaTable::GUARD + distance;
            self.emit_address(TMP, Mem { base: self.host(base), off: place });
            self.asm.shift_imm(true, Op3::Lsr, TMP, TMP, ArenaTable::PAGE_BITS);
            // A number of whole pages, which has a form.
            self.asm.try_add_imm(true, TMP3, arena, ArenaTable::OFFSET);
            self.asm.access_indexed(Log2(0), 1, TMP, TMP3, TMP);
            self.asm.jump_if_zero(false, true, TMP, skip);
        }
        skip
    }

    /// The register that holds what is stored.
    fn stored(&mut self, src: Operand) -> HostReg {
        match src {
            Operand::Imm(0) => super::asm::ZR,
            src => self.operand(true, src, TMP2),
        }
    }

    /// A pointer as user space sees it: with the upper half of the arena's base, and null stays null.
    pub(super) fn emit_cast_user(&mut self, at: usize, dst: Reg, src: Reg) -> Result<(), JitError> {
        let arena = self.arena_base(at)?;
        let (to, from) = (self.host(dst), self.read(src, TMP));
        let skip = self.asm.new_label();
        self.asm.mov(false, to, from);
        self.asm.jump_if_zero(false, true, to, skip);
        self.asm.op3(true, Op3::Add, to, to, arena);
        self.asm.bind(skip);
        Ok(())
    }
}
