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

/// The list: kind, pattern, reason.
///
/// # Panics
/// If the list is not in its format: it is part of this program.
fn list() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut list: Vec<(&str, &str, &str)> = Vec::new();
    for line in LIST.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if line.starts_with(' ') {
            let (.., reason) = list.last_mut().expect("a reason follows its pattern");
            assert!(reason.is_empty(), "one line of reason: {line}");
            *reason = line.trim();
            continue;
        }
        let (kind, pattern) = line.split_once(' ').expect("a kind and a pattern");
        list.push((kind, pattern, ""));
    }
    list
}

/// The entries on differences from the kernel.
///
/// # Panics
/// As for the list.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let kinds = [
        ("accepted-here", Some(Agreement::FalseAccept)),
        ("rejected-here", Some(Agreement::FalseReject)),
        ("other-message", Some(Agreement::OtherMessage)),
        ("without-pruning", None),
    ];
    let kind = |name| kinds.iter().find(|(known, _)| *known == name).expect("a kind of difference").1;
    let entry = |(name, pattern, reason)| Some(Entry { kind: kind(name)?, pattern, reason });
    list().into_iter().filter_map(entry).collect()
}

/// Whether the program of this seed is listed for another verdict without pruning.
#[must_use]
pub fn differs_without_pruning(seed: u64) -> bool {
    let mut seeds = list().into_iter().filter(|(kind, ..)| *kind == "without-pruning").map(|(_, seed, _)| seed.parse());
    seeds.any(|listed| listed == Ok(seed))
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
        for (kind, pattern, reason) in list() {
            assert!(!reason.is_empty(), "{kind} {pattern}");
            assert!(kind != "without-pruning" || pattern.parse::<u64>().is_ok(), "no seed: {pattern}");
        }
        assert!(differs_without_pruning(178_176) && !differs_without_pruning(178_177));
    }
}
