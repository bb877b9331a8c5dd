//! Types of several objects in one set, each type once.
//!
//! Owns what a static linker does to types. Two types are one if nothing that can be reached from them tells them apart
//! (partition refinement), and a forward declaration is the struct, union or enumeration of its name if there is one only.
//! Invariant: functions, variables and data sections stay apart: what becomes of them, symbols decide. Kernel counterpart:
//! none; libbpf's `btf__add_btf` and `btf__dedup` serve the same need.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::build::Builder;
use crate::error::{Error, Result};
use crate::graph::Btf;
use crate::types::{StrOff, Type, TypeData, TypeId};

/// After so many rounds of refinement types are left as they are: no compiler nests so deep.
const MAX_ROUNDS: usize = 512;
/// Forward declarations that stand for types whose own parts stand for others, so many levels.
const MAX_FORWARD: usize = 16;

impl Builder {
    /// Appends the types of `other` with their names; what to add to an id of `other`.
    ///
    /// # Errors
    /// Together they are more than one set may hold.
    pub fn append(&mut self, other: &Btf) -> Result<u32> {
        let shift = self.next_id().0.saturating_sub(1);
        for (_, ty) in other.types() {
            let mut ty = ty.clone();
            let mut failed = None;
            let mut rename = |off: &mut StrOff| match self.string(other.str_at(*off)) {
                Ok(new) => *off = new,
                Err(error) => failed = Some(error),
            };
            rename(&mut ty.name);
            ty.data.for_each_name(&mut rename);
            if let Some(error) = failed {
                return Err(error);
            }
            ty.data.for_each_id(&mut |id| {
                if !id.is_void() {
                    id.0 = id.0.saturating_add(shift);
                }
            });
            self.push(ty)?;
        }
        Ok(shift)
    }

    /// Folds equal types into their first. `replaced` are functions and variables that others stand for, `dropped` are types
    /// that nothing needs. The new types, and the new id of each old one by its number.
    ///
    /// # Errors
    /// A dropped type is still needed.
    pub fn dedup(self, replaced: &BTreeMap<TypeId, TypeId>, dropped: &BTreeSet<TypeId>) -> Result<(Self, Vec<TypeId>)> {
        let types: Vec<Type> = std::iter::once(Type::VOID).chain(self.types().map(|(_, ty)| ty.clone())).collect();
        let mut stands_for: Vec<TypeId> = (0u32..).map(TypeId).take(types.len()).collect();
        for (from, to) in replaced {
            if let Some(place) = stands_for.get_mut(from.index()) {
                *place = *to;
            }
        }
        let mut classes = refine(&types, &stands_for);
        for _ in 0..MAX_FORWARD {
            if !resolve_forward(&types, &classes, &mut stands_for) {
                break;
            }
            classes = refine(&types, &stands_for);
        }
        // The first type of each class, then the classes in order of their first.
        let mut first: HashMap<u32, usize> = HashMap::new();
        for (at, class) in classes.iter().enumerate() {
            let kept = stands_for.get(at).is_some_and(|id| id.index() == at) && !dropped.contains(&id_of(at));
            if kept {
                first.entry(*class).or_insert(at);
            }
        }
        let mut out = Self::new();
        let mut new_ids: HashMap<u32, TypeId> = HashMap::new();
        let mut kept: Vec<usize> = first.values().copied().filter(|&at| at > 0).collect();
        kept.sort_unstable();
        for (number, at) in (1u32..).zip(&kept) {
            new_ids.insert(classes.get(*at).copied().unwrap_or(0), TypeId(number));
        }
        let new_id = |old: TypeId| {
            if old.is_void() {
                return Some(old);
            }
            let target = follow(&stands_for, old);
            new_ids.get(classes.get(target.index())?).copied()
        };
        for at in kept {
            let Some(ty) = types.get(at) else { continue };
            let mut ty = ty.clone();
            let mut missing = false;
            ty.data.for_each_id(&mut |id| match new_id(*id) {
                Some(new) => *id = new,
                None => missing = true,
            });
            if missing {
                return Err(Error::Internal("a type that was dropped is needed"));
            }
            let mut rename = |off: &mut StrOff| -> Result<()> {
                *off = out.string(self.strings().at(*off).unwrap_or_default())?;
                Ok(())
            };
            rename(&mut ty.name)?;
            let mut failed = None;
            ty.data.for_each_name(&mut |off| failed = rename(off).err().or(failed.take()));
            if let Some(error) = failed {
                return Err(error);
            }
            out.push(ty)?;
        }
        let map = (0..types.len()).map(|at| new_id(id_of(at)).unwrap_or(TypeId::VOID)).collect();
        Ok((out, map))
    }
}

