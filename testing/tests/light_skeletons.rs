//! Light skeletons: a loader program loads what an ordinary load does, on this engine and in the running kernel.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a panic is the failure")]

use skep::{Engine, Light, LightSkeleton, Mode, Object, RawMap};
use skep_abi::RawInsn;
use skep_skel::LoaderProgram;
use skep_testing::examples::{
    EXAMPLES, captures, contents, kernel_contents, load, objects, packets_for, run, run_in_kernel,
};
use skep_testing::kernel;
use skep_testing::kernel_light::KernelLight;

fn open(file: &str) -> Object {
    Object::open(objects().join(format!("{file}.bpf.o"))).unwrap()
}

fn load_light(engine: &Engine, object: &Object, loader: &LoaderProgram, values: &[(&str, &[u8])]) -> Light {
    let maps = object.maps().iter().map(|map| (map.name.as_str(), map.image_len())).collect::<Vec<_>>();
    let programs: Vec<&str> = object.programs().iter().map(|program| program.name.as_str()).collect();
    let insns = RawInsn::program_to_bytes(&loader.insns);
    let light = LightSkeleton { insns: &insns, data: &loader.data, maps: &maps, programs: &programs };
    let loaded = engine.load_light(&light, values).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    assert_eq!(engine.open_fds(), 0, "descriptors are left open");
    loaded
}

/// The examples with what packets enter; the one with per-CPU data too.
fn examples() -> Vec<(&'static str, &'static str)> {
    EXAMPLES.into_iter().chain([("percpu_counters", "count")]).collect()
}

fn maps(object: &Object, light: &Light) -> Vec<(String, RawMap)> {
    object.maps().iter().map(|map| (map.name.clone(), light.map(&map.name).unwrap())).collect()
}

#[test]
fn a_loader_loads_what_an_ordinary_load_does() {
    for (file, program) in examples() {
        let object = open(file);
        let loader = skep_skel::loader(object.spec()).unwrap();
        assert_eq!(loader, skep_skel::loader(object.spec()).unwrap(), "{file}: the same bytes");
        for mode in [Mode::Jit, Mode::Interp] {
            for capture in captures() {
                let what = format!("{file} over {} ({mode:?})", capture.file_name().unwrap().to_string_lossy());
                let packets = packets_for(&object, &capture);
                let engine = Engine::builder().mode(mode).build().unwrap();
                let light = load_light(&engine, &object, &loader, &[]);
                let maps = maps(&object, &light);
                let maps = || maps.iter().map(|(name, map)| (name.as_str(), map));
                let ordinary = load(&object, mode);
                assert_eq!(contents(maps()), contents(ordinary.maps()), "{what}: maps before");
                for (spec, map) in object.maps().iter().zip(maps()) {
                    let (light, other) = (map.1.info(), ordinary.raw_map(&spec.name).unwrap());
                    assert_eq!(light.name, other.info().name);
                    assert_eq!((light.map_type, light.flags), (other.info().map_type, other.info().flags), "{what}");
                    assert_eq!(map.1.object().is_frozen(), other.object().is_frozen(), "{what}: {}", spec.name);
                    assert_eq!(light.record, other.info().record, "{what}: {}", spec.name);
                }
                let verdicts = run(&ordinary.program(program).unwrap(), &packets);
                assert_eq!(run(&light.program(program).unwrap(), &packets), verdicts, "{what}");
                assert_eq!(contents(maps()), contents(ordinary.maps()), "{what}: maps afterwards");
                for spec in object.programs() {
                    let (light, other) = (light.program(&spec.name).unwrap(), ordinary.program(&spec.name).unwrap());
                    assert_eq!(light.tag(), other.tag(), "{what}: {}", spec.name);
                    assert_eq!(light.verified_insns(), other.verified_insns(), "{what}: {}", spec.name);
                }
            }
        }
    }
}

