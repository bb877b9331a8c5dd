//! Objects that `skep_object::link_objects` made, run on the engine: the halves call each other and share maps and data.

#![expect(clippy::unwrap_used, reason = "tests")]

use skep::{Engine, Loaded, Mode, Object, Xdp};
use skep_object::{LinkInput, link_objects};

include!("../../skel/tests/generated/lib_sub.inc");

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../object/tests/c/link/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn linked(names: [&str; 2]) -> Object {
    let files = names.map(|name| (name, read(name)));
    let inputs: Vec<LinkInput<'_>> = files.iter().map(|(name, bytes)| LinkInput { name, bytes }).collect();
    Object::from_bytes("all.bpf.o", &link_objects(&inputs).unwrap()).unwrap()
}

fn run(loaded: &Loaded, program: &str, queue: u32) -> u32 {
    loaded.program(program).unwrap().test_run(Xdp::packet(&[0; 64]).rx_queue_index(queue)).unwrap().retval
}

fn everywhere() -> Vec<Loaded> {
    let mut all = Vec::new();
    for names in [["main", "lib"], ["lib", "main"]] {
        for mode in [Mode::Interp, Mode::Jit] {
            let engine = Engine::builder().vcpus(2).mode(mode).build().unwrap();
            all.push(engine.load(linked(names)).unwrap());
        }
    }
    all
}

#[test]
fn both_halves_run_as_one_object() {
    for loaded in everywhere() {
        loaded.map::<u32, [u32; 2]>("shared_map").unwrap().set(&1, &[0, 9]).unwrap();
        // add(2, 9) is 2 + 9 + 11, the strong chosen(scale(1)) is 3 + 7 + 1, only_weak(2) is 42.
        assert_eq!(run(&loaded, "first", 2), 22 + 11 + 42);
        // node.weight 1, scale(2) of this half 13, main_hits 1001.
        assert_eq!(run(&loaded, "second", 0), 1 + 13 + 1001);
        // scale(10) of the other half 39, and 'c' of its constant.
        assert_eq!(run(&loaded, "lib_target", 2), 39 + u32::from(b'c'));
        assert_eq!(loaded.map::<u32, [u64; 2]>("own_map").unwrap().get(&1).unwrap()[0], 1);
    }
}

#[test]
fn a_subskeleton_finds_the_library_in_the_whole() {
    for loaded in everywhere() {
        let lib = lib_bpf::Subskeleton::open(&loaded).unwrap();
        assert_eq!((lib.data.lib_counter.get().unwrap(), lib.rodata.lib_limit.get().unwrap()), (50, 3));
        run(&loaded, "first", 0);
        assert_eq!(lib.data.lib_counter.get().unwrap(), 53);
        lib.data.lib_counter.set(&-7).unwrap();
        run(&loaded, "first", 0);
        assert_eq!(lib.data.lib_counter.get().unwrap(), -4);
        run(&loaded, "lib_target", 1);
        assert_eq!(lib.bss.lib_table.get().unwrap(), [0, 1, 0]);
        assert_eq!(lib.bss.lib_node.get().unwrap().weight, 1);
        lib.maps.shared_map.set(&1, &lib_bpf::types::limits { low: 1, high: 100 }).unwrap();
        // add(0, 100), chosen and only_weak as above.
        assert_eq!(run(&loaded, "first", 0), 111 + 11 + 42);
        assert_eq!(lib.progs.lib_target.name(), "lib_target");
    }
    // An object without the library has not its maps.
    let engine = Engine::new().unwrap();
    let other = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o")).unwrap();
    assert!(lib_bpf::Subskeleton::open(&engine.load(other).unwrap()).is_err());
}
