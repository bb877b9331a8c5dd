//! Questions about types.
//!
//! Owns [`Btf`], the checked type graph. Invariant: answers need no error for what `check` has established; an id from
//! outside may be wrong and is an error. Kernel counterpart: `btf_type_by_id`, `btf_find_by_name_kind`,
//! `btf_resolve_size`, kernel/bpf/btf.c, 6.18.

use std::sync::OnceLock;

use crate::check::{self, Rules};
use crate::error::{Error, Result};
use crate::strings::Strings;
use crate::types::{Composite, DataSec, FuncProto, Kind, Member, SecVar, StrOff, Type, TypeData, TypeId};
use crate::{build, parse, write};

/// A checked set of types; cheap to share behind an `Arc`, immutable but for [`Btf::into_builder`].
#[derive(Debug, Clone)]
pub struct Btf {
    /// Index 0 is `void`.
    types: Vec<Type>,
    strings: Strings,
    sizes: Vec<Option<u32>>,
    /// Named types by name, then id; made at the first search.
    by_name: OnceLock<Vec<TypeId>>,
}

/// A member found by [`Btf::find_member`], with its place in the outermost struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundMember {
    /// Its type.
    pub ty: TypeId,
    /// Its offset from the start of the outermost struct, in bits.
    pub bit_offset: u32,
    /// Bits of a bit-field; 0 for a plain member.
    pub bitfield_size: u8,
}

