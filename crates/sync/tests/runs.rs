//! Runs: exclusive vCPUs, nesting, more threads than vCPUs, thread exit, pinned runs, refusals.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuId, CpuSet, EnterError, Mode, PerCpuOff};

fn set_of(n_possible: usize) -> CpuSet {
    CpuSet::new(Config { n_possible, region: 1 << 20, ..Config::default() }).unwrap()
}

fn sum(set: &CpuSet, off: PerCpuOff) -> u64 {
    // SAFETY: the offset is the set's; tests read after their threads have ended.
    set.cpus().map(|cpu| unsafe { set.at(cpu, off).cast::<u64>().read_volatile() }).sum()
}

/// `threads` threads add to a per-CPU counter with plain loads and stores, and check that nobody else is on their vCPU.
fn hammer(set: &CpuSet, threads: u32, runs: u64) {
    let hits = set.percpu_alloc(8, 8).unwrap();
    let owner = set.percpu_alloc(4, 4).unwrap();
    std::thread::scope(|scope| {
        for me in 1..=threads {
            scope.spawn(move || {
                for at in 0..runs {
                    let run = set.enter().unwrap();
                    assert_eq!(run.base(), set.base(run.cpu()));
                    let owner = run.at(owner).cast::<AtomicU32>();
                    // SAFETY: memory of the set, only ever used as an atomic.
                    let owner = unsafe { owner.as_ref() };
                    assert_eq!(owner.swap(me, Ordering::Relaxed), 0, "two threads on one vCPU");
                    let hits = run.at(hits).cast::<u64>().as_ptr();
                    // SAFETY: this thread has the vCPU to itself: that is what is being tested.
                    let now = unsafe { hits.read_volatile() };
                    // SAFETY: as above.
                    unsafe { hits.write_volatile(now + 1) };
                    if at % 1024 == 0 {
                        std::thread::yield_now();
                    }
                    assert_eq!(owner.swap(0, Ordering::Relaxed), me, "two threads on one vCPU");
                }
            });
        }
    });
    assert_eq!(sum(set, hits), u64::from(threads) * runs);
}

#[test]
fn as_many_threads_as_cpus() {
    hammer(&set_of(2), 2, 2_000_000);
}

#[test]
fn more_threads_than_cpus() {
    hammer(&set_of(2), 8, 200_000);
    hammer(&set_of(1), 3, 50_000);
}

#[test]
fn symmetric_mode_is_slow_and_right() {
    let config = Config { n_possible: 2, region: 1 << 20, symmetric: true, ..Config::default() };
    let set = CpuSet::new(config).unwrap();
    assert_eq!(set.mode(), Mode::Symmetric);
    hammer(&set, 4, 20_000);
}

#[test]
fn threads_that_come_and_go_leave_their_vcpu() {
    let set = set_of(2);
    for _ in 0..500 {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| drop(set.enter().unwrap()));
            }
        });
    }
    let hits = set.percpu_alloc(8, 8).unwrap();
    assert_eq!(sum(&set, hits), 0);
}

#[test]
fn nested_runs_share_the_vcpu_in_any_order_of_dropping() {
    let set = set_of(4);
    let outer = set.enter().unwrap();
    let inner = set.enter().unwrap();
    let third = set.enter_on(outer.cpu()).unwrap();
    assert_eq!(outer.base(), inner.base());
    assert_eq!(outer.cpu(), third.cpu());
    drop(outer);
    assert!(set.current().is_some(), "a guard is left");
    drop(third);
    assert!(set.current().is_some(), "a guard is left");
    drop(inner);
    assert_eq!(set.current(), None);
    set.synchronize().unwrap();
}

#[test]
fn sets_do_not_mix() {
    let (one, two) = (set_of(2), set_of(2));
    for _ in 0..100 {
        let a = one.enter().unwrap();
        let b = two.enter().unwrap();
        let c = one.enter().unwrap();
        assert_eq!(a.base(), c.base());
        assert_ne!(a.base(), b.base());
        drop(a);
        assert!(one.current().is_some());
        drop(c);
        assert!(one.current().is_none());
        assert!(two.current().is_some());
    }
}

