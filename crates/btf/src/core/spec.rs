//! Access strings: which field, type or enumerator a relocation means.
//!
//! Owns the walk along an access string in the object's types and along the same names in the target's. Invariant: an
//! index is in range or the walk says so. Kernel counterpart: `bpf_core_parse_spec`, `bpf_core_spec_match`,
//! tools/lib/bpf/relo_core.c, 6.18.

use crate::ext::{CoreRelo, CoreReloKind};
use crate::graph::Btf;
use crate::types::{Array, Member, TypeData, TypeId};

use super::compat::Comparer;
use super::essential_name;

/// The most steps of an access string (`BPF_CORE_SPEC_MAX_LEN`).
const MAX_STEPS: usize = 64;

/// One step: into a named member, or to an element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The composite with the member, or the type of the element.
    pub(crate) ty: TypeId,
    /// Number of the member, element or enumerator.
    pub(crate) index: u32,
    /// Whether it is a member (or an enumerator) with a name.
    pub(crate) named: bool,
}

/// A way from a type to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) root: TypeId,
    pub(crate) steps: Vec<Step>,
    pub(crate) bit_offset: u64,
}

pub(crate) fn is_type_based(kind: CoreReloKind) -> bool {
    use CoreReloKind::{TypeExists, TypeIdLocal, TypeIdTarget, TypeMatches, TypeSize};
    matches!(kind, TypeIdLocal | TypeIdTarget | TypeExists | TypeMatches | TypeSize)
}

pub(crate) fn is_enumval_based(kind: CoreReloKind) -> bool {
    matches!(kind, CoreReloKind::EnumvalExists | CoreReloKind::EnumvalValue)
}

fn parse_access(local: &Btf, relo: &CoreRelo) -> Result<Vec<u32>, String> {
    let text = local.strings().bytes_at_most(relo.access, 1024).and_then(|text| std::str::from_utf8(text).ok());
    let text = text.ok_or("the access string is not text")?;
    let numbers: Result<Vec<u32>, _> = text.split(':').take(MAX_STEPS + 1).map(str::parse).collect();
    match numbers {
        Ok(numbers) if numbers.len() <= MAX_STEPS => Ok(numbers),
        Ok(_) => Err(format!("the access string has more than {MAX_STEPS} steps")),
        Err(_) => Err("the access string is malformed".into()),
    }
}

impl Spec {
    /// Follows the access string in the object's own types.
    pub(crate) fn parse(local: &Btf, relo: &CoreRelo) -> Result<Self, String> {
        let access = parse_access(local, relo)?;
        let (&first, rest) = access.split_first().ok_or("the access string is empty")?;
        let mut spec = Self { root: relo.type_id, steps: Vec::new(), bit_offset: 0 };
        if is_type_based(relo.kind) {
            return if access == [0] { Ok(spec) } else { Err("a type is accessed with 0".into()) };
        }
        let mut id = local.resolve(relo.type_id);
        if is_enumval_based(relo.kind) {
            let count = local.get(id).and_then(|ty| ty.as_enum()).map(|e| e.values.len());
            let count = count.ok_or("the type is no enumeration")?;
            if !rest.is_empty() || first as usize >= count {
                return Err(format!("there are {count} enumerators"));
            }
            spec.steps.push(Step { ty: id, index: first, named: true });
            return Ok(spec);
        }
        spec.steps.push(Step { ty: id, index: first, named: false });
        spec.advance(local, id, first)?;
        for &index in rest {
            id = local.resolve(id);
            match local.get(id).map(|ty| &ty.data) {
                Some(TypeData::Struct(composite) | TypeData::Union(composite)) => {
                    let count = composite.members.len();
                    let member = composite.members.get(index as usize);
                    let member = member.ok_or_else(|| format!("member {index} of {count} is out of range"))?;
                    spec.enter(member)?;
                    if member.name.0 != 0 {
                        spec.steps.push(Step { ty: id, index, named: true });
                    }
                    id = member.ty;
                }
                Some(TypeData::Array(array)) => {
                    if index >= array.nelems && !spec.ends_in_flexible(local, array) {
                        return Err(format!("element {index} of {} is out of range", array.nelems));
                    }
                    id = local.resolve(array.elem);
                    spec.steps.push(Step { ty: id, index, named: false });
                    spec.advance(local, id, index)?;
                }
                _ => return Err(format!("type {id} has no parts")),
            }
        }
        Ok(spec)
    }

    fn advance(&mut self, btf: &Btf, id: TypeId, index: u32) -> Result<(), String> {
        // Element 0 of what has no size (void, a forward declaration) is where it starts.
        let size = if index == 0 { 0 } else { btf.size_of(id).map_err(|e| e.to_string())? };
        let bits = u64::from(size).saturating_mul(u64::from(index)).saturating_mul(8);
        self.bit_offset = self.bit_offset.checked_add(bits).ok_or("the offset overflows")?;
        Ok(())
    }

