//! The mutation fuzzer for a while. Its targets and oracles live in `skep-testing`, where a short run is a normal test.

use anyhow::Result;

use crate::shell::{cargo, run, step};

pub(crate) fn run_for(seconds: u64, seed: u64) -> Result<()> {
    step("fuzz: objects");
    run(cargo()
        .args(["test", "--release", "--package", "skep-testing", "--test", "mutations", "--", "--nocapture"])
        .env("SKEP_FUZZ_SECONDS", seconds.to_string())
        .env("SKEP_FUZZ_SEED", seed.to_string()))
}
