//! What no compiler checks: sizes of files, module docs, paths named in documents, words that must not be left behind.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::{command, output, root};

/// Lines that a source file may have. Tables are data and may be longer.
const MAX_LINES: usize = 1000;
/// Crates whose code is safe by compiler's word.
const NO_UNSAFE: [&str; 7] = ["abi", "btf", "object", "verifier", "jit", "skel", "cli"];

pub(crate) fn run() -> Result<()> {
    let listing = output(command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let files: Vec<&str> = listing.lines().filter(|f| root().join(f).is_file()).collect();
    let mut faults = Vec::new();
    for file in files.iter().filter(|f| f.ends_with(".rs")) {
        check_source(file, &read(file), &mut faults);
    }
    for file in files.iter().filter(|f| f.ends_with(".md")) {
        check_paths(file, &read(file), &mut faults);
    }
    for name in NO_UNSAFE {
        for entry in ["lib.rs", "main.rs"] {
            let file = format!("crates/{name}/src/{entry}");
            if root().join(&file).exists() && !read(&file).contains("#![forbid(unsafe_code)]") {
                faults.push(format!("{file}: does not forbid unsafe code"));
            }
        }
    }
    check_architecture(&mut faults)?;
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if !faults.is_empty() {
        bail!("tidy: {} faults", faults.len());
    }
    eprintln!("tidy: {} files, no faults", files.len());
    Ok(())
}

fn read(file: &str) -> String {
    std::fs::read(root().join(file)).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

fn check_source(file: &str, text: &str, faults: &mut Vec<String>) {
    let lines = text.lines().count();
    let is_table = Path::new(file).file_stem().is_some_and(|s| s.to_string_lossy().contains("table"));
    if lines > MAX_LINES && !is_table {
        faults.push(format!("{file}: {lines} lines, more than {MAX_LINES}: which second story is in it?"));
    }
    if !text.starts_with("//!") {
        faults.push(format!("{file}: has no module doc"));
    }
    // Spelt in two parts, so that this file does not find itself.
    for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimpl", "emented!("), concat!("#[ig", "nore")] {
        if let Some(line) = text.lines().position(|l| l.contains(word)) {
            faults.push(format!("{file}:{}: contains {word}", line + 1));
        }
    }
    let allows = [concat!("#[al", "low("), concat!("#![al", "low(")];
    for (number, line) in text.lines().enumerate() {
        let bare = allows.iter().any(|word| line.trim_start().starts_with(word));
        if bare && !text.lines().skip(number).take(6).any(|l| l.contains("reason")) {
            faults.push(format!("{file}:{}: allow without a reason", number + 1));
        }
    }
}

/// Each path of this repository that a document names exists.
fn check_paths(file: &str, text: &str, faults: &mut Vec<String>) {
    const TOPS: [&str; 7] = ["crates/", "docs/", "examples/", "testing/", "fuzz/", "bench/", "xtask/"];
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    for (number, line) in text.lines().enumerate() {
        for word in line.split(|c| !is_path(c)) {
            let path = word.trim_end_matches(['.', ',', '/']);
            if TOPS.iter().any(|top| path.starts_with(top)) && !root().join(path).exists() {
                faults.push(format!("{file}:{}: names {path}, which does not exist", number + 1));
            }
        }
    }
}

/// ARCHITECTURE.md names every crate.
fn check_architecture(faults: &mut Vec<String>) -> Result<()> {
    let text = read("ARCHITECTURE.md");
    for entry in std::fs::read_dir(root().join("crates"))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !text.contains(&format!("crates/{name}")) {
            faults.push(format!("ARCHITECTURE.md does not mention crates/{name}"));
        }
    }
    Ok(())
}
