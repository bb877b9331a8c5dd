//! `skep verify --kernel`: what the running kernel says of the same programs.
//!
//! Programs are loaded, never attached, and gone when they were asked about. The system call is wrapped by
//! `skep_testing::kernel`, which the tests' oracles use as well.

use serde_json::{Value, json};
use skep_object::ObjectSpec;
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::kernel_verdict;
use skep_testing::verdict::Verdict;

use super::row::{Row, errno_name};

/// `BPF_LOG_STATS`: messages and statistics. Writing the walk as well takes most of the kernel's time, and for a program that
/// reaches the limits hundreds of megabytes.
const STATS: u32 = 4;

/// The kernel's answer.
pub(super) enum Kernel {
    Accepted { micros: Option<u64>, insns: Option<u64> },
    Rejected { errno: i32, message: String, micros: Option<u64>, insns: Option<u64> },
    NotAsked(String),
}

/// An object's maps in the kernel.
pub(super) struct Oracle<'a> {
    object: Result<KernelObject<'a>, String>,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(spec: &'a ObjectSpec) -> Self {
        Self { object: KernelObject::create(spec).map_err(|error| error.to_string()) }
    }

    /// Asks about a program, by its place in the object.
    pub(super) fn ask(&self, program: usize) -> Kernel {
        let object = match &self.object {
            Ok(object) => object,
            Err(why) => return Kernel::NotAsked(why.clone()),
        };
        let (verdict, log) = match kernel_verdict(object, program, STATS) {
            Ok(answer) => answer,
            Err(why) => return Kernel::NotAsked(why),
        };
        let (micros, insns) = (number_after(&log, "verification time "), number_after(&log, "processed "));
        match verdict {
            Verdict::Accepted => Kernel::Accepted { micros, insns },
            Verdict::Rejected { errno, message } => Kernel::Rejected { errno: errno.0, message, micros, insns },
        }
    }
}

impl Kernel {
    /// Verdict, whether it is the same, microseconds, instructions; as cells.
    pub(super) fn cells(&self, row: &Row) -> [String; 4] {
        let number = |n: &Option<u64>| n.map_or(String::new(), |n| n.to_string());
        let same = match row.agrees(self) {
            Some((true, true)) => "yes",
            Some((true, false)) => "but for the message",
            Some((false, _)) => "NO",
            None => "",
        };
        let (verdict, micros, insns) = match self {
            Self::Accepted { micros, insns } => ("success", micros, insns),
            Self::Rejected { micros, insns, .. } => ("failure", micros, insns),
            Self::NotAsked(_) => ("not asked", &None, &None),
        };
        [verdict.to_owned(), same.to_owned(), number(micros), number(insns)]
    }

    pub(super) fn json(&self, row: &Row) -> Value {
        let same = row.agrees(self).map(|(verdict, _)| verdict);
        match self {
            Self::Accepted { micros, insns } => json!({
                "verdict": "success", "errno": 0, "message": "", "duration_us": micros, "insns": insns, "same": same,
            }),
            Self::Rejected { errno, message, micros, insns } => json!({
                "verdict": "failure", "errno": errno, "message": message, "duration_us": micros, "insns": insns,
                "same": same,
            }),
            Self::NotAsked(why) => json!({ "verdict": "not asked", "message": why }),
        }
    }

    /// A line beside our verdict.
    pub(super) fn describe(&self, row: &Row) -> String {
        let known = |n: &Option<u64>, what: &str| n.map_or(String::new(), |n| format!(", {n} {what}"));
        let verdict = match self {
            Self::Accepted { micros, insns } => {
                format!("accepted{}{}", known(insns, "instructions processed"), known(micros, "us"))
            }
            Self::Rejected { errno, message, micros, .. } => match row.agrees(self) {
                Some((true, true)) => {
                    format!("rejected ({}) with the same message{}", errno_name(*errno), known(micros, "us"))
                }
                _ => format!("rejected ({}): {message}", errno_name(*errno)),
            },
            Self::NotAsked(why) => format!("cannot be asked: {}", crate::input::escaped(why)),
        };
        let differs = if row.agrees(self).is_some_and(|(same, _)| !same) { " -- another verdict" } else { "" };
        format!("kernel {}: {verdict}{differs}", release())
    }
}

/// The running kernel's release.
pub(super) fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// The number that follows this text in a log's statistics.
fn number_after(log: &str, text: &str) -> Option<u64> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix(text))?;
    line.split_whitespace().next()?.parse().ok()
}
