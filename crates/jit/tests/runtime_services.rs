//! What compiled code does with the layout: maps, per-CPU data, tail calls, callbacks, packet loads, statistics.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod support;

use std::collections::BTreeMap;

use skep_abi::asm::assemble;
use skep_abi::{CallTarget, Imm64, Insn, RawInsn, Reg, TailCallImm};
use skep_jit::{Arch, CpuFeatures, Layout, MapAccess, MapLayout, Options, RelocKind, SiteKind, TscScale, compile};
use skep_verifier::{Const, MapArg, Poke, Xlated};
use support::machine::{CPU_SIZE, Machine};

const TAIL_CALLS: i32 = 64;
const CPU_ID: i32 = 0;

fn options() -> [Options; 2] {
    let all = Options::new(Arch::host().expect("a back end for this machine")).with_features(CpuFeatures::detect());
    [all, all.with_optimize(false)]
}

fn cpu() -> Vec<u64> {
    vec![0; CPU_SIZE / 8]
}

/// The program in the assembler's syntax, one subprogram.
fn program(text: &str) -> Xlated {
    support::from_raw(assemble(text).expect("assembles"), &[0], 64)
}

/// A program from instructions.
fn insns(parts: &[&[Insn]], starts: &[usize]) -> Xlated {
    support::xlated(&parts.concat(), starts, 64)
}

fn text(text: &str) -> Vec<Insn> {
    let raw: Vec<RawInsn> = assemble(text).expect("assembles");
    let mut at = 0;
    let mut list = Vec::new();
    while at < raw.len() {
        let insn = skep_abi::decode(&raw, at).expect("decodes");
        at += insn.slots();
        list.push(insn);
    }
    list
}

fn map_fd(dst: Reg, map: i32) -> Insn {
    Insn::LdImm64 { dst, imm: Imm64::MapFd(map) }
}

fn lookup() -> Insn {
    Insn::Call { target: CallTarget::Helper(1) }
}

/// Marks every lookup and tail call as one of map `map`.
fn know_map(xlated: &mut Xlated, map: u32) {
    for facts in &mut xlated.facts {
        facts.helper_map = MapArg::Known(map);
    }
}

fn array_lookup(null_test: &str) -> Xlated {
    let mut xlated = insns(
        &[
            &text("*(u32 *)(r10 -4) = 0\nr0 = *(u64 *)(r1 +0)\n*(u32 *)(r10 -4) = r0\nr2 = r10\nr2 += -4"),
            &[map_fd(Reg::R1, 0), lookup()],
            &text(null_test),
        ],
        &[0],
    );
    know_map(&mut xlated, 0);
    xlated
}

#[test]
fn array_lookups_are_inlined() {
    for stride in [1_u32, 2, 4, 8, 16, 24, 40, 4096] {
        let memory = vec![0x11_u8; stride as usize * 8 + 8];
        let values = memory.as_ptr() as u64;
        let access = MapAccess::Array { values, stride, max_entries: 7 };
        let layout = Layout { maps: vec![MapLayout { object: 0xdead, access }], ..Layout::default() };
        let tests = ["exit", "if r0 == 0 goto +1\nexit\nr0 = 77\nexit", "if r0 != 0 goto +2\nr0 = 77\nexit\nexit"];
        for (test, options) in tests.iter().flat_map(|test| options().map(|options| (test, options))) {
            let image = compile(&array_lookup(test), &layout, &options).expect("compiles");
            assert!(image.relocations.is_empty(), "no helper is called");
            let machine = Machine::new(&image);
            for index in [0_u64, 1, 6, 7, 8, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0003] {
                let mut ctx = index.to_le_bytes().to_vec();
                let key = index & 0xffff_ffff;
                let missing = if test.contains("77") { 77 } else { 0 };
                let expected = if key < 7 { values + key * u64::from(stride) } else { missing };
                assert_eq!(machine.run(&mut ctx, &mut cpu()), expected, "index {index:#x} stride {stride} {test}");
            }
        }
    }
}

