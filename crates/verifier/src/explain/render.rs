//! The explanation as text, plain or in colour.
//!
//! Owns its layout. Invariant: without colour the text holds no escape sequences, and nothing that the object's author wrote
//! (names, source lines) brings any in.

use std::fmt;

use super::{Cause, Explanation, Place};

/// Spaces that a tab of a source line becomes.
const TAB: &str = "    ";

/// Text in colour, or not.
#[derive(Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
}

/// Control characters of names and lines, made harmless; tabs become spaces.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect::<String>().replace('\t', TAB)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Explanation {
    /// The text, each line ended; in colour for a terminal.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { on: color };
        let mut out = String::new();
        let head = format!("Verification failed: {}: {}", self.category.name(), clean(&self.title));
        line(&mut out, &paint.red(&head));
        line(&mut out, &format!("{} {}", paint.bold("Reason:"), clean(&self.reason)));
        if let Some(at) = &self.at {
            self.render_place(&mut out, at, paint);
        }
        if !self.path.is_empty() {
            line(&mut out, &paint.bold("Causal path:"));
            if self.path_cut {
                line(&mut out, &paint.dim("  (the path is long; its beginning was not kept)"));
            }
            let mut last = None;
            for cause in &self.path {
                let line = cause.place.source.as_ref().map(|s| (&s.file, s.line));
                render_cause(&mut out, cause, line.is_some() && line == last, paint);
                last = line;
            }
        }
        line(&mut out, &format!("{} {}", paint.green("Suggestion:"), clean(&self.suggestion)));
        out
    }

    fn render_place(&self, out: &mut String, at: &Place, paint: Paint) {
        let function = clean(&at.function);
        let Some(source) = &at.source else {
            line(out, &format!("{} {function}, instruction {}", paint.bold("At:"), at.insn.0));
            return line(out, &format!("  {} {}", paint.dim("in code:"), clean(&at.instruction)));
        };
        let column = if source.column > 0 { format!(":{}", source.column) } else { String::new() };
        let file = clean(source.file_name());
        line(out, &format!("{} {function}, {file}:{}{column}", paint.bold("At:"), source.line));
        let width = source.line.saturating_add(2).to_string().len();
        let others = |out: &mut String, before: bool| {
            for (number, text) in self.around.iter().filter(|(n, _)| (*n < source.line) == before) {
                line(out, paint.dim(&format!("    {number:>width$} | {}", clean(text))).trim_end());
            }
        };
        others(out, true);
        line(out, &format!("{} {:>width$} | {}", paint.red("  >"), source.line, clean(&source.text)));
        if let Some(indent) = usize::try_from(source.column).ok().and_then(|c| c.checked_sub(1)) {
            let before: String = source.text.chars().take(indent).collect();
            let pad = " ".repeat(clean(&before).chars().count());
            line(out, &format!("    {:>width$} | {pad}{}", "", paint.red("^")));
        }
        others(out, false);
        let code = format!("instruction {}: {}", at.insn.0, clean(&at.instruction));
        line(out, &format!("    {}", paint.dim(&code)));
    }
}

/// A step; `again` where its line was just shown.
fn render_cause(out: &mut String, cause: &Cause, again: bool, paint: Paint) {
    let times = if cause.times > 1 { format!(" ({} times on this path)", cause.times) } else { String::new() };
    if !again {
        match &cause.place.source {
            Some(source) => {
                let text = clean(source.text.trim());
                line(out, &format!("  line {}: {}", source.line, paint.dim(&text)));
            }
            None => {
                let text = format!("instruction {}: {}", cause.place.insn.0, clean(&cause.place.instruction));
                line(out, &format!("  {}", paint.dim(&text)));
            }
        }
    }
    line(out, &format!("    - {}{times}", clean(&cause.what)));
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
