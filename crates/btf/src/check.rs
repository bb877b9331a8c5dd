//! Whether parsed types mean something.
//!
//! Owns the rules that the kernel applies when BTF is loaded: names, ids, kinds in their places, members inside their
//! struct, no type inside itself. Invariant: once this accepted, following ids terminates and every sized type has a
//! size under 4 GiB; nothing here recurses on the input's depth.
//! Kernel counterpart: `btf_check_all_metas`, `btf_check_all_types`, `btf_resolve`, kernel/bpf/btf.c, 6.18.

use crate::error::{Error, Result, escaped};
use crate::strings::Strings;
use crate::types::{Composite, Enum, FuncProto, Int, Kind, Linkage, Member, StrOff, Type, TypeData, TypeId};
use crate::{MAX_DEPTH, MAX_NAME, MAX_TYPES};

/// The longest name of any kind, so that many types with one endless name cost no time.
const MAX_ANY_NAME: usize = 2048;

/// Whose rules BTF must obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// What a compiler writes into an object: sections without sizes, externs, parameters without names, functions in
    /// `.ksyms`, names of other languages.
    Object,
    /// What `BPF_BTF_LOAD` takes.
    Kernel,
}

/// Checks `types` (index 0 is `void`) and returns the size of each type, `None` where it has none.
pub(crate) fn check(types: &[Type], strings: &Strings, rules: Rules) -> Result<Vec<Option<u32>>> {
    let checker = Checker { types, strings, rules };
    if rules == Rules::Kernel && types.len() <= 1 {
        return Err(Error::Header { field: "type_len", offset: 12, why: "there are no types".into() });
    }
    for (id, ty) in checker.all() {
        checker.check_record(id, ty)?;
    }
    let sizes = checker.resolve()?;
    for (id, ty) in checker.all() {
        checker.check_targets(id, ty, &sizes)?;
    }
    Ok(sizes)
}

struct Checker<'a> {
    types: &'a [Type],
    strings: &'a Strings,
    rules: Rules,
}

impl<'a> Checker<'a> {
    fn all(&self) -> impl Iterator<Item = (TypeId, &'a Type)> {
        (0u32..).map(TypeId).zip(self.types).skip(1)
    }