fn id_of(at: usize) -> TypeId {
    TypeId(u32::try_from(at).unwrap_or(u32::MAX))
}

/// What a type stands for in the end; a loop among replacements ends where it began.
fn follow(stands_for: &[TypeId], id: TypeId) -> TypeId {
    let mut at = id;
    for _ in 0..4 {
        match stands_for.get(at.index()) {
            Some(next) if *next != at => at = *next,
            _ => break,
        }
    }
    at
}

/// The class of each type: equal numbers for equal types.
fn refine(types: &[Type], stands_for: &[TypeId]) -> Vec<u32> {
    let mut classes = number(types.iter().enumerate().map(|(at, ty)| own_key(at, ty)));
    let mut count = distinct(&classes);
    for _ in 0..MAX_ROUNDS {
        let keys = types.iter().zip(&classes).map(|(ty, class)| {
            let mut key = vec![u64::from(*class)];
            ty.data.clone().for_each_id(&mut |id| {
                let target = follow(stands_for, *id);
                key.push(classes.get(target.index()).copied().map_or(u64::MAX, u64::from));
            });
            key
        });
        let next = number(keys);
        let now = distinct(&next);
        classes = next;
        if now == count {
            return classes;
        }
        count = now;
    }
    (0..).take(types.len()).collect()
}

fn number(keys: impl Iterator<Item = Vec<u64>>) -> Vec<u32> {
    let mut known: HashMap<Vec<u64>, u32> = HashMap::new();
    keys.map(|key| {
        let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
        *known.entry(key).or_insert(next)
    })
    .collect()
}

fn distinct(classes: &[u32]) -> u32 {
    classes.iter().max().map_or(0, |max| max.saturating_add(1))
}

/// What a record says apart from the types that it refers to; unique for what is never folded.
fn own_key(at: usize, ty: &Type) -> Vec<u64> {
    let mut key = vec![u64::from(ty.kind() as u8), u64::from(ty.name.0)];
    match &ty.data {
        TypeData::Void | TypeData::Ptr(_) | TypeData::Typedef(_) => {}
        TypeData::Volatile(_) | TypeData::Const(_) | TypeData::Restrict(_) => {}
        TypeData::Int(int) => {
            key.extend([u64::from(int.size), u64::from(int.encoding), u64::from(int.offset), u64::from(int.bits)])
        }
        TypeData::Array(array) => key.push(u64::from(array.nelems)),
        TypeData::Struct(c) | TypeData::Union(c) => {
            key.extend([u64::from(c.size), u64::from(c.kind_flag), c.members.len() as u64]);
            for m in &c.members {
                key.extend([u64::from(m.name.0), u64::from(m.bit_offset), u64::from(m.bitfield_size)]);
            }
        }
        TypeData::Enum(e) | TypeData::Enum64(e) => {
            key.extend([u64::from(e.size), u64::from(e.signed)]);
            key.extend(e.values.iter().flat_map(|v| [u64::from(v.name.0), v.value]));
        }
        TypeData::Fwd { is_union } => key.push(u64::from(*is_union)),
        TypeData::FuncProto(proto) => key.extend(proto.params.iter().map(|p| u64::from(p.name.0))),
        TypeData::Float { size } => key.push(u64::from(*size)),
        TypeData::DeclTag { component, attribute, .. } => {
            key.extend([i64::from(*component).cast_unsigned(), u64::from(*attribute)]);
        }
        TypeData::TypeTag { attribute, .. } => key.push(u64::from(*attribute)),
        TypeData::Func { .. } | TypeData::Var { .. } | TypeData::DataSec(_) => key.push(at as u64),
    }
    key
}

