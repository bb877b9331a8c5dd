//! The differences between profiles and their kernels that somebody has looked into: `testing/reviewed/profiles.txt`.
//!
//! Invariant: an entry has a reason and names programs; a difference without an entry is an error, and so is a name without a
//! difference.

use super::report::Kind;

const LIST: &str = include_str!("../../reviewed/profiles.txt");

/// One reason, with what it explains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which way both differ.
    pub kind: Kind,
    /// The profiles that it is about.
    pub profiles: Vec<&'static str>,
    /// Why.
    pub reason: &'static str,
    /// The programs, as the answers name them; or facts of the tables.
    pub places: Vec<&'static str>,
}

/// The list.
///
/// # Panics
/// If the list is not in its format: it is part of this program.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let mut list: Vec<Entry> = Vec::new();
    for line in LIST.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some(head) = line.strip_prefix("== ") {
            let (kind, profiles) = head.split_once(' ').expect("a kind and its profiles");
            let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).expect("a kind of difference");
            list.push(Entry { kind, profiles: profiles.split(' ').collect(), reason: "", places: Vec::new() });
            continue;
        }
        let entry = list.last_mut().expect("lines follow a kind");
        match line.strip_prefix("    ") {
            Some(place) => entry.places.push(place.trim()),
            None => {
                assert!(entry.reason.is_empty(), "one line of reason: {line}");
                entry.reason = line.trim();
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_reason_and_each_place_is_listed_once() {
        let entries = entries();
        let mut seen = std::collections::BTreeSet::new();
        for entry in &entries {
            assert!(!entry.reason.is_empty() && !entry.places.is_empty(), "{entry:?}");
            for profile in &entry.profiles {
                assert!(skep_verifier::Profile::named(profile).is_some(), "{entry:?}");
                for place in &entry.places {
                    assert!(seen.insert((*profile, *place)), "{profile} {place} is listed twice");
                }
            }
        }
    }
}
