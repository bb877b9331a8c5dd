//! Which rows are wanted and in what order: veristat's filters and sort specifications.
//!
//! A filter is a glob on files or programs (`xdp*`, `fw*/drop*`, `fw*/`, `/drop*`) or a condition on a column (`insns>1000`,
//! `verdict=failure`); with `!` before it, what fits is left out. A row is shown if it fits no filter with `!`, one of the globs
//! without it, if there are any, and one of the conditions, if there are any. Invariant: columns have veristat's names.

use std::cmp::Ordering;
use std::path::Path;

use anyhow::{Context, Result};

use crate::exit::usage;
use crate::input;

/// A column that rows have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Column {
    File,
    Prog,
    Verdict,
    Duration,
    Insns,
    States,
    PeakStates,
    MaxStates,
    Size,
}

impl Column {
    const NAMES: [(Self, &'static [&'static str]); 9] = [
        (Self::File, &["file_name", "filename", "file"]),
        (Self::Prog, &["prog_name", "progname", "prog"]),
        (Self::Verdict, &["verdict"]),
        (Self::Duration, &["duration", "dur"]),
        (Self::Insns, &["total_insns", "insns"]),
        (Self::States, &["total_states", "states"]),
        (Self::PeakStates, &["peak_states"]),
        (Self::MaxStates, &["max_states_per_insn"]),
        (Self::Size, &["prog_size", "size"]),
    ];

    fn find(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(column, _)| *column)
    }

    fn is_text(self) -> bool {
        matches!(self, Self::File | Self::Prog)
    }

    fn unknown<T>(name: &str) -> Result<T> {
        let known: Vec<&str> = Self::NAMES.iter().map(|(_, names)| names[names.len() - 1]).collect();
        usage(format!("no column {name:?}; there are {}", known.join(", ")))
    }
}

/// What filters and sorting ask of a row.
pub(crate) trait Fields {
    /// The file's name without its folders, or the program's.
    fn text(&self, column: Column) -> &str;
    /// A number; the verdict is 1 for success and 0 for anything else.
    fn number(&self, column: Column) -> u64;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// The operators, the longer ones first.
const RELATIONS: [(&str, Relation); 8] = [
    ("==", Relation::Eq),
    ("!=", Relation::Ne),
    ("<>", Relation::Ne),
    ("<=", Relation::Le),
    (">=", Relation::Ge),
    ("=", Relation::Eq),
    ("<", Relation::Lt),
    (">", Relation::Gt),
];

impl Relation {
    fn holds(self, a: u64, b: u64) -> bool {
        match self {
            Self::Eq => a == b,
            Self::Ne => a != b,
            Self::Lt => a < b,
            Self::Le => a <= b,
            Self::Gt => a > b,
            Self::Ge => a >= b,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    /// The file's or the program's name.
    Any(String),
    /// The file's and the program's name, each where there is one.
    Both(Option<String>, Option<String>),
    Number(Column, Relation, u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Filter {
    deny: bool,
    test: Test,
}

/// All filters of a command line.
#[derive(Clone, Default, Debug)]
pub(crate) struct Filters(Vec<Filter>);

impl Filters {
    /// From the arguments; `@FILE` stands for the lines of a file.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut filters = Vec::new();
        for word in words {
            let Some(path) = word.strip_prefix('@') else {
                filters.push(Filter::parse(word)?);
                continue;
            };
            let bytes = input::read_regular(Path::new(path), input::MAX_FILE)?;
            let text = String::from_utf8(bytes).with_context(|| format!("{path}: is not text"))?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                filters.push(Filter::parse(line)?);
            }
        }
        Ok(Self(filters))
    }

    /// Whether the program needs to be looked at.
    pub(crate) fn wants(&self, file: &str, prog: &str) -> bool {
        let fits = |filter: &Filter| filter.test.fits_names(file, prog);
        let mut globs = self.0.iter().filter(|f| !f.deny && !matches!(f.test, Test::Number(..))).peekable();
        let denied = self.0.iter().any(|f| f.deny && fits(f) == Some(true));
        !denied && (globs.peek().is_none() || globs.any(|f| fits(f) == Some(true)))
    }

    /// Whether the row is to be shown.
    pub(crate) fn shows(&self, row: &impl Fields) -> bool {
        let fits = |filter: &Filter| match filter.test {
            Test::Number(column, relation, value) => Some(relation.holds(row.number(column), value)),
            _ => None,
        };
        let mut conditions = self.0.iter().filter(|f| !f.deny).filter_map(fits).peekable();
        let denied = self.0.iter().filter(|f| f.deny).filter_map(fits).any(|fits| fits);
        !denied && (conditions.peek().is_none() || conditions.any(|fits| fits))
    }
}

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        let (deny, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        if rest.is_empty() {
            return usage(format!("filter {text:?} is empty"));
        }
        let first = rest.find(['=', '<', '>', '!']);
        let test = match first {
            Some(at) => {
                let (name, tail) = rest.split_at(at);
                let (name, relation) = (name.trim(), RELATIONS.iter().find(|(sign, _)| tail.starts_with(sign)));
                let Some((sign, relation)) = relation else { return usage(format!("filter {text:?}: no comparison")) };
                let Some(column) = Column::find(name) else { return Column::unknown(name) };
                if column.is_text() {
                    return usage(format!("filter {text:?}: names are filtered by globs, `{name}*`"));
                }
                Test::Number(column, *relation, value(column, tail[sign.len()..].trim(), text)?)
            }
            None => match rest.split_once('/') {
                None => Test::Any(rest.to_owned()),
                Some((file, prog)) => {
                    let part = |glob: &str| (!glob.is_empty()).then(|| glob.to_owned());
                    Test::Both(part(file), part(prog))
                }
            },
        };
        Ok(Self { deny, test })
    }
}

fn value(column: Column, text: &str, filter: &str) -> Result<u64> {
    let verdict = (column == Column::Verdict)
        .then(|| match text.to_ascii_lowercase().as_str() {
            "success" | "succ" | "s" | "true" | "t" => Some(1),
            "failure" | "fail" | "f" | "false" => Some(0),
            _ => None,
        })
        .flatten();
    match verdict.or_else(|| text.parse().ok()) {
        Some(number) => Ok(number),
        None => usage(format!("filter {filter:?}: {text:?} is no number")),
    }
}

impl Test {
    /// Whether the names fit; nothing for a condition on numbers.
    fn fits_names(&self, file: &str, prog: &str) -> Option<bool> {
        match self {
            Self::Any(glob) => Some(fits(glob, file) || fits(glob, prog)),
            Self::Both(f, p) => {
                Some(f.as_ref().is_none_or(|g| fits(g, file)) && p.as_ref().is_none_or(|g| fits(g, prog)))
            }
            Self::Number(..) => None,
        }
    }
}

/// Whether a glob of `*` and `?` fits the whole text. Linear but for the last star, to which it goes back.
fn fits(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    g = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

/// An order of rows: columns, each up or down.
#[derive(Clone, Default, Debug)]
pub(crate) struct Order(Vec<(Column, bool)>);

impl Order {
    /// From `insns,file^`: names and verdicts go up and numbers down, unless `^` (up) or `v` (down) follows.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut columns = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, up) = match word.strip_suffix(['^', '.']) {
                Some(name) if word.ends_with('^') => (name, Some(true)),
                Some(name) => (name, Some(false)),
                None => match word.strip_suffix('v').filter(|name| Column::find(name).is_some()) {
                    Some(name) => (name, Some(false)),
                    None => (word, None),
                },
            };
            let Some(column) = Column::find(name) else { return Column::unknown(name) };
            columns.push((column, up.unwrap_or(column.is_text() || column == Column::Verdict)));
        }
        Ok(Self(columns))
    }

