//! The test command: tools, objects, tidy, format, lints, tests.

use anyhow::Result;

use crate::shell::{cargo, exists, run, step};
use crate::{objects, tidy, tools};

/// Everything that CI checks, in the order of what fails fastest.
pub(crate) fn test(install: bool, filter: &[String]) -> Result<()> {
    step("tools");
    tools::ensure(install)?;
    step("tidy");
    tidy::run()?;
    if exists("rustfmt") {
        step("format");
        run(cargo().args(["fmt", "--all", "--check"]))?;
    } else {
        eprintln!("format: skipped, rustfmt is not installed");
    }
    let objects = objects::build()?;
    if exists("cargo-clippy") {
        step("lints");
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    } else {
        eprintln!("lints: skipped, clippy is not installed");
    }
    step("tests");
    let said = objects.join("summary.txt");
    drop(std::fs::remove_file(&said));
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--quiet"]).env("SKEP_OBJECTS", &objects).env("SKEP_SUMMARY", &said);
    let result = run(tests.arg("--").args(filter));
    step("summary");
    summarize(&std::fs::read_to_string(&said).unwrap_or_default());
    result
}

/// Repeats the lines that the tests left, and adds up how often the kernel was asked.
fn summarize(said: &str) {
    let (mut ran, mut skipped) = (0u64, 0u64);
    for line in said.lines() {
        let Some(counts) = line.strip_prefix("kernel oracle: ") else {
            eprintln!("{line}");
            continue;
        };
        for part in counts.split(", ") {
            match part.split_once(' ') {
                Some((n, "ran")) => ran += n.parse().unwrap_or(0),
                Some((n, "skipped")) => skipped += n.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    eprintln!("kernel oracle: {ran} comparisons ran, {skipped} skipped");
}

/// Runs the text vectors so that they rewrite what they expect.
pub(crate) fn bless(filter: Option<&str>) -> Result<()> {
    step("bless");
    let mut vectors = cargo();
    vectors.args(["test", "--package", "skep-testing", "--test", "vectors", "--"]).args(filter).env("BLESS", "1");
    run(&mut vectors)
}
