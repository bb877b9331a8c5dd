//! Data sections as maps, and the variables in them.
//!
//! Owns which sections hold data, their maps' names, flags and images, and where variables lie. Invariant: an image has
//! the section's size or is empty for all zero; no more is allocated than the file has bytes, but for `.kconfig`.
//! Kernel counterpart: `bpf_object__init_internal_map`, `internal_map_name`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::HashMap;

use object::elf;
use skep_abi::MapType;
use skep_abi::map_flags::{BPF_F_MMAPABLE, BPF_F_RDONLY_PROG};
use skep_btf::{Btf, Linkage, TypeData, TypeId};

use crate::elf::{Elf, Section};
use crate::error::{Error, Result, escaped};
use crate::maps::{blank, kernel_name};
use crate::spec::{MapKind, MapSpec, VariableSpec};
use crate::types::{KCONFIG, MAX_DATA};

/// The section of global variables of an arena.
const ARENA_GLOBALS: &str = ".addr_space.1";
/// Bytes of a page of an arena.
pub(crate) const ARENA_PAGE: u64 = 4096;

/// The maps of data sections appended to `maps`.
#[derive(Debug, Default)]
pub(crate) struct DataMaps {
    /// Index of a section to index of its map.
    pub(crate) by_section: HashMap<usize, usize>,
    /// Index of the `.kconfig` map.
    pub(crate) kconfig: Option<usize>,
    pub(crate) variables: Vec<VariableSpec>,
}

/// Appends a map for each data section to `maps`.
pub(crate) fn parse(elf: &Elf<'_>, btf: Option<&Btf>, object: &str, maps: &mut Vec<MapSpec>) -> Result<DataMaps> {
    let mut out = DataMaps::default();
    for (index, section) in elf.sections.iter().enumerate().filter(|(_, s)| s.size > 0) {
        if section.name == ARENA_GLOBALS {
            let (at, size) = arena_globals(section, maps)?;
            match btf.and_then(|btf| btf.data_sec(section.name).map(|(id, _)| (btf, id))) {
                Some((btf, sec)) => btf_variables(btf, sec, at, size, &mut out.variables)?,
                None => symbol_variables(elf, index, at, size, &mut out.variables),
            }
            out.by_section.insert(index, at);
            continue;
        }
        let Some(kind) = section_kind(section) else { continue };
        let size = match u32::try_from(section.size) {
            Ok(size) if section.size <= MAX_DATA => size,
            _ => {
                let why = format!("{} bytes of data, the limit is {MAX_DATA}", section.size);
                return Err(Error::Section { section: escaped(section.name), offset: 0, why });
            }
        };
        let sec = btf.and_then(|btf| btf.data_sec(section.name)).map(|(id, _)| id);
        let mut map = internal_map(section.name, kind, object, size);
        map.value_type = sec;
        if kind != MapKind::PerCpu && has_global(elf, index) {
            map.map_flags |= BPF_F_MMAPABLE;
        }
        if section.data.iter().any(|&b| b != 0) {
            map.image = section.data.to_vec();
        }
        let at = maps.len();
        match (btf, sec) {
            (Some(btf), Some(sec)) => btf_variables(btf, sec, at, size, &mut out.variables)?,
            _ => symbol_variables(elf, index, at, size, &mut out.variables),
        }
        maps.push(map);
        out.by_section.insert(index, at);
    }
    if let Some((sec, data)) = btf.and_then(|btf| btf.data_sec(KCONFIG))
        && data.size > 0
    {
        let mut map = internal_map(KCONFIG, MapKind::Kconfig, object, data.size);
        map.value_type = Some(sec);
        map.map_flags |= BPF_F_MMAPABLE;
        map.image = vec![0; data.size as usize];
        out.kconfig = Some(maps.len());
        maps.push(map);
    }
    Ok(out)
}

