//! Inlined lookups in arrays and per-CPU arrays.
//!
//! Owns index check and address computation with sizes and addresses as immediates; the null test that follows a lookup
//! becomes the index check itself. Invariant: `r0` is 0 wherever the program takes the null path. Kernel counterpart:
//! `array_map_gen_lookup`, `percpu_array_map_gen_lookup`, kernel/bpf/arraymap.c, 6.18.

use skep_abi::{Insn, JmpOp, Operand, Reg};

use super::asm::{Arith, Cond, HostReg, Mem, OpSize, RAX, RSI, Shift};
use super::memory::missing;
use super::relax::Label;
use super::{Cold, Lower, TMP};
use crate::error::JitError;
use crate::flow::{Key, Op};
use crate::layout::MapAccess;

/// Where values are.
#[derive(Clone, Copy)]
struct Values {
    /// Address, or offset from the vCPU's base.
    base: u64,
    percpu: bool,
    stride: u32,
    max_entries: u32,
}

impl Lower<'_> {
    /// Emits a lookup and the null test behind it; returns the last slot done.
    pub(super) fn lower_lookup(&mut self, at: usize, map: u32, key: Key) -> Result<usize, JitError> {
        let values = match self.map(at, i64::from(map))?.access {
            MapAccess::Array { values, stride, max_entries } => {
                Values { base: values, percpu: false, stride, max_entries }
            }
            MapAccess::PerCpuArray { off, stride, max_entries } => {
                Values { base: off, percpu: true, stride, max_entries }
            }
            _ => return Err(missing(at, i64::from(map), "address of values")),
        };
        match key {
            Key::Const(key) => {
                self.emit_const_lookup(values, key);
                Ok(at)
            }
            Key::Stack(off) => {
                let mem = self.mem(Reg::R10, off);
                Ok(self.emit_lookup(at, values, mem))
            }
            Key::Pointer => Ok(self.emit_lookup(at, values, Mem::new(RSI, 0))),
        }
    }

    fn emit_const_lookup(&mut self, values: Values, key: u32) {
        if key >= values.max_entries {
            self.asm.mov_imm(RAX, 0, false);
            return;
        }
        let base = values.base.wrapping_add(u64::from(key).wrapping_mul(u64::from(values.stride)));
        self.emit_address(values, base);
    }

    /// `rax = base`, plus the vCPU's base where values are per CPU.
    fn emit_address(&mut self, values: Values, base: u64) {
        match i32::try_from(base) {
            Ok(disp) if values.percpu => self.asm.lea(true, RAX, Mem::new(self.frame.cpu, disp)),
            _ => {
                self.asm.mov_imm(RAX, base, false);
                if values.percpu {
                    self.asm.arith(true, Arith::Add, RAX, self.frame.cpu);
                }
            }
        }
    }

    fn emit_lookup(&mut self, at: usize, values: Values, key: Mem) -> usize {
        if values.max_entries == 1 {
            return self.emit_single_lookup(at, values, key);
        }
        let (null, taken) = self.null_path(at);
        self.asm.movzx(OpSize::B32, RAX, key);
        self.asm.arith_imm(false, Arith::Cmp, RAX, values.max_entries.cast_signed());
        self.asm.jcc(Cond::AE, null.label());
        self.emit_scaled(values);
        self.finish_lookup(at, null, taken)
    }

    /// One entry: the address does not depend on the key.
    fn emit_single_lookup(&mut self, at: usize, values: Values, key: Mem) -> usize {
        let (null, taken) = self.null_path(at);
        self.asm.arith_imm(false, Arith::Cmp, key, 0);
        self.asm.jcc(Cond::NE, null.label());
        self.emit_address(values, values.base);
        self.finish_lookup(at, null, taken)
    }

    /// `rax = base + rax * stride` (+ the vCPU's base).
    fn emit_scaled(&mut self, values: Values) {
        let Values { base, percpu, stride, .. } = values;
        let mut scale = 0;
        match stride {
            1 | 2 | 4 | 8 => scale = stride.trailing_zeros().to_le_bytes()[0],
            _ if stride.is_power_of_two() => {
                self.asm.shift_imm(true, Shift::Shl, RAX, stride.trailing_zeros().to_le_bytes()[0]);
            }
            _ => match i32::try_from(stride) {
                Ok(stride) => self.asm.imul_imm(true, RAX, RAX, stride),
                Err(_) => {
                    self.asm.mov_imm(TMP, u64::from(stride), false);
                    self.asm.imul(true, RAX, TMP);
                }
            },
        }
        let cpu: HostReg = self.frame.cpu;
        match i32::try_from(base) {
            Ok(disp) if percpu => self.asm.lea(true, RAX, Mem::indexed(cpu, RAX, scale, disp)),
            _ => {
                self.asm.mov_imm(TMP, base, false);
                if percpu {
                    self.asm.arith(true, Arith::Add, TMP, cpu);
                }
                if scale == 0 {
                    self.asm.arith(true, Arith::Add, RAX, TMP);
                } else {
                    self.asm.lea(true, RAX, Mem::indexed(TMP, RAX, scale, 0));
                }
            }
        }
    }

    /// Where an index out of range goes, and whether the null test that follows is thereby done.
    fn null_path(&mut self, at: usize) -> (Null, Option<Tested>) {
        let here = self.asm.new_label();
        let next = if self.options.optimize { self.next_op(at) } else { None };
        let Some((test, Op::Insn(insn @ Insn::Jcond { op, dst: Reg::R0, src: Operand::Imm(0), .. }))) = next else {
            return (Null::Here(here), None);
        };
        let Some(to) = crate::flow::decode::target(&insn, test) else { return (Null::Here(here), None) };
        match op {
            JmpOp::Eq => {
                let null = self.slots.at(to);
                if self.flow.slot(to).live_in.has(Reg::R0) {
                    self.cold.push(Cold::Null { at: here, to: null });
                    (Null::Away(here), Some(Tested { test, jump: None }))
                } else {
                    (Null::Away(null), Some(Tested { test, jump: None }))
                }
            }
            JmpOp::Ne => (Null::Here(here), Some(Tested { test, jump: Some(self.slots.at(to)) })),
            _ => (Null::Here(here), None),
        }
    }

    fn finish_lookup(&mut self, at: usize, null: Null, tested: Option<Tested>) -> usize {
        match (null, tested) {
            (Null::Away(_), Some(tested)) => tested.test,
            (Null::Here(label), Some(Tested { test, jump: Some(jump) })) => {
                self.asm.jmp(jump);
                self.asm.bind(label);
                self.asm.mov_imm(RAX, 0, false);
                test
            }
            (Null::Here(label) | Null::Away(label), _) => {
                let done = self.asm.new_label();
                self.asm.bind(done);
                self.cold.push(Cold::Null { at: label, to: done });
                at
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Null {
    /// A label to bind behind the lookup.
    Here(Label),
    /// A label bound elsewhere.
    Away(Label),
}

impl Null {
    const fn label(self) -> Label {
        match self {
            Self::Here(label) | Self::Away(label) => label,
        }
    }
}

/// The null test that the index check replaces.
#[derive(Clone, Copy)]
struct Tested {
    /// Its slot.
    test: usize,
    /// Where it goes when the value is there.
    jump: Option<Label>,
}