    /// Sorts; rows that are equal stay in their order.
    pub(crate) fn sort<T: Fields>(&self, rows: &mut [T]) {
        rows.sort_by(|a, b| {
            let by = |&(column, up): &(Column, bool)| {
                let order = if column.is_text() {
                    a.text(column).cmp(b.text(column))
                } else {
                    a.number(column).cmp(&b.number(column))
                };
                if up { order } else { order.reverse() }
            };
            self.0.iter().map(by).find(|order| *order != Ordering::Equal).unwrap_or(Ordering::Equal)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(&'static str, &'static str, u64);

    impl Fields for Row {
        fn text(&self, column: Column) -> &str {
            if column == Column::File { self.0 } else { self.1 }
        }

        fn number(&self, column: Column) -> u64 {
            if column == Column::Verdict { u64::from(self.2 > 0) } else { self.2 }
        }
    }

    fn filters(words: &[&str]) -> Filters {
        Filters::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn globs() {
        assert!(fits("a*c", "abc") && fits("*", "") && fits("a?c", "abc") && fits("*b*", "aabbcc"));
        assert!(!fits("a*c", "abcd") && !fits("", "a") && !fits("a?", "a"));
        assert!(fits(&"*a".repeat(40), &"a".repeat(80)));
    }

    #[test]
    fn names_are_allowed_and_denied() {
        let f = filters(&["fw*", "!/drop_*"]);
        assert!(f.wants("fw.bpf.o", "main") && f.wants("other.bpf.o", "fw_main"));
        assert!(!f.wants("fw.bpf.o", "drop_all") && !f.wants("other.bpf.o", "main"));
        let f = filters(&["fw*/main", "lb.bpf.o/"]);
        assert!(f.wants("fw.bpf.o", "main") && f.wants("lb.bpf.o", "x") && !f.wants("fw.bpf.o", "x"));
        assert!(filters(&["insns>5"]).wants("any", "thing"));
    }

    #[test]
    fn conditions_on_columns() {
        let row = |n| Row("f", "p", n);
        let f = filters(&["insns>1000", "verdict=failure"]);
        assert!(f.shows(&row(1001)) && f.shows(&row(0)) && !f.shows(&row(1000)));
        assert!(!filters(&["!insns >= 10"]).shows(&row(10)));
        assert!(filters(&["total_insns<>3"]).shows(&row(4)));
        for wrong in ["insns>", "insns>x", "nothere=1", "!", "file=a"] {
            assert!(Filters::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn orders() {
        let mut rows = [Row("a", "x", 1), Row("b", "y", 3), Row("c", "x", 3)];
        let names = |rows: &[Row; 3]| rows.iter().map(|r| r.0).collect::<String>();
        Order::parse("insns").unwrap().sort(&mut rows);
        assert_eq!(names(&rows), "bca");
        Order::parse("insns^,prog").unwrap().sort(&mut rows);
        assert_eq!(names(&rows), "acb");
        Order::parse("filev").unwrap().sort(&mut rows);
        assert_eq!(names(&rows), "cba");
        assert!(Order::parse("nothere").is_err());
    }
}
