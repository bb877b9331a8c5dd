//! What a test run says at its end, whether its tests pass or not.
//!
//! Invariant: a line is never captured with the output of a passing test. `cargo xtask test` names a file in
//! `SKEP_SUMMARY` and repeats what was appended to it.

use std::io::Write as _;

/// Says a line on standard error, and in the summary file if there is one.
pub fn say(line: &str) {
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "{line}");
    let Some(path) = std::env::var_os("SKEP_SUMMARY") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}
