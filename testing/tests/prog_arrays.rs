//! Prog arrays beside the kernel's: errnos, what a lookup gives, iteration, which programs go together; and what only we have:
//! slots from section names, memory that comes back.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use skep::{Engine, LoadError, LoadOptions, Loaded, Mode, Object, Program, Xdp};
use skep_abi::{AttachType, Errno, MapType, ProgType, RawInsn};
use skep_runtime::map::Slot;
use skep_testing::kernel::{self, MapCreate, Prog, ProgLoad};
use skep_testing::tail_calls;

/// `r0 = 0; exit`.
const NOTHING: [RawInsn; 2] =
    [RawInsn { code: 0xb7, dst: 0, src: 0, off: 0, imm: 0 }, RawInsn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 }];

/// A program's type, attach type and whether it takes fragments; the same for both sides.
type Kind = (ProgType, AttachType, bool);

const XDP: Kind = (ProgType::Xdp, AttachType::Xdp, false);
const FRAGS: Kind = (ProgType::Xdp, AttachType::Xdp, true);
const DEVMAP: Kind = (ProgType::Xdp, AttachType::XdpDevmap, false);
const TC: Kind = (ProgType::SchedCls, AttachType::CgroupInetIngress, false);
const SOCKET: Kind = (ProgType::SocketFilter, AttachType::CgroupInetIngress, false);

const KINDS: [(Kind, &str); 5] =
    [(XDP, "xdp"), (FRAGS, "xdp.frags"), (DEVMAP, "xdp/devmap"), (TC, "tc"), (SOCKET, "socket")];

/// `name` alone, in section `section`, as an object with the maps of a vector: `out` and the prog array `t`.
fn object(section: &str, body: &str) -> Object {
    let case = tail_calls::parse(&format!("array t 4\nprog main\n{body}\n")).expect("a vector");
    let mut spec = case.object;
    spec.programs[0].section = section.to_owned();
    spec.programs[0].sec = skep_object::Sec::parse(section);
    Object::from_spec(section, spec)
}

fn ours(engine: &Engine, section: &str) -> (Loaded, Program) {
    let loaded = engine.load(object(section, "r0 = 0\nexit")).expect("loads");
    let program = loaded.program("main").expect("main");
    (loaded, program)
}

fn theirs((prog_type, attach_type, frags): Kind) -> Prog {
    let flags = if frags { skep_abi::prog_flags::BPF_F_XDP_HAS_FRAGS } else { 0 };
    let load = ProgLoad { attach_type, flags, ..ProgLoad::new(prog_type, &NOTHING) };
    load.load().expect("the kernel takes it").prog
}

/// What the user side answers, and a lookup as the number of the program that was put in.
fn script(update: &mut dyn FnMut(u32, usize, u64) -> Result<(), Errno>) -> Vec<Result<(), Errno>> {
    const XDP: usize = 0;
    const TC: usize = 3;
    vec![
        update(0, XDP, 0),
        update(3, XDP, 0),
        update(4, XDP, 0),
        update(u32::MAX, XDP, 0),
        update(1, XDP, 1),
        update(1, XDP, 2),
        update(1, XDP, 4),
        update(1, TC, 0),
        update(4, TC, 1),
        update(0, XDP, 0),
    ]
}

