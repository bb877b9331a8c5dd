//! ELF: headers, sections, symbols and relocations of one file.
//!
//! Owns every read of the container. Invariant: an [`Elf`] has only sections that lie in the file and do not overlap,
//! names that end, and symbols whose section exists, so what is copied out of it is bounded by the input's size.
//! Kernel counterpart: none; elf(5), and `bpf_object__elf_collect`, tools/lib/bpf/libbpf.c, 6.18.

use object::LittleEndian as Le;
use object::elf::{self, FileHeader64, Rel64, SectionHeader64, Sym64};
use object::pod::{from_bytes, slice_from_bytes};

use crate::error::{Error, Result, escaped};

/// The longest name of a section or symbol.
const MAX_NAME: usize = 1024;

/// A section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: elf::SectionType,
    pub(crate) is_exec: bool,
    pub(crate) flags: u64,
    pub(crate) align: u64,
    pub(crate) entsize: u64,
    pub(crate) size: u64,
    /// Its bytes; empty for `SHT_NOBITS`.
    pub(crate) data: &'a [u8],
    pub(crate) link: u32,
    pub(crate) info: u32,
}

/// A symbol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol<'a> {
    pub(crate) name: &'a str,
    /// Index of its section; `None` for an undefined or absolute one.
    pub(crate) section: Option<usize>,
    pub(crate) is_undefined: bool,
    pub(crate) is_local: bool,
    pub(crate) is_weak: bool,
    pub(crate) is_hidden: bool,
    pub(crate) is_func: bool,
    pub(crate) is_object: bool,
    /// `STT_*`.
    pub(crate) kind: u8,
    /// `STV_*`.
    pub(crate) visibility: u8,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

/// A relocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relocation {
    pub(crate) offset: u64,
    pub(crate) symbol: usize,
    pub(crate) kind: u32,
}

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
    /// Target section and relocation section, sorted.
    relocation_sections: Vec<(usize, usize)>,
    /// Section and symbol, sorted.
    symbols_by_section: Vec<(usize, usize)>,
}

fn bad(field: &'static str, offset: u64, why: impl Into<String>) -> Error {
    Error::Elf { field, offset, why: why.into() }
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header = check_header(bytes)?;
        let sections = parse_sections(bytes, header)?;
        let symbols = parse_symbols(&sections)?;
        let mut relocation_sections: Vec<(usize, usize)> = sections
            .iter()
            .enumerate()
            .filter(|(_, s)| matches!(s.kind, elf::SHT_REL | elf::SHT_RELA))
            .map(|(index, s)| (s.info as usize, index))
            .collect();
        relocation_sections.sort_unstable();
        let mut symbols_by_section: Vec<(usize, usize)> =
            symbols.iter().enumerate().filter_map(|(index, s)| Some((s.section?, index))).collect();
        symbols_by_section.sort_unstable();
        Ok(Self { sections, symbols, relocation_sections, symbols_by_section })
    }

    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections.iter().enumerate().find(|(_, s)| s.name == name)
    }

    /// The name of a section, escaped.
    pub(crate) fn section_name(&self, index: usize) -> String {
        self.sections.get(index).map_or_else(|| format!("{index}"), |s| escaped(s.name))
    }

    /// The symbols of a section, in order of the table.
    pub(crate) fn symbols_in(&self, section: usize) -> impl Iterator<Item = &Symbol<'a>> {
        let first = self.symbols_by_section.partition_point(|&(of, _)| of < section);
        let found = self.symbols_by_section.iter().skip(first).take_while(move |&&(of, _)| of == section);
        found.filter_map(|&(_, index)| self.symbols.get(index))
    }

    /// The relocations of all `SHT_REL` sections that apply to section `target`, in order of the file.
    pub(crate) fn relocations(&self, target: usize) -> Result<Vec<Relocation>> {
        let mut out = Vec::new();
        let first = self.relocation_sections.partition_point(|&(to, _)| to < target);
        let found = self.relocation_sections.iter().skip(first).take_while(|&&(to, _)| to == target);
        for section in found.filter_map(|&(_, index)| self.sections.get(index)) {
            if section.kind == elf::SHT_RELA {
                let why = "SHT_RELA relocations do not occur in BPF objects, only SHT_REL".into();
                return Err(Error::Section { section: escaped(section.name), offset: 0, why });
            }
            for (at, rel) in table::<Rel64<Le>>(section, "relocation")?.iter().enumerate() {
                let symbol = rel.r_sym(Le) as usize;
                if self.symbols.get(symbol).is_none() {
                    let offset = table_offset::<Rel64<Le>>(at);
                    let why = format!("there is no symbol {symbol}");
                    return Err(Error::Section { section: escaped(section.name), offset, why });
                }
                out.push(Relocation { offset: rel.r_offset.get(Le), symbol, kind: rel.r_type(Le).0 });
            }
        }
        Ok(out)
    }
}

