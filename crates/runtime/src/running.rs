//! Which program runs on a vCPU, asked from another thread.
//!
//! Runs note nothing for it. The frame of a run is on the stack of its thread and may be gone at any moment, so it is read
//! through the kernel, which answers with an error instead of a fault; what it says is looked up among the live versions and
//! never followed. Code without a frame is found by where its thread is. Invariant: the list holds the address of every
//! version of an engine from before its first run until after its last.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_sync::CpuId;
use skep_text::CodeAddr;

use crate::engine::EngineState;
use crate::frame::{BLOCK_OFF, CpuBlock, RunFrame};

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningProgram {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for RunningProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program {} ({})", self.id, self.name)
    }
}

/// The live versions of an engine, by address.
#[derive(Default)]
pub(crate) struct Versions(Mutex<BTreeMap<usize, Known>>);

struct Known {
    program: RunningProgram,
    code: Range<u64>,
}

impl Versions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a version at this address, whose code lies there.
    pub(crate) fn add(&self, address: usize, program: RunningProgram, code: Range<u64>) {
        self.lock().insert(address, Known { program, code });
    }

    pub(crate) fn remove(&self, address: usize) {
        self.lock().remove(&address);
    }
}

impl EngineState {
    /// The program whose run holds a vCPU, where `tid` is the kernel's id of the thread: the innermost that has a frame, or
    /// else the one whose code the thread is in. None if it is in none, or cannot be asked.
    #[must_use]
    pub fn running(&self, cpu: CpuId, tid: u32) -> Option<RunningProgram> {
        let framed = self.framed(cpu).and_then(|version| Some(self.versions.lock().get(&version)?.program.clone()));
        framed.or_else(|| {
            let CodeAddr(at) = self.arena()?.whereabouts(tid)?;
            let versions = self.versions.lock();
            versions.values().find(|known| known.code.contains(&at)).map(|known| known.program.clone())
        })
    }

    /// The address of the version that the current frame of a vCPU names, if there is a frame.
    fn framed(&self, cpu: CpuId) -> Option<usize> {
        let block = self.cpus.base(cpu).as_ptr().wrapping_add(BLOCK_OFF as usize).cast::<CpuBlock>();
        // SAFETY: the block lies at this offset of every region of the set; a pointer to its field is formed, not read.
        let frame = unsafe { &raw const (*block).frame }.cast::<*const RunFrame>();
        // SAFETY: a word of the vCPU's memory, which its thread may change meanwhile, whole.
        let frame = unsafe { frame.read_volatile() };
        if frame.is_null() {
            return None;
        }
        let mut version = 0_usize;
        let into = libc::iovec { iov_base: (&raw mut version).cast(), iov_len: size_of::<usize>() };
        let field = frame.cast::<u8>().wrapping_add(offset_of!(RunFrame, program));
        let from = libc::iovec { iov_base: field.cast_mut().cast(), iov_len: size_of::<usize>() };
        let process = libc::pid_t::try_from(std::process::id()).ok()?;
        // SAFETY: writes into the word above; what is read is the kernel's to check.
        let read = unsafe { libc::process_vm_readv(process, &raw const into, 1, &raw const from, 1, 0) };
        (read == 8).then_some(version)
    }
}
