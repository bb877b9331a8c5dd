//! A witness of interpreted runs, who sees every instruction before it executes.
//!
//! For tests that hold an execution against what the verifier knew. Invariant: what a [`Moment`] shows is read-only, and it
//! reads no memory but the run's own. Kernel counterpart: none.

use super::{FaultKind, Interp, Stopped};

/// Sees every instruction of a run.
pub trait Observer {
    /// An instruction is about to execute; false ends the run with [`FaultKind::Observed`].
    fn instruction(&self, moment: &Moment<'_, '_>) -> bool;

    /// What a fresh stack frame is filled with, so that programs that read what they never wrote can be told.
    fn stack_fill(&self) -> u8 {
        0
    }
}

/// The run before one of its instructions.
pub struct Moment<'m, 'a> {
    interp: &'m Interp<'a>,
    /// Slot of the rewritten program.
    pub slot: usize,
    /// Functions on the call chain, callbacks included; 1 in the program itself.
    pub depth: u32,
    /// r0 to r10, and the rewrite's own register.
    pub regs: &'m [u64; 12],
}

impl Moment<'_, '_> {
    /// The address that r1 had at the start.
    #[must_use]
    pub fn ctx(&self) -> u64 {
        self.interp.ctx.object() as u64
    }

    /// First byte and end of the packet, metadata included.
    #[must_use]
    pub fn packet(&self) -> Option<(u64, u64)> {
        self.interp.ctx.packet_bounds()
    }

    /// The memory of the vCPU that the run holds.
    #[must_use]
    pub fn cpu_base(&self) -> u64 {
        self.interp.cpu_base.as_ptr() as u64
    }

    /// Start and length of the memory around `address` that a helper has granted.
    #[must_use]
    pub fn granted(&self, address: u64) -> Option<(u64, u64)> {
        let granted = self.interp.granted.borrow();
        granted.iter().map(|grant| (grant.start, grant.len)).find(|(start, len)| address.wrapping_sub(*start) <= *len)
    }

    /// The word at `address`, if the run may read it.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        // SAFETY: the run may read these bytes (tested first).
        self.interp.may_read(address, 8).then(|| unsafe { (address as usize as *const u64).read_unaligned() })
    }

    /// The eight bytes of stack at `address`, if they lie in a frame of the run.
    #[must_use]
    pub fn stack_word(&self, address: u64) -> Option<u64> {
        let inside = address >= self.interp.stack_low.get() && address <= self.interp.stack.1 - 8;
        // SAFETY: the bytes lie in the frames in use of the run's stack buffer (tested first), all of which are written.
        inside.then(|| unsafe { (address as usize as *const u64).read_unaligned() })
    }
}

impl Interp<'_> {
    /// Shows the next instruction to the witness.
    pub(super) fn observe(&self, slot: usize, regs: &[u64; 12]) -> Result<(), Stopped> {
        let Some(witness) = self.witness else { return Ok(()) };
        let moment = Moment { interp: self, slot, depth: self.depth.get(), regs };
        if witness.instruction(&moment) {
            return Ok(());
        }
        self.stop(slot, FaultKind::Observed).map(|never| match never {})
    }

    pub(super) fn stack_fill(&self) -> u8 {
        self.witness.map_or(0, Observer::stack_fill)
    }
}
