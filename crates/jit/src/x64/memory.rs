//! Loads, stores and 64-bit constants.
//!
//! Owns memory operands of plain accesses. Invariant: narrow loads zero- or sign-extend to 64 bits in the load itself. Kernel
//! counterpart: `emit_ldx`, `emit_stx`, arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::{Imm64, Operand, Reg, Size};

use super::asm::{Mem, OpSize, Shift};
use super::{Lower, TMP, unsupported};
use crate::error::JitError;
use crate::flow::decode::{resolve, slot_number};
use crate::layout::{MapAccess, MapLayout};

pub(super) const fn op_size(size: Size) -> OpSize {
    match size {
        Size::B => OpSize::B8,
        Size::H => OpSize::B16,
        Size::W => OpSize::B32,
        Size::Dw => OpSize::B64,
    }
}

impl Lower<'_> {
    pub(super) fn emit_load(&mut self, size: Size, sign_extend: bool, dst: Reg, mem: Mem) {
        let to = self.host(dst);
        if sign_extend {
            self.asm.movsx(true, op_size(size), to, mem);
        } else {
            self.asm.movzx(op_size(size), to, mem);
        }
    }

    pub(super) fn emit_load_be(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        let (to, mem) = (self.host(dst), self.mem(base, off));
        match size {
            Size::B => self.asm.movzx(OpSize::B8, to, mem),
            Size::H => {
                self.asm.movzx(OpSize::B16, to, mem);
                self.asm.bswap(false, to);
                self.asm.shift_imm(false, Shift::Shr, to, 16);
            }
            Size::W | Size::Dw if self.options.features.movbe => self.asm.movbe(op_size(size), to, mem),
            Size::W | Size::Dw => {
                self.asm.movzx(op_size(size), to, mem);
                self.asm.bswap(size == Size::Dw, to);
            }
        }
    }

    pub(super) fn emit_store(&mut self, size: Size, base: Reg, off: i16, src: Operand) {
        let mem = self.mem(base, off);
        self.emit_store_to(size, mem, src);
    }

    pub(super) fn emit_store_to(&mut self, size: Size, mem: Mem, src: Operand) {
        match src {
            Operand::Reg(src) => {
                let from = self.read(src, TMP);
                self.asm.store(op_size(size), mem, from);
            }
            Operand::Imm(imm) => self.asm.store_imm(op_size(size), mem, imm),
        }
    }

    /// The constant that an `ld_imm64` of data or of a map stands for.
    pub(super) fn imm64_value(&self, at: usize, imm: Imm64) -> Result<u64, JitError> {
        match imm {
            Imm64::Const(value) => Ok(value),
            Imm64::MapFd(index) => Ok(self.map(at, i64::from(index))?.object),
            Imm64::MapValue { fd, off } => match self.map(at, i64::from(fd))?.access {
                MapAccess::Arena { start, .. } => Ok(start.wrapping_add(u64::from(off))),
                MapAccess::Array { values, .. } => Ok(values.wrapping_add(u64::from(off))),
                MapAccess::PerCpuArray { off: values, .. } => Ok(values.wrapping_add(u64::from(off))),
                _ => Err(missing(at, i64::from(fd), "address of values")),
            },
            Imm64::BtfId { .. } => Err(unsupported(at, "the address of a kernel variable")),
            Imm64::MapIdx(_) | Imm64::MapIdxValue { .. } => {
                Err(unsupported(at, "a map index (the rewrite resolves it)"))
            }
            Imm64::Func(_) => Err(JitError::Internal("a callback's address is no constant")),
        }
    }

    pub(super) fn lower_imm64(&mut self, at: usize, dst: Reg, imm: Imm64) -> Result<(), JitError> {
        let to = self.host(dst);
        if let Imm64::Func(off) = imm {
            let sub = self.flow.sub_at(resolve(at, off)).ok_or(JitError::Jump { slot: slot_number(at) })?;
            let thunk = self.thunk(sub);
            self.asm.lea_label(to, thunk);
            return Ok(());
        }
        let value = self.imm64_value(at, imm)?;
        self.asm.mov_imm(to, value, false);
        Ok(())
    }

    pub(super) fn map(&self, at: usize, index: i64) -> Result<MapLayout, JitError> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.layout.maps.get(index))
            .copied()
            .ok_or_else(|| missing(at, index, "description"))
    }
}

pub(super) fn missing(at: usize, map: i64, what: &'static str) -> JitError {
    JitError::MissingMap { slot: slot_number(at), map, what }
}
