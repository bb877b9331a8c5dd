//! Tail calls in three shapes.
//!
//! *Poked* (map and index are constants): a patch site, no-op while the slot is empty, then an unwinding stub and a patched
//! jump. *Cached* (the map is constant): its size and its table of targets are immediates. *Dynamic*: both are read from the
//! map object. Order of the checks: index bound (unsigned, 32 bits), the counter (33), the empty slot; only a call that
//! happens is counted. Invariant: the target is entered with the stack as this program found it, rdi the context and rsi the
//! vCPU's base. Kernel counterpart: `emit_bpf_tail_call_indirect`, `emit_bpf_tail_call_direct`,
//! arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::Reg;

use super::asm::{Arith, Cond, HostReg, Mem, OpSize, RSI};
use super::memory::missing;
use super::relax::{Label, NOP5};
use super::{Cold, Lower, PendingSite, Site, TMP, TMP2};
use crate::error::JitError;
use crate::layout::{MapAccess, ProgArrayObject};

/// Most tail calls of one run.
const MAX_TAIL_CALL_CNT: i32 = 33;

impl Lower<'_> {
    pub(super) fn lower_tail_call(&mut self, at: usize, map: Option<u32>, poke: Option<u16>) -> Result<(), JitError> {
        let fall = self.asm.new_label();
        if let Some(index) = poke {
            self.emit_count_check(fall);
            let stub = self.asm.new_label();
            self.emit_site(PendingSite::PokeGate { index, stub });
            self.cold.push(Cold::Poke { at: stub, index });
        } else if let Some(map) = map {
            let MapAccess::ProgArray { targets, max_entries } = self.map(at, i64::from(map))?.access else {
                return Err(missing(at, i64::from(map), "table of targets"));
            };
            let index = self.host(Reg::R3);
            self.asm.arith_imm(false, Arith::Cmp, index, max_entries.cast_signed());
            self.asm.jcc(Cond::AE, fall);
            self.emit_count_check(fall);
            let index = self.extended_index(at, index);
            self.asm.mov_imm(TMP, targets, false);
            self.emit_indirect(index, fall);
        } else {
            let (object, index) = (self.host(Reg::R2), self.host(Reg::R3));
            self.asm.arith(false, Arith::Cmp, index, Mem::new(object, ProgArrayObject::MAX_ENTRIES));
            self.asm.jcc(Cond::AE, fall);
            self.emit_count_check(fall);
            let index = self.extended_index(at, index);
            self.asm.movzx(OpSize::B64, TMP, Mem::new(object, ProgArrayObject::TARGETS));
            self.emit_indirect(index, fall);
        }
        self.asm.bind(fall);
        Ok(())
    }

    fn counter(&self) -> Mem {
        Mem::new(self.frame.cpu, self.layout.tail_calls)
    }

    fn emit_count_check(&mut self, fall: Label) {
        let counter = self.counter();
        self.asm.arith_imm(false, Arith::Cmp, counter, MAX_TAIL_CALL_CNT);
        self.asm.jcc(Cond::AE, fall);
    }

    /// The 32-bit index as a 64-bit one.
    fn extended_index(&mut self, at: usize, index: HostReg) -> HostReg {
        if self.options.optimize && self.flow.slot(at).zext.has(Reg::R3) {
            return index;
        }
        self.asm.mov(false, TMP2, index);
        TMP2
    }

    /// Loads the target from the table in TMP and jumps to it unless it is empty.
    fn emit_indirect(&mut self, index: HostReg, fall: Label) {
        self.asm.movzx(OpSize::B64, TMP, Mem::indexed(TMP, index, 3, 0));
        self.asm.test(true, TMP, TMP);
        self.asm.jcc(Cond::E, fall);
        self.emit_departure();
        self.asm.jmp_reg(TMP);
    }

    /// Counts, passes the vCPU on, and drops this program's frame.
    fn emit_departure(&mut self) {
        let counter = self.counter();
        self.asm.arith_imm(false, Arith::Add, counter, 1);
        self.asm.mov(true, RSI, self.frame.cpu);
        self.frame.emit_unwind(&mut self.asm);
    }

    /// The cold half of a poked call.
    pub(super) fn emit_poke_stub(&mut self, at: Label, index: u16) {
        self.asm.bind(at);
        self.emit_departure();
        self.emit_site(PendingSite::PokeTarget { index });
        // The gate opens only after the site above holds its jump.
        self.asm.raw(&[0x0f, 0x0b]);
    }

    pub(super) fn emit_site(&mut self, kind: PendingSite) {
        self.asm.align_site();
        let at = self.asm.here();
        self.asm.raw(&NOP5);
        self.sites.push(Site { at, kind });
    }
}
