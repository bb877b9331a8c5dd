//! Generated C skeletons: of every example, compiled without a warning by every compiler as C and C++, and used.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Compiler, Link, build, compilers, has_libbpf, here, lib_dir, output, root, run};
use skep_object::{LinkInput, link_objects};
use skep_skel::{COptions, Error, c_light_skeleton, c_skeleton, c_subskeleton, object_ident};
use skep_testing::kernel;

/// Each example, what is done before load, what is said at the end, and whether a kernel loads it.
const EXAMPLES: [(&str, &str, &str, bool); 8] = [
    ("percpu_counters", "skel->percpu->hits = 40", "printf(\"hits %d\\n\", skel->percpu->hits)", false),
    (
        "request_filter",
        "bpf_program__set_autoload(skel->progs.filter, false)",
        "printf(\"%d\\n\", (int)skel->rodata->requests_per_client)",
        false,
    ),
    ("socket_dns", "", "", true),
    (
        "tc_flows",
        "skel->rodata->heavy_packets = 2",
        "printf(\"skipped %d\\n\", (int)skel->bss->skipped); skel->bss->skipped = 5",
        true,
    ),
    ("xdp_dispatch", "", "", true),
    ("xdp_dispatch_stages", "", "", true),
    ("xdp_firewall", "skel->rodata->drop_fragments = 0", "printf(\"%d\\n\", skel->rodata->drop_fragments)", true),
    ("xdp_load_balancer", "skel->rodata->n_backends = 2", "", true),
];

/// Writes the skeleton of an object beside the programs that include it; its name and prefix.
fn write_skeleton(scratch: &Path, object: &Path) -> (String, String) {
    write_skeleton_of(scratch, &std::fs::read(object).unwrap(), &object.file_name().unwrap().to_string_lossy())
}

fn write_skeleton_of(scratch: &Path, elf: &[u8], file: &str) -> (String, String) {
    let spec = skep_object::parse(elf, file).unwrap();
    let prefix = object_ident(file);
    let options = COptions { define_types: true };
    let text = c_skeleton(&spec, elf, &prefix, &options).unwrap();
    assert_eq!(text, c_skeleton(&spec, elf, &prefix, &options).unwrap(), "the same bytes for the same object");
    let header = format!("{}.skel.h", file.strip_suffix(".bpf.o").unwrap());
    std::fs::write(scratch.join(&header), text).unwrap();
    (header, prefix)
}

/// Captures over which the examples run.
fn captures() -> Vec<String> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root().join("examples/pcaps")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    found.sort();
    assert!(!found.is_empty());
    found.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

fn example(scratch: &Path, index: usize, compiler: Compiler, link: Link) -> PathBuf {
    let (name, setup, report, _) = EXAMPLES[index];
    let (header, prefix) = write_skeleton(scratch, &root().join(format!("examples/{name}.bpf.o")));
    let defines = [
        format!("-DSKELETON=\"{header}\""),
        format!("-DPREFIX={prefix}"),
        format!("-DSETUP={setup}"),
        format!("-DREPORT={report}"),
    ];
    let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
    let program = build(scratch, &here().join("tests/c/example.c"), compiler, link, &defines);
    let kept = scratch.join(format!("{name}-{}-{link:?}", compiler.0));
    std::fs::rename(program, &kept).unwrap();
    kept
}

#[test]
fn every_example_is_used_through_its_skeleton() {
    let committed = std::fs::read_dir(root().join("examples")).unwrap();
    let objects = committed.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".bpf.o"));
    assert_eq!(objects.count(), EXAMPLES.len(), "each example is in the list");
    let scratch = tempfile::tempdir().unwrap();
    let captures = captures();
    let captures: Vec<&str> = captures.iter().map(String::as_str).collect();
    for (index, (name, ..)) in EXAMPLES.iter().enumerate() {
        let mut first = None;
        for compiler in compilers() {
            let text = run(&example(scratch.path(), index, compiler, Link::Shared), &captures);
            assert!(text.contains("map "), "{name}: {text}");
            // Every compiler's program says the same.
            assert_eq!(*first.get_or_insert_with(|| text.clone()), text, "{name} {compiler:?}");
        }
    }
}

