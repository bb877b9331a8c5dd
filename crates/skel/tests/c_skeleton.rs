//! C skeletons of every committed object: compiled as C and C++, with warnings as errors.
#![expect(clippy::unwrap_used, reason = "tests")]

mod inputs;

use inputs::{COMPILERS, objects};
use skep_skel::{COptions, c_skeleton, c_subskeleton, object_ident};

fn skeleton(name: &str, elf: &[u8], define_types: bool) -> String {
    let object = skep_object::parse(elf, name).unwrap();
    c_skeleton(&object, elf, &object_ident(name), &COptions { define_types }).unwrap()
}

fn named(name: &str) -> String {
    let elf = objects().into_iter().find(|(found, _)| found == name).unwrap().1;
    skeleton(name, &elf, true)
}

/// Compiles a program that includes the header with each compiler there is; how many did.
fn compile(what: &str, header: &str, program: &str) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("object.skel.h");
    std::fs::write(&path, header).unwrap();
    let source = format!("#include \"{}\"\n{program}", path.display());
    let mut ran = 0;
    for with in COMPILERS {
        let Some((compiles, messages)) = inputs::compile(with, &source) else { continue };
        assert!(compiles, "{what} with {}: {messages}", with.0);
        ran += 1;
    }
    ran
}

#[test]
fn every_skeleton_compiles_as_c_and_cxx() {
    let mut ran = 0;
    for (name, elf) in objects() {
        let prefix = object_ident(&name);
        let program = format!(
            "\nint main(void)\n{{\n\tstruct {prefix} *s = {prefix}__open_and_load();\n\t{prefix}__destroy(s);\n\treturn 0;\n}}\n"
        );
        ran += compile(&name, &skeleton(&name, &elf, true), &program);
    }
    assert!(ran > 0, "no compiler: install gcc or clang-19, and libbpf-dev");
}

#[test]
fn every_subskeleton_compiles_as_c_and_cxx() {
    let mut ran = 0;
    for (name, elf) in objects() {
        let object = skep_object::parse(&elf, &name).unwrap();
        let prefix = object_ident(&name);
        let text = c_subskeleton(&object, &prefix, &COptions { define_types: true }).unwrap();
        let program = format!(
            "\nint main(void)\n{{\n\tstruct {prefix} *s = {prefix}__open(NULL);\n\t{prefix}__destroy(s);\n\treturn 0;\n}}\n"
        );
        ran += compile(&name, &text, &program);
        assert_eq!(text, c_subskeleton(&object, &prefix, &COptions { define_types: true }).unwrap());
    }
    assert!(ran > 0, "no compiler: install gcc or clang-19, and libbpf-dev");
}

#[test]
fn subskeletons_have_pointers_to_variables() {
    let elf = objects().into_iter().find(|(found, _)| found == "data.bpf.o").unwrap().1;
    let object = skep_object::parse(&elf, "data.bpf.o").unwrap();
    let text = c_subskeleton(&object, "data_bpf", &COptions::default()).unwrap();
    for needle in [
        "struct data_bpf {\n\tstruct bpf_object *obj;\n\tstruct bpf_object_subskeleton *subskel;\n",
        "\t\tstruct bpf_map *percpu;\n",
        "\tstruct data_bpf__data {\n\t\tint *counter;\n\t\tstruct config *current;\n\t} data;\n",
        "\tstruct data_bpf__bss {\n\t\t__u64 *zeroed;\n\t\t__u32 (*table)[4];\n\t} bss;\n",
        ".name = \"counter\";\n\ts->vars[",
        ".addr = (void **)&obj->data.counter;\n",
        ".name = \".data.custom\";\n",
        "\tstatic inline struct data_bpf *open(const struct bpf_object *src);\n",
    ] {
        assert!(text.contains(needle), "{needle} is not in\n{text}");
    }
    // Each CPU has its own: there is no one place to point to.
    assert!(!text.contains("data_bpf__percpu") && !text.contains("\"hits\""), "{text}");
}

#[test]
fn the_same_object_gives_the_same_text() {
    for (name, elf) in objects() {
        assert_eq!(skeleton(&name, &elf, false), skeleton(&name, &elf, false), "{name}");
    }
}

#[test]
fn fields_are_those_of_bpftool() {
    let text = named("data.bpf.o");
    for needle in [
        "struct data_bpf {\n\tstruct bpf_object_skeleton *skeleton;\n\tstruct bpf_object *obj;\n",
        "\t\tstruct bpf_map *rodata_limits;\n",
        "\t\tstruct bpf_map *percpu;\n\t\tstruct bpf_map *percpu_looooooooong;\n",
        "\tstruct data_bpf__rodata {\n\t\t__u16 port;\n\t\tchar __pad0[6];\n\t\tstruct config config;\n\t\tbool enabled;\n\t\tenum level level;\n\t} *rodata;\n",
        "\tstruct data_bpf__percpu {\n\t\tint hits;\n\t\tchar tag;\n\t\tstruct config per_cpu_config;\n\t\tbool seen;\n\t} *percpu;\n",
        "\tstruct data_bpf__percpu_looooooooong {\n\t\t__u32 histogram[8];\n\t} *percpu_looooooooong;\n",
        "\tstruct data_bpf__bss {\n\t\tchar __pad0[8];\n\t\t__u64 zeroed;\n\t\t__u32 table[4];\n\t} *bss;\n",
        "\ts->maps[0].name = \"data_bpf.rodata\";\n\ts->maps[0].map = &obj->maps.rodata;\n\ts->maps[0].mmaped = (void **)&obj->rodata;\n",
        "\ts->maps[7].name = \"data_bpf.bss\";\n",
        ".name = \".percpu.looooooooong\";\n",
        "\ts->progs[0].name = \"use\";\n\ts->progs[0].prog = &obj->progs.use;\n\ts->progs[0].link = &obj->links.use;\n",
        "\t_Static_assert(sizeof(s->percpu->per_cpu_config) == 16, \"unexpected size of 'per_cpu_config'\");\n",
    ] {
        assert!(text.contains(needle), "{needle} is not in\n{text}");
    }
    assert!(!text.contains("hidden_counter"), "static variables are not shown");
}

#[test]
fn names_that_cxx_reserves_get_an_underscore_there() {
    let text = named("names.bpf.o");
    assert!(text.contains("#ifdef __cplusplus\n\t\tstruct bpf_map *new_;\n#else\n\t\tstruct bpf_map *new;\n#endif\n"));
    assert!(text.contains("#ifdef __cplusplus\n\t\tint class_;\n#else\n\t\tint class;\n#endif\n"));
    assert!(text.contains("#ifdef __cplusplus\n\t\tint (*virtual_)(int);\n#else\n\t\tint (*virtual)(int);\n#endif\n"));
    assert!(text.contains("\ts->progs[0].prog = &obj->progs.delete;\n#endif\n"));
}

#[test]
fn the_object_is_inside() {
    let elf = objects().into_iter().find(|(name, _)| name == "nobtf.bpf.o").unwrap().1;
    let text = skeleton("nobtf.bpf.o", &elf, false);
    let start = text.find("= \"\\\n").unwrap() + 2;
    let end = text.get(start..).unwrap().find("\";\n").unwrap() + start;
    let digits: String = text[start..end].chars().filter(|c| c.is_ascii_digit()).collect();
    let bytes: Vec<u8> =
        digits.as_bytes().chunks(3).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 8).unwrap()).collect();
    assert_eq!(bytes, elf);
    assert!(text.contains(&format!("*sz = {};", elf.len())));
}