fn check_header(bytes: &[u8]) -> Result<&FileHeader64<Le>> {
    let have = bytes.len();
    if bytes.get(..4) != Some(&elf::ELFMAG) {
        return Err(bad("e_ident[EI_MAG]", 0, "the file does not start with \\x7fELF"));
    }
    match bytes.get(4) {
        Some(2) => {}
        Some(1) => return Err(bad("e_ident[EI_CLASS]", 4, "the file is 32-bit, BPF objects are 64-bit")),
        class => return Err(bad("e_ident[EI_CLASS]", 4, format!("unknown class {class:?}"))),
    }
    match bytes.get(5) {
        Some(1) => {}
        Some(2) => {
            return Err(bad("e_ident[EI_DATA]", 5, "the file is big-endian; compile with -target bpfel"));
        }
        data => return Err(bad("e_ident[EI_DATA]", 5, format!("unknown byte order {data:?}"))),
    }
    let Ok((header, _)) = from_bytes::<FileHeader64<Le>>(bytes) else {
        return Err(bad("e_ident", 0, format!("the file ends inside the ELF header: {have} bytes of 64")));
    };
    if header.e_ident.version.0 != 1 {
        return Err(bad("e_ident[EI_VERSION]", 6, format!("version {}", header.e_ident.version.0)));
    }
    if header.e_type.get(Le) != elf::ET_REL {
        let why = format!("type {}, only relocatable objects (ET_REL, 1) hold BPF", header.e_type.get(Le).0);
        return Err(bad("e_type", 16, why));
    }
    let machine = header.e_machine.get(Le);
    // Compilers before LLVM 3.8 left the machine out, and libbpf takes such objects.
    if machine != elf::EM_BPF && machine != elf::EM_NONE {
        return Err(bad("e_machine", 18, format!("machine {}, not EM_BPF (247)", machine.0)));
    }
    Ok(header)
}

fn parse_sections<'a>(bytes: &'a [u8], header: &FileHeader64<Le>) -> Result<Vec<Section<'a>>> {
    let offset = header.e_shoff.get(Le);
    let count = u64::from(header.e_shnum.get(Le));
    if offset == 0 || count == 0 {
        return Err(bad("e_shoff", 40, "there are no section headers"));
    }
    if header.e_shentsize.get(Le) != 64 {
        return Err(bad("e_shentsize", 58, format!("section headers of {} bytes, not 64", header.e_shentsize.get(Le))));
    }
    let headers = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..))
        .and_then(|rest| slice_from_bytes::<SectionHeader64<Le>>(rest, usize::try_from(count).ok()?).ok())
        .map(|(headers, _)| headers);
    let Some(headers) = headers else {
        let why = format!("{count} section headers at {offset:#x} end outside the file of {} bytes", bytes.len());
        return Err(bad("e_shoff", 40, why));
    };
    let at = |index: usize| offset.saturating_add(table_offset::<SectionHeader64<Le>>(index));
    let name_index = header.e_shstrndx.get(Le).0 as usize;
    let Some(names) = headers.get(name_index) else {
        return Err(bad("e_shstrndx", 62, format!("there is no section {name_index}")));
    };
    let names = section_bytes(bytes, names, at(name_index))?;
    let mut sections = Vec::with_capacity(headers.len());
    for (index, raw) in headers.iter().enumerate() {
        let name = string_at(names, raw.sh_name.get(Le)).map_err(|why| bad("sh_name", at(index), why))?;
        sections.push(Section {
            name,
            kind: raw.sh_type.get(Le),
            is_exec: raw.sh_flags.get(Le).0 & elf::SHF_EXECINSTR.0 != 0,
            flags: raw.sh_flags.get(Le).0,
            align: raw.sh_addralign.get(Le),
            entsize: raw.sh_entsize.get(Le),
            size: raw.sh_size.get(Le),
            data: section_bytes(bytes, raw, at(index))?,
            link: raw.sh_link.get(Le),
            info: raw.sh_info.get(Le),
        });
    }
    check_overlap(headers, &sections, &at)?;
    Ok(sections)
}

fn section_bytes<'a>(bytes: &'a [u8], raw: &SectionHeader64<Le>, at: u64) -> Result<&'a [u8]> {
    if matches!(raw.sh_type.get(Le), elf::SHT_NOBITS | elf::SHT_NULL) {
        return Ok(&[]);
    }
    let (offset, size) = (raw.sh_offset.get(Le), raw.sh_size.get(Le));
    let range =
        offset.checked_add(size).and_then(|end| Some((usize::try_from(offset).ok()?, usize::try_from(end).ok()?)));
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        let why = format!("{size} bytes at {offset:#x} end outside the file of {} bytes", bytes.len());
        bad("sh_offset", at.saturating_add(24), why)
    })
}

