//! What a load may be told: which maps to make, which to use again, and where their values lie.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::fd::OwnedFd;

use skep::{Engine, LoadOptions, Mode, Object, Xdp};
use skep_abi::MapType;
use skep_runtime::map::array::Array;
use skep_runtime::map::{Map, MapSpec};

fn object(file: &str) -> Object {
    Object::open(format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn engines() -> [Engine; 2] {
    [Mode::Interp, Mode::Jit].map(|mode| Engine::builder().vcpus(2).mode(mode).build().unwrap())
}

fn read(file: &OwnedFd, at: u64) -> u32 {
    let mut bytes = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(file.try_clone().unwrap()), &mut bytes, at).unwrap();
    u32::from_ne_bytes(bytes)
}

#[test]
fn shared_data_is_one_memory_with_its_file() {
    for engine in engines() {
        let data = object("crates/object/tests/c/data.bpf.o");
        let counter = data.spec().variable("counter").unwrap().offset;
        let loaded = engine.load_with(data.clone(), &LoadOptions::default().share_data()).unwrap();
        let map = loaded.raw_map(".data").unwrap();
        let file = map.downcast::<Array>().unwrap().take_file().unwrap();
        assert!(map.downcast::<Array>().unwrap().take_file().is_none(), "there is one");
        let before = read(&file, counter.into());
        loaded.program("use").unwrap().test_run(Xdp::packet(&[0; 64])).unwrap();
        let value = map.lookup(&[0; 4], 0).unwrap();
        let now = u32::from_ne_bytes(value[counter as usize..][..4].try_into().unwrap());
        assert_ne!(before, now, "the program counts");
        assert_eq!(read(&file, counter.into()), now);
        // A per-CPU map is never in a file, and without the option no map is.
        assert!(loaded.raw_map(".percpu").unwrap().downcast::<Array>().is_none());
        let plain = engine.load(data).unwrap().raw_map(".data").unwrap();
        assert!(plain.downcast::<Array>().unwrap().take_file().is_none());
    }
}

#[test]
fn a_map_that_is_not_created_is_refused_where_a_program_reaches_it() {
    for engine in engines() {
        let mut firewall = object("examples/xdp_firewall.bpf.o");
        firewall.set_autocreate("verdicts", false).unwrap();
        let error = engine.load(firewall).unwrap_err();
        assert!(error.to_string().contains("map 'verdicts' is not created"), "{error}");

        // Without the programs that use it, the rest loads.
        let mut firewall = object("examples/xdp_firewall.bpf.o");
        firewall.set_autocreate("verdicts", false).unwrap();
        firewall.set_autoload("firewall", false).unwrap();
        let loaded = engine.load(firewall).unwrap();
        assert!(loaded.raw_map("verdicts").is_err());
        assert!(loaded.maps().count() > 0);
        assert!(object("examples/xdp_firewall.bpf.o").set_autocreate("verdict", false).is_err());
    }
}

#[test]
fn constants_are_used_again_only_where_they_are_equal() {
    for engine in engines() {
        let version =
            |number: i32| object("crates/skep/tests/data/version.bpf.o").set_rodata("version", number).unwrap();
        let first = engine.load(version(1)).unwrap();
        let rodata = first.raw_map(".rodata").unwrap();
        let options = LoadOptions::default().reuse_map(".rodata", &rodata);
        let again = engine.load_with(version(1), &options).unwrap();
        assert_eq!(again.raw_map(".rodata").unwrap().id(), rodata.id());
        let error = engine.load_with(version(2), &options).unwrap_err();
        assert_eq!(error.to_string(), "map '.rodata': cannot be adopted: its constants differ: EINVAL");
    }
}

/// The maps of an object whose programs are not loaded.
fn maps_alone(file: &str) -> Object {
    let mut alone = object(file);
    let programs: Vec<String> = alone.programs().iter().map(|program| program.name.clone()).collect();
    programs.iter().for_each(|program| alone.set_autoload(program, false).unwrap());
    alone
}

#[test]
fn a_map_is_used_again_only_where_it_has_the_shape_that_is_declared() {
    let refusal = |engine: &Engine, file: &str, name: &str, map: &Map| {
        let options = LoadOptions::default().reuse_map(name, map);
        engine.load_with(maps_alone(file), &options).err().map(|error| error.to_string())
    };
    for engine in engines() {
        // A hash of 4 and 8 bytes with a flag: each respect in which another map may differ.
        let file = "crates/object/tests/c/maps.bpf.o";
        let declared = maps_alone(file).spec().maps.iter().find(|map| map.map_flags != 0).unwrap().clone();
        let same = MapSpec::new(MapType::Hash, declared.key_size, declared.value_size, declared.max_entries)
            .flags(declared.map_flags);
        let differ = [
            MapSpec { map_type: Some(MapType::LruHash), flags: 0, ..same.clone() },
            MapSpec { key_size: same.key_size + 4, ..same.clone() },
            MapSpec { value_size: same.value_size + 8, ..same.clone() },
            MapSpec { max_entries: same.max_entries + 1, ..same.clone() },
            MapSpec { flags: 0, ..same.clone() },
        ];
        let create = |spec: &MapSpec| Map::create(spec, engine.cpus()).unwrap();
        assert_eq!(refusal(&engine, file, &declared.name, &create(&same)), None);
        let wanted = format!("map '{}': cannot be adopted: its layout differs: EINVAL", declared.name);
        for other in &differ {
            assert_eq!(refusal(&engine, file, &declared.name, &create(other)), Some(wanted.clone()), "{other:?}");
        }

        // What a value keeps is part of its shape, and objects of programs stay with the programs that made them.
        let file = "testing/c/objects.bpf.o";
        let first = engine.load(maps_alone(file)).unwrap().raw_map("slots").unwrap();
        let info = first.info();
        let plain = create(&MapSpec::new(MapType::Array, info.key_size, info.value_size, info.max_entries));
        let refused = |map| refusal(&engine, file, "slots", map).unwrap();
        assert_eq!(refused(&plain), "map 'slots': cannot be adopted: its layout differs: EINVAL");
        assert_eq!(refused(&first), "map 'slots': cannot be adopted: it keeps objects of programs: EBUSY");
    }
}
