//! Grace periods: waiting until every run that was in progress has ended, and work deferred until then.
//!
//! The waiting itself is in `quiesce`; here is who waits when: callers that come while a grace period is in progress
//! share the next, and a reclaimer thread takes what is deferred, a queue at a time.
//!
//! Invariant: a grace period that began after an object was unpublished ends after every run that could have seen it.
//! Kernel counterpart: `kernel/rcu/tree.c`, `synchronize_rcu` and `call_rcu` (6.18).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use crate::error::SyncError;
use crate::prim::lock;
use crate::quiesce::{Held, quiesce};
use crate::sched::Scheduler;

pub(crate) type Deferred = Box<dyn FnOnce() + Send>;

/// The grace periods of one set.
pub(crate) struct Grace {
    /// Grace periods begun.
    begun: AtomicU64,
    /// Grace periods completed; the lock is held for the length of one.
    done: Mutex<u64>,
    queue: Mutex<Queue>,
    work: Condvar,
}

struct Queue {
    pending: VecDeque<Deferred>,
    reclaimer: Option<ThreadId>,
    stop: bool,
}

impl Grace {
    pub(crate) fn new() -> Grace {
        Grace {
            begun: AtomicU64::new(0),
            done: Mutex::new(0),
            queue: Mutex::new(Queue { pending: VecDeque::new(), reclaimer: None, stop: false }),
            work: Condvar::new(),
        }
    }

    /// Waits for a grace period that begins after this call. The caller's thread is in no run of the set.
    pub(crate) fn wait(&self, sched: &Scheduler, report: &dyn Fn(&Held)) -> Result<(), SyncError> {
        // Acquires what the caller unpublished before it looks at the count: a grace period that begins after this
        // point has a larger number, and its barrier comes after it.
        std::sync::atomic::fence(Ordering::SeqCst);
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut done = lock(&self.done);
        if *done >= wanted {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        quiesce(sched, report)?;
        *done = number;
        Ok(())
    }

    /// Queues `work` for the reclaimer. False: there is no reclaimer yet, call [`reclaim`] on a thread of its own.
    pub(crate) fn defer(&self, work: Deferred) -> bool {
        let mut queue = lock(&self.queue);
        queue.pending.push_back(work);
        self.work.notify_one();
        queue.reclaimer.is_some()
    }

    /// Notes that `thread` is the reclaimer; false if there is one already.
    pub(crate) fn adopt(&self, thread: ThreadId) -> bool {
        let mut queue = lock(&self.queue);
        let none = queue.reclaimer.is_none();
        if none {
            queue.reclaimer = Some(thread);
        }
        none
    }

    pub(crate) fn on_reclaimer(&self) -> bool {
        lock(&self.queue).reclaimer == Some(std::thread::current().id())
    }

    /// Tells the reclaimer to end once its queue is empty.
    pub(crate) fn stop(&self) {
        lock(&self.queue).stop = true;
        self.work.notify_all();
    }

    /// Waits for work. None: stopped, and nothing is left.
    fn next(&self) -> Option<VecDeque<Deferred>> {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.pending.is_empty() {
                return Some(std::mem::take(&mut queue.pending));
            }
            if queue.stop {
                return None;
            }
            queue = match self.work.wait(queue) {
                Ok(queue) => queue,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }
}

/// The reclaimer's life: takes what is queued, waits for one grace period, does the work.
pub(crate) fn reclaim(grace: &Grace, wait: &dyn Fn() -> Result<(), SyncError>) {
    while let Some(batch) = grace.next() {
        // A barrier that fails now may work later; until then nothing may be freed.
        while let Err(error) = wait() {
            if matches!(error, SyncError::Forked) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for work in batch {
            // A panic in one closure is reported by the panic hook and must not keep the others from being done.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }
}

/// A latch that a deferred closure opens.
#[derive(Clone)]
pub(crate) struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    pub(crate) fn new() -> Latch {
        Latch(Arc::new((Mutex::new(false), Condvar::new())))
    }

    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let mut open = lock(&self.0.0);
        while !*open {
            open = match self.0.1.wait(open) {
                Ok(open) => open,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }
}
