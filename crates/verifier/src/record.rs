//! The special fields of a map value, found by its type.
//!
//! Owns the search through a struct for what only helpers may touch: locks, timers, kptrs, list and tree roots.
//! Invariant: fields come in order of offset, none beyond the value. Kernel counterpart: `btf_parse_fields`,
//! kernel/bpf/btf.c, 6.18.

use skep_btf::{Btf, Kind, TypeData, TypeId};

use crate::spec::{FieldKind, FieldTarget, ObjectType, RecordField};

/// Fields that a record may have (`BTF_FIELDS_MAX`).
const MAX_FIELDS: usize = 11;
/// Structs within structs that are looked into.
const MAX_NESTING: u32 = 4;
const POINTER_SIZE: u32 = 8;

/// Structs that are fields by their name, with how many a value may have.
const BY_NAME: [(&str, FieldKind, bool); 10] = [
    ("bpf_spin_lock", FieldKind::SpinLock, true),
    ("bpf_res_spin_lock", FieldKind::ResSpinLock, true),
    ("bpf_timer", FieldKind::Timer, true),
    ("bpf_wq", FieldKind::Workqueue, true),
    ("bpf_task_work", FieldKind::TaskWork, true),
    ("bpf_list_head", FieldKind::ListHead, false),
    ("bpf_list_node", FieldKind::ListNode, false),
    ("bpf_rb_root", FieldKind::RbRoot, false),
    ("bpf_rb_node", FieldKind::RbNode, false),
    ("bpf_refcount", FieldKind::Refcount, true),
];

/// Type tags that make a pointer a field.
const BY_TAG: [(&str, FieldKind); 4] = [
    ("kptr_untrusted", FieldKind::KptrUnref),
    ("kptr", FieldKind::KptrRef),
    ("percpu_kptr", FieldKind::KptrPercpu),
    ("uptr", FieldKind::Uptr),
];

/// Why a value's special fields are not what the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Two of a kind that a value has once.
    #[error("the value has more than one {0}")]
    Duplicate(&'static str),
    /// More fields than the kernel keeps.
    #[error("the value has more than {MAX_FIELDS} special fields")]
    TooMany,
    /// A list head or a tree root that does not say what it holds, or says it wrongly.
    #[error("{kind} at offset {offset} does not name a struct and a node of it (contains:STRUCT:NODE)")]
    Contains {
        /// The field's struct.
        kind: &'static str,
        /// Its place in the value.
        offset: u32,
    },
    /// A list head or a tree root without a lock beside it.
    #[error("the value has lists or trees and no bpf_spin_lock")]
    NoLock,
    /// A struct that is a node of a list and of a tree and counts no references.
    #[error("the struct has nodes of a list and of a tree and no bpf_refcount")]
    NoRefcount,
    /// Not at a multiple of its alignment.
    #[error("{kind} at offset {offset} is not aligned")]
    Misaligned {
        /// The field's struct.
        kind: &'static str,
        /// Its place in the value.
        offset: u32,
    },
}

/// The special fields of a value of type `id`; none for a value that is not a struct or a data section.
///
/// # Errors
/// The type has fields that the kernel refuses, with -EINVAL, -E2BIG or -EEXIST.
pub fn value_record(btf: &Btf, id: TypeId) -> Result<Vec<RecordField>, RecordError> {
    let mut fields = Vec::new();
    let id = btf.resolve(id);
    match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::DataSec(_)) => {
            for (_, var) in btf.data_sec_vars(id) {
                let tagged = Tagged { owner: var.ty, component: -1 };
                collect(btf, variable_type(btf, var.ty), var.offset, tagged, 0, &mut fields)?;
            }
        }
        Some(TypeData::Struct(_)) => members(btf, id, 0, 0, &mut fields)?,
        _ => {}
    }
    check_whole(fields)
}

