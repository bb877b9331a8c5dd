//! Inlined lookups in arrays and per-CPU arrays.
//!
//! Owns index check and address computation with sizes and addresses as constants; the null test that follows a lookup
//! becomes the index check itself. Invariant: `r0` is 0 wherever the program takes the null path. Kernel counterpart:
//! `array_map_gen_lookup`, `percpu_array_map_gen_lookup`, kernel/bpf/arraymap.c, 6.18.

use skep_abi::{Insn, JmpOp, Operand, Reg, Size};

use super::asm::{Cond, Mem, Op3};
use super::memory::missing;
use super::{Cold, Lower, TMP, TMP2};
use crate::error::JitError;
use crate::flow::decode::target;
use crate::flow::{Key, Op};
use crate::layout::MapAccess;

/// Where values are: address or offset of the first, per CPU or not, bytes from one to the next, number.
type Values = (u64, bool, u32, u32);

impl Lower<'_> {
    /// Emits a lookup and the null test behind it; returns the last slot done.
    pub(super) fn lower_lookup(&mut self, at: usize, map: u32, key: Key) -> Result<usize, JitError> {
        let values: Values = match self.map(at, i64::from(map))?.access {
            MapAccess::Array { values, stride, max_entries } => (values, false, stride, max_entries),
            MapAccess::PerCpuArray { off, stride, max_entries } => (off, true, stride, max_entries),
            _ => return Err(missing(at, i64::from(map), "address of values")),
        };
        let mem = match key {
            Key::Const(key) => {
                self.emit_const_lookup(values, key);
                return Ok(at);
            }
            Key::Stack(off) => self.mem(Reg::R10, off),
            Key::Pointer => Mem { base: self.host(Reg::R2), off: 0 },
        };
        Ok(self.emit_lookup(at, values, mem))
    }

    fn emit_const_lookup(&mut self, values: Values, key: u32) {
        let (base, percpu, stride, max_entries) = values;
        let to = self.host(Reg::R0);
        if key >= max_entries {
            self.asm.mov_imm(to, 0);
            return;
        }
        self.asm.mov_imm(to, base.wrapping_add(u64::from(key) * u64::from(stride)));
        if percpu {
            self.asm.op3(true, Op3::Add, to, to, self.frame.cpu);
        }
    }

    fn emit_lookup(&mut self, at: usize, values: Values, key: Mem) -> usize {
        let (base, percpu, stride, max_entries) = values;
        let to = self.host(Reg::R0);
        let null = self.asm.new_label();
        self.emit_access(Size::W, 1, to, key);
        self.emit_compare(to, max_entries);
        self.asm.jcc(Cond::HS, null);
        self.asm.mov_imm(TMP, base);
        if percpu {
            self.asm.op3(true, Op3::Add, TMP, TMP, self.frame.cpu);
        }
        if stride.is_power_of_two() {
            self.asm.add_shifted(to, TMP, to, stride.trailing_zeros().to_le_bytes()[0]);
        } else {
            self.asm.mov_imm(TMP2, u64::from(stride));
            self.asm.madd(to, to, TMP2, TMP);
        }
        let next = if self.options.optimize { self.next_op(at) } else { None };
        if let Some((test, Op::Insn(insn @ Insn::Jcond { op, dst: Reg::R0, src: Operand::Imm(0), .. }))) = next
            && let Some(there) = target(&insn, test)
        {
            match op {
                JmpOp::Eq => {
                    self.cold.push(Cold::Null { at: null, to: self.slots.at(there) });
                    return test;
                }
                JmpOp::Ne => {
                    self.asm.jmp(self.slots.at(there));
                    self.asm.bind(null);
                    self.asm.mov_imm(to, 0);
                    return test;
                }
                _ => {}
            }
        }
        let done = self.asm.new_label();
        self.asm.bind(done);
        self.cold.push(Cold::Null { at: null, to: done });
        at
    }

    /// Compares 32 bits of `reg` with a constant.
    pub(super) fn emit_compare(&mut self, reg: super::HostReg, value: u32) {
        if i32::try_from(value).is_ok_and(|value| self.asm.try_cmp_imm(false, reg, value)) {
            return;
        }
        self.asm.mov_imm(TMP2, u64::from(value));
        self.asm.cmp(false, reg, TMP2);
    }
}
