//! Light skeletons of every committed object: compiled as C and C++, with warnings as errors.
#![expect(clippy::unwrap_used, reason = "tests")]

mod inputs;

use inputs::{COMPILERS, compile};
use skep_object::ObjectSpec;
use skep_skel::{COptions, Error, c_light_skeleton, loader, object_ident, rust_light_skeleton};

fn objects() -> impl Iterator<Item = (String, ObjectSpec)> {
    inputs::objects().into_iter().map(|(name, elf)| {
        let object = skep_object::parse(&elf, &name).unwrap();
        (name, object)
    })
}

/// An object with the programs that a loader can load; `None` for one that cannot be loaded at all.
fn lightable(mut object: ObjectSpec) -> Option<ObjectSpec> {
    while let Err(Error::Loader { program, .. }) = loader(&object) {
        object.set_autoload(&program, false).unwrap();
    }
    match loader(&object) {
        Err(Error::Unloadable(_)) => None,
        result => result.map(|_| object).ok(),
    }
}

#[test]
fn every_light_skeleton_compiles_as_c_and_cxx() {
    let header = "#include <errno.h>\n#include <string.h>\n#include <bpf/skel_internal.h>\n";
    // libbpf's own header must compile there; it is no C++ in every version.
    let usable: Vec<_> =
        COMPILERS.into_iter().filter(|with| compile(*with, header).is_some_and(|(compiles, _)| compiles)).collect();
    println!("compilers: {usable:?}");
    let mut ran = 0;
    for (name, object) in objects() {
        let prefix = object_ident(&name);
        let Some(object) = lightable(object) else { continue };
        let text = c_light_skeleton(&object, &prefix, &COptions { define_types: true }).unwrap();
        assert_eq!(text, c_light_skeleton(&object, &prefix, &COptions { define_types: true }).unwrap(), "{name}");
        let source = format!(
            "{text}\nint main(void)\n{{\n\tstruct {prefix} *s = {prefix}__open_and_load();\n\tif (s)\n\t\t\
             {prefix}__attach(s);\n\t{prefix}__destroy(s);\n\treturn 0;\n}}\n"
        );
        for with in &usable {
            let (compiles, messages) = compile(*with, &source).unwrap();
            assert!(compiles, "{name} with {}: {messages}", with.0);
            ran += 1;
        }
    }
    assert!(ran == 0 || ran >= 10 * usable.len(), "only {ran}");
    assert!(ran > 0, "no compiler: install gcc or clang-19, and libbpf-dev");
}

#[test]
fn the_struct_is_the_one_that_the_loader_fills() {
    let (_, object) = objects().find(|(name, _)| name == "percpu_counters.bpf.o").unwrap();
    let text = c_light_skeleton(&object, "counters", &COptions::default()).unwrap();
    for part in [
        "struct counters {\n\tstruct bpf_loader_ctx ctx;\n\tstruct {\n\t\tstruct bpf_map_desc percpu;\n\t\tstruct bpf_map_desc \
         percpu_last;\n\t} maps;\n\tstruct {\n\t\tstruct bpf_prog_desc count;\n\t} progs;\n\tstruct {\n\t\tint count_fd;\n\t} \
         links;\n\tstruct counters__percpu {",
        "skel->ctx.sz = 60;",
        "_Static_assert(sizeof(s->percpu->by_size) == 32",
        "mprotect(skel->percpu_last, 4096, PROT_READ)",
    ] {
        assert!(text.contains(part), "{part}\n{}", &text[..2000]);
    }
    let rust = rust_light_skeleton(&object, "counters").unwrap();
    assert!(
        rust.contains("maps: &[(\".percpu\", 48), (\".percpu.last\", 8)],\n        programs: &[\"count\"],"),
        "{}",
        &rust[..900]
    );
}

#[test]
fn what_only_libbpf_can_load_is_refused_by_name() {
    let (_, object) = objects().find(|(name, _)| name == "request_filter.bpf.o").unwrap();
    let error = loader(&object).unwrap_err();
    assert_eq!(error.to_string(), "program 'filter' cannot be in a light skeleton: its section names no program type");
}
