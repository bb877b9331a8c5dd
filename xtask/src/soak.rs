//! The long proofs of the low-level crates, in release builds.

use anyhow::Result;
use clap::Subcommand;

use crate::shell::{self, cargo, root, step};

/// What to prove.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Live patching: threads run code that checks itself while it changes (crates/text/src/soak.rs)
    Poke {
        /// Seconds to run, or per mutant
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Go on until there were so many flips
        #[arg(long, default_value_t = 1_000_000)]
        flips: u64,
        /// Make each deliberate mistake instead, and fail unless every one of them is noticed
        #[arg(long)]
        mutants: bool,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    let What::Poke { seconds, flips, mutants } = what;
    let mut soak = cargo();
    soak.args(["run", "--quiet", "--release", "--package", "skep-text", "--features", "inject", "--example", "soak"]);
    soak.arg("--");
    if *mutants {
        soak.args(["--mutants", "--seconds", &seconds.min(&10).to_string()]);
    } else {
        soak.args(["--seconds", &seconds.to_string(), "--flips", &flips.to_string()]);
    }
    shell::run(&mut soak)
}

/// loom replaces the primitives at compile time, so that everything is built apart.
pub(crate) fn loom() -> Result<()> {
    step("loom");
    let mut test = cargo();
    test.args(["test", "--quiet", "--release", "--package", "skep-sync", "--lib"]);
    shell::run(test.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom")))
}

/// The tests of the scalar domain, with wider intervals than in an ordinary run.
pub(crate) fn exhaustive(bits: u32, filter: Option<&str>) -> Result<()> {
    step(&format!("every pair of intervals among {} values", 1u32 << bits));
    let filter = format!("state::exhaustive::{}", filter.unwrap_or_default());
    let mut test = cargo();
    test.args(["test", "--release", "--package", "skep-verifier", "--lib", "--", &filter]);
    shell::run(test.env("SKEP_EXHAUSTIVE", bits.to_string()))
}
