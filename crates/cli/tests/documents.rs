//! Every `skep` command line that a document shows is run, from the repository's root.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Documents with console sessions.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The arguments of each `$ skep …` (or the same through cargo) in ```console blocks, before any pipe or redirection.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut in_console = false;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            in_console = kind == "console";
            continue;
        }
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_console) else { continue };
        let rest = command.strip_prefix("skep ").or_else(|| command.strip_prefix("cargo run --release --bin skep -- "));
        let Some(rest) = rest else { continue };
        let end = rest.find(['|', '>', '#']).unwrap_or(rest.len());
        commands.push(rest[..end].split_whitespace().map(str::to_owned).collect());
    }
    commands
}

#[test]
fn every_command_in_the_documents_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    documents(&root, &mut files);
    let mut ran = 0;
    for file in files {
        for mut arguments in commands(&std::fs::read_to_string(&file).unwrap()) {
            // Measurements take long: it is enough that the command is understood.
            if arguments.first().is_some_and(|verb| verb == "bench") {
                arguments.push("--help".to_owned());
            }
            let output = Command::new(env!("CARGO_BIN_EXE_skep")).current_dir(&root).args(&arguments).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: skep {}: {errors}", file.display(), arguments.join(" "));
            ran += 1;
        }
    }
    assert!(ran >= 8, "only {ran} commands");
}
