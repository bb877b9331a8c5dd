//! The long soaks of tail calls: `cargo xtask soak tailcall` and `cargo xtask soak generations`.
//!
//! With the feature `inject`, `--mutants` makes each deliberate mistake in a process of its own, since some of them end it, and
//! fails unless every one of them is noticed.

use std::process::{Command, ExitCode};

use skep_runtime::inject::Mistake;
use skep_testing::counting::Counting;
use skep_testing::soak::{Plan, again_in_one_heap, generations, tailcall};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USAGE: &str = "tailcall|generations CHANGES [SEED] [--mutants | --mutant NAME]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        [what @ ("tailcall" | "generations"), ref rest @ ..] => match again_in_one_heap() {
            Ok(None) => soak(what, rest),
            Ok(Some(status)) => Ok(status.success()),
            Err(error) => Err(error.to_string()),
        },
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was wrong, or every mistake was noticed.
fn soak(what: &str, args: &[&str]) -> Result<bool, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text}: {USAGE}"));
    let of_tail_calls = what == "tailcall";
    let mistakes: &[Mistake] = if of_tail_calls { &Mistake::OF_TAIL_CALLS } else { &Mistake::OF_GENERATIONS };
    let (numbers, mistake) = match *args {
        [ref numbers @ .., "--mutants"] => return mutants(what, numbers, mistakes),
        [ref numbers @ .., "--mutant", name] => {
            let mistake = mistakes.iter().find(|mistake| format!("{mistake:?}") == name);
            (numbers, Some(*mistake.ok_or_else(|| format!("{name} is none of {mistakes:?}"))?))
        }
        _ => (args, None),
    };
    let (changes, seed) = match *numbers {
        [changes] => (number(changes)?, 1),
        [changes, seed] => (number(changes)?, number(seed)?),
        _ => return Err(USAGE.to_owned()),
    };
    let outcome = if of_tail_calls {
        tailcall(&Plan { changes, runners: 4, seed, mistake })
    } else {
        generations(&Plan { changes, runners: 3, seed, mistake })
    };
    let outcome = outcome.map_err(|error| error.to_string())?;
    println!("{outcome}");
    Ok(outcome.problems.is_empty())
}

/// Each mistake in a process of its own. Whether all were noticed.
fn mutants(what: &str, numbers: &[&str], mistakes: &[Mistake]) -> Result<bool, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut survivors = 0;
    for mistake in mistakes {
        let name = format!("{mistake:?}");
        let mut child = Command::new(&this);
        let output =
            child.arg(what).args(numbers).args(["--mutant", &name]).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let why = text.lines().find(|line| line.starts_with("PROBLEM"));
        // Whoever cannot start notices nothing.
        if output.status.success() || output.status.code() == Some(2) {
            survivors += 1;
            println!("{name:14} NOT NOTICED: {}", String::from_utf8_lossy(&output.stderr));
        } else {
            println!("{name:14} noticed: {}", why.map_or_else(|| output.status.to_string(), str::to_owned));
        }
    }
    Ok(survivors == 0)
}