#[test]
fn one_entry_and_constant_keys() {
    let access = MapAccess::Array { values: 0x7f12_3456_7000, stride: 24, max_entries: 1 };
    let layout = Layout { maps: vec![MapLayout { object: 0xdead, access }], ..Layout::default() };
    for options in options() {
        let image = compile(&array_lookup("exit"), &layout, &options).expect("compiles");
        let machine = Machine::new(&image);
        assert_eq!(machine.run(&mut 0_u64.to_le_bytes().to_vec(), &mut cpu()), 0x7f12_3456_7000);
        assert_eq!(machine.run(&mut 1_u64.to_le_bytes().to_vec(), &mut cpu()), 0);
    }
    let access = MapAccess::Array { values: 0x7f12_3456_7000, stride: 24, max_entries: 5 };
    let layout = Layout { maps: vec![MapLayout { object: 0xdead, access }], ..Layout::default() };
    for (key, expected) in [(0, 0x7f12_3456_7000), (4, 0x7f12_3456_7060), (5, 0)] {
        let mut xlated = array_lookup("exit");
        for facts in &mut xlated.facts {
            facts.const_key = Const::Known(key);
        }
        for options in options() {
            let machine = Machine::new(&compile(&xlated, &layout, &options).expect("compiles"));
            assert_eq!(machine.run(&mut 3_u64.to_le_bytes().to_vec(), &mut cpu()), expected);
        }
    }
}

#[test]
fn percpu_lookups_add_the_base() {
    for (stride, off) in [(8_u32, 0x100_u64), (24, 0x100), (8, 0x1_2345_6789)] {
        let access = MapAccess::PerCpuArray { off, stride, max_entries: 3 };
        let layout = Layout { maps: vec![MapLayout { object: 0xdead, access }], ..Layout::default() };
        for options in options() {
            let machine = Machine::new(&compile(&array_lookup("exit"), &layout, &options).expect("compiles"));
            let mut cpu = cpu();
            let base = cpu.as_ptr() as u64;
            for (key, expected) in [(0_u64, base + off), (2, base + off + 2 * u64::from(stride)), (3, 0)] {
                assert_eq!(machine.run(&mut key.to_le_bytes().to_vec(), &mut cpu), expected);
            }
        }
    }
}

#[test]
fn percpu_variables_and_cpu_number() {
    let access = MapAccess::PerCpuArray { off: 0x200, stride: 16, max_entries: 1 };
    let layout = Layout {
        maps: vec![MapLayout { object: 1, access }],
        tail_calls: TAIL_CALLS,
        cpu_id: CPU_ID,
        ..Layout::default()
    };
    let value = Insn::LdImm64 { dst: Reg::R3, imm: Imm64::MapValue { fd: 0, off: 8 } };
    let percpu = Insn::MovPercpu { dst: Reg::R3, src: Reg::R3 };
    let xlated =
        insns(&[&[value, percpu], &text("r2 = *(u64 *)(r3 +0)\nr2 += 1\n*(u64 *)(r3 +0) = r2\ncall 8\nexit")], &[0]);
    for options in options() {
        let machine = Machine::new(&compile(&xlated, &layout, &options).expect("compiles"));
        let mut cpu = cpu();
        cpu[0] = 5;
        for _ in 0..3 {
            assert_eq!(machine.run(&mut [0; 8], &mut cpu), 5);
        }
        assert_eq!(cpu[(0x200 + 8) / 8], 3);
    }
}

extern "C" fn show_args(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, cpu: u64) -> u64 {
    // SAFETY: the tests pass their vCPU memory.
    let seen = unsafe { std::slice::from_raw_parts_mut((cpu + 512) as *mut u64, 6) };
    seen.copy_from_slice(&[r1, r2, r3, r4, r5, cpu]);
    r1 + r2 + r3 + r4 + r5
}

/// Calls its first argument back `r2` times with the signature of helpers.
extern "C" fn call_back(f: u64, times: u64, arg: u64, _: u64, _: u64, cpu: u64) -> u64 {
    // SAFETY: the program passes the address of its thunk.
    let f = unsafe { std::mem::transmute::<u64, extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64>(f) };
    (0..times).map(|i| f(i, arg, 0, 0, 0, cpu)).sum()
}