    fn enter(&mut self, member: &Member) -> Result<(), String> {
        let offset = self.bit_offset.checked_add(u64::from(member.bit_offset));
        self.bit_offset = offset.ok_or("the offset overflows")?;
        Ok(())
    }

    /// Whether the last step is to an array without a size at the end of a struct, which any index fits.
    fn ends_in_flexible(&self, btf: &Btf, array: &Array) -> bool {
        let Some(step) = self.steps.last().filter(|s| s.named && array.nelems <= 1) else { return false };
        let members = btf.get(step.ty).and_then(|ty| ty.as_composite()).map(|c| c.members.len());
        members == Some((step.index as usize).saturating_add(1))
    }

    /// The same way in the target from `candidate`; `None` where the candidate has no such field.
    pub(crate) fn match_in(
        &self,
        compare: &mut Comparer<'_>,
        candidate: TypeId,
        kind: CoreReloKind,
    ) -> Result<Option<Self>, String> {
        let mut out = Self { root: candidate, steps: Vec::new(), bit_offset: 0 };
        if is_type_based(kind) {
            let matches = if kind == CoreReloKind::TypeMatches {
                compare.types_match(self.root, candidate)?
            } else {
                compare.types_are_compatible(self.root, candidate)?
            };
            return Ok(matches.then_some(out));
        }
        let target = compare.target;
        let mut id = target.resolve(candidate);
        if is_enumval_based(kind) {
            let step = self.steps.first().and_then(|step| self.match_enumerator(compare, *step, id));
            return Ok(step.map(|step| {
                out.steps.push(step);
                out
            }));
        }
        for (at, step) in self.steps.iter().enumerate() {
            id = target.resolve(id);
            if step.named {
                let Some(next) = out.match_member(compare, *step, id)? else { return Ok(None) };
                id = next;
                continue;
            }
            if at > 0 {
                let Some(TypeData::Array(array)) = target.get(id).map(|ty| &ty.data) else { return Ok(None) };
                if step.index >= array.nelems && !out.ends_in_flexible(target, array) {
                    return Ok(None);
                }
                id = target.resolve(array.elem);
            }
            out.steps.push(Step { ty: id, index: step.index, named: false });
            out.advance(target, id, step.index)?;
        }
        Ok(Some(out))
    }

    fn match_enumerator(&self, compare: &Comparer<'_>, step: Step, id: TypeId) -> Option<Step> {
        let (local, target) = (compare.local, compare.target);
        let wanted = local.get(step.ty)?.as_enum()?.values.get(step.index as usize)?;
        let wanted = essential_name(local.str_at(wanted.name));
        let values = &target.get(id)?.as_enum()?.values;
        let index = values.iter().position(|v| essential_name(target.str_at(v.name)) == wanted)?;
        Some(Step { ty: id, index: u32::try_from(index).ok()?, named: true })
    }

    /// Finds the member of the same name, also inside anonymous members; the type it has.
    fn match_member(&mut self, compare: &Comparer<'_>, step: Step, id: TypeId) -> Result<Option<TypeId>, String> {
        let (local, target) = (compare.local, compare.target);
        let composite = local.get(step.ty).and_then(|ty| ty.as_composite());
        let wanted = composite.and_then(|c| c.members.get(step.index as usize)).ok_or("a member is missing")?;
        let name = local.str_at(wanted.name);
        // Depth first, in the order of declaration; composites are few, and each is visited once for each way to it.
        let mut work = vec![(id, 0u64)];
        let mut visits = 0usize;
        while let Some((id, base)) = work.pop() {
            visits = visits.saturating_add(1);
            if visits > target.len() {
                return Err("too many anonymous members".into());
            }
            let Some(composite) = target.get(id).and_then(|ty| ty.as_composite()) else { continue };
            let mut inner = Vec::new();
            for (index, member) in composite.members.iter().enumerate() {
                let offset = base.checked_add(u64::from(member.bit_offset)).ok_or("the offset overflows")?;
                let found = target.str_at(member.name);
                if found.is_empty() {
                    inner.push((target.resolve(member.ty), offset));
                } else if found == name {
                    if !compare.fields_are_compatible(wanted.ty, member.ty) {
                        return Ok(None);
                    }
                    self.bit_offset = self.bit_offset.checked_add(offset).ok_or("the offset overflows")?;
                    let index = u32::try_from(index).map_err(|_| "too many members")?;
                    self.steps.push(Step { ty: id, index, named: true });
                    return Ok(Some(member.ty));
                }
            }
            work.extend(inner.into_iter().rev());
        }
        Ok(None)
    }
}
