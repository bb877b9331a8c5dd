//! The header against the library, and against libbpf's header: names, prototypes, sizes, offsets.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use common::{Link, build, compilers, has_libbpf, here, lib_dir, run};
use skep_abi::info::{MapInfo, ProgInfo};
use skep_capi::batch::BatchOpts;
use skep_capi::engine::SkepOpts;
use skep_capi::info::MapCreateOpts;
use skep_capi::link::IterAttachOpts;
use skep_capi::object::open::OpenOpts;
use skep_capi::perf::PerfBufferOpts;
use skep_capi::ring::RingBufferOpts;
use skep_capi::skeleton::{
    LinkedMapSkeleton, MapSkeleton, ObjectSkeleton, ObjectSubskeleton, ProgSkeleton, Tables, VarSkeleton,
};
use skep_capi::test_run::TestRunOpts;

/// A struct of the header with its size, and each field with its offset and size, in C's names.
struct Layout {
    c: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize, usize)>,
}

fn size_of_field<T, F>(_: impl Fn(&T) -> F) -> usize {
    size_of::<F>()
}

macro_rules! layout {
    ($c:literal, $rust:ty, $($field:ident)+) => {
        Layout {
            c: $c,
            size: size_of::<$rust>(),
            fields: vec![$((stringify!($field), offset_of!($rust, $field), size_of_field(|it: &$rust| it.$field))),+],
        }
    };
}

/// With the fields of the tables that begin at `at`.
fn with_tables(mut layout: Layout, at: usize) -> Layout {
    let tables = layout!("", Tables, map_cnt map_skel_sz maps prog_cnt prog_skel_sz progs);
    layout.fields.extend(tables.fields.into_iter().map(|(field, offset, size)| (field, at + offset, size)));
    layout
}

fn layouts() -> Vec<Layout> {
    let mut linked = layout!("bpf_map_skeleton", MapSkeleton, name map mmaped);
    linked.size = size_of::<LinkedMapSkeleton>();
    linked.fields.push(("link", offset_of!(LinkedMapSkeleton, link), 8));
    vec![
        layout!("skep_opts", SkepOpts, sz vcpus mode),
        layout!("bpf_object_open_opts", OpenOpts, sz object_name relaxed_maps pin_root_path kconfig btf_custom_path
            kernel_log_buf kernel_log_size kernel_log_level bpf_token_path),
        layout!("bpf_test_run_opts", TestRunOpts, sz data_in data_out data_size_in data_size_out ctx_in ctx_out ctx_size_in
            ctx_size_out retval repeat duration flags cpu batch_size),
        layout!("bpf_map_batch_opts", BatchOpts, sz elem_flags flags),
        layout!("ring_buffer_opts", RingBufferOpts, sz),
        layout!("perf_buffer_opts", PerfBufferOpts, sz sample_period),
        layout!("bpf_map_create_opts", MapCreateOpts, sz btf_fd btf_key_type_id btf_value_type_id btf_vmlinux_value_type_id
            inner_map_fd map_flags map_extra numa_node map_ifindex value_type_btf_obj_fd token_fd excl_prog_hash
            excl_prog_hash_size),
        linked,
        layout!("bpf_iter_attach_opts", IterAttachOpts, sz link_info link_info_len),
        layout!("bpf_prog_skeleton", ProgSkeleton, name prog link),
        with_tables(
            layout!("bpf_object_skeleton", ObjectSkeleton, sz name data data_sz obj),
            offset_of!(ObjectSkeleton, tables),
        ),
        layout!("bpf_var_skeleton", VarSkeleton, name map addr),
        with_tables(
            layout!("bpf_object_subskeleton", ObjectSubskeleton, sz obj var_cnt var_skel_sz vars),
            offset_of!(ObjectSubskeleton, tables),
        ),
    ]
}

/// A program that prints what the compiler makes of the structs; fields that libbpf's older header lacks are left out.
fn printer(layouts: &[Layout], lacks: &[(&str, &str)]) -> String {
    let mut text =
        String::from("#include <stddef.h>\n#include <stdio.h>\n#include <bpf/libbpf.h>\n#include <bpf/bpf.h>\n");
    text.push_str("int main(void)\n{\n");
    for layout in layouts {
        let c = layout.c;
        if !lacks.iter().any(|(of, field)| *of == c && field.is_empty()) {
            writeln!(text, "printf(\"{c} %zu\\n\", sizeof(struct {c}));").unwrap();
        }
        for (field, ..) in layout.fields.iter().filter(|(field, ..)| !lacks.contains(&(c, field))) {
            writeln!(
                text,
                "printf(\"{c}.{field} %zu %zu\\n\", offsetof(struct {c}, {field}), sizeof(((struct {c} *)0)->{field}));"
            )
            .unwrap();
        }
    }
    text.push_str("return 0;\n}\n");
    text
}

fn expected(layouts: &[Layout], lacks: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for Layout { c, size, fields } in layouts {
        if !lacks.iter().any(|(of, field)| of == c && field.is_empty()) {
            writeln!(text, "{c} {size}").unwrap();
        }
        for (field, offset, size) in fields.iter().filter(|(field, ..)| !lacks.contains(&(c, field))) {
            writeln!(text, "{c}.{field} {offset} {size}").unwrap();
        }
    }
    text
}

