//! Grace periods, deferred work, and the reports of runs that hold them up.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuSet, SyncError};

fn set_of(n_possible: usize) -> CpuSet {
    CpuSet::new(Config { n_possible, region: 1 << 20, ..Config::default() }).unwrap()
}

const LIVE: u64 = 0x11fe;
const DEAD: u64 = 0xdead;

/// Readers follow a pointer that a writer replaces; what was replaced is poisoned after a grace period.
fn readers_and_a_writer(set: &CpuSet, readers: usize, time: Duration, retire: impl Fn(&CpuSet, usize)) -> u64 {
    let current = AtomicPtr::new(Box::into_raw(Box::new(AtomicU64::new(LIVE))));
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let mut swaps = 0;
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    let run = set.enter().unwrap();
                    let object = current.load(Ordering::Acquire);
                    for _ in 0..3 {
                        // SAFETY: the run began before the pointer was read; the test asserts just this.
                        assert_eq!(unsafe { &*object }.load(Ordering::Relaxed), LIVE, "freed under a run");
                    }
                    drop(run);
                    mine += 1;
                }
                reads.fetch_add(mine, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        while start.elapsed() < time {
            let old = current.swap(Box::into_raw(Box::new(AtomicU64::new(LIVE))), Ordering::AcqRel);
            retire(set, old.expose_provenance());
            swaps += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    set.barrier().unwrap();
    // SAFETY: all readers have ended.
    drop(unsafe { Box::from_raw(current.into_inner()) });
    assert!(reads.into_inner() > 1000);
    swaps
}

fn poison(address: usize) {
    let object = std::ptr::with_exposed_provenance_mut::<AtomicU64>(address);
    // SAFETY: unpublished, and a grace period has passed: nobody else refers to it.
    let object = unsafe { Box::from_raw(object) };
    object.store(DEAD, Ordering::Relaxed);
    // Keeps the poison in place for a moment, for a reader that should not be there.
    std::hint::black_box(&object);
}

#[test]
fn synchronize_waits_for_readers() {
    let set = set_of(2);
    let swaps = readers_and_a_writer(&set, 2, Duration::from_millis(700), |set, old| {
        set.synchronize().unwrap();
        poison(old);
    });
    assert!(swaps > 100, "{swaps} grace periods in 0.7 s");
}

#[test]
fn synchronize_waits_for_more_readers_than_cpus() {
    let set = set_of(2);
    readers_and_a_writer(&set, 6, Duration::from_millis(700), |set, old| {
        set.synchronize().unwrap();
        poison(old);
    });
}

#[test]
fn deferred_work_waits_for_readers() {
    let set = set_of(3);
    readers_and_a_writer(&set, 3, Duration::from_millis(500), |set, old| {
        set.defer(Box::new(move || poison(old)));
        std::thread::yield_now();
    });
}

#[test]
fn symmetric_grace_periods() {
    let set = CpuSet::new(Config { n_possible: 2, region: 1 << 20, symmetric: true, ..Config::default() }).unwrap();
    readers_and_a_writer(&set, 3, Duration::from_millis(400), |set, old| {
        set.synchronize().unwrap();
        poison(old);
    });
}

#[test]
fn a_grace_period_waits_for_the_run_in_progress_and_no_other() {
    let set = set_of(2);
    let (entered, leave, waited) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let run = set.enter().unwrap();
            entered.store(true, Ordering::SeqCst);
            while !leave.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert!(!waited.load(Ordering::SeqCst), "synchronize returned inside the run");
            drop(run);
            // Runs that begin later must not hold it up, however many there are.
            while !waited.load(Ordering::SeqCst) {
                drop(set.enter().unwrap());
            }
        });
        while !entered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            leave.store(true, Ordering::SeqCst);
        });
        set.synchronize().unwrap();
        assert!(leave.load(Ordering::SeqCst));
        waited.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_thread_that_keeps_its_vcpu_can_let_grace_periods_pass() {
    let set = set_of(2);
    let (entered, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut run = set.enter().unwrap();
            entered.store(true, Ordering::SeqCst);
            while !stop.load(Ordering::SeqCst) {
                run.quiescent();
            }
            // Inside a nested run it is no promise.
            let nested = set.enter().unwrap();
            run.quiescent();
            drop(nested);
        });
        while !entered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        for _ in 0..1000 {
            set.synchronize().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn waiting_inside_a_run_is_an_error() {
    let set = set_of(2);
    let run = set.enter().unwrap();
    assert!(matches!(set.synchronize(), Err(SyncError::InsideRun)));
    assert!(matches!(set.barrier(), Err(SyncError::InsideRun)));
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    set.defer(Box::new(move || flag.store(true, Ordering::SeqCst)));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!done.load(Ordering::SeqCst), "deferred work done under a run");
    drop(run);
    set.barrier().unwrap();
    assert!(done.load(Ordering::SeqCst));
    let (inner, found) = (set.clone(), Arc::new(Mutex::new(None)));
    let answer = found.clone();
    set.defer(Box::new(move || *answer.lock().unwrap() = Some(inner.barrier())));
    set.barrier().unwrap();
    assert!(matches!(found.lock().unwrap().take(), Some(Err(SyncError::OnReclaimer))));
}

#[test]
fn a_run_that_holds_a_grace_period_up_is_reported() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = reports.clone();
    let set = CpuSet::new(Config {
        n_possible: 2,
        region: 1 << 20,
        on_stall: Arc::new(move |stall| sink.lock().unwrap().push(*stall)),
        ..Config::default()
    })
    .unwrap();
    let entered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let run = set.enter_on(skep_sync::CpuId(1)).unwrap();
            entered.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1300));
            drop(run);
        });
        while !entered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        set.synchronize().unwrap();
    });
    let reports = reports.lock().unwrap();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].cpu.0, 1);
    assert!(reports[0].waited >= Duration::from_secs(1));
    assert_ne!(reports[0].tid, 0);
}

#[test]
fn freed_percpu_memory_is_zero_when_it_comes_back() {
    let set = set_of(2);
    for size in [8, 4096, 3 * 4096 + 100] {
        let first = set.percpu_alloc(size, 8).unwrap();
        for cpu in set.cpus() {
            // SAFETY: the allocation, which nobody else uses.
            unsafe { set.at(cpu, first).as_ptr().write_bytes(0xab, size) };
        }
        set.percpu_free(first);
        set.percpu_free(first);
        set.barrier().unwrap();
        let again = set.percpu_alloc(size, 8).unwrap();
        assert_eq!(first, again, "the hole is reused");
        for cpu in set.cpus() {
            // SAFETY: the allocation, which nobody else uses.
            let bytes = unsafe { std::slice::from_raw_parts(set.at(cpu, again).as_ptr(), size) };
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        set.percpu_free(again);
        set.barrier().unwrap();
    }
}

#[test]
fn work_deferred_before_the_last_handle_drops_is_done() {
    let done = Arc::new(AtomicUsize::new(0));
    let set = set_of(2);
    for _ in 0..100 {
        let done = done.clone();
        let keeps = set.clone();
        set.defer(Box::new(move || {
            drop(keeps);
            done.fetch_add(1, Ordering::SeqCst);
        }));
    }
    drop(set);
    let start = Instant::now();
    while done.load(Ordering::SeqCst) < 100 {
        assert!(start.elapsed() < Duration::from_secs(10), "deferred work was lost");
        std::thread::sleep(Duration::from_millis(1));
    }
}
