//! One grace period: until every run that is in progress has ended.
//!
//! Asks each thread that holds a vCPU for attention, runs the heavy barrier, and waits for each that is in a run to leave
//! it. A leaver clears the request, so that a thread which runs all the time holds a grace period for one run at most.
//!
//! Invariant: a run that [`quiesce`] does not wait for began after the call, and sees what its caller wrote before.
//! Kernel counterpart: `rcu_gp_fqs_loop`, `kernel/rcu/tree.c` (6.18).

use std::time::Duration;

use crate::barrier::heavy_in;
use crate::error::SyncError;
use crate::prim::{Clock, Ordering, pause, wait};
use crate::record::GRACE;
use crate::sched::{RecRef, Scheduler};

/// After this long a run that holds a grace period up is reported.
const STALL: Duration = Duration::from_secs(1);

/// How long to look before sleeping: most runs are shorter.
const SPIN: Duration = Duration::from_micros(5);

/// A run that holds up a grace period, as the grace period sees it.
pub(crate) struct Held {
    pub(crate) cpu: u32,
    pub(crate) tid: u32,
    pub(crate) waited: Duration,
}

/// Waits for the runs in progress. The caller is in none, and no other call is in progress.
pub(crate) fn quiesce(sched: &Scheduler, report: &dyn Fn(&Held)) -> Result<(), SyncError> {
    let mut holders: Vec<RecRef> = Vec::new();
    sched.holders(GRACE, &mut holders);
    // Pairs with the light barriers of `try_enter` and `try_leave`: after it each thread either shows its mark, or will
    // see what the caller wrote; and each that leaves from here on sees the request.
    insistently(|| heavy_in(sched.mode))?;
    for record in holders {
        wait_for(record, report);
        record.attention.fetch_and(!GRACE, Ordering::AcqRel);
    }
    Ok(())
}

/// Waits until a record's thread has been outside of a run once.
fn wait_for(record: RecRef, report: &dyn Fn(&Held)) {
    let since = Clock::now();
    let mut reported = false;
    while record.in_run() {
        let attention = record.attention.load(Ordering::Acquire);
        if attention & GRACE == 0 {
            return;
        }
        let waited = since.elapsed();
        if waited < SPIN {
            pause();
            continue;
        }
        wait(&record.attention, attention, STALL.saturating_sub(waited).max(STALL / 20));
        let waited = since.elapsed();
        if !reported && waited >= STALL && record.in_run() {
            reported = true;
            report(&Held { cpu: record.cpu().unwrap_or(u32::MAX), tid: record.tid.load(Ordering::Relaxed), waited });
        }
    }
}

/// Repeats a barrier that fails, which it does when the kernel is short of memory for a moment.
fn insistently(mut barrier: impl FnMut() -> std::io::Result<()>) -> Result<(), SyncError> {
    let mut attempt = 0;
    loop {
        match barrier() {
            Ok(()) => return Ok(()),
            Err(error) if attempt == 6 => return Err(SyncError::Barrier(error)),
            Err(_) => {
                std::thread::sleep(Duration::from_micros(100 << attempt));
                attempt += 1;
            }
        }
    }
}
