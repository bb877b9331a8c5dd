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
    run(cargo().args(["test", "--workspace", "--quiet"]).env("SKEP_OBJECTS", &objects).arg("--").args(filter))?;
    Ok(())
}

/// Runs the text vectors so that they rewrite what they expect.
pub(crate) fn bless(filter: Option<&str>) -> Result<()> {
    step("bless");
    let mut vectors = cargo();
    vectors.args(["test", "--package", "skep-testing", "--test", "vectors", "--"]).args(filter).env("BLESS", "1");
    run(&mut vectors)
}
