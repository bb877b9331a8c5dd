//! A thread's record in one set, and the fast path: entering and leaving a run.
//!
//! The record answers two questions that other threads ask: *is this thread in a run* (`mark`), and *may it start one*
//! (`base`, null once the vCPU has been taken back). Owner and taker are a Dekker pair:
//!
//! ```text
//!     entering                         taking back                     waiting for a grace period
//!     mark = 1                         base = null                     attention |= GRACE
//!     light barrier                    heavy barrier                   heavy barrier
//!     base != null ? run : slow path   mark == 0 ? taken : wait        mark == 0 ? done : wait
//! ```
//!
//! Either the taker sees the mark, or the owner sees the null: with the barriers, not both can miss. Leaving is the same
//! with the roles of the words changed: the mark goes to zero, then the leaver looks at `attention`; a waiter sets
//! `attention` before its barrier and looks at the mark after it.
//!
//! The mark is in the thread's record and not in the vCPU, so that a thread that marks itself and then finds that its
//! vCPU is gone has disturbed nobody.
//!
//! Invariant: `mark` and a `base` other than null are written by the record's own thread, or under the scheduler's lock
//! while that thread waits for them.

use crate::prim::{AtomicPtr, AtomicU32, Ordering, light_barrier, wake};

/// A grace period waits for this thread's run.
pub(crate) const GRACE: u32 = 1;
/// The vCPU has been taken back, or somebody waits for it.
pub(crate) const REVOKED: u32 = 2;
/// The thread is gone or has no record of its own: the end of the run gives everything back.
pub(crate) const ORPHAN: u32 = 4;
/// The set is in [`Mode::Symmetric`](crate::Mode): the fences are not the kernel's, each leave runs its own.
pub(crate) const SYMMETRIC: u32 = 8;

/// One thread in one set. All zero but for `cpu` is "new"; the memory outlives every handle.
#[repr(C, align(128))]
pub(crate) struct Record {
    /// How many guards this thread has in this set: 0 is idle.
    pub(crate) mark: AtomicU32,
    /// What the thread must look after when it leaves.
    pub(crate) attention: AtomicU32,
    /// The base of the vCPU that the next run may use, or null.
    pub(crate) base: AtomicPtr<u8>,
    /// The base of the vCPU that this thread holds, in a run or between runs, revoked or not.
    pub(crate) held: AtomicPtr<u8>,
    /// The index of that vCPU plus one, 0 for none.
    pub(crate) cpu_plus_one: AtomicU32,
    /// The futex of a thread that waits for a vCPU: 1 once it has been given one.
    pub(crate) granted: AtomicU32,
    /// The kernel's id of the thread, for reports.
    pub(crate) tid: AtomicU32,
}

impl Record {
    #[cfg(loom)]
    pub(crate) fn new() -> Record {
        Record {
            mark: AtomicU32::new(0),
            attention: AtomicU32::new(0),
            base: AtomicPtr::new(std::ptr::null_mut()),
            held: AtomicPtr::new(std::ptr::null_mut()),
            cpu_plus_one: AtomicU32::new(0),
            granted: AtomicU32::new(0),
            tid: AtomicU32::new(0),
        }
    }

    /// The vCPU that this thread holds.
    pub(crate) fn cpu(&self) -> Option<u32> {
        self.cpu_plus_one.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(crate) fn in_run(&self) -> bool {
        // Acquire: pairs with the leaver's release, so that what the run did happened before what follows.
        self.mark.load(Ordering::Acquire) != 0
    }

    /// Answers a grace period that asks for attention: this thread holds on to nothing that it found before.
    pub(crate) fn acknowledge(&self) {
        // Acquire: what was unpublished before the request is seen after it. Release: what this thread did before is
        // over for whoever sees the request gone.
        if self.attention.fetch_and(!GRACE, Ordering::AcqRel) & GRACE != 0 {
            wake(&self.attention);
        }
    }

    /// Starts an outermost run, if the vCPU is still this thread's. Called by the record's own thread.
    #[inline(always)]
    pub(crate) fn try_enter(&self) -> Option<std::ptr::NonNull<u8>> {
        if self.mark.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.mark.store(1, Ordering::Relaxed);
        // Orders the mark before every load of the run, the check of `base` the first of them. Pairs with the heavy
        // barrier of a taker and of a grace period.
        light_barrier();
        match std::ptr::NonNull::new(self.base.load(Ordering::Relaxed)) {
            Some(base) => Some(base),
            None => {
                self.mark.store(0, Ordering::Release);
                None
            }
        }
    }

    /// Starts a run inside a run, if this thread is in one. Called by the record's own thread.
    #[inline]
    pub(crate) fn try_nest(&self) -> Option<std::ptr::NonNull<u8>> {
        let depth = self.mark.load(Ordering::Relaxed);
        if depth == 0 {
            return None;
        }
        // The mark is set already, and the vCPU stays until it is zero, whatever `base` says.
        self.mark.store(depth + 1, Ordering::Relaxed);
        std::ptr::NonNull::new(self.held.load(Ordering::Relaxed))
    }

    /// Ends a run inside a run. False: it is the outermost.
    #[inline]
    pub(crate) fn try_unnest(&self) -> bool {
        let depth = self.mark.load(Ordering::Relaxed);
        if depth > 1 {
            self.mark.store(depth - 1, Ordering::Relaxed);
        }
        depth > 1
    }

    /// Ends an outermost run. False: there is more to do, by [`leave_slow`](crate::sched::Scheduler::leave_slow). A mark
    /// above 1 (a nested guard) is left as it was.
    #[inline(always)]
    pub(crate) fn try_leave(&self) -> bool {
        if self.mark.load(Ordering::Relaxed) != 1 {
            return false;
        }
        // Release: all of the run happened before whoever sees the zero.
        self.mark.store(0, Ordering::Release);
        light_barrier();
        self.attention.load(Ordering::Relaxed) == 0
    }
}
