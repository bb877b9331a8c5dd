//! The program's entry: the statistics site, and the stub that counts.
//!
//! Owns the two timestamps around a run. Invariant: the site is the first instruction, and a tail call enters behind it, so a
//! chain counts once, for the program that was run. Kernel counterpart: `__bpf_prog_run`, include/linux/filter.h, 6.18,
//! whose static key `bpf_stats_enabled_key` this site is.

use super::asm::{Arith, Mem, R9, R12, R13, RAX, RBX, RCX, RDI, RDX, RSI, Shift, Unary};
use super::{Lower, PendingSite};
use crate::error::JitError;
use crate::layout::StatsLayout;

/// `bpf_ktime_get_ns`.
const KTIME_GET_NS: u32 = 5;

impl Lower<'_> {
    /// The entry: the site, if statistics have somewhere to go; of an extension, the way in for whoever enters a program.
    pub(super) fn emit_entry(&mut self) {
        if self.flow.is_extension {
            self.emit_thunk(0, RSI);
            self.asm.align(4, 15);
            return;
        }
        let clock = self.layout.tsc.is_some() || self.layout.helpers.contains_key(&KTIME_GET_NS);
        if self.layout.stats.is_some() && clock {
            let stub = self.asm.new_label();
            self.stats_stub = Some(stub);
            self.emit_site(PendingSite::Stats { stub });
        }
    }

    /// The stub: time, run, time, add.
    pub(super) fn emit_stats_stub(&mut self) -> Result<(), JitError> {
        let (Some(stub), Some(off)) = (self.stats_stub, self.layout.stats) else { return Ok(()) };
        self.asm.align(4, 15);
        self.asm.bind(stub);
        for reg in [RBX, R12, R13] {
            self.asm.push(reg);
        }
        self.asm.mov(true, R12, RSI);
        if self.layout.tsc.is_some() {
            self.emit_rdtsc();
            self.asm.mov(true, RBX, RAX);
        } else {
            self.asm.mov(true, R13, RDI);
            self.emit_clock_call()?;
            self.asm.mov(true, RBX, RAX);
            self.asm.mov(true, RDI, R13);
            self.asm.mov(true, RSI, R12);
        }
        self.asm.call(self.entries.at(0));
        self.asm.mov(true, R13, RAX);
        if let Some(scale) = self.layout.tsc {
            self.emit_rdtsc();
            self.asm.arith(true, Arith::Sub, RAX, RBX);
            self.asm.mov_imm(RCX, u64::from(scale.mult), false);
            self.asm.unary(true, Unary::Mul, RCX);
            self.asm.shrd_imm(RAX, RDX, scale.shift.min(63));
        } else {
            self.emit_clock_call()?;
            self.asm.arith(true, Arith::Sub, RAX, RBX);
        }
        let mut base = R12;
        let mut at = i32::try_from(off).ok().filter(|at| at.checked_add(64).is_some());
        if at.is_none() {
            self.asm.mov_imm(RCX, off.cast_unsigned(), false);
            self.asm.arith(true, Arith::Add, RCX, R12);
            base = RCX;
            at = Some(0);
        }
        let word = |field: i64| Mem::new(base, at.unwrap_or(0) + i32::try_from(field).unwrap_or(0));
        self.asm.arith_mem(super::asm::OpSize::B64, Arith::Add, word(StatsLayout::RUN_TIME_NS), RAX);
        self.asm.arith_imm(true, Arith::Add, word(StatsLayout::RUN_CNT), 1);
        self.asm.mov(true, RAX, R13);
        for reg in [R13, R12, RBX] {
            self.asm.pop(reg);
        }
        self.asm.ret();
        Ok(())
    }

    /// `rax` = the time-stamp counter; rdx is lost.
    fn emit_rdtsc(&mut self) {
        self.asm.raw(&[0x0f, 0x31]);
        self.asm.shift_imm(true, Shift::Shl, RDX, 32);
        self.asm.arith(true, Arith::Or, RAX, RDX);
    }

    fn emit_clock_call(&mut self) -> Result<(), JitError> {
        let addr = self.layout.helpers.get(&KTIME_GET_NS).copied();
        let addr = addr.ok_or(JitError::Internal("no clock for the statistics stub"))?;
        self.asm.mov(true, R9, R12);
        let at = self.asm.call_far();
        self.relocs.push((at, addr));
        Ok(())
    }
}
