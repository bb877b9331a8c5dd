//! What the decoder refuses, with its words, is what the kernel refuses.

use skep_abi::{DecodeError, ProgType, RawInsn, decode};
use skep_testing::kernel::{self, ProgLoad};

const EXIT: RawInsn = RawInsn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };

fn mov(dst: u8, imm: i32) -> RawInsn {
    RawInsn { code: 0xb7, dst, src: 0, off: 0, imm }
}

/// Messages that come from decoding in the kernel.
fn is_encoding_message(message: &str) -> bool {
    message.starts_with("unknown opcode")
        || message.contains("uses reserved fields")
        || message.contains("is invalid") && message.starts_with('R') && !message.contains("type")
        || message.contains("bpf_ld_imm64 insn")
        || message.starts_with("addr_space_cast insn can only convert")
        || message.starts_with("invalid may_goto")
        || message.starts_with("BPF_ATOMIC uses invalid")
        || message.starts_with("invalid atomic operand size")
        || message.starts_with("invalid BPF_")
}

/// Messages of the control flow check, which runs before the walk that reports most encodings.
fn is_flow_message(message: &str) -> bool {
    [
        "unreachable insn",
        "jump out of range",
        "back-edge",
        "last insn is not",
        "jump into the middle",
        "call to invalid",
        "fd 0 is not",
        "invalid insn idx",
        "invalid btf",
        "missing btf",
        "fd_idx without",
    ]
    .iter()
    .any(|part| message.contains(part))
}

/// Loads the slot behind initialised registers and returns the kernel's complaint about its encoding, if any;
/// `Err` when the flow of control was refused before the kernel looked.
fn kernel_says(slot: RawInsn, tail: RawInsn) -> Option<Result<String, ()>> {
    let mut program: Vec<RawInsn> = vec![RawInsn { code: 0xbf, dst: 6, src: 1, off: 0, imm: 0 }];
    program.push(RawInsn { code: 0x7a, dst: 10, src: 0, off: -8, imm: 0 });
    program.extend([0, 1, 2, 3, 4, 5, 7].map(|r| mov(r, 1)));
    program.push(RawInsn { code: 0xbf, dst: 2, src: 10, off: 0, imm: 0 });
    program.push(RawInsn { code: 0x07, dst: 2, src: 0, off: 0, imm: -8 });
    program.push(slot);
    if slot.code == 0x18 {
        program.push(tail);
    }
    if slot.code != EXIT.code {
        program.extend([mov(0, 0), mov(0, 0), mov(0, 0), EXIT]);
    }
    let failure = ProgLoad { log_level: 1, ..ProgLoad::new(ProgType::SocketFilter, &program) }.load_once().err()?;
    let message = failure.message().to_owned();
    if is_flow_message(&message) {
        return Some(Err(()));
    }
    is_encoding_message(&message).then_some(Ok(message))
}

fn cases() -> Vec<(RawInsn, RawInsn)> {
    let none = RawInsn::default();
    let mut cases = Vec::new();
    for code in 0..=255u8 {
        let plain = RawInsn { code, dst: 1, src: 2, off: 0, imm: 0 };
        for dst in [0, 1, 11] {
            for src in [0, 1, 2, 3, 4, 7, 12] {
                cases.push((RawInsn { dst, src, ..plain }, none));
                cases.push((RawInsn { dst, src, imm: 16, ..plain }, none));
            }
        }
        for off in [1, 2, 8, 16, 32, -1, -8] {
            for src in [0, 2] {
                cases.push((RawInsn { off, src, ..plain }, none));
                cases.push((RawInsn { off, src, dst: 0, ..plain }, none));
                cases.push((RawInsn { off, src, dst: 0, imm: 1, ..plain }, none));
                cases.push((RawInsn { off, src, imm: 64, ..plain }, none));
                cases.push((RawInsn { off, src, imm: 3, ..plain }, none));
            }
        }
    }
    for size in [0xc3, 0xcb, 0xd3, 0xdb] {
        for imm in (0..=0x120).chain([-1, 0x200, 0x1000, 0x141]) {
            cases.push((RawInsn { code: size, dst: 2, src: 2, off: 0, imm }, none));
            cases.push((RawInsn { code: size, dst: 2, src: 7, off: 0, imm }, none));
        }
    }
    for src in 0..16 {
        for tail in [none, RawInsn { imm: 1, ..none }, RawInsn { off: 1, ..none }, RawInsn { dst: 1, ..none }] {
            cases.push((RawInsn { code: 0x18, dst: 1, src, off: 0, imm: 0 }, tail));
            cases.push((RawInsn { code: 0x18, dst: 1, src, off: 1, imm: 0 }, tail));
        }
    }
    cases
}

#[test]
fn the_kernel_refuses_the_same_encodings() {
    if !kernel::require("decode against the kernel") {
        return;
    }
    let mut differences = Vec::new();
    let (mut refused, mut accepted) = (0, 0);
    for (slot, tail) in cases() {
        let ours = decode(&[slot, tail], 0);
        let theirs = kernel_says(slot, tail);
        // A register that only the kernel's walk reaches is not compared when the walk stops earlier.
        match (&ours, &theirs) {
            (Ok(_), None) => accepted += 1,
            (_, Some(Err(()))) => {}
            (Err(ours), Some(Ok(theirs))) if ours.to_string() == *theirs => refused += 1,
            (Err(DecodeError::Register(_)), None) => {}
            // References to maps and functions are resolved before the walk, and these refer to nothing.
            (Err(DecodeError::Reserved("BPF_LD_IMM64" | "BPF_CALL")), None) if slot.src != 0 => {}
            _ => differences.push(format!("{slot:x?} {tail:x?}: ours {ours:?}, kernel {theirs:?}")),
        }
    }
    assert!(refused > 1000 && accepted > 1000, "{refused} {accepted}");
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences[..differences.len().min(60)].join("\n")
    );
}
