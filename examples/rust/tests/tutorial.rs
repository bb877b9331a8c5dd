//! docs/tutorial-percpu.md: each command is run, what it shows is what comes out, and its code is the code that is here.
//! (The `skep` commands are run by crate `skep-cli` too, whose test does it for all documents; their output is compared here
//! when the command is built.)

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tutorial() -> String {
    std::fs::read_to_string(root().join("docs/tutorial-percpu.md")).unwrap()
}

/// The blocks of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Each command of the sessions with the lines shown under it.
fn commands(text: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let mut out: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for line in blocks(text, "console").iter().flat_map(|block| block.lines()) {
        match line.strip_prefix("$ ") {
            Some(command) => out.push((command.split_whitespace().map(str::to_owned).collect(), Vec::new())),
            None => out.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    out
}

/// The program behind the first word; `None` where it is not on this machine.
fn program(words: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let found = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    match words[0].as_str() {
        "cargo" => {
            assert_eq!(words[1..], ["run", "-p", "skep-examples", "--bin", "percpu_counters"]);
            Some((env!("CARGO_BIN_EXE_percpu_counters").into(), Vec::new()))
        }
        "skep" => {
            let beside = Path::new(env!("CARGO_BIN_EXE_percpu_counters")).with_file_name("skep");
            beside.exists().then(|| (beside, words[1..].to_vec()))
        }
        "clang-19" => found("clang-19").then(|| {
            let arguments = words[1..].iter().map(|word| match word.strip_prefix("target/") {
                // Wherever the build's own folder is.
                Some(file) => std::env::temp_dir().join(file).to_string_lossy().into_owned(),
                None => word.clone(),
            });
            ("clang-19".into(), arguments.collect())
        }),
        other => panic!("{other} is no command that this test knows"),
    }
}

#[test]
fn each_command_runs_and_prints_what_is_shown() {
    let mut ran = 0;
    for (words, shown) in commands(&tutorial()) {
        let Some((path, arguments)) = program(&words) else {
            eprintln!("skipped, not on this machine: {}", words.join(" "));
            continue;
        };
        let output = Command::new(path).current_dir(root()).args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", words.join(" "));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        for line in &shown {
            assert!(
                lines.any(|have| have.starts_with(line.as_str())),
                "{}: no line {line:?} in\n{text}",
                words.join(" ")
            );
        }
        ran += 1;
    }
    assert!(ran >= 1, "only {ran} commands");
}

#[test]
fn the_code_is_the_code_that_is_here() {
    let text = tutorial();
    let source = include_str!("../../percpu_counters/percpu_counters.bpf.c");
    for block in blocks(&text, "c") {
        assert!(source.contains(&block), "percpu_counters.bpf.c has not\n{block}");
    }
    let rust = blocks(&text, "rust");
    let program = include_str!("../src/bin/percpu_counters.rs");
    assert!(
        rust.iter().any(|block| program.ends_with(block) && block.contains("fn main()")),
        "the program has changed"
    );
    assert!(rust.iter().any(|block| include_str!("../src/lib.rs").contains(block.as_str())));
}

#[test]
fn a_build_script_can_begin_with_the_source() {
    let clang = Command::new("clang-19").arg("--version").output();
    if !clang.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: no clang-19");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("examples/percpu_counters/percpu_counters.bpf.c");
    let builder = skep_skel::Builder::from_source(source).clang("clang-19");
    let path = builder.write_to("percpu_counters", folder.path()).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("pub mod percpu_counters {") && text.contains("pub fn percpu_initial(&self) -> &Percpu"));
}

/// What the tutorial says of older kernels is what their rules say.
#[test]
fn an_older_kernel_refuses_the_program() {
    let object = skep::Object::open(root().join("examples/percpu_counters.bpf.o")).unwrap();
    let shapes = object.shapes().unwrap();
    let options = skep_verifier::Options { profile: skep_verifier::Profile::linux_6_18(), ..Default::default() };
    let refused = object.verify(0, &shapes, &options).unwrap().verdict.unwrap_err();
    assert!(tutorial().contains(&refused.message), "{}", refused.message);
    let options = skep_verifier::Options { profile: skep_verifier::Profile::linux_7_3(), ..options };
    assert!(object.verify(0, &shapes, &options).unwrap().verdict.is_ok());
}
