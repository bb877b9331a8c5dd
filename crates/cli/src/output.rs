//! Results on standard output: JSON or aligned columns; colour where the user wants it.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use serde_json::Value;

use crate::args::{Color, Output};

impl Output {
    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json || self.pretty
    }

    /// Prints a JSON result.
    pub(crate) fn print_json(self, value: &Value) -> Result<()> {
        let text = if self.pretty { serde_json::to_string_pretty(value)? } else { value.to_string() };
        print(&format!("{text}\n"))
    }

    /// Whether standard output takes colour.
    pub(crate) fn colored(self) -> bool {
        self.colored_on(&std::io::stdout())
    }

    /// Whether standard error takes colour.
    pub(crate) fn colored_stderr(self) -> bool {
        self.colored_on(&std::io::stderr())
    }

    fn colored_on(self, stream: &impl IsTerminal) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

/// Writes to standard output; a closed pipe ends the process quietly, as `| head` expects.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, columns as wide as their widest cell.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Appends a row; it has as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines without trailing blanks.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count());
                cells.max().unwrap_or(0).max(self.columns[c].0.len())
            })
            .collect();
        let mut out = String::new();
        let heading = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("action", Align::Left), ("packets", Align::Right)]);
        table.row(vec!["XDP_PASS".into(), "7".into()]);
        table.row(vec!["XDP_DROP".into(), "12345678".into()]);
        assert_eq!(table.render(), "action     packets\nXDP_PASS         7\nXDP_DROP  12345678\n");
    }
}