/// Lets each forward declaration stand for the one type of its name; whether any does so anew.
fn resolve_forward(types: &[Type], classes: &[u32], stands_for: &mut [TypeId]) -> bool {
    // Name and kind of declaration: struct, union, enumeration; the class, or none where there are several.
    let mut whole: HashMap<(StrOff, u8), (Option<u32>, usize)> = HashMap::new();
    for (at, (ty, class)) in types.iter().zip(classes).enumerate() {
        let kind = match &ty.data {
            TypeData::Struct(_) => 0,
            TypeData::Union(_) => 1,
            TypeData::Enum(e) | TypeData::Enum64(e) if !e.values.is_empty() => 2,
            _ => continue,
        };
        if ty.name.0 != 0 {
            let entry = whole.entry((ty.name, kind)).or_insert((Some(*class), at));
            if entry.0 != Some(*class) {
                entry.0 = None;
            }
        }
    }
    let mut any = false;
    for (at, ty) in types.iter().enumerate() {
        let kind = match &ty.data {
            TypeData::Fwd { is_union } => u8::from(*is_union),
            TypeData::Enum(e) if e.values.is_empty() => 2,
            _ => continue,
        };
        let Some((Some(_), target)) = whole.get(&(ty.name, kind)) else { continue };
        if let Some(place) = stands_for.get_mut(at)
            && place.index() == at
        {
            *place = id_of(*target);
            any = true;
        }
    }
    any
}

impl TypeData {
    /// Every id that the record holds.
    pub(crate) fn for_each_id(&mut self, f: &mut impl FnMut(&mut TypeId)) {
        match self {
            Self::Ptr(id) | Self::Typedef(id) | Self::Volatile(id) | Self::Const(id) | Self::Restrict(id) => f(id),
            Self::Array(array) => {
                f(&mut array.elem);
                f(&mut array.index);
            }
            Self::Struct(c) | Self::Union(c) => c.members.iter_mut().for_each(|m| f(&mut m.ty)),
            Self::Func { proto, .. } => f(proto),
            Self::FuncProto(proto) => {
                f(&mut proto.ret);
                proto.params.iter_mut().for_each(|p| f(&mut p.ty));
            }
            Self::Var { ty, .. } | Self::DeclTag { ty, .. } | Self::TypeTag { ty, .. } => f(ty),
            Self::DataSec(sec) => sec.vars.iter_mut().for_each(|v| f(&mut v.ty)),
            Self::Void | Self::Int(_) | Self::Enum(_) | Self::Enum64(_) | Self::Fwd { .. } | Self::Float { .. } => {}
        }
    }

    /// Every name inside the record.
    fn for_each_name(&mut self, f: &mut impl FnMut(&mut StrOff)) {
        match self {
            Self::Struct(c) | Self::Union(c) => c.members.iter_mut().for_each(|m| f(&mut m.name)),
            Self::Enum(e) | Self::Enum64(e) => e.values.iter_mut().for_each(|v| f(&mut v.name)),
            Self::FuncProto(proto) => proto.params.iter_mut().for_each(|p| f(&mut p.name)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Rules;
    use crate::types::{Composite, Int, Kind, Linkage, Member};

    fn int(b: &mut Builder) -> TypeId {
        b.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 })).unwrap()
    }

    fn node(b: &mut Builder, name: &str, member: TypeId, size: u32) -> TypeId {
        let field = b.string("next").unwrap();
        let members = vec![Member { name: field, ty: member, bit_offset: 0, bitfield_size: 0 }];
        b.add(name, TypeData::Struct(Composite { size, members, kind_flag: false })).unwrap()
    }

    /// `struct list { struct list *next; }` and an `int`.
    fn list() -> Btf {
        let mut b = Builder::new();
        int(&mut b);
        let pointer = TypeId(b.next_id().0 + 1);
        let list = node(&mut b, "list", pointer, 8);
        b.add("", TypeData::Ptr(list)).unwrap();
        b.finish(Rules::Object).unwrap()
    }