/// The special fields of an object of the struct `id`.
///
/// # Errors
/// As for [`value_record`].
pub fn struct_record(btf: &Btf, id: TypeId) -> Result<Vec<RecordField>, RecordError> {
    let mut fields = Vec::new();
    members(btf, btf.resolve(id), 0, 0, &mut fields)?;
    let fields = check_whole(fields)?;
    // The kernel looks into structs with one of these fields, and into no others: a struct with a lock that may refuse to be
    // taken, and nothing else, has none for it.
    let looked_into = fields.iter().any(|field| {
        !matches!(
            field.kind,
            FieldKind::ResSpinLock | FieldKind::Timer | FieldKind::Workqueue | FieldKind::TaskWork | FieldKind::Uptr
        )
    });
    Ok(if looked_into { fields } else { Vec::new() })
}

/// Rules over all fields of a record.
fn check_whole(mut fields: Vec<RecordField>) -> Result<Vec<RecordField>, RecordError> {
    fields.sort_by_key(|field| field.offset);
    let has = |kinds: &[FieldKind]| fields.iter().any(|field| kinds.contains(&field.kind));
    if has(&[FieldKind::ListHead, FieldKind::RbRoot]) && !has(&[FieldKind::SpinLock, FieldKind::ResSpinLock]) {
        return Err(RecordError::NoLock);
    }
    if has(&[FieldKind::ListNode]) && has(&[FieldKind::RbNode]) && !has(&[FieldKind::Refcount]) {
        return Err(RecordError::NoRefcount);
    }
    for (_, kind, unique) in BY_NAME {
        if unique && fields.iter().filter(|field| field.kind == kind).count() > 1 {
            return Err(RecordError::Duplicate(kind.name()));
        }
    }
    Ok(fields)
}

fn variable_type(btf: &Btf, id: TypeId) -> TypeId {
    match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::Var { ty, .. }) => *ty,
        _ => id,
    }
}

/// Where declaration tags of a field are: a member of a struct, or a variable.
#[derive(Clone, Copy)]
struct Tagged {
    owner: TypeId,
    component: i32,
}

fn members(btf: &Btf, id: TypeId, base: u32, nesting: u32, out: &mut Vec<RecordField>) -> Result<(), RecordError> {
    for (component, (_, member)) in (0..).zip(btf.members(id)) {
        let tagged = Tagged { owner: id, component };
        if member.bitfield_size == 0 && member.bit_offset % 8 == 0 {
            collect(btf, member.ty, base.saturating_add(member.bit_offset / 8), tagged, nesting, out)?;
        }
    }
    Ok(())
}

/// The fields in something of type `id` at `offset`.
fn collect(
    btf: &Btf,
    id: TypeId,
    offset: u32,
    tagged: Tagged,
    nesting: u32,
    out: &mut Vec<RecordField>,
) -> Result<(), RecordError> {
    let mut id = btf.skip_qualifiers(id);
    let mut count = 1u32;
    // Arrays of fields count element by element; a zero-length array holds none.
    while let Some(TypeData::Array(array)) = btf.get(id).map(|ty| &ty.data) {
        count = count.saturating_mul(array.nelems);
        id = btf.skip_qualifiers(array.elem);
    }
    let Some((kind, size, target)) = field_of(btf, id) else {
        if btf.kind(id) == Kind::Struct && nesting < MAX_NESTING && count > 0 {
            let size = btf.size_of(id).unwrap_or(0);
            let mut inner = Vec::new();
            members(btf, id, 0, nesting + 1, &mut inner)?;
            for index in 0..if inner.is_empty() { 0 } else { count } {
                let base = offset.saturating_add(index.saturating_mul(size));
                for field in &inner {
                    push(RecordField { offset: base.saturating_add(field.offset), ..*field }, out)?;
                }
            }
        }
        return Ok(());
    };
    let align = btf.align_of(id).unwrap_or(size).max(1);
    if !offset.is_multiple_of(align) {
        return Err(RecordError::Misaligned { kind: kind.name(), offset });
    }
    let target = match kind {
        FieldKind::ListHead => nodes(btf, tagged, "bpf_list_node"),
        FieldKind::RbRoot => nodes(btf, tagged, "bpf_rb_node"),
        _ => Some(target),
    };
    let target = target.ok_or(RecordError::Contains { kind: kind.name(), offset })?;
    for index in 0..count {
        push(RecordField { kind, offset: offset.saturating_add(index.saturating_mul(size)), size, target }, out)?;
    }
    Ok(())
}

