//! Atomic read-modify-write instructions.
//!
//! Owns `lock`ed arithmetic and the compare-exchange loops of the fetching logic operations, which the CPU does not have.
//! Invariant: fetched 32-bit values end up zero-extended. Kernel counterpart: `emit_atomic_rmw`,
//! arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::{AtomicOp, Reg, Size};

use super::asm::{Arith, Cond, HostReg, Mem, RAX};
use super::{Lower, TMP, TMP2};

impl Lower<'_> {
    pub(super) fn lower_atomic(&mut self, at: usize, op: AtomicOp, fetch: bool, size: Size, mem: Mem, src: Reg) {
        let wide = size == Size::Dw;
        match op {
            AtomicOp::Xchg => {
                let from = self.host(src);
                self.asm.xchg(wide, mem, from);
            }
            AtomicOp::Cmpxchg => {
                let from = self.read(src, TMP);
                self.asm.lock_cmpxchg(wide, mem, from);
                if !wide {
                    // On success eax is not written, so its upper half still is the program's.
                    self.asm.mov(false, RAX, RAX);
                }
            }
            AtomicOp::Add if fetch => {
                let from = self.host(src);
                self.asm.lock_xadd(wide, mem, from);
            }
            AtomicOp::Add => self.lock_arith(wide, Arith::Add, mem, src),
            AtomicOp::Or if !fetch => self.lock_arith(wide, Arith::Or, mem, src),
            AtomicOp::And if !fetch => self.lock_arith(wide, Arith::And, mem, src),
            AtomicOp::Xor if !fetch => self.lock_arith(wide, Arith::Xor, mem, src),
            AtomicOp::Or => self.emit_fetch_loop(at, wide, Arith::Or, mem, src),
            AtomicOp::And => self.emit_fetch_loop(at, wide, Arith::And, mem, src),
            AtomicOp::Xor => self.emit_fetch_loop(at, wide, Arith::Xor, mem, src),
        }
    }

    fn lock_arith(&mut self, wide: bool, op: Arith, mem: Mem, src: Reg) {
        let from = self.read(src, TMP);
        self.asm.lock_arith(wide, op, mem, from);
    }

    /// `rax` holds the value expected and found; `r0` waits in TMP unless nobody needs it.
    fn emit_fetch_loop(&mut self, at: usize, wide: bool, op: Arith, mut mem: Mem, src: Reg) {
        let result = self.host(src);
        let keep = result != RAX && self.live_after(at).has(Reg::R0);
        let mut operand: HostReg = result;
        if keep || result == RAX || mem.base == RAX {
            self.asm.mov(true, TMP, RAX);
            if mem.base == RAX {
                mem.base = TMP;
            }
            if result == RAX {
                operand = TMP;
            }
        }
        self.asm.movzx(super::asm::OpSize::wide(wide), RAX, mem);
        let again = self.asm.new_label();
        self.asm.bind(again);
        self.asm.mov(true, TMP2, RAX);
        self.asm.arith(wide, op, TMP2, operand);
        self.asm.lock_cmpxchg(wide, mem, TMP2);
        self.asm.jcc(Cond::NE, again);
        if result != RAX {
            self.asm.mov(wide, result, RAX);
        }
        if keep {
            self.asm.mov(true, RAX, TMP);
        }
    }
}
