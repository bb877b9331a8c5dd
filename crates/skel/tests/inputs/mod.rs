//! The committed objects, and the compilers that take generated headers.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Compilers, and the language that each is told.
pub(crate) const COMPILERS: [(&str, &str); 4] =
    [("gcc", "c"), ("clang-19", "c"), ("g++", "c++"), ("clang++-19", "c++")];

/// Every committed object, by the name of its file.
pub(crate) fn objects() -> Vec<(String, Vec<u8>)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut out = Vec::new();
    for folder in ["examples", "crates/object/tests/c"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".bpf.o") {
                out.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    out.sort();
    assert!(out.len() > 10);
    out
}

/// Whether a source compiles without a warning, and what the compiler says; `None` without that compiler.
pub(crate) fn compile((compiler, language): (&str, &str), source: &str) -> Option<(bool, String)> {
    let mut child = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", language, "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    Some((out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()))
}
