//! The long soak: `cargo run --release -p skep-text --features inject --example soak -- --seconds 60`.
//!
//! `--mutants` makes each deliberate mistake in a process of its own and fails unless every one of them is noticed.
//! `--mutant NAME` makes one. `--flips N` goes on until there were so many; `--threads N` sets the number of readers.

use std::process::{Command, ExitCode};
use std::time::Duration;

use skep_text::inject::Mutant;
use skep_text::soak::{Plan, soak};

fn main() -> ExitCode {
    let mut plan = Plan { time: Duration::from_secs(10), ..Plan::default() };
    let mut all_mutants = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
        let understood = match arg.as_str() {
            "--seconds" => number().map(|seconds| plan.time = Duration::from_secs(seconds)),
            "--flips" => number().map(|flips| plan.flips = flips),
            "--threads" => number().map(|threads| plan.threads = usize::try_from(threads).unwrap_or(1)),
            "--mutants" => {
                all_mutants = true;
                Some(())
            }
            "--mutant" => {
                let name = args.next().unwrap_or_default();
                Mutant::ALL.into_iter().find(|mutant| mutant.name() == name).map(|mutant| plan.mutants.push(mutant))
            }
            _ => None,
        };
        if understood.is_none() {
            eprintln!("soak: {arg}: --seconds N, --flips N, --threads N, --mutant NAME, --mutants");
            return ExitCode::from(2);
        }
    }
    if all_mutants { mutants(&plan) } else { one(&plan) }
}

fn one(plan: &Plan) -> ExitCode {
    match soak(plan) {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// Each mutant in a process of its own: some of them kill it.
fn mutants(plan: &Plan) -> ExitCode {
    let Ok(this) = std::env::current_exe() else { return ExitCode::from(2) };
    let seconds = plan.time.as_secs().max(1).to_string();
    let mut survivors = 0;
    for mutant in Mutant::ALL {
        let child = Command::new(&this).args(["--mutant", mutant.name(), "--seconds", &seconds]).output();
        match child {
            Ok(output) if output.status.success() => {
                survivors += 1;
                println!("{:16} NOT NOTICED", mutant.name());
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                let why = text.lines().find(|line| line.starts_with("PROBLEM")).unwrap_or("");
                println!("{:16} noticed: {} {why}", mutant.name(), output.status);
            }
            Err(error) => {
                eprintln!("soak: {error}");
                return ExitCode::from(2);
            }
        }
    }
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
