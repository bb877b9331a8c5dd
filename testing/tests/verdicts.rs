//! The short form of `cargo xtask oracle random`: our verdicts on random programs are the kernel's.

use skep_testing::verdict::{Agreement, KernelMaps, our_verdict, reviewed};
use skep_testing::{generate, kernel};

const PROGRAMS: u64 = 1500;

#[test]
fn random_programs_get_the_kernels_verdict() {
    if !kernel::require("random verdicts") {
        return;
    }
    let mut maps = KernelMaps::new();
    let (mut accepted, mut other_messages) = (0, Vec::new());
    for seed in 1..=PROGRAMS {
        let program = generate::program(seed);
        let (ours, _) = our_verdict(&program, 0);
        let theirs = maps.verdict(&program).expect("the kernel takes maps and types");
        accepted += u64::from(theirs.is_accepted());
        match ours.compare(&theirs) {
            Agreement::Same => {}
            Agreement::FalseAccept => {
                assert!(reviewed(&theirs).is_some(), "seed {seed}: we accept what the kernel rejects: {theirs:?}");
            }
            Agreement::FalseReject => panic!("seed {seed}: we reject what the kernel accepts: {ours:?}"),
            Agreement::OtherMessage => other_messages.push((seed, ours, theirs)),
        }
    }
    // Programs that are all rejected, or all accepted, would prove little.
    assert!((PROGRAMS / 4..PROGRAMS * 9 / 10).contains(&accepted), "the kernel accepts {accepted} of {PROGRAMS}");
    assert!(other_messages.len() <= 3, "{other_messages:#?}");
}
