//! Relocations moved to where their sections went.
//!
//! Invariant: a relocation that names a section carries its place in the bytes that it changes, so those move with the
//! section. Kernel counterpart: `linker_append_elf_relos`, linker.c, 6.18.

use object::elf;

use super::Unit;
use super::error::LinkError;
use super::sections::{OutRelocation, OutSection, Sections};
use super::symbols::Symbols;
use crate::error::escaped;

/// Opcode of `call`.
const CALL: u8 = 0x85;

pub(super) fn collect(units: &[Unit<'_>], symbols: &Symbols<'_>, sections: &mut Sections<'_>) -> Result<(), LinkError> {
    for (number, unit) in units.iter().enumerate() {
        let refused = |source| LinkError::Input { file: unit.name.to_owned(), source };
        for (index, section) in unit.elf.sections.iter().enumerate() {
            let Some(place) = sections.place(number, index) else { continue };
            for relocation in unit.elf.relocations(index).map_err(refused)? {
                let bad = |why: &str| LinkError::Relocation {
                    file: unit.name.to_owned(),
                    section: escaped(section.name),
                    offset: relocation.offset,
                    why: why.to_owned(),
                };
                if symbols.is_dead(number, index, relocation.offset) {
                    continue;
                }
                if relocation.offset >= section.size {
                    return Err(bad("it lies outside the section"));
                }
                let Some(symbol) = symbols.of(number, relocation.symbol) else {
                    return Err(bad("its symbol is in a section that is not linked"));
                };
                let offset = relocation.offset.saturating_add(place.offset);
                let moved = unit.elf.symbols.get(relocation.symbol).filter(|s| s.kind == elf::STT_SECTION.0);
                let moved = moved.and_then(|s| sections.place(number, s.section?)).map_or(0, |to| to.offset);
                let Some(out) = sections.all.get_mut(place.section) else {
                    return Err(LinkError::Internal("a section is missing"));
                };
                if moved != 0 {
                    shift(out, offset, relocation.kind, moved).ok_or_else(|| bad("what it changes cannot be moved"))?;
                }
                out.relocations.push(OutRelocation { offset, symbol, kind: relocation.kind });
            }
        }
    }
    for out in &mut sections.all {
        out.relocations.sort_by_key(|relocation| relocation.offset);
    }
    Ok(())
}

/// Adds `by` bytes to the place that is written at `offset`; `None` where it does not fit.
fn shift(out: &mut OutSection<'_>, offset: u64, kind: u32, by: u64) -> Option<()> {
    let at = usize::try_from(offset).ok()?;
    if out.is_exec {
        let insn = out.data.get_mut(at..at.checked_add(8)?)?;
        // A call counts instructions.
        let by = if insn.first() == Some(&CALL) { by.checked_div(8)? } else { by };
        return add32(insn.get_mut(4..)?, by);
    }
    match kind {
        // R_BPF_64_ABS64, R_BPF_64_ABS32.
        2 => {
            let bytes = out.data.get_mut(at..at.checked_add(8)?)?;
            let value = u64::from_le_bytes(bytes.try_into().ok()?).checked_add(by)?;
            bytes.copy_from_slice(&value.to_le_bytes());
            Some(())
        }
        3 => add32(out.data.get_mut(at..at.checked_add(4)?)?, by),
        _ => None,
    }
}

fn add32(bytes: &mut [u8], by: u64) -> Option<()> {
    let value = i32::from_le_bytes(bytes.try_into().ok()?).checked_add(i32::try_from(by).ok()?)?;
    bytes.copy_from_slice(&value.to_le_bytes());
    Some(())
}
