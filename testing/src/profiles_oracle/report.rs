//! Our answers beside a kernel's: agreement by source, and every difference with its reason.
//!
//! Invariant: a difference that the reviewed list does not explain makes the report bad, and so does an explanation without a
//! difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Answer, Questions, Side, entries, table_differences};
use crate::verdict::{Verdict, shorten};

/// How a profile differs from its kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// The profile accepts what the kernel refuses.
    AcceptedHere,
    /// The profile refuses what the kernel accepts.
    RejectedHere,
    /// Both refuse it, with another errno.
    OtherErrno,
    /// A table of ours has another release for something.
    Dated,
    /// The kernel does not survive it, so it is not asked.
    Crashes,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::AcceptedHere, Self::RejectedHere, Self::OtherErrno, Self::Dated, Self::Crashes];

    /// As the reviewed list names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AcceptedHere => "accepted-here",
            Self::RejectedHere => "rejected-here",
            Self::OtherErrno => "other-errno",
            Self::Dated => "dated",
            Self::Crashes => "crashes",
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    profile: String,
    /// By source: programs asked about, accepted by the kernel, same verdict, same verdict and errno.
    sources: BTreeMap<String, [u64; 4]>,
    left_out: BTreeMap<String, u64>,
    /// What was left out cannot differ: some only on a slow day.
    unasked: BTreeSet<String>,
    /// By kind and reason.
    explained: BTreeMap<(Kind, &'static str), u64>,
    unexplained: Vec<(Kind, String, String)>,
    stale: Vec<String>,
}

/// Compares the answers on a machine's console with ours.
///
/// # Errors
/// The console has no answers, or other questions than ours.
pub fn compare(profile: &str, console: &str, questions: &Questions<'_>, side: &Side) -> Result<Report, String> {
    let mut theirs = BTreeMap::new();
    for line in console.lines() {
        // The first line may have the console's own characters before it.
        let Some((_, line)) = line.trim_end().split_once("skep| ") else { continue };
        let (place, answer) = line.split_once(" => ").ok_or_else(|| format!("no answer in '{line}'"))?;
        let answer = Answer::parse(answer).ok_or_else(|| format!("an answer that nobody gives: '{line}'"))?;
        if theirs.insert(place.to_owned(), answer).is_some() {
            return Err(format!("two answers on {place}"));
        }
    }
    let mut differences = Vec::new();
    let mut report = Report { profile: profile.to_owned(), ..Report::default() };
    let mut missing = None;
    questions.ask(side, &mut |place, ours, _| match (ours.clone(), theirs.remove(place)) {
        (_, None) => missing = Some(place.to_owned()),
        (Answer::LeftOut(why), _) | (_, Some(Answer::LeftOut(why))) => {
            report.unasked.insert(place.to_owned());
            *report.left_out.entry(shorten(&without_names(&why))).or_default() += 1;
        }
        (Answer::Verdict(ours), Some(Answer::Verdict(kernel))) => {
            let kind = kind(&ours, &kernel);
            let source = place.split(['/', ':']).next().unwrap_or_default();
            let counts = report.sources.entry(source.to_owned()).or_default();
            counts[0] += 1;
            counts[1] += u64::from(kernel.is_accepted());
            counts[2] += u64::from(ours.is_accepted() == kernel.is_accepted());
            counts[3] += u64::from(kind.is_none());
            if let Some(kind) = kind {
                let text = format!("ours {}, kernel {}", Answer::Verdict(ours), Answer::Verdict(kernel));
                differences.push((kind, place.to_owned(), text));
            }
        }
    })?;
    if let Some(place) = missing {
        return Err(format!("the kernel was not asked about {place}"));
    }
    if let Some((place, _)) = theirs.first_key_value() {
        return Err(format!("only the kernel was asked about {place}"));
    }
    for (what, text) in table_differences(profile, questions.target)? {
        differences.push((Kind::Dated, what, text));
    }
    report.explain(differences);
    Ok(report)
}

/// A reason for leaving something out, without the names in it.
fn without_names(text: &str) -> String {
    let mut parts = text.split('\'');
    let mut out = parts.next().unwrap_or_default().to_owned();
    while let (Some(_), Some(rest)) = (parts.next(), parts.next()) {
        out += "…";
        out += rest;
    }
    out
}

fn kind(ours: &Verdict, kernel: &Verdict) -> Option<Kind> {
    match (ours, kernel) {
        (Verdict::Accepted, Verdict::Accepted) => None,
        (Verdict::Accepted, Verdict::Rejected { .. }) => Some(Kind::AcceptedHere),
        (Verdict::Rejected { .. }, Verdict::Accepted) => Some(Kind::RejectedHere),
        (Verdict::Rejected { errno: ours, .. }, Verdict::Rejected { errno, .. }) => {
            (ours != errno).then_some(Kind::OtherErrno)
        }
    }
}

impl Report {
    /// Whether every difference has a reason, and every reason a difference.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.unexplained.is_empty() && self.stale.is_empty()
    }

    fn explain(&mut self, differences: Vec<(Kind, String, String)>) {
        let mut known = BTreeMap::new();
        for entry in entries().iter().filter(|entry| entry.profiles.contains(&self.profile.as_str())) {
            for place in &entry.places {
                known.insert((entry.kind, (*place).to_owned()), entry.reason);
            }
        }
        for (kind, place, text) in differences {
            match known.remove(&(kind, place.clone())) {
                Some(reason) => *self.explained.entry((kind, reason)).or_default() += 1,
                None => self.unexplained.push((kind, place, text)),
            }
        }
        self.unexplained.sort();
        let asked = known.keys().filter(|(_, place)| !self.unasked.contains(place));
        self.stale = asked.map(|(kind, place)| format!("{} {place}", kind.name())).collect();
    }

    fn count(&self, kind: Kind) -> u64 {
        let explained = self.explained.iter().filter(|((known, _), _)| *known == kind).map(|(_, count)| count);
        explained.sum::<u64>() + self.unexplained.iter().filter(|(found, ..)| *found == kind).count() as u64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, place, text) in &self.unexplained {
            writeln!(f, "{} {place}\n    {text}", kind.name())?;
        }
        for place in &self.stale {
            writeln!(f, "listed, and no difference: {place}")?;
        }
        for ((kind, reason), count) in &self.explained {
            writeln!(f, "{}: {count:5} {}: {reason}", self.profile, kind.name())?;
        }
        for (why, count) in &self.left_out {
            writeln!(f, "{}: {count:5} left out: {why}", self.profile)?;
        }
        for (source, [all, accepted, verdict, errno]) in &self.sources {
            let percent = 100.0 * *verdict as f64 / *all as f64;
            writeln!(
                f,
                "{}: {source}: {all} programs, the kernel accepts {accepted}; the same verdict: {verdict} ({percent:.1} \
                 %), with the same errno: {errno}",
                self.profile
            )?;
        }
        writeln!(
            f,
            "{}: false accepts: {}; false rejects: {}; other errno: {}; dated otherwise: {}; without a reason: {}",
            self.profile,
            self.count(Kind::AcceptedHere),
            self.count(Kind::RejectedHere),
            self.count(Kind::OtherErrno),
            self.count(Kind::Dated),
            self.unexplained.len(),
        )
    }
}
