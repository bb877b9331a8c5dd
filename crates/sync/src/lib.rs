//! Virtual CPUs for user space.
//!
//! The kernel pins a piece of code to a CPU and gets three things for it: data that only this CPU writes, a cheap mark
//! that says "I am reading shared structures", and a way to wait until every such reader has gone. A user thread
//! migrates at any instruction, so none of the three can hang on the number of the real CPU. This crate has CPUs of its
//! own:
//!
//! * A [`CpuSet`] has a fixed number of *vCPUs*. [`CpuSet::enter`] gives this thread one of them, exclusively, until the
//!   [`CpuGuard`] drops. Entering and leaving is a handful of plain loads and stores, about a nanosecond: a thread
//!   keeps the vCPU it had, and whoever wants it instead pays for a `membarrier`.
//! * *Per-CPU memory*: [`CpuSet::percpu_alloc`] returns an offset that is valid in every vCPU's region. The address is
//!   `guard.base() + offset`; a plain `x += 1` there never loses an update, because a vCPU has one user at a time.
//! * *Grace periods* (RCU): [`CpuSet::synchronize`] returns when every run that was in progress has ended;
//!   [`CpuSet::defer`] does the same for a closure, on a reclaimer thread. The mark that a run sets on entry is
//!   the mark that grace periods wait for: there is no second one.
//! * [`barrier`]: the asymmetric fences underneath, and the core-serializing one that code patching needs.
//!
//! # More threads than vCPUs
//! A thread that finds no free vCPU takes one whose holder is not in a run. A vCPU stays with its holder for at least
//! [`Config::slice`], so that two threads do not pass it to and fro at each run; after that it goes to the thread that
//! has waited longest. No thread starves as long as runs end.
//!
//! # What is refused
//! Waiting for a grace period inside a run of the same set is an error, not a deadlock. After `fork`, the child's use
//! of a set is an error ([`EnterError::Forked`]). Where the kernel denies `membarrier`, the set works in
//! [`Mode::Symmetric`]: every enter and leave pays for a full fence, and [`CpuSet::mode`] says so.
//!
//! # Invariant
//! What a run reads after [`CpuSet::enter`] returned is not reclaimed by anything that waited for a grace period that
//! began later. Kernel counterpart: `kernel/rcu/`, `kernel/sched/membarrier.c`, `include/linux/percpu.h` (6.18).
//!
//! ```
//! use skep_sync::{Config, CpuSet};
//!
//! let set = CpuSet::new(Config::default())?;
//! let hits = set.percpu_alloc(8, 8)?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| {
//!             for _ in 0..1000 {
//!                 let run = set.enter().expect("a thread of the process that made the set");
//!                 let mine = run.at(hits).cast::<u64>();
//!                 // SAFETY: the offset came from this set, and the guard makes this thread its only writer.
//!                 unsafe { *mine.as_ptr() += 1 };
//!             }
//!         });
//!     }
//! });
//! // SAFETY: whole aligned words that no run writes any more.
//! let sum: u64 = set.cpus().map(|cpu| unsafe { set.at(cpu, hits).cast::<u64>().read() }).sum();
//! assert_eq!(sum, 4000);
//! # Ok::<(), skep_sync::SyncError>(())
//! ```

#![cfg_attr(loom, expect(dead_code, missing_docs, reason = "loom runs the protocol without the set around it"))]

pub mod barrier;
mod error;
#[cfg(not(loom))]
mod grace;
#[cfg(not(loom))]
mod percpu;
mod prim;
mod quiesce;
mod record;
mod sched;
#[cfg(not(loom))]
mod set;

#[cfg(all(loom, test))]
mod loom_tests;

pub use barrier::Mode;
pub use error::{EnterError, SyncError};
#[cfg(not(loom))]
pub use percpu::PerCpuOff;
#[cfg(not(loom))]
pub use set::{Admission, Config, CpuGuard, CpuId, CpuSet, Stall};
