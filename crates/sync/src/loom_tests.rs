//! The protocol under loom: `RUSTFLAGS="--cfg loom" cargo test -p skep-sync --lib --release`.
//!
//! Threads, records and the scheduler are the real code; barriers are full fences, waiting is yielding, slices are over
//! at once. Each test says which mistake would make it fail, and `mutants` makes two of them.

use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::barrier::Mode;
use crate::prim::light_barrier;
use crate::quiesce::quiesce;
use crate::record::Record;
use crate::sched::{RecRef, Scheduler};

/// The model of a set: no memory behind the vCPUs, one record per thread made by hand.
struct Model {
    sched: Scheduler,
    /// What a run on vCPU 0 writes, without any synchronization of its own.
    data: UnsafeCell<u32>,
}

// SAFETY: `data` is what the protocol under test protects; loom checks every access.
unsafe impl Sync for Model {}
// SAFETY: as for `Sync`.
unsafe impl Send for Model {}

fn model(cpus: usize) -> Arc<Model> {
    let bases = (1..=cpus).map(|cpu| std::ptr::without_provenance_mut(cpu * 4096));
    Arc::new(Model { sched: Scheduler::new(bases, Mode::Asymmetric, Duration::ZERO), data: UnsafeCell::new(0) })
}

/// A record that outlives the model, as the pool's records outlive their set.
fn record() -> RecRef {
    Box::leak(Box::new(Record::new()))
}

/// Enters, as `CpuSet::enter` does.
fn enter(model: &Model, record: RecRef) {
    if record.try_enter().is_none() {
        model.sched.acquire(record, None).expect("there is a vCPU");
    }
}

fn leave(model: &Model, record: RecRef) {
    if !record.try_leave() {
        model.sched.leave_slow(record);
    }
}

fn bounded(limit: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(limit);
    builder.check(body);
}

/// Fails if a taker does not see the mark, or an owner does not see that its vCPU is gone.
#[test]
fn two_threads_share_a_vcpu_exclusively() {
    bounded(6, || {
        let model = model(1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let model = model.clone();
                thread::spawn(move || {
                    let record = record();
                    for _ in 0..2 {
                        enter(&model, record);
                        // SAFETY: the vCPU is this thread's; loom reports a second access at the same time.
                        model.data.with_mut(|data| unsafe { *data += 1 });
                        leave(&model, record);
                    }
                    assert!(model.sched.thread_exit(record));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        // SAFETY: the threads have ended.
        assert_eq!(model.data.with(|data| unsafe { *data }), 4);
    });
}

/// Fails if a vCPU is lost when a revocation meets a leaver.
#[test]
fn three_threads_on_two_vcpus_all_finish() {
    bounded(3, || {
        let model = model(2);
        let runs = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (model, runs) = (model.clone(), runs.clone());
                thread::spawn(move || {
                    let record = record();
                    enter(&model, record);
                    runs.fetch_add(1, Ordering::Relaxed);
                    leave(&model, record);
                    assert!(model.sched.thread_exit(record));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    });
}

/// A reader follows an index to an object; the writer unpublishes it, waits, and reuses it.
fn reader_and_writer(enter: fn(&Model, RecRef), wait: fn(&Scheduler)) {
    let model = model(2);
    let published = Arc::new(AtomicUsize::new(1));
    let object = Arc::new(UnsafeCell::new(7_u32));
    let reader = {
        let (model, published, object) = (model.clone(), published.clone(), object.clone());
        thread::spawn(move || {
            let record = record();
            // The first run goes through the slow path, the second through the fast one.
            for _ in 0..2 {
                enter(&model, record);
                if published.load(Ordering::Relaxed) == 1 {
                    // SAFETY: published, and this is a run; loom reports a write at the same time.
                    assert_eq!(object.with(|object| unsafe { *object }), 7, "reused under a run");
                }
                leave(&model, record);
            }
            assert!(model.sched.thread_exit(record));
        })
    };
    published.store(0, Ordering::Relaxed);
    wait(&model.sched);
    // SAFETY: unpublished, and a grace period has passed.
    object.with_mut(|object| unsafe { *object = 9 });
    reader.join().unwrap();
}

fn grace(sched: &Scheduler) {
    loom::sync::atomic::fence(Ordering::SeqCst);
    quiesce(sched, &|_| {}).expect("the model's barrier does not fail");
}

/// Fails if a grace period misses a run, or a run what was unpublished before.
#[test]
fn a_grace_period_covers_every_run() {
    bounded(6, || reader_and_writer(enter, grace));
}

/// Two mistakes that the model must notice: it could not be trusted otherwise.
mod mutants {
    use super::*;

    /// A fast path without its barrier.
    fn enter_without_barrier(model: &Model, record: RecRef) {
        if record.mark.load(Ordering::Relaxed) == 0 && !record.base.load(Ordering::Relaxed).is_null() {
            record.mark.store(1, Ordering::Relaxed);
        } else {
            model.sched.acquire(record, None).expect("there is a vCPU");
        }
    }

    #[test]
    #[should_panic]
    fn entering_without_a_barrier_is_noticed() {
        bounded(3, || reader_and_writer(enter_without_barrier, grace));
    }

    #[test]
    #[should_panic]
    fn not_waiting_is_noticed() {
        bounded(3, || reader_and_writer(enter, |_| light_barrier()));
    }
}
