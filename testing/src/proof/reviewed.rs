//! The differences from the kernel that somebody has looked into: `testing/reviewed/random.txt`.
//!
//! Invariant: an entry has a reason, and a difference without an entry is an error.

use crate::verdict::{Agreement, Verdict, shorten};

const LIST: &str = include_str!("../../reviewed/random.txt");

/// One kind of difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which way the verdicts differ.
    pub kind: Agreement,
    /// The messages, with `#` for numbers.
    pub pattern: &'static str,
    /// Why it is none of our errors.
    pub reason: &'static str,
}

/// All entries.
///
/// # Panics
/// If the list is not in its format: it is part of this program.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in LIST.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if line.starts_with(' ') {
            let entry = entries.last_mut().expect("a reason follows its pattern");
            assert!(entry.reason.is_empty(), "one line of reason: {line}");
            entry.reason = line.trim();
            continue;
        }
        let (kind, pattern) = line.split_once(' ').expect("a kind and a pattern");
        let kinds = [
            ("accepted-here", Agreement::FalseAccept),
            ("rejected-here", Agreement::FalseReject),
            ("other-message", Agreement::OtherMessage),
        ];
        let (_, kind) = *kinds.iter().find(|(name, _)| *name == kind).expect("a kind of difference");
        entries.push(Entry { kind, pattern, reason: "" });
    }
    entries
}

/// How two verdicts differ, in the form that patterns have.
#[must_use]
pub fn describe(ours: &Verdict, kernel: &Verdict) -> (Agreement, String) {
    let kind = ours.compare(kernel);
    let text = match kind {
        Agreement::Same => String::new(),
        Agreement::FalseAccept => shorten(kernel.message()),
        Agreement::FalseReject => shorten(ours.message()),
        Agreement::OtherMessage => format!("{} | {}", shorten(ours.message()), shorten(kernel.message())),
    };
    (kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_reason() {
        let entries = entries();
        assert!(!entries.is_empty());
        for entry in entries {
            assert!(!entry.reason.is_empty() && !entry.pattern.is_empty(), "{entry:?}");
            assert_eq!(shorten(entry.pattern), entry.pattern, "numbers are written #");
        }
    }
}
