//! What can go wrong, as values.

use thiserror::Error;

/// Why a set, a grace period or an allocation failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The number of vCPUs must be 1 to 65,536.
    #[error("{0} virtual CPUs asked for, 1 to 65536 are possible")]
    BadCpuCount(usize),
    /// The address space for the regions could not be reserved, even at the smallest size.
    #[error("cannot reserve memory for {cpus} virtual CPUs")]
    Reserve {
        /// How many regions were asked for.
        cpus: usize,
        /// The kernel's answer to the last, smallest attempt.
        #[source]
        source: std::io::Error,
    },
    /// A region has no hole of this size left.
    #[error("no {size} bytes of per-CPU memory left (alignment {align})")]
    OutOfPerCpuMemory {
        /// Bytes asked for, per vCPU.
        size: usize,
        /// Alignment asked for.
        align: usize,
    },
    /// An alignment that is no power of two or is above the page size, or a size of zero.
    #[error("cannot lay out {size} bytes at alignment {align} in per-CPU memory")]
    BadLayout {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for.
        align: usize,
    },
    /// Waiting for a grace period inside a run of the same set would wait for itself.
    #[error("waiting for a grace period inside a run")]
    InsideRun,
    /// Waiting for deferred work on the thread that does it would wait for itself.
    #[error("waiting for deferred work on the reclaimer thread")]
    OnReclaimer,
    /// The set belongs to the process that made it.
    #[error("the set was made before a fork and belongs to the parent process")]
    Forked,
    /// The kernel refused a barrier although it had been registered.
    #[error("the kernel refused a memory barrier")]
    Barrier(#[source] std::io::Error),
    /// The reclaimer thread could not be started.
    #[error("cannot start the reclaimer thread")]
    Reclaimer(#[source] std::io::Error),
}

/// Why a thread got no vCPU.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnterError {
    /// The set belongs to the process that made it.
    #[error("the set was made before a fork and belongs to the parent process")]
    Forked,
    /// An admission check of the set refused this thread ([`CpuSet::admit_with`](crate::CpuSet::admit_with)).
    #[error("this thread may not enter: {0}")]
    Refused(&'static str),
    /// The set has no such vCPU.
    #[error("no virtual CPU {0} in this set")]
    NoSuchCpu(u32),
    /// This thread is inside a run on another vCPU.
    #[error("this thread is inside a run on virtual CPU {held}")]
    OtherCpu {
        /// The vCPU of the run in progress.
        held: u32,
    },
    /// More threads hold a record of the set than it has room for.
    #[error("too many threads use this set")]
    TooManyThreads,
}