/// What a head or root holds, by its tag `contains:STRUCT:NODE`.
fn nodes(btf: &Btf, tagged: Tagged, node_type: &str) -> Option<FieldTarget> {
    let mut tags = btf.decl_tags(tagged.owner, tagged.component).filter_map(|tag| tag.strip_prefix("contains:"));
    let (name, node) = tags.next()?.split_once(':')?;
    let object = btf.find(name, Kind::Struct).filter(|_| tags.next().is_none())?;
    let (_, member) = btf.members(object).find(|(member, _)| *member == node)?;
    let is_node = btf.name(btf.skip_qualifiers(member.ty)) == node_type;
    (is_node && member.bitfield_size == 0).then_some(FieldTarget::Nodes { object, node: member.bit_offset / 8 })
}

fn push(field: RecordField, out: &mut Vec<RecordField>) -> Result<(), RecordError> {
    if out.len() == MAX_FIELDS {
        return Err(RecordError::TooMany);
    }
    out.push(field);
    Ok(())
}

/// The kind and size of a field of this type, if it is one.
fn field_of(btf: &Btf, id: TypeId) -> Option<(FieldKind, u32, FieldTarget)> {
    match &btf.get(id)?.data {
        TypeData::Struct(composite) => {
            let name = btf.name(id);
            let found = BY_NAME.iter().find(|(known, ..)| *known == name);
            found.map(|(_, kind, _)| (*kind, composite.size, FieldTarget::None))
        }
        TypeData::Ptr(to) => {
            let TypeData::TypeTag { .. } = &btf.get(*to)?.data else { return None };
            let tag = btf.name(*to);
            let (_, kind) = BY_TAG.iter().find(|(known, _)| *known == tag)?;
            let pointee = btf.resolve(*to);
            let object = match skep_abi::kfunc::kernel_type(btf.name(pointee)) {
                Some(number) => ObjectType::Kernel(number),
                None => ObjectType::Local(pointee),
            };
            Some((*kind, POINTER_SIZE, FieldTarget::Object(object)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use skep_btf::{Array, Builder, Composite, Int, Member};

    use super::*;

    /// `struct value { int a; struct bpf_spin_lock lock[n]; }`, the lock at byte `at`.
    fn value(at: u32, n: u32) -> (Btf, TypeId) {
        let mut b = Builder::new();
        let int = b.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 })).unwrap();
        let member = |b: &mut Builder, name: &str, ty, at: u32| Member {
            name: b.string(name).unwrap(),
            ty,
            bit_offset: at * 8,
            bitfield_size: 0,
        };
        let val = member(&mut b, "val", int, 0);
        let lock = Composite { size: 4, members: vec![val], kind_flag: false };
        let lock = b.add("bpf_spin_lock", TypeData::Struct(lock)).unwrap();
        let locks = b.add("", TypeData::Array(Array { elem: lock, index: int, nelems: n })).unwrap();
        let members = vec![member(&mut b, "a", int, 0), member(&mut b, "lock", locks, at)];
        let composite = Composite { size: 64, members, kind_flag: false };
        let id = b.add("value", TypeData::Struct(composite)).unwrap();
        (b.finish(skep_btf::Rules::Object).unwrap(), id)
    }

    #[test]
    fn a_lock_is_found_where_it_lies() {
        let (btf, id) = value(8, 1);
        assert_eq!(
            value_record(&btf, id).unwrap(),
            [RecordField { kind: FieldKind::SpinLock, offset: 8, size: 4, target: FieldTarget::None }]
        );
        let (btf, id) = value(8, 0);
        assert_eq!(value_record(&btf, id).unwrap(), []);
    }

    #[test]
    fn two_locks_and_a_misaligned_one_are_refused() {
        let (btf, id) = value(8, 2);
        assert_eq!(value_record(&btf, id), Err(RecordError::Duplicate("bpf_spin_lock")));
        let (btf, id) = value(9, 1);
        assert_eq!(value_record(&btf, id), Err(RecordError::Misaligned { kind: "bpf_spin_lock", offset: 9 }));
        let (btf, id) = value(4, 12);
        assert_eq!(value_record(&btf, id), Err(RecordError::TooMany));
    }
}
