//! What is read out of real objects, compiled by clang-19 from the sources in `tests/c`.
#![expect(clippy::panic, reason = "tests")]

mod support;

use skep_abi::{AttachType, MapType, ProgType};
use skep_btf::{Kind, Linkage, TypeData};
use skep_object::{Error, ExternKind, MapKind, MapSpec, ObjectSpec, ProgramSpec, SlotTarget, parse};
use support::committed;

fn open(name: &str) -> ObjectSpec {
    parse(&committed(name), &format!("{name}.bpf.o")).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn names(program: &ProgramSpec) -> Vec<&str> {
    program.subprogs.iter().map(|s| s.name.as_str()).collect()
}

fn map<'a>(object: &'a ObjectSpec, name: &str) -> &'a MapSpec {
    object.map(name).unwrap_or_else(|| panic!("no map {name}"))
}

#[test]
fn parsing_is_deterministic() {
    for name in ["sections", "maps", "data", "externs", "core", "types", "cpu.v3", "nobtf"] {
        assert_eq!(format!("{:?}", open(name)), format!("{:?}", open(name)), "{name}");
    }
}

#[test]
fn sections_say_what_programs_are() {
    let object = open("sections");
    assert_eq!((object.license.as_str(), object.kern_version), ("Dual MIT/GPL", 0x0006_1200));
    let seen: Vec<_> = object
        .programs
        .iter()
        .map(|p| (p.name.as_str(), p.sec.as_ref().map(|s| (s.prog_type, s.prog_flags)), p.autoload))
        .collect();
    assert_eq!(
        seen,
        [
            ("first", Some((ProgType::Xdp, 0)), true),
            ("second", Some((ProgType::Xdp, 0)), true),
            ("optional", Some((ProgType::SchedCls, 0)), false),
            ("frags", Some((ProgType::Xdp, 32)), true),
            ("sleepable", Some((ProgType::Tracing, 16)), true),
            ("tail", None, true),
            ("mystery", None, true),
        ]
    );
    let sleepable = object.program("sleepable").unwrap().sec.as_ref().unwrap();
    assert_eq!(sleepable.attach_type, AttachType::TraceFentry);
    assert_eq!(sleepable.target.as_deref(), Some("bpf_fentry_test1"));
    assert_eq!(object.program("optional").unwrap().section, "tc");
    assert_eq!(object.program("tail").unwrap().legacy_tail, Some((2, 5)));
}

#[test]
fn unknown_section_is_an_error_only_when_loaded() {
    let mut object = open("sections");
    object.set_autoload("tail", false).unwrap();
    let error = object.check_loadable().unwrap_err();
    assert!(
        matches!(&error, Error::Program { program, section, .. } if program == "mystery" && section == "unknown_section")
    );
    object.set_autoload("mystery", false).unwrap();
    object.check_loadable().unwrap();
    assert!(matches!(object.set_autoload("nobody", true), Err(Error::NotFound { .. })));
}

