//! The checked interpreter on programs that nobody verified: whatever they do, the run ends with a value or a fault.
#![expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "numbers below 100")]

mod common;

use common::{Engine, MapDef};
use skep_abi::{AttachType, MapType, ProgType, RawInsn, decode_xlated};
use skep_runtime::RunError;
use skep_runtime::ctx::Xdp;
use skep_runtime::interp::FaultKind;
use skep_testing::mutate::Rng;
use skep_verifier::{AssumeVerified, MapShape, ProgFlags, ProgramSpec, Verified};

/// Opcodes of every class, and a few that do not exist.
fn random_insn(rng: &mut Rng) -> RawInsn {
    const CODES: [u8; 40] = [
        0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x3f, 0x4f, 0x5f, 0x6f, 0x7f, 0x87, 0x9f, 0xaf, 0xb7, 0xbf, 0xb4, 0xbc,
        0xcf, 0xd4, 0xdc, 0x61, 0x69, 0x71, 0x79, 0x81, 0x62, 0x6b, 0x73, 0x7b, 0xdb, 0xc3, 0x05, 0x15, 0x2d, 0x3d,
        0x5d, 0x85, 0x95, 0x18,
    ];
    let small = |rng: &mut Rng, n: usize| rng.below(n);
    let values = [0, 1, -1, 8, -8, 16, -16, 64, i32::MAX, i32::MIN, 0xe0];
    RawInsn {
        code: CODES[small(rng, CODES.len())],
        dst: small(rng, 11) as u8,
        src: small(rng, 11) as u8,
        off: [0, 1, 2, 3, -1, -2, -4, -8, -16, 8, i16::MIN][small(rng, 11)],
        imm: values[small(rng, values.len())],
    }
}

/// A program that decodes, of `len` slots, most of whose calls are of helpers that exist.
fn random_program(rng: &mut Rng, len: usize) -> Vec<RawInsn> {
    let map = [RawInsn { code: 0x18, dst: 1, src: 1, off: 0, imm: 0 }, RawInsn::default()];
    let mut program = Vec::new();
    while program.len() < len {
        let mut insn = random_insn(rng);
        if rng.below(6) == 0 {
            program.extend(map);
            continue;
        }
        if insn.code == 0x85 {
            // Tail calls and whatever waits are left out; bpf2bpf calls and callbacks are not.
            let helpers =
                [1, 2, 3, 5, 6, 7, 8, 25, 28, 44, 51, 54, 65, 87, 105, 131, 164, 181, 182, 189, 190, 197, 201];
            insn = RawInsn { code: 0x85, dst: 0, src: 0, off: 0, imm: helpers[rng.below(helpers.len())] };
            if rng.below(8) == 0 {
                insn = RawInsn { code: 0x85, dst: 0, src: 1, off: 0, imm: rng.below(len) as i32 - len as i32 / 2 };
            }
        }
        if insn.code == 0x18 {
            continue;
        }
        program.push(insn);
        if decode_xlated(&program, program.len() - 1).is_err() {
            program.pop();
        }
    }
    program.push(RawInsn { code: 0x95, ..RawInsn::default() });
    program
}

#[test]
fn unverified_programs_do_no_harm() {
    let engine = Engine::new();
    let def = MapDef { name: "m", map_type: MapType::Array, key_size: 4, value_size: 64, max_entries: 4, flags: 0 };
    let map = engine.map(&def);
    let shapes = [MapShape::new(MapType::Array, 4, 64, 4)];
    let mut rng = Rng::new(0x5eed);
    let (mut finished, mut faults) = (0, 0);
    for _ in 0..20_000 {
        let len = 4 + rng.below(24);
        let insns = random_program(&mut rng, len);
        let verified = Verified::assume(AssumeVerified::i_vouch_for_the_program(), insns.clone(), &[0]);
        let spec = ProgramSpec {
            name: "hostile",
            prog_type: ProgType::Xdp,
            attach_type: AttachType::default(),
            flags: ProgFlags(0),
            insns: &insns,
            maps: &shapes,
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        let Some(program) = engine.try_finish(&spec, &verified, std::slice::from_ref(&map)) else { continue };
        let mut packet = Xdp::packet(&[7; 64]).build().unwrap();
        match program.run_limited(&mut packet, 10_000) {
            Ok(_) => finished += 1,
            Err(RunError::Fault(fault)) => {
                assert!(fault.insn < 200, "{fault}");
                faults += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(finished > 500 && faults > 2_000, "{finished} programs finished, {faults} were stopped");
}

#[test]
fn faults_name_instruction_and_address() {
    let engine = Engine::new();
    let stop = |text: &str| {
        let insns = skep_abi::asm::assemble(text).unwrap();
        let verified = Verified::assume(AssumeVerified::i_vouch_for_the_program(), insns.clone(), &[0]);
        let spec = ProgramSpec {
            name: "hostile",
            prog_type: ProgType::Xdp,
            attach_type: AttachType::default(),
            flags: ProgFlags(0),
            insns: &insns,
            maps: &[],
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        let program = engine.try_finish(&spec, &verified, &[]).unwrap();
        let mut packet = Xdp::packet(&[7; 64]).build().unwrap();
        match program.run_limited(&mut packet, 1_000) {
            Err(RunError::Fault(fault)) => (fault.insn, fault.kind),
            other => panic!("{text}: {other:?}"),
        }
    };
    assert_eq!(stop("r1 = 4096\nr0 = *(u64 *)(r1 +8)\nexit"), (1, FaultKind::Read { address: 4104, len: 8 }));
    assert_eq!(stop("r1 = 16\n*(u32 *)(r1 +0) = r1\nexit"), (1, FaultKind::Write { address: 16, len: 4 }));
    assert!(matches!(stop("r0 = 0\n*(u64 *)(r1 +24) = r0\nexit"), (1, FaultKind::Write { len: 8, .. })));
    assert!(matches!(stop("r0 = *(u64 *)(r10 +0)\nexit"), (0, FaultKind::Read { len: 8, .. })));
    assert!(matches!(stop("r0 = *(u64 *)(r10 -520)\nexit"), (0, FaultKind::Read { len: 8, .. })));
    assert!(matches!(stop("lock *(u64 *)(r10 -12) += r1\nexit"), (0, FaultKind::Unaligned { len: 8, .. })));
    assert_eq!(stop("r0 = 0\ngoto -1").1, FaultKind::Budget);
    assert_eq!(
        stop("r1 = 5\nr2 = r10\ncall bpf_map_lookup_elem#1\nexit").1,
        FaultKind::NotAMap { helper: 1, argument: 1 }
    );
}
