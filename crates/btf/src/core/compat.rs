//! Whether a type of the object and one of the target are the same for CO-RE.
//!
//! Owns the three comparisons: of fields (may one be read as the other), of types by kind, and of types by their members.
//! Invariant: recursion is cut at [`MAX_DEPTH`], and a pair of composites is compared once, so that many anonymous
//! members cost no more than their number squared. Kernel counterpart: `bpf_core_fields_are_compat`,
//! `__bpf_core_types_are_compat`, `__bpf_core_types_match`, tools/lib/bpf/relo_core.c, 6.18.

use std::collections::HashMap;

use crate::MAX_DEPTH;
use crate::graph::Btf;
use crate::types::{Composite, Enum, Kind, StrOff, TypeData, TypeId};

use super::essential_name;

/// Kinds that can stand for each other: enumerations of 32 and 64 bits.
pub(crate) fn same_kind(a: Kind, b: Kind) -> bool {
    let is_enum = |kind| matches!(kind, Kind::Enum | Kind::Enum64);
    a == b || (is_enum(a) && is_enum(b))
}

/// Two sets of types, and what is known about pairs of them.
pub(crate) struct Comparer<'a> {
    pub(crate) local: &'a Btf,
    pub(crate) target: &'a Btf,
    /// Answers for composites by value: `None` while the pair is being compared.
    composites: HashMap<(TypeId, TypeId), Option<bool>>,
    /// Comparisons left, since prototypes that point to prototypes branch at each level.
    budget: usize,
}

/// The most comparisons for one relocation.
const MAX_COMPARISONS: usize = 1 << 20;

impl<'a> Comparer<'a> {
    pub(crate) fn new(local: &'a Btf, target: &'a Btf) -> Self {
        Self { local, target, composites: HashMap::new(), budget: MAX_COMPARISONS }
    }

    fn spend(&mut self) -> Result<(), String> {
        self.budget = self.budget.checked_sub(1).ok_or("the types are too many to compare")?;
        Ok(())
    }

    fn data(&self, local: TypeId, target: TypeId) -> Option<(&'a TypeData, &'a TypeData)> {
        Some((&self.local.get(local)?.data, &self.target.get(target)?.data))
    }

    fn names_match(&self, local: StrOff, target: StrOff) -> bool {
        essential_name(self.local.str_at(local)) == essential_name(self.target.str_at(target))
    }

    fn type_names_match(&self, local: TypeId, target: TypeId) -> bool {
        essential_name(self.local.name(local)) == essential_name(self.target.name(target))
    }

    /// Whether a field can be read where the other was meant: sizes may differ, kinds may not.
    pub(crate) fn fields_are_compatible(&self, local: TypeId, target: TypeId) -> bool {
        let (mut local, mut target) = (self.local.resolve(local), self.target.resolve(target));
        for _ in 0..MAX_DEPTH {
            let Some((a, b)) = self.data(local, target) else { return false };
            let is_composite = |data: &TypeData| matches!(data, TypeData::Struct(_) | TypeData::Union(_));
            return match (a, b) {
                (a, b) if is_composite(a) && is_composite(b) => true,
                (TypeData::Ptr(_), TypeData::Ptr(_)) | (TypeData::Float { .. }, TypeData::Float { .. }) => true,
                (TypeData::Enum(_) | TypeData::Enum64(_), TypeData::Enum(_) | TypeData::Enum64(_))
                | (TypeData::Fwd { .. }, TypeData::Fwd { .. }) => {
                    let anonymous = self.local.name(local).is_empty() || self.target.name(target).is_empty();
                    anonymous || self.type_names_match(local, target)
                }
                // Integers of old bit-fields start inside their storage and cannot be loaded.
                (TypeData::Int(a), TypeData::Int(b)) => a.offset == 0 && b.offset == 0,
                (TypeData::Array(a), TypeData::Array(b)) => {
                    (local, target) = (self.local.resolve(a.elem), self.target.resolve(b.elem));
                    continue;
                }
                _ => false,
            };
        }
        false
    }

