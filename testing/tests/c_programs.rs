//! The programs of `testing/c`: verdict and last message as the running kernel's, and the same result in the interpreter, in
//! compiled code and in the kernel.
//!
//! A program named `ok_…` is accepted and run over one packet, one named `ok_verdict_…` is accepted and its load refused, or its
//! context is no packet, one named `bad_…` is refused, one named `bad_stricter_…` by us alone; all of it holds without a kernel
//! too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a panic is the failure")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep::{Engine, LoadError, Mode, Object, Skb, Syscall, Xdp};
use skep_abi::{MapType, ProgType};
use skep_object::ObjectSpec;
use skep_runtime::map::{Map, MapSpec, Slot};
use skep_testing::kernel::{self, TestRun};
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::{kernel_verdict, our_verdict};
use skep_verifier::ProgFlags;

fn objects() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut objects: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(".bpf.o")).collect();
    objects.sort();
    objects
}

fn parse(path: &Path) -> (String, Vec<u8>, ObjectSpec) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let bytes = std::fs::read(path).unwrap();
    let spec = skep_object::parse(&bytes, &name).unwrap();
    (name, bytes, spec)
}

/// 64 bytes, each its own place.
fn packet() -> Vec<u8> {
    (0..64).collect()
}

#[test]
fn verdicts_are_the_kernels() {
    let with_kernel = kernel::require("verdicts_are_the_kernels");
    let (mut accepted, mut refused) = (0, 0);
    // A second time with a state kept at every place where states may be compared.
    for (path, often) in objects().into_iter().flat_map(|path| [(path.clone(), false), (path, true)]) {
        let (file, _, mut spec) = parse(&path);
        for sec in spec.programs.iter_mut().filter_map(|program| program.sec.as_mut()).filter(|_| often) {
            sec.prog_flags |= ProgFlags::TEST_STATE_FREQ;
        }
        let in_kernel = with_kernel.then(|| KernelObject::create(&spec).unwrap());
        for (index, program) in spec.programs.iter().enumerate() {
            let name = format!("{file}: {} (states kept often: {often})", program.name);
            let (ours, _, _) = our_verdict(&spec, index, 0).unwrap();
            if let Some(in_kernel) = &in_kernel {
                let (theirs, _) = kernel_verdict(in_kernel, index, 0).unwrap();
                if program.name.starts_with("bad_stricter_") {
                    assert!(theirs.is_accepted(), "{name}: the kernel refuses it too: {}", theirs.message());
                } else {
                    assert_eq!(ours.message(), theirs.message(), "{name}");
                    assert_eq!(ours, theirs, "{name}");
                }
            }
            if program.name.starts_with("bad_") {
                assert!(!ours.is_accepted(), "{name} is accepted");
                refused += 1;
            } else {
                assert!(ours.is_accepted(), "{name}: {}", ours.message());
                accepted += 1;
            }
        }
    }
    assert!(accepted >= 160 && refused >= 560, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_size_that_the_application_sets_later_does_not_keep_the_kernel_from_answering() {
    if !kernel::require("a size that the application sets later") {
        return;
    }
    let (_, _, mut spec) = parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("c/exceptions.bpf.o"));
    for map in &mut spec.maps {
        map.max_entries = 0;
    }
    let index = spec.programs.iter().position(|program| program.name.starts_with("ok_")).unwrap();
    let (verdict, _) = kernel_verdict(&KernelObject::create(&spec).unwrap(), index, 0).unwrap();
    assert!(verdict.is_accepted(), "{}", verdict.message());
}

/// The program's result in a fresh engine; `None` if it is accepted and cannot be run, or not over a packet.
fn run(object: &Object, program: &str, mode: Mode) -> Option<u32> {
    let mut object = object.clone();
    let others: Vec<String> = object.programs().iter().map(|p| p.name.clone()).filter(|name| name != program).collect();
    for other in &others {
        object.set_autoload(other, false).unwrap();
    }
    let loaded = match Engine::builder().mode(mode).build().unwrap().load(object) {
        Ok(loaded) => loaded,
        Err(LoadError::Needs { .. }) => return None,
        Err(error) => panic!("{program}: {error}\n{}", error.log()),
    };
    let program = loaded.program(program).unwrap();
    let result = match program.prog_type() {
        ProgType::Xdp => program.run(&mut Xdp::packet(&packet()).build().unwrap()),
        ProgType::Kprobe => return None,
        // What these do depends on whose memory they ask for.
        ProgType::Syscall if program.name().starts_with("ok_verdict_") => return None,
        ProgType::Tracepoint => program.run(&mut Syscall::bytes(&[0; 64])),
        ProgType::Syscall => program.run(&mut Syscall::bytes(&[])),
        prog_type => program.run(&mut Skb::packet(&packet()).build(prog_type).unwrap()),
    };
    let result = result.unwrap_or_else(|error| panic!("{} ({mode:?}): {error}", program.name()));
    Some(u32::try_from(result & 0xffff_ffff).unwrap())
}

#[test]
fn results_are_the_same_everywhere() {
    let with_kernel = kernel::require("results_are_the_same_everywhere");
    let mut ran = 0;
    for path in objects() {
        let (file, bytes, spec) = parse(&path);
        let object = Object::from_bytes(&file, &bytes).unwrap();
        for (index, program) in spec.programs.iter().enumerate().filter(|(_, p)| p.name.starts_with("ok_")) {
            let name = format!("{file}: {}", program.name);
            let interpreted = run(&object, &program.name, Mode::Interp);
            let compiled = run(&object, &program.name, Mode::Jit);
            assert_eq!(interpreted, compiled, "{name}: interpreted, compiled");
            let verdict_only = program.name.starts_with("ok_verdict_");
            assert_eq!(interpreted.is_none(), verdict_only, "{name} runs, or does not");
            let Some(result) = interpreted else { continue };
            ran += 1;
            if with_kernel {
                let in_kernel = KernelObject::create(&spec).unwrap();
                let loaded = in_kernel.load(index, 0).unwrap();
                if program.sec.as_ref().unwrap().prog_type == ProgType::Tracepoint {
                    // It runs where the kernel comes past, and nowhere else.
                    continue;
                }
                let data = packet();
                let run = TestRun { data: &data, data_out: 512, repeat: 1, ..TestRun::default() };
                let theirs = match program.sec.as_ref().map(|sec| sec.prog_type) {
                    Some(ProgType::Syscall) => loaded.prog.run_syscall(&mut []).unwrap(),
                    _ => loaded.prog.test_run(&run).unwrap().retval,
                };
                assert_eq!(result, theirs, "{name}: ours, the kernel's");
            }
        }
    }
    assert!(ran >= 55, "only {ran} programs ran");
    // Engines, maps and programs are gone: whatever the programs left in lists and maps is freed with them.
    let deadline = Instant::now() + Duration::from_secs(20);
    while skep_runtime::object::interpreted_objects() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(skep_runtime::object::interpreted_objects(), 0, "objects are leaked");
}

/// A map that was replaced, and that nobody else holds, while a run has a pointer into its value: the run reads it by its address.
#[test]
fn a_value_is_read_after_its_map_was_replaced() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/inner.bpf.o");
    let (file, bytes, spec) = parse(&path);
    let mut object = Object::from_bytes(&file, &bytes).unwrap();
    for program in &spec.programs {
        object.set_autoload(&program.name, program.name == "ok_probe_after_a_while").unwrap();
    }
    let words = |words: [u64; 3]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    for mode in [Mode::Interp, Mode::Jit] {
        let engine = Engine::builder().mode(mode).vcpus(2).build().unwrap();
        let loaded = engine.load(object.clone()).unwrap();
        let (outer, signals) = (loaded.raw_map("outer").unwrap(), loaded.raw_map("signals").unwrap());
        let put_a_new_one = || {
            let inner = Map::create(&MapSpec::new(MapType::Array, 4, 32, 2), engine.cpus()).unwrap();
            outer.update_slot(&[0; 4], Slot::Map(inner), 0).unwrap();
        };
        put_a_new_one();
        signals.update(&[0; 4], &words([0, 0, 8 << 20]), 0).unwrap();
        let program = loaded.program("ok_probe_after_a_while").unwrap();
        let result = std::thread::scope(|scope| {
            let run = scope.spawn(|| program.run(&mut Xdp::packet(&packet()).build().unwrap()).unwrap());
            let deadline = Instant::now() + Duration::from_secs(20);
            while signals.lookup(&[0; 4], 0).unwrap()[0] == 0 && Instant::now() < deadline {
                std::thread::yield_now();
            }
            put_a_new_one();
            put_a_new_one();
            signals.update(&[0; 4], &words([1, 1, 8 << 20]), 0).unwrap();
            run.join().unwrap()
        });
        assert_eq!(result, 77, "{mode:?}");
    }
}

