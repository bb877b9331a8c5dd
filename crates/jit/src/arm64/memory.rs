//! Loads, stores, addresses and 64-bit constants.
//!
//! Owns the choice between immediate offsets and computed addresses. Invariant: narrow loads zero- or sign-extend to 64 bits
//! in the load itself. Kernel counterpart: the `BPF_LDX` and `BPF_STX` cases of `build_insn`,
//! arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{Imm64, Operand, Reg, Size};

use super::asm::{HostReg, Log2, Mem, Op3, SP, ZR};
use super::{Lower, TMP, TMP2, unsupported};
use crate::error::JitError;
use crate::flow::decode::{resolve, slot_number};
use crate::layout::{MapAccess, MapLayout};

pub(super) const fn log2(size: Size) -> Log2 {
    match size {
        Size::B => Log2(0),
        Size::H => Log2(1),
        Size::W => Log2(2),
        Size::Dw => Log2(3),
    }
}

impl Lower<'_> {
    /// Store (`opc` 0), zero-extending (1) or sign-extending (2) load. TMP may be lost.
    pub(super) fn emit_access(&mut self, size: Size, opc: u32, reg: HostReg, mem: Mem) {
        if !self.asm.try_access(log2(size), opc, reg, mem) {
            self.emit_address(TMP, mem);
            self.asm.try_access(log2(size), opc, reg, Mem { base: TMP, off: 0 });
        }
    }

    /// `to = base + off`.
    pub(super) fn emit_address(&mut self, to: HostReg, mem: Mem) {
        let Mem { base, off } = mem;
        if off == 0 && base != SP {
            self.asm.mov(true, to, base);
        } else if !self.asm.try_add_imm(true, to, base, off) {
            let mut base = base;
            if base == SP {
                // Additions of two registers would take the zero register for `sp`.
                self.asm.try_add_imm(true, to, SP, 0);
                base = to;
            }
            let tmp = if to == base { TMP2 } else { to };
            self.asm.mov_imm(tmp, i64::from(off).cast_unsigned());
            self.asm.op3(true, Op3::Add, to, base, tmp);
        }
    }

    /// A register that holds `base + off`: the base's own, or TMP.
    pub(super) fn plain_address(&mut self, base: Reg, off: i16) -> HostReg {
        let mem = self.mem(base, off);
        if mem.off == 0 {
            return mem.base;
        }
        self.emit_address(TMP, mem);
        TMP
    }

    pub(super) fn emit_load_be(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        let (to, mem) = (self.host(dst), self.mem(base, off));
        self.emit_access(size, 1, to, mem);
        match size {
            Size::B => {}
            Size::H => self.asm.rev16(to, to),
            Size::W => self.asm.rev(false, to, to),
            Size::Dw => self.asm.rev(true, to, to),
        }
    }

    pub(super) fn emit_load_indexed(&mut self, size: Size, sign_extend: bool, dst: Reg, address: (Reg, Reg, i16)) {
        let (base, index, off) = (self.host(address.0), self.host(address.1), address.2);
        let (to, opc) = (self.host(dst), if sign_extend { 2 } else { 1 });
        if off == 0 {
            self.asm.access_indexed(log2(size), opc, to, base, index);
            return;
        }
        self.asm.op3(true, Op3::Add, TMP, base, index);
        let mem = Mem { base: TMP, off: i32::from(off) };
        if !self.asm.try_access(log2(size), opc, to, mem) {
            self.emit_address(TMP, mem);
            self.asm.try_access(log2(size), opc, to, Mem { base: TMP, off: 0 });
        }
    }

    pub(super) fn emit_store(&mut self, size: Size, base: Reg, off: i16, src: Operand) {
        let mem = self.mem(base, off);
        self.emit_store_to(size, mem, src);
    }

    pub(super) fn emit_store_to(&mut self, size: Size, mem: Mem, src: Operand) {
        let from = match src {
            Operand::Imm(0) => ZR,
            src => self.operand(true, src, TMP2),
        };
        self.emit_access(size, 0, from, mem);
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
            self.asm.adr(to, thunk);
            return Ok(());
        }
        let value = self.imm64_value(at, imm)?;
        self.asm.mov_imm(to, value);
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
