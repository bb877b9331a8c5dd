//! Replacing programs leaves nothing behind: not on the heap, in code memory, or in per-CPU memory. Ten bytes per swap
//! that stay are noticed.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep::{Engine, Object, Version, Xdp, XdpBuff};
use skep_runtime::map::Slot;
use skep_testing::counting::{Counting, bytes_in_use};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Stops the readers, also when an assertion fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is in use: heap bytes, code bytes, per-CPU bytes.
type Use = (usize, usize, usize);

/// What is in use when everything that was deferred is done, and what that deferred, and so on.
///
/// The reclaimer lets go of a batch's own queue and latch just after it has let this thread go on, and on a busy machine not
/// soon: what is there at every one of many looks is what stays. Looks end with the first that is `enough`. A prog array
/// notices at a change that code which watched its slots is gone; `touch` makes one.
fn settled(engine: &Engine, touch: &dyn Fn(), enough: impl Fn(Use) -> bool) -> Use {
    for round in 0..16 {
        engine.cpus().barrier().expect("outside of runs");
        if round == 7 {
            touch();
        }
    }
    let mut least = (usize::MAX, 0, 0);
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(5));
        let memory = engine.memory_use();
        least = least.min((bytes_in_use(), memory.code, memory.per_cpu));
        if enough(least) {
            break;
        }
    }
    least
}

fn open(name: &str) -> Object {
    Object::open(format!("{}/../crates/skep/tests/data/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).expect("committed")
}

fn object(number: i32) -> Object {
    open("version").set_rodata("version", number).expect("a 4-byte constant")
}

/// An extension of `policy`.
fn extension(program: &str, answer: i32) -> Version {
    open("policy_numbered").set_rodata("answer", answer).expect("a 4-byte constant").entry(program)
}

/// The same is in use after some rounds, after twice as many, and after three times as many.
fn flat((engine, touch): (&Engine, &dyn Fn()), what: &str, mut round: impl FnMut(i32)) {
    // Lists are as long as they were when most versions waited for a grace period; here they wait one by one.
    let mut round = |number| {
        round(number);
        for _ in 0..3 {
            engine.cpus().barrier().expect("outside of runs");
        }
    };
    (0..ROUNDS).for_each(&mut round);
    let looks = Cell::new(20);
    let first = settled(engine, touch, |_| looks.replace(looks.get() - 1) == 1);
    for from in [ROUNDS, 2 * ROUNDS] {
        (from..from + ROUNDS).for_each(&mut round);
        let is_flat = |now: Use| now.0 <= first.0 && (now.1, now.2) == (first.1, first.2);
        let now = settled(engine, touch, is_flat);
        assert!(
            is_flat(now),
            "{what}: heap bytes, code, per-CPU memory in use: {first:?}, {ROUNDS} rounds later {now:?}"
        );
    }
}

/// Rounds between two looks.
const ROUNDS: i32 = 150;

#[test]
fn nothing_of_a_replaced_version_stays() {
    let engine = Engine::new().expect("an engine");
    let slot: skep::Slot<XdpBuff> = engine.slot(object(1).entry("first_half")).expect("the first version");
    let loaded = engine.load(object(1)).expect("it loads");
    let (first, second) = (loaded.program("first_half").expect("there"), loaded.program("second_half").expect("there"));
    let policy = engine.load(open("policy")).expect("it loads");
    let filter = policy.program("filter").expect("there");
    let next = loaded.raw_map("next").expect("there");
    let touch = || next.update_slot(&[0; 4], Slot::Program(second.to_callee()), 0).expect("of the array's kind");
    let on = (&engine, &touch as &dyn Fn());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = AtEnd(&stop);
        scope.spawn(|| {
            let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
            while !stop.load(Ordering::Relaxed) {
                slot.run(&mut packet).expect("a run");
                first.run(&mut packet).expect("a run");
                filter.run(&mut packet).expect("a run");
            }
        });
        flat(on, "Slot::swap", |number| {
            drop(slot.swap(object(number).adopt_maps(&["runs"]).expect("the map")).expect("a swap"));
        });
        flat(on, "Program::replace", |number| {
            drop(first.replace(object(number).adopt_maps(&["runs"]).expect("the map")).expect("it fits"));
            drop(second.replace(object(number).adopt_maps(&["first"]).expect("the map")).expect("it fits"));
        });
        flat(on, "Program::replace with a prog array adopted", |number| {
            drop(first.replace(object(number).adopt_maps(&["runs", "next"]).expect("the maps")).expect("it fits"));
        });
        flat(on, "Loaded::replace_function", |number| {
            drop(policy.replace_function("filter", "decide", extension("numbered", number)).expect("it fits"));
            drop(policy.replace_function("filter", "filter", extension("whole", number)).expect("it fits"));
        });
        flat(on, "Engine::load", |number| drop(engine.load(object(number)).expect("it loads")));
    });
}
