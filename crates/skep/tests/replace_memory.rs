//! Replacing programs leaves nothing behind: not on the heap, in code memory, or in per-CPU memory. Ten bytes per swap
//! that stay are noticed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use skep::{Engine, Object, Xdp, XdpBuff};

/// The system's allocator, counting bytes in use.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

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
fn settled(engine: &Engine) -> Use {
    for _ in 0..8 {
        engine.cpus().barrier().expect("outside of runs");
    }
    // The reclaimer lets go of a batch's own queue and latch just after it has let this thread go on: what is there at every
    // one of several looks is what stays.
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        BYTES.load(Ordering::Relaxed)
    });
    let heap = looks.min().unwrap_or(usize::MAX);
    let memory = engine.memory_use();
    (heap, memory.code, memory.per_cpu)
}

fn object(number: i32) -> Object {
    let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/version.bpf.o")).expect("committed");
    object.set_rodata("version", number).expect("a 4-byte constant")
}

/// The same is in use after some rounds, after twice as many, and after three times as many; but for `slack` bytes of the
/// heap.
fn flat(engine: &Engine, what: &str, slack: usize, mut round: impl FnMut(i32)) {
    let mut after = |from: i32| {
        (from..from + ROUNDS).for_each(&mut round);
        settled(engine)
    };
    let uses = [after(0), after(ROUNDS), after(2 * ROUNDS)];
    let shown = "heap bytes, code, per-CPU memory in use";
    for later in &uses[1..] {
        assert_eq!((later.1, later.2), (uses[0].1, uses[0].2), "{what}: {shown}: {uses:?}");
        assert!(later.0 <= uses[0].0 + slack, "{what}: {shown}: {uses:?}");
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
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = AtEnd(&stop);
        scope.spawn(|| {
            let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
            while !stop.load(Ordering::Relaxed) {
                slot.run(&mut packet).expect("a run");
                first.run(&mut packet).expect("a run");
            }
        });
        flat(&engine, "Slot::swap", 0, |number| {
            drop(slot.swap(object(number).adopt_maps(&["runs"]).expect("the map")).expect("a swap"));
        });
        flat(&engine, "Program::replace", 0, |number| {
            drop(first.replace(object(number).adopt_maps(&["runs"]).expect("the map")).expect("it fits"));
            drop(second.replace(object(number).adopt_maps(&["first"]).expect("the map")).expect("it fits"));
        });
        // A prog array notices at its next change that code which watched its slots is gone.
        flat(&engine, "Program::replace with a prog array adopted", 3000, |number| {
            drop(first.replace(object(number).adopt_maps(&["runs", "next"]).expect("the maps")).expect("it fits"));
        });
        flat(&engine, "Engine::load", 0, |number| drop(engine.load(object(number)).expect("it loads")));
    });
}