#[test]
fn the_kernel_runs_the_same_loader() {
    if !kernel::require("the_kernel_runs_the_same_loader") {
        return;
    }
    for (file, program) in EXAMPLES {
        let object = open(file);
        let loader = skep_skel::loader(object.spec()).unwrap();
        let index = object.programs().iter().position(|p| p.name == program).unwrap();
        for capture in captures() {
            let what = format!("{file} over {}", capture.file_name().unwrap().to_string_lossy());
            let packets = packets_for(&object, &capture);
            let (maps, programs) = (object.maps().len(), object.programs().len());
            let light = KernelLight::load(&loader.insns, &loader.data, maps, programs);
            let light = light.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let ordinary = load(&object, Mode::Jit);
            let verdicts = run(&ordinary.program(program).unwrap(), &packets);
            assert_eq!(run_in_kernel(light.programs[index].as_ref().unwrap(), &packets), verdicts, "{what}");
            let map = |name: &str| {
                let index = object.maps().iter().position(|map| map.name == name).unwrap();
                light.maps[index].as_ref().unwrap()
            };
            assert_eq!(kernel_contents(&object, map), contents(ordinary.maps()), "{what}: maps");
        }
    }
}

/// Objects of the object reader's tests: CO-RE, kernel functions, configuration, prog arrays, maps of maps.
fn others() -> Vec<(String, Object)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/object/tests/c");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".bpf.o") {
            out.push((name, Object::open(&path).unwrap()));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

#[test]
fn loaders_agree_with_loads_on_every_object() {
    let (mut loaded, mut refused) = (Vec::new(), Vec::new());
    for (name, mut object) in others() {
        while let Err(skep_skel::Error::Loader { program, .. }) = skep_skel::loader(object.spec()) {
            object.set_autoload(&program, false).unwrap();
        }
        let engine = Engine::new().unwrap();
        let loader = match skep_skel::loader(object.spec()) {
            Ok(loader) => loader,
            Err(error) => {
                assert!(engine.load(object).is_err(), "{name}: {error}");
                refused.push(name);
                continue;
            }
        };
        let maps = object.maps().iter().map(|map| (map.name.as_str(), map.image_len())).collect::<Vec<_>>();
        let programs: Vec<&str> = object.programs().iter().map(|program| program.name.as_str()).collect();
        let insns = RawInsn::program_to_bytes(&loader.insns);
        let light = LightSkeleton { insns: &insns, data: &loader.data, maps: &maps, programs: &programs };
        match (engine.load(object.clone()), engine.load_light(&light, &[])) {
            (Ok(ordinary), Ok(light)) => {
                for program in ordinary.programs() {
                    let other = light.program(program.name()).unwrap();
                    assert_eq!(other.verified_insns(), program.verified_insns(), "{name}: {}", program.name());
                    assert_eq!(other.xlated().insns, program.xlated().insns, "{name}: {}", program.name());
                }
                loaded.push(name);
            }
            (Err(_), Err(_)) => refused.push(name),
            (ordinary, light) => {
                panic!("{name}: {:?} but {:?}", ordinary.map(drop), light.map(drop));
            }
        }
        assert_eq!(engine.open_fds(), 0);
    }
    println!("loaded {loaded:?}, refused {refused:?}");
    assert!(loaded.len() >= 4, "{loaded:?}");
}

