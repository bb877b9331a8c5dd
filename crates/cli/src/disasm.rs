//! Machine code as text, in AT&T syntax as bpftool prints it.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, OpKind};
use serde_json::{Value, json};

/// One instruction.
pub(crate) struct Line {
    /// Offset in the image.
    pub(crate) offset: usize,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Its text.
    pub(crate) text: String,
}

/// The instructions of x86-64 `code` that lies at `address`. Bytes that are no instruction come as `(bad)`. Targets inside
/// are shown as offsets, those outside with the name that `name` knows.
pub(crate) fn x64(code: &[u8], address: u64, name: &dyn Fn(u64) -> Option<String>) -> Vec<Line> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(false);
    options.set_rip_relative_addresses(true);
    options.set_branch_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(false);
    options.set_uppercase_hex(false);
    let mut lines = Vec::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let offset = decoder.position();
        decoder.decode_out(&mut instruction);
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            let offset = target.wrapping_sub(address);
            let inside = usize::try_from(offset).is_ok_and(|offset| offset < code.len());
            let shown = match name(target) {
                _ if inside => format!("0x{offset:x}"),
                Some(name) => format!("0x{target:x} <{name}>"),
                None => format!("0x{target:x}"),
            };
            let mnemonic = text.split(' ').next().unwrap_or_default();
            text = format!("{mnemonic} {shown}");
        }
        lines.push(Line { offset, bytes: code[offset..decoder.position()].to_vec(), text });
    }
    lines
}

/// The lines of a listing, each with its offset, and its bytes where `opcodes` asks for them.
pub(crate) fn listing(lines: &[Line], opcodes: bool) -> String {
    let mut out = String::new();
    for line in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:4x}:\t{}", line.offset, line.text);
        if opcodes {
            let _ = writeln!(out, "\t{}", hex(&line.bytes));
        }
    }
    out
}

/// The same as JSON, with bpftool's keys.
pub(crate) fn json<'a>(lines: impl IntoIterator<Item = &'a Line>, opcodes: bool) -> Value {
    let one = |line: &Line| {
        let (operation, operands) = line.text.split_once(' ').unwrap_or((&line.text, ""));
        let operands: Vec<&str> = operands.split_whitespace().collect();
        let mut object = json!({ "pc": format!("0x{:x}", line.offset), "operation": operation, "operands": operands });
        if opcodes {
            object["opcodes"] = line.bytes.iter().map(|b| json!(format!("0x{b:02x}"))).collect();
        }
        object
    };
    lines.into_iter().map(one).collect()
}

/// Bytes in hex with blanks between them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_bytes_and_text() {
        let name = |target| (target == 0x100c).then(|| "helper".to_owned());
        let lines = x64(&[0x31, 0xc0, 0xe8, 0x05, 0, 0, 0, 0xc3], 0x1000, &name);
        let text = listing(&lines, true);
        assert_eq!(
            text,
            "   0:\txor %eax,%eax\n\t31 c0\n   2:\tcall 0x100c <helper>\n\te8 05 00 00 00\n   7:\tret\n\tc3\n"
        );
        assert_eq!(json(&lines, false)[2], json!({ "pc": "0x7", "operation": "ret", "operands": [] }));
    }
}
