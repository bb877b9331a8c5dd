//! Asymmetric fences: one side pays nothing, the other asks the kernel to run a fence on every CPU of the process.
//!
//! The frequent side orders two accesses with a compiler fence only. The rare side calls [`heavy`]: when it returns,
//! every thread of the process has passed a full fence since the call began, either because it was interrupted for one
//! or because it was scheduled. Invariant: a barrier that the kernel refused is an error for the caller, never a no-op.
//! Kernel counterpart: `kernel/sched/membarrier.c` (6.18).

use std::io;

/// How the two sides of a set's fences are paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Runs pay nothing, waiting pays for a `membarrier`.
    Asymmetric,
    /// `membarrier` is denied: every enter and every leave pays for a full fence.
    Symmetric,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Asymmetric => "asymmetric",
            Mode::Symmetric => "symmetric",
        })
    }
}

#[cfg(not(loom))]
mod kernel {
    use super::io;
    use rustix::thread::{MembarrierCommand, membarrier};

    fn call(command: MembarrierCommand) -> io::Result<()> {
        membarrier(command).map_err(io::Error::from)
    }

    /// Tells the kernel that this process will use [`heavy`]; may be repeated.
    ///
    /// # Errors
    /// The kernel is older than 4.14, or a sandbox denies the call.
    pub fn register() -> io::Result<()> {
        call(MembarrierCommand::RegisterPrivateExpedited)
    }

    /// Runs a full memory fence on every CPU that runs a thread of this process.
    ///
    /// # Errors
    /// Not registered, out of memory in the kernel, or a sandbox that came later.
    pub fn heavy() -> io::Result<()> {
        call(MembarrierCommand::PrivateExpedited)
    }

    /// Tells the kernel that this process will use [`sync_core`]; may be repeated.
    ///
    /// # Errors
    /// The kernel is older than 4.16 or built without it, or a sandbox denies the call.
    pub fn register_sync_core() -> io::Result<()> {
        call(MembarrierCommand::RegisterPrivateExpeditedSyncCore)
    }

    /// As [`heavy`], and every thread passes a core-serializing instruction before it runs user code again: none goes on
    /// with an instruction that it fetched before the call.
    ///
    /// # Errors
    /// As [`heavy`].
    pub fn sync_core() -> io::Result<()> {
        call(MembarrierCommand::PrivateExpeditedSyncCore)
    }
}

#[cfg(loom)]
mod kernel {
    use super::io;

    pub fn heavy() -> io::Result<()> {
        crate::prim::full_fence();
        Ok(())
    }
}

pub use kernel::*;

/// The heavy half in `mode`.
pub(crate) fn heavy_in(mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Asymmetric => heavy(),
        Mode::Symmetric => {
            crate::prim::full_fence();
            Ok(())
        }
    }
}
