//! The long soaks of tail calls: `cargo xtask soak tailcall` and `cargo xtask soak generations`.

use std::process::ExitCode;

use skep_testing::counting::Counting;
use skep_testing::soak::{Plan, again_in_one_heap, generations, tailcall};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match again_in_one_heap() {
        Ok(None) => soak(),
        Ok(Some(status)) => ExitCode::from(if status.success() { 0 } else { 1 }),
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn soak() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    let changes = args.next().and_then(|text| text.parse().ok());
    let seed = args.next().map_or(Some(1), |text| text.parse().ok());
    let (Some(changes), Some(seed)) = (changes, seed) else {
        eprintln!("soak: tailcall|generations CHANGES [SEED]");
        return ExitCode::from(2);
    };
    let outcome = match what.as_str() {
        "tailcall" => tailcall(&Plan { changes, runners: 4, seed }),
        "generations" => generations(&Plan { changes, runners: 3, seed }),
        other => {
            eprintln!("soak: {other:?}: tailcall|generations CHANGES [SEED]");
            return ExitCode::from(2);
        }
    };
    match outcome {
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