#[test]
fn programs_carry_the_functions_they_reach() {
    let object = open("sections");
    let first = object.program("first").unwrap();
    assert_eq!(names(first), ["first", "middle", "leaf", "hidden"]);
    assert_eq!(first.subprogs.iter().map(|s| s.is_global).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(names(object.program("second").unwrap()), ["second", "add_index", "leaf"]);
    assert_eq!(names(object.program("frags").unwrap()), ["frags"]);
    for program in &object.programs {
        let mut end = 0;
        for subprog in &program.subprogs {
            assert_eq!(subprog.start, end, "{}", program.name);
            end += subprog.len;
            assert!(subprog.type_id.is_some());
        }
        assert_eq!(end as usize, program.insns.len());
    }
}

#[test]
fn calls_and_callbacks_lead_to_function_starts() {
    let object = open("sections");
    let mut calls = 0;
    let mut callbacks = 0;
    for program in &object.programs {
        for (at, insn) in program.insns.iter().enumerate() {
            let is_call = insn.code == 0x85 && insn.src == 1;
            let is_callback = insn.code == 0x18 && insn.src == 4;
            if is_call || is_callback {
                let target = i64::try_from(at).unwrap() + 1 + i64::from(insn.imm);
                let found = program.subprogs.iter().find(|s| i64::from(s.start) == target);
                assert!(found.is_some(), "{} {at}: {target}", program.name);
                calls += u32::from(is_call);
                if is_callback {
                    assert_eq!(found.unwrap().name, "add_index");
                    callbacks += 1;
                }
            }
        }
    }
    assert!(calls >= 6, "{calls}");
    assert_eq!(callbacks, 1);
}

#[test]
fn line_and_function_information_follows_linking() {
    let object = open("sections");
    let btf = object.btf.as_deref().unwrap();
    let first = object.program("first").unwrap();
    assert_eq!(first.func_info.len(), first.subprogs.len());
    for (info, subprog) in first.func_info.iter().zip(&first.subprogs) {
        assert_eq!((info.insn_off, btf.name(info.type_id)), (subprog.start, subprog.name.as_str()));
        assert_eq!(btf.kind(info.type_id), Kind::Func);
        let line = first.line_info.iter().find(|l| l.insn_off == subprog.start).unwrap();
        assert!(btf.str_at(line.file).ends_with("sections.bpf.c"));
    }
    assert!(first.line_info.windows(2).all(|w| w[0].insn_off < w[1].insn_off));
    let leaf = first.subprogs.iter().find(|s| s.name == "leaf").unwrap();
    let texts: Vec<&str> = first
        .line_info
        .iter()
        .filter(|l| (leaf.start..leaf.start + leaf.len).contains(&l.insn_off))
        .map(|l| btf.str_at(l.line))
        .collect();
    assert!(texts.iter().any(|t| t.contains("return y + 1;")), "{texts:?}");
}

#[test]
fn hidden_functions_become_static() {
    let object = open("sections");
    let btf = object.btf.as_deref().unwrap();
    let linkage = |name| match btf.get(btf.find(name, Kind::Func).unwrap()).unwrap().data {
        TypeData::Func { linkage, .. } => linkage,
        _ => unreachable!(),
    };
    assert_eq!(
        (linkage("hidden"), linkage("middle"), linkage("leaf")),
        (Linkage::Static, Linkage::Global, Linkage::Static)
    );
}

#[test]
fn map_definitions_are_read_from_btf() {
    let object = open("maps");
    let btf = object.btf.as_deref().unwrap();
    let typed = map(&object, "typed");
    assert_eq!((typed.map_type, typed.key_size, typed.value_size), (MapType::Hash as u32, 8, 16));
    assert_eq!((typed.max_entries, typed.map_flags, typed.pin_by_name), (1024, 1, true));
    assert_eq!((btf.name(typed.key_type.unwrap()), btf.name(typed.value_type.unwrap())), ("key", "value"));
    let sized = map(&object, "sized");
    assert_eq!((sized.key_size, sized.value_size, sized.max_entries, sized.key_type), (4, 16, 4, None));
    let ring = map(&object, "ring");
    assert_eq!((ring.map_type, ring.key_size, ring.max_entries), (MapType::Ringbuf as u32, 0, 4096));
    assert_eq!(map(&object, "bloom").map_extra, 5);
}

#[test]
fn slots_are_filled_from_the_object() {
    let object = open("maps");
    let called = object.programs.iter().position(|p| p.name == "called").unwrap();
    let jumps = map(&object, "jumps");
    assert_eq!((jumps.map_type, jumps.value_size), (MapType::ProgArray as u32, 4));
    let slots: Vec<_> = jumps.initial_slots.iter().map(|s| (s.slot, s.target.clone())).collect();
    assert_eq!(slots, [(1, SlotTarget::Program(called)), (3, SlotTarget::Program(called))]);
    let outer = map(&object, "outer");
    let inner = outer.inner.as_deref().unwrap();
    assert_eq!((inner.map_type, inner.key_size, inner.value_size, inner.max_entries), (MapType::Array as u32, 4, 4, 1));
    let slots: Vec<_> = outer.initial_slots.iter().map(|s| (s.slot, s.target.clone())).collect();
    let index = |name| SlotTarget::Map(object.map_index(name).unwrap());
    assert_eq!(slots, [(0, index("inner_b")), (2, index("inner_a"))]);
}

#[test]
fn map_references_are_indices() {
    let object = open("maps");
    let mut seen = Vec::new();
    for insn in object.programs.iter().flat_map(|p| &p.insns).filter(|i| i.code == 0x18 && i.src == 1) {
        seen.push(object.maps[usize::try_from(insn.imm).unwrap()].name.as_str());
    }
    for name in ["inner_a", "outer", "typed", "sized", "bloom", "ring", "jumps"] {
        assert!(seen.contains(&name), "{name} in {seen:?}");
    }
}

#[test]
fn data_sections_are_maps() {
    let object = open("data");
    let seen: Vec<_> = object
        .maps
        .iter()
        .map(|m| (m.name.as_str(), m.kernel_name.as_str(), m.kind, m.map_type, m.map_flags, m.max_entries))
        .collect();
    let (array, percpu) = (MapType::Array as u32, MapType::PercpuArray as u32);
    let expected = [
        (".rodata", "data.rodata", MapKind::Rodata, array, 0x480, 1),
        (".rodata.limits", ".rodata.limits", MapKind::Rodata, array, 0x480, 1),
        (".data", "data.data", MapKind::Data, array, 0x400, 1),
        (".data.custom", ".data.custom", MapKind::Data, array, 0x400, 1),
        (".data.percpu", ".data.percpu", MapKind::Data, array, 0x400, 1),
        (".bss", "data.bss", MapKind::Bss, array, 0x400, 1),
        (".percpu", ".percpu", MapKind::PerCpu, percpu, 0, 1),
        (".percpu.looooooooong", ".percpu.loooooo", MapKind::PerCpu, percpu, 0, 1),
    ];
    for want in expected {
        assert!(seen.contains(&want), "{want:?} in {seen:#?}");
    }
    assert_eq!(seen.len(), expected.len());
    assert!(object.maps.iter().all(|m| m.key_size == 4 && m.value_type.is_some()));
}

#[test]
fn data_sections_carry_eight_bytes_of_a_long_name() {
    let elf = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/data.bpf.o")).unwrap();
    let object = skep_object::parse(&elf, "quite_a_long_name.bpf.o").unwrap();
    // As libbpf has it: as much as fits beside `.rodata`, whatever the section.
    for name in ["quite_a_.rodata", "quite_a_.data", "quite_a_.bss"] {
        assert!(object.maps.iter().any(|m| m.kernel_name == name), "{name}");
    }
}

#[test]
fn variables_have_places_and_initial_values() {
    let object = open("data");
    let value = |name: &str| {
        let var = object.variable(name).unwrap_or_else(|| panic!("no variable {name}"));
        let map = &object.maps[var.map];
        let image = map.initial_value().unwrap();
        let start = var.offset as usize;
        (map.name.clone(), image[start..start + var.size as usize].to_vec())
    };
    assert_eq!(value("port"), (".rodata".into(), 443u16.to_le_bytes().to_vec()));
    assert_eq!(value("counter"), (".data".into(), 5u32.to_le_bytes().to_vec()));
    assert_eq!(value("hidden_counter"), (".data".into(), 9u32.to_le_bytes().to_vec()));
    assert_eq!(value("custom"), (".data.custom".into(), 77u32.to_le_bytes().to_vec()));
    assert_eq!(value("zeroed"), (".bss".into(), vec![0; 8]));
    assert_eq!(value("hits"), (".percpu".into(), 11u32.to_le_bytes().to_vec()));
    assert_eq!(value("tag"), (".percpu".into(), vec![b'x']));
    assert_eq!(value("histogram").1[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(value("config").1[2..7], *b"http\0");
    let btf = object.btf.as_deref().unwrap();
    let config = object.variable("per_cpu_config").unwrap();
    assert_eq!((config.size, btf.name(config.type_id.unwrap())), (16, "config"));
    assert_eq!(object.variable("hidden_counter").unwrap().linkage, Linkage::Static);
}

#[test]
fn value_references_lead_to_the_variables() {
    let object = open("data");
    let program = object.program("use").unwrap();
    let mut seen = Vec::new();
    for pair in program.insns.windows(2).filter(|p| p[0].code == 0x18) {
        assert_eq!(pair[0].src, 2);
        let (map, offset) = (usize::try_from(pair[0].imm).unwrap(), u32::try_from(pair[1].imm).unwrap());
        let found = object.variables.iter().find(|v| v.map == map && (v.offset..v.offset + v.size).contains(&offset));
        seen.push(found.unwrap_or_else(|| panic!("nothing at {map}+{offset}")).name.as_str());
    }
    for name in ["port", "config", "limits", "counter", "zeroed", "table", "hits", "tag", "seen", "histogram", "custom"]
    {
        assert!(seen.contains(&name), "{name} in {seen:?}");
    }
}

#[test]
fn data_section_types_are_completed() {
    let object = open("data");
    let btf = object.btf.as_deref().unwrap();
    for map in &object.maps {
        let TypeData::DataSec(sec) = &btf.get(map.value_type.unwrap()).unwrap().data else { panic!("{}", map.name) };
        assert_eq!(sec.size, map.value_size, "{}", map.name);
        assert!(sec.vars.windows(2).all(|w| w[0].offset < w[1].offset), "{}", map.name);
    }
    btf.check(skep_btf::Rules::Kernel).unwrap();
}

#[test]
fn variables_are_set_by_name_and_size() {
    let mut object = open("data");
    object.set_rodata("port", &80u16.to_le_bytes()).unwrap();
    object.set_variable("zeroed", &7u64.to_le_bytes()).unwrap();
    object.set_variable("hits", &12u32.to_le_bytes()).unwrap();
    let read = |object: &ObjectSpec, name: &str| {
        let var = object.variable(name).unwrap();
        object.maps[var.map].initial_value().unwrap()[var.offset as usize]
    };
    assert_eq!((read(&object, "port"), read(&object, "zeroed"), read(&object, "hits")), (80, 7, 12));
    assert!(matches!(object.set_rodata("port", &[1]), Err(Error::Mismatch { .. })), "wrong size");
    assert!(matches!(object.set_rodata("counter", &[0; 4]), Err(Error::Mismatch { .. })), "not read-only");
    assert!(matches!(object.set_rodata("nothing", &[]), Err(Error::NotFound { .. })));
}

#[test]
fn initial_values_have_exactly_the_size() {
    let mut object = open("data");
    let size = map(&object, ".percpu").value_size as usize;
    object.set_initial_value(".percpu", &vec![3; size]).unwrap();
    assert_eq!(map(&object, ".percpu").initial_value().unwrap().as_ref(), vec![3; size]);
    for wrong in [0, size - 1, size + 1] {
        assert!(object.set_initial_value(".percpu", &vec![0; wrong]).is_err(), "{wrong} of {size}");
    }
    assert!(open("maps").set_initial_value("typed", &[0; 16]).is_err());
}

#[test]
fn maps_are_resized() {
    let mut object = open("maps");
    object.set_max_entries("typed", 7).unwrap();
    object.set_value_size("sized", 24).unwrap();
    assert_eq!((map(&object, "typed").max_entries, map(&object, "sized").value_size), (7, 24));
    object.set_value_size("typed", 24).unwrap();
    assert_eq!(map(&object, "typed").value_type, None, "the type no longer fits");
    let mut object = open("data");
    assert!(object.set_max_entries(".bss", 2).is_err());
}

#[test]
fn a_data_section_grows_with_its_last_array() {
    let mut object = open("data");
    let name = ".percpu.looooooooong";
    object.set_value_size(name, 64).unwrap();
    let resized = map(&object, name);
    assert_eq!((resized.value_size, resized.image.len(), resized.image[0]), (64, 64, 1));
    let var = object.variable("histogram").unwrap();
    let btf = object.btf.as_deref().unwrap();
    assert_eq!((var.size, btf.size_of(var.type_id.unwrap())), (64, Ok(64)));
    assert_eq!(btf.size_of(resized.value_type.unwrap()), Ok(64));
    // A size that is no whole number of elements costs the types.
    object.set_value_size(name, 66).unwrap();
    assert_eq!(map(&object, name).value_type, None);
    assert!(object.set_value_size(name, 0).is_err());
    assert!(object.set_value_size(".data", 1).is_err(), "cuts a variable off");
}

#[test]
fn configuration_values_need_a_value_or_be_weak() {
    let mut object = open("externs");
    let kconfig = map(&object, ".kconfig");
    assert_eq!((kconfig.kind, kconfig.map_flags), (MapKind::Kconfig, 0x480));
    let offset = |object: &ObjectSpec, name: &str| match object.externs.iter().find(|e| e.name == name).unwrap().kind {
        ExternKind::Kconfig { offset, .. } => offset as usize,
        _ => panic!("{name}"),
    };
    let at = offset(&object, "LINUX_KERNEL_VERSION");
    assert_eq!(kconfig.image[at..at + 4], 0x0006_1200u32.to_le_bytes());
    let error = object.check_loadable().unwrap_err();
    assert!(matches!(&error, Error::Extern { name, .. } if name == "CONFIG_PAGE_SHIFT"), "{error}");
    object.set_extern("CONFIG_PAGE_SHIFT", &12u64.to_le_bytes()).unwrap();
    object.check_loadable().unwrap();
    let at = offset(&object, "CONFIG_PAGE_SHIFT");
    assert_eq!(map(&object, ".kconfig").image[at], 12);
    assert!(object.set_extern("CONFIG_HZ", &[1]).is_err(), "wrong size");
    assert!(object.set_extern("bpf_rcu_read_lock", &[1]).is_err(), "a function");
}

#[test]
fn kernel_symbols_are_listed_and_weak_variables_are_zero() {
    let object = open("externs");
    let program = object.program("use").unwrap();
    let kfuncs: Vec<_> = program.kfuncs.iter().map(|k| (k.name.as_str(), k.is_weak, k.is_func)).collect();
    assert_eq!(
        kfuncs,
        [("bpf_missing_kfunc", true, true), ("bpf_rcu_read_lock", false, true), ("bpf_rcu_read_unlock", false, true)]
    );
    let calls: Vec<_> = program.insns.iter().filter(|i| i.code == 0x85 && i.src == 2).map(|i| i.imm).collect();
    assert_eq!(calls, [0, 1, 2]);
    let ksyms: Vec<_> = program.ksyms.iter().map(|k| (k.name.as_str(), k.is_weak)).collect();
    assert_eq!(ksyms, [("bpf_missing_kfunc", true)]);
    let zero =
        program.insns.windows(2).filter(|p| p[0].code == 0x18 && p[0].src == 0).all(|p| p[0].imm == 0 && p[1].imm == 0);
    assert!(zero);
}

#[test]
fn weak_kernel_functions_are_settled() {
    let program = || open("externs").programs.remove(0);
    let address = |p: &ProgramSpec, from: &ProgramSpec| {
        let at = from.insns.iter().position(|i| i.code == 0x18 && i.src == 3).unwrap();
        (p.insns[at].src, p.insns[at].imm)
    };
    let calls =
        |p: &ProgramSpec| -> Vec<_> { p.insns.iter().filter(|i| i.code == 0x85).map(|i| (i.src, i.imm)).collect() };
    let mut missing = program();
    missing.resolve_ksyms(|name| name != "bpf_missing_kfunc");
    assert_eq!(address(&missing, &program()), (0, 0));
    assert_eq!(calls(&missing), [(0, skep_object::POISON_KFUNC), (2, 1), (2, 2)]);
    let mut there = program();
    there.resolve_ksyms(|_| true);
    assert_eq!(address(&there, &program()), (0, 1));
    assert_eq!(calls(&there), [(2, 0), (2, 1), (2, 2)]);
    let mut none = program();
    none.resolve_ksyms(|_| false);
    assert_eq!(calls(&none), [(0, skep_object::POISON_KFUNC), (2, 1), (2, 2)], "strong ones are the verifier's");
}

#[test]
fn strong_kernel_variables_stop_the_load() {
    let mut object = open("externs_strong");
    let text = object.check_loadable().unwrap_err().to_string();
    assert!(text.contains("needed_counter") && text.contains("section xdp"), "{text}");
    object.set_autoload("use", false).unwrap();
    object.check_loadable().unwrap();
}

#[test]
fn core_relocations_are_kept_at_their_instructions() {
    let object = open("core");
    let program = &object.programs[0];
    let kinds: std::collections::HashSet<_> = program.core_relos.iter().map(|r| r.kind).collect();
    assert_eq!(kinds.len(), 13, "{kinds:?}");
    assert!(program.core_relos.iter().all(|r| (r.insn_off as usize) < program.insns.len()));
    assert!(program.core_relos.windows(2).all(|w| w[0].insn_off <= w[1].insn_off));
}

#[test]
fn every_instruction_set_links() {
    for cpu in ["v1", "v2", "v3", "v4"] {
        let object = open(&format!("cpu.{cpu}"));
        assert_eq!(names(object.program("use").unwrap()), ["use", "mix"], "{cpu}");
    }
}

#[test]
fn objects_without_btf_have_programs_and_data() {
    let object = open("nobtf");
    assert!(object.btf.is_none());
    let counter = object.variable("counter").unwrap();
    assert_eq!((object.maps[counter.map].name.as_str(), counter.size, counter.type_id), (".data", 4, None));
    let program = object.program("use").unwrap();
    assert!(program.func_info.is_empty() && program.line_info.is_empty());
    assert_eq!(program.insns.iter().filter(|i| i.code == 0x18 && i.src == 2).count(), 2);
}
