//! The builder for build scripts.

use skep_skel::{BuildError, Builder};

fn fixture(name: &str) -> String {
    format!("{}/../object/tests/c/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn an_object_gives_the_committed_skeleton() {
    let folder = tempfile::tempdir().unwrap();
    let path = Builder::from_object(fixture("data.bpf.o")).write_to("data_bpf", folder.path()).unwrap();
    assert_eq!(path, folder.path().join("data_bpf.skel.rs"));
    let committed = format!("{}/tests/generated/data.inc", env!("CARGO_MANIFEST_DIR"));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(committed).unwrap());
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    Builder::from_object(fixture("data.bpf.o")).write_to("data_bpf", folder.path()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before, "written again without need");
}

#[test]
fn a_source_is_compiled_first() {
    if std::process::Command::new("clang-19").arg("--version").output().is_err() {
        eprintln!("skipped: clang-19 is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder = Builder::from_source(fixture("data.bpf.c")).clang("clang-19");
    let path = builder.write_to("data", folder.path()).unwrap();
    assert!(std::fs::read_to_string(path).unwrap().contains("pub mod data {"));
    let refused = builder.clang_args(["-include", "/nowhere.h"]).write_to("data", folder.path()).unwrap_err();
    assert!(matches!(&refused, BuildError::Compile { messages, .. } if messages.contains("nowhere.h")), "{refused}");
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Builder::from_object("/nowhere.bpf.o").write_to("x", folder.path()).unwrap_err();
    assert!(error.to_string().contains("/nowhere.bpf.o"));
    let error = Builder::from_source("x.bpf.c").clang("no-such-clang").write_to("x", folder.path()).unwrap_err();
    assert!(matches!(&error, BuildError::NoCompiler { compiler, .. } if compiler == "no-such-clang"));
    let error = Builder::from_object(fixture("data.bpf.c")).write_to("x", folder.path()).unwrap_err();
    assert!(matches!(error, BuildError::Skeleton { .. }));
}