#[test]
fn helpers_get_arguments_and_the_base() {
    let helpers = BTreeMap::from([(7_u32, show_args as *const () as u64)]);
    let layout = Layout { helpers, ..Layout::default() };
    let xlated = program("r6 = r1\nr1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall 7\nr0 += r6\nr0 -= r6\nexit");
    for options in options() {
        let machine = Machine::new(&compile(&xlated, &layout, &options).expect("compiles"));
        let mut cpu = cpu();
        assert_eq!(machine.run(&mut [0; 8], &mut cpu), 15);
        assert_eq!(cpu[64..70], [1, 2, 3, 4, 5, cpu.as_ptr() as u64]);
    }
}

#[test]
fn callbacks_run_through_thunks() {
    let helpers = BTreeMap::from([(7_u32, call_back as *const () as u64)]);
    let layout = Layout { helpers, cpu_id: CPU_ID, ..Layout::default() };
    // main: r0 = call_back(callback, 4, 10); callback: r0 = r1 + r2 + cpu number, with registers of its own
    let main = [
        &[Insn::LdImm64 { dst: Reg::R1, imm: Imm64::Func(6) }][..],
        &text("r6 = 1000\nr2 = 4\nr3 = 10\ncall 7\nr0 += r6\nexit"),
    ]
    .concat();
    let callback =
        text("r6 = r1\nr7 = r2\n*(u64 *)(r10 -8) = r7\ncall 8\nr0 += r6\nr6 = *(u64 *)(r10 -8)\nr0 += r6\nexit");
    let start: usize = main.iter().map(Insn::slots).sum();
    let mut main = main;
    if let Some(Insn::LdImm64 { imm: Imm64::Func(off), .. }) = main.first_mut() {
        *off = i32::try_from(start).expect("small") - 1;
    }
    let xlated = insns(&[&main, &callback], &[0, start]);
    for options in options() {
        let machine = Machine::new(&compile(&xlated, &layout, &options).expect("compiles"));
        let mut cpu = cpu();
        cpu[0] = 100;
        assert_eq!(machine.run(&mut [0; 8], &mut cpu), 1000 + 4 * 110 + 6);
    }
}

/// The packet is the context's bytes; 12 of them.
extern "C" fn ld_abs(ctx: u64, offset: i64, size: u64, _: u64, _: u64, _cpu: u64) -> i64 {
    if offset < 0 || offset + size.cast_signed() > 12 {
        return -1;
    }
    // SAFETY: checked above against the length of the test's packet.
    let bytes = unsafe {
        std::slice::from_raw_parts((ctx + offset.cast_unsigned()) as *const u8, usize::try_from(size).expect("size"))
    };
    bytes.iter().fold(0, |value, &byte| value << 8 | i64::from(byte))
}

#[test]
fn packet_loads() {
    let layout = Layout { ld_abs: ld_abs as *const () as u64, ..Layout::default() };
    let mut packet: Vec<u8> = (1..=12).collect();
    let cases = [
        ("r0 = *(u16 *)skb[2]", 0x0304),
        ("r0 = *(u32 *)skb[8]", 0x090a_0b0c),
        ("r0 = *(u8 *)skb[12]", u64::MAX),
        ("r7 = 3\nr0 = *(u8 *)skb[r7 + 1]", 5),
        ("r7 = -1\nr0 = *(u16 *)skb[r7 + 1]", 0x0102),
        ("r7 = 100\nr0 = *(u16 *)skb[r7 + 1]", u64::MAX),
    ];
    for (load, expected) in cases {
        let xlated = program(&format!("r6 = r1\n{load}\nr0 += 1\nexit"));
        for options in options() {
            let machine = Machine::new(&compile(&xlated, &layout, &options).expect("compiles"));
            // A load that fails ends the program with 0 at once.
            assert_eq!(machine.run(&mut packet, &mut cpu()), expected.wrapping_add(1), "{load}");
        }
    }
}

