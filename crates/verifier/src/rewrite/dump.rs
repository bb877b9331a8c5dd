//! The xlated program as text.
//!
//! Invariant: one line per instruction, numbered by slot as jumps count, with the tail calls' `imm` in words. Kernel
//! counterpart: `bpftool prog dump xlated`, tools/bpf/bpftool/xlated_dumper.c, 6.18.

use std::fmt::Write;

use skep_abi::disasm::{Names, disasm};
use skep_abi::{Imm64, Insn, RawInsn, TailCallImm, decode_xlated};

use crate::verified::Xlated;

/// What a dump shows besides the instructions.
#[derive(Clone, Copy, Default)]
pub struct DumpOptions<'a> {
    /// The bytes of each instruction, below it.
    pub opcodes: bool,
    /// The source line of an original slot, shown above the instructions that came from it.
    pub source: Option<&'a dyn Fn(u32) -> Option<String>>,
}

/// The text of `xlated`; `map_name` names the maps of the program's list, by their index there.
#[must_use]
pub fn dump_xlated(xlated: &Xlated, map_name: &dyn Fn(u32) -> Option<String>, options: &DumpOptions<'_>) -> String {
    let names = MapNames { xlated, map_name };
    let mut text = String::new();
    let mut last_line = None;
    let mut at = 0;
    while let Some(raw) = xlated.insns.get(at) {
        if let Some(subprog) = xlated.subprogs.iter().find(|subprog| subprog.start as usize == at)
            && !subprog.name.is_empty()
        {
            let _ = writeln!(text, "{}:", subprog.name);
        }
        let source = options.source.and_then(|source| source(*xlated.source.get(at)?));
        if source.is_some() && source != last_line {
            let _ = writeln!(text, "; {}", source.as_deref().unwrap_or_default());
        }
        last_line = source.or(last_line);
        let insn = decode_xlated(&xlated.insns, at);
        let _ = write!(text, "{at:4}: ({:02x}) {}", raw.code, disasm(&xlated.insns, at, &names));
        if let Ok(Insn::TailCall { imm }) = insn {
            let _ = write!(text, "  ; {}", tail_call_text(imm, xlated, names.map(i32::from(imm.map())).as_deref()));
        }
        text.push('\n');
        let slots = insn.map_or(1, |insn| insn.slots());
        if options.opcodes {
            opcodes(&mut text, xlated.insns.get(at..at + slots).unwrap_or_default());
        }
        at += slots;
    }
    text
}

fn opcodes(text: &mut String, slots: &[RawInsn]) {
    text.push_str("      ");
    for byte in slots.iter().flat_map(|slot| slot.to_bytes()) {
        let _ = write!(text, " {byte:02x}");
    }
    text.push('\n');
}

/// What is known of a tail call, in words: `map 1 'jump_table', index 2, poke 0`.
#[must_use]
pub fn tail_call_text(imm: TailCallImm, xlated: &Xlated, map_name: Option<&str>) -> String {
    if imm.is_unknown() {
        return "map unknown".to_owned();
    }
    let mut text = format!("map {}", imm.map());
    if let Some(name) = map_name {
        let _ = write!(text, " '{name}'");
    }
    if let Some(poke) = imm.poke() {
        if let Some(site) = xlated.pokes.get(usize::from(poke)) {
            let _ = write!(text, ", index {}", site.key);
        }
        let _ = write!(text, ", poke {poke}");
    }
    text
}

/// Maps by the program's own names.
struct MapNames<'a> {
    xlated: &'a Xlated,
    map_name: &'a dyn Fn(u32) -> Option<String>,
}

impl Names for MapNames<'_> {
    fn map(&self, number: i32) -> Option<String> {
        let index = self.xlated.used_maps.get(usize::try_from(number).ok()?)?;
        (self.map_name)(*index)
    }

    fn imm64(&self, imm: Imm64) -> Option<String> {
        match imm {
            Imm64::MapFd(number) => Some(format!("map[{}]", self.map(number)?)),
            Imm64::MapValue { fd, off } => Some(format!("map[{}][0]+{off}", self.map(fd)?)),
            _ => None,
        }
    }
}