#[test]
fn a_run_can_choose_its_vcpu() {
    let set = set_of(3);
    for cpu in set.cpus() {
        let run = set.enter_on(cpu).unwrap();
        assert_eq!(run.cpu(), cpu);
        let other = CpuId((cpu.0 + 1) % 3);
        assert_eq!(set.enter_on(other).unwrap_err(), EnterError::OtherCpu { held: cpu.0 });
    }
    assert_eq!(set.enter_on(CpuId(3)).unwrap_err(), EnterError::NoSuchCpu(3));
    // Another thread holds vCPU 2 by habit, in no run: it gives way.
    let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(set.enter_on(CpuId(1)).unwrap());
            ready.store(true, Ordering::SeqCst);
            while !done.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop(set.enter_on(CpuId(1)).unwrap());
        });
        while !ready.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert_eq!(set.enter_on(CpuId(1)).unwrap().cpu(), CpuId(1));
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn pinned_threads_take_turns() {
    let set = set_of(2);
    let hits = set.percpu_alloc(8, 8).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for at in 0..3000 {
                    let run = set.enter_on(CpuId(at % 2)).unwrap();
                    assert_eq!(run.cpu().0, at % 2);
                    let hits = run.at(hits).cast::<u64>().as_ptr();
                    // SAFETY: the vCPU is this thread's.
                    let now = unsafe { hits.read_volatile() };
                    // SAFETY: as above.
                    unsafe { hits.write_volatile(now + 1) };
                }
            });
        }
    });
    assert_eq!(sum(&set, hits), 9000);
}

#[test]
fn no_thread_starves() {
    let set = set_of(1);
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for count in &counts {
            let (set, stop) = (&set, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    drop(set.enter().unwrap());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while counts.iter().any(|count| count.load(Ordering::Relaxed) < 1000) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counts: Vec<u64> = counts.into_iter().map(AtomicU64::into_inner).collect();
    assert!(counts.iter().all(|&count| count >= 1000), "{counts:?}");
}

#[test]
fn an_idle_holder_does_not_block_others() {
    let set = set_of(1);
    drop(set.enter().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| drop(set.enter().unwrap())).join().unwrap();
    });
    drop(set.enter().unwrap());
}

#[test]
fn an_admission_check_is_asked_before_the_next_run() {
    let set = set_of(2);
    drop(set.enter().unwrap());
    set.admit_with(|| Err("not today"));
    assert_eq!(set.enter().unwrap_err(), EnterError::Refused("not today"));
    set.synchronize().unwrap();
}

#[test]
fn a_run_in_a_destructor_of_a_thread_local_works() {
    struct Late(CpuSet);
    impl Drop for Late {
        fn drop(&mut self) {
            let outer = self.0.enter().unwrap();
            let inner = self.0.enter().unwrap();
            assert_eq!(outer.cpu(), inner.cpu());
        }
    }
    thread_local! { static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) }; }
    let set = set_of(1);
    for early in [true, false] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The destructors run in the order of first use, or the other way round: try both.
                if early {
                    drop(set.enter().unwrap());
                }
                LATE.with(|late| *late.borrow_mut() = Some(Late(set.clone())));
                drop(set.enter().unwrap());
            });
        });
        drop(set.enter().unwrap());
    }
    set.synchronize().unwrap();
}

#[test]
fn a_forked_child_is_refused() {
    let set = set_of(2);
    let run = set.enter().unwrap();
    // SAFETY: the child calls nothing but this crate's refusals and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut bad = 0;
        drop(run);
        bad |= i32::from(set.enter().err() != Some(EnterError::Forked));
        bad |= i32::from(set.enter_on(CpuId(0)).err() != Some(EnterError::Forked)) << 1;
        bad |= i32::from(set.synchronize().is_ok()) << 2;
        bad |= i32::from(set.barrier().is_ok()) << 3;
        // SAFETY: leaves at once.
        unsafe { libc::_exit(bad) };
    }
    drop(run);
    let mut status = 0;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0);
    drop(set.enter().unwrap());
}

#[test]
fn limits_are_errors() {
    for n_possible in [0, 65537] {
        assert!(CpuSet::new(Config { n_possible, ..Config::default() }).is_err());
    }
    let many = set_of(512);
    assert_eq!(many.cpus().count(), 512);
    assert_eq!(many.enter_on(CpuId(511)).unwrap().cpu(), CpuId(511));
}
