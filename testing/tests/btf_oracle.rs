//! `BPF_BTF_LOAD` and `Rules::Kernel` take and refuse the same types.

use skep_btf::{Btf, Error, Rules};
use skep_testing::kernel;
use skep_testing::mutate::{Rng, committed_objects, mutate};

/// Types of the committed objects, completed as a loader completes them.
fn inputs() -> Vec<(String, Vec<u8>)> {
    let parse = |(name, bytes): (String, Vec<u8>)| {
        let btf = skep_object::parse(&bytes, &name).ok()?.btf?;
        Some((name, btf.to_bytes().ok()?))
    };
    committed_objects().into_iter().filter_map(parse).collect()
}

#[test]
fn whole_types_are_taken_by_both() {
    if !kernel::require("types of objects") {
        return;
    }
    for (name, bytes) in inputs() {
        let ours = Btf::parse_with(&bytes, Rules::Kernel);
        let kernels = kernel::btf_load(&bytes);
        let log = kernels.as_ref().err().map(|e| e.log.clone());
        assert_eq!(ours.is_ok(), kernels.is_ok(), "{name}: {:?} / {log:?}", ours.err());
    }
}

/// What we refuse and the kernel takes, on purpose.
fn is_stricter(error: &Error) -> bool {
    let text = error.to_string();
    // The kernel does not look at the encoding of names that it does not need to be identifiers.
    text.contains("not UTF-8")
        // The kernel ignores the unused byte of an integer's word.
        || text.contains("INT with reserved bits set")
        // A typedef that was resolved through a pointer first hides a loop through an array or a struct from it.
        || matches!(error, Error::Loop { .. })
}

/// What the kernel overlooks in rare shapes; that they are rare is asserted, as it is all that tells them from mistakes.
fn is_overlooked(error: &Error) -> bool {
    let text = error.to_string();
    // A typedef of an array that a pointer led to first has size 0 in the kernel.
    text.contains("outside the struct")
        // The end of a variable is computed in 32 bits and wraps.
        || text.contains("DATASEC") && text.contains(": offset ")
}

#[test]
fn damaged_types_are_judged_alike() {
    if !kernel::require("damaged types") {
        return;
    }
    let inputs = inputs();
    let rounds: u64 = std::env::var("SKEP_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let (mut taken, mut refused, mut overlooked) = (0u32, 0u32, 0u32);
    let mut differences = Vec::new();
    for (index, (name, bytes)) in inputs.iter().enumerate() {
        let mut rng = Rng::new(index as u64 + 77);
        for _ in 0..rounds {
            let other = rng.below(inputs.len());
            let damaged = mutate(&mut rng, bytes, &inputs[other].1);
            let ours = Btf::parse_with(&damaged, Rules::Kernel);
            let kernels = kernel::btf_load(&damaged);
            match (&ours, &kernels) {
                (Ok(_), Ok(_)) => taken += 1,
                (Err(_), Err(_)) => refused += 1,
                (Err(error), Ok(_)) if is_stricter(error) => refused += 1,
                (Err(error), Ok(_)) if is_overlooked(error) => overlooked += 1,
                (Err(error), Ok(_)) => differences.push(format!("{name}: kernel takes, we say: {error}")),
                (Ok(_), Err(failure)) => {
                    let log = failure.log.lines().last().unwrap_or_default();
                    differences.push(format!("{name}: we take, kernel says {}: {log}", failure.errno));
                }
            }
        }
    }
    assert!(taken > 20 && refused > 100, "{taken} taken, {refused} refused");
    assert!(overlooked <= refused / 1000, "{overlooked} of {refused}");
    differences.sort();
    differences.dedup();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
