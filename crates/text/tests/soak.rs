//! The short form of the soak, and every mutant: `cargo xtask soak poke` is the long one.
#![cfg(target_arch = "x86_64")]

use std::process::Command;
use std::time::Duration;

use skep_text::inject::Mutant;
use skep_text::soak::{Plan, soak};

/// Set in a child that is to run one mutant: some of them kill their process.
const CHILD: &str = "SKEP_TEXT_MUTANT";

#[test]
fn nothing_is_wrong_under_load() {
    let outcome = soak(&Plan { time: Duration::from_secs(3), flips: 5000, ..Plan::default() }).unwrap();
    println!("{outcome}");
    assert_eq!(outcome.problems, Vec::<String>::new(), "{outcome}");
    assert!(outcome.quiet_runs > 0 && outcome.nested > 0 && outcome.modelled > 0, "{outcome}");
    assert!(outcome.images > 0 && outcome.threads > 0, "{outcome}");
}

#[test]
fn every_mutant_is_noticed() {
    for mutant in Mutant::ALL {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_mutant", "--nocapture"])
            .env(CHILD, mutant.name())
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        assert!(!child.status.success(), "{} was not noticed: {child:?}", mutant.name());
    }
}

/// What the children of the test above do.
#[test]
fn one_mutant() {
    let Ok(name) = std::env::var(CHILD) else { return };
    let mutant = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name).unwrap();
    let plan = Plan { time: Duration::from_secs(1), mutants: vec![mutant], ..Plan::default() };
    // A mutant without a trap in a second of load has not been tested: then it goes on for longer.
    for _ in 0..5 {
        let outcome = soak(&plan).unwrap();
        assert!(outcome.problems.is_empty(), "{outcome}");
    }
}
