//! Runs `testing/vectors/maps` and `testing/vectors/percpu` on maps of the running kernel and on ours.

use std::path::Path;

use skep_testing::kernel;
use skep_testing::map_vectors::{MapCase, Side, answers, parse, with_answers};
use skep_testing::vectors::{directory, files};

/// What differs from the answers in the file.
fn differences(case: &MapCase, side: Side) -> Vec<String> {
    match answers(case, side) {
        Ok(given) => case
            .steps
            .iter()
            .zip(given)
            .filter(|(step, (_, answer))| step.answer != *answer)
            .map(|(step, (_, answer))| {
                format!("{side:?}, {}: `{}` answers {answer}, not {}", case.name, step.words.join(" "), step.answer)
            })
            .collect(),
        Err(problem) => vec![problem],
    }
}

fn bless(path: &Path, text: &str, cases: &[MapCase]) {
    let mut all = Vec::new();
    for case in cases {
        let side = if case.skip_kernel.is_none() { Side::Kernel } else { Side::Ours };
        all.extend(answers(case, side).expect("the commands make sense"));
    }
    std::fs::write(path, with_answers(text, &all)).expect("a file of the tree");
}

#[test]
fn map_vectors() {
    let blessing = std::env::var("BLESS").is_ok_and(|bless| bless == "1");
    let kernel = kernel::require("map vectors");
    let (mut differing, mut ours, mut theirs) = (Vec::new(), 0, 0);
    for kind in ["maps", "percpu"] {
        for path in files(&directory(kind)) {
            let text = std::fs::read_to_string(&path).expect("a file of the tree");
            let cases = parse(&text).expect("a vector file");
            if blessing {
                bless(&path, &text, &cases);
                continue;
            }
            for case in &cases {
                differing.extend(differences(case, Side::Ours));
                ours += 1;
                if kernel && case.skip_kernel.is_none() {
                    differing.extend(differences(case, Side::Kernel));
                    theirs += 1;
                }
            }
        }
    }
    skep_testing::summary::say(&format!("vectors: maps {ours} ours, {theirs} kernel"));
    assert!(differing.is_empty(), "{} differences:\n{}", differing.len(), differing.join("\n"));
    assert!(blessing || ours >= 100, "{ours} vectors");
}
