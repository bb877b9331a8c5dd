//! Static linking beside libbpf's: what we link, bpftool reads and the kernel loads and runs; what bpftool links is the same
//! to a loader.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use skep_btf::{Linkage, Type, TypeData};
use skep_object::{LinkInput, MapKind, ObjectSpec, link_objects, parse};
use skep_testing::kernel::{self, TestRun};
use skep_testing::kernel_object::KernelObject;

fn objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/object/tests/c/link")
}

/// Without per-CPU data, which libbpf of this day does not know.
const HALVES: [[&str; 2]; 2] = [["main_plain", "lib_plain"], ["lib_plain", "main_plain"]];

fn link(names: [&str; 2]) -> Vec<u8> {
    let files = names.map(|name| (name, std::fs::read(objects().join(format!("{name}.bpf.o"))).unwrap()));
    let inputs: Vec<LinkInput<'_>> = files.iter().map(|(name, bytes)| LinkInput { name, bytes }).collect();
    link_objects(&inputs).unwrap()
}

fn bpftool(what: &str) -> Option<Command> {
    let found = Command::new("bpftool").arg("version").output().is_ok_and(|out| out.status.success());
    if !found {
        skep_testing::summary::say(&format!("{what}: skipped, no bpftool"));
    }
    found.then(|| Command::new("bpftool"))
}

#[test]
fn the_kernel_loads_and_runs_what_we_link() {
    if !kernel::require("the_kernel_loads_and_runs_what_we_link") {
        return;
    }
    for names in HALVES {
        let spec = parse(&link(names), "all.bpf.o").unwrap();
        let object = KernelObject::create(&spec).unwrap();
        object.map("shared_map").unwrap().update(&1u32.to_ne_bytes(), &[0, 0, 0, 0, 9, 0, 0, 0], 0).unwrap();
        let run = |name: &str| {
            let index = spec.programs.iter().position(|p| p.name == name).unwrap();
            let program = object.load(index, 0).unwrap_or_else(|error| panic!("{name}: {error}")).prog;
            program.test_run(&TestRun { data: &[0; 64], repeat: 1, ..TestRun::default() }).unwrap().retval
        };
        // As in crates/skep/tests/linked.rs, on queue 0.
        assert_eq!(run("first"), 20 + 11 + 42, "{names:?}");
        assert_eq!(run("second"), 1 + 13 + 1001);
        assert_eq!(run("lib_target"), 39 + u32::from(b'a'));
        run("lib_tail");
    }
}

/// What a loader sees, in an order that does not depend on the linker.
fn seen(spec: &ObjectSpec) -> Vec<String> {
    let mut out = vec![format!("license {}", spec.license)];
    for program in &spec.programs {
        let mut subprogs: Vec<String> = program.subprogs.iter().map(|s| format!("{}:{}", s.name, s.len)).collect();
        subprogs.sort();
        let (insns, lines, funcs) = (program.insns.len(), program.line_info.len(), program.func_info.len());
        out.push(format!("program {} {} {insns} {lines} {funcs} {subprogs:?}", program.name, program.section));
    }
    for map in spec.maps.iter().filter(|map| map.kind == MapKind::User) {
        let slots: Vec<u32> = map.initial_slots.iter().map(|slot| slot.slot).collect();
        let sizes = (map.map_type, map.key_size, map.value_size, map.max_entries, map.map_flags);
        out.push(format!("map {} {sizes:?} {slots:?}", map.name));
    }
    for variable in &spec.variables {
        let map = &spec.maps[variable.map];
        let image = map.initial_value().unwrap();
        let start = variable.offset as usize;
        let value = &image[start..start + variable.size as usize];
        out.push(format!("variable {} {} {value:?} {:?}", variable.name, map.name, variable.linkage));
    }
    out.sort();
    out
}

