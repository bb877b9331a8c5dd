//! Project tasks, run as `cargo xtask TASK`. What CI runs is `cargo xtask test`, the same command that a developer runs.
#![forbid(unsafe_code)]

mod checks;
mod fuzz;
mod install;
mod objects;
mod oracle;
mod shell;
mod soak;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "skep's project tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, build the test objects with clang-19, check and test everything
    Test {
        /// Fail instead of installing missing tools through apt
        #[arg(long)]
        no_install: bool,
        /// Passed on to `cargo test`, e.g. `-- verifier`
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Check what the compiler does not: file sizes, module docs, paths in documents
    Tidy,
    /// Build the C test objects into target/objects and say which committed ones differ
    Objects,
    /// Build libskep and install it, its headers and its pkg-config file
    Install {
        /// Where programs will find it
        #[arg(long, default_value = "/usr/local")]
        prefix: std::path::PathBuf,
        /// For packagers: the folder that stands for the root of the file system
        #[arg(long)]
        destdir: Option<std::path::PathBuf>,
        /// Without optimization, which builds faster
        #[arg(long)]
        debug: bool,
    },
    /// Rewrite the expected outputs of the text vectors
    Bless {
        /// Only vectors whose name contains this
        filter: Option<String>,
    },
    /// Mutate objects and programs for a while; a crash or an unbounded allocation fails
    Fuzz {
        /// Seconds to run
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// First seed; each round adds one
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Prove a protocol under load for a while
    Soak {
        #[command(subcommand)]
        what: soak::What,
    },
    /// Ask the running kernel about programs, and compare
    Oracle {
        #[command(subcommand)]
        what: oracle::What,
    },
    /// Hold the verifier's bounds of every pair of small intervals, under every operator and jump, against all their values
    Exhaustive {
        /// Intervals lie among 2^BITS values: 4 takes seconds, 6 minutes, 8 half an hour on two CPUs
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=8))]
        bits: u32,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Check the protocol of vCPUs and grace periods in every order of its steps, with loom
    Loom,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test { no_install, filter } => checks::test(!no_install, &filter),
        Task::Tidy => tidy::run(),
        Task::Objects => objects::build().map(|_| ()),
        Task::Install { prefix, destdir, debug } => install::run_for(&prefix, destdir.as_deref(), debug),
        Task::Bless { filter } => checks::bless(filter.as_deref()),
        Task::Fuzz { seconds, seed } => fuzz::run_for(seconds, seed),
        Task::Soak { what } => soak::run(&what),
        Task::Oracle { what } => oracle::run(&what),
        Task::Exhaustive { bits, filter } => soak::exhaustive(bits, filter.as_deref()),
        Task::Loom => soak::loom(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
