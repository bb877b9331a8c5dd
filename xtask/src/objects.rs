//! C sources to BPF objects: every folder with a `build.sh` beside `*.bpf.c` files is built into target/objects.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{command, output, root, run, step};

/// Folders whose `build.sh OUT` compiles their sources into `OUT`, and where the committed objects lie.
const FOLDERS: [&str; 9] = [
    "examples",
    "bench",
    "crates/capi/tests/c",
    "crates/object/tests/c",
    "crates/object/tests/c/link",
    "crates/skep/tests/data",
    "testing/c",
    "testing/objects",
    "testing/vectors/explain",
];

/// Builds all objects and returns the folder that holds them.
pub(crate) fn build() -> Result<PathBuf> {
    step("objects: clang-19");
    let target = target_folder();
    let base = target.join("objects");
    let (mut built, mut different) = (0, Vec::new());
    for folder in FOLDERS {
        let script = root().join(folder).join("build.sh");
        if !script.exists() {
            continue;
        }
        let out = base.join(folder.replace('/', "_"));
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        run(command("bash").arg(&script).arg(&out))?;
        for object in bpf_objects(&out)? {
            built += 1;
            let Some(name) = object.file_name() else { continue };
            let committed = root().join(folder).join(name);
            if std::fs::read(&committed).ok() != std::fs::read(&object).ok() {
                different.push(format!("{folder}/{}", name.to_string_lossy()));
            }
        }
    }
    eprintln!("objects: {built} built, {} equal to the committed ones byte for byte", built - different.len());
    for name in different {
        eprintln!("objects: {name} differs from what this clang makes of its source");
    }
    Ok(base)
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> PathBuf {
    output(crate::shell::cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))
        .ok()
        .and_then(|json| target_directory(&json))
        .unwrap_or_else(|| root().join("target"))
}

fn bpf_objects(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "o") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The value of `"target_directory"` in cargo's metadata.
fn target_directory(json: &str) -> Option<PathBuf> {
    let (_, rest) = json.split_once("\"target_directory\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(PathBuf::from(path))
}