#[test]
fn skeletons_do_on_libskep_what_they_do_on_the_kernel() {
    if !has_libbpf() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let captures = captures();
    let captures: Vec<&str> = captures.iter().map(String::as_str).collect();
    let library = lib_dir(scratch.path()).join("libskep.so");
    for (index, (name, _, _, loads)) in EXAMPLES.iter().enumerate().filter(|(_, example)| example.3) {
        assert!(loads);
        let text = run(&example(scratch.path(), index, compilers()[0], Link::Shared), &captures);
        let theirs = example(scratch.path(), index, compilers()[0], Link::Libbpf);
        let preloaded = output(&theirs, &captures, &[("LD_PRELOAD", library.to_str().unwrap())]);
        assert_eq!(String::from_utf8(preloaded.stdout).unwrap(), text, "{name}, libskep loaded before libbpf");
        if kernel::require(&format!("libskep: skeleton of {name}")) {
            assert_eq!(run(&theirs, &captures), text, "{name}, libbpf and the kernel");
        }
    }
}

/// Builds a program of `tests/c` with every compiler, and runs it.
fn is_ok(scratch: &Path, source: &str) {
    let include = format!("-I{}", here().join("tests/c").display());
    let source = here().join("tests/c").join(source);
    for compiler in compilers() {
        let program = build(scratch, &source, compiler, Link::Shared, &[&include]);
        assert_eq!(run(&program, &[]), "ok\n", "{compiler:?}");
    }
}

#[test]
fn per_cpu_variables_of_each_cpu() {
    let scratch = tempfile::tempdir().unwrap();
    write_skeleton(scratch.path(), &root().join("crates/object/tests/c/data.bpf.o"));
    is_ok(scratch.path(), "percpu.c");
}

#[test]
fn a_library_through_its_subskeleton() {
    let scratch = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(root().join(format!("crates/object/tests/c/link/{name}.bpf.o"))).unwrap();
    let (main, lib) = (read("main"), read("lib"));
    let inputs = [LinkInput { name: "main", bytes: &main }, LinkInput { name: "lib", bytes: &lib }];
    write_skeleton_of(scratch.path(), &link_objects(&inputs).unwrap(), "all.bpf.o");
    // The types are the whole skeleton's.
    let spec = skep_object::parse(&lib, "lib.bpf.o").unwrap();
    let text = c_subskeleton(&spec, "lib_bpf", &COptions::default()).unwrap();
    std::fs::write(scratch.path().join("lib.subskel.h"), text).unwrap();
    is_ok(scratch.path(), "subskeleton.c");
}

#[test]
fn iterators_and_extensions_attach_in_the_process() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["map_iter", "policy", "policy_strict"] {
        write_skeleton(scratch.path(), &root().join(format!("crates/skep/tests/data/{name}.bpf.o")));
    }
    is_ok(scratch.path(), "links.c");
}

/// Writes the light skeleton of an object; its name and prefix, or why there is none.
fn write_light_skeleton(scratch: &Path, object: &Path) -> Result<(String, String), Error> {
    let file = object.file_name().unwrap().to_string_lossy().into_owned();
    let spec = skep_object::parse(&std::fs::read(object).unwrap(), &file).unwrap();
    let prefix = object_ident(&file);
    let text = c_light_skeleton(&spec, &prefix, &COptions { define_types: true })?;
    let header = format!("{}.lskel.h", file.strip_suffix(".bpf.o").unwrap());
    std::fs::write(scratch.join(&header), text).unwrap();
    Ok((header, prefix))
}

#[test]
fn a_light_skeleton_does_what_the_skeleton_does() {
    let scratch = tempfile::tempdir().unwrap();
    write_light_skeleton(scratch.path(), &root().join("crates/object/tests/c/data.bpf.o")).unwrap();
    is_ok(scratch.path(), "light.c");
}

#[test]
fn every_example_loads_through_its_light_skeleton() {
    let scratch = tempfile::tempdir().unwrap();
    let mut loaded = 0;
    for (name, ..) in EXAMPLES {
        let object = root().join(format!("examples/{name}.bpf.o"));
        let (header, prefix) = match write_light_skeleton(scratch.path(), &object) {
            Ok(written) => written,
            Err(error) => {
                // In a section of an embedder's own, which bpf(2) has no word for.
                assert_eq!(name, "request_filter", "{error}");
                continue;
            }
        };
        let include = format!("-I{}", here().join("tests/c").display());
        let defines = [format!("-DSKELETON=\"{header}\""), format!("-DPREFIX={prefix}"), include];
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let source = here().join("tests/c/light_example.c");
        let mut first = None;
        for compiler in compilers() {
            let text = run(&build(scratch.path(), &source, compiler, Link::Shared, &defines), &[]);
            assert!(text.contains("program ") && text.contains("map "), "{name}: {text}");
            assert_eq!(*first.get_or_insert_with(|| text.clone()), text, "{name} {compiler:?}");
        }
        loaded += 1;
    }
    assert_eq!(loaded, EXAMPLES.len() - 1);
}
