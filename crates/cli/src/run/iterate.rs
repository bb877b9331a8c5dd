//! `skep run --iter PROGRAM=MAP`: iterators over the maps, after the packets.
//!
//! What an iterator writes goes to standard output as it is; it may be text or bytes.

use std::io::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep::{Loaded, Program, RawMap};

use crate::args::{Output, RunArgs};
use crate::exit::usage;
use crate::input;

/// An iterator and the map that it walks.
pub(crate) struct Iteration {
    program: Program,
    map_name: String,
    map: RawMap,
}

impl Iteration {
    /// Those that the command line names.
    pub(crate) fn all(loaded: &Loaded, args: &RunArgs) -> Result<Vec<Self>> {
        args.iter.iter().map(|assignment| Self::parse(loaded, assignment)).collect()
    }

    fn parse(loaded: &Loaded, assignment: &str) -> Result<Self> {
        let (program, map_name) = match input::split_assignment(assignment) {
            Ok(parts) => parts,
            Err(_) => return usage(format!("--iter: expected PROGRAM=MAP, not {assignment:?}")),
        };
        let program = match loaded.program(program) {
            Ok(program) => program,
            Err(error) => return usage(format!("--iter: {error}")),
        };
        match loaded.raw_map(map_name) {
            Ok(map) => Ok(Self { program, map_name: map_name.to_owned(), map }),
            Err(error) => usage(format!("--iter: {error}")),
        }
    }

    fn run(&self) -> Result<Vec<u8>> {
        self.program
            .iter_map(&self.map)
            .with_context(|| format!("iterator {} over map {}", self.program.name(), self.map_name))
    }
}

/// Runs them and prints what they write, after `before`, what the run over packets has to say.
pub(crate) fn print(iterations: &[Iteration], before: Option<&str>) -> Result<()> {
    let mut out = before.unwrap_or_default().as_bytes().to_vec();
    for iteration in iterations {
        if before.is_some() {
            out.push(b'\n');
        }
        out.extend(iteration.run()?);
    }
    std::io::stdout().write_all(&out).context("cannot write to standard output")
}

/// Runs them; what they write, as JSON. Bytes that are no text come as U+FFFD.
pub(crate) fn json(iterations: &[Iteration]) -> Result<Value> {
    let one = |iteration: &Iteration| -> Result<Value> {
        let output = iteration.run()?;
        Ok(json!({
            "program": iteration.program.name(),
            "map": iteration.map_name,
            "output": String::from_utf8_lossy(&output),
        }))
    };
    Ok(Value::Array(iterations.iter().map(one).collect::<Result<_>>()?))
}

/// Iterators alone, without anything to run over.
pub(crate) fn alone(iterations: &[Iteration], output: Output) -> Result<()> {
    if output.is_json() {
        output.print_json(&json!({ "iterators": json(iterations)? }))
    } else {
        print(iterations, None)
    }
}
