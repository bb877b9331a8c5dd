//! Calls of helpers and kfuncs, and tail calls.
//!
//! Invariant: a map argument is the object of one of the program's maps, and memory arguments lie in the run's memory, before
//! a helper sees them. Kernel counterpart: `BPF_CALL_*`, include/linux/filter.h; the `JMP_TAIL_CALL` case of
//! `___bpf_prog_run`, kernel/bpf/core.c, 6.18.
#![expect(clippy::cast_possible_truncation, reason = "tail-call indices are the low half of a register")]

use std::sync::atomic::{AtomicU64, Ordering};

use skep_abi::CallTarget;

use super::{FaultKind, Interp, Stopped};
use crate::frame::{MAX_TAIL_CALLS, Run};
use crate::helper::HelperFn;
use crate::kfunc;
use crate::map::{MapAccessInfo, MapRef};
use crate::program::ProgInner;

/// How deep callbacks may nest.
const MAX_NESTING: u32 = 16;

impl<'a> Interp<'a> {
    /// Calls the helper or kfunc at `address`; r0 is its result. r1 to r5 stay as they are: no program reads them afterwards,
    /// but for those that it need not save (`skep_verifier::InsnFacts::is_save`).
    pub(super) fn call(
        &self,
        insn: usize,
        target: CallTarget,
        address: u64,
        regs: &mut [u64; 12],
    ) -> Result<(), Stopped> {
        if let CallTarget::Helper(id) = target {
            self.check_arguments(insn, id, regs)?;
        } else if let Some(proto) = kfunc::at(address).and_then(kfunc::Kfunc::proto) {
            self.check_kfunc_arguments(insn, proto, regs)?;
        }
        self.at.set(insn);
        if self.calls.get() >= MAX_NESTING {
            self.stop(insn, FaultKind::StackOverflow)?;
        }
        self.calls.set(self.calls.get() + 1);
        let map = regs[1];
        // SAFETY: the program was decoded with addresses of functions of this type (`Resolve`).
        let function = unsafe { std::mem::transmute::<usize, HelperFn>(address as usize) };
        // SAFETY: the arguments were checked, and the vCPU is held by this thread for the length of the run.
        regs[0] = unsafe { function(regs[1], regs[2], regs[3], regs[4], regs[5], self.cpu_base.as_ptr()) };
        self.calls.set(self.calls.get() - 1);
        if let CallTarget::Helper(1) = target {
            self.note_inner_map(map, regs[0]);
        }
        if self.failed() { Err(Stopped) } else { Ok(()) }
    }

    /// The map of the program whose object is at `address`.
    pub(super) fn map_at(&self, address: u64) -> Option<&'a MapRef> {
        self.program.get().maps.iter().find(|map| map.addr() == address)
    }

    /// Enters the program in slot r3 of the prog array r2; false: the call falls through.
    pub(super) fn tail_call(&self, insn: usize, regs: &[u64; 12]) -> Result<bool, Stopped> {
        let access = self.map_at(regs[2]).map(|map| map.ops().access());
        let Some(MapAccessInfo::ProgArray { targets, max_entries }) = access else {
            let kind = FaultKind::NotAMap { helper: 12, argument: 2 };
            return self.stop(insn, kind).map(|never| match never {});
        };
        let index = regs[3] as u32;
        if index >= max_entries {
            return Ok(false);
        }
        // SAFETY: the vCPU is held by this thread for the length of the run.
        let run = unsafe { Run::new(self.cpu_base.as_ptr()) };
        let made = &run.block().tail_calls;
        if made.get() >= MAX_TAIL_CALLS {
            return Ok(false);
        }
        let slot = targets as usize as *const AtomicU64;
        // SAFETY: the array has `max_entries` slots, which live as long as the map.
        let slot = unsafe { slot.add(index as usize) };
        // SAFETY: as above.
        let target = unsafe { &*slot }.load(Ordering::Acquire) as usize as *const ProgInner;
        if target.is_null() {
            return Ok(false);
        }
        // SAFETY: an array of interpreted programs holds their addresses, and a program that was in a slot is freed only
        // after a grace period, which this run holds up.
        let target: &'a ProgInner = unsafe { &*target };
        let Some(program) = target.interpreted() else {
            return self.stop(insn, FaultKind::NotExecutable).map(|never| match never {});
        };
        made.set(made.get() + 1);
        self.program.set(program);
        Ok(true)
    }
}