    /// Whether types are of one kind, and what they point to is; members do not matter.
    pub(crate) fn types_are_compatible(&mut self, local: TypeId, target: TypeId) -> Result<bool, String> {
        // Only prototypes branch; a worklist keeps the depth out of the stack.
        let mut work = vec![(local, target, 0usize)];
        while let Some((local, target, depth)) = work.pop() {
            self.spend()?;
            if depth > MAX_DEPTH {
                return Err("types are nested too deep".into());
            }
            let (local, target) = (self.local.resolve(local), self.target.resolve(target));
            let Some((a, b)) = self.data(local, target) else { return Ok(false) };
            let next = depth.saturating_add(1);
            match (a, b) {
                (TypeData::Int(a), TypeData::Int(b)) if a.offset == 0 && b.offset == 0 => {}
                (TypeData::Ptr(a), TypeData::Ptr(b)) => work.push((*a, *b, next)),
                (TypeData::Array(a), TypeData::Array(b)) => work.push((a.elem, b.elem, next)),
                (TypeData::FuncProto(a), TypeData::FuncProto(b)) => {
                    if a.params.len() != b.params.len() {
                        return Ok(false);
                    }
                    work.push((a.ret, b.ret, next));
                    work.extend(a.params.iter().zip(&b.params).map(|(a, b)| (a.ty, b.ty, next)));
                }
                _ => {
                    let (a, b) = (self.local.kind(local), self.target.kind(target));
                    let plain = matches!(
                        a,
                        Kind::Void | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Fwd | Kind::Float
                    );
                    if !(plain && same_kind(a, b)) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether the target has everything that the local type has, by name and type.
    pub(crate) fn types_match(&mut self, local: TypeId, target: TypeId) -> Result<bool, String> {
        self.matches(local, target, false, MAX_DEPTH)
    }

    fn matches(&mut self, local: TypeId, target: TypeId, behind_ptr: bool, level: usize) -> Result<bool, String> {
        let Some(level) = level.checked_sub(1) else { return Err("types are nested too deep".into()) };
        let (mut local, mut target, mut behind_ptr) = (local, target, behind_ptr);
        for _ in 0..MAX_DEPTH {
            self.spend()?;
            (local, target) = (self.local.resolve(local), self.target.resolve(target));
            if !self.type_names_match(local, target) {
                return Ok(false);
            }
            let Some((a, b)) = self.data(local, target) else { return Ok(false) };
            return match (a, b) {
                (TypeData::Void, TypeData::Void) => Ok(true),
                (TypeData::Fwd { is_union: a }, TypeData::Fwd { is_union: b }) => Ok(a == b),
                (TypeData::Fwd { is_union }, TypeData::Struct(_))
                | (TypeData::Struct(_), TypeData::Fwd { is_union }) => Ok(behind_ptr && !is_union),
                (TypeData::Fwd { is_union }, TypeData::Union(_)) | (TypeData::Union(_), TypeData::Fwd { is_union }) => {
                    Ok(behind_ptr && *is_union)
                }
                (TypeData::Struct(a), TypeData::Struct(b)) | (TypeData::Union(a), TypeData::Union(b)) => {
                    if behind_ptr {
                        Ok(true)
                    } else {
                        self.composites_match((local, a), (target, b), level)
                    }
                }
                (TypeData::Enum(a) | TypeData::Enum64(a), TypeData::Enum(b) | TypeData::Enum64(b)) => {
                    Ok(self.enums_match(a, b))
                }
                (TypeData::Int(a), TypeData::Int(b)) => Ok(a.size == b.size && a.is_signed() == b.is_signed()),
                (TypeData::Float { size: a }, TypeData::Float { size: b }) => Ok(a == b),
                (TypeData::Ptr(a), TypeData::Ptr(b)) => {
                    (local, target, behind_ptr) = (*a, *b, true);
                    continue;
                }
                (TypeData::Array(a), TypeData::Array(b)) if a.nelems == b.nelems => {
                    (local, target) = (a.elem, b.elem);
                    continue;
                }
                (TypeData::FuncProto(a), TypeData::FuncProto(b)) if a.params.len() == b.params.len() => {
                    for (a, b) in a.params.iter().zip(&b.params) {
                        if !self.matches(a.ty, b.ty, behind_ptr, level)? {
                            return Ok(false);
                        }
                    }
                    (local, target) = (a.ret, b.ret);
                    continue;
                }
                _ => Ok(false),
            };
        }
        Err("types are nested too deep".into())
    }

    fn enums_match(&self, local: &Enum, target: &Enum) -> bool {
        let names: std::collections::HashSet<&str> =
            target.values.iter().map(|v| essential_name(self.target.str_at(v.name))).collect();
        local.values.iter().all(|v| names.contains(essential_name(self.local.str_at(v.name))))
    }

    fn composites_match(
        &mut self,
        (local_id, local): (TypeId, &Composite),
        (target_id, target): (TypeId, &Composite),
        level: usize,
    ) -> Result<bool, String> {
        let pair = (local_id, target_id);
        match self.composites.get(&pair) {
            Some(Some(answer)) => return Ok(*answer),
            // A struct by value in itself was refused when it was parsed; behind a function it may come back.
            Some(None) => return Ok(true),
            None => {}
        }
        self.composites.insert(pair, None);
        let mut all = local.members.len() <= target.members.len();
        for member in local.members.iter().take_while(|_| local.members.len() <= target.members.len()) {
            let mut found = false;
            for other in &target.members {
                self.spend()?;
                if self.names_match(member.name, other.name) && self.matches(member.ty, other.ty, false, level)? {
                    found = true;
                    break;
                }
            }
            if !found {
                all = false;
                break;
            }
        }
        self.composites.insert(pair, Some(all));
        Ok(all)
    }
}
