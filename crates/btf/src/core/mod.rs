//! CO-RE: answers about fields, types and enumerators in another set of types.
//!
//! Owns the search for candidates, their comparison, and the value that a relocation writes into an instruction.
//! Invariant: every question has an answer: a value, or the reason why the instruction must be poisoned; nothing
//! recurses deeper than [`MAX_DEPTH`](crate::MAX_DEPTH). Kernel counterpart: tools/lib/bpf/relo_core.c, 6.18.

mod compat;
mod spec;
mod value;

use std::collections::HashMap;

use crate::ext::{CoreRelo, CoreReloKind};
use crate::graph::Btf;
use crate::types::{Kind, TypeId};

use compat::Comparer;
use spec::Spec;

/// What a relocation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Write this value.
    Value(Patch),
    /// The target has no answer: the instruction must not run. The reason is for the user.
    Poison(String),
}

/// The value of a relocation, and what the instruction holds before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// The value in the target.
    pub new: u64,
    /// The value in the object, which the instruction holds if `check_old` says so.
    pub old: u64,
    /// Whether the instruction must hold `old`.
    pub check_old: bool,
    /// Size of the field in the object, for the width of a load or store; 0 where it does not matter.
    pub old_size: u32,
    /// Size of the field in the target.
    pub new_size: u32,
    /// Whether a load or store cannot be made right by changing its width: a signed integer or a struct grew or shrank.
    pub wrong_width: bool,
}

/// The types that relocations are resolved against, with the answers found so far.
#[derive(Debug)]
pub struct CoreTarget<'a> {
    btf: &'a Btf,
    /// Named types by the part of their name before `___`.
    by_name: HashMap<&'a str, Vec<TypeId>>,
    /// Every type stands for itself.
    is_identity: bool,
}

impl<'a> CoreTarget<'a> {
    /// Prepares a set of types as the target.
    #[must_use]
    pub fn new(btf: &'a Btf) -> Self {
        let mut by_name: HashMap<&str, Vec<TypeId>> = HashMap::new();
        for (id, ty) in btf.types() {
            if ty.name.0 != 0 && is_candidate_kind(ty.kind()) {
                by_name.entry(essential_name(btf.name(id))).or_default().push(id);
            }
        }
        Self { btf, by_name, is_identity: false }
    }

    /// The object's own types as the target: every type is what the object says, whatever its flavour.
    #[must_use]
    pub fn identity(btf: &'a Btf) -> Self {
        Self { btf, by_name: HashMap::new(), is_identity: true }
    }

    /// Resolves one relocation of an object whose types are `local`.
    #[must_use]
    pub fn resolve(&self, local: &Btf, relo: &CoreRelo) -> Resolution {
        match self.try_resolve(local, relo) {
            Ok(patch) => Resolution::Value(patch),
            Err(reason) => Resolution::Poison(format!("{}: {reason}", describe(local, relo))),
        }
    }

    fn try_resolve(&self, local: &Btf, relo: &CoreRelo) -> Result<Patch, String> {
        if let CoreReloKind::Unknown(number) = relo.kind {
            return Err(format!("unknown kind {number}"));
        }
        let local_spec = Spec::parse(local, relo)?;
        if relo.kind == CoreReloKind::TypeIdLocal {
            let id = u64::from(local_spec.root.0);
            return Ok(Patch { new: id, old: id, check_old: false, old_size: 0, new_size: 0, wrong_width: false });
        }
        if self.is_identity {
            return value::patch(local, &local_spec, self.btf, Some(&local_spec), relo.kind);
        }
        let name = local.name(relo.type_id);
        if name.is_empty() {
            return Err("the type has no name to look for".into());
        }
        let mut compare = Comparer::new(local, self.btf);
        let mut found: Option<(Patch, u64, TypeId)> = None;
        for &candidate in self.by_name.get(essential_name(name)).into_iter().flatten() {
            if !compat::same_kind(local.kind(relo.type_id), self.btf.kind(candidate)) {
                continue;
            }
            let Some(target_spec) = local_spec.match_in(&mut compare, candidate, relo.kind)? else { continue };
            let patch = value::patch(local, &local_spec, self.btf, Some(&target_spec), relo.kind)?;
            match &found {
                Some((_, offset, first)) if *offset != target_spec.bit_offset => {
                    return Err(format!(
                        "ambiguous: types {first} and {candidate} of the target have it in two places"
                    ));
                }
                Some((other, _, first)) if other.new != patch.new => {
                    return Err(format!("ambiguous: types {first} and {candidate} of the target answer differently"));
                }
                Some(_) => {}
                None => found = Some((patch, target_spec.bit_offset, candidate)),
            }
        }
        match found {
            Some((patch, ..)) => Ok(patch),
            None => value::patch(local, &local_spec, self.btf, None, relo.kind),
        }
    }
}

fn is_candidate_kind(kind: Kind) -> bool {
    !matches!(kind, Kind::Var | Kind::DataSec | Kind::DeclTag | Kind::TypeTag | Kind::Func)
}

/// The name without a flavour: `task_struct___old` stands for `task_struct`.
#[must_use]
pub fn essential_name(name: &str) -> &str {
    let bytes = name.as_bytes();
    let separator = |at: &usize| matches!(bytes.get(at.saturating_sub(1)..at.saturating_add(4)), Some([before, b'_', b'_', b'_', after]) if *before != b'_' && *after != b'_');
    (1..bytes.len()).rev().find(separator).and_then(|at| name.get(..at)).unwrap_or(name)
}

/// The question in words: `byte_off of struct outer, access 0:1:2`.
fn describe(local: &Btf, relo: &CoreRelo) -> String {
    let name = local.name(relo.type_id).escape_default();
    let kind = local.kind(relo.type_id).as_str().to_lowercase();
    let access = crate::error::escaped(local.strings().bytes_at_most(relo.access, 128).unwrap_or_default());
    format!("CO-RE {} of {kind} {name}, access {access}", relo.kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::essential_name;

    #[test]
    fn flavours_are_cut_off() {
        for (name, essential) in [
            ("task_struct", "task_struct"),
            ("task_struct___old", "task_struct"),
            ("a___b___c", "a___b"),
            ("___lead", "___lead"),
            ("trail___", "trail___"),
            ("four____x", "four____x"),
            ("a___b", "a"),
            ("", ""),
        ] {
            assert_eq!(essential_name(name), essential);
        }
    }
}
