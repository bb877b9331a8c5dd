//! Sections of one name joined.
//!
//! Owns the contents of the result and where each input's sections lie in it. Invariant: a section starts at a multiple of its
//! own alignment; `license` and `version` are there once and the same in all inputs.

use std::collections::HashMap;

use object::elf;

use super::Unit;
use super::error::LinkError;
use crate::error::escaped;

/// Sections that say one thing about the whole object.
const SHARED: [&str; 2] = ["license", "version"];
/// The largest section of the result.
const MAX_SECTION: u64 = 1 << 31;

/// A section of the result.
pub(super) struct OutSection<'a> {
    pub(super) name: &'a str,
    pub(super) is_nobits: bool,
    pub(super) is_exec: bool,
    pub(super) flags: u64,
    pub(super) align: u64,
    pub(super) entsize: u64,
    pub(super) size: u64,
    /// Its bytes; shorter than `size` while nothing but zero follows.
    pub(super) data: Vec<u8>,
    pub(super) relocations: Vec<OutRelocation>,
}

/// A relocation of the result.
#[derive(Clone, Copy)]
pub(super) struct OutRelocation {
    pub(super) offset: u64,
    pub(super) symbol: super::symbols::OutSymbolId,
    pub(super) kind: u32,
}

/// Where a section of an input went.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) section: usize,
    pub(super) offset: u64,
}

/// The sections of the result.
pub(super) struct Sections<'a> {
    pub(super) all: Vec<OutSection<'a>>,
    /// By input and section.
    places: Vec<Vec<Option<Place>>>,
}

impl Sections<'_> {
    /// Where a section of an input went; `None` for one that is not taken over.
    pub(super) fn place(&self, unit: usize, section: usize) -> Option<Place> {
        self.places.get(unit)?.get(section).copied().flatten()
    }

    /// The section of this name.
    pub(super) fn find(&self, name: &str) -> Option<&OutSection<'_>> {
        self.all.iter().find(|section| section.name == name)
    }
}

pub(super) fn merge<'a>(units: &[Unit<'a>]) -> Result<Sections<'a>, LinkError> {
    let mut all: Vec<OutSection<'a>> = Vec::new();
    let mut by_name: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut places = Vec::with_capacity(units.len());
    for (number, unit) in units.iter().enumerate() {
        let mut here = vec![None; unit.elf.sections.len()];
        for (section, place) in unit.elf.sections.iter().zip(&mut here) {
            let nobits = section.kind == elf::SHT_NOBITS;
            if section.size == 0 || !(nobits || section.kind == elf::SHT_PROGBITS) || is_left_out(section.name) {
                continue;
            }
            let &mut (index, first) = by_name.entry(section.name).or_insert_with(|| {
                all.push(OutSection {
                    name: section.name,
                    is_nobits: true,
                    is_exec: section.is_exec,
                    flags: section.flags,
                    align: 1,
                    entsize: section.entsize,
                    size: 0,
                    data: Vec::new(),
                    relocations: Vec::new(),
                });
                (all.len().saturating_sub(1), number)
            });
            let Some(out) = all.get_mut(index) else { return Err(LinkError::Internal("a section is missing")) };
            let differs = |why: String| LinkError::Section {
                section: escaped(section.name),
                first: units.get(first).map_or_else(String::new, |u| u.name.to_owned()),
                second: unit.name.to_owned(),
                why,
            };
            if out.flags != section.flags || out.entsize != section.entsize {
                let why = format!(
                    "flags {:#x} and {:#x}, entry sizes {} and {}",
                    out.flags, section.flags, out.entsize, section.entsize
                );
                return Err(differs(why));
            }
            if SHARED.contains(&section.name) && first != number {
                if out.data != section.data {
                    let text = |bytes: &[u8]| escaped(String::from_utf8_lossy(bytes).trim_end_matches('\0'));
                    return Err(differs(format!("'{}' is not '{}'", text(&out.data), text(section.data))));
                }
                continue;
            }
            let align = section.align.max(1);
            if !align.is_power_of_two() || align > 1 << 16 {
                return Err(differs(format!("an alignment of {align} bytes")));
            }
            let start = out.size.checked_next_multiple_of(align);
            let end = start.and_then(|start| start.checked_add(section.size)).filter(|&end| end <= MAX_SECTION);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(LinkError::TooLarge { what: "bytes in one section" });
            };
            if !nobits {
                // Where one input has bytes and another only zeros, the zeros become bytes.
                out.is_nobits = false;
                out.data.resize(usize::try_from(start).unwrap_or(usize::MAX), 0);
                out.data.extend_from_slice(section.data);
            }
            (out.size, out.align) = (end, out.align.max(align));
            *place = Some(Place { section: index, offset: start });
        }
        places.push(here);
    }
    for out in all.iter_mut().filter(|out| !out.is_nobits) {
        out.data.resize(usize::try_from(out.size).unwrap_or(usize::MAX), 0);
    }
    Ok(Sections { all, places })
}

/// What is written anew, or of use to debuggers alone.
fn is_left_out(name: &str) -> bool {
    [".BTF", ".BTF.ext", ".eh_frame", ".comment"].contains(&name)
        || name.starts_with(".debug_")
        || name.starts_with(".note")
        || name.starts_with(".llvm")
}