/// A lock that another run keeps: it is waited for a quarter of a second, and had once it is given back.
#[test]
fn a_lock_is_not_waited_for_for_ever() {
    const ETIMEDOUT: u64 = 110;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/res_locks.bpf.o");
    let (file, bytes, spec) = parse(&path);
    let mut object = Object::from_bytes(&file, &bytes).unwrap();
    for program in &spec.programs {
        object.set_autoload(&program.name, ["ok_hold", "ok_try"].contains(&program.name.as_str())).unwrap();
    }
    let words = |words: [u64; 3]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let skb = || Skb::packet(&packet()).build(ProgType::SchedCls).unwrap();
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = Engine::builder().mode(mode).vcpus(2).build().unwrap().load(object.clone()).unwrap();
        let signals = loaded.raw_map("signals").unwrap();
        signals.update(&[0; 4], &words([0, 0, 8 << 20]), 0).unwrap();
        let (hold, attempt) = (loaded.program("ok_hold").unwrap(), loaded.program("ok_try").unwrap());
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| hold.run(&mut skb()).unwrap());
            let deadline = Instant::now() + Duration::from_secs(20);
            while signals.lookup(&[0; 4], 0).unwrap()[0] == 0 && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let started = Instant::now();
            let refused = attempt.run(&mut skb()).unwrap();
            let waited = started.elapsed();
            signals.update(&[0; 4], &words([1, 1, 0]), 0).unwrap();
            assert_eq!(holder.join().unwrap(), 1, "{mode:?}: it held the lock until it was told");
            assert_eq!(refused, ETIMEDOUT, "{mode:?}");
            assert!(waited >= Duration::from_millis(250), "{mode:?}: {waited:?}");
            assert_eq!(attempt.run(&mut skb()).unwrap(), 0, "{mode:?}: it is free again");
        });
    }
}