    fn merged(parts: &[Btf]) -> (Btf, Vec<TypeId>) {
        let mut all = Builder::new();
        for part in parts {
            all.append(part).unwrap();
        }
        let (out, map) = all.dedup(&BTreeMap::new(), &BTreeSet::new()).unwrap();
        (out.finish(Rules::Object).unwrap(), map)
    }

    #[test]
    fn types_that_refer_to_themselves_are_folded() {
        let (btf, map) = merged(&[list(), list(), list()]);
        assert_eq!(btf.len(), 4);
        assert_eq!(map[1..], [1, 2, 3, 1, 2, 3, 1, 2, 3].map(TypeId));
    }

    #[test]
    fn types_that_differ_far_away_stay_apart() {
        let chain = |size| {
            let mut b = Builder::new();
            let mut ty = b.add("end", TypeData::Float { size }).unwrap();
            for _ in 0..20 {
                ty = b.add("", TypeData::Ptr(ty)).unwrap();
            }
            node(&mut b, "holder", ty, 8);
            b.finish(Rules::Object).unwrap()
        };
        assert_eq!(merged(&[chain(4), chain(8)]).0.len(), 45 - 1 + 1);
        assert_eq!(merged(&[chain(4), chain(4)]).0.len(), 23);
    }

    #[test]
    fn a_declaration_is_the_one_type_of_its_name() {
        let declared = || {
            let mut b = Builder::new();
            let fwd = b.add("list", TypeData::Fwd { is_union: false }).unwrap();
            let pointer = b.add("", TypeData::Ptr(fwd)).unwrap();
            node(&mut b, "holder", pointer, 8);
            b.finish(Rules::Object).unwrap()
        };
        let defined = || {
            let mut b = list().into_builder();
            let pointer = TypeId(3);
            node(&mut b, "holder", pointer, 8);
            b.finish(Rules::Object).unwrap()
        };
        let (btf, _) = merged(&[declared(), defined(), declared()]);
        assert_eq!(btf.len(), 5, "int, list, a pointer, holder");
        assert!(btf.types().all(|(_, ty)| ty.kind() != Kind::Fwd));
        // With two different structs of the name nobody knows which is meant.
        let mut other = Builder::new();
        let number = int(&mut other);
        node(&mut other, "list", number, 4);
        let (btf, _) = merged(&[declared(), defined(), other.finish(Rules::Object).unwrap()]);
        assert_eq!(btf.types().filter(|(_, ty)| ty.kind() == Kind::Fwd).count(), 1);
    }

    #[test]
    fn functions_and_variables_stay_apart_unless_replaced() {
        let unit = || {
            let mut b = Builder::new();
            let number = int(&mut b);
            b.add("counter", TypeData::Var { ty: number, linkage: Linkage::Static }).unwrap();
            b.finish(Rules::Object).unwrap()
        };
        let mut all = Builder::new();
        all.append(&unit()).unwrap();
        let shift = all.append(&unit()).unwrap();
        assert_eq!(shift, 2);
        let (apart, _) = all.clone().dedup(&BTreeMap::new(), &BTreeSet::new()).unwrap();
        assert_eq!(apart.types().count(), 3);
        let replaced = BTreeMap::from([(TypeId(4), TypeId(2))]);
        let (one, map) = all.dedup(&replaced, &BTreeSet::new()).unwrap();
        assert_eq!((one.types().count(), map[4]), (2, TypeId(2)));
    }

    #[test]
    fn what_is_dropped_must_not_be_needed() {
        let mut b = Builder::new();
        let number = int(&mut b);
        b.add("", TypeData::Ptr(number)).unwrap();
        assert!(b.clone().dedup(&BTreeMap::new(), &BTreeSet::from([TypeId(2)])).is_ok());
        assert!(b.dedup(&BTreeMap::new(), &BTreeSet::from([number])).is_err());
    }
}