/// Sections that share bytes would let a small file stand for a large amount of data.
fn check_overlap(headers: &[SectionHeader64<Le>], sections: &[Section<'_>], at: &dyn Fn(usize) -> u64) -> Result<()> {
    let mut ranges: Vec<(u64, u64, usize)> = headers
        .iter()
        .zip(sections)
        .enumerate()
        .filter(|(_, (_, s))| !s.data.is_empty())
        .map(|(index, (raw, s))| (raw.sh_offset.get(Le), raw.sh_offset.get(Le).saturating_add(s.size), index))
        .collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let &[(_, end, first), (start, _, second)] = pair
            && start < end
        {
            let name = |index: usize| sections.get(index).map_or("", |s| s.name);
            let why = format!("section {} overlaps section {}", escaped(name(second)), escaped(name(first)));
            return Err(bad("sh_offset", at(second).saturating_add(24), why));
        }
    }
    Ok(())
}

fn parse_symbols<'a>(sections: &[Section<'a>]) -> Result<Vec<Symbol<'a>>> {
    let mut tables = sections.iter().enumerate().filter(|(_, s)| s.kind == elf::SHT_SYMTAB);
    let Some((_, section)) = tables.next() else {
        return Err(bad("sh_type", 0, "there is no symbol table; the object was stripped"));
    };
    if let Some((second, _)) = tables.next() {
        return Err(bad("sh_type", 0, format!("section {second} is a second symbol table")));
    }
    let in_table = |at: usize, why: String| Error::Section {
        section: escaped(section.name),
        offset: table_offset::<Sym64<Le>>(at),
        why,
    };
    let strings = sections
        .get(section.link as usize)
        .filter(|s| s.kind == elf::SHT_STRTAB)
        .ok_or_else(|| in_table(0, format!("sh_link {} is no string table", section.link)))?;
    let raw = table::<Sym64<Le>>(section, "symbol")?;
    let mut symbols = Vec::with_capacity(raw.len());
    let mut globals = std::collections::HashSet::new();
    for (at, sym) in raw.iter().enumerate() {
        let name = string_at(strings.data, sym.st_name.get(Le)).map_err(|why| in_table(at, why))?;
        let shndx = sym.st_shndx.get(Le).0;
        let section = match shndx {
            0 => None,
            0xfff1 => None,
            0xff00.. => return Err(in_table(at, format!("symbol {} has st_shndx {shndx:#x}", escaped(name)))),
            index if usize::from(index) < sections.len() => Some(usize::from(index)),
            index => return Err(in_table(at, format!("symbol {} is in section {index}", escaped(name)))),
        };
        let is_local = sym.st_bind() == elf::STB_LOCAL;
        if !is_local && !name.is_empty() && shndx != 0 && !globals.insert(name) {
            return Err(in_table(at, format!("symbol {} is defined twice", escaped(name))));
        }
        symbols.push(Symbol {
            name,
            section,
            is_undefined: shndx == 0,
            is_local,
            is_weak: sym.st_bind() == elf::STB_WEAK,
            is_hidden: matches!(sym.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL),
            is_func: sym.st_type() == elf::STT_FUNC,
            is_object: sym.st_type() == elf::STT_OBJECT,
            kind: sym.st_type().0,
            visibility: sym.st_visibility().0,
            value: sym.st_value.get(Le),
            size: sym.st_size.get(Le),
        });
    }
    Ok(symbols)
}

/// A section that is a table of `T`.
fn table<'a, T: object::pod::Pod>(section: &Section<'a>, what: &str) -> Result<&'a [T]> {
    let size = std::mem::size_of::<T>();
    let count = section.data.len().checked_div(size).unwrap_or(0);
    match slice_from_bytes::<T>(section.data, count) {
        Ok((table, [])) => Ok(table),
        _ => Err(Error::Section {
            section: escaped(section.name),
            offset: count.saturating_mul(size) as u64,
            why: format!("{} bytes are no whole number of {what} entries of {size}", section.data.len()),
        }),
    }
}

fn table_offset<T>(index: usize) -> u64 {
    index.saturating_mul(std::mem::size_of::<T>()) as u64
}

/// The string at `offset`; the error is only the reason.
fn string_at(strings: &[u8], offset: u32) -> Result<&str, String> {
    let Some(rest) = strings.get(offset as usize..) else {
        return Err(format!("name offset {offset:#x} is outside the string table of {} bytes", strings.len()));
    };
    let rest = rest.get(..MAX_NAME).unwrap_or(rest);
    let Some(end) = rest.iter().position(|&b| b == 0) else {
        return Err(if rest.len() == MAX_NAME {
            format!("the name at {offset:#x} is longer than {MAX_NAME} bytes")
        } else {
            format!("the name at {offset:#x} is not terminated")
        });
    };
    std::str::from_utf8(&rest[..end]).map_err(|_| format!("the name at {offset:#x} is not UTF-8"))
}