/// Two locks that threads take in both orders: whoever cannot have both goes on without, and nobody is let in beside another.
#[test]
fn locks_that_refuse_exclude_and_never_hang() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/res_locks.bpf.o");
    let (file, bytes, spec) = parse(&path);
    let mut object = Object::from_bytes(&file, &bytes).unwrap();
    let orders = ["ok_a_then_b", "ok_b_then_a"];
    for program in &spec.programs {
        object.set_autoload(&program.name, orders.contains(&program.name.as_str())).unwrap();
    }
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = Engine::builder().mode(mode).vcpus(4).build().unwrap().load(object.clone()).unwrap();
        let started = Instant::now();
        let both: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let program = loaded.program(orders[thread % 2]).unwrap();
                    scope.spawn(move || {
                        let mut skb = Skb::packet(&packet()).build(ProgType::SchedCls).unwrap();
                        (0..5000).map(|_| program.run(&mut skb).unwrap()).sum::<u64>()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let counted = loaded.raw_map(".bss").unwrap().lookup(&[0; 4], 0).unwrap();
        let counted = u64::from_le_bytes(counted[..8].try_into().unwrap());
        assert_eq!(counted, both, "{mode:?}: under both locks, and returned so");
        assert!(both > 1000, "{mode:?}: {both} of 20000 had both locks");
        assert!(started.elapsed() < Duration::from_secs(60), "{mode:?}: deadlocks are noticed, not waited for");
    }
}

#[test]
fn objects_go_from_thread_to_thread() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/objects.bpf.o");
    let (file, bytes, spec) = parse(&path);
    let mut object = Object::from_bytes(&file, &bytes).unwrap();
    for program in &spec.programs {
        let runs = program.name.starts_with("ok_") && !program.name.starts_with("ok_verdict_");
        object.set_autoload(&program.name, runs).unwrap();
    }
    let loaded = Engine::builder().mode(Mode::Jit).vcpus(4).build().unwrap().load(object).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let programs: Vec<_> = loaded.programs().collect();
            scope.spawn(move || {
                let mut skb = Skb::packet(&packet()).build(ProgType::SchedCls).unwrap();
                for round in 0..2000 {
                    programs[(round * 7 + thread) % programs.len()].run(&mut skb).unwrap();
                }
            });
        }
    });
    // What the threads left for each other is found by whoever comes next.
    for program in loaded.programs() {
        program.run(&mut Skb::packet(&packet()).build(ProgType::SchedCls).unwrap()).unwrap();
    }
}
