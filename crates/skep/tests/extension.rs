//! Extensions: a function is replaced and put back under load, per-CPU data is shared, the kernel's rules about prog arrays
//! hold, and whatever fails leaves what ran.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use skep::{Engine, ExtendError, LivePatching, LoadError, Loaded, Mode, Object, Program, RunError, Version, Xdp};
use skep_abi::Errno;
use skep_runtime::extension::ExtendError as AttachError;
use skep_runtime::map::Slot;

/// What `decide` says without an extension.
const PASS: u64 = 2;

fn open(name: &str) -> Object {
    Object::open(format!("{}/tests/data/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The extension `program` with an answer of its own, which counts where the filter does.
fn extension(program: &str, answer: i32) -> Version {
    open("policy_numbered").set_rodata("answer", answer).unwrap().entry(program).adopt_maps(&[".percpu"]).unwrap()
}

fn engines() -> [Engine; 2] {
    [Mode::Jit, Mode::Interp].map(|mode| Engine::builder().vcpus(2).mode(mode).build().unwrap())
}

fn load(engine: &Engine) -> (Loaded, Program) {
    let loaded = engine.load(open("policy")).unwrap();
    let filter = loaded.program("filter").unwrap();
    (loaded, filter)
}

/// A run over an IPv6 packet.
fn run(program: &skep::RawProgram) -> u64 {
    let mut packet = [0; 64];
    packet[12] = 0x86;
    packet[13] = 0xdd;
    program.run(&mut Xdp::packet(&packet).build().unwrap()).unwrap()
}

/// The counters, summed over the vCPUs.
fn verdicts(loaded: &Loaded) -> [u64; 8] {
    let cpus = loaded.map::<u32, [u64; 8]>(".percpu").unwrap().per_cpu(&0).unwrap();
    let mut sums = [0; 8];
    for cpu in cpus {
        for (sum, count) in sums.iter_mut().zip(cpu) {
            *sum += count;
        }
    }
    sums
}

#[test]
fn a_function_is_replaced_and_put_back() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        assert_eq!(filter.replaceable_functions(), ["filter", "decide"]);
        assert_eq!(run(&filter), PASS);
        let link = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap();
        assert_eq!((link.program().name(), link.target().name()), ("numbered", "filter"));
        assert_eq!(link.function(), "decide");
        assert_eq!(run(&filter), 4);
        link.detach().unwrap();
        assert_eq!(run(&filter), PASS);
        // The program and its replacement counted in one variable.
        assert_eq!(verdicts(&loaded), [0, 0, 2, 0, 1, 0, 0, 1]);

        let link = loaded.replace_function("filter", "filter", extension("whole", 77)).unwrap();
        assert_eq!(run(&filter), 77);
        drop(link);
        assert_eq!(run(&filter), PASS);
        assert_eq!(verdicts(&loaded), [0, 0, 3, 0, 1, 0, 0, 2]);
    }
}

#[test]
fn an_extension_may_have_maps_of_its_own_and_be_attached_again() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let mut object = open("policy_strict");
        object.set_attach_target("strict", &filter, None).unwrap();
        let strict = engine.load(object).unwrap();
        let program = strict.program("strict").unwrap();
        for _ in 0..3 {
            let link = program.attach_replacement().unwrap();
            assert_eq!(run(&filter), 1);
            link.detach().unwrap();
            assert_eq!(run(&filter), PASS);
        }
        assert_eq!((verdicts(&loaded)[7], verdicts(&strict)[7]), (0, 3));
        let mut packet = Xdp::packet(&[0; 64]).build().unwrap();
        let refused = program.run(&mut packet);
        assert!(matches!(refused, Err(RunError::Extension { .. })), "{refused:?}");
    }
}