impl Btf {
    /// Parses and checks a `.BTF` section as a compiler writes it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::parse_with(bytes, Rules::Object)
    }

    /// Parses and checks a `.BTF` section under the rules given.
    pub fn parse_with(bytes: &[u8], rules: Rules) -> Result<Self> {
        let (mut types, strings) = parse::parse(bytes)?;
        types.insert(0, Type::VOID);
        Self::from_parts(types, strings, rules)
    }

    pub(crate) fn from_parts(types: Vec<Type>, strings: Strings, rules: Rules) -> Result<Self> {
        let sizes = check::check(&types, &strings, rules)?;
        Ok(Self { types, strings, sizes, by_name: OnceLock::new() })
    }

    /// Checks the types again under other rules, e.g. before they are handed to a kernel.
    pub fn check(&self, rules: Rules) -> Result<()> {
        check::check(&self.types, &self.strings, rules).map(drop)
    }

    /// Takes the types apart, to change or extend them; ids stay what they are.
    #[must_use]
    pub fn into_builder(self) -> build::Builder {
        build::Builder::from_parts(self.types, self.strings)
    }

    /// The `.BTF` section that holds these types.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        write::write(self.types.get(1..).unwrap_or_default(), &self.strings)
    }

    /// How many types there are, `void` included: ids are below this.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there is nothing but `void`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.len() <= 1
    }

    /// The types in order of id, without `void`.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0u32..).map(TypeId).zip(&self.types).skip(1)
    }

    /// The type with this id; id 0 is `void`.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id.index())
    }

    /// The type with this id, or an error that names it.
    pub fn ty(&self, id: TypeId) -> Result<&Type> {
        let last = u32::try_from(self.types.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.get(id).ok_or(Error::NoSuchType { id, last: TypeId(last) })
    }

    /// The kind of a type; `Void` for an id that does not exist.
    #[must_use]
    pub fn kind(&self, id: TypeId) -> Kind {
        self.get(id).map_or(Kind::Void, Type::kind)
    }

    /// The strings, for what is not a type's name (source lines, access strings).
    #[must_use]
    pub fn strings(&self) -> &Strings {
        &self.strings
    }

    /// The name at `off`, empty if there is none.
    #[must_use]
    pub fn str_at(&self, off: StrOff) -> &str {
        self.strings.at(off).unwrap_or_default()
    }

    /// The name of a type, empty if it has none.
    #[must_use]
    pub fn name(&self, id: TypeId) -> &str {
        self.get(id).map_or("", |ty| self.str_at(ty.name))
    }

    /// The first type of this name and kind.
    #[must_use]
    pub fn find(&self, name: &str, kind: Kind) -> Option<TypeId> {
        self.find_all(name).find(|&id| self.kind(id) == kind)
    }

    /// All types of this name, in order of id.
    pub fn find_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = TypeId> + 'a {
        let index = self.by_name.get_or_init(|| {
            let mut ids: Vec<TypeId> = self.types().filter(|(_, ty)| ty.name.0 != 0).map(|(id, _)| id).collect();
            ids.sort_by(|&a, &b| self.name(a).cmp(self.name(b)).then(a.cmp(&b)));
            ids
        });
        let start = index.partition_point(|&id| self.name(id) < name);
        index.iter().skip(start).copied().take_while(move |&id| self.name(id) == name)
    }

    /// Size in bytes of a value of this type.
    pub fn size_of(&self, id: TypeId) -> Result<u32> {
        let ty = self.ty(id)?;
        match self.sizes.get(id.index()).copied().flatten() {
            Some(size) => Ok(size),
            None => Err(Error::NoSize { id, kind: self.get(self.resolve(id)).unwrap_or(ty).kind() }),
        }
    }

    /// Alignment in bytes that a compiler gives a value of this type; 1 for a packed struct.
    pub fn align_of(&self, id: TypeId) -> Result<u32> {
        let mut largest = 1;
        // A worklist instead of recursion; members of one struct are few and its depth is bounded.
        let mut work = vec![self.resolve(id)];
        let mut seen = std::collections::HashSet::new();
        self.size_of(id)?;
        while let Some(id) = work.pop() {
            let ty = self.ty(id)?;
            match &ty.data {
                TypeData::Struct(composite) | TypeData::Union(composite) => {
                    if seen.insert(id) && !self.is_packed(composite) {
                        work.extend(composite.members.iter().map(|m| self.resolve(m.ty)));
                    }
                }
                TypeData::Array(array) => work.push(self.resolve(array.elem)),
                TypeData::Ptr(_) => largest = largest.max(8),
                data => {
                    let size = check::own_size(data).unwrap_or(1);
                    let align = if size.is_power_of_two() { size.min(16) } else { 8 };
                    largest = largest.max(align);
                }
            }
        }
        Ok(largest)
    }

    /// Whether a struct can only be laid out like this with `__attribute__((packed))`, by its size or by a member that
    /// is not aligned as its scalar type wants.
    #[must_use]
    pub fn is_packed(&self, composite: &Composite) -> bool {
        composite.members.iter().any(|m| {
            let scalar = self.element_of(m.ty);
            let size = match self.get(scalar).map(|ty| &ty.data) {
                Some(TypeData::Struct(_) | TypeData::Union(_)) | None => return false,
                Some(data) => check::own_size(data).unwrap_or(1).clamp(1, 16),
            };
            let bits = size.saturating_mul(8);
            m.bitfield_size == 0
                && size.is_power_of_two()
                && (m.bit_offset % bits != 0 || !composite.size.is_multiple_of(size))
        })
    }

    /// The type of the innermost element of arrays, without modifiers; the type itself where it is no array.
    #[must_use]
    pub fn element_of(&self, id: TypeId) -> TypeId {
        let mut id = self.resolve(id);
        for _ in 0..self.types.len() {
            match self.get(id).map(|ty| &ty.data) {
                Some(TypeData::Array(array)) => id = self.resolve(array.elem),
                _ => break,
            }
        }
        id
    }

    /// Behind qualifiers and type tags, up to a typedef or a real type.
    #[must_use]
    pub fn skip_qualifiers(&self, id: TypeId) -> TypeId {
        self.skip(id, Type::qualified)
    }

    /// Behind qualifiers, type tags and typedefs.
    #[must_use]
    pub fn resolve(&self, id: TypeId) -> TypeId {
        self.skip(id, Type::modified)
    }

    fn skip(&self, mut id: TypeId, step: impl Fn(&Type) -> Option<TypeId>) -> TypeId {
        // Loops were refused, so this ends; the bound keeps that from depending on it.
        for _ in 0..self.types.len() {
            match self.get(id).and_then(&step) {
                Some(next) => id = next,
                None => break,
            }
        }
        id
    }

    /// What a pointer points to, through the modifiers in front of the pointer.
    #[must_use]
    pub fn pointee(&self, id: TypeId) -> Option<TypeId> {
        match self.get(self.resolve(id))?.data {
            TypeData::Ptr(to) => Some(to),
            _ => None,
        }
    }

    /// The struct or union that a type is, through modifiers.
    #[must_use]
    pub fn composite(&self, id: TypeId) -> Option<&Composite> {
        self.get(self.resolve(id))?.as_composite()
    }

    /// The members of a struct or union with their names; none for another kind.
    pub fn members(&self, id: TypeId) -> impl Iterator<Item = (&str, &Member)> {
        self.composite(id).into_iter().flat_map(|c| &c.members).map(|m| (self.str_at(m.name), m))
    }

    /// Finds a member by name, also inside anonymous structs and unions.
    #[must_use]
    pub fn find_member(&self, id: TypeId, name: &str) -> Option<FoundMember> {
        let mut work = vec![(self.resolve(id), 0u32)];
        let mut visits = 0usize;
        while let Some((id, base)) = work.pop() {
            visits = visits.saturating_add(1);
            if visits > self.types.len() {
                return None;
            }
            for member in self.get(id)?.as_composite().map(|c| c.members.as_slice()).unwrap_or_default() {
                let bit_offset = base.checked_add(member.bit_offset)?;
                let found = self.str_at(member.name);
                if found == name && !name.is_empty() {
                    return Some(FoundMember { ty: member.ty, bit_offset, bitfield_size: member.bitfield_size });
                }
                if found.is_empty() && self.composite(member.ty).is_some() {
                    work.push((self.resolve(member.ty), bit_offset));
                }
            }
        }
        None
    }

    /// The prototype of a function, a prototype, or a pointer to one.
    #[must_use]
    pub fn func_proto(&self, id: TypeId) -> Option<&FuncProto> {
        let mut id = self.resolve(id);
        // Func -> proto or pointer -> proto: never more than two steps.
        for _ in 0..3 {
            match &self.get(id)?.data {
                TypeData::FuncProto(proto) => return Some(proto),
                TypeData::Func { proto, .. } => id = *proto,
                TypeData::Ptr(to) => id = self.resolve(*to),
                _ => return None,
            }
        }
        None
    }

    /// The data section of this name.
    #[must_use]
    pub fn data_sec(&self, name: &str) -> Option<(TypeId, &DataSec)> {
        self.find_all(name).find_map(|id| match &self.get(id)?.data {
            TypeData::DataSec(sec) => Some((id, sec)),
            _ => None,
        })
    }

    /// The variables of a data section with their names; none for another kind.
    pub fn data_sec_vars(&self, id: TypeId) -> impl Iterator<Item = (&str, &SecVar)> {
        let vars = match self.get(id).map(|ty| &ty.data) {
            Some(TypeData::DataSec(sec)) => sec.vars.as_slice(),
            _ => &[],
        };
        vars.iter().map(|v| (self.name(v.ty), v))
    }

    /// The texts of the declaration tags on `id`, for the whole (`component` -1) or one member or parameter.
    pub fn decl_tags(&self, id: TypeId, component: i32) -> impl Iterator<Item = &str> {
        self.types().filter_map(move |(_, ty)| match ty.data {
            TypeData::DeclTag { ty: to, component: at, .. } if to == id && at == component => {
                Some(self.str_at(ty.name))
            }
            _ => None,
        })
    }
}
