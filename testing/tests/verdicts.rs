//! The short form of `cargo xtask oracle random`.

use skep_testing::proof::{Prover, reviewed};
use skep_testing::verdict::Agreement;
use skep_testing::{generate, kernel};

const PROGRAMS: u64 = 1500;
/// Programs of longer runs at which something was found: an address that is data by chance, the stack of callers of a tail call, a
/// packet of an old network, calls that no path makes, a loop that is widened, a sign-extended part of a saved number, a widened
/// number that was linked, a key that is the low half of a number, dead registers that were made precise with all others.
const FOUND: [u64; 14] = [
    40_808, 51_775, 62_896, 98_403, 128_297, 178_176, 187_177, 257_805, 287_775, 512_873, 849_565, 870_048, 6_292_290,
    8_157_172,
];

#[test]
fn random_programs_are_judged_and_run_as_they_should() {
    let with_kernel = kernel::require("random verdicts");
    let mut prover = Prover::new(with_kernel).expect("engines");
    let reviewed = reviewed::entries();
    let (mut accepted, mut steps, mut compared, mut other_messages) = (0, 0, (0, 0), Vec::new());
    for seed in (1..=PROGRAMS).chain(FOUND) {
        let report = prover.ask(&generate::program(seed)).expect("the kernel and the engines can be asked");
        assert!(report.errors.is_empty(), "seed {seed}: {:#?}", report.errors);
        accepted += u64::from(report.ours.is_accepted());
        steps += report.steps;
        compared = (compared.0 + report.compared.0, compared.1 + report.compared.1);
        let Some(kernel) = &report.kernel else { continue };
        let (kind, text) = reviewed::describe(&report.ours, kernel);
        let known = kind == Agreement::Same || reviewed.iter().any(|e| e.kind == kind && e.pattern == text);
        match kind {
            _ if known => {}
            Agreement::OtherMessage => other_messages.push((seed, text)),
            _ => panic!("seed {seed}: {kind:?}: {text}"),
        }
    }
    // Programs that are all rejected, or all accepted, would prove little.
    assert!((PROGRAMS / 4..PROGRAMS * 9 / 10).contains(&accepted), "{accepted} of {PROGRAMS} are accepted");
    assert!(steps > 100 * PROGRAMS && compared.0 > PROGRAMS / 4, "{steps} instructions, {compared:?} results");
    assert!(!with_kernel || compared.1 > PROGRAMS / 4, "{compared:?} results");
    assert!(other_messages.len() <= 3, "{other_messages:#?}");
}
