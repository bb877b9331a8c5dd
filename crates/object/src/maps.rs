//! Maps that the object defines.
//!
//! Owns the reading of `.maps` definitions from BTF and of what their slots hold at the start. Invariant: sizes and
//! flags are kept as the object says them, to be judged where the map is created; what contradicts itself is refused.
//! Kernel counterpart: `parse_btf_map_def`, `bpf_object__collect_map_relos`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::{HashMap, HashSet};

use skep_abi::MapType;
use skep_btf::{Btf, Kind, Linkage, Member, TypeData, TypeId};

use crate::elf::Elf;
use crate::error::{Error, Result, escaped};
use crate::spec::{InitialSlot, MapKind, MapSpec, ProgramSpec, SlotTarget};

/// Name of the section of definitions.
pub(crate) const MAPS: &str = ".maps";

/// A definition and where it lies in `.maps`.
#[derive(Debug)]
pub(crate) struct Defined {
    pub(crate) spec: MapSpec,
    pub(crate) offset: u32,
    pub(crate) size: u32,
    /// Offset of the `values` member in the definition, in bytes.
    values: Option<u32>,
}

/// Parses all definitions, in order of offset.
pub(crate) fn parse(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Vec<Defined>> {
    if elf.find("maps").is_some_and(|(_, s)| !s.data.is_empty()) {
        let why = "definitions in SEC(\"maps\") went away with libbpf 1.0; define maps in SEC(\".maps\")".into();
        return Err(Error::Unsupported { section: "maps".into(), why });
    }
    let Some((_, section)) = elf.find(MAPS).filter(|(_, s)| s.size > 0) else { return Ok(Vec::new()) };
    let need_btf = |why: &str| Error::Section { section: MAPS.into(), offset: 0, why: why.into() };
    let btf = btf.ok_or_else(|| need_btf("map definitions need BTF; compile with -g"))?;
    let Some((sec, _)) = btf.data_sec(MAPS) else { return Err(need_btf("BTF says nothing about this section")) };
    let mut out: Vec<Defined> = Vec::new();
    let mut names = HashSet::new();
    for (name, var) in btf.data_sec_vars(sec) {
        let TypeData::Var { ty, linkage } = btf.ty(var.ty).map_err(in_btf)?.data else {
            let why = format!("{} is no variable", escaped(name));
            return Err(Error::Section { section: MAPS.into(), offset: u64::from(var.offset), why });
        };
        if linkage == Linkage::Extern {
            let why = "it is only declared here; link the object that defines it (skep gen object)";
            return Err(map_error(name, why));
        }
        let end = u64::from(var.offset).saturating_add(u64::from(var.size));
        if end > section.size || out.last().is_some_and(|last| last.offset.saturating_add(last.size) > var.offset) {
            return Err(map_error(name, format!("its definition at {:#x} overlaps or leaves the section", var.offset)));
        }
        if !names.insert(name) {
            return Err(map_error(name, "it is defined twice"));
        }
        let mut parser = Parser::new(btf, name, false);
        parser.parse(ty)?;
        out.push(Defined { spec: parser.spec, offset: var.offset, size: var.size, values: parser.values });
    }
    Ok(out)
}

/// Parses one definition, of the map's variable type.
pub(crate) fn parse_definition(btf: &Btf, name: &str, ty: TypeId) -> Result<MapSpec> {
    let mut parser = Parser::new(btf, name, false);
    parser.parse(ty)?;
    Ok(parser.spec)
}

fn in_btf(source: skep_btf::Error) -> Error {
    Error::Btf { section: ".BTF", source }
}

pub(crate) fn map_error(map: &str, why: impl Into<String>) -> Error {
    Error::Map { map: escaped(map), why: why.into() }
}

/// A map with nothing said about it.
pub(crate) fn blank(name: &str, kind: MapKind) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        kernel_name: kernel_name(name),
        kind,
        map_type: 0,
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        map_flags: 0,
        numa_node: 0,
        map_extra: 0,
        pin_by_name: false,
        key_type: None,
        value_type: None,
        inner: None,
        initial_slots: Vec::new(),
        image: Vec::new(),
        autocreate: true,
    }
}

/// What the kernel takes as a name: 15 bytes of letters, digits, `_` and `.`.
pub(crate) fn kernel_name(name: &str) -> String {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    name.chars().take(15).map(|c| if ok(c) { c } else { '_' }).collect()
}

/// Reads one definition, member by member.
struct Parser<'a> {
    btf: &'a Btf,
    spec: MapSpec,
    is_inner: bool,
    key_size: Option<u32>,
    value_size: Option<u32>,
    values: Option<u32>,
}

impl<'a> Parser<'a> {
    fn new(btf: &'a Btf, name: &str, is_inner: bool) -> Self {
        let spec = blank(name, MapKind::User);
        Self { btf, spec, is_inner, key_size: None, value_size: None, values: None }
    }

