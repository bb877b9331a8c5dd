//! Assembler and disassembler are inverse.

use skep_abi::asm::{Problem, assemble, assemble_with};
use skep_abi::disasm::{NoNames, disasm, listing};
use skep_abi::{Insn, RawInsn, decode_xlated};

/// One of every encoding, over field values that matter, that decodes.
fn every_form() -> Vec<[RawInsn; 2]> {
    let mut forms = Vec::new();
    for code in 0..=255u8 {
        for (dst, src) in
            [(0u8, 0u8), (0, 1), (0, 2), (1, 2), (3, 3), (4, 4), (2, 5), (5, 6), (10, 0), (11, 9), (9, 11)]
        {
            for off in [0i16, 1, 8, 16, 32, -1, i16::MIN, i16::MAX] {
                for imm in
                    [0i32, 1, 16, 32, 64, 0x41, 0x51, 0xa1, 0xe1, 0xf1, 0x100, 0x110, 1 << 16, -1, i32::MIN, i32::MAX]
                {
                    for tail in [0i32, 9, -1] {
                        forms.push([RawInsn { code, dst, src, off, imm }, RawInsn { imm: tail, ..RawInsn::default() }]);
                    }
                }
            }
        }
    }
    forms
}

#[test]
fn every_form_reads_back() {
    let mut forms = 0u32;
    for program in every_form() {
        let Ok(insn) = decode_xlated(&program, 0) else { continue };
        forms += 1;
        let (first, second) = insn.encode();
        let expected: Vec<RawInsn> = [Some(first), second].into_iter().flatten().collect();
        let text = disasm(&expected, 0, &NoNames);
        assert_eq!(assemble(&text), Ok(expected), "{text} {insn:?}");
    }
    assert!(forms > 10_000, "{forms}");
}

#[test]
fn undefined_slots_read_back() {
    let bad = RawInsn { code: 0x06, dst: 1, src: 12, off: -2, imm: 77 };
    let text = disasm(&[bad], 0, &NoNames);
    assert_eq!(text, ".raw 0x0000004dfffec106");
    assert_eq!(assemble(&text), Ok(vec![bad]));
}

#[test]
fn labels_reach_over_wide_instructions() {
    let program = assemble(
        "start:
            r6 = r1             ; a comment
            r2 = 0x1122334455667788
            if r6 == 0 goto out // another
            r3 = func[sub]
            call sub
            goto start
        out: exit
        sub: r0 = 1
            exit",
    )
    .expect("assembles");
    assert_eq!(
        listing(&program, &NoNames),
        "0: (bf) r6 = r1\n1: (18) r2 = 0x1122334455667788\n3: (15) if r6 == 0x0 goto pc+4\n\
         4: (18) r3 = func[pc+4]\n6: (85) call pc+2\n7: (05) goto pc-8\n8: (95) exit\n9: (b7) r0 = 1\n10: (95) exit\n"
    );
    assert_eq!(assemble(&listing(&program, &NoNames)), Ok(program));
}

#[test]
fn names_resolve() {
    let mut maps = |name: &str| (name == "hits").then_some(3);
    let program = assemble_with(
        "r1 = map[hits]\nr2 = map_value[hits]+8\ncall map_lookup_elem\ncall bpf_ktime_get_ns#5",
        &mut maps,
    )
    .expect("assembles");
    assert_eq!(
        listing(&program, &NoNames),
        "0: (18) r1 = map[3]\n2: (18) r2 = map_value[3]+8\n4: (85) call bpf_map_lookup_elem#1\n5: (85) call bpf_ktime_get_ns#5\n"
    );
    let error = assemble("r0 = 0\n r1 = map[hits]").expect_err("unknown map");
    assert_eq!(error.to_string(), "line 2: unknown map hits: \"r1 = map[hits]\"");
}

#[test]
fn errors_name_line_and_problem() {
    for (text, problem) in [
        ("r12 = 1", Problem::Expected("an instruction", 1)),
        ("r1 = w2", Problem::Expected("a register of the same width", 6)),
        ("r1 += 4294967296", Problem::Range),
        ("r1 = 4294967295", Problem::Range),
        ("goto nowhere", Problem::Label("nowhere".into())),
        ("a: exit\na: exit", Problem::LabelTwice("a".into())),
        ("call bpf_nothing", Problem::Function("bpf_nothing".into())),
        ("goto +40000", Problem::Reach),
        ("r1 = *(u64 *)(r2 +40000)", Problem::Range),
        ("*(s8 *)(r2 +0) = r1", Problem::Expected("an unsigned size", 2)),
        ("exit now", Problem::Expected("the end of the line", 6)),
        ("r1 = atomic_fetch_add((u64 *)(r2 +0), r1)", Problem::Expected("the size that the name says", 6)),
    ] {
        assert_eq!(assemble(text).expect_err(text).problem, problem, "{text}");
    }
    assert_eq!(assemble("gotol +40000").map(|p| decode_xlated(&p, 0)), Ok(Ok(Insn::Ja { off: 40000, long: true })));
}
