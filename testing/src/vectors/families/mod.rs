//! Generators of the systematic ISA vectors: every operation over edge values and register pairs.
//!
//! Owns files whose names start with `gen_`: a test fails when a committed file is not what the generator writes, and
//! `BLESS=families` writes them. Expected values come from [`model`], plain Rust arithmetic, never from an engine.

mod alu;
mod atomic;
mod jump;
mod memory;
pub mod model;
mod undefined;

use std::fmt::Write as _;

/// The generated files, by stem.
#[must_use]
pub fn generate() -> Vec<(String, String)> {
    let mut files = Vec::new();
    alu::generate(&mut files);
    jump::generate(&mut files);
    memory::generate(&mut files);
    atomic::generate(&mut files);
    undefined::generate(&mut files);
    files
}

/// A file in the making.
struct File {
    stem: String,
    text: String,
}

impl File {
    fn new(stem: &str, about: &str) -> Self {
        let text = format!("# {about}\n# Written by testing/src/vectors/families; `BLESS=families` rewrites it.\n");
        Self { stem: format!("gen_{stem}"), text }
    }

    /// Adds a case: memory words, program, r0.
    fn case(&mut self, name: &str, input: &[u64], program: &str, r0: u64) {
        let _ = writeln!(self.text, "\n== {name}");
        if !input.is_empty() {
            let words: Vec<String> = input.iter().map(|word| format!("{word:#x}")).collect();
            let _ = writeln!(self.text, "-- in u64 {}", words.join(" "));
        }
        let _ = writeln!(self.text, "{}\n-- r0 {r0:#x}", program.trim_end());
    }

    /// Adds what the memory must be afterwards to the last case.
    fn out(&mut self, words: &[u64]) {
        let words: Vec<String> = words.iter().map(|word| format!("{word:#x}")).collect();
        let _ = writeln!(self.text, "-- out u64 {}", words.join(" "));
    }

    /// Adds a case that is refused.
    fn refused(&mut self, name: &str, program: &str, message: &str) {
        let _ = writeln!(self.text, "\n== {name}\n{}\n-- refused {message}", program.trim_end());
    }

    fn into_pair(self) -> (String, String) {
        (self.stem, self.text)
    }
}

/// Loads of two registers from the memory behind r1, in an order that does not lose r1.
fn load_pair(dst: u8, src: u8) -> String {
    let dst_line = format!("r{dst} = *(u64 *)(r1 +0)\n");
    if dst == src {
        return dst_line;
    }
    let src_line = format!("r{src} = *(u64 *)(r1 +8)\n");
    if src == 1 { dst_line + &src_line } else { src_line + &dst_line }
}