/// How many types there are that are no static functions, and the names of the static functions, each once.
fn types_and_functions(spec: &ObjectSpec) -> (usize, BTreeSet<String>) {
    let btf = spec.btf.as_deref().unwrap();
    let is_static = |ty: &Type| matches!(ty.data, TypeData::Func { linkage: Linkage::Static, .. });
    let functions = btf.types().filter(|(_, ty)| is_static(ty)).map(|(id, _)| btf.name(id).to_owned()).collect();
    (btf.types().filter(|(_, ty)| !is_static(ty)).count(), functions)
}

#[test]
fn bpftool_links_the_same() {
    let Some(_) = bpftool("bpftool_links_the_same") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for names in HALVES {
        let theirs = folder.path().join("theirs.bpf.o");
        let mut command = bpftool("bpftool_links_the_same").unwrap();
        command.args(["gen", "object"]).arg(&theirs);
        command.args(names.map(|name| objects().join(format!("{name}.bpf.o"))));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let opens = bpftool("").unwrap().args(["gen", "skeleton"]).arg(&theirs).args(["name", "all"]).output().unwrap();
        let theirs = parse(&std::fs::read(&theirs).unwrap(), "all.bpf.o");
        if !opens.status.success() {
            // bpftool 7.1 leaves a map's place at 0 where its declaration comes first; libbpf refuses that, and so do we.
            assert!(theirs.is_err(), "{names:?}: libbpf does not open it: {}", String::from_utf8_lossy(&opens.stderr));
            continue;
        }
        let theirs = theirs.unwrap();
        compared += 1;
        let ours = parse(&link(names), "all.bpf.o").unwrap();
        assert_eq!(seen(&ours), seen(&theirs), "{names:?}");
        // Each type once, as they have it; but bpftool folds static functions of one name and type, which are two functions.
        assert_eq!(types_and_functions(&ours), types_and_functions(&theirs), "{names:?}");
    }
    assert!(compared > 0, "libbpf opens nothing that it linked");
}

#[test]
fn bpftool_refuses_what_we_refuse() {
    let Some(_) = bpftool("bpftool_refuses_what_we_refuse") else { return };
    let folder = tempfile::tempdir().unwrap();
    for what in ["licence", "twice", "other_type", "other_map", "other_func", "other_kind"] {
        let pair = ["lib".to_owned(), format!("clash_{what}")].map(|name| objects().join(format!("{name}.bpf.o")));
        let mut command = bpftool("bpftool_refuses_what_we_refuse").unwrap();
        let out = command.args(["gen", "object"]).arg(folder.path().join("x.bpf.o")).args(&pair).output().unwrap();
        assert!(!out.status.success(), "bpftool links {what}");
        let files = pair.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()));
        let inputs: Vec<LinkInput<'_>> = files.iter().map(|(name, bytes)| LinkInput { name, bytes }).collect();
        assert!(link_objects(&inputs).is_err(), "we link {what}");
    }
}

#[test]
fn bpftool_reads_what_we_link() {
    let Some(_) = bpftool("bpftool_reads_what_we_link") else { return };
    let folder = tempfile::tempdir().unwrap();
    for names in HALVES {
        let ours = folder.path().join("ours.bpf.o");
        std::fs::write(&ours, link(names)).unwrap();
        // libbpf opens it whole, and finds every variable.
        let out = bpftool("").unwrap().args(["gen", "skeleton"]).arg(&ours).args(["name", "all"]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for name in ["lib_counter", "main_counter", "lib_limit", "lib_hits", "main_hits", "shared_map", "lib_tail"] {
            assert!(text.contains(name), "{name} is not in bpftool's skeleton");
        }
        // And links it on, alone.
        let on = folder.path().join("on.bpf.o");
        let out = bpftool("").unwrap().args(["gen", "object"]).arg(&on).arg(&ours).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let theirs = parse(&std::fs::read(&on).unwrap(), "all.bpf.o").unwrap();
        assert_eq!(seen(&theirs), seen(&parse(&link(names), "all.bpf.o").unwrap()));
    }
}
