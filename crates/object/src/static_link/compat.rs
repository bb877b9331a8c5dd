//! Whether a declaration fits its definition.
//!
//! Owns the comparison of two types of two objects. Qualifiers and typedefs do not matter, nor what a pointer's struct looks
//! like inside. Invariant: it ends, whatever the types. Kernel counterpart: `glob_sym_btf_matches`, `map_defs_match`,
//! linker.c, 6.18.

use skep_btf::{Btf, Kind, TypeData, TypeId};

use crate::maps;

/// Steps of one comparison at most.
const MAX_STEPS: usize = 100_000;

/// Why the types of a symbol in two objects do not fit; `None` if they do.
pub(super) fn difference(a: (&Btf, TypeId), b: (&Btf, TypeId), in_maps: bool) -> Option<String> {
    if in_maps {
        return map_difference(a, b);
    }
    let fits = Comparison { a: a.0, b: b.0, steps: 0 }.same(a.1, b.1, true);
    (!fits).then(|| format!("its type is {} in one object and {} in another", name(a.0, a.1), name(b.0, b.1)))
}

fn name(btf: &Btf, id: TypeId) -> String {
    let id = match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::Var { ty, .. }) => *ty,
        _ => id,
    };
    let kind = btf.kind(btf.resolve(id)).as_str().to_lowercase();
    let size = btf.size_of(id).map_or_else(|_| String::new(), |size| format!(" of {size} bytes"));
    match crate::error::escaped(btf.name(id)) {
        text if text.is_empty() => format!("{kind}{size}"),
        text => format!("{kind} {text}{size}"),
    }
}

/// Two definitions of a map.
fn map_difference(a: (&Btf, TypeId), b: (&Btf, TypeId)) -> Option<String> {
    let spec = |(btf, id): (&Btf, TypeId)| match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::Var { ty, .. }) => maps::parse_definition(btf, btf.name(id), *ty).map_err(|e| e.to_string()),
        _ => Err("a map is no variable".to_owned()),
    };
    let (left, right) = match (spec(a), spec(b)) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(why), _) | (_, Err(why)) => return Some(why),
    };
    let numbers = [
        ("map type", u64::from(left.map_type), u64::from(right.map_type)),
        ("key size", left.key_size.into(), right.key_size.into()),
        ("value size", left.value_size.into(), right.value_size.into()),
        ("max_entries", left.max_entries.into(), right.max_entries.into()),
        ("map_flags", left.map_flags.into(), right.map_flags.into()),
        ("map_extra", left.map_extra, right.map_extra),
        ("numa_node", left.numa_node.into(), right.numa_node.into()),
        ("pinning", left.pin_by_name.into(), right.pin_by_name.into()),
    ];
    if let Some((what, x, y)) = numbers.into_iter().find(|(_, x, y)| x != y) {
        return Some(format!("its {what} is {x} in one object and {y} in another"));
    }
    let types = [("key", left.key_type, right.key_type), ("value", left.value_type, right.value_type)];
    types.into_iter().find_map(|(what, x, y)| {
        let (x, y) = (x?, y?);
        let fits = Comparison { a: a.0, b: b.0, steps: 0 }.same(x, y, true);
        (!fits).then(|| format!("its {what} is {} in one object and {} in another", name(a.0, x), name(b.0, y)))
    })
}

struct Comparison<'a> {
    a: &'a Btf,
    b: &'a Btf,
    steps: usize,
}

impl Comparison<'_> {
    /// `exact` asks for the members of structs too.
    fn same(&mut self, a: TypeId, b: TypeId, exact: bool) -> bool {
        let mut work = vec![(a, b, exact)];
        while let Some((a, b, exact)) = work.pop() {
            self.steps = self.steps.saturating_add(1);
            if self.steps > MAX_STEPS || !self.pair(a, b, exact, &mut work) {
                return false;
            }
        }
        true
    }

    fn pair(&self, a: TypeId, b: TypeId, exact: bool, work: &mut Vec<(TypeId, TypeId, bool)>) -> bool {
        let (a, b) = (self.a.resolve(a), self.b.resolve(b));
        if a.is_void() || b.is_void() {
            return a == b;
        }
        let (Some(left), Some(right)) = (self.a.get(a), self.b.get(b)) else { return false };
        let same_name = self.a.name(a) == self.b.name(b);
        match (&left.data, &right.data) {
            (TypeData::Var { ty: x, .. }, TypeData::Var { ty: y, .. }) => work.push((*x, *y, exact)),
            (TypeData::Func { proto: x, .. }, TypeData::Func { proto: y, .. }) => work.push((*x, *y, exact)),
            (TypeData::Ptr(x), TypeData::Ptr(y)) => work.push((*x, *y, false)),
            (TypeData::Int(x), TypeData::Int(y)) => return same_name && x.size == y.size && x.encoding == y.encoding,
            (TypeData::Float { size: x }, TypeData::Float { size: y }) => return x == y,
            (TypeData::Array(x), TypeData::Array(y)) => {
                // `extern int table[];` leaves the length open.
                if x.nelems != y.nelems && x.nelems != 0 && y.nelems != 0 {
                    return false;
                }
                work.push((x.elem, y.elem, exact));
            }
            (TypeData::FuncProto(x), TypeData::FuncProto(y)) => {
                if x.params.len() != y.params.len() {
                    return false;
                }
                work.push((x.ret, y.ret, exact));
                work.extend(x.params.iter().zip(&y.params).map(|(x, y)| (x.ty, y.ty, exact)));
            }
            (TypeData::Struct(x), TypeData::Struct(y)) | (TypeData::Union(x), TypeData::Union(y)) => {
                if !exact {
                    return same_name;
                }
                if !same_name || x.size != y.size || x.members.len() != y.members.len() {
                    return false;
                }
                for (m, n) in x.members.iter().zip(&y.members) {
                    let place = m.bit_offset == n.bit_offset && m.bitfield_size == n.bitfield_size;
                    if !place || self.a.str_at(m.name) != self.b.str_at(n.name) {
                        return false;
                    }
                    work.push((m.ty, n.ty, true));
                }
            }
            (TypeData::Enum(x) | TypeData::Enum64(x), TypeData::Enum(y) | TypeData::Enum64(y)) => {
                return same_name && (!exact || x.size == y.size);
            }
            (x, y) => {
                return same_name && (is_declaration_of(x, right.kind()) || is_declaration_of(y, left.kind()));
            }
        }
        true
    }
}

/// Whether `declared` is a forward declaration of a struct or union of the kind `of`.
fn is_declaration_of(declared: &TypeData, of: Kind) -> bool {
    match declared {
        TypeData::Fwd { is_union: false } => matches!(of, Kind::Struct | Kind::Fwd),
        TypeData::Fwd { is_union: true } => matches!(of, Kind::Union | Kind::Fwd),
        _ => false,
    }
}
