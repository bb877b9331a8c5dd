//! The linked object as a file.
//!
//! Owns the layout: header, contents in order of section, symbols, strings, section headers. Invariant: equal inputs give
//! equal bytes. Kernel counterpart: none; elf(5).

use std::collections::HashMap;

use object::elf;

use super::error::LinkError;
use super::sections::Sections;
use super::symbols::{OutSymbol, Symbols};
use super::types::Types;

/// Bytes of the file header, of a section header, of a symbol, of a relocation.
const HEADER: usize = 64;
const SECTION_HEADER: u64 = 64;
const SYMBOL: u64 = 24;
const RELOCATION: u64 = 16;

/// Names, each once.
struct Strings {
    bytes: Vec<u8>,
    known: HashMap<String, u32>,
}

impl Strings {
    fn add(&mut self, text: &str) -> Result<u32, LinkError> {
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(&at) = self.known.get(text) {
            return Ok(at);
        }
        let at = u32::try_from(self.bytes.len()).map_err(|_| LinkError::TooLarge { what: "bytes of names" })?;
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.known.insert(text.to_owned(), at);
        Ok(at)
    }
}

/// A section header and the bytes behind it.
#[derive(Default)]
struct Section {
    name: String,
    kind: u32,
    flags: u64,
    align: u64,
    entsize: u64,
    link: u32,
    info: u32,
    size: u64,
    data: Vec<u8>,
}

pub(super) fn write(
    sections: &Sections<'_>,
    symbols: &Symbols<'_>,
    types: Option<&Types>,
) -> Result<Vec<u8>, LinkError> {
    let mut strings = Strings { bytes: vec![0], known: HashMap::new() };
    let mut out = vec![Section::default()];
    for section in &sections.all {
        out.push(Section {
            name: section.name.to_owned(),
            kind: if section.is_nobits { elf::SHT_NOBITS.0 } else { elf::SHT_PROGBITS.0 },
            flags: section.flags,
            align: section.align,
            entsize: section.entsize,
            size: section.size,
            data: if section.is_nobits { Vec::new() } else { section.data.clone() },
            ..Section::default()
        });
    }
    let (order, numbers) = sorted(&symbols.all);
    let with_relocations = sections.all.iter().filter(|section| !section.relocations.is_empty()).count();
    let types_count = types.map_or(0, |types| 1usize.saturating_add(usize::from(!types.ext.is_empty())));
    let symtab = number(out.len().saturating_add(with_relocations).saturating_add(types_count))?;
    for (at, section) in (1u32..).zip(&sections.all).filter(|(_, s)| !s.relocations.is_empty()) {
        let mut data = Vec::new();
        for relocation in &section.relocations {
            let Some(&symbol) = numbers.get(relocation.symbol.0) else {
                return Err(LinkError::Internal("a relocation has no symbol"));
            };
            data.extend_from_slice(&relocation.offset.to_le_bytes());
            data.extend_from_slice(&(u64::from(symbol) << 32 | u64::from(relocation.kind)).to_le_bytes());
        }
        out.push(Section {
            name: format!(".rel{}", section.name),
            kind: elf::SHT_REL.0,
            flags: elf::SHF_INFO_LINK.0,
            align: 8,
            entsize: RELOCATION,
            link: symtab,
            info: at,
            size: data.len() as u64,
            data,
        });
    }
    let plain = |name: &str, data: &[u8]| Section {
        name: name.to_owned(),
        kind: elf::SHT_PROGBITS.0,
        align: 4,
        size: data.len() as u64,
        data: data.to_vec(),
        ..Section::default()
    };
    if let Some(types) = types {
        out.push(plain(".BTF", &types.btf));
        if !types.ext.is_empty() {
            out.push(plain(".BTF.ext", &types.ext));
        }
    }
    let table = symbol_table(&symbols.all, &order, &mut strings)?;
    let locals = order.iter().filter(|&&at| symbols.all.get(at).is_some_and(|s| s.bind == elf::STB_LOCAL.0)).count();
    out.push(Section {
        name: ".symtab".into(),
        kind: elf::SHT_SYMTAB.0,
        align: 8,
        entsize: SYMBOL,
        link: symtab.saturating_add(1),
        info: number(locals.saturating_add(1))?,
        size: table.len() as u64,
        data: table,
        ..Section::default()
    });
    let names = out.iter().map(|section| strings.add(&section.name)).collect::<Result<Vec<_>, _>>()?;
    let strtab = strings.add(".strtab")?;
    out.push(Section {
        name: ".strtab".into(),
        kind: elf::SHT_STRTAB.0,
        align: 1,
        size: strings.bytes.len() as u64,
        data: strings.bytes,
        ..Section::default()
    });
    file(&out, names.into_iter().chain([strtab]).collect())
}