/// A program that counts itself in the context, then tail-calls slot `r3`, then returns what the context says.
fn hopper(imm: TailCallImm, index: &str, registers: &str) -> Xlated {
    let call = Insn::TailCall { imm };
    let head = format!("{registers}\nr6 = r1\nr2 = *(u64 *)(r1 +0)\nr2 += 1\n*(u64 *)(r1 +0) = r2\nr3 = {index}");
    let mut xlated = insns(&[&text(&head), &[map_fd(Reg::R2, 0), call], &text("r0 = *(u64 *)(r6 +0)\nexit")], &[0]);
    if let Some(poke) = imm.poke() {
        let insn = u32::try_from(xlated.insns.len() - 3).expect("small");
        xlated.pokes = vec![Poke { insn, map: 0, key: 0 }; usize::from(poke) + 1];
    }
    xlated
}

/// A prog array as running code sees it.
struct ProgArray {
    targets: Vec<u64>,
    object: Box<[u64; 2]>,
}

impl ProgArray {
    fn new(len: u32) -> Self {
        let targets = vec![0; len as usize];
        let object = Box::new([targets.as_ptr() as u64, u64::from(len)]);
        Self { targets, object }
    }

    fn layout(&self) -> Layout {
        let max_entries = u32::try_from(self.targets.len()).expect("small");
        let access = MapAccess::ProgArray { targets: self.targets.as_ptr() as u64, max_entries };
        let object = self.object.as_ptr() as u64;
        Layout { maps: vec![MapLayout { object, access }], tail_calls: TAIL_CALLS, ..Layout::default() }
    }
}

const CACHED: TailCallImm = TailCallImm::new(0, false, None);
const DYNAMIC: TailCallImm = TailCallImm::new(0, true, None);
/// Different frames: none, saved registers, saved registers and a large stack.
const FRAMES: [&str; 3] = [
    "r0 = 0",
    "r7 = 1\nr8 = r7\nr9 = r8\nr7 += r9\nr8 += r7",
    "r7 = 5\n*(u64 *)(r10 -64) = r7\nr9 = 1\ncall 8\nr1 = r6",
];

fn hop(machine: &Machine, cpu: &mut [u64]) -> u64 {
    cpu[TAIL_CALLS as usize / 8] = 0;
    machine.run(&mut 0_u64.to_le_bytes().to_vec(), cpu)
}

#[test]
fn cached_and_dynamic_tail_calls() {
    for (imm, options) in [CACHED, DYNAMIC].into_iter().flat_map(|imm| options().map(|options| (imm, options))) {
        for (frame, registers) in FRAMES.iter().enumerate() {
            let registers = registers.replace("call 8\nr1 = r6", "r6 = r1\ncall 8\nr1 = r6");
            for index in ["0", "2", "3", "-1", "4294967298 ll"] {
                let index = if index.ends_with("ll") { "2\nr5 = 1\nr5 <<= 32\nr3 |= r5" } else { index };
                let mut array = ProgArray::new(3);
                let image = compile(&hopper(imm, index, &registers), &array.layout(), &options).expect("compiles");
                let machine = Machine::new(&image);
                let mut cpu = cpu();
                assert_eq!(hop(&machine, &mut cpu), 1, "an empty slot falls through");
                assert_eq!(cpu[TAIL_CALLS as usize / 8], 0, "and is not counted");
                array.targets.fill(machine.tail_entry);
                let expected = if matches!(index, "3" | "-1") { 1 } else { 34 };
                assert_eq!(hop(&machine, &mut cpu), expected, "frame {frame}, index {index}");
                assert_eq!(u64::from(expected == 34) * 33, cpu[TAIL_CALLS as usize / 8]);
            }
        }
    }
}

