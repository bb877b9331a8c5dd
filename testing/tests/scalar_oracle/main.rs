//! The scalar domain against the running kernel: the register states that it prints for random scalar arithmetic and
//! conditional jumps are the ones our operators compute.
//!
//! A program makes two unknown scalars, then applies random operators to them. Every line of the kernel's
//! `log_level = 2` text that shows a register is compared, on every path the kernel walks. `SKEP_ORACLE_PROGRAMS` says
//! how many programs, `SKEP_ORACLE_SEED` where to start. Without bpf(2) it skips.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the same bits are looked at as four kinds of integer"
)]

mod log;
mod model;
mod program;

use program::Program;
use skep_abi::ProgType;
use skep_testing::kernel::{self, ProgLoad};
use skep_testing::random::Random;

#[test]
fn register_states_are_the_kernels() {
    if !kernel::require("scalar states") {
        return;
    }
    let count = setting("SKEP_ORACLE_PROGRAMS", 4000);
    let first = setting("SKEP_ORACLE_SEED", 1);
    let (mut states, mut failures) = (0, Vec::new());
    for seed in first..first + count {
        let program = Program::random(&mut Random::new(seed));
        let insns = program.encode();
        let load = ProgLoad { log_level: 2, ..ProgLoad::new(ProgType::SocketFilter, &insns) };
        let text = match load.load() {
            Ok(loaded) => loaded.log,
            Err(failure) => failure.log,
        };
        match model::compare(&program, &text) {
            Ok(compared) => states += compared,
            Err(difference) => failures.push(format!("seed {seed}: {difference}")),
        }
    }
    println!("{count} programs, {states} register states compared, {} programs differ", failures.len());
    assert!(states > count, "the kernel's log was not understood: {states} states in {count} programs");
    let shown: Vec<&str> = failures.iter().take(8).map(String::as_str).collect();
    assert!(failures.is_empty(), "{}", shown.join("\n"));
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