fn number(count: usize) -> Result<u32, LinkError> {
    u32::try_from(count).map_err(|_| LinkError::TooLarge { what: "sections or symbols" })
}

/// Local symbols, then global ones, each in the order in which they came; and the place of each.
fn sorted(all: &[OutSymbol<'_>]) -> (Vec<usize>, Vec<u32>) {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&at| all.get(at).is_some_and(|symbol| symbol.bind != elf::STB_LOCAL.0));
    let mut numbers = vec![0; all.len()];
    for (number, &at) in (1u32..).zip(&order) {
        if let Some(place) = numbers.get_mut(at) {
            *place = number;
        }
    }
    (order, numbers)
}

fn symbol_table(all: &[OutSymbol<'_>], order: &[usize], strings: &mut Strings) -> Result<Vec<u8>, LinkError> {
    let mut out = vec![0; 24];
    for symbol in order.iter().filter_map(|&at| all.get(at)) {
        let section = match symbol.section {
            None => 0,
            Some(section) => u16::try_from(section.saturating_add(1))
                .ok()
                .filter(|&section| section < 0xff00)
                .ok_or(LinkError::TooLarge { what: "sections" })?,
        };
        out.extend_from_slice(&strings.add(symbol.name)?.to_le_bytes());
        out.extend_from_slice(&[symbol.bind << 4 | symbol.kind & 15, symbol.visibility]);
        out.extend_from_slice(&section.to_le_bytes());
        out.extend_from_slice(&symbol.value.to_le_bytes());
        out.extend_from_slice(&symbol.size.to_le_bytes());
    }
    Ok(out)
}

fn file(sections: &[Section], names: Vec<u32>) -> Result<Vec<u8>, LinkError> {
    let mut out = vec![0; HEADER];
    let mut offsets = Vec::with_capacity(sections.len());
    for section in sections {
        let align = usize::try_from(section.align.max(1)).unwrap_or(1);
        out.resize(out.len().checked_next_multiple_of(align).ok_or(LinkError::TooLarge { what: "bytes" })?, 0);
        offsets.push(out.len() as u64);
        out.extend_from_slice(&section.data);
    }
    out.resize(out.len().checked_next_multiple_of(8).ok_or(LinkError::TooLarge { what: "bytes" })?, 0);
    let headers = out.len() as u64;
    for (index, ((section, offset), name)) in sections.iter().zip(offsets).zip(names).enumerate() {
        let offset = if index == 0 { 0 } else { offset };
        out.extend_from_slice(&name.to_le_bytes());
        out.extend_from_slice(&section.kind.to_le_bytes());
        for word in [section.flags, 0, offset, section.size] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&section.link.to_le_bytes());
        out.extend_from_slice(&section.info.to_le_bytes());
        out.extend_from_slice(&section.align.to_le_bytes());
        out.extend_from_slice(&section.entsize.to_le_bytes());
    }
    let count = u16::try_from(sections.len()).ok().filter(|&count| count < 0xff00);
    let count = count.ok_or(LinkError::TooLarge { what: "sections" })?;
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend_from_slice(&1u16.to_le_bytes()); // ET_REL
    header.extend_from_slice(&elf::EM_BPF.0.to_le_bytes());
    header.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, 0, headers] {
        header.extend_from_slice(&u64::to_le_bytes(word));
    }
    header.extend_from_slice(&0u32.to_le_bytes());
    let section_header = u16::try_from(SECTION_HEADER).unwrap_or(64);
    for half in [64, 0, 0, section_header, count, count.saturating_sub(1)] {
        header.extend_from_slice(&u16::to_le_bytes(half));
    }
    match out.get_mut(..HEADER) {
        Some(place) if header.len() == HEADER => place.copy_from_slice(&header),
        _ => return Err(LinkError::Internal("a header of another size")),
    }
    Ok(out)
}