    fn bad(&self, why: impl Into<String>) -> Error {
        map_error(&self.spec.name, why)
    }

    fn parse(&mut self, ty: TypeId) -> Result<()> {
        let def = self.btf.resolve(ty);
        let Some(composite) = self.btf.composite(def).filter(|_| self.btf.kind(def) == Kind::Struct) else {
            return Err(self.bad(format!("its definition is a {}, not a struct", self.btf.kind(def))));
        };
        let mut has_type = false;
        let last = composite.members.len().saturating_sub(1);
        for (at, member) in composite.members.iter().enumerate() {
            let field = self.btf.str_at(member.name);
            match field {
                "type" => {
                    self.spec.map_type = self.number(field, member)?;
                    has_type = true;
                }
                "max_entries" => self.spec.max_entries = self.number(field, member)?,
                "map_flags" => self.spec.map_flags = self.number(field, member)?,
                "numa_node" => self.spec.numa_node = self.number(field, member)?,
                "map_extra" => self.spec.map_extra = self.long_number(field, member)?,
                "key_size" => {
                    let size = self.number(field, member)?;
                    self.key_size = Some(self.agree(field, self.key_size, size)?);
                }
                "value_size" => {
                    let size = self.number(field, member)?;
                    self.value_size = Some(self.agree(field, self.value_size, size)?);
                }
                "key" => {
                    let (ty, size) = self.pointee(field, member)?;
                    self.key_size = Some(self.agree(field, self.key_size, size)?);
                    self.spec.key_type = Some(ty);
                }
                "value" => {
                    let (ty, size) = self.pointee(field, member)?;
                    self.value_size = Some(self.agree(field, self.value_size, size)?);
                    self.spec.value_type = Some(ty);
                }
                "pinning" => self.pinning(field, member)?,
                "values" if at != last => return Err(self.bad("'values' must be the last member")),
                "values" => self.parse_values(member)?,
                other => return Err(self.bad(format!("unknown field '{}'", escaped(other)))),
            }
        }
        if !has_type {
            return Err(self.bad("map type isn't specified"));
        }
        self.spec.key_size = self.key_size.unwrap_or(0);
        self.spec.value_size = self.value_size.unwrap_or(0);
        Ok(())
    }

    /// `__uint(field, n)`: a pointer to an array of n.
    fn number(&self, field: &str, member: &Member) -> Result<u32> {
        let array = self.btf.pointee(member.ty).and_then(|to| self.btf.get(self.btf.resolve(to)));
        match array.map(|ty| &ty.data) {
            Some(TypeData::Array(array)) => Ok(array.nelems),
            _ => Err(self.bad(format!("field '{field}' is not written with __uint()"))),
        }
    }

    /// `__ulong(field, n)`: an enumeration with one value; or as [`Parser::number`].
    fn long_number(&self, field: &str, member: &Member) -> Result<u64> {
        match self.btf.get(self.btf.resolve(member.ty)).and_then(|ty| ty.as_enum()).map(|e| e.values.as_slice()) {
            Some([value]) => Ok(value.value),
            Some(_) => Err(self.bad(format!("field '{field}' is not written with __ulong()"))),
            None => self.number(field, member).map(u64::from),
        }
    }

    /// `__type(field, T)`: a pointer to T.
    fn pointee(&self, field: &str, member: &Member) -> Result<(TypeId, u32)> {
        let to = self.btf.pointee(member.ty);
        let to = to.ok_or_else(|| self.bad(format!("field '{field}' is not written with __type()")))?;
        let size = self.btf.size_of(to).map_err(|e| self.bad(format!("field '{field}': {e}")))?;
        Ok((to, size))
    }

    fn agree(&self, field: &str, before: Option<u32>, size: u32) -> Result<u32> {
        match before {
            Some(before) if before != size => {
                Err(self.bad(format!("field '{field}' says {size} bytes, another field says {before}")))
            }
            _ => Ok(size),
        }
    }

    fn pinning(&mut self, field: &str, member: &Member) -> Result<()> {
        if self.is_inner {
            return Err(self.bad("an inner map cannot be pinned"));
        }
        match self.number(field, member)? {
            0 => Ok(()),
            1 => {
                self.spec.pin_by_name = true;
                Ok(())
            }
            other => Err(self.bad(format!("invalid pinning value {other}"))),
        }
    }

