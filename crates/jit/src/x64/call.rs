//! Calls: helpers, kfuncs, subprograms, packet loads; thunks for callbacks.
//!
//! BPF arguments are in the System V argument registers already; the sixth argument is the vCPU's base. Invariant: every
//! call happens with an aligned stack, from frames planned for it. Kernel counterpart: `emit_call`,
//! arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::{CallTarget, Reg, Size};

use super::asm::{Arith, Cond, HostReg, OpSize, R9, R12, RAX, RDI, RDX, RSI};
use super::memory::missing;
use super::relax::Label;
use super::{Lower, unsupported};
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

    fn emit_call_addr(&mut self, addr: u64) {
        self.asm.mov(true, R9, self.frame.cpu);
        let at = self.asm.call_far();
        self.relocs.push((at, addr));
    }

    /// `LD_ABS` and `LD_IND`: the context is in r6; a negative result ends the program with 0.
    pub(super) fn emit_ld_abs(&mut self, at: usize, size: Size, index: Option<Reg>, imm: i32) -> Result<(), JitError> {
        if self.layout.ld_abs == 0 {
            return Err(unsupported(at, "a packet load without a function for it"));
        }
        match index {
            None => self.asm.mov_imm(RSI, i64::from(imm).cast_unsigned(), false),
            // The sum is taken in 32 bits.
            Some(index) => {
                let from = self.read(index, RSI);
                self.asm.mov(false, RSI, from);
                self.asm.arith_imm(false, Arith::Add, RSI, imm);
                self.asm.movsx(true, OpSize::B32, RSI, RSI);
            }
        }
        self.asm.mov(true, RDI, self.host(Reg::R6));
        self.asm.mov_imm(RDX, u64::from(size.bytes()), false);
        self.emit_call_addr(self.layout.ld_abs);
        self.asm.test(true, RAX, RAX);
        let fail = self.asm.new_label();
        self.asm.jcc(Cond::S, fail);
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

    /// Thunks give helpers a function of their own signature: the vCPU's base goes from r9 to r12.
    pub(super) fn emit_thunks(&mut self) {
        for (sub, thunk) in std::mem::take(&mut self.thunks).into_iter().enumerate() {
            let Some(label) = thunk else { continue };
            self.asm.align(4, 15);
            self.asm.bind(label);
            self.emit_thunk(sub, R9);
        }
    }

    /// Calls subprogram `sub` with the vCPU's base from `cpu` in r12, and returns.
    pub(super) fn emit_thunk(&mut self, sub: usize, cpu: HostReg) {
        self.asm.push(R12);
        self.asm.mov(true, R12, cpu);
        self.asm.call(self.entries.at(sub));
        self.asm.pop(R12);
        self.asm.ret();
    }
}
