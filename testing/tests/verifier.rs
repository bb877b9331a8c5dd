//! The verifier's text vectors: each program asked of the running kernel, where there is one, and of our verifier.
//!
//! `BLESS=1` writes the kernel's answers into the vectors (ours into those that skip it). The format is [`skep_testing::verifier_case`]'s.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep_abi::Errno;
use skep_testing::kernel;
use skep_testing::verifier_case::{Outcome, parse};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/verifier")
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "txt") {
            out.push(path);
        }
    }
}

/// Whether the lines occur in the log, in this order.
fn missing_line<'l>(log: &str, lines: &'l [String]) -> Option<&'l str> {
    let mut rest = log.lines();
    lines.iter().map(String::as_str).find(|want| !rest.any(|have| have == *want))
}

#[test]
fn verdicts_are_the_kernels() {
    let mut files = Vec::new();
    collect(&vectors(), &mut files);
    files.sort();
    assert!(files.len() >= 150, "only {} vectors found", files.len());
    let with_kernel = kernel::require("verifier vectors");
    let nobody = kernel::Unprivileged::allow_for_test();
    if let Err(why) = &nobody {
        println!("vectors without capabilities are not asked of the kernel: {why}");
    }
    let bless = std::env::var_os("BLESS").is_some();
    let mut problems = String::new();
    let (mut asked, mut denied) = (0, 0);
    for path in &files {
        let name = path.strip_prefix(vectors()).unwrap_or(path).display().to_string();
        let mut problem = |text: String| {
            let _ = writeln!(problems, "{name}: {text}");
        };
        let source = std::fs::read_to_string(path).unwrap_or_default();
        let mut case = match parse(&source) {
            Ok(case) => case,
            Err(e) => {
                problem(e);
                continue;
            }
        };
        // The whole log of a million instructions is asked for only where a vector looks into it.
        let level = if case.log_lines.is_empty() { 1 } else { 2 };
        let mut ask_ours = bless && case.skip_kernel.is_some();
        if with_kernel && case.skip_kernel.is_none() {
            asked += 1;
            let answer = match (&nobody, case.unprivileged) {
                (_, false) => case.kernel(level),
                // Its maps are somebody else's, since there are types that nobody can make without capabilities.
                (Ok(nobody), true) => case.create_maps().and_then(|maps| nobody.run(|| case.load(&maps, level))),
                // As if the machine had refused.
                (Err(_), true) => Ok((Outcome::Reject(Errno::EPERM, String::new()), String::new())),
            };
            let deniable = case.target.is_some() || (case.unprivileged && nobody.is_err());
            match answer {
                // Some kernels have no iterators over map elements: they look at no instruction.
                Ok((Outcome::Reject(Errno::EPERM, message), _)) if deniable && message.is_empty() => {
                    (asked, denied) = (asked - 1, denied + 1);
                    ask_ours = bless;
                }
                Ok((outcome, log)) => {
                    if bless {
                        if let Err(e) = std::fs::write(path, case.bless(&outcome)) {
                            problem(e.to_string());
                        }
                        case.expected = Some(outcome);
                    } else if Some(&outcome) != case.expected.as_ref() {
                        problem(format!("the kernel says {outcome}"));
                    } else if let Some(line) = missing_line(&log, &case.log_lines) {
                        problem(format!("the kernel's log lacks '{line}'"));
                    }
                }
                Err(e) => problem(e),
            }
        }
        let (ours, log) = case.ours(level);
        if ask_ours {
            if let Err(e) = std::fs::write(path, case.bless(&ours)) {
                problem(e.to_string());
            }
            case.expected = Some(ours.clone());
        }
        if let Some(line) = missing_line(&case.xlated(), &case.xlated_lines) {
            problem(format!("the rewritten program lacks '{line}':\n{}", case.xlated()));
        }
        match &case.expected {
            Some(expected) if *expected == ours => {}
            Some(Outcome::Accept) => problem(format!("accepted by the kernel, ours: {ours}")),
            Some(expected) => problem(format!("expected {expected}\nours: {ours}")),
            None => problem("has no expected verdict: run with BLESS=1".to_owned()),
        }
        if let Some(line) = missing_line(&log, &case.log_lines) {
            problem(format!("our log lacks '{line}'"));
        }
        let (quiet, _) = case.ours(0);
        if quiet != ours {
            problem("the log level changes the verdict".to_owned());
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
    skep_testing::summary::say(&format!(
        "vectors: verifier {} ours, {asked} kernel, {denied} denied there",
        files.len()
    ));
}

/// Verdicts on per-CPU data, which the running kernel does not know: `cargo xtask oracle percpu` asks one that does.
#[test]
fn verdicts_on_percpu_data_are_those_of_linux_7_3() {
    let files = skep_testing::vectors::files(&skep_testing::vectors::directory("percpu/verdict"));
    assert!(files.len() >= 20, "only {} vectors found", files.len());
    let bless = std::env::var_os("BLESS").is_some();
    let mut problems = String::new();
    for path in &files {
        let case = parse(&std::fs::read_to_string(path).unwrap_or_default()).expect("a vector");
        let (ours, _) = case.ours(1);
        if bless {
            std::fs::write(path, case.bless(&ours)).expect("a file of the tree");
        } else if case.expected.as_ref() != Some(&ours) {
            let _ = writeln!(problems, "{}: expected {:?}, ours: {ours}", path.display(), case.expected);
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
}