#[test]
fn the_user_side_answers_as_the_kernel() {
    let engine = Engine::new().expect("an engine");
    let programs: Vec<(Loaded, Program)> = KINDS.iter().map(|(_, section)| ours(&engine, section)).collect();
    let (holder, _) = ours(&engine, "xdp");
    let map = holder.raw_map("t").expect("t");
    let answers = script(&mut |slot, program, flags| {
        map.update_slot(&slot.to_ne_bytes(), Slot::Program(programs[program].1.to_callee()), flags)
    });
    let lookup = |slot: u32| map.lookup(&slot.to_ne_bytes(), 0);
    let id = programs[0].1.id().to_ne_bytes().to_vec();
    assert_eq!(lookup(0), Ok(id.clone()));
    assert_eq!(lookup(3), Ok(id));
    let lookups = [1, 4, u32::MAX].map(|slot| lookup(slot).map(drop));
    let deletes = [3, 3, 1, 4, u32::MAX].map(|slot: u32| map.delete(&slot.to_ne_bytes()));
    let nexts = [None, Some(0u32), Some(2), Some(3), Some(9)]
        .map(|key| map.next_key(key.map(u32::to_ne_bytes).as_ref().map(|key| &key[..])));

    if !kernel::require("prog arrays") {
        return;
    }
    let programs: Vec<Prog> = KINDS.iter().map(|(kind, _)| theirs(*kind)).collect();
    let map = MapCreate::new(MapType::ProgArray, 4, 4, 4).create().expect("a prog array");
    let fd = |program: usize| programs[program].as_fd().as_raw_fd().to_ne_bytes();
    let kernels = script(&mut |slot, program, flags| map.update(&slot.to_ne_bytes(), &fd(program), flags));
    assert_eq!(answers, kernels);
    let lookup = |slot: u32| map.lookup(&slot.to_ne_bytes(), 0);
    let id = programs[0].info().expect("info").id.to_ne_bytes().to_vec();
    assert_eq!(lookup(0), Ok(id));
    assert_eq!(lookups, [1, 4, u32::MAX].map(|slot| lookup(slot).map(drop)));
    assert_eq!(deletes, [3, 3, 1, 4, u32::MAX].map(|slot: u32| map.delete(&slot.to_ne_bytes())));
    let kernels = [None, Some(0u32), Some(2), Some(3), Some(9)]
        .map(|key| map.next_key(key.map(u32::to_ne_bytes).as_ref().map(|key| &key[..])));
    assert_eq!(nexts, kernels);
}

#[test]
fn the_same_programs_go_together() {
    let engine = Engine::new().expect("an engine");
    let programs: Vec<(Loaded, Program)> = KINDS.iter().map(|(_, section)| ours(&engine, section)).collect();
    let mut answers = Vec::new();
    for (_, first) in &programs {
        for (_, second) in &programs {
            let (holder, _) = ours(&engine, "xdp");
            let array = holder.prog_array("t").expect("t");
            array.set(0, first).expect("the first fixes the owner");
            answers.push(array.set(1, second));
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), KINDS.len(), "each goes with its own kind");
    if !kernel::require("owners of prog arrays") {
        return;
    }
    let programs: Vec<Prog> = KINDS.iter().map(|(kind, _)| theirs(*kind)).collect();
    let mut kernels = Vec::new();
    for first in &programs {
        for second in &programs {
            let map = MapCreate::new(MapType::ProgArray, 4, 4, 4).create().expect("a prog array");
            let fd = |program: &Prog| program.as_fd().as_raw_fd().to_ne_bytes();
            map.update(&0u32.to_ne_bytes(), &fd(first), 0).expect("the first fixes the owner");
            kernels.push(map.update(&1u32.to_ne_bytes(), &fd(second), 0));
        }
    }
    // The kernel compares attach types of some program types only from a later point of 6.18 on.
    for (number, (ours, theirs)) in answers.iter().zip(&kernels).enumerate() {
        let pair = (KINDS[number / KINDS.len()].1, KINDS[number % KINDS.len()].1);
        assert_eq!(ours, theirs, "{pair:?}");
    }
}

