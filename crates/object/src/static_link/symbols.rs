//! Symbols: which definition each name stands for.
//!
//! Owns the resolution of global names and the symbol table of the result. Invariant: of a global name there is one symbol in
//! the result; local symbols stay apart, and come first. Kernel counterpart: `linker_append_elf_sym`, linker.c, 6.18.

use std::collections::HashMap;

use object::elf;

use super::Unit;
use super::error::LinkError;
use super::sections::Sections;
use crate::elf::Symbol;
use crate::error::escaped;

/// Number of a symbol of the result before its table is sorted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OutSymbolId(pub(super) usize);

/// A symbol of the result.
pub(super) struct OutSymbol<'a> {
    pub(super) name: &'a str,
    /// Its section; `None` for an undefined one.
    pub(super) section: Option<usize>,
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) bind: u8,
    pub(super) kind: u8,
    pub(super) visibility: u8,
}

/// A global name.
pub(super) struct Global {
    pub(super) symbol: OutSymbolId,
    /// Input and symbol of the definition that stands.
    pub(super) definition: Option<(usize, usize)>,
    /// The first input that has the name.
    first: usize,
}

/// All symbols.
pub(super) struct Symbols<'a> {
    pub(super) all: Vec<OutSymbol<'a>>,
    pub(super) globals: HashMap<&'a str, Global>,
    /// By input and symbol.
    map: Vec<Vec<Option<OutSymbolId>>>,
    /// What weak definitions that do not stand occupy, by input: section, first byte and end.
    pub(super) dead: Vec<Vec<(usize, u64, u64)>>,
}

impl<'a> Symbols<'a> {
    /// The symbol of the result that a symbol of an input became.
    pub(super) fn of(&self, unit: usize, symbol: usize) -> Option<OutSymbolId> {
        self.map.get(unit)?.get(symbol).copied().flatten()
    }

    /// Whether a byte of an input's section belongs to a definition that does not stand.
    pub(super) fn is_dead(&self, unit: usize, section: usize, offset: u64) -> bool {
        let dead = self.dead.get(unit).map(Vec::as_slice).unwrap_or_default();
        dead.iter().any(|&(of, start, end)| of == section && (start..end).contains(&offset))
    }

    fn push(&mut self, symbol: OutSymbol<'a>) -> OutSymbolId {
        self.all.push(symbol);
        OutSymbolId(self.all.len().saturating_sub(1))
    }
}

pub(super) fn resolve<'a>(units: &[Unit<'a>], sections: &Sections<'_>) -> Result<Symbols<'a>, LinkError> {
    let mut out = Symbols { all: Vec::new(), globals: HashMap::new(), map: Vec::new(), dead: Vec::new() };
    let mut of_section: HashMap<usize, OutSymbolId> = HashMap::new();
    for (number, unit) in units.iter().enumerate() {
        out.map.push(vec![None; unit.elf.symbols.len()]);
        out.dead.push(Vec::new());
        for (index, symbol) in unit.elf.symbols.iter().enumerate() {
            let placed = symbol.section.and_then(|section| sections.place(number, section));
            let id = if symbol.is_local || symbol.name.is_empty() {
                let Some(place) = placed else { continue };
                if symbol.kind == elf::STT_SECTION.0 {
                    *of_section.entry(place.section).or_insert_with(|| {
                        out.push(OutSymbol {
                            name: "",
                            section: Some(place.section),
                            value: 0,
                            size: 0,
                            bind: elf::STB_LOCAL.0,
                            kind: elf::STT_SECTION.0,
                            visibility: 0,
                        })
                    })
                } else {
                    let value = symbol.value.saturating_add(place.offset);
                    out.push(shown(symbol, Some(place.section), value, elf::STB_LOCAL.0))
                }
            } else if symbol.is_undefined || placed.is_some() {
                global(&mut out, units, sections, number, index, symbol)?
            } else {
                // Of a licence that is there already, or of what is not taken over.
                continue;
            };
            if let Some(place) = out.map.get_mut(number).and_then(|map| map.get_mut(index)) {
                *place = Some(id);
            }
        }
    }
    Ok(out)
}

