//! The types of all inputs, each once, and what the compiler says of instructions.
//!
//! Owns the merged `.BTF` and `.BTF.ext`. Invariant: a global symbol has one `FUNC` or `VAR`, its definition's where there is
//! one; a data section has one `DATASEC`, its variables at their places in the result. Kernel counterpart:
//! `linker_append_btf`, `linker_append_btf_ext`, linker.c, 6.18.

use std::collections::{BTreeMap, BTreeSet};

use skep_btf::{Btf, BtfExt, Builder, DataSec, Linkage, Rules, SecInfo, SecVar, TypeData, TypeId};

use super::Unit;
use super::compat::difference;
use super::error::LinkError;
use super::sections::{Place, Sections};
use super::symbols::Symbols;
use crate::error::escaped;
use crate::maps::MAPS;
use crate::types::{KCONFIG, KSYMS};

/// The two sections.
pub(super) struct Types {
    pub(super) btf: Vec<u8>,
    /// Empty if no input has one.
    pub(super) ext: Vec<u8>,
}

/// The merged types; `None` if no input has any.
pub(super) fn merge(
    units: &[Unit<'_>],
    symbols: &Symbols<'_>,
    sections: &Sections<'_>,
) -> Result<Option<Types>, LinkError> {
    if units.iter().all(|unit| unit.btf.is_none()) {
        return Ok(None);
    }
    let mut all = Builder::new();
    let mut shifts = Vec::with_capacity(units.len());
    for unit in units {
        shifts.push(match unit.btf.as_deref() {
            Some(btf) => all.append(btf)?,
            None => 0,
        });
    }
    let mut merging = Merging { units, symbols, sections, shifts, replaced: BTreeMap::new(), dropped: BTreeSet::new() };
    merging.resolve_globals()?;
    merging.join_sections(&mut all)?;
    merging.drop_tags(&all);
    let (mut merged, ids) = all.dedup(&merging.replaced, &merging.dropped)?;
    let ext = merging.move_ext(&mut merged, &ids)?;
    let ext = if ext == BtfExt::default() { Vec::new() } else { ext.to_bytes(&mut |text| merged.string(text))? };
    Ok(Some(Types { btf: merged.finish(Rules::Object)?.to_bytes()?, ext }))
}

struct Merging<'a> {
    units: &'a [Unit<'a>],
    symbols: &'a Symbols<'a>,
    sections: &'a Sections<'a>,
    /// What to add to an id of each input.
    shifts: Vec<u32>,
    replaced: BTreeMap<TypeId, TypeId>,
    dropped: BTreeSet<TypeId>,
}

