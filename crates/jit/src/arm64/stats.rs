//! The program's entry: the statistics site, and the stub that counts.
//!
//! Owns the two timestamps around a run. Invariant: the site is the first instruction, and a tail call enters behind it, so a
//! chain counts once, for the program that was run. Kernel counterpart: `__bpf_prog_run`, include/linux/filter.h, 6.18,
//! whose static key `bpf_stats_enabled_key` this site is.

use skep_abi::Size;

use super::asm::{LR, Log2, Mem, Op3, SP, x};
use super::{Lower, PendingSite, TMP, TMP2, TMP3};
use crate::error::JitError;
use crate::layout::StatsLayout;

/// `bpf_ktime_get_ns`.
const KTIME_GET_NS: u32 = 5;

impl Lower<'_> {
    /// The entry: the site, if statistics have somewhere to go; of an extension, the way in for whoever enters a program.
    pub(super) fn emit_entry(&mut self) {
        if self.flow.is_extension {
            self.emit_thunk(0, x(1));
            self.asm.align16();
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
        // x19 the start, x20 the context and then the result, x28 the vCPU's base.
        let (start, kept, cpu) = (x(19), x(20), x(28));
        let saved = [(start, 0), (kept, 8), (cpu, 16), (LR, 24)];
        self.asm.align16();
        self.asm.bind(stub);
        self.asm.try_add_imm(true, SP, SP, -32);
        for (reg, off) in saved {
            self.asm.try_access(Log2(3), 0, reg, Mem { base: SP, off });
        }
        self.asm.mov(true, cpu, x(1));
        self.asm.mov(true, kept, x(0));
        self.emit_now(start)?;
        self.asm.mov(true, x(0), kept);
        self.asm.mov(true, x(1), cpu);
        self.asm.call(self.entries.at(0));
        self.asm.mov(true, kept, x(0));
        self.emit_now(x(0))?;
        self.asm.op3(true, Op3::Sub, x(0), x(0), start);
        if let Some(scale) = self.layout.tsc {
            self.asm.mov_imm(TMP, u64::from(scale.mult));
            self.asm.umulh(TMP2, x(0), TMP);
            self.asm.op3(true, Op3::Mul, TMP3, x(0), TMP);
            self.asm.extr(true, x(0), TMP2, TMP3, scale.shift.min(63));
        }
        self.asm.mov_imm(TMP, off.cast_unsigned());
        self.asm.op3(true, Op3::Add, x(1), TMP, cpu);
        for (field, amount) in [(StatsLayout::RUN_TIME_NS, Some(x(0))), (StatsLayout::RUN_CNT, None)] {
            let word = Mem { base: x(1), off: i32::try_from(field).unwrap_or(0) };
            self.emit_access(Size::Dw, 1, TMP2, word);
            match amount {
                Some(amount) => self.asm.op3(true, Op3::Add, TMP2, TMP2, amount),
                None => {
                    self.asm.try_add_imm(true, TMP2, TMP2, 1);
                }
            }
            self.emit_access(Size::Dw, 0, TMP2, word);
        }
        self.asm.mov(true, x(0), kept);
        for (reg, off) in saved {
            self.asm.try_access(Log2(3), 1, reg, Mem { base: SP, off });
        }
        self.asm.try_add_imm(true, SP, SP, 32);
        self.asm.ret();
        Ok(())
    }

    /// The time to `to`: the virtual counter, or the clock's helper. x28 is the vCPU's base.
    fn emit_now(&mut self, to: super::HostReg) -> Result<(), JitError> {
        if self.layout.tsc.is_some() {
            // mrs to, cntvct_el0
            self.asm.put(0xd53b_e040 | u32::from(to.0));
            return Ok(());
        }
        let addr = self.layout.helpers.get(&KTIME_GET_NS).copied();
        let addr = addr.ok_or(JitError::Internal("no clock for the statistics stub"))?;
        self.asm.mov(true, x(5), x(28));
        self.asm.mov_imm(TMP, addr);
        self.asm.call_reg(TMP);
        self.asm.mov(true, to, x(0));
        Ok(())
    }
}