#[test]
fn prog_arrays_and_extensions_exclude_each_other() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let dispatch = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_dispatch.bpf.o")).unwrap();
        let dispatch = engine.load(dispatch).unwrap();
        let stages = dispatch.raw_map("stages").unwrap();
        let (slot, into) = (4u32.to_ne_bytes(), |program: &Program| Slot::Program(program.to_callee()));

        stages.update_slot(&slot, into(&filter), 0).unwrap();
        let refused = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap_err();
        assert!(matches!(refused, ExtendError::Attach(AttachError::TailCallee { .. })), "{refused}");
        assert_eq!((refused.errno(), run(&filter)), (Errno::EBUSY, PASS));
        stages.delete(&slot).unwrap();

        let link = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap();
        assert_eq!(stages.update_slot(&slot, into(&filter), 0), Err(Errno::EBUSY));
        assert_eq!(stages.update_slot(&slot, into(link.program()), 0), Err(Errno::EINVAL));
        let refused = loaded.replace_function("filter", "decide", extension("numbered", 5)).unwrap_err();
        assert!(matches!(refused, ExtendError::Attach(AttachError::Replaced { .. })), "{refused}");
        assert_eq!((refused.errno(), run(&filter)), (Errno::EBUSY, 4));
        drop(link);
        stages.update_slot(&slot, into(&filter), 0).unwrap();
        assert_eq!(run(&filter), PASS);
    }
}

#[test]
fn what_fails_changes_nothing() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let link = loaded.replace_function("filter", "filter", extension("whole", 9)).unwrap();
        let refused = loaded.replace_function("filter", "decide", extension("refused", 4)).unwrap_err();
        let ExtendError::Load(LoadError::Rejected { rejection, .. }) = &refused else { panic!("{refused}") };
        assert_eq!(rejection.message, "Extension program changes packet data, while original does not");
        let missing = loaded.replace_function("filter", "decides", extension("numbered", 4)).unwrap_err();
        assert_eq!(missing.to_string(), "no function named 'decides'; there are filter, decide");
        let which = loaded.replace_function("filter", "decide", open("policy_numbered")).unwrap_err();
        assert_eq!(which.to_string(), "which program replaces it? the object has numbered, refused, whole");
        let none = loaded.replace_function("filter", "decide", open("policy").entry("filter")).unwrap_err();
        assert!(matches!(none, ExtendError::NotExtension { .. }), "{none}");
        let untargeted = engine.load(open("policy_strict")).unwrap_err();
        assert!(matches!(untargeted, LoadError::NoTarget { .. }), "{untargeted}");
        let mut of_extension = open("policy_strict");
        of_extension.set_attach_target("strict", link.program(), Some("whole")).unwrap();
        let refused = engine.load(of_extension).unwrap_err();
        assert!(refused.to_string().contains("Cannot recursively attach"), "{refused}");
        assert_eq!(run(&filter), 9);
        drop(link);
        assert_eq!(run(&filter), PASS);
    }
    let fixed = Engine::builder().live_patching(LivePatching::Off).build().unwrap();
    let (loaded, filter) = load(&fixed);
    let refused = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap_err();
    assert!(matches!(refused, ExtendError::Attach(AttachError::Fixed { .. })), "{refused}");
    assert_eq!(run(&filter), PASS);
    let (other, _) = load(&Engine::new().unwrap());
    let mut object = open("policy_strict");
    object.set_attach_target("strict", &other.program("filter").unwrap(), None).unwrap();
    let strict = fixed.load(object).unwrap();
    let refused = strict.program("strict").unwrap().attach_replacement().unwrap_err();
    assert!(matches!(refused, ExtendError::Attach(AttachError::OtherEngine { .. })), "{refused}");
}

#[test]
fn inside_a_run_nothing_is_replaced_that_has_to_wait() {
    let [engine, _] = engines();
    let (loaded, filter) = load(&engine);
    let guard = engine.cpus().enter().unwrap();
    // The second time, the runs that begin have what the extension needs; this one still does not.
    for _ in 0..2 {
        let refused = loaded.replace_function("filter", "filter", extension("whole", 9)).unwrap_err();
        assert!(matches!(refused, ExtendError::Attach(AttachError::Sync(_))), "{refused}");
    }
    drop(guard);
    let link = loaded.replace_function("filter", "filter", extension("whole", 9)).unwrap();
    assert_eq!(run(&filter), 9);
    drop(link);
}

