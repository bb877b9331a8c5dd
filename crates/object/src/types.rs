//! The object's BTF, completed from its sections and symbols.
//!
//! Owns what the compiler leaves open: sizes of data sections, offsets of global variables, the layout of `.kconfig`,
//! and functions that are hidden outside the object. Invariant: afterwards every variable lies inside its section and
//! variables are in order of offset. Kernel counterpart: `btf_fixup_datasec`, `bpf_object__collect_externs`,
//! tools/lib/bpf/libbpf.c, 6.18.

use std::collections::HashMap;
use std::sync::Arc;

use skep_btf::{Btf, BtfExt, Builder, Kind, Linkage, Rules, TypeData, TypeId};

use crate::code::Functions;
use crate::elf::{Elf, Symbol};
use crate::error::{Error, Result, escaped};

/// Name of the section of configuration values.
pub(crate) const KCONFIG: &str = ".kconfig";
/// Name of the section of kernel symbols.
pub(crate) const KSYMS: &str = ".ksyms";
/// The most bytes of configuration values: they are allocated without standing in the file.
const MAX_KCONFIG: u64 = 1 << 20;
/// The largest data section.
pub(crate) const MAX_DATA: u64 = 1 << 30;

/// Parses and completes `.BTF`, and parses `.BTF.ext`.
pub(crate) fn parse(elf: &Elf<'_>, functions: &Functions) -> Result<(Option<Arc<Btf>>, BtfExt)> {
    let Some((_, section)) = elf.find(".BTF") else { return Ok((None, BtfExt::default())) };
    let in_btf = |source| Error::Btf { section: ".BTF", source };
    let btf = Btf::parse(section.data).map_err(in_btf)?;
    let btf = complete(btf, elf, functions)?;
    let ext = match elf.find(".BTF.ext") {
        Some((_, section)) => {
            BtfExt::parse(section.data, &btf).map_err(|source| Error::Btf { section: ".BTF.ext", source })?
        }
        None => BtfExt::default(),
    };
    Ok((Some(Arc::new(btf)), ext))
}

fn complete(btf: Btf, elf: &Elf<'_>, functions: &Functions) -> Result<Btf> {
    let globals: HashMap<&str, &Symbol<'_>> =
        elf.symbols.iter().filter(|s| !s.is_local && !s.name.is_empty()).map(|s| (s.name, s)).collect();
    let sections: HashMap<&str, u64> = elf.sections.iter().map(|s| (s.name, s.size)).collect();
    let secs: Vec<TypeId> = btf.types().filter(|(_, ty)| ty.kind() == Kind::DataSec).map(|(id, _)| id).collect();
    let mut changes = Vec::new();
    for id in secs {
        let name = btf.name(id);
        let (size, places) = match (name, sections.get(name)) {
            (KCONFIG, _) => layout_kconfig(&btf, id)?,
            (_, Some(&size)) => {
                let said = check_said_size(&btf, id, check_size(name, size)?)?;
                (said, place_variables(&btf, id, size, &globals)?)
            }
            // `.ksyms` has no bytes; a section that was stripped away has none either.
            (_, None) => continue,
        };
        changes.push((id, size, places));
    }
    let hidden: Vec<&str> = functions.all.iter().filter(|f| f.is_hidden).map(|f| f.name.as_str()).collect();
    let hidden: Vec<TypeId> = hidden.into_iter().filter_map(|name| btf.find(name, Kind::Func)).collect();
    if changes.is_empty() && hidden.is_empty() {
        return Ok(btf);
    }
    let mut builder = btf.into_builder();
    for (id, new_size, places) in changes {
        set_section(&mut builder, id, new_size, &places)?;
    }
    for id in hidden {
        if let Some(TypeData::Func { linkage, .. }) = builder.get_mut(id).map(|ty| &mut ty.data) {
            *linkage = Linkage::Static;
        }
    }
    builder.finish(Rules::Object).map_err(|source| Error::Btf { section: ".BTF", source })
}

fn check_size(name: &str, size: u64) -> Result<u32> {
    match u32::try_from(size) {
        Ok(narrow) if size <= MAX_DATA => Ok(narrow),
        _ => {
            let why = format!("{size} bytes of data, the limit is {MAX_DATA}");
            Err(Error::Section { section: escaped(name), offset: 0, why })
        }
    }
}

