//! The assembler: programs from the text that the verifier's log prints.
//!
//! One instruction per line; `;` and `//` start a comment; `name:` is a label, and jumps, calls and `func[…]` take a
//! label, `+3` or `pc+3`. A line of a log can be pasted: its `12: (b7)` is skipped. Where the log is ambiguous, the log
//! decides: it prints the immediate of a move in decimal and that of an `ld_imm64` in hexadecimal, so `r1 = 16` takes
//! one slot and `r1 = 0x10` two (`lddw r1, 16` and `r1 = 16 ll` too). Beyond the log: `map[NAME]`, `map_value[NAME]+8`,
//! `call NAME` for helpers, `tail_call`, `.raw 0x…` for a slot of any content.
//! Invariant: `assemble(disasm(x)) == x`. Counterpart: none in the kernel; the syntax is kernel/bpf/disasm.c's.

mod cursor;
mod line;

use std::collections::HashMap;

use crate::insn::{CallTarget, Imm64, Insn, RawInsn};
use line::{Parsed, Target};

/// What names in the text mean.
pub trait Resolve {
    /// Number of a map, for [`Imm64::MapFd`] and [`Imm64::MapValue`].
    fn map(&mut self, _name: &str) -> Option<i32> {
        None
    }

    /// Id and fd-array index of a kernel function.
    fn kfunc(&mut self, _name: &str) -> Option<(i32, i16)> {
        None
    }
}

/// Knows no names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResolve;

impl Resolve for NoResolve {}

impl<F: FnMut(&str) -> Option<i32>> Resolve for F {
    fn map(&mut self, name: &str) -> Option<i32> {
        self(name)
    }
}

/// Why a text is not a program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}: {text:?}")]
pub struct AsmError {
    /// Line number from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
    /// The line, without its comment.
    pub text: String,
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// No instruction reads like this; what was expected at which column.
    #[error("expected {0} at column {1}")]
    Expected(&'static str, usize),
    /// A number that the field cannot hold.
    #[error("number does not fit")]
    Range,
    /// A label that no line defines.
    #[error("unknown label {0}")]
    Label(String),
    /// A label that two lines define.
    #[error("label {0} is defined twice")]
    LabelTwice(String),
    /// A map name that the caller does not know.
    #[error("unknown map {0}")]
    Map(String),
    /// A function name that is neither a helper's nor known to the caller.
    #[error("unknown function {0}")]
    Function(String),
    /// The target is too far for the instruction.
    #[error("jump target out of reach")]
    Reach,
}

/// Assembles a program that names no maps and kernel functions.
///
/// # Errors
/// The first line that is no instruction, or a label that is missing, twice there or out of reach.
pub fn assemble(text: &str) -> Result<Vec<RawInsn>, AsmError> {
    assemble_with(text, &mut NoResolve)
}

/// As [`assemble`], with the caller's names; a closure from map name to number will do.
///
/// # Errors
/// As [`assemble`].
pub fn assemble_with(text: &str, names: &mut dyn Resolve) -> Result<Vec<RawInsn>, AsmError> {
    let mut slots = 0usize;
    let mut labels = HashMap::new();
    let mut lines = Vec::new();
    for (number, full) in text.lines().enumerate() {
        let stripped = line::strip(full);
        let fail = |problem| AsmError { line: number + 1, problem, text: stripped.trim().to_owned() };
        let (label, rest) = line::split_label(stripped);
        if let Some(label) = label
            && labels.insert(label.to_owned(), slots).is_some()
        {
            return Err(fail(Problem::LabelTwice(label.to_owned())));
        }
        if let Some(parsed) = line::parse(rest, names).map_err(fail)? {
            let at = slots;
            slots += parsed.slots();
            lines.push((number + 1, stripped, at, parsed));
        }
    }
    let mut program = Vec::with_capacity(slots);
    for (number, text, at, parsed) in lines {
        let fail = |problem| AsmError { line: number, problem, text: text.trim().to_owned() };
        match parsed {
            Parsed::Raw(raw) => program.push(raw),
            Parsed::Insn(insn, target) => {
                let insn = match target {
                    Some(target) => aim(insn, &target, at, &labels).map_err(fail)?,
                    None => insn,
                };
                insn.push_to(&mut program);
            }
        }
    }
    Ok(program)
}

/// Puts the distance to `target` into a jump, call or function reference at slot `at`.
fn aim(insn: Insn, target: &Target, at: usize, labels: &HashMap<String, usize>) -> Result<Insn, Problem> {
    let distance = match target {
        Target::Relative(distance) => *distance,
        Target::Label(name) => {
            let to = *labels.get(name).ok_or_else(|| Problem::Label(name.clone()))?;
            // The distance counts from the next slot, for an `ld_imm64` too.
            let to = i64::try_from(to).map_err(|_| Problem::Reach)?;
            to - i64::try_from(at).map_err(|_| Problem::Reach)? - 1
        }
    };
    let near = || i16::try_from(distance).map_err(|_| Problem::Reach);
    let far = || i32::try_from(distance).map_err(|_| Problem::Reach);
    Ok(match insn {
        Insn::Ja { long: true, .. } => Insn::Ja { off: far()?, long: true },
        Insn::Ja { long: false, .. } => Insn::Ja { off: i32::from(near()?), long: false },
        Insn::Jcond { width, op, dst, src, .. } => Insn::Jcond { width, op, dst, src, off: near()? },
        Insn::MayGoto { .. } => Insn::MayGoto { off: near()? },
        Insn::Call { .. } => Insn::Call { target: CallTarget::Subprog(far()?) },
        Insn::LdImm64 { dst, .. } => Insn::LdImm64 { dst, imm: Imm64::Func(far()?) },
        other => other,
    })
}
