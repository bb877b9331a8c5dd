//! Atomic read-modify-write instructions.
//!
//! Owns the two ways: single instructions of the large system extensions, or loops of exclusive loads and stores. Invariant:
//! fetching operations are ordered both ways, others not at all, as Linux's `atomic_t` rules say; 32-bit results end up
//! zero-extended. Kernel counterpart: `emit_lse_atomic`, `emit_ll_sc_atomic`, arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{AtomicOp, Reg, Size};

use super::asm::{HostReg, Log2, Lse, Op3, ZR};
use super::{Lower, TMP2, TMP3, TMP4};

impl Lower<'_> {
    pub(super) fn lower_atomic(&mut self, op: AtomicOp, fetch: bool, size: Size, base: Reg, off: i16, src: Reg) {
        let at = self.plain_address(base, off);
        self.emit_atomic(op, fetch, size, at, src);
    }

    /// The same at an address in a register.
    pub(super) fn emit_atomic(&mut self, op: AtomicOp, fetch: bool, size: Size, at: HostReg, src: Reg) {
        let value = self.read(src, TMP2);
        let size = super::memory::log2(size);
        if op == AtomicOp::Cmpxchg {
            self.emit_cmpxchg(size, at, value);
        } else if self.options.features.lse {
            let (lse, mut operand) = match op {
                AtomicOp::Add => (Lse::Add, value),
                AtomicOp::Or => (Lse::Set, value),
                AtomicOp::And => (Lse::Clr, TMP3),
                AtomicOp::Xor => (Lse::Eor, value),
                _ => (Lse::Swp, value),
            };
            if op == AtomicOp::And {
                // The instruction clears bits.
                self.asm.mvn(true, TMP3, value);
                operand = TMP3;
            }
            self.asm.lse(size, lse, operand, if fetch { value } else { ZR }, at);
        } else {
            self.emit_exclusive(op, fetch, size, at, value);
        }
    }

    fn emit_cmpxchg(&mut self, size: Log2, at: HostReg, value: HostReg) {
        let r0 = self.host(Reg::R0);
        if self.options.features.lse {
            // The comparison register is also the result; a base or new value in it is read before.
            self.asm.casal(size, r0, value, at);
            return;
        }
        let (again, out) = (self.asm.new_label(), self.asm.new_label());
        let wide = size == Log2(3);
        self.asm.bind(again);
        self.asm.load_exclusive(size, TMP3, at);
        self.asm.op3(wide, Op3::Eor, TMP4, TMP3, r0);
        self.asm.jump_if_zero(wide, false, TMP4, out);
        self.asm.store_exclusive(size, TMP4, value, at);
        self.asm.jump_if_zero(false, false, TMP4, again);
        self.asm.barrier();
        self.asm.bind(out);
        self.asm.mov(wide, r0, TMP3);
    }

    fn emit_exclusive(&mut self, op: AtomicOp, fetch: bool, size: Log2, at: HostReg, value: HostReg) {
        let wide = size == Log2(3);
        let again = self.asm.new_label();
        // TMP holds the address and TMP2 the value, where they are no registers of the program.
        let (old, new, status) = (TMP3, TMP4, super::x(16));
        self.asm.bind(again);
        self.asm.load_exclusive(size, old, at);
        let store = match op {
            AtomicOp::Add => Some(Op3::Add),
            AtomicOp::Or => Some(Op3::Orr),
            AtomicOp::And => Some(Op3::And),
            AtomicOp::Xor => Some(Op3::Eor),
            AtomicOp::Xchg | AtomicOp::Cmpxchg => None,
        };
        let stored = match store {
            Some(op) => {
                self.asm.op3(wide, op, new, old, value);
                new
            }
            None => value,
        };
        self.asm.store_exclusive(size, status, stored, at);
        self.asm.jump_if_zero(false, false, status, again);
        if fetch {
            self.asm.barrier();
            self.asm.mov(wide, value, old);
        }
    }
}