#[test]
fn structs_are_laid_out_as_the_header_says() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("layout.c");
    std::fs::write(&source, printer(&layouts(), &[])).unwrap();
    for compiler in compilers() {
        let program = build(scratch.path(), &source, compiler, Link::Shared, &[]);
        assert_eq!(run(&program, &[]), expected(&layouts(), &[]), "{compiler:?}");
    }
}

#[test]
fn structs_are_laid_out_as_libbpf_has_them() {
    if !has_libbpf() {
        return;
    }
    // What libbpf 1.1, the oldest that is met, lacks: "" where the struct is longer since.
    let lacks = [
        ("bpf_map_skeleton", ""),
        ("bpf_map_skeleton", "link"),
        ("bpf_object_open_opts", ""),
        ("bpf_object_open_opts", "bpf_token_path"),
        ("perf_buffer_opts", ""),
        ("perf_buffer_opts", "sample_period"),
        ("bpf_map_create_opts", ""),
        ("bpf_map_create_opts", "value_type_btf_obj_fd"),
        ("bpf_map_create_opts", "token_fd"),
        ("bpf_map_create_opts", "excl_prog_hash"),
        ("bpf_map_create_opts", "excl_prog_hash_size"),
    ];
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("layout.c");
    let shared: Vec<Layout> = layouts().into_iter().filter(|layout| layout.c != "skep_opts").collect();
    std::fs::write(&source, printer(&shared, &lacks)).unwrap();
    let program = build(scratch.path(), &source, compilers()[0], Link::Libbpf, &[]);
    assert_eq!(run(&program, &[]), expected(&shared, &lacks));
}

#[test]
fn info_structs_are_the_kernels() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("info.c");
    let text = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/bpf.h>\nint main(void)\n{\n\
        printf(\"%zu %zu %zu\\n\", offsetof(struct bpf_map_info, map_extra), offsetof(struct bpf_prog_info, run_cnt),\n\
        offsetof(struct bpf_prog_info, attach_btf_id));\nreturn 0;\n}\n";
    std::fs::write(&source, text).unwrap();
    let program = build(scratch.path(), &source, compilers()[0], Link::Shared, &[]);
    // Up to the last field that is filled in; older headers end before the newest fields.
    let (map, prog) = (size_of::<MapInfo>() - 8, size_of::<ProgInfo>() - 8);
    assert_eq!(run(&program, &[]), format!("{map} {} {prog}\n", prog - 24));
}

/// The declarations of functions in the header, each in one line.
fn declarations() -> Vec<String> {
    let header = std::fs::read_to_string(here().join("include/skep.h")).unwrap();
    let mut out = Vec::new();
    let mut rest = header.as_str();
    while let Some((_, from)) = rest.split_once("\nLIBBPF_API ") {
        let (declaration, after) = from.split_once(';').unwrap();
        out.push(declaration.split_whitespace().collect::<Vec<_>>().join(" "));
        rest = after;
    }
    out
}

fn function(declaration: &str) -> &str {
    let (before, _) = declaration.split_once('(').unwrap();
    before.rsplit([' ', '*']).next().unwrap()
}

#[test]
fn the_library_exports_what_the_header_declares() {
    let scratch = tempfile::tempdir().unwrap();
    let library = lib_dir(scratch.path()).join("libskep.so");
    let out = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().unwrap();
    let listing = String::from_utf8(out.stdout).unwrap();
    let exported: BTreeSet<&str> = listing.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    // The linker marks where a section of static keys begins and ends.
    let exported: BTreeSet<&str> = exported.into_iter().filter(|name| !name.starts_with("__st")).collect();
    let declarations = declarations();
    let declared: BTreeSet<&str> = declarations.iter().map(|declaration| function(declaration)).collect();
    assert_eq!(declared.len(), declarations.len(), "each function is declared once");
    assert!(declared.len() > 200, "{}", declared.len());
    assert_eq!(exported, declared);
    let out = Command::new("readelf").arg("-d").arg(&library).output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("Library soname: [libskep.so.0]"));
}

#[test]
fn prototypes_are_libbpfs() {
    if !has_libbpf() {
        return;
    }
    let theirs: String = ["libbpf.h", "bpf.h", "libbpf_legacy.h"]
        .map(|file| std::fs::read_to_string(Path::new("/usr/include/bpf").join(file)).unwrap())
        .concat();
    // Since libbpf 1.4 the map is const and the memory is not.
    let changed = ["bpf_map__initial_value"];
    let mut text = String::from("#include <bpf/libbpf.h>\n#include <bpf/bpf.h>\n");
    let mut compared = 0;
    for declaration in declarations() {
        let name = function(&declaration);
        if theirs.contains(&format!("{name}(")) && !changed.contains(&name) {
            writeln!(text, "{declaration};").unwrap();
            compared += 1;
        }
    }
    assert!(compared > 120, "{compared}");
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("prototypes.c");
    std::fs::write(&source, text + "int main(void) { return 0; }\n").unwrap();
    build(scratch.path(), &source, compilers()[0], Link::Libbpf, &[]);
}
