//! One program's verdict as a row: of a table, of CSV, of JSON; or as text with its log.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep::{Explanation, HotLine, VerifyReport};

use super::filter::{Column, Fields};
use super::kernel::Kernel;
use crate::args::{Output, VerifyArgs};
use crate::output::{Align, Table};

/// Bytes of the log's end that are shown for a rejected program when no level was asked for.
const TAIL: usize = 64 << 10;

/// The verdict on one program, or on a file that has none to give.
pub(super) struct Row {
    file: String,
    prog: String,
    section: String,
    pub(super) verdict: Verdict,
    duration: Duration,
    insns: u64,
    states: u64,
    peak_states: u64,
    max_states: u64,
    size: u64,
    explanation: Option<Explanation>,
    pub(super) kernel: Option<Kernel>,
    pub(super) hot: Vec<HotLine>,
    /// What is printed of it where it is the only object's.
    pub(super) text: String,
}

/// `success`, `failure` or `unreadable`.
pub(super) enum Verdict {
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

/// The file without its folders.
fn base_name(file: &str) -> &str {
    Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file)
}

/// `-EACCES`.
pub(super) fn errno_name(errno: i32) -> String {
    format!("-{}", skep_abi::Errno(errno).name().unwrap_or("unknown errno"))
}

impl Fields for Row {
    fn text(&self, column: Column) -> &str {
        if column == Column::File { base_name(&self.file) } else { &self.prog }
    }

    fn number(&self, column: Column) -> u64 {
        match column {
            Column::File | Column::Prog => 0,
            Column::Verdict => u64::from(matches!(self.verdict, Verdict::Success)),
            Column::Duration => self.micros(),
            Column::Insns => self.insns,
            Column::States => self.states,
            Column::PeakStates => self.peak_states,
            Column::MaxStates => self.max_states,
            Column::Size => self.size,
        }
    }
}

impl Row {
    pub(super) fn new(path: &Path, report: &VerifyReport, size: usize) -> Self {
        let stats = report.stats();
        let verdict = match &report.verdict {
            Ok(_) => Verdict::Success,
            Err(rejection) => Verdict::Failure { errno: rejection.errno.0, message: rejection.message.clone() },
        };
        Self {
            prog: report.program.clone(),
            section: report.section.clone(),
            verdict,
            duration: stats.duration,
            insns: u64::from(stats.processed),
            states: u64::from(stats.total_states),
            peak_states: u64::from(stats.peak_states),
            max_states: u64::from(stats.max_states_per_insn),
            size: u64::try_from(size).unwrap_or(u64::MAX),
            explanation: report.explanation.clone(),
            ..Self::unreadable(path, String::new())
        }
    }

