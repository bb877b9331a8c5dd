//! Tail calls in three shapes: poked, cached, dynamic; see the x64 file of this name for what they are.
//!
//! A patch site is one `nop` or `b`, swapped by one aligned store. Order of the checks: index bound (unsigned, 32 bits), the
//! counter (33), the empty slot; only a call that happens is counted. Invariant: the target is entered with stack and link
//! register as this program found them, x0 the context and x1 the vCPU's base. Kernel counterpart: `emit_bpf_tail_call`,
//! arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{Reg, Size};

use super::asm::{Cond, HostReg, Mem, NOP, x};
use super::memory::missing;
use super::relax::Label;
use super::{Cold, Lower, PendingSite, Site, TMP, TMP2, TMP3};
use crate::error::JitError;
use crate::layout::{MapAccess, ProgArrayObject};

/// Most tail calls of one run.
const MAX_TAIL_CALL_CNT: u32 = 33;

/// `brk #0`.
const BRK: u32 = 0xd420_0000;

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
            self.emit_compare(index, max_entries);
            self.asm.jcc(Cond::HS, fall);
            self.emit_count_check(fall);
            self.asm.mov_imm(TMP, targets);
            self.emit_indirect(index, fall);
        } else {
            let (object, index) = (self.host(Reg::R2), self.host(Reg::R3));
            self.emit_access(Size::W, 1, TMP, Mem { base: object, off: ProgArrayObject::MAX_ENTRIES });
            self.asm.cmp(false, index, TMP);
            self.asm.jcc(Cond::HS, fall);
            self.emit_count_check(fall);
            self.emit_access(Size::Dw, 1, TMP, Mem { base: object, off: ProgArrayObject::TARGETS });
            self.emit_indirect(index, fall);
        }
        self.asm.bind(fall);
        Ok(())
    }

    fn counter(&self) -> Mem {
        Mem { base: self.frame.cpu, off: self.layout.tail_calls }
    }

    /// Leaves the counter in TMP3.
    fn emit_count_check(&mut self, fall: Label) {
        self.emit_access(Size::W, 1, TMP3, self.counter());
        self.emit_compare(TMP3, MAX_TAIL_CALL_CNT);
        self.asm.jcc(Cond::HS, fall);
    }

    /// Loads the target from the table in TMP and jumps to it unless it is empty.
    fn emit_indirect(&mut self, index: HostReg, fall: Label) {
        // The index is 32 bits.
        self.asm.mov(false, TMP2, index);
        self.asm.load_word_at(TMP2, TMP, TMP2);
        self.asm.jump_if_zero(true, true, TMP2, fall);
        self.emit_departure();
        self.asm.jmp_reg(TMP2);
    }

    /// Counts, passes the vCPU on, and drops this program's frame.
    fn emit_departure(&mut self) {
        self.asm.try_add_imm(false, TMP3, TMP3, 1);
        self.emit_access(Size::W, 0, TMP3, self.counter());
        self.asm.mov(true, x(1), self.frame.cpu);
        self.frame.emit_unwind(&mut self.asm);
    }

    /// The cold half of a poked call.
    pub(super) fn emit_poke_stub(&mut self, at: Label, index: u16) {
        self.asm.bind(at);
        self.emit_departure();
        self.emit_site(PendingSite::PokeTarget { index });
        // The gate opens only after the site above holds its jump.
        self.asm.put(BRK);
    }

    pub(super) fn emit_site(&mut self, kind: PendingSite) {
        let at = self.asm.here();
        self.asm.put(NOP);
        self.sites.push(Site { at, kind });
    }
}
