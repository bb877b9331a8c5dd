//! The disassembler spells every instruction as the kernel's log does.

use skep_abi::asm::assemble;
use skep_abi::disasm::{NoNames, disasm};
use skep_abi::{Imm64, Insn, ProgType, RawInsn, decode};
use skep_testing::kernel::{self, ProgLoad};

/// The log's text of the instruction at slot `at`, without what follows the `;`.
fn text_at(log: &str, at: usize) -> Option<String> {
    let prefix = format!("{at}: (");
    let line = log.lines().find(|line| line.starts_with(&prefix))?;
    let (_, text) = line.split_once(") ")?;
    let text = text.split(';').next().unwrap_or(text).trim_end();
    // After a jump backwards the state of the next position follows on the same line: `goto pc-8 3: R0=1`.
    let next = text.match_indices(": R").find_map(|(colon, _)| {
        let digits = text[..colon].rfind(|c: char| !c.is_ascii_digit())?;
        (digits + 1 < colon).then_some(digits)
    });
    Some(text[..next.unwrap_or(text.len())].trim_end().to_owned())
}

#[test]
fn every_form_is_spelled_as_the_kernel_spells_it() {
    if !kernel::require("disassembly against the kernel's log") {
        return;
    }
    let start = assemble(
        "r6 = r1\n *(u64 *)(r10 -8) = 0\n r1 = 1\n r3 = 1\n r4 = 1\n r5 = 1\n r7 = 1\n r0 = 1\n r2 = r10\n r2 += -8",
    )
    .expect("assembles");
    let end = assemble("r0 = 0\nr0 = 0\nr0 = 0\nexit").expect("assembles");
    let (mut compared, mut differences) = (0u32, Vec::new());
    for code in 0..=255u8 {
        for (dst, src) in [(0u8, 0u8), (0, 1), (0, 7), (1, 2), (2, 2), (2, 7), (7, 1), (10, 3), (3, 0)] {
            for off in [0i16, 1, 2, 8, 16, 32, -1, -8, 4096, i16::MIN] {
                for imm in
                    [0i32, 1, 16, 32, 64, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1, 0x100, 0x110, -1, 65536]
                {
                    let pair = [RawInsn { code, dst, src, off, imm }, RawInsn { imm: 5, ..RawInsn::default() }];
                    let Ok(insn) = decode(&pair, 0) else { continue };
                    // Kernel addresses and subprograms are spelled by the caller.
                    let is_reference = matches!(insn, Insn::LdImm64 { imm, .. } if !matches!(imm, Imm64::Const(_)))
                        || matches!(insn, Insn::Call { .. }) && src != 0;
                    if is_reference {
                        continue;
                    }
                    let mut program = start.clone();
                    insn.push_to(&mut program);
                    program.extend(&end);
                    let load = ProgLoad { log_level: 1, ..ProgLoad::new(ProgType::SocketFilter, &program) };
                    let log = match load.load_once() {
                        Ok(loaded) => loaded.log,
                        Err(failure) => failure.log,
                    };
                    let Some(theirs) = text_at(&log, start.len()) else { continue };
                    compared += 1;
                    let ours = disasm(&program, start.len(), &NoNames);
                    if ours != theirs {
                        differences.push(format!("ours {ours:?}, kernel {theirs:?}"));
                    }
                }
            }
        }
    }
    assert!(compared > 5000, "{compared}");
    assert!(
        differences.is_empty(),
        "{} of {compared}\n{}",
        differences.len(),
        differences[..differences.len().min(40)].join("\n")
    );
    println!("disassembly: {compared} instructions as the kernel spells them");
}
