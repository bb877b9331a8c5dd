//! Shadow execution has to be able to fail: each deliberate mistake of the verifier is found by it.

use skep_testing::generate;
use skep_testing::proof::Prover;
use skep_verifier::mutant::{self, Mutant};

/// Programs until which a mistake has to be found.
const MOST: u64 = 6000;

#[test]
fn shadow_execution_notices_every_mutant() {
    let prover = Prover::new(false).expect("engines");
    let mut missed = Vec::new();
    for mistake in Mutant::ALL {
        mutant::set(Some(mistake));
        let found = (1..=MOST).find_map(|seed| {
            let report = prover.watch(&generate::program(seed)).expect("the engines can be asked");
            report.errors.first().map(|error| (seed, error.clone()))
        });
        mutant::set(None);
        match found {
            Some((seed, error)) => println!("{mistake:?}: seed {seed}: {error}"),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "not noticed in {MOST} programs: {missed:?}");
}
