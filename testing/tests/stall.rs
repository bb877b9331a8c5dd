//! A run that holds up a grace period is reported with its program, whether the program has a frame or not.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep::{Engine, Object, Stall, Xdp};
use skep_testing::tail_calls::{self, PACKET};

/// An engine, and where its reports go.
fn engine() -> (Engine, Arc<Mutex<Vec<Stall>>>) {
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&stalls);
    let engine = Engine::builder().on_stall(move |stall| seen.lock().unwrap().push(stall.clone())).build().unwrap();
    (engine, stalls)
}

/// What is reported while a program runs that begins with `first` and then goes round for a second or two.
fn report_of(name: &str, first: &str) -> Stall {
    // 8,388,608 rounds at most, each a chain of 250 dependent multiplications.
    let mut text = format!("prog {name}\nr7 = r1\n{first}\nr0 = 3\nagain: may_goto out\n");
    for _ in 0..250 {
        let _ = writeln!(text, "r0 *= r0");
    }
    text.push_str("goto again\nout: exit\n");
    let (engine, stalls) = engine();
    let case = tail_calls::parse(&text).unwrap();
    let loaded = engine.load(Object::from_spec("stall", case.object)).unwrap();
    let program = loaded.program(name).unwrap();
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = Xdp::packet(&[0; PACKET]).build().unwrap();
            inside.store(true, Ordering::SeqCst);
            program.run(&mut packet).unwrap();
        });
        while !inside.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        engine.cpus().synchronize().unwrap();
    });
    let stalls = stalls.lock().unwrap();
    assert_eq!(stalls.len(), 1, "{stalls:?}");
    assert!(stalls[0].waited >= Duration::from_secs(1), "{stalls:?}");
    let running = stalls[0].program.as_ref().map(|running| (running.id, running.name.clone()));
    assert_eq!(running, Some((program.id(), name.to_owned())), "{stalls:?}");
    stalls[0].clone()
}

#[test]
fn a_program_with_a_frame_is_named() {
    let stall = report_of("framed", "call bpf_ktime_get_ns");
    let shown = stall.to_string();
    assert!(shown.starts_with("program 1 (framed) on virtual CPU 0 (thread "), "{shown}");
}

#[test]
fn a_program_without_a_frame_is_found_by_its_code() {
    if skep_text::live().is_err() {
        eprintln!("without live patching nobody is asked where it is");
        return;
    }
    report_of("frameless", "");
}

#[test]
fn a_virtual_cpu_that_is_held_outside_of_a_program_is_reported_as_such() {
    let (engine, stalls) = engine();
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = engine.cpus().enter().unwrap();
            inside.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1500));
        });
        while !inside.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        engine.cpus().synchronize().unwrap();
    });
    let stalls = stalls.lock().unwrap();
    let [stall] = &stalls[..] else { panic!("{stalls:?}") };
    assert!(stall.program.is_none(), "{stall}");
    assert!(stall.to_string().starts_with("a thread outside of programs on virtual CPU 0 (thread "), "{stall}");
}
