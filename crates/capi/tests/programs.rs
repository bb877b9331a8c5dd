//! C programs of `tests/c` against the shared and the static library, in C and C++, with every compiler there is; and what
//! is not libskep's own against libbpf and the running kernel, which print the same.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::{Link, build, compilers, has_libbpf, here, lib_dir, output, run};
use skep_testing::kernel;

/// A C++ compiler with -Wextra wants every field of LIBBPF_OPTS, as it does with libbpf's.
fn options((_, language): common::Compiler) -> &'static [&'static str] {
    if language == "c" { &[] } else { &["-Wno-missing-field-initializers"] }
}

fn source(name: &str) -> std::path::PathBuf {
    here().join("tests/c").join(format!("{name}.c"))
}

#[test]
fn objects() {
    let scratch = tempfile::tempdir().unwrap();
    for compiler in compilers() {
        // Both libraries with C compilers, the shared one with all.
        let links: &[Link] = if compiler.1 == "c" { &[Link::Shared, Link::Static] } else { &[Link::Shared] };
        for &link in links {
            let program = build(scratch.path(), &source("objects"), compiler, link, options(compiler));
            assert_eq!(run(&program, &[]), "ok\n", "{compiler:?} {link:?}");
        }
    }
}

#[test]
fn kinds() {
    let scratch = tempfile::tempdir().unwrap();
    for compiler in compilers() {
        let program = build(scratch.path(), &source("kinds"), compiler, Link::Shared, options(compiler));
        assert_eq!(run(&program, &[]), "ok\n", "{compiler:?}");
    }
}

#[test]
fn a_program_without_choices_runs_as_the_environment_says() {
    let scratch = tempfile::tempdir().unwrap();
    let program = build(scratch.path(), &source("maps"), compilers()[0], Link::Shared, &[]);
    let with = |env: &[(&str, &str)]| {
        let out = output(&program, &[], env);
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let plain = with(&[]);
    assert_eq!(plain.0, Some(0));
    assert_eq!(with(&[("SKEP_MODE", "interp"), ("SKEP_VCPUS", "5")]), plain);
    // An engine that does not start makes every map -EINVAL.
    assert!(with(&[("SKEP_MODE", "fast")]).1.starts_with("map hash: -22\n"));
    assert!(with(&[("SKEP_VCPUS", "none")]).1.starts_with("map hash: -22\n"));
}

/// The same text from libskep in both modes, from libbpf on the kernel, and from the program that was linked with libbpf
/// while libskep is loaded before it.
fn is_as_with_libbpf(name: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let ours = build(scratch.path(), &source(name), compilers()[0], Link::Shared, &[]);
    let text = run(&ours, &[]);
    assert!(text.lines().count() > 20, "{text}");
    let interpreted = output(&ours, &[], &[("SKEP_MODE", "interp")]);
    assert_eq!(String::from_utf8(interpreted.stdout).unwrap(), text);
    if !has_libbpf() {
        return;
    }
    let theirs = build(scratch.path(), &source(name), compilers()[0], Link::Libbpf, &[]);
    let preload = lib_dir(scratch.path()).join("libskep.so");
    assert_eq!(preloaded(&theirs, &preload), text, "libbpf's program with libskep loaded first");
    if kernel::require(&format!("libskep: {name}")) {
        assert_eq!(run(&theirs, &[]), text, "libbpf's program on the kernel");
    }
}

fn preloaded(program: &Path, library: &Path) -> String {
    let out = output(program, &[], &[("LD_PRELOAD", library.to_str().unwrap())]);
    assert!(out.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn maps_are_as_with_libbpf() {
    is_as_with_libbpf("maps");
}

#[test]
fn runs_are_as_with_libbpf() {
    is_as_with_libbpf("runs");
}

/// The text of each block of this kind in a document.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let start = format!("\n```{kind}\n");
    text.split(start.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn the_documents_programs_say_what_the_document_says() {
    let text = std::fs::read_to_string(common::root().join("docs/c-api.md")).unwrap();
    let [program, light] = blocks(&text, "c")[..] else { unreachable!("two programs") };
    let sessions = blocks(&text, "console").join("\n");
    let shown = |command: &str| {
        let after = sessions.split(command).nth(1).unwrap();
        after.split("\n$ ").next().unwrap().trim_start_matches('\n').to_owned() + "\n"
    };

    let scratch = tempfile::tempdir().unwrap();
    let file = "percpu_counters.bpf.o";
    let elf = std::fs::read(common::root().join("examples").join(file)).unwrap();
    let spec = skep_object::parse(&elf, file).unwrap();
    let options = skep_skel::COptions { define_types: true };
    let skeleton = skep_skel::c_skeleton(&spec, &elf, &skep_skel::object_ident(file), &options).unwrap();
    std::fs::write(scratch.path().join("counters.skel.h"), skeleton).unwrap();
    let skeleton = skep_skel::c_light_skeleton(&spec, &skep_skel::object_ident(file), &options).unwrap();
    std::fs::write(scratch.path().join("counters.lskel.h"), skeleton).unwrap();
    for (name, program, command) in
        [("counters.c", program, "$ SKEP_VCPUS=2 ./counters"), ("light.c", light, "$ ./light")]
    {
        let source = scratch.path().join(name);
        std::fs::write(&source, program).unwrap();
        for compiler in compilers().into_iter().filter(|(_, language)| *language == "c") {
            let built = build(scratch.path(), &source, compiler, Link::Shared, &[]);
            let out = output(&built, &[], &[("SKEP_VCPUS", "2")]);
            assert_eq!(String::from_utf8(out.stdout).unwrap(), shown(command), "{name} {compiler:?}");
        }
    }
}
