//! Programs without a frame are exchanged while threads run them. A run of one is nothing but its code, entered through another
//! word than that of programs with frames; and here nothing but the exchange itself keeps the old version for runs inside it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use skep::{Engine, Loaded, Object, Xdp};
use skep_object::{MapKind, ObjectSpec};
use skep_testing::tail_calls;

/// Reads its number again and again from a map of its own, and answers 0 if it was not always the same.
const PROGRAM: &str = "
prog p
r1 = map_value[out]+0
r0 = *(u64 *)(r1 +0)
r2 = 100
again:
r3 = *(u64 *)(r1 +0)
if r3 != r0 goto lost
r2 += -1
if r2 != 0 goto again
exit
lost:
r0 = 0
exit
";

fn load(engine: &Engine, template: &ObjectSpec, number: u64) -> Loaded {
    let mut spec = template.clone();
    for map in spec.maps.iter_mut().filter(|map| map.name == "out") {
        map.kind = MapKind::Data;
        map.image = number.to_le_bytes().to_vec();
    }
    engine.load(Object::from_spec("numbered", spec)).unwrap()
}

#[test]
fn programs_without_frames_are_exchanged_under_load() {
    let template = tail_calls::parse(PROGRAM).unwrap().object;
    let engine = Engine::builder().vcpus(2).build().unwrap();
    // A place of its own, so that no other handle keeps a version that has left it.
    let first: &skep_runtime::Program = &load(&engine, &template, 1).program("p").unwrap();
    let place = first.pinned();
    let (stop, newest, runs) = (AtomicBool::new(false), AtomicU64::new(1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut packet = Xdp::packet(&[0; 64]).build().unwrap();
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    let at_least = newest.load(Ordering::SeqCst).max(seen);
                    seen = place.run(&mut packet).unwrap();
                    assert!(seen >= at_least, "a run saw {seen}, but {at_least} was in place before it began");
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 2..600 {
            let loaded = load(&engine, &template, number);
            let new: &skep_runtime::Program = &loaded.program("p").unwrap();
            let old = place.replace(new).unwrap();
            newest.store(number, Ordering::SeqCst);
            drop(loaded);
            if number % 2 == 0 {
                drop(old.drained().unwrap());
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(runs.into_inner() > 600);
}
