//! What a load may be told: which maps to make, which to use again, and where their values lie.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::fd::OwnedFd;

use skep::{Engine, LoadOptions, Mode, Object, Xdp};
use skep_runtime::map::array::Array;

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
