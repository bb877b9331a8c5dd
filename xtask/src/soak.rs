//! The long proofs of what is hard to test, in release builds.

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
    /// Tail calls: prog arrays change and programs come and go while threads run chains (testing/src/soak)
    Tailcall {
        /// Updates, deletions, loads and unloads
        #[arg(long, default_value_t = 1_000_000)]
        changes: u64,
        /// Where the random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Make each deliberate mistake instead, and fail unless every one of them is noticed
        #[arg(long)]
        mutants: bool,
    },
    /// Generations: ten programs that call each other are exchanged while threads run them (testing/src/soak)
    Generations {
        /// Exchanges
        #[arg(long, default_value_t = 100_000)]
        swaps: u64,
        /// Where the random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Make each deliberate mistake instead, and fail unless every one of them is noticed
        #[arg(long)]
        mutants: bool,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    let mut soak = cargo();
    match what {
        What::Poke { seconds, flips, mutants } => {
            soak.args(["run", "--quiet", "--release", "--package", "skep-text", "--features", "inject"]);
            soak.args(["--example", "soak", "--"]);
            if *mutants {
                soak.args(["--mutants", "--seconds", &seconds.min(&10).to_string()]);
            } else {
                soak.args(["--seconds", &seconds.to_string(), "--flips", &flips.to_string()]);
            }
        }
        What::Tailcall { changes, seed, mutants } => {
            of_tail_calls(
                &mut soak,
                "tailcall",
                if *mutants { 100_000.min(*changes) } else { *changes },
                *seed,
                *mutants,
            );
        }
        What::Generations { swaps, seed, mutants } => {
            of_tail_calls(
                &mut soak,
                "generations",
                if *mutants { 10_000.min(*swaps) } else { *swaps },
                *seed,
                *mutants,
            );
        }
    }
    shell::run(&mut soak)
}

fn of_tail_calls(soak: &mut std::process::Command, what: &str, count: u64, seed: u64, mutants: bool) {
    soak.args(["run", "--quiet", "--release", "--package", "skep-testing", "--bin", "soak"]);
    if mutants {
        soak.args(["--features", "inject"]);
    }
    soak.args(["--", what]).args([count.to_string(), seed.to_string()]);
    if mutants {
        soak.arg("--mutants");
    }
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
    test.args(["test", "--release", "--package", "skep-verifier", "--lib", "--", "--nocapture", &filter]);
    shell::run(test.env("SKEP_EXHAUSTIVE", bits.to_string()))
}
