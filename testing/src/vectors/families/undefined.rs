//! Opcodes that do not exist are refused by every engine with the kernel's words.

use skep_abi::{DecodeError, RawInsn, decode};

use super::File;

pub(super) fn generate(files: &mut Vec<(String, String)>) {
    let mut file = File::new("undefined", "undefined opcodes");
    for code in 0..=255u8 {
        let raw = RawInsn { code, dst: 0, src: 0, off: 0, imm: 0 };
        let Err(error @ DecodeError::UnknownOpcode(_)) = decode(&[raw, RawInsn::default()], 0) else { continue };
        let slot = u64::from_le_bytes(raw.to_bytes());
        // A packet load may not be in the subprogram that a case without a type becomes.
        let ty = if matches!(code, 0x38 | 0x58) { "-- type socket_filter\n" } else { "" };
        let program = format!("{ty}r0 = 0\n.raw {slot:#x}\nexit");
        file.refused(&format!("opcode_{code:02x}"), &program, &error.to_string());
    }
    files.push(file.into_pair());
}