    fn ty(&self, id: TypeId) -> Option<&'a Type> {
        self.types.get(id.index())
    }

    fn kind(&self, id: TypeId) -> Kind {
        self.ty(id).map_or(Kind::Void, Type::kind)
    }

    fn quoted(&self, ty: &Type) -> String {
        match self.strings.bytes_at_most(ty.name, MAX_ANY_NAME) {
            Some([]) | None => "(anon)".into(),
            Some(name) => escaped(name),
        }
    }

    fn bad(&self, id: TypeId, why: impl Into<String>) -> Error {
        let ty = self.ty(id).unwrap_or(&Type::VOID);
        Error::Type { id, kind: ty.kind(), name: self.quoted(ty), why: why.into() }
    }

    // What a record says by itself.

    fn check_record(&self, id: TypeId, ty: &Type) -> Result<()> {
        let Some(name) = self.strings.bytes_at_most(ty.name, MAX_ANY_NAME) else {
            return Err(self.bad(id, format!("name offset {:#x} is outside the strings", ty.name.0)));
        };
        if ty.name.0 as usize > crate::MAX_STRINGS {
            return Err(self.bad(id, "name offset is too large"));
        }
        self.check_type_name(id, ty, name)?;
        match &ty.data {
            TypeData::Void => Err(Error::Internal("void among the records")),
            TypeData::Int(int) => self.check_int(id, *int),
            TypeData::Ptr(to)
            | TypeData::Typedef(to)
            | TypeData::Volatile(to)
            | TypeData::Const(to)
            | TypeData::Restrict(to)
            | TypeData::TypeTag { ty: to, .. }
            | TypeData::Func { proto: to, .. } => self.check_id(id, *to),
            TypeData::DeclTag { ty: to, component, .. } => {
                if *component < -1 {
                    return Err(self.bad(id, format!("invalid component_idx {component}")));
                }
                self.check_id(id, *to)
            }
            TypeData::Var { ty: to, .. } => self.check_nonzero_id(id, *to, "type"),
            TypeData::Array(array) => {
                self.check_nonzero_id(id, array.elem, "elem")?;
                self.check_nonzero_id(id, array.index, "index")
            }
            TypeData::Struct(composite) | TypeData::Union(composite) => self.check_composite(id, composite),
            TypeData::Enum(e) | TypeData::Enum64(e) => self.check_enum(id, e),
            TypeData::Fwd { .. } => Ok(()),
            TypeData::FuncProto(proto) => self.check_proto_ids(id, proto),
            TypeData::DataSec(sec) => {
                for var in &sec.vars {
                    self.check_nonzero_id(id, var.ty, "variable")?;
                }
                self.check_section(id, sec)
            }
            TypeData::Float { size: 2 | 4 | 8 | 12 | 16 } => Ok(()),
            TypeData::Float { size } => Err(self.bad(id, format!("invalid type_size {size}"))),
        }
    }

    fn check_id(&self, id: TypeId, to: TypeId) -> Result<()> {
        if to.index() < self.types.len() && to.index() <= MAX_TYPES {
            return Ok(());
        }
        let last = self.types.len().saturating_sub(1);
        Err(self.bad(id, format!("type id {to} is out of range, the last is {last}")))
    }

    fn check_nonzero_id(&self, id: TypeId, to: TypeId, what: &str) -> Result<()> {
        if to.is_void() {
            return Err(self.bad(id, format!("{what} is void")));
        }
        self.check_id(id, to)
    }

    fn check_type_name(&self, id: TypeId, ty: &Type, name: &[u8]) -> Result<()> {
        let (required, identifier) = match ty.kind() {
            Kind::Ptr | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::Array | Kind::FuncProto => {
                if name.is_empty() && (ty.name.0 == 0 || self.rules == Rules::Object) {
                    return Ok(());
                }
                return Err(self.bad(id, "invalid name: this kind has none"));
            }
            Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => (false, true),
            Kind::Fwd | Kind::Typedef | Kind::Func | Kind::Var => (true, true),
            Kind::DeclTag | Kind::TypeTag => (true, false),
            Kind::Int | Kind::Float | Kind::Void => (false, false),
            Kind::DataSec => {
                // What the kernel's isprint() takes.
                let printable = name.iter().all(|b| matches!(b, 0x20..=0x7e | 0xa0..));
                if name.is_empty() || !printable {
                    return Err(self.bad(id, "invalid section name"));
                }
                return self.check_name(id, ty.name, name, false);
            }
        };
        if required && name.is_empty() {
            return Err(self.bad(id, "invalid name: it has none"));
        }
        self.check_name(id, ty.name, name, identifier)
    }

    fn check_name(&self, id: TypeId, off: StrOff, name: &[u8], identifier: bool) -> Result<()> {
        if name.len() >= MAX_ANY_NAME {
            return Err(self.bad(id, format!("name is longer than {MAX_ANY_NAME} bytes")));
        }
        if std::str::from_utf8(name).is_err() {
            return Err(self.bad(id, format!("name '{}' is not UTF-8", escaped(name))));
        }
        if identifier && off.0 != 0 && self.rules == Rules::Kernel && !is_kernel_identifier(name) {
            return Err(self.bad(id, format!("invalid name '{}'", escaped(name))));
        }
        Ok(())
    }

    /// A name inside a type: of a member, a value or a parameter.
    fn check_inner_name(&self, id: TypeId, what: &str, at: usize, name: StrOff, required: bool) -> Result<()> {
        let Some(bytes) = self.strings.bytes_at_most(name, MAX_ANY_NAME) else {
            return Err(self.bad(id, format!("{what} {at}: name offset {:#x} is outside the strings", name.0)));
        };
        match bytes {
            [] if required => Err(self.bad(id, format!("{what} {at} has no name"))),
            _ => self.check_name(id, name, bytes, true),
        }
    }

    fn check_int(&self, id: TypeId, int: Int) -> Result<()> {
        let bits = u32::from(int.bits).saturating_add(u32::from(int.offset));
        if bits > 128 {
            return Err(self.bad(id, format!("nr_bits {bits} exceeds 128")));
        }
        if bits.div_ceil(8) > int.size {
            return Err(self.bad(id, format!("nr_bits {bits} exceeds type_size {}", int.size)));
        }
        if !matches!(int.encoding, 0 | Int::SIGNED | Int::CHAR | Int::BOOL) {
            return Err(self.bad(id, format!("unsupported encoding {:#x}", int.encoding)));
        }
        Ok(())
    }

    fn check_composite(&self, id: TypeId, composite: &Composite) -> Result<()> {
        let is_union = self.kind(id) == Kind::Union;
        let mut last = 0;
        for (at, member) in composite.members.iter().enumerate() {
            self.check_inner_name(id, "member", at, member.name, false)?;
            self.check_nonzero_id(id, member.ty, "member")?;
            if is_union && member.bit_offset != 0 {
                return Err(self.bad(id, format!("member {at}: bits_offset {} in a union", member.bit_offset)));
            }
            if member.bit_offset < last {
                return Err(self.bad(id, format!("member {at}: bits_offset {} is before the last", member.bit_offset)));
            }
            if member.bit_offset.div_ceil(8) > composite.size {
                let why = format!("member {at}: bits_offset {} exceeds its struct size", member.bit_offset);
                return Err(self.bad(id, why));
            }
            last = member.bit_offset;
        }
        Ok(())
    }

    fn check_enum(&self, id: TypeId, e: &Enum) -> Result<()> {
        // A compiler gives an enumeration that is only declared the size 0.
        let only_declared = e.size == 0 && e.values.is_empty() && self.rules == Rules::Object;
        if !matches!(e.size, 1 | 2 | 4 | 8) && !only_declared {
            return Err(self.bad(id, format!("unexpected size {}", e.size)));
        }
        e.values.iter().enumerate().try_for_each(|(at, v)| self.check_inner_name(id, "value", at, v.name, true))
    }

    fn check_proto_ids(&self, id: TypeId, proto: &FuncProto) -> Result<()> {
        self.check_id(id, proto.ret)?;
        for (at, param) in proto.params.iter().enumerate() {
            self.check_id(id, param.ty)?;
            self.check_inner_name(id, "argument", at, param.name, false)?;
            let last = at.saturating_add(1) == proto.params.len();
            if param.ty.is_void() && !(last && param.name.0 == 0) {
                return Err(self.bad(id, format!("invalid argument {at}: void")));
            }
        }
        Ok(())
    }

    fn check_section(&self, id: TypeId, sec: &crate::types::DataSec) -> Result<()> {
        if self.rules == Rules::Object {
            return Ok(());
        }
        if sec.size == 0 {
            return Err(self.bad(id, "size is 0"));
        }
        let mut end = 0u32;
        for (at, var) in sec.vars.iter().enumerate() {
            let last = var.offset.checked_add(var.size).filter(|&last| last <= sec.size);
            match last {
                Some(last) if var.offset >= end && var.offset < sec.size && var.size != 0 => end = last,
                _ => return Err(self.bad(id, format!("variable {at}: offset {} size {}", var.offset, var.size))),
            }
        }
        Ok(())
    }

    // What a type says about others, once every id is in range.

    /// Refuses loops and computes sizes. Two graphs are walked: what a type contains by value, and what a pointer leads
    /// to through pointers and modifiers. A pointer to a struct is in neither, so lists and trees are no loop.
    fn resolve(&self) -> Result<Vec<Option<u32>>> {
        let mut sizes = vec![None; self.types.len()];
        self.walk(nth_part, |id, ty| {
            let size = self.size_from_parts(id, ty, &sizes)?;
            if let Some(slot) = sizes.get_mut(id.index()) {
                *slot = size;
            }
            Ok(())
        })?;
        self.walk(nth_pointee, |_, _| Ok(()))?;
        Ok(sizes)
    }

    /// Depth first in the order of ids with a stack of its own; calls `done` for a type after all that it leads to.
    fn walk(
        &self,
        next_of: impl Fn(&Type, usize) -> Option<TypeId>,
        mut done: impl FnMut(TypeId, &Type) -> Result<()>,
    ) -> Result<()> {
        let mut seen = vec![Visit::No; self.types.len()];
        let mut stack: Vec<(TypeId, usize)> = Vec::with_capacity(MAX_DEPTH);
        for (root, _) in self.all() {
            if visit(&mut seen, root, None) != Visit::No {
                continue;
            }
            stack.push((root, 0));
            visit(&mut seen, root, Some(Visit::OnStack));
            while let Some((id, at)) = stack.last_mut() {
                let Some(ty) = self.ty(*id) else { return Err(Error::Internal("an id was not checked")) };
                let Some(next) = next_of(ty, *at) else {
                    let id = *id;
                    stack.pop();
                    visit(&mut seen, id, Some(Visit::Done));
                    done(id, ty)?;
                    continue;
                };
                *at = at.saturating_add(1);
                let Some(next_ty) = self.ty(next).filter(|_| !next.is_void()) else { continue };
                match visit(&mut seen, next, None) {
                    Visit::Done => {}
                    Visit::OnStack => {
                        return Err(Error::Loop { id: next, kind: next_ty.kind(), name: self.quoted(next_ty) });
                    }
                    Visit::No if stack.len() >= MAX_DEPTH => return Err(Error::Depth { id: root, max: MAX_DEPTH }),
                    Visit::No => {
                        visit(&mut seen, next, Some(Visit::OnStack));
                        stack.push((next, 0));
                    }
                }
            }
        }
        Ok(())
    }

    /// The size of a type whose parts are sized already.
    fn size_from_parts(&self, id: TypeId, ty: &Type, sizes: &[Option<u32>]) -> Result<Option<u32>> {
        let size_of = |id: TypeId| sizes.get(id.index()).copied().flatten();
        Ok(match &ty.data {
            TypeData::Ptr(_) => Some(8),
            TypeData::Array(array) => {
                let elem = match size_of(array.elem) {
                    Some(size) => size,
                    None if self.rules == Rules::Object && self.kind(array.elem) == Kind::Array => return Ok(None),
                    None => return Err(self.bad(id, format!("invalid elem: type {} has no size", array.elem))),
                };
                match elem.checked_mul(array.nelems) {
                    // `__uint(field, n)` of a map's definition is an array of n that nobody ever has.
                    None if self.rules == Rules::Object => None,
                    None => return Err(self.bad(id, "array size overflows 32 bits")),
                    size => size,
                }
            }
            TypeData::Var { ty, .. } => size_of(*ty),
            TypeData::DeclTag { .. } => None,
            data => match own_size(data) {
                Some(size) => Some(size),
                None => ty.modified().and_then(size_of),
            },
        })
    }

    fn check_targets(&self, id: TypeId, ty: &Type, sizes: &[Option<u32>]) -> Result<()> {
        let size_of = |id: TypeId| sizes.get(id.index()).copied().flatten();
        match &ty.data {
            TypeData::Ptr(to)
            | TypeData::Typedef(to)
            | TypeData::Volatile(to)
            | TypeData::Const(to)
            | TypeData::Restrict(to)
            | TypeData::TypeTag { ty: to, .. } => {
                let kind = self.kind(*to);
                if is_declaration(kind) || kind == Kind::Func {
                    return Err(self.bad(id, format!("invalid type_id {to}, a {kind}")));
                }
                Ok(())
            }
            TypeData::Array(array) => self.check_array(id, array.elem, array.index),
            TypeData::Struct(composite) | TypeData::Union(composite) => {
                for (at, member) in composite.members.iter().enumerate() {
                    self.check_member(id, composite, member, sizes)
                        .map_err(|why| self.bad(id, format!("member {at}: {why}")))?;
                }
                Ok(())
            }
            TypeData::Func { proto, linkage } => self.check_func(id, *proto, *linkage),
            TypeData::FuncProto(proto) => self.check_proto(id, proto, sizes),
            TypeData::Var { ty: to, linkage } => {
                if is_declaration(self.kind(*to)) {
                    return Err(self.bad(id, format!("invalid type_id {to}")));
                }
                let needs_size = self.rules == Rules::Kernel || *linkage != Linkage::Extern;
                if (needs_size && size_of(*to).is_none())
                    || (self.rules == Rules::Kernel && *linkage == Linkage::Extern)
                {
                    return Err(self.bad(id, format!("invalid type_id {to} or linkage")));
                }
                Ok(())
            }
            TypeData::DataSec(sec) => {
                for var in &sec.vars {
                    let kind = self.kind(var.ty);
                    let extern_func = kind == Kind::Func && self.rules == Rules::Object;
                    let too_small = self.rules == Rules::Kernel && size_of(var.ty).is_some_and(|size| size > var.size);
                    if !(kind == Kind::Var || extern_func) || too_small {
                        return Err(self.bad(id, format!("type {} is no VAR of its size", var.ty)));
                    }
                }
                Ok(())
            }
            TypeData::DeclTag { ty: to, component, .. } => self.check_decl_tag(id, *to, *component),
            _ => Ok(()),
        }
    }

    fn check_array(&self, id: TypeId, elem: TypeId, index: TypeId) -> Result<()> {
        let resolved = |to: TypeId| self.skip_modifiers(to).and_then(|to| self.ty(to));
        match resolved(index).map(|ty| &ty.data) {
            Some(TypeData::Int(int)) if int.is_regular() => {}
            _ => return Err(self.bad(id, format!("invalid index type {index}"))),
        }
        match resolved(elem).map(|ty| &ty.data) {
            Some(TypeData::Int(int)) if !int.is_regular() => Err(self.bad(id, "invalid array of int")),
            _ if is_declaration(self.kind(elem)) => Err(self.bad(id, format!("invalid elem {elem}"))),
            _ => Ok(()),
        }
    }

    /// Whether one member lies inside its struct; the error is only the reason.
    fn check_member(
        &self,
        id: TypeId,
        composite: &Composite,
        member: &Member,
        sizes: &[Option<u32>],
    ) -> Result<(), String> {
        let no_size = || format!("type {} has no size", member.ty);
        let Some(ty) = self.skip_modifiers(member.ty).and_then(|to| self.ty(to)) else { return Err(no_size()) };
        let Some(size) = sizes.get(member.ty.index()).copied().flatten() else { return Err(no_size()) };
        if is_declaration(self.kind(member.ty)) || member.ty == id {
            return Err(format!("invalid type {}", member.ty));
        }
        let is_bitfield = member.bitfield_size != 0;
        let start = u64::from(member.bit_offset);
        let (start, bits) = match &ty.data {
            TypeData::Int(int) if !composite.kind_flag => {
                (start.saturating_add(u64::from(int.offset)), u64::from(int.bits))
            }
            TypeData::Int(int) if !int.is_regular() => return Err("invalid member base type".into()),
            TypeData::Int(int) if is_bitfield && member.bitfield_size > int.bits => {
                return Err(format!("bitfield of {} bits in a type of {}", member.bitfield_size, int.bits));
            }
            TypeData::Int(_) if is_bitfield => (start, u64::from(member.bitfield_size)),
            TypeData::Int(int) if member.bit_offset.is_multiple_of(8) => (start, u64::from(int.bits)),
            TypeData::Enum(_) | TypeData::Enum64(_) if is_bitfield => {
                // The kernel's limit, whatever the size of the enumeration.
                if member.bitfield_size > 32 {
                    return Err(format!("invalid bitfield_size {}", member.bitfield_size));
                }
                (start, u64::from(member.bitfield_size))
            }
            _ if is_bitfield => return Err(format!("a {} cannot be a bit-field", ty.kind())),
            _ if !member.bit_offset.is_multiple_of(8) => return Err("is not byte aligned".into()),
            _ => (start, u64::from(size).saturating_mul(8)),
        };
        if start % 8 + bits > 128 && matches!(ty.data, TypeData::Int(_)) {
            return Err(format!("nr_copy_bits {} exceeds 128", start % 8 + bits));
        }
        if start.saturating_add(bits).div_ceil(8) > u64::from(composite.size) {
            return Err(format!(
                "ends at bit {}, outside the struct of {} bytes",
                start.saturating_add(bits),
                composite.size
            ));
        }
        Ok(())
    }

    fn check_func(&self, id: TypeId, proto: TypeId, linkage: Linkage) -> Result<()> {
        let Some(TypeData::FuncProto(found)) = self.ty(proto).map(|ty| &ty.data) else {
            return Err(self.bad(id, format!("type {proto} is no FUNC_PROTO")));
        };
        if self.rules == Rules::Kernel {
            if linkage == Linkage::Extern {
                return Err(self.bad(id, "invalid func linkage"));
            }
            let named = |p: &crate::types::Param| p.ty.is_void() || p.name.0 != 0;
            if let Some(at) = found.params.iter().position(|p| !named(p)) {
                return Err(self.bad(id, format!("argument {at} has no name")));
            }
        }
        Ok(())
    }

    fn check_proto(&self, id: TypeId, proto: &FuncProto, sizes: &[Option<u32>]) -> Result<()> {
        let sized = |to: TypeId| sizes.get(to.index()).copied().flatten().is_some() && !is_declaration(self.kind(to));
        if !self.is_void(proto.ret) && !sized(proto.ret) {
            return Err(self.bad(id, format!("invalid return type {}", proto.ret)));
        }
        match proto.params.iter().position(|p| !p.ty.is_void() && !sized(p.ty)) {
            Some(at) => Err(self.bad(id, format!("invalid argument {at}"))),
            None => Ok(()),
        }
    }

    fn check_decl_tag(&self, id: TypeId, to: TypeId, component: i32) -> Result<()> {
        let Some(ty) = self.ty(to) else { return Err(Error::Internal("an id was not checked")) };
        let count = match &ty.data {
            TypeData::Struct(composite) | TypeData::Union(composite) => composite.members.len(),
            TypeData::Func { proto, .. } => match self.ty(*proto).map(|ty| &ty.data) {
                Some(TypeData::FuncProto(proto)) => proto.params.len(),
                _ => 0,
            },
            TypeData::Var { .. } | TypeData::Typedef(_) => 0,
            _ => return Err(self.bad(id, format!("invalid type_id {to}, a {}", ty.kind()))),
        };
        match usize::try_from(component) {
            Ok(at) if at >= count => Err(self.bad(id, format!("invalid component_idx {component}"))),
            _ => Ok(()),
        }
    }

    fn is_void(&self, id: TypeId) -> bool {
        self.skip_modifiers(id).is_some_and(TypeId::is_void)
    }

    /// Behind modifiers and typedefs; ends because loops were refused.
    fn skip_modifiers(&self, mut id: TypeId) -> Option<TypeId> {
        for _ in 0..self.types.len() {
            match self.ty(id)?.modified() {
                Some(next) => id = next,
                None => return Some(id),
            }
        }
        None
    }
}

