//! Decoding and encoding are inverse, and exact about unused fields.

use skep_abi::{DecodeError, Insn, RawInsn, TailCallImm, decode, decode_xlated};

/// Every opcode with fields that matter, in combinations that cover each reserved-field rule.
fn all_slots() -> impl Iterator<Item = [RawInsn; 2]> {
    let srcs = [0u8, 1, 2, 3, 4, 5, 6, 7, 10, 11, 15];
    let dsts = [0u8, 1, 10, 11];
    let offs = [0i16, 1, 2, 8, 16, 32, -1, i16::MIN];
    let imms = [0i32, 1, 2, 8, 16, 32, 64, 0x40, 0x41, 0xe0, 0xe1, 0xf1, 0x100, 0x110, 1 << 16, -1];
    let tails = [0i32, 7];
    (0..=255u8).flat_map(move |code| {
        srcs.into_iter().flat_map(move |src| {
            dsts.into_iter().flat_map(move |dst| {
                offs.into_iter().flat_map(move |off| {
                    imms.into_iter().flat_map(move |imm| {
                        tails.into_iter().map(move |tail| {
                            [RawInsn { code, dst, src, off, imm }, RawInsn { imm: tail, ..RawInsn::default() }]
                        })
                    })
                })
            })
        })
    })
}

#[test]
fn what_decodes_encodes_to_the_same_slots() {
    let mut accepted = 0u32;
    for program in all_slots() {
        for insn in [decode(&program, 0), decode_xlated(&program, 0)].into_iter().flatten() {
            accepted += 1;
            let (first, second) = insn.encode();
            let ignored = if insn == Insn::Exit { program[0].off } else { 0 };
            assert_eq!(RawInsn { off: first.off | ignored, ..first }, program[0], "{insn:?}");
            assert_eq!(second.is_some(), insn.slots() == 2);
            if let Some(second) = second {
                assert_eq!(second, program[1], "{insn:?}");
            }
            assert_eq!(RawInsn::from_bytes(first.to_bytes()), first);
        }
    }
    assert!(accepted > 100_000, "{accepted}");
}

#[test]
fn internal_forms_are_for_rewritten_programs_only() {
    let ax = RawInsn { code: 0xb7, dst: 11, src: 0, off: 0, imm: 1 };
    assert_eq!(decode(&[ax], 0), Err(DecodeError::Register(11)));
    assert!(decode_xlated(&[ax], 0).is_ok());
    let percpu = RawInsn { code: 0xbf, dst: 1, src: 1, off: -1, imm: 0 };
    assert_eq!(decode(&[percpu], 0), Err(DecodeError::Reserved("BPF_MOV")));
    assert!(matches!(decode_xlated(&[percpu], 0), Ok(Insn::MovPercpu { .. })));
    let tail = RawInsn { code: 0xf5, dst: 0, src: 0, off: 0, imm: 0x0002_0103 };
    assert_eq!(decode(&[tail], 0), Err(DecodeError::UnknownOpcode(0xf5)));
    let Ok(Insn::TailCall { imm }) = decode_xlated(&[tail], 0) else { panic!("not a tail call") };
    assert_eq!((imm.map(), imm.is_unknown(), imm.poke()), (3, true, Some(1)));
    assert_eq!(imm, TailCallImm::new(3, true, Some(1)));
    assert_eq!(TailCallImm::new(255, false, None).0, 255);
    assert_eq!(TailCallImm::new(0, false, Some(65534)).poke(), Some(65534));
    assert_eq!(TailCallImm::new(0, false, Some(65535)).poke(), None);
}

#[test]
fn ld_imm64_needs_its_second_slot() {
    let first = RawInsn { code: 0x18, ..RawInsn::default() };
    assert_eq!(decode(&[first], 0), Err(DecodeError::LdImm64Tail));
    let bad = RawInsn { off: 1, ..RawInsn::default() };
    assert_eq!(decode(&[first, bad], 0), Err(DecodeError::LdImm64Tail));
    assert_eq!(decode(&[first], 1), Err(DecodeError::OutOfProgram(1)));
    assert!(RawInsn::program_from_bytes(&[0; 12]).is_err());
}