#[test]
fn poked_tail_calls() {
    for (registers, options) in FRAMES.into_iter().flat_map(|frame| options().map(|options| (frame, options))) {
        let registers = registers.replace("call 8\nr1 = r6", "r6 = r1\ncall 8\nr1 = r6");
        let array = ProgArray::new(3);
        let xlated = hopper(TailCallImm::new(0, false, Some(0)), "1", &registers);
        let image = compile(&xlated, &array.layout(), &options).expect("compiles");
        let machine = Machine::new(&image);
        let mut cpu = cpu();
        assert_eq!(hop(&machine, &mut cpu), 1, "a closed gate falls through");
        for site in &image.sites {
            assert!(site.offset % 8 + u32::from(site.len) <= 8, "a site lies within an aligned word");
            match site.kind {
                SiteKind::PokeGate { index, stub } => {
                    assert_eq!(index, 0);
                    machine.patch_jump(site.offset, machine.address(stub));
                }
                SiteKind::PokeTarget { .. } => machine.patch_jump(site.offset, machine.tail_entry),
                SiteKind::Stats { .. } | SiteKind::Function { .. } => unreachable!("none were asked for"),
            }
        }
        assert_eq!(hop(&machine, &mut cpu), 34);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_cached_call_loads_neither_size_nor_program() {
    let array = ProgArray::new(3);
    let xlated = hopper(CACHED, "1", "r0 = 0");
    let image = compile(&xlated, &array.layout(), &options()[0]).expect("compiles");
    let mut decoder = iced_x86::Decoder::new(64, &image.bytes, iced_x86::DecoderOptions::NONE);
    let mut table_loads = 0;
    for insn in &mut decoder {
        if insn.memory_index_scale() == 8 && insn.memory_base() != iced_x86::Register::None {
            table_loads += 1;
        }
        // No address of the map object appears, so nothing can be read from it.
        assert_ne!(insn.immediate64(), array.object.as_ptr() as u64);
    }
    assert_eq!(table_loads, 1, "the target comes straight from its slot");
}

#[test]
fn statistics_count_runs_while_the_site_is_open() {
    let clock = BTreeMap::from([(5_u32, ticks as *const () as u64)]);
    let scale = TscScale { mult: 1 << 20, shift: 20 };
    for (tsc, helpers) in [(Some(scale), BTreeMap::new()), (None, clock)] {
        let layout = Layout { stats: Some(0x300), tsc, helpers: helpers.clone(), ..Layout::default() };
        let xlated = program("r0 = *(u64 *)(r1 +0)\nr0 += 2\nexit");
        let image = compile(&xlated, &layout, &options()[0]).expect("compiles");
        let machine = Machine::new(&image);
        let mut cpu = cpu();
        let run = |cpu: &mut [u64]| machine.run(&mut 40_u64.to_le_bytes().to_vec(), cpu);
        assert_eq!((run(&mut cpu), cpu[0x300 / 8]), (42, 0));
        let site = image.sites[0];
        let SiteKind::Stats { stub } = site.kind else { unreachable!("the first site is the entry") };
        assert_eq!((site.offset, image.entry, image.tail_entry), (0, 0, u32::from(site.len)));
        machine.patch_jump(site.offset, machine.address(stub));
        for n in 1..=10 {
            assert_eq!((run(&mut cpu), cpu[0x300 / 8]), (42, n));
        }
        assert!(cpu[0x300 / 8 + 1] > 0, "time passed");
        machine.patch(site.offset, &image.bytes[..usize::from(site.len)]);
        assert_eq!((run(&mut cpu), cpu[0x300 / 8]), (42, 10));
    }
}

extern "C" fn ticks(_: u64, _: u64, _: u64, _: u64, _: u64, cpu: u64) -> u64 {
    // SAFETY: the tests pass their vCPU memory.
    let clock = unsafe { &mut *((cpu + 1024) as *mut u64) };
    *clock += 1;
    *clock
}

#[test]
fn missing_pieces_are_errors() {
    let layout = Layout::default();
    let options = options()[0];
    assert!(compile(&program("call 99\nexit"), &layout, &options).is_err());
    assert!(compile(&insns(&[&[map_fd(Reg::R1, 3)], &text("r0 = r1\nexit")], &[0]), &layout, &options).is_err());
    assert!(compile(&program("r0 = 1"), &layout, &options).is_err(), "falls off the end");
    assert!(compile(&program("r0 = 1\ngoto +5\nexit"), &layout, &options).is_err(), "jumps out");
    let image = compile(&program("r0 = 1\nexit"), &layout, &options).expect("compiles");
    assert!(image.relocations.iter().all(|reloc| reloc.kind == RelocKind::Rel32));
    if cfg!(target_arch = "x86_64") {
        assert_eq!(image.bytes, [0xb8, 1, 0, 0, 0, 0xc3], "no prologue, the shortest constant");
    }
}
