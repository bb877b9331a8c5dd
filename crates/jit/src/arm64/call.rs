//! Calls: helpers, kfuncs, subprograms, packet loads; thunks for callbacks.
//!
//! BPF arguments are in the argument registers already; the sixth argument is the vCPU's base; results come in x0 and are
//! moved to r0's register. Invariant: every frame that calls saves the link register. Kernel counterpart: `emit_call`,
//! arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::{CallTarget, Reg, Size};

use super::asm::{Cond, HostReg, LR, Mem, SP, x};
use super::memory::missing;
use super::relax::Label;
use super::{Lower, TMP, unsupported};
use crate::error::JitError;
use crate::flow::decode::{resolve, slot_number};
use crate::layout::MapAccess;

impl Lower<'_> {
    pub(super) fn lower_call(&mut self, at: usize, target: CallTarget) -> Result<(), JitError> {
        let slot = slot_number(at);
        let addr = match target {
            CallTarget::Subprog(off) => {
                let sub = self.flow.sub_at(resolve(at, off)).ok_or(JitError::Jump { slot })?;
                self.asm.call(self.entries.at(sub));
                self.asm.mov(true, self.host(Reg::R0), x(0));
                return Ok(());
            }
            CallTarget::Helper(id) => u32::try_from(id)
                .ok()
                .and_then(|id| self.layout.helpers.get(&id))
                .copied()
                .ok_or(JitError::MissingHelper { slot, id })?,
            CallTarget::Kfunc { id, .. } => usize::try_from(id)
                .ok()
                .and_then(|id| self.layout.kfuncs.get(id))
                .copied()
                .filter(|&addr| addr != 0)
                .ok_or(JitError::MissingKfunc { slot, index: id })?,
        };
        self.emit_call_addr(addr);
        Ok(())
    }

    pub(super) fn lower_lookup_call(&mut self, at: usize, map: u32) -> Result<(), JitError> {
        match self.map(at, i64::from(map))?.access {
            MapAccess::Hash { lookup } => {
                self.emit_call_addr(lookup);
                Ok(())
            }
            _ => Err(missing(at, i64::from(map), "lookup function")),
        }
    }

    pub(super) fn emit_call_addr(&mut self, addr: u64) {
        self.asm.mov(true, x(5), self.frame.cpu);
        self.asm.mov_imm(TMP, addr);
        self.asm.call_reg(TMP);
        self.asm.mov(true, self.host(Reg::R0), x(0));
    }

    /// `LD_ABS` and `LD_IND`: the context is in r6; a negative result ends the program with 0.
    pub(super) fn emit_ld_abs(&mut self, at: usize, size: Size, index: Option<Reg>, imm: i32) -> Result<(), JitError> {
        if self.layout.ld_abs == 0 {
            return Err(unsupported(at, "a packet load without a function for it"));
        }
        match index {
            None => self.asm.mov_imm(x(1), i64::from(imm).cast_unsigned()),
            // The sum is taken in 32 bits.
            Some(index) => {
                let from = self.read(index, TMP);
                self.asm.mov_imm(super::TMP2, u64::from(imm.cast_unsigned()));
                self.asm.op3(false, super::Op3::Add, x(1), from, super::TMP2);
                self.asm.bitfield(true, true, x(1), x(1), 0, 31);
            }
        }
        self.asm.mov(true, x(0), self.host(Reg::R6));
        self.asm.mov_imm(x(2), u64::from(size.bytes()));
        self.emit_call_addr(self.layout.ld_abs);
        self.asm.try_cmp_imm(true, self.host(Reg::R0), 0);
        let fail = self.asm.new_label();
        self.asm.jcc(Cond::LT, fail);
        let exit = self.exit_label();
        self.cold.push(super::Cold::Null { at: fail, to: exit });
        Ok(())
    }

    /// The label of the callback thunk of subprogram `sub`.
    pub(super) fn thunk(&mut self, sub: usize) -> Label {
        if let Some(&Some(label)) = self.thunks.get(sub) {
            return label;
        }
        let label = self.asm.new_label();
        if let Some(place) = self.thunks.get_mut(sub) {
            *place = Some(label);
        }
        label
    }

    /// Thunks give helpers a function of their own signature: the vCPU's base goes from x5 to x28.
    pub(super) fn emit_thunks(&mut self) {
        for (sub, thunk) in std::mem::take(&mut self.thunks).into_iter().enumerate() {
            let Some(label) = thunk else { continue };
            self.asm.align16();
            self.asm.bind(label);
            self.emit_thunk(sub, x(5));
        }
    }

    /// Calls subprogram `sub` with the vCPU's base from `cpu` in x28, and returns.
    pub(super) fn emit_thunk(&mut self, sub: usize, cpu: HostReg) {
        self.asm.try_add_imm(true, SP, SP, -16);
        self.emit_thunk_registers(0);
        self.asm.mov(true, x(28), cpu);
        self.asm.call(self.entries.at(sub));
        self.emit_thunk_registers(1);
        self.asm.try_add_imm(true, SP, SP, 16);
        self.asm.ret();
    }

    fn emit_thunk_registers(&mut self, opc: u32) {
        for (reg, off) in [(x(28), 0), (LR, 8)] {
            self.asm.try_access(super::asm::Log2(3), opc, reg, Mem { base: SP, off });
        }
    }
}
