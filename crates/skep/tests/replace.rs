//! Replacing programs under load: each run one version, none lost, none doubled, nothing leaks.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use skep::{Engine, Mode, Object, SlotError, Xdp, XdpBuff};

/// Two programs, the first of which tail-calls the second; both know their version.
fn version(number: i32) -> skep::Version {
    object(number).entry("first_half")
}

fn object(number: i32) -> Object {
    let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/version.bpf.o")).expect("committed");
    object.set_rodata("version", number).expect("a 4-byte constant")
}

/// How many swaps: 100,000 in the soak (`SKEP_SWAPS`), fewer in CI.
fn swaps() -> i32 {
    std::env::var("SKEP_SWAPS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

/// One test at a time: the memory of another would be counted.
static SERIAL: Mutex<()> = Mutex::new(());

/// Waits until everything that was deferred is done, and what that deferred, and so on.
fn settle(engine: &Engine) {
    for _ in 0..8 {
        engine.cpus().barrier().expect("outside of runs");
    }
}

/// The allocator's settings for resident memory that can be compared: one heap, and no freed blocks kept by each thread.
const ONE_HEAP: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.tcache_count=0");

/// Runs one test of this file again, alone and in one heap; false if this is that run.
fn again_in_one_heap(test: &str) -> bool {
    let (name, value) = ONE_HEAP;
    if std::env::var_os(name).is_some_and(|set| set == value) {
        return false;
    }
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    let status = again.args([test, "--exact", "--nocapture"]).env(name, value).status().expect("it starts");
    assert!(status.success(), "{test} in one heap: {status}");
    true
}

/// Resident pages, once the allocator has given back what is free.
fn resident() -> usize {
    // SAFETY: any thread may call it at any time; it gives free pages back and moves no block.
    unsafe { libc::malloc_trim(0) };
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc");
    text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[test]
fn every_run_sees_one_whole_version() {
    if again_in_one_heap("every_run_sees_one_whole_version") {
        return;
    }
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let engine = Engine::new().expect("an engine");
    let slot: skep::Slot<XdpBuff> = engine.slot(version(1)).expect("the first version");
    let stop = AtomicBool::new(false);
    let runs = AtomicU64::new(0);
    let newest = AtomicU64::new(1);
    let mut base = 0;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    let at_least = newest.load(Ordering::Acquire);
                    let result = slot.run(&mut packet).expect("a run");
                    runs.fetch_add(1, Ordering::Relaxed);
                    // The program returns its version twice, once from before a tail call and once from behind it.
                    let (first, second) = (result >> 32, result & 0xffff_ffff);
                    assert_eq!(first, second, "a run saw two versions");
                    // A run that starts after a swap returned sees the new version, and versions never go back.
                    assert!(first >= at_least, "a run saw {first}, but {at_least} was in place before it started");
                    assert!(first >= seen, "from {seen} back to {first}");
                    seen = first;
                }
            });
        }
        for number in 2..swaps() {
            let old = slot.swap(version(number).adopt_maps(&["runs"]).expect("the map")).expect("a swap");
            newest.store(u64::from(number.unsigned_abs()), Ordering::Release);
            drop(old.drained().expect("outside of runs"));
            if number % 100 == 0 {
                // What is deferred is done on a thread of its own, which a machine without a free core holds back.
                engine.cpus().barrier().expect("outside of runs");
            }
            // By then the allocator has the memory that it takes to have versions wait for their grace periods.
            if base == 0 && number > swaps() / 4 {
                settle(&engine);
                base = resident();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let total: u64 = slot.current().map::<u32, u64>("runs").expect("the map").sum_cpus(&0).expect("counted");
    assert_eq!(total, runs.load(Ordering::Relaxed), "adopted counters lost or doubled a run");
    settle(&engine);
    let now = resident();
    println!("resident pages: {base} after a quarter of {} swaps, {now} after all of them", swaps());
    // Exact is testing/tests/replace_memory.rs; after few swaps the allocator has not seen the worst moments yet.
    let slack = if swaps() < 50_000 { 64 } else { 0 };
    assert!(now <= base + base / 100 + slack, "resident pages grew from {base} to {now}");
}

/// Programs of a loaded object are replaced one by one, the one that a tail call enters as well as the one that it leaves.
#[test]
fn programs_of_a_loaded_object_are_replaced_one_by_one() {
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for mode in [Mode::Jit, Mode::Interp] {
        let engine = Engine::builder().mode(mode).build().expect("an engine");
        let loaded = engine.load(object(1)).expect("it loads");
        let [first, second] = ["first_half", "second_half"].map(|name| loaded.program(name).expect("there"));
        let stop = AtomicBool::new(false);
        let runs = AtomicU64::new(0);
        let newest = [AtomicU64::new(1), AtomicU64::new(1)];
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
                    let mut seen = [0; 2];
                    while !stop.load(Ordering::Relaxed) {
                        let at_least = [0, 1].map(|half: usize| newest[half].load(Ordering::Acquire));
                        let result = first.run(&mut packet).expect("a run");
                        runs.fetch_add(1, Ordering::Relaxed);
                        let versions = [result >> 32, result & 0xffff_ffff];
                        for half in 0..2 {
                            assert!(versions[half] >= at_least[half], "{versions:?} after {at_least:?}");
                            assert!(versions[half] >= seen[half], "{versions:?} after {seen:?}");
                        }
                        seen = versions;
                    }
                });
            }
            for number in 2..swaps() / 20 {
                // The second half reads what the first half wrote, and the first half counts in the map of the second.
                let version = || object(number).adopt_maps(&["runs", "first", "next"]).expect("the maps");
                let (half, program) = if number % 2 == 0 { (0, &first) } else { (1, &second) };
                let old = program.replace(version()).expect("it fits");
                newest[half].store(u64::from(number.unsigned_abs()), Ordering::Release);
                assert_eq!(old.drained().expect("outside of runs").maps().count(), 4);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let total: u64 = loaded.map::<u32, u64>("runs").expect("the map").sum_cpus(&0).expect("counted");
        assert_eq!(total, runs.load(Ordering::Relaxed), "lost or doubled a run");
        assert_eq!(first.name(), "first_half");
        assert_ne!(
            first.loaded().raw_map(".rodata").expect("there").id(),
            loaded.raw_map(".rodata").expect("there").id()
        );
    }
}

