//! Static linking: what two objects become, and which objects do not fit each other.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use skep_btf::{Btf, Kind, Linkage, TypeData};
use skep_object::{LinkError, LinkInput, MapKind, ObjectSpec, link_objects, parse};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/c/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn link(names: &[&str]) -> Result<Vec<u8>, LinkError> {
    let files: Vec<(String, Vec<u8>)> = names.iter().map(|name| (format!("{name}.bpf.o"), read(name))).collect();
    let inputs: Vec<LinkInput<'_>> = files.iter().map(|(name, bytes)| LinkInput { name, bytes }).collect();
    link_objects(&inputs)
}

fn linked(names: &[&str]) -> ObjectSpec {
    parse(&link(names).unwrap(), "all.bpf.o").unwrap()
}

fn refusal(names: &[&str]) -> String {
    let error = link(names).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn programs_maps_and_data_are_those_of_both() {
    for order in [["link/main", "link/lib"], ["link/lib", "link/main"]] {
        let spec = linked(&order);
        assert_eq!(spec.license, "GPL");
        let mut programs: Vec<&str> = spec.programs.iter().map(|p| p.name.as_str()).collect();
        programs.sort_unstable();
        assert_eq!(programs, ["first", "lib_tail", "lib_target", "second"]);
        let mut maps: Vec<(&str, MapKind, u32)> =
            spec.maps.iter().map(|m| (m.name.as_str(), m.kind, m.value_size)).collect();
        maps.sort_unstable_by_key(|m| m.0);
        let size = |name: &str| maps.iter().find(|m| m.0 == name).map(|m| m.2);
        assert_eq!(maps.iter().filter(|m| m.1 == MapKind::User).count(), 3, "{maps:?}");
        // Two ints of each half, `.percpu.letters` of one of them.
        assert_eq!((size(".percpu"), size(".percpu.letters")), (Some(8), Some(1)));
        let shared = spec.map("shared_map").unwrap();
        assert_eq!((shared.map_type, shared.key_size, shared.value_size, shared.max_entries), (2, 4, 8, 4));
        let jumps = spec.map("jumps").unwrap();
        assert_eq!(jumps.initial_slots.len(), 1);
        let variable = |name: &str| spec.variables.iter().filter(|v| v.name == name).count();
        assert_eq!((variable("hidden"), variable("lib_counter"), variable("main_zero")), (2, 1, 1));
        let word = |name: &str| {
            let variable = spec.variable(name).unwrap();
            let image = spec.maps[variable.map].initial_value().unwrap();
            let start = variable.offset as usize;
            i32::from_le_bytes(image[start..start + 4].try_into().unwrap())
        };
        assert_eq!((word("main_counter"), word("lib_counter"), word("lib_limit")), (5, 50, 3));
        assert_eq!((word("main_hits"), word("lib_hits")), (1000, 20));
    }
}

#[test]
fn a_strong_definition_stands_for_a_weak_one() {
    for order in [["link/main", "link/lib"], ["link/lib", "link/main"]] {
        let spec = linked(&order);
        let first = spec.program("first").unwrap();
        let subprogs: Vec<&str> = first.subprogs.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(subprogs.iter().filter(|name| **name == "chosen").count(), 1);
        let chosen = first.subprogs.iter().find(|s| s.name == "chosen").unwrap();
        // `x + 1`: two instructions and the exit, and no reference to `hidden`.
        let code = &first.insns[chosen.start as usize..][..chosen.len as usize];
        assert!(code.len() <= 3 && code.iter().all(|insn| !insn.is_ld_imm64()), "{code:?}");
        let btf = spec.btf.as_deref().unwrap();
        assert_eq!(btf.find_all("chosen").filter(|&id| btf.kind(id) == Kind::Func).count(), 1);
        // The static functions of one name are two.
        assert_eq!(btf.find_all("scale").count(), 2);
    }
}

#[test]
fn each_type_is_there_once() {
    let spec = linked(&["link/main", "link/lib"]);
    let btf = spec.btf.as_deref().unwrap();
    let mut names: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
    for (id, ty) in btf.types() {
        if !matches!(ty.kind(), Kind::Func | Kind::Var) && !btf.name(id).is_empty() {
            *names.entry((ty.kind(), btf.name(id))).or_default() += 1;
        }
    }
    let doubled: Vec<_> = names.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    // Known by name alone in one half, whole in the other.
    assert!(names.contains_key(&(Kind::Struct, "flow")) && !names.contains_key(&(Kind::Fwd, "flow")), "{names:?}");
    let externs = btf.types().filter(|(_, ty)| {
        matches!(
            ty.data,
            TypeData::Func { linkage: Linkage::Extern, .. } | TypeData::Var { linkage: Linkage::Extern, .. }
        )
    });
    assert_eq!(externs.count(), 0, "nothing is left open");
    for (id, ty) in btf.types() {
        let TypeData::DataSec(sec) = &ty.data else { continue };
        let name = btf.name(id);
        assert!(sec.vars.windows(2).all(|pair| pair[0].offset + pair[0].size <= pair[1].offset), "{name}: {sec:?}");
    }
}

#[test]
fn lines_and_functions_move_with_their_instructions() {
    let alone = parse(&read("link/lib"), "lib").unwrap();
    let spec = linked(&["link/main", "link/lib"]);
    let lines = |spec: &ObjectSpec| {
        let btf = spec.btf.as_deref().unwrap();
        let program = spec.program("lib_target").unwrap();
        let lines: Vec<(u32, u32, String)> =
            program.line_info.iter().map(|l| (l.insn_off, l.line_num, btf.str_at(l.line).to_owned())).collect();
        let funcs: Vec<(u32, String)> =
            program.func_info.iter().map(|f| (f.insn_off, btf.name(f.type_id).to_owned())).collect();
        (lines, funcs, program.insns.len())
    };
    assert_eq!(lines(&alone), lines(&spec));
    assert!(!lines(&spec).0.is_empty());
}

#[test]
fn core_relocations_are_kept() {
    let alone = parse(&read("core"), "core").unwrap();
    let spec = linked(&["core", "link/lib"]);
    let all = |spec: &ObjectSpec| {
        let btf = spec.btf.as_deref().unwrap();
        let mut all: Vec<(String, u32, String, String)> = Vec::new();
        for program in spec.programs.iter().filter(|p| alone.program(&p.name).is_some()) {
            for relo in &program.core_relos {
                let (ty, access) = (btf.name(relo.type_id).to_owned(), btf.str_at(relo.access).to_owned());
                all.push((program.name.clone(), relo.insn_off, ty, access));
            }
        }
        all.sort();
        all
    };
    assert!(!all(&alone).is_empty());
    assert_eq!(all(&alone), all(&spec));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let first = link(&["link/main", "link/lib"]).unwrap();
    for _ in 0..4 {
        assert!(link(&["link/main", "link/lib"]).unwrap() == first);
    }
    assert!(link(&["link/lib", "link/main"]).unwrap() != first, "the order of the inputs is that of the result");
}

#[test]
fn one_object_stays_what_it_is() {
    let entries = std::fs::read_dir(format!("{}/tests/c", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut count = 0;
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".bpf.o") else { continue };
        let (before, after) = (parse(&read(name), "x").unwrap(), linked_as(name));
        assert_eq!(before.license, after.license);
        assert_eq!(before.programs.len(), after.programs.len(), "{name}");
        for (a, b) in before.programs.iter().zip(&after.programs) {
            assert_eq!(
                (&a.name, &a.section, &a.insns, a.autoload),
                (&b.name, &b.section, &b.insns, b.autoload),
                "{name}"
            );
            assert_eq!(a.subprogs.len(), b.subprogs.len());
            assert_eq!(a.line_info.len(), b.line_info.len());
            assert_eq!(a.core_relos.len(), b.core_relos.len());
        }
        assert_eq!(before.maps.len(), after.maps.len(), "{name}");
        for (a, b) in before.maps.iter().zip(&after.maps) {
            assert_eq!(
                (&a.name, a.map_type, a.key_size, a.value_size),
                (&b.name, b.map_type, b.key_size, b.value_size)
            );
            assert_eq!((&a.image, a.map_flags, &a.initial_slots), (&b.image, b.map_flags, &b.initial_slots), "{name}");
        }
        let places = |spec: &ObjectSpec| {
            spec.variables.iter().map(|v| (v.name.clone(), v.map, v.offset, v.size)).collect::<Vec<_>>()
        };
        assert_eq!(places(&before), places(&after), "{name}");
        assert_eq!(before.externs.len(), after.externs.len(), "{name}");
        // And linked again it is the same file.
        let once = link(&[name]).unwrap();
        let twice = link_objects(&[LinkInput { name: "once", bytes: &once }]).unwrap();
        assert!(parse(&twice, "x").unwrap().programs.len() == before.programs.len());
        count += 1;
    }
    assert!(count > 10, "{count} objects");
}

fn linked_as(name: &str) -> ObjectSpec {
    parse(&link(&[name]).unwrap(), "x").unwrap()
}

#[test]
fn a_half_can_be_linked_first() {
    // Its externs stay open; a loader says so.
    let half = link(&["link/main"]).unwrap();
    let error = parse(&half, "half").unwrap_err().to_string();
    assert_eq!(error, "map 'shared_map': it is only declared here; link the object that defines it (skep gen object)");
    let inputs = [LinkInput { name: "half", bytes: &half }, LinkInput { name: "lib", bytes: &read("link/lib") }];
    let spec = parse(&link_objects(&inputs).unwrap(), "all").unwrap();
    assert_eq!(spec.programs.len(), 4);
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let files = |what: &str| format!(" (link/lib.bpf.o and link/clash_{what}.bpf.o)");
    let refused = |what: &str| refusal(&["link/lib", &format!("link/clash_{what}")]);
    assert_eq!(refused("licence"), format!("section license: 'GPL' is not 'Proprietary'{}", files("licence")));
    let twice = "symbol 'lib_counter': it is defined twice; declare one of them __weak or static";
    assert_eq!(refused("twice"), format!("{twice}{}", files("twice")));
    let other =
        "symbol 'lib_counter': its type is int int of 4 bytes in one object and typedef __u64 of 8 bytes in another";
    assert_eq!(refused("other_type"), format!("{}{}", other.replace("typedef ", "int "), files("other_type")));
    let other = "symbol 'shared_map': its map type is 2 in one object and 1 in another";
    assert_eq!(refused("other_map"), format!("{other}{}", files("other_map")));
    assert!(refused("other_func").starts_with("symbol 'add': its type is "), "{}", refused("other_func"));
    assert!(refused("other_kind").starts_with("symbol 'add': its type is "), "{}", refused("other_kind"));
    assert_eq!(refusal(&[]), "0 objects to link, 1 to 1024 are allowed");
    assert!(refusal(&["link/lib", "link/lib"]).contains("is defined twice"));
}

#[test]
fn damaged_inputs_are_refused_or_linked_but_never_a_panic() {
    let (main, lib) = (read("link/main"), read("link/lib"));
    // Each byte of the headers, symbols, relocations and types in turn, one of the two inputs at a time.
    let mut refused = 0;
    let step = if std::env::var_os("SKEP_LONG").is_some() { 1 } else { 7 };
    for at in (0..main.len()).step_by(step) {
        let mut damaged = main.clone();
        damaged[at] ^= 0xff;
        let inputs = [LinkInput { name: "main", bytes: &damaged }, LinkInput { name: "lib", bytes: &lib }];
        match link_objects(&inputs) {
            Ok(bytes) => drop(parse(&bytes, "all")),
            Err(LinkError::Internal(what)) => panic!("byte {at}: {what}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{refused}");
    for cut in (0..main.len()).step_by(97) {
        assert!(link_objects(&[LinkInput { name: "cut", bytes: &main[..cut] }]).is_err());
    }
}

#[test]
fn an_object_without_types_can_be_linked() {
    let spec = linked_as("nobtf");
    assert!(spec.btf.is_none());
    let _: &Btf = linked(&["nobtf", "link/lib"]).btf.as_deref().unwrap();
}
