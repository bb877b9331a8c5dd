//! Generators give the same bytes for the same input: in another process, and for a file that lies elsewhere.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `skep gen`, before the object.
const GENERATORS: [&[&str]; 6] = [
    &["skeleton", "--types"],
    &["skeleton", "--lang", "rust"],
    &["skeleton", "-L", "--types"],
    &["skeleton", "-L", "--lang", "rust"],
    &["subskeleton", "--types"],
    &["subskeleton", "--lang", "rust"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The examples, the object with variables in every section, and the halves of a linked one.
fn objects() -> Vec<PathBuf> {
    let examples = std::fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = examples.filter(|path| path.to_string_lossy().ends_with(".bpf.o")).collect();
    assert!(all.len() > 5);
    all.extend(
        ["data", "link/main", "link/lib"].map(|name| root().join(format!("crates/object/tests/c/{name}.bpf.o"))),
    );
    all
}

/// What `skep gen` does in a folder: exit status, standard output, and messages.
fn generate(folder: &Path, args: &[&str]) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let out = Command::new(env!("CARGO_BIN_EXE_skep")).current_dir(folder).arg("gen").args(args).output().unwrap();
    (out.status.code(), out.stdout, out.stderr)
}

#[test]
fn source_code_is_the_same() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut written = 0;
    for object in objects() {
        let name = object.file_name().unwrap().to_string_lossy();
        std::fs::copy(&object, elsewhere.path().join(&*name)).unwrap();
        for generator in GENERATORS {
            let what = format!("gen {} {name}", generator.join(" "));
            let args = [generator, &[&*name]].concat();
            let first = generate(object.parent().unwrap(), &args);
            for folder in [object.parent().unwrap(), elsewhere.path()] {
                assert!(generate(folder, &args) == first, "{what} is not the same in {}", folder.display());
            }
            // Some objects have no light skeleton; which, other tests say.
            written += usize::from(first.0 == Some(0) && !first.1.is_empty());
        }
    }
    assert!(written > 50, "{written}");
}

#[test]
fn a_linked_object_is_the_same() {
    let link = root().join("crates/object/tests/c/link");
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["main.bpf.o", "lib.bpf.o"] {
        std::fs::copy(link.join(name), elsewhere.path().join(name)).unwrap();
    }
    let results = [(link.as_path(), "a.o"), (link.as_path(), "b.o"), (elsewhere.path(), "c.o")].map(|(folder, out)| {
        let out = elsewhere.path().join(out);
        let made = generate(folder, &["object", out.to_str().unwrap(), "main.bpf.o", "lib.bpf.o"]);
        assert_eq!(made.0, Some(0), "{}", String::from_utf8_lossy(&made.2));
        std::fs::read(out).unwrap()
    });
    assert!(!results[0].is_empty());
    assert!(results[0] == results[1], "the same files, linked again");
    assert!(results[0] == results[2], "the same files elsewhere");
}