    /// `__array(values, T)`: an inner map's definition, or functions for a prog array.
    fn parse_values(&mut self, member: &Member) -> Result<()> {
        let map_type = MapType::from_u32(self.spec.map_type);
        let is_outer = map_type.is_some_and(MapType::is_map_of_maps);
        if self.is_inner || !(is_outer || map_type == Some(MapType::ProgArray)) {
            return Err(self.bad("'values' is only for prog arrays and maps of maps, and not inside an inner map"));
        }
        let btf = self.btf;
        let Some(TypeData::Array(array)) = btf.get(btf.resolve(member.ty)).map(|ty| &ty.data) else {
            return Err(self.bad("'values' is not written with __array()"));
        };
        if array.nelems != 0 {
            return Err(self.bad("'values' is not a zero-sized array"));
        }
        let Some(to) = btf.pointee(array.elem).map(|to| btf.resolve(to)) else {
            return Err(self.bad("'values' holds no pointers"));
        };
        self.value_size = Some(self.agree("values", self.value_size, 4)?);
        if is_outer {
            let mut inner = Parser::new(btf, &format!("{}.inner", self.spec.name), true);
            inner.parse(to)?;
            self.spec.inner = Some(Box::new(inner.spec));
        } else if btf.kind(to) != Kind::FuncProto {
            return Err(self.bad("'values' of a prog array holds no functions"));
        }
        self.key_size = Some(self.key_size.unwrap_or(4));
        self.values = Some(member.bit_offset / 8);
        Ok(())
    }
}

/// Programs in sections `N/M` go into slot M of the object's prog array. N is an id, which definitions in `.maps` cannot say: of
/// several arrays nobody knows which is meant, and it is left to the user to fill them.
pub(crate) fn fill_legacy_slots(maps: &mut [MapSpec], programs: &[ProgramSpec]) {
    const PROG_ARRAY: u32 = 3;
    let mut arrays = maps.iter_mut().filter(|map| map.map_type == PROG_ARRAY);
    let (Some(array), None) = (arrays.next(), arrays.next()) else { return };
    for (index, program) in programs.iter().enumerate() {
        let Some((_, slot)) = program.legacy_tail else { continue };
        if !array.initial_slots.iter().any(|filled| filled.slot == slot) {
            array.initial_slots.push(InitialSlot { slot, target: SlotTarget::Program(index) });
        }
    }
    array.initial_slots.sort_by_key(|filled| filled.slot);
}

/// Fills `initial_slots` of `maps`, whose first entries are `defined`, from the relocations of `.maps`.
pub(crate) fn resolve_slots(
    elf: &Elf<'_>,
    defined: &[Defined],
    maps: &mut [MapSpec],
    programs: &[ProgramSpec],
) -> Result<()> {
    let Some((index, section)) = elf.find(MAPS) else { return Ok(()) };
    let by_name: HashMap<&str, usize> = programs.iter().enumerate().map(|(at, p)| (p.name.as_str(), at)).collect();
    for rel in elf.relocations(index)? {
        let bad = |why: String| Error::Relocation { section: MAPS.into(), offset: rel.offset, why };
        if rel.offset >= section.size {
            return Err(bad(format!("it lies outside the section of {} bytes", section.size)));
        }
        let holder = defined.partition_point(|d| u64::from(d.offset) <= rel.offset).checked_sub(1);
        let holder = holder.and_then(|at| Some((at, defined.get(at)?)));
        let holder = holder.filter(|(_, d)| rel.offset < u64::from(d.offset).saturating_add(u64::from(d.size)));
        let Some((at, def)) = holder else { return Err(bad("no map's definition is there".into())) };
        let start = def.values.map(|values| u64::from(def.offset).saturating_add(u64::from(values)));
        let Some(distance) = start.and_then(|start| rel.offset.checked_sub(start)) else {
            return Err(bad(format!("map '{}' has no 'values' there", escaped(&def.spec.name))));
        };
        if distance % 8 != 0 {
            return Err(bad("it does not point at a whole slot".into()));
        }
        let Some(symbol) = elf.symbols.get(rel.symbol) else { return Err(Error::Internal("a symbol was not checked")) };
        let wanted = escaped(symbol.name);
        let target = if def.spec.inner.is_some() {
            let found = defined.binary_search_by_key(&symbol.value, |d| u64::from(d.offset)).ok();
            let found = found.filter(|_| symbol.section == Some(index));
            found.map(SlotTarget::Map).ok_or_else(|| bad(format!("{wanted} is no map")))?
        } else {
            let found = by_name.get(symbol.name).copied().filter(|_| symbol.is_func);
            found.map(SlotTarget::Program).ok_or_else(|| bad(format!("{wanted} is no program")))?
        };
        let slot = u32::try_from(distance / 8).map_err(|_| bad("there are not so many slots".into()))?;
        let Some(map) = maps.get_mut(at) else { return Err(Error::Internal("a map is missing")) };
        map.initial_slots.push(InitialSlot { slot, target });
    }
    for map in maps {
        map.initial_slots.sort_by_key(|s| s.slot);
        if map.initial_slots.windows(2).any(|pair| matches!(pair, [a, b] if a.slot == b.slot)) {
            return Err(map_error(&map.name, "a slot is filled twice"));
        }
    }
    Ok(())
}