/// A relocation against the kernel's types is answered where the loader runs: there the kernel's offset, here the object's.
#[test]
fn relocations_are_passed_along() {
    const SOURCE: &str = "struct net_device { int pad; int ifindex; } __attribute__((preserve_access_index));
        __attribute__((section(\"xdp\"))) int offset(void *ctx)
        { return __builtin_preserve_field_info(((struct net_device *)0)->ifindex, 0); }
        char _license[] __attribute__((section(\"license\"))) = \"GPL\";";
    let folder = std::env::temp_dir().join(format!("skep-core-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, object) = (folder.join("core.bpf.c"), folder.join("core.bpf.o"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut clang = std::process::Command::new("clang-19");
    clang.args(["-O2", "-g", "--target=bpf", "-c"]).arg(&source).arg("-o").arg(&object);
    let Ok(out) = clang.output() else {
        println!("skipped: no clang-19");
        return;
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let object = Object::open(&object).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(object.programs()[0].core_relos.len(), 1);
    let loader = skep_skel::loader(object.spec()).unwrap();
    let light = load_light(&Engine::new().unwrap(), &object, &loader, &[]);
    let frame = vec![vec![0; 64]];
    assert_eq!(run(&light.program("offset").unwrap(), &frame)[0].0, 4);
    if !kernel::require("relocations_are_passed_along") {
        return;
    }
    let types = skep_btf::Btf::parse(&std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap();
    let device = types.find("net_device", skep_btf::Kind::Struct).unwrap();
    let offset = types.find_member(device, "ifindex").unwrap().bit_offset / 8;
    assert_ne!(offset, 4, "the kernel's struct is another one");
    let light = KernelLight::load(&loader.insns, &loader.data, 0, 1).unwrap();
    assert_eq!(run_in_kernel(light.programs[0].as_ref().unwrap(), &frame)[0].0, offset);
}

/// The generated header in a C program with libbpf's own `skel_internal.h`: opened, changed, loaded and run in the kernel.
#[test]
fn a_c_program_loads_a_light_skeleton_into_the_kernel() {
    let has_header = std::path::Path::new("/usr/include/bpf/skel_internal.h").exists();
    if !kernel::require("a_c_program_loads_a_light_skeleton_into_the_kernel") || !has_header {
        return;
    }
    let object = open("xdp_firewall");
    let options = skep_skel::COptions { define_types: true };
    let header = skep_skel::c_light_skeleton(object.spec(), "firewall", &options).unwrap();
    let folder = std::env::temp_dir().join(format!("skep-light-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("firewall.lskel.h"), header).unwrap();
    std::fs::write(folder.join("main.c"), PROGRAM).unwrap();
    let program = folder.join("main");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut compile = std::process::Command::new(compiler);
    compile.args(["-Wall", "-Wextra", "-Werror", "-O1", "-o"]).arg(&program).arg(folder.join("main.c"));
    let out = compile.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = std::process::Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "before 1, after 0, result 2, pages alike\n", "{}", out.status);
}

const PROGRAM: &str = r#"
#include <stdio.h>
#include "firewall.lskel.h"

int main(void)
{
	struct firewall *skel = firewall__open();
	union bpf_attr attr;
	char frame[64] = {};
	int before, err;

	if (!skel)
		return 1;
	before = skel->rodata->drop_fragments;
	skel->rodata->drop_fragments = 0;
	err = firewall__load(skel);
	if (err) {
		printf("load: %d\n", err);
		return 2;
	}
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = skel->progs.firewall.prog_fd;
	attr.test.data_in = (__u64)(long)frame;
	attr.test.data_size_in = sizeof(frame);
	attr.test.repeat = 1;
	if (skel_sys_bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
		return 3;
	/* The section's memory is the map's by now. */
	{
		__u64 value[512] = {};
		__u32 key = 0;
		union bpf_attr elem;

		memset(&elem, 0, sizeof(elem));
		elem.map_fd = skel->maps.rodata.map_fd;
		elem.key = (__u64)(long)&key;
		elem.value = (__u64)(long)value;
		if (skel_sys_bpf(BPF_MAP_LOOKUP_ELEM, &elem, sizeof(elem)))
			return 4;
		printf("before %d, after %d, result %u, %s\n", before, skel->rodata->drop_fragments, attr.test.retval,
		       memcmp(value, skel->rodata, sizeof(*skel->rodata)) ? "pages differ" : "pages alike");
	}
	firewall__destroy(skel);
	return 0;
}
"#;