#[test]
fn a_run_that_is_waited_for_may_fill_prog_arrays() {
    let [engine, _] = engines();
    let (loaded, filter) = load(&engine);
    let dispatch = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_dispatch.bpf.o")).unwrap();
    let stages = engine.load(dispatch).unwrap().raw_map("stages").unwrap();
    let (asked, may_ask) = std::sync::mpsc::channel();
    let (done, finished) = std::sync::mpsc::channel();
    // Not a scoped thread: a run that waits for ever is to fail the test, and not to hang it.
    std::thread::spawn(move || {
        let guard = engine.cpus().enter().unwrap();
        asked.send(()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        stages.update_slot(&4u32.to_ne_bytes(), Slot::Program(filter.to_callee()), 0).unwrap();
        drop(guard);
        done.send(()).unwrap();
    });
    may_ask.recv().unwrap();
    std::thread::spawn(move || {
        let refused = loaded.replace_function("filter", "filter", extension("whole", 9)).unwrap_err();
        assert!(matches!(refused, ExtendError::Attach(AttachError::TailCallee { .. })), "{refused}");
    });
    finished.recv_timeout(std::time::Duration::from_secs(60)).expect("the run ended");
}

#[test]
fn a_new_version_of_the_program_has_its_own_functions() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let link = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap();
        assert_eq!(run(&filter), 4);
        let old = filter.replace(open("policy").adopt_maps(&[".percpu"]).unwrap()).unwrap();
        assert_eq!((run(&filter), run(link.target())), (PASS, 4));
        let newer = loaded.replace_function("filter", "decide", extension("numbered", 5)).unwrap();
        assert_eq!((run(&filter), run(link.target())), (5, 4));
        drop((old, link));
        assert_eq!(run(&filter), 5);
        newer.detach().unwrap();
        assert_eq!(run(&filter), PASS);
        assert_eq!(verdicts(&loaded), [0, 0, 2, 0, 3, 2, 0, 5]);
    }
}

#[test]
fn a_replaced_program_is_still_counted() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let link = loaded.replace_function("filter", "filter", extension("whole", 9)).unwrap();
        let stats = engine.enable_stats().unwrap();
        for _ in 0..10 {
            assert_eq!(run(&filter), 9);
        }
        drop(stats);
        assert_eq!(run(&filter), 9);
        assert_eq!((filter.stats().run_cnt, link.program().stats().run_cnt), (10, 0));
    }
}

#[test]
fn a_program_outlives_what_extends_it_and_the_other_way_round() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let link = loaded.replace_function("filter", "decide", extension("numbered", 4)).unwrap();
        drop(loaded);
        assert_eq!(run(&filter), 4);
        drop(filter);
        // The link keeps the program whose code it has changed.
        assert_eq!(run(link.target()), 4);
        drop(link);
        engine.cpus().barrier().unwrap();
    }
}

/// How many times: more in a soak (`SKEP_SWAPS`).
fn rounds() -> i32 {
    std::env::var("SKEP_SWAPS").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

#[test]
fn under_load_every_run_sees_what_was_in_place() {
    for engine in engines() {
        let (loaded, filter) = load(&engine);
        let stop = AtomicBool::new(false);
        // Twice the answer, plus one while that answer is certain.
        let place = AtomicU64::new(2 * 72);
        let (runs, extended) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let before = place.load(Ordering::Acquire);
                        let seen = run(&filter);
                        let after = place.load(Ordering::Acquire);
                        runs.fetch_add(1, Ordering::Relaxed);
                        extended.fetch_add(u64::from(seen != PASS), Ordering::Relaxed);
                        if before == after && before % 2 == 1 {
                            assert_eq!(seen, before / 2, "a run that began after the change saw something else");
                        }
                        assert!(seen == PASS || (before / 2..=after / 2 + 8).contains(&seen), "{seen} is long gone");
                    }
                });
            }
            for round in 10..10 + rounds() {
                // A verdict that is counted elsewhere than the extensions are.
                let answer = round * 8;
                let number = u64::from(answer.unsigned_abs());
                let link = loaded.replace_function("filter", "decide", extension("numbered", answer)).unwrap();
                place.store(number * 2 + 1, Ordering::Release);
                std::thread::yield_now();
                place.store(number * 2, Ordering::Release);
                if round % 2 == 0 {
                    link.detach().unwrap();
                } else {
                    drop(link);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let counted = verdicts(&loaded);
        assert_eq!(counted[..7].iter().sum::<u64>(), runs.load(Ordering::Relaxed), "the filter lost a run");
        assert_eq!(counted[7], extended.load(Ordering::Relaxed), "an extension lost a run");
        assert!(counted[7] > 0, "no run met an extension");
    }
}
