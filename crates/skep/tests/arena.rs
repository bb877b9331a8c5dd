//! Arenas from the process: its own pointers into them, variables before load and after it, pages that come and go.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use skep::{Arena, Engine, Loaded, Mode, Object, RawMap, Skb, Syscall};
use skep_abi::{Errno, ProgType};

fn open(name: &str) -> Object {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testing/c");
    Object::open(folder.join(format!("{name}.bpf.o"))).unwrap()
}

/// Loads the programs whose name starts with this.
fn load(mut object: Object, mode: Mode, prefix: &str) -> Loaded {
    let names: Vec<String> = object.programs().iter().map(|program| program.name.clone()).collect();
    for name in &names {
        let wanted = name.starts_with(prefix) && !name.starts_with("ok_verdict_");
        object.set_autoload(name, wanted).unwrap();
    }
    Engine::builder().mode(mode).vcpus(4).build().unwrap().load(object).unwrap()
}

fn run(loaded: &Loaded, name: &str) -> u64 {
    let program = loaded.program(name).unwrap();
    if program.prog_type() == ProgType::Syscall {
        return program.run(&mut Syscall::bytes(&[])).unwrap();
    }
    program.run(&mut Skb::packet(&[0; 64]).build(ProgType::SchedCls).unwrap()).unwrap()
}

fn arena(map: &RawMap) -> &Arena {
    map.downcast().unwrap()
}

fn offset(loaded: &Loaded, variable: &str) -> usize {
    loaded.object().spec().variable(variable).unwrap().offset as usize
}

fn word(arena: &Arena, offset: usize) -> u64 {
    u64::from_ne_bytes(arena.read(offset, 8).unwrap().try_into().unwrap())
}

#[test]
fn the_process_follows_pointers_that_a_program_stored() {
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = load(open("arena_globals"), mode, "ok_pointers");
        let map = loaded.raw_map("arena").unwrap();
        let arena = arena(&map);
        run(&loaded, "ok_pointers");
        let (start, len) = arena.memory();
        assert_eq!((start as u64, len), (arena.user_start(), 8 * 4096));
        let mut at = word(arena, offset(&loaded, "head"));
        let mut values = Vec::new();
        while at != 0 {
            assert!((start as u64..start as u64 + len as u64).contains(&at), "{at:#x}");
            let node = std::ptr::with_exposed_provenance::<[u64; 2]>(usize::try_from(at).unwrap());
            // SAFETY: an address in the arena, whose memory can be read as long as the map is there.
            let [next, value] = unsafe { node.read_volatile() };
            values.push(value);
            at = next;
        }
        assert_eq!(values, [8, 7, 6, 5, 4, 3, 2, 1], "{mode:?}");
    }
}

#[test]
fn variables_are_set_before_load_and_after_it() {
    for mode in [Mode::Interp, Mode::Jit] {
        let mut object = open("arena_globals");
        object.set_variable("first", &1000_u64.to_ne_bytes()).unwrap();
        let loaded = load(object, mode, "ok_initial");
        assert_eq!(run(&loaded, "ok_initial"), 1003, "{mode:?}");
        let map = loaded.raw_map("arena").unwrap();
        arena(&map).write(offset(&loaded, "hidden"), &500_u64.to_ne_bytes()).unwrap();
        assert_eq!(run(&loaded, "ok_initial"), 1501, "{mode:?}");
    }
}

#[test]
fn an_arena_too_small_for_its_variables_is_refused() {
    let mut object = open("arena_globals");
    let error = object.set_max_entries("arena", 1).unwrap_err();
    assert!(error.to_string().contains("global variables") || format!("{error:?}").contains("global variables"));
    object.set_max_entries("arena", 2).unwrap();
}

#[test]
fn pages_that_the_process_asks_for_are_nobody_elses() {
    let loaded = load(open("arena_globals"), Mode::Jit, "ok_pages_behind");
    let map = loaded.raw_map("arena").unwrap();
    let arena = arena(&map);
    // Two pages of variables, then one that the program gets, unless the process has it.
    arena.write(2 * 4096 + 5, b"mine").unwrap();
    assert_eq!(run(&loaded, "ok_pages_behind") % 10, 3);
    assert_eq!(arena.read(2 * 4096 + 5, 4).unwrap(), b"mine");
    assert_eq!(arena.write(8 * 4096 - 3, b"none"), Err(Errno::EFAULT));
    assert_eq!(arena.read(usize::MAX, 4), Err(Errno::EFAULT));
}

#[test]
fn copies_of_an_object_have_arenas_of_their_own() {
    let loaded: Vec<Loaded> = (0..3).map(|_| load(open("arena"), Mode::Jit, "ok_low_half")).collect();
    let maps: Vec<RawMap> = loaded.iter().map(|loaded| loaded.raw_map("arena").unwrap()).collect();
    for map in &maps {
        // The object asks for this one's low half.
        assert_eq!(arena(map).user_start() % (1 << 32), (1_u64 << 44) % (1 << 32));
        assert_eq!(maps.iter().filter(|other| arena(other).user_start() == arena(map).user_start()).count(), 1);
    }
}

#[test]
fn nothing_faults_where_pages_come_and_go() {
    for mode in [Mode::Interp, Mode::Jit] {
        let loaded = load(open("arena"), mode, "ok_");
        let programs: Vec<String> = loaded.programs().map(|program| program.name().to_owned()).collect();
        assert!(programs.len() >= 20, "{programs:?}");
        let rounds = if mode == Mode::Jit { 300 } else { 30 };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (loaded, programs) = (&loaded, &programs);
                scope.spawn(move || {
                    for round in 0..rounds {
                        run(loaded, &programs[(round * 7 + thread) % programs.len()]);
                    }
                });
            }
        });
    }
}
