//! One `.percpu` variable for several programs and for more threads than virtual CPUs.

#![expect(clippy::unwrap_used, reason = "tests")]

use skep::{Engine, Loaded, Mode, Object, TestOptions, Xdp};
use skep_sync::CpuId;

fn load(mode: Mode, vcpus: usize) -> Loaded {
    let engine = Engine::builder().vcpus(vcpus).mode(mode).build().unwrap();
    let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/percpu_shared.bpf.o")).unwrap();
    engine.load(object).unwrap()
}

fn run(loaded: &Loaded, program: &str, cpu: u32) -> u32 {
    let options = TestOptions { cpu: Some(CpuId(cpu)), ..TestOptions::default() };
    let input = Xdp::packet(&[0; 64]).rx_queue_index(1);
    loaded.program(program).unwrap().test_run_with(input, &options).unwrap().retval
}

/// A variable on each vCPU.
fn values(loaded: &Loaded, name: &str) -> Vec<u64> {
    let at = loaded.object().spec().variable(name).unwrap().offset as usize;
    let size = loaded.object().spec().map(".percpu").unwrap().value_size as usize;
    let all = loaded.raw_map(".percpu").unwrap().lookup(&[0; 4], 0).unwrap();
    all.chunks(size.next_multiple_of(8))
        .map(|value| u64::from_ne_bytes(value[at..at + 8].try_into().unwrap()))
        .collect()
}

#[test]
fn a_tail_caller_and_its_callee_share_a_variable() {
    for (mode, caller) in [Mode::Interp, Mode::Jit].into_iter().flat_map(|m| [(m, "caller"), (m, "caller_dynamic")]) {
        let loaded = load(mode, 2);
        assert_eq!(run(&loaded, caller, 1), 2, "the callee's result");
        assert_eq!(values(&loaded, "hits"), [0, 11]);
        assert_eq!(values(&loaded, "seen_by_callee"), [0, 1], "the callee sees what the caller wrote");
        assert_eq!(run(&loaded, caller, 1), 2);
        assert_eq!(run(&loaded, caller, 0), 2);
        assert_eq!(values(&loaded, "hits"), [11, 22]);
        assert_eq!(values(&loaded, "seen_by_callee"), [1, 12]);
    }
}

#[test]
fn two_programs_of_an_object_share_a_variable() {
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = load(mode, 2);
        assert_eq!(run(&loaded, "other", 0), 100);
        assert_eq!(run(&loaded, "callee", 0), 2);
        assert_eq!(run(&loaded, "other", 0), 210);
        assert_eq!(run(&loaded, "other", 1), 100, "of the other vCPU");
        assert_eq!(values(&loaded, "hits"), [210, 100]);
        assert_eq!(values(&loaded, "first"), [0, 0]);
    }
}

/// 10^8 additions with `SKEP_LONG`, else fewer.
fn additions() -> u64 {
    if std::env::var_os("SKEP_LONG").is_some() { 100_000_000 } else { 4_000_000 }
}

#[test]
fn eight_threads_on_two_vcpus_lose_nothing() {
    const THREADS: u64 = 8;
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = load(mode, 2);
        // The interpreter is here for its answer, not for its speed.
        let total = if mode == Mode::Jit { additions() } else { 400_000 };
        let runs = total / 1000 / THREADS;
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let program = loaded.program("thousand").unwrap();
                scope.spawn(move || {
                    let mut packet = Xdp::packet(&[0; 64]).build().unwrap();
                    for _ in 0..runs {
                        program.run(&mut packet).unwrap();
                    }
                });
            }
        });
        let values = values(&loaded, "hits");
        assert_eq!(values.len(), 2);
        assert_eq!(values.iter().sum::<u64>(), runs * THREADS * 1000, "{mode:?}: {values:?}");
    }
}