#[test]
fn a_program_that_uses_the_array_fixes_its_owner() {
    let call = ".poked t 0\nr0 = 0\nexit";
    let engine = Engine::new().expect("an engine");
    let user = engine.load(object("xdp", call)).expect("loads");
    let array = user.prog_array("t").expect("t");
    let (_kept, tc) = ours(&engine, "tc");
    assert_eq!(array.set(0, &tc), Err(Errno::EINVAL), "nothing was put in, and yet it is for XDP");
    let options = LoadOptions::default().reuse_map("t", &user.raw_map("t").expect("t"));
    let refused =
        engine.load_with(object("tc", call), &options).expect_err("a TC program does not go with XDP programs");
    let text = refused.to_string();
    assert!(matches!(refused, LoadError::Owner { .. }), "{text}");
    assert!(text.contains("prog array 't'") && text.contains("EINVAL"), "{text}");
    if !kernel::require("the owner that a load fixes") {
        return;
    }
    let map = MapCreate::new(MapType::ProgArray, 4, 4, 4).create().expect("a prog array");
    let insns = |register: u8| {
        let lddw = RawInsn { code: 0x18, dst: register, src: 1, off: 0, imm: map.raw_fd() };
        [
            lddw,
            RawInsn { code: 0, dst: 0, src: 0, off: 0, imm: 0 },
            RawInsn { code: 0xb7, dst: 3, src: 0, off: 0, imm: 0 },
            RawInsn { code: 0x85, dst: 0, src: 0, off: 0, imm: 12 },
            NOTHING[0],
            NOTHING[1],
        ]
    };
    let load = |prog_type, attach_type| {
        let insns = insns(2);
        ProgLoad { attach_type, ..ProgLoad::new(prog_type, &insns) }.load_once().map(|loaded| loaded.prog)
    };
    let _user = load(XDP.0, XDP.1).expect("loads");
    let tc = theirs(TC);
    assert_eq!(map.update(&[0; 4], &tc.as_fd().as_raw_fd().to_ne_bytes(), 0), Err(Errno::EINVAL));
    assert_eq!(load(TC.0, TC.1).expect_err("another type").errno, Errno::EINVAL);
}

#[test]
fn section_names_fill_slots() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects/legacy_tail.bpf.o");
    for mode in [Mode::Jit, Mode::Interp] {
        let engine = Engine::builder().mode(mode).build().expect("an engine");
        let loaded = engine.load(Object::open(&path).expect("committed")).expect("loads");
        let array = loaded.prog_array("calls").expect("calls");
        let id = |name| loaded.program(name).expect("loaded").id();
        assert_eq!(array.programs().collect::<Vec<_>>(), [(0, id("by_name")), (3, id("in_slot_3"))]);
        let out = loaded.program("entry").expect("entry").test_run(Xdp::packet(&[0; 64])).expect("a run");
        assert_eq!(out.action(), skep::XdpAction::Tx);
    }
    let mut object = Object::open(&path).expect("committed");
    object.set_max_entries("calls", 3).expect("calls");
    let refused = Engine::new().expect("an engine").load(object).expect_err("there is no slot 3");
    assert_eq!(refused.to_string(), "map 'calls', slot 3: program 'in_slot_3' does not fit: E2BIG");
}

#[test]
fn a_cycle_of_program_and_array_does_not_leak() {
    // Each program of the loop is in the array that it calls through.
    let vector = "array t 4\nslot t 0 main\nslot t 1 second\n\
                  prog main\n.poked t 1\nr0 = 1\nexit\nprog second\n.cached t 0\nr0 = 2\nexit\n";
    let case = tail_calls::parse(vector).expect("a vector");
    let engine = Engine::new().expect("an engine");
    let load = || engine.load(Object::from_spec("cycle", case.object.clone())).expect("loads");
    let first = load();
    let state = std::sync::Arc::clone(first.program("main").expect("main").engine());
    let used = || {
        // What is taken apart may leave parts of its own to be taken apart after another grace period.
        for _ in 0..8 {
            engine.cpus().barrier().expect("outside of runs");
        }
        state.arena().expect("compiled").used()
    };
    let one = used();
    drop(first);
    assert_eq!(used(), 0, "the code of a dropped object is gone");
    for _ in 0..100 {
        drop(load());
    }
    let program = load().program("main").expect("main");
    // A handle of one program keeps its whole object, the other program of the loop included.
    let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
    assert_eq!(program.run(&mut packet).expect("a run"), 2, "the 33rd call enters the second program");
    assert_eq!(used(), one);
    drop(program);
    assert_eq!(used(), 0);
}

#[test]
fn reported_memory_includes_the_targets() {
    let engine = Engine::new().expect("an engine");
    let memory = |slots: u32| {
        let case = tail_calls::parse(&format!("array t {slots}\nprog main\nr0 = 0\nexit\n")).expect("a vector");
        let loaded = engine.load(Object::from_spec("memory", case.object)).expect("loads");
        loaded.raw_map("t").expect("t").memory()
    };
    // A word that code reads and a reference to the program, for each slot.
    assert!(memory(1024) - memory(24) >= 1000 * 16, "{} and {}", memory(1024), memory(24));
}
