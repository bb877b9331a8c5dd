//! Random programs: compiled code, with every choice of options, computes what the model computes.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod support;

use std::collections::BTreeMap;

use skep_jit::{Arch, CpuFeatures, Layout, Options, compile};
use support::generate::{CTX_SIZE, HELPER, Program, Rng, program};
use support::machine::{CPU_SIZE, Machine};
use support::model::{self, Helper};

extern "C" fn mix(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, _cpu: u64) -> u64 {
    [r1, r2, r3, r4, r5].iter().fold(0x9e37, |sum: u64, &r| (sum ^ r).wrapping_mul(0x100_0000_01b3).rotate_left(17))
}

fn helpers() -> BTreeMap<u32, Helper> {
    BTreeMap::from([(HELPER, mix as Helper)])
}

fn layout() -> Layout {
    Layout { helpers: BTreeMap::from([(HELPER, mix as Helper as usize as u64)]), ..Layout::default() }
}

/// Every choice that this machine can run.
fn options() -> Vec<Options> {
    let plain = Options::new(Arch::host().expect("a back end for this machine"));
    let full = plain.with_features(CpuFeatures::detect());
    vec![plain.with_optimize(false), plain, full.with_optimize(false), full]
}

fn context(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ 0x5a5a);
    (0..CTX_SIZE).map(|i| if i < 128 { rng.next().to_le_bytes()[0] } else { 0 }).collect()
}

fn check(seed: u64, program: &Program, stack: u32) {
    let xlated = support::xlated(&program.insns, &program.starts, stack);
    let mut cpu = vec![0_u64; CPU_SIZE / 8];
    let mut expected = context(seed);
    let r0 = model::run(&xlated.insns, &helpers(), expected.as_mut_ptr() as u64, cpu.as_mut_ptr() as u64);
    for options in options() {
        let image = compile(&xlated, &layout(), &options).expect("compiles");
        let machine = Machine::new(&image);
        let mut ctx = context(seed);
        let got = machine.run(&mut ctx, &mut cpu);
        assert!(
            got == r0 && ctx == expected,
            "seed {seed}, {options:?}: r0 {got:#x}, expected {r0:#x}\n{}\n{:?}",
            differences(&ctx, &expected),
            program.insns,
        );
    }
}

fn differences(got: &[u8], expected: &[u8]) -> String {
    let words = got.chunks(8).zip(expected.chunks(8)).enumerate();
    words
        .filter(|(_, (a, b))| a != b)
        .map(|(i, (a, b))| format!("ctx[{}]: {a:02x?} expected {b:02x?}\n", 8 * i))
        .collect()
}

fn run(from: u64, count: u64, size: u64) {
    for seed in from..from + count {
        let mut rng = Rng::new(seed);
        let program = program(&mut rng, size);
        let stack = rng.pick(&[64, 128, 136, 512]);
        check(seed, &program, stack);
    }
}

#[test]
fn short_programs() {
    run(1, 6000, 4);
}

#[test]
fn medium_programs() {
    run(1_000_000, 3000, 20);
}

#[test]
fn long_programs() {
    run(2_000_000, 300, 300);
}

/// `SKEP_SEEDS=from,count,size` runs others.
#[test]
fn chosen_seeds() {
    if let Ok(text) = std::env::var("SKEP_SEEDS") {
        let numbers: Vec<u64> = text.split(',').map(|n| n.parse().expect("a number")).collect();
        run(numbers[0], numbers[1], numbers[2]);
    }
}