fn shown<'a>(symbol: &Symbol<'a>, section: Option<usize>, value: u64, bind: u8) -> OutSymbol<'a> {
    let (name, size, kind, visibility) = (symbol.name, symbol.size, symbol.kind, symbol.visibility);
    OutSymbol { name, section, value, size, bind, kind, visibility }
}

/// Adds one more mention of a global name.
fn global<'a>(
    out: &mut Symbols<'a>,
    units: &[Unit<'a>],
    sections: &Sections<'_>,
    number: usize,
    index: usize,
    symbol: &Symbol<'a>,
) -> Result<OutSymbolId, LinkError> {
    let bind = if symbol.is_weak { elf::STB_WEAK.0 } else { elf::STB_GLOBAL.0 };
    let place = symbol.section.and_then(|section| sections.place(number, section));
    let value = place.map_or(0, |place| symbol.value.saturating_add(place.offset));
    let new = shown(symbol, place.map(|place| place.section), value, bind);
    let definition = (!symbol.is_undefined).then_some((number, index));
    let Some(known) = out.globals.get(symbol.name) else {
        let id = out.push(new);
        out.globals.insert(symbol.name, Global { symbol: id, definition, first: number });
        return Ok(id);
    };
    let (id, standing, first) = (known.symbol, known.definition, known.first);
    let conflict = |why: &str| LinkError::Symbol {
        symbol: escaped(symbol.name),
        first: units.get(first).map_or_else(String::new, |unit| unit.name.to_owned()),
        second: units.get(number).map_or_else(String::new, |unit| unit.name.to_owned()),
        why: why.to_owned(),
    };
    let Some(before) = out.all.get_mut(id.0) else { return Err(LinkError::Internal("a symbol is missing")) };
    // Undefined symbols have no kind.
    let untyped = [before.kind, new.kind].contains(&elf::STT_NOTYPE.0);
    if !untyped && before.kind != new.kind {
        return Err(conflict("it is a function in one object and a variable in another"));
    }
    let visibility = stricter(before.visibility, new.visibility);
    match (standing, definition) {
        (None, None) => {
            // One mention that needs it makes the name needed.
            if bind == elf::STB_GLOBAL.0 {
                before.bind = bind;
            }
        }
        (None, Some(_)) => *before = new,
        (Some(_), None) => {}
        (Some(_), Some(_)) if before.bind == elf::STB_GLOBAL.0 && bind == elf::STB_GLOBAL.0 => {
            return Err(conflict("it is defined twice; declare one of them __weak or static"));
        }
        (Some((unit, old)), Some(_)) => {
            let replaces = bind == elf::STB_GLOBAL.0 && before.bind == elf::STB_WEAK.0;
            let (unit, dead) = if replaces { (unit, old) } else { (number, index) };
            if replaces {
                *before = new;
            }
            if let Some(lost) = units.get(unit).and_then(|u| u.elf.symbols.get(dead))
                && let (Some(section), Some(ranges)) = (lost.section, out.dead.get_mut(unit))
            {
                ranges.push((section, lost.value, lost.value.saturating_add(lost.size)));
            }
            if !replaces {
                set_visibility(out, id, visibility);
                return Ok(id);
            }
        }
    }
    set_visibility(out, id, visibility);
    if let (Some(known), Some(_)) = (out.globals.get_mut(symbol.name), definition) {
        (known.definition, known.first) = (definition, number);
    }
    Ok(id)
}

fn set_visibility(out: &mut Symbols<'_>, id: OutSymbolId, visibility: u8) {
    if let Some(symbol) = out.all.get_mut(id.0) {
        symbol.visibility = visibility;
    }
}

/// Hidden (2) and internal (1) beat default (0).
fn stricter(a: u8, b: u8) -> u8 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    }
}