    pub(super) fn unreadable(path: &Path, message: String) -> Self {
        Self {
            file: path.display().to_string(),
            prog: String::new(),
            section: String::new(),
            verdict: Verdict::Unreadable { message },
            duration: Duration::ZERO,
            insns: 0,
            states: 0,
            peak_states: 0,
            max_states: 0,
            size: 0,
            explanation: None,
            kernel: None,
            hot: Vec::new(),
            text: String::new(),
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }

    fn message(&self) -> &str {
        match &self.verdict {
            Verdict::Success => "",
            Verdict::Failure { message, .. } | Verdict::Unreadable { message } => message,
        }
    }

    pub(super) fn json(&self) -> Value {
        let errno = if let Verdict::Failure { errno, .. } = self.verdict { errno } else { 0 };
        let mut row = json!({
            "file": self.file, "prog": self.prog, "section": self.section, "verdict": self.verdict.name(),
            "errno": errno, "message": self.message(), "insns": self.insns, "states": self.states,
            "peak_states": self.peak_states, "size": self.size, "duration_us": self.micros(),
        });
        if let Some(explanation) = &self.explanation {
            row["explanation"] = crate::explain::json(explanation);
        }
        if let Some(kernel) = &self.kernel {
            row["kernel"] = kernel.json(self);
        }
        if !self.hot.is_empty() {
            let line = |l: &HotLine| json!({ "file": l.file, "line": l.line, "text": l.text, "insns": l.insns });
            row["top_lines"] = self.hot.iter().map(line).collect();
        }
        row
    }

    /// The verdict on a program of a single object, with the log that belongs to it.
    pub(super) fn describe(&self, report: &VerifyReport, args: &VerifyArgs, output: Output) -> String {
        let mut out = String::new();
        let wanted = args.log_level.is_some_and(|level| level > 0) || args.stats;
        if wanted {
            out.push_str(&report.log);
        } else if report.verdict.is_err() {
            out.push_str(tail(&report.log));
        }
        if let Some(explanation) = &self.explanation {
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}{}", explanation.render(output.colored()));
        }
        out.push_str(&hot_lines(&self.prog, &self.hot));
        let (green, red, plain) = if output.colored() { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
        // Writing to a string cannot fail.
        let _ = match &self.verdict {
            Verdict::Failure { errno, message } => {
                writeln!(out, "{}: {red}rejected{plain} ({}): {message}", self.prog, errno_name(*errno))
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
        if let Some(kernel) = &self.kernel {
            let _ = writeln!(out, "{}", kernel.describe(self));
        }
        out
    }

    /// Whether the kernel gave the same verdict, and the same message; nothing where it was not asked.
    pub(super) fn agrees(&self, kernel: &Kernel) -> Option<(bool, bool)> {
        match (&self.verdict, kernel) {
            (_, Kernel::NotAsked(_)) | (Verdict::Unreadable { .. }, _) => None,
            (Verdict::Success, Kernel::Accepted { .. }) => Some((true, true)),
            (Verdict::Failure { message, .. }, Kernel::Rejected { message: theirs, .. }) => {
                Some((true, theirs.ends_with(message.as_str())))
            }
            _ => Some((false, false)),
        }
    }
}

/// The source lines that were processed most, as veristat prints them.
pub(super) fn hot_lines(prog: &str, lines: &[HotLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut out = format!("Top source lines ({prog}):\n");
    for line in lines {
        let _ = writeln!(out, "{:>8}: ({}:{})\t{}", line.insns, base_name(&line.file), line.line, line.text.trim());
    }
    out.push('\n');
    out
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

pub(super) fn table(rows: &[Row], with_kernel: bool) -> String {
    use Align::{Left, Right};
    let mut columns = vec![("File", Left), ("Program", Left), ("Verdict", Left)];
    if with_kernel {
        columns.extend([("Kernel", Left), ("Same", Left)]);
    }
    columns.push(("Duration (us)", Right));
    if with_kernel {
        columns.push(("Kernel (us)", Right));
    }
    columns.push(("Insns", Right));
    if with_kernel {
        columns.push(("Kernel insns", Right));
    }
    columns.extend([("States", Right), ("Peak states", Right), ("Program size", Right)]);
    let mut table = Table::new(&columns);
    for row in rows {
        let mut cells = vec![base_name(&row.file).to_owned(), row.prog.clone(), row.verdict.name().to_owned()];
        let [verdict, same, duration, insns] = row.kernel.as_ref().map_or_else(Default::default, |k| k.cells(row));
        if with_kernel {
            cells.extend([verdict, same]);
        }
        cells.push(row.micros().to_string());
        cells.extend(with_kernel.then_some(duration));
        cells.push(row.insns.to_string());
        cells.extend(with_kernel.then_some(insns));
        cells.extend([row.states, row.peak_states, row.size].iter().map(u64::to_string));
        table.row(cells);
    }
    let accepted = rows.iter().filter(|row| matches!(row.verdict, Verdict::Success)).count();
    let mut out =
        format!("{}{} programs, {} accepted, {} not\n", table.render(), rows.len(), accepted, rows.len() - accepted);
    if with_kernel {
        let verdicts = rows.iter().filter_map(|row| row.agrees(row.kernel.as_ref()?));
        let (asked, same) = verdicts.fold((0, 0), |(asked, same), (agrees, _)| (asked + 1, same + usize::from(agrees)));
        let _ = writeln!(out, "kernel {}: asked about {asked}, the same verdict on {same}", super::kernel::release());
    }
    for row in rows {
        out.push_str(&hot_lines(&row.prog, &row.hot));
    }
    out
}

/// veristat's column names, so that its saved results and ours can be compared.
pub(super) fn csv(rows: &[Row], with_kernel: bool) -> String {
    let mut out = String::from(
        "file_name,prog_name,verdict,total_insns,total_states,peak_states,max_states_per_insn,prog_size,duration",
    );
    out.push_str(if with_kernel { ",kernel_verdict,kernel_duration,kernel_insns\n" } else { "\n" });
    for row in rows {
        let _ = write!(
            out,
            "{},{},{},{},{},{},{},{},{}",
            quoted(base_name(&row.file)),
            quoted(&row.prog),
            row.verdict.name(),
            row.insns,
            row.states,
            row.peak_states,
            row.max_states,
            row.size,
            row.micros()
        );
        if with_kernel {
            let [verdict, _, duration, insns] = row.kernel.as_ref().map_or_else(Default::default, |k| k.cells(row));
            let _ = write!(out, ",{verdict},{duration},{insns}");
        }
        out.push('\n');
    }
    out
}

/// A CSV field, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