/// The size that BTF says, or the section's where it says none.
fn check_said_size(btf: &Btf, id: TypeId, size: u32) -> Result<u32> {
    match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::DataSec(sec)) if sec.size > size => {
            let why = format!("BTF says {} bytes, the section has {size}", sec.size);
            Err(Error::Section { section: escaped(btf.name(id)), offset: 0, why })
        }
        Some(TypeData::DataSec(sec)) if sec.size != 0 => Ok(sec.size),
        _ => Ok(size),
    }
}

/// Offset and size of each variable of a section, in the order of the record.
fn place_variables(
    btf: &Btf,
    id: TypeId,
    section_size: u64,
    globals: &HashMap<&str, &Symbol<'_>>,
) -> Result<Vec<(u32, u32)>> {
    let Some(TypeData::DataSec(sec)) = btf.get(id).map(|ty| &ty.data) else {
        return Err(Error::Internal("a data section is none"));
    };
    let mut places = Vec::with_capacity(sec.vars.len());
    for var in &sec.vars {
        let name = btf.name(var.ty);
        let is_static =
            matches!(btf.get(var.ty).map(|ty| &ty.data), Some(TypeData::Var { linkage: Linkage::Static, .. }));
        // A producer that filled in the section's size (a static linker) filled in the offsets too.
        let offset = if sec.size != 0 || is_static {
            u64::from(var.offset)
        } else {
            let missing = || Error::Section {
                section: escaped(btf.name(id)),
                offset: u64::from(var.offset),
                why: format!("variable {} has no symbol", escaped(name)),
            };
            globals.get(name).map(|s| s.value).ok_or_else(missing)?
        };
        let end = offset.checked_add(u64::from(var.size)).filter(|&end| end <= section_size);
        let Some(offset) = end.and_then(|_| u32::try_from(offset).ok()) else {
            return Err(Error::Section {
                section: escaped(btf.name(id)),
                offset,
                why: format!("variable {} of {} bytes ends outside the section", escaped(name), var.size),
            });
        };
        places.push((offset, var.size));
    }
    Ok(places)
}

/// Lays out the configuration values: by alignment, size, then name.
fn layout_kconfig(btf: &Btf, id: TypeId) -> Result<(u32, Vec<(u32, u32)>)> {
    let in_btf = |source| Error::Btf { section: ".BTF", source };
    let mut vars = Vec::new();
    for (at, (name, var)) in btf.data_sec_vars(id).enumerate() {
        let TypeData::Var { ty, .. } = btf.ty(var.ty).map_err(in_btf)?.data else {
            let why = format!("{} is no variable", escaped(name));
            return Err(Error::Extern { name: escaped(name), section: KCONFIG.into(), why });
        };
        let size = btf.size_of(ty).map_err(in_btf)?;
        let align = btf.align_of(ty).map_err(in_btf)?;
        vars.push((std::cmp::Reverse(align), std::cmp::Reverse(size), name, at));
    }
    vars.sort_unstable();
    let mut places = vec![(0, 0); vars.len()];
    let mut end = 0u32;
    for &(std::cmp::Reverse(align), std::cmp::Reverse(size), _, at) in &vars {
        let start = end.checked_next_multiple_of(align);
        let next = start.and_then(|start| start.checked_add(size)).filter(|&end| u64::from(end) <= MAX_KCONFIG);
        let (Some(start), Some(next), Some(place)) = (start, next, places.get_mut(at)) else {
            return Err(Error::TooLarge { what: "bytes of configuration", have: u64::from(size), max: MAX_KCONFIG });
        };
        *place = (start, size);
        end = next;
    }
    Ok((end, places))
}

fn set_section(builder: &mut Builder, id: TypeId, new_size: u32, places: &[(u32, u32)]) -> Result<()> {
    let Some(TypeData::DataSec(sec)) = builder.get_mut(id).map(|ty| &mut ty.data) else {
        return Err(Error::Internal("a data section is none"));
    };
    sec.size = new_size;
    for (var, &(offset, size)) in sec.vars.iter_mut().zip(places) {
        (var.offset, var.size) = (offset, size);
    }
    sec.vars.sort_by_key(|var| var.offset);
    Ok(())
}
