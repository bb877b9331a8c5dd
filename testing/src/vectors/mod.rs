//! Text vectors: small programs with what they must do, run by every engine at hand.
//!
//! Owns the file format (described in testing/README.md), the engines' interface and the comparison. Invariant: a vector
//! says what any conforming engine does; an engine that cannot say (no packet context, no root) skips it with a reason,
//! which is counted. `BLESS=1` rewrites expectations from the running kernel.

mod bless;
mod case;
pub mod families;
mod kernel_engine;
mod report;
mod runtime_engine;
mod types;
mod verifier_engine;

use std::path::{Path, PathBuf};

use skep_abi::RawInsn;
use skep_abi::asm::{AsmError, Resolve, assemble_with};

pub use bless::bless;
pub use case::{Case, Expect, FormatError, Input, MapDecl, parse};
pub use kernel_engine::KernelEngine;
pub use report::Summary;
pub use runtime_engine::{RuntimeEngine, run_assumed};
pub use types::{ProgTypes, types_for};
pub use verifier_engine::{VerifierEngine, func_info, shapes, with_verified};

/// Number of the map that holds result and memory of a case without a program type.
pub const OUT_MAP: i32 = 0;

/// Something that runs programs: the kernel, the interpreter, the compiled path.
pub trait Engine: Send + Sync {
    /// Short name for the summary: `kernel`, `interp`, `jit`.
    fn name(&self) -> &'static str;

    /// Loads and runs the case's program.
    fn run(&self, case: &Case) -> Outcome;
}

/// What an engine did with a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Accepted; what it returned when it ran.
    Ran {
        /// r0 at exit; only its low 32 bits when the case has a program type.
        r0: u64,
        /// The memory that r1 pointed to, or the packet, afterwards.
        out: Vec<u8>,
    },
    /// Accepted by something that does not run programs.
    Accepted,
    /// Refused, with the message of the decoder or verifier.
    Refused(String),
    /// Not tried; why.
    Skipped(String),
}

/// A case's program, and the kernel functions that its calls index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assembled {
    /// Instructions; map references and kernel function calls hold indices.
    pub insns: Vec<RawInsn>,
    /// Names of kernel functions.
    pub kfuncs: Vec<String>,
}

/// Numbers maps as the case declares them and kernel functions as they come.
struct Numbers<'a> {
    case: &'a Case,
    kfuncs: Vec<String>,
}

impl Resolve for Numbers<'_> {
    fn map(&mut self, name: &str) -> Option<i32> {
        if self.case.prog_type.is_none() && name == "out" {
            return Some(OUT_MAP);
        }
        let first = i32::from(self.case.prog_type.is_none());
        let at = self.case.maps.iter().position(|map| map.name == name)?;
        Some(first + i32::try_from(at).ok()?)
    }

    fn kfunc(&mut self, name: &str) -> Option<(i32, i16)> {
        if !name.starts_with("bpf_") {
            return None;
        }
        let at = self.kfuncs.iter().position(|known| known == name).unwrap_or_else(|| {
            self.kfuncs.push(name.to_owned());
            self.kfuncs.len() - 1
        });
        Some((i32::try_from(at).ok()?, 0))
    }
}

/// The whole program of a case: with a program type it is the case's own text; without, it becomes a subprogram of a
/// frame that passes the memory in r1 and its size in r2 and stores r0 in the first 8 bytes of map [`OUT_MAP`].
///
/// # Errors
/// The assembler's.
pub fn program(case: &Case) -> Result<Assembled, AsmError> {
    let mut names = Numbers { case, kfuncs: Vec::new() };
    if case.prog_type.is_some() {
        let insns = assemble_with(&case.text, &mut names)?;
        return Ok(Assembled { insns, kfuncs: names.kfuncs });
    }
    let (memory, size) = match case.input.len() {
        0 => ("r1 = 0".to_owned(), 0),
        size => ("r1 = map_value[out]+8".to_owned(), size),
    };
    let text = format!(
        "{memory}\nr2 = {size}\ncall case\nr1 = map_value[out]\n*(u64 *)(r1 +0) = r0\nr0 = 0\nexit\ncase:\n{}",
        case.text
    );
    // The frame's lines come before the case's in messages about the text.
    let insns = assemble_with(&text, &mut names)
        .map_err(|error| AsmError { line: error.line.saturating_sub(8).saturating_add(case.line), ..error })?;
    Ok(Assembled { insns, kfuncs: names.kfuncs })
}

/// Compares an outcome with what the case expects.
///
/// # Errors
/// What differs, for a person to read.
pub fn check(case: &Case, outcome: &Outcome) -> Result<(), String> {
    match (&case.expect, outcome) {
        (_, Outcome::Skipped(_)) => Ok(()),
        (Expect::Refused(want), Outcome::Refused(got)) => {
            if want == got {
                Ok(())
            } else {
                Err(format!("refused with {got:?}, expected {want:?}"))
            }
        }
        (Expect::Refused(want), Outcome::Ran { r0, .. }) => {
            Err(format!("accepted (r0 = {r0:#x}), expected the refusal {want:?}"))
        }
        (Expect::Refused(want), Outcome::Accepted) => Err(format!("accepted, expected the refusal {want:?}")),
        (Expect::Accepted | Expect::Result { .. }, Outcome::Accepted) => Ok(()),
        (_, Outcome::Refused(message)) => Err(format!("refused: {message}")),
        (Expect::Accepted, Outcome::Ran { .. }) => Ok(()),
        (Expect::Result { r0: want, out }, Outcome::Ran { r0, out: got }) => {
            let mask = if case.prog_type.is_some() { u64::from(u32::MAX) } else { u64::MAX };
            if want & mask != r0 & mask {
                return Err(format!("r0 is {r0:#x}, expected {want:#x}"));
            }
            match out {
                Some(want) if want != got => Err(format!("memory is {}, expected {}", hex(got), hex(want))),
                _ => Ok(()),
            }
        }
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All vectors of one kind (`isa`, `verifier`, …), in the order of file names.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn load(kind: &str) -> Result<Vec<Case>, FormatError> {
    let mut cases = Vec::new();
    for path in files(&directory(kind)) {
        let text = std::fs::read_to_string(&path).map_err(|error| FormatError {
            file: path.display().to_string(),
            line: 0,
            problem: error.to_string(),
        })?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        cases.extend(parse(&stem, &text)?);
    }
    Ok(cases)
}

/// Where the vectors of a kind are.
#[must_use]
pub fn directory(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(kind)
}

/// The `.txt` files of a directory, sorted; none when it is not there.
#[must_use]
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "txt")).collect();
    files.sort();
    files
}