impl Merging<'_> {
    fn shifted(&self, unit: usize, id: TypeId) -> TypeId {
        TypeId(id.0.saturating_add(self.shifts.get(unit).copied().unwrap_or(0)))
    }

    /// One `FUNC` or `VAR` for each global name.
    fn resolve_globals(&mut self) -> Result<(), LinkError> {
        let mut mentions: BTreeMap<&str, Vec<(usize, TypeId, &Btf)>> = BTreeMap::new();
        let mut in_maps = BTreeSet::new();
        for (number, unit) in self.units.iter().enumerate() {
            let Some(btf) = unit.btf.as_deref() else { continue };
            for (id, ty) in btf.types() {
                let (TypeData::Func { linkage, .. } | TypeData::Var { linkage, .. }) = ty.data else { continue };
                if linkage != Linkage::Static && self.symbols.globals.contains_key(btf.name(id)) {
                    mentions.entry(btf.name(id)).or_default().push((number, id, btf));
                }
            }
            if let Some((sec, _)) = btf.data_sec(MAPS) {
                in_maps.extend(btf.data_sec_vars(sec).map(|(name, _)| name));
            }
        }
        for (name, all) in mentions {
            let defined = self.symbols.globals.get(name).and_then(|global| global.definition);
            let is_definition = |(unit, id, btf): &(usize, TypeId, &Btf)| {
                let here = defined.is_some_and(|(by, _)| by == *unit);
                let linkage = btf.get(*id).map(|ty| &ty.data);
                here && !matches!(
                    linkage,
                    Some(
                        TypeData::Func { linkage: Linkage::Extern, .. }
                            | TypeData::Var { linkage: Linkage::Extern, .. }
                    )
                )
            };
            let Some(standing) = all.iter().find(|m| is_definition(m)).or(all.first()) else { continue };
            let to = self.shifted(standing.0, standing.1);
            for other in all.iter().filter(|m| (m.0, m.1) != (standing.0, standing.1)) {
                let pair = ((standing.2, standing.1), (other.2, other.1));
                if let Some(why) = difference(pair.0, pair.1, in_maps.contains(name)) {
                    let file = |unit: usize| self.units.get(unit).map_or_else(String::new, |u| u.name.to_owned());
                    let (first, second) = (file(standing.0), file(other.0));
                    return Err(LinkError::Symbol { symbol: escaped(name), first, second, why });
                }
                self.replaced.insert(self.shifted(other.0, other.1), to);
            }
        }
        Ok(())
    }

    /// One `DATASEC` for each section.
    fn join_sections(&mut self, all: &mut Builder) -> Result<(), LinkError> {
        let mut joined: BTreeMap<String, (TypeId, Vec<SecVar>)> = BTreeMap::new();
        for (number, unit) in self.units.iter().enumerate() {
            let Some(btf) = unit.btf.as_deref() else { continue };
            for (id, ty) in btf.types() {
                let TypeData::DataSec(sec) = &ty.data else { continue };
                let name = btf.name(id);
                let here = unit.elf.find(name).map(|(index, _)| (index, self.sections.place(number, index)));
                let new_id = self.shifted(number, id);
                let known = joined.contains_key(name);
                let vars =
                    sec.vars.iter().filter_map(|var| self.moved(number, btf, name, here, *var)).collect::<Vec<_>>();
                let lost: Vec<TypeId> = sec.vars.iter().map(|var| self.shifted(number, var.ty)).collect();
                let kept: BTreeSet<TypeId> = vars.iter().map(|var| var.ty).collect();
                self.dropped
                    .extend(lost.into_iter().filter(|id| !kept.contains(id) && !self.replaced.contains_key(id)));
                let entry = joined.entry(name.to_owned()).or_insert_with(|| (new_id, Vec::new()));
                entry.1.extend(vars);
                if known {
                    self.dropped.insert(new_id);
                }
            }
        }
        for (name, (id, mut vars)) in joined {
            vars.sort_by_key(|var| var.offset);
            let size = match name.as_str() {
                // The loader lays them out.
                KCONFIG | KSYMS => 0,
                _ => self.sections.find(&name).map_or(0, |section| u32::try_from(section.size).unwrap_or(u32::MAX)),
            };
            let Some(ty) = all.get_mut(id) else { return Err(LinkError::Internal("a data section is missing")) };
            if vars.is_empty() {
                self.dropped.insert(id);
            }
            ty.data = TypeData::DataSec(DataSec { size, vars });
        }
        Ok(())
    }

    /// A variable at its new place; `None` if another stands for it, or its section is there already.
    fn moved(
        &self,
        unit: usize,
        btf: &Btf,
        section: &str,
        here: Option<(usize, Option<Place>)>,
        var: SecVar,
    ) -> Option<SecVar> {
        let ty = self.shifted(unit, var.ty);
        if self.replaced.contains_key(&ty) {
            return None;
        }
        let is_extern = match btf.get(var.ty).map(|ty| &ty.data) {
            Some(TypeData::Var { linkage, .. } | TypeData::Func { linkage, .. }) => *linkage == Linkage::Extern,
            _ => false,
        };
        if is_extern || section == KCONFIG || section == KSYMS {
            return Some(SecVar { ty, offset: 0, size: var.size });
        }
        let offset = match here {
            Some((_, Some(place))) => u32::try_from(place.offset).ok()?,
            // The section is in the file and was not taken over, or it was stripped away.
            _ => return None,
        };
        Some(SecVar { ty, offset: var.offset.saturating_add(offset), size: var.size })
    }

    /// Tags of what is dropped.
    fn drop_tags(&mut self, all: &Builder) {
        let tags = all.types().filter_map(|(id, ty)| match ty.data {
            TypeData::DeclTag { ty, .. } if self.dropped.contains(&ty) => Some(id),
            _ => None,
        });
        let tags: Vec<TypeId> = tags.collect();
        self.dropped.extend(tags);
    }

    /// What the compiler says of instructions, where they are now and with the new ids.
    fn move_ext(&self, merged: &mut Builder, ids: &[TypeId]) -> Result<BtfExt, LinkError> {
        let mut out = BtfExt::default();
        for (number, unit) in self.units.iter().enumerate() {
            let Some(btf) = unit.btf.as_deref() else { continue };
            let id = |old: TypeId| {
                if old.is_void() {
                    return old;
                }
                ids.get(self.shifted(number, old).0 as usize).copied().unwrap_or(TypeId::VOID)
            };
            let placed = |name: &str| {
                let (index, _) = unit.elf.find(name)?;
                Some((index, u32::try_from(self.sections.place(number, index)?.offset).ok()?))
            };
            for info in &unit.ext.funcs {
                let Some((index, by)) = placed(&info.section) else { continue };
                let live = info.records.iter().filter(|r| !self.symbols.is_dead(number, index, r.insn_off.into()));
                let moved = live
                    .map(|r| skep_btf::FuncInfo { insn_off: r.insn_off.saturating_add(by), type_id: id(r.type_id) });
                append(&mut out.funcs, &info.section, moved.collect());
            }
            for info in &unit.ext.lines {
                let Some((index, by)) = placed(&info.section) else { continue };
                let mut moved = Vec::new();
                for r in info.records.iter().filter(|r| !self.symbols.is_dead(number, index, r.insn_off.into())) {
                    let (file, line) = (merged.string(btf.str_at(r.file))?, merged.string(btf.str_at(r.line))?);
                    moved.push(skep_btf::LineInfo { insn_off: r.insn_off.saturating_add(by), file, line, ..*r });
                }
                append(&mut out.lines, &info.section, moved);
            }
            for info in &unit.ext.core_relos {
                let Some((index, by)) = placed(&info.section) else { continue };
                let mut moved = Vec::new();
                for r in info.records.iter().filter(|r| !self.symbols.is_dead(number, index, r.insn_off.into())) {
                    let access = merged.string(btf.str_at(r.access))?;
                    let (insn_off, type_id) = (r.insn_off.saturating_add(by), id(r.type_id));
                    moved.push(skep_btf::CoreRelo { insn_off, type_id, access, kind: r.kind });
                }
                append(&mut out.core_relos, &info.section, moved);
            }
        }
        Ok(out)
    }
}

fn append<T>(infos: &mut Vec<SecInfo<T>>, section: &str, mut records: Vec<T>) {
    if records.is_empty() {
        return;
    }
    match infos.iter_mut().find(|info| info.section == section) {
        Some(info) => info.records.append(&mut records),
        None => infos.push(SecInfo { section: section.to_owned(), records }),
    }
}
