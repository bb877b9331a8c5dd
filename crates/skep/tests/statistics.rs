//! The statistics switch: exact while on, a no-op while off, flipped under running threads.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep::{Engine, LivePatching, Loaded, Object, Program, Xdp, XdpBuff};

/// The measured rows; `trivial` returns at once.
const OBJECT: &[u8] = include_bytes!("../../../bench/rows.bpf.o");

fn load(engine: &Engine) -> Loaded {
    let mut object = Object::from_bytes("rows.bpf.o", OBJECT).unwrap();
    let spec = object.spec_mut();
    spec.programs.retain(|program| program.name == "trivial");
    spec.maps.clear();
    spec.variables.clear();
    engine.load(object).unwrap()
}

fn packet() -> XdpBuff {
    Xdp::packet(&[0; 64]).build().unwrap()
}

fn counted(program: &Program) -> u64 {
    program.stats().run_cnt
}

#[test]
fn while_on_every_run_is_counted_once() {
    let engine = Engine::builder().vcpus(2).build().unwrap();
    let loaded: Vec<Loaded> = (0..3).map(|_| load(&engine)).collect();
    let programs: Vec<Program> = loaded.iter().map(|loaded| loaded.program("trivial").unwrap()).collect();
    let guard = engine.enable_stats().unwrap();
    // More threads than vCPUs; each program is run by all of them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut packet = packet();
                for _ in 0..50_000 {
                    for program in &programs {
                        program.run(&mut packet).unwrap();
                    }
                }
            });
        }
    });
    for program in &programs {
        assert_eq!(counted(program), 200_000);
        assert!(program.stats().run_time_ns > 0);
    }
    drop(guard);
    let before: Vec<u64> = programs.iter().map(counted).collect();
    let mut packet = packet();
    for program in &programs {
        program.run(&mut packet).unwrap();
    }
    assert_eq!(programs.iter().map(counted).collect::<Vec<_>>(), before, "counted while off");
}

#[test]
fn off_is_the_same_code_as_before() {
    let engine = Engine::new().unwrap();
    let loaded = load(&engine);
    let program = loaded.program("trivial").unwrap();
    let bytes = || program.listing().unwrap().bytes();
    let off = bytes();
    let (first, second) = (engine.enable_stats().unwrap(), engine.enable_stats().unwrap());
    let on = bytes();
    assert_eq!(on.len(), off.len());
    let differing: Vec<usize> = (0..on.len()).filter(|&at| on[at] != off[at]).collect();
    let (low, high) = (differing[0], differing[differing.len() - 1]);
    assert!(high - low < 5, "only the site differs: {differing:?}");
    assert_eq!(off[low..low + 5], [0x0f, 0x1f, 0x44, 0, 0], "the site is the five-byte nop");
    assert_eq!(on[low], 0xe9);
    drop(first);
    assert_eq!(bytes(), on, "one guard is left");
    drop(second);
    assert_eq!(bytes(), off);
}

#[test]
fn a_program_that_is_loaded_while_on_counts_at_once() {
    let engine = Engine::new().unwrap();
    let _guard = engine.enable_stats().unwrap();
    let loaded = load(&engine);
    let program = loaded.program("trivial").unwrap();
    let mut packet = packet();
    for _ in 0..100 {
        program.run(&mut packet).unwrap();
    }
    assert_eq!(counted(&program), 100);
}

/// Runs that begin after a flip has returned, and end before the next begins, are counted as the switch says; flips and
/// loads go on beside running threads meanwhile.
#[test]
fn after_a_flip_no_run_sees_the_other_form() {
    let engine = Engine::builder().vcpus(3).build().unwrap();
    let (busy, checked) = (load(&engine), load(&engine));
    let (busy, checked) = (busy.program("trivial").unwrap(), checked.program("trivial").unwrap());
    let (stop, runs, started) = (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(3));
    let mut flips = 0_u64;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut packet = packet();
                started.wait();
                while !stop.load(Ordering::Relaxed) {
                    busy.run(&mut packet).unwrap();
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        started.wait();
        let mut packet = packet();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            let before = counted(&checked);
            checked.run(&mut packet).unwrap();
            assert_eq!(counted(&checked), before, "counted after off");
            let guard = engine.enable_stats().unwrap();
            checked.run(&mut packet).unwrap();
            assert_eq!(counted(&checked), before + 1, "not counted after on");
            drop(guard);
            flips += 2;
            if flips.is_multiple_of(100) {
                drop(load(&engine));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(flips > 100, "{flips} flips");
    assert!(counted(&busy) <= runs.into_inner());
}

#[test]
fn without_patching_runs_are_counted_all_the_same() {
    let engine = Engine::builder().live_patching(LivePatching::Off).build().unwrap();
    let loaded = load(&engine);
    let program = loaded.program("trivial").unwrap();
    let mut packet = packet();
    program.run(&mut packet).unwrap();
    assert_eq!(counted(&program), 0);
    let guard = engine.enable_stats().unwrap();
    for _ in 0..1000 {
        program.run(&mut packet).unwrap();
    }
    assert_eq!(counted(&program), 1000);
    assert!(program.stats().run_time_ns > 0);
    drop(guard);
    program.run(&mut packet).unwrap();
    assert_eq!(counted(&program), 1000);
}