/// Puts the global variables of the arena into its map: where that is among the maps, and the bytes that they take.
fn arena_globals(section: &Section<'_>, maps: &mut [MapSpec]) -> Result<(usize, u32)> {
    let bad = |why: String| Error::Section { section: escaped(section.name), offset: 0, why };
    if section.kind != elf::SHT_PROGBITS || section.is_exec {
        return Err(bad("it is no section of data".into()));
    }
    let found = maps.iter_mut().enumerate().find(|(_, map)| map.map_type == MapType::Arena as u32);
    let (at, map) =
        found.ok_or_else(|| bad("global variables of an arena, and no arena is defined in .maps".into()))?;
    let room = u64::from(map.max_entries).saturating_mul(ARENA_PAGE);
    match u32::try_from(section.size) {
        Ok(size) if section.size <= room => {
            map.image = section.data.to_vec();
            Ok((at, size))
        }
        _ => Err(bad(format!("{} bytes of global variables, the arena has {room}", section.size))),
    }
}

fn section_kind(section: &Section<'_>) -> Option<MapKind> {
    let is = |name: &str| section.name == name || section.name.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
    if section.is_exec {
        return None;
    }
    match section.kind {
        elf::SHT_NOBITS if is(".percpu") => Some(MapKind::PerCpu),
        elf::SHT_NOBITS if is(".bss") => Some(MapKind::Bss),
        elf::SHT_PROGBITS if is(".percpu") => Some(MapKind::PerCpu),
        elf::SHT_PROGBITS if is(".data") => Some(MapKind::Data),
        elf::SHT_PROGBITS if is(".rodata") => Some(MapKind::Rodata),
        _ => None,
    }
}

fn internal_map(section: &str, kind: MapKind, object: &str, size: u32) -> MapSpec {
    let mut map = blank(section, kind);
    // A name with a second dot, or of per-CPU data, stands alone; the others carry as much of the object's as fits beside
    // the longest of them, `.rodata`.
    let alone = kind == MapKind::PerCpu || section.get(1..).is_some_and(|rest| rest.contains('.'));
    if !alone {
        let room = 15usize.saturating_sub(section.len().max(7));
        let prefix: String = object.chars().take(room).collect();
        map.kernel_name = kernel_name(&format!("{prefix}{section}"));
    }
    map.map_type = if kind == MapKind::PerCpu { MapType::PercpuArray as u32 } else { MapType::Array as u32 };
    map.key_size = 4;
    map.value_size = size;
    map.max_entries = 1;
    if kind.is_read_only() {
        map.map_flags |= BPF_F_RDONLY_PROG;
    }
    map
}

/// Whether someone outside the object can know a variable of the section by name: such a map can be mapped.
fn has_global(elf: &Elf<'_>, section: usize) -> bool {
    elf.symbols_in(section).any(|s| !s.is_local && s.is_object)
}

fn btf_variables(btf: &Btf, sec: TypeId, map: usize, size: u32, out: &mut Vec<VariableSpec>) -> Result<()> {
    for (name, var) in btf.data_sec_vars(sec) {
        let Some(TypeData::Var { ty, linkage }) = btf.get(var.ty).map(|ty| &ty.data) else { continue };
        if var.offset.checked_add(var.size).is_none_or(|end| end > size) {
            return Err(Error::Section {
                section: escaped(btf.name(sec)),
                offset: u64::from(var.offset),
                why: format!("variable {} of {} bytes ends outside the section", escaped(name), var.size),
            });
        }
        out.push(VariableSpec {
            name: name.to_owned(),
            map,
            offset: var.offset,
            size: var.size,
            type_id: Some(*ty),
            linkage: *linkage,
        });
    }
    Ok(())
}

fn symbol_variables(elf: &Elf<'_>, section: usize, map: usize, size: u32, out: &mut Vec<VariableSpec>) {
    let first = out.len();
    for symbol in elf.symbols_in(section).filter(|s| s.is_object) {
        let end = symbol.value.checked_add(symbol.size).filter(|&end| end <= u64::from(size));
        let place = u32::try_from(symbol.value).ok().zip(u32::try_from(symbol.size).ok());
        if let (Some(_), Some((offset, size))) = (end, place) {
            let linkage = if symbol.is_local { Linkage::Static } else { Linkage::Global };
            out.push(VariableSpec { name: symbol.name.to_owned(), map, offset, size, type_id: None, linkage });
        }
    }
    if let Some(added) = out.get_mut(first..) {
        added.sort_by_key(|v| v.offset);
    }
}
