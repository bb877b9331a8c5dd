//! What a thread knows about sets: its record in each, and which one it used last.
//!
//! Two thread-locals. `BIAS` is the cache that the fast path reads; it is constant-initialised and has no destructor, so
//! that reading it is one load from the thread's block. `HELD` lists the thread's records in all sets, and its destructor
//! gives them back when the thread ends.
//!
//! Invariant: `BIAS` names only a record that belongs to this thread and to the set of that id; ids are never reused.

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::Core;
use crate::barrier::Mode;
use crate::error::EnterError;
use crate::percpu::Reservation;
use crate::prim::lock;
use crate::record::{ORPHAN, Record};
use crate::sched::{RecRef, initial_attention};

/// How many threads can have a record in one set at a time.
const MAX_THREADS: usize = 65536;

/// What the first word of the pool holds; a forked child sees zero there.
const ALIVE: u64 = 0x736b_6570_0001;

struct Bias {
    set: Cell<u64>,
    /// Dangling while `set` is 0, which is the id of no set.
    record: Cell<NonNull<Record>>,
}

thread_local! {
    static BIAS: Bias = const { Bias { set: Cell::new(0), record: Cell::new(NonNull::dangling()) } };
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// A record that this thread has until it ends.
struct Held {
    core: Weak<Core>,
    set: u64,
    record: RecRef,
}

impl Drop for Held {
    fn drop(&mut self) {
        forget_bias(self.set);
        // A set that is gone took its records with it.
        if let Some(core) = self.core.upgrade()
            && !core.pool.forked()
            && core.sched.thread_exit(self.record)
        {
            core.pool.put(self.record, core.sched.mode);
        }
    }
}

/// The record that this thread used last, if it was in set `set`.
#[inline(always)]
pub(super) fn biased(set: u64) -> Option<NonNull<Record>> {
    BIAS.with(|bias| (bias.set.get() == set).then(|| bias.record.get()))
}

/// Makes `record` the one that the fast path of set `set` finds.
pub(super) fn bias(set: u64, record: RecRef) {
    BIAS.with(|bias| {
        bias.record.set(NonNull::from(record));
        bias.set.set(set);
    });
}

/// Makes the fast path find nothing, if it would find a record of set `set`.
pub(super) fn forget_bias(set: u64) {
    BIAS.with(|bias| {
        if bias.set.get() == set {
            bias.set.set(0);
        }
    });
}

/// This thread's record in set `set`, if it has one.
pub(super) fn existing(set: u64) -> Option<RecRef> {
    let listed = HELD.try_with(|held| held.borrow().iter().find(|held| held.set == set).map(|held| held.record));
    // SAFETY: `BIAS` names a record of this set, which the caller's handle keeps.
    listed.ok().flatten().or_else(|| biased(set).map(|record| unsafe { &*record.as_ptr() }))
}

/// This thread's record in `core`, made if it has none.
pub(super) fn record(core: &Arc<Core>) -> Result<RecRef, EnterError> {
    if let Some(record) = existing(core.id) {
        return Ok(record);
    }
    let record = core.pool.take(core.sched.mode).ok_or(EnterError::TooManyThreads)?;
    record.tid.store(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(), Ordering::Relaxed);
    let listed = HELD.try_with(|held| {
        let mut held = held.borrow_mut();
        held.retain(|held| held.core.strong_count() > 0);
        held.push(Held { core: Arc::downgrade(core), set: core.id, record });
    });
    if listed.is_err() {
        // The thread is ending: this record lasts for one run. `BIAS` makes nested runs find it.
        record.attention.fetch_or(ORPHAN, Ordering::Relaxed);
        bias(core.id, record);
    }
    Ok(record)
}

/// Forgets how long a record lives.
///
/// # Safety
/// The set of the record outlives every use of the result.
pub(super) unsafe fn extend(record: &Record) -> RecRef {
    let record: *const Record = record;
    // SAFETY: the caller's promise; records are never moved.
    unsafe { &*record }
}

/// The records of one set, in memory that a forked child sees as zeros.
pub(super) struct Pool {
    memory: Reservation,
    spare: Mutex<Spare>,
}

struct Spare {
    /// How many records have ever been handed out; number 0 is the word that says whether we are a forked child.
    made: usize,
    free: Vec<RecRef>,
}

impl Pool {
    pub(super) fn new() -> io::Result<Pool> {
        let memory = Reservation::new(MAX_THREADS * size_of::<Record>())?;
        let pool = Pool { memory, spare: Mutex::new(Spare { made: 1, free: Vec::new() }) };
        pool.alive().store(ALIVE, Ordering::Relaxed);
        Ok(pool)
    }

    fn alive(&self) -> &AtomicU64 {
        // SAFETY: the first word of the reservation, aligned, and used for nothing else.
        unsafe { self.memory.start().cast::<AtomicU64>().as_ref() }
    }

    /// Whether this process is a forked child of the one that made the set.
    pub(super) fn forked(&self) -> bool {
        self.alive().load(Ordering::Relaxed) != ALIVE
    }

    fn take(&self, mode: Mode) -> Option<RecRef> {
        let mut spare = lock(&self.spare);
        if let Some(record) = spare.free.pop() {
            return Some(record);
        }
        if spare.made == MAX_THREADS {
            return None;
        }
        // SAFETY: below the maximum, so that the record lies in the reservation.
        let record = unsafe { self.memory.start().cast::<Record>().add(spare.made) };
        spare.made += 1;
        // SAFETY: all zero is a valid record, and the memory lives as long as the set.
        let record: RecRef = unsafe { &*record.as_ptr() };
        record.attention.store(initial_attention(mode), Ordering::Relaxed);
        Some(record)
    }

    /// Takes a record back that holds no vCPU and that no thread knows any more.
    pub(super) fn put(&self, record: RecRef, mode: Mode) {
        record.attention.store(initial_attention(mode), Ordering::Relaxed);
        record.mark.store(0, Ordering::Relaxed);
        lock(&self.spare).free.push(record);
    }
}