#[test]
fn a_program_that_does_not_fit_replaces_nothing() {
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let engine = Engine::new().expect("an engine");
    let loaded = engine.load(object(7)).expect("it loads");
    let first = loaded.program("first_half").expect("there");
    let id = first.id();
    let other =
        || Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/socket_dns.bpf.o")).expect("there");
    let name = other().programs()[0].name.clone();
    let refused = [
        first.replace(object(8).entry("nonsense")),
        first.replace(other().entry(&name)),
        first.replace(object(8).adopt_maps(&["runs"]).map(|version| version.program("second_half2")).expect("the map")),
    ];
    assert!(matches!(refused[0], Err(SlotError::NotFound(_))), "{refused:?}");
    assert!(matches!(refused[1], Err(SlotError::Program(_))), "{refused:?}");
    assert!(refused[2].is_err());
    let elsewhere = Engine::new().expect("an engine").load(object(8)).expect("it loads");
    let foreign = elsewhere.program("first_half").expect("there");
    let runtime: &skep_runtime::Program = &first;
    assert!(matches!(runtime.replace(&foreign), Err(skep_runtime::ReplaceError::OtherEngine { .. })));
    let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
    assert_eq!(first.run(&mut packet).expect("a run"), 7 << 32 | 7);
    assert_eq!(first.id(), id);
}

/// A handle keeps what its program needs, whatever happens to the other handles of its object.
#[test]
fn a_program_keeps_its_object() {
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let engine = Engine::new().expect("an engine");
    let first = engine.load(object(3)).expect("it loads").program("first_half").expect("there");
    engine.cpus().barrier().expect("outside of runs");
    let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
    assert_eq!(first.run(&mut packet).expect("a run"), 3 << 32 | 3, "its tail call found nothing");
}

#[test]
fn a_version_that_does_not_fit_changes_nothing() {
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let engine = Engine::new().expect("an engine");
    let slot: skep::Slot<XdpBuff> = engine.slot(version(7)).expect("the first version");
    let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
    let mut other = object(8);
    other.set_max_entries("runs", 9).expect("a map");
    let refused = slot.swap(other.entry("first_half").adopt_maps(&["runs"]).expect("the map"));
    assert!(matches!(refused, Err(SlotError::Load(_))), "a map of another size was adopted: {refused:?}");
    assert!(version(8).adopt_maps(&["nonsense"]).is_err());
    let missing = slot.swap(object(8).entry("nonsense"));
    assert!(matches!(missing, Err(SlotError::NotFound(_))), "{missing:?}");
    assert_eq!(slot.run(&mut packet).expect("a run"), 7 << 32 | 7);
}