/// The size that a type has by itself.
pub(crate) fn own_size(data: &TypeData) -> Option<u32> {
    match data {
        TypeData::Int(int) => Some(int.size),
        TypeData::Ptr(_) => Some(8),
        TypeData::Struct(composite) | TypeData::Union(composite) => Some(composite.size),
        TypeData::Enum(e) | TypeData::Enum64(e) => Some(e.size),
        TypeData::DataSec(sec) => Some(sec.size),
        TypeData::Float { size } => Some(*size),
        _ => None,
    }
}

/// Kinds that declare something and are no type of a value.
fn is_declaration(kind: Kind) -> bool {
    matches!(kind, Kind::Var | Kind::DataSec | Kind::DeclTag)
}

/// Letters, digits, `_` and `.`, not starting with a digit, shorter than a symbol may be.
pub(crate) fn is_kernel_identifier(name: &[u8]) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b'.';
    name.len() < MAX_NAME
        && name
            .split_first()
            .is_some_and(|(&first, rest)| letter(first) && rest.iter().all(|&b| letter(b) || b.is_ascii_digit()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    No,
    OnStack,
    Done,
}

/// The state of `id`, after setting it to `new` where that is given.
fn visit(seen: &mut [Visit], id: TypeId, new: Option<Visit>) -> Visit {
    match (seen.get_mut(id.index()), new) {
        (Some(slot), Some(new)) => {
            *slot = new;
            new
        }
        (Some(slot), None) => *slot,
        (None, _) => Visit::Done,
    }
}

/// The `at`-th type that lies inside `ty` by value.
fn nth_part(ty: &Type, at: usize) -> Option<TypeId> {
    match &ty.data {
        TypeData::Struct(composite) | TypeData::Union(composite) => composite.members.get(at).map(|m| m.ty),
        TypeData::DataSec(sec) => sec.vars.get(at).map(|v| v.ty),
        _ if at > 0 => None,
        TypeData::Array(array) => Some(array.elem),
        TypeData::Var { ty: to, .. } | TypeData::DeclTag { ty: to, .. } => Some(*to),
        _ => ty.modified(),
    }
}

/// Where a pointer or a modifier leads.
fn nth_pointee(ty: &Type, at: usize) -> Option<TypeId> {
    match ty.data {
        _ if at > 0 => None,
        TypeData::Ptr(to) => Some(to),
        _ => ty.modified(),
    }
}
