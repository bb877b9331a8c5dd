//! `skep verify -C OLD.csv NEW.csv`: what changed between two saved results, ours or veristat's.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::filter::Filters;
use crate::args::{Output, VerifyArgs};
use crate::exit::usage;
use crate::input;
use crate::output::{self, Align, Table};

/// The columns that are compared, where both files have them.
const NUMBERS: [&str; 5] = ["total_insns", "total_states", "peak_states", "prog_size", "duration"];

/// One program's row by column name.
type Fields = BTreeMap<String, String>;
/// Rows by file and program.
type Results = BTreeMap<(String, String), Fields>;

pub(super) fn run(args: &VerifyArgs, filters: &Filters, output: Output) -> Result<()> {
    let [old, new] = &args.objects[..] else { return usage("-C takes two CSV files: the old result and the new") };
    let (old, new) = (read(old)?, read(new)?);
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut rows = Vec::new();
    for key in keys.into_iter().filter(|(file, prog)| filters.wants(file, prog)) {
        rows.push((key, old.get(key), new.get(key)));
    }
    if output.is_json() {
        let list: Value = rows
            .iter()
            .map(|((file, prog), old, new)| json!({ "file": file, "prog": prog, "old": old, "new": new }))
            .collect();
        return output.print_json(&list);
    }
    let mut table = Table::new(&[
        ("File", Align::Left),
        ("Program", Align::Left),
        ("Verdict", Align::Left),
        ("Column", Align::Left),
        ("Old", Align::Right),
        ("New", Align::Right),
        ("Change", Align::Right),
    ]);
    for ((file, prog), old, new) in rows {
        let verdict = |fields: Option<&Fields>| {
            fields.and_then(|f| f.get("verdict")).map_or("(missing)", String::as_str).to_owned()
        };
        let (before, after) = (verdict(old), verdict(new));
        let verdict = if before == after { before } else { format!("{before} -> {after}") };
        for column in NUMBERS {
            let number = |fields: Option<&Fields>| fields.and_then(|f| f.get(column)?.parse::<i64>().ok());
            let (Some(a), Some(b)) = (number(old), number(new)) else { continue };
            let change = b.saturating_sub(a);
            let percent = if a == 0 { String::new() } else { format!(" ({:+.2}%)", ratio(change, a) * 100.0) };
            let cells = [file, prog, &verdict].map(Clone::clone).to_vec();
            let numbers = [column.to_owned(), a.to_string(), b.to_string(), format!("{change:+}{percent}")];
            table.row(cells.into_iter().chain(numbers).collect());
        }
        if old.is_none() || new.is_none() {
            table.row(vec![file.clone(), prog.clone(), verdict, "-".into(), "-".into(), "-".into(), "-".into()]);
        }
    }
    output::print(&table.render())
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn ratio(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

fn read(path: &Path) -> Result<Results> {
    let bytes = input::read_regular(path, input::MAX_FILE)?;
    let shown = path.display();
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{shown}: is not text"))?;
    let mut lines = text.lines();
    let heading: Vec<String> = split(lines.next().unwrap_or_default());
    for needed in ["file_name", "prog_name", "verdict"] {
        if !heading.iter().any(|h| h == needed) {
            bail!("{shown}: line 1 has no column {needed}; save results with `skep verify -o csv`");
        }
    }
    let mut results = Results::new();
    for (number, line) in lines.enumerate() {
        let cells = split(line);
        if cells.len() != heading.len() {
            bail!("{shown}: line {} has {} fields, the heading {}", number + 2, cells.len(), heading.len());
        }
        let fields: Fields = heading.iter().cloned().zip(cells).collect();
        let key = (fields["file_name"].clone(), fields["prog_name"].clone());
        results.insert(key, fields);
    }
    Ok(results)
}

/// The fields of a CSV line; a field in quotes may hold commas and doubled quotes.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => push(&mut fields, c),
        }
    }
    fields
}

fn push(fields: &mut [String], c: char) {
    if let Some(last) = fields.last_mut() {
        last.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields() {
        assert_eq!(split("a,b,"), ["a", "b", ""]);
        assert_eq!(split("\"a,\"\"b\",c"), ["a,\"b", "c"]);
    }
}
