//! `skep verify`: verdicts without running.
//!
//! One object prints a verdict per program; several print veristat's table. Rows come in the order of the command line,
//! programs in the object's.

mod compare;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use skep::{Explanation, Object, VerifyReport};
use skep_verifier::Options;

use crate::args::{Output, VerifyArgs, VerifyOutput};
use crate::exit::{Rejected, usage};
use crate::output::{self, Align, Table};

/// Bytes of the log's end that are shown for a rejected program when no level was asked for.
const TAIL: usize = 64 << 10;

/// The verdict on one program, or on a file that has none to give.
pub(crate) struct Row {
    file: String,
    prog: String,
    section: String,
    verdict: Verdict,
    duration: Duration,
    insns: u64,
    states: u64,
    peak_states: u64,
    size: u64,
    explanation: Option<Explanation>,
}

/// `success`, `failure` or `unreadable`.
enum Verdict {
    Success,
    Failure { errno: i32, message: String },
    Unreadable { message: String },
}

impl Verdict {
    fn name(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure { .. } => "failure",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

pub(crate) fn run(args: &VerifyArgs, output: Output) -> Result<()> {
    if args.compare {
        return compare::run(args, output);
    }
    let form = if output.is_json() { VerifyOutput::Json } else { args.output };
    let several = args.objects.len() > 1 || form != VerifyOutput::Table;
    let mut rows = Vec::new();
    for path in &args.objects {
        match verify_object(path, args, several, output, &mut rows) {
            Ok(()) => {}
            Err(error) if error.is::<crate::exit::UsageError>() => return Err(error),
            Err(error) => {
                eprintln!("skep: {}", crate::input::escaped(&format!("{error:#}")));
                rows.push(Row::unreadable(path, format!("{error:#}")));
            }
        }
    }
    match form {
        VerifyOutput::Json => output.print_json(&rows.iter().map(Row::json).collect())?,
        VerifyOutput::Csv => output::print(&csv(&rows))?,
        VerifyOutput::Table if several => output::print(&table(&rows))?,
        VerifyOutput::Table => {}
    }
    if rows.iter().any(|row| matches!(row.verdict, Verdict::Unreadable { .. })) {
        return Err(anyhow!("not every file could be read"));
    }
    if rows.iter().any(|row| matches!(row.verdict, Verdict::Failure { .. })) {
        return Err(Rejected.into());
    }
    Ok(())
}

fn verify_object(path: &Path, args: &VerifyArgs, several: bool, output: Output, rows: &mut Vec<Row>) -> Result<()> {
    let object = Object::open(path)?;
    let shapes = object.shapes().with_context(|| path.display().to_string())?;
    let options = Options {
        // Without a level asked for, the log is written for what is rejected alone: it takes most of the time.
        log_level: args.log_level.unwrap_or(0) | if args.stats { Options::LOG_STATS } else { 0 },
        unprivileged: args.unpriv,
        ..Options::default()
    };
    if object.programs().is_empty() {
        return Err(anyhow!("{}: has no programs", path.display()));
    }
    let mut found = false;
    for (index, program) in object.programs().iter().enumerate() {
        if args.prog.as_ref().is_some_and(|wanted| *wanted != program.name) {
            continue;
        }
        found = true;
        let report = object.verify(index, &shapes, &options).with_context(|| path.display().to_string())?;
        let row = Row::new(path, &report, program.insns.len());
        if !several {
            output::print(&row.text(&report, args, output))?;
        }
        rows.push(row);
    }
    if !found {
        let names: Vec<&str> = object.programs().iter().map(|p| p.name.as_str()).collect();
        let wanted = args.prog.as_deref().unwrap_or_default();
        return usage(format!("{}: no program {wanted:?}; there are {}", path.display(), names.join(", ")));
    }
    Ok(())
}

impl Row {
    fn new(path: &Path, report: &VerifyReport, size: usize) -> Self {
        let stats = report.stats();
        let verdict = match &report.verdict {
            Ok(_) => Verdict::Success,
            Err(rejection) => Verdict::Failure { errno: rejection.errno.0, message: rejection.message.clone() },
        };
        Self {
            file: path.display().to_string(),
            prog: report.program.clone(),
            section: report.section.clone(),
            verdict,
            duration: stats.duration,
            insns: u64::from(stats.processed),
            states: u64::from(stats.total_states),
            peak_states: u64::from(stats.peak_states),
            size: u64::try_from(size).unwrap_or(u64::MAX),
            explanation: report.explanation.clone(),
        }
    }

    fn unreadable(path: &Path, message: String) -> Self {
        Self {
            file: path.display().to_string(),
            prog: String::new(),
            section: String::new(),
            verdict: Verdict::Unreadable { message },
            duration: Duration::ZERO,
            insns: 0,
            states: 0,
            peak_states: 0,
            size: 0,
            explanation: None,
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }

    fn json(&self) -> Value {
        let (errno, message) = match &self.verdict {
            Verdict::Success => (0, ""),
            Verdict::Failure { errno, message } => (*errno, message.as_str()),
            Verdict::Unreadable { message } => (0, message.as_str()),
        };
        let mut row = json!({
            "file": self.file, "prog": self.prog, "section": self.section, "verdict": self.verdict.name(),
            "errno": errno, "message": message, "insns": self.insns, "states": self.states,
            "peak_states": self.peak_states, "size": self.size, "duration_us": self.micros(),
        });
        if let Some(explanation) = &self.explanation {
            row["explanation"] = crate::explain::json(explanation);
        }
        row
    }

    /// The verdict on a program of a single object, with the log that belongs to it.
    fn text(&self, report: &VerifyReport, args: &VerifyArgs, output: Output) -> String {
        let mut out = String::new();
        let wanted = args.log_level.is_some_and(|level| level > 0) || args.stats;
        if wanted {
            out.push_str(&report.log);
        } else if report.verdict.is_err() {
            out.push_str(tail(&report.log));
        }
        if let Some(explanation) = &self.explanation {
            let gap = if out.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{gap}{}\n", explanation.render(output.colored())));
        }
        let (green, red, plain) = if output.colored() { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
        // Writing to a string cannot fail.
        let _ = match &self.verdict {
            Verdict::Failure { errno, message } => {
                let name = skep_abi::Errno(*errno).name().unwrap_or("unknown errno");
                writeln!(out, "{}: {red}rejected{plain} (-{name}): {message}", self.prog)
            }
            _ => writeln!(
                out,
                "{}: {green}accepted{plain}, {} instructions processed, {} states, {} us",
                self.prog,
                self.insns,
                self.states,
                self.micros()
            ),
        };
        out
    }
}

/// The end of a long log, from the start of a line.
fn tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(TAIL);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    match log[from..].find('\n') {
        Some(line) if from > 0 => &log[from + line + 1..],
        _ => &log[from..],
    }
}

fn table(rows: &[Row]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("File", Left),
        ("Program", Left),
        ("Verdict", Left),
        ("Duration (us)", Right),
        ("Insns", Right),
        ("States", Right),
        ("Peak states", Right),
        ("Program size", Right),
    ]);
    for row in rows {
        let name = Path::new(&row.file).file_name().map_or(row.file.clone(), |n| n.to_string_lossy().into_owned());
        let numbers = [row.micros(), row.insns, row.states, row.peak_states, row.size];
        let mut cells = vec![name, row.prog.clone(), row.verdict.name().to_owned()];
        cells.extend(numbers.iter().map(u64::to_string));
        table.row(cells);
    }
    let accepted = rows.iter().filter(|row| matches!(row.verdict, Verdict::Success)).count();
    format!("{}{} programs, {} accepted, {} not\n", table.render(), rows.len(), accepted, rows.len() - accepted)
}

/// veristat's column names, so that its saved results and ours can be compared.
fn csv(rows: &[Row]) -> String {
    let mut out = String::from("file_name,prog_name,verdict,total_insns,total_states,peak_states,prog_size,duration\n");
    for row in rows {
        let name = Path::new(&row.file).file_name().map_or(row.file.clone(), |n| n.to_string_lossy().into_owned());
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{}",
            quoted(&name),
            quoted(&row.prog),
            row.verdict.name(),
            row.insns,
            row.states,
            row.peak_states,
            row.size,
            row.micros()
        );
    }
    out
}

/// A CSV field, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
