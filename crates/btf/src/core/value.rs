//! The number that answers a relocation.
//!
//! Owns offsets, sizes, shifts and existence of what a [`Spec`] leads to. Invariant: the value for the object and the
//! one for the target are made by the same rules. Kernel counterpart: `bpf_core_calc_relo`, tools/lib/bpf/relo_core.c,
//! 6.18.

use crate::ext::CoreReloKind;
use crate::graph::Btf;
use crate::types::{Kind, TypeData, TypeId};

use super::Patch;
use super::spec::{Spec, is_enumval_based, is_type_based};

/// One side's answer.
struct Answer {
    value: u64,
    check: bool,
    /// The field's type and size, where a load or store may change its width.
    field: Option<(TypeId, u32)>,
}

impl Answer {
    fn plain(value: u64) -> Self {
        Self { value, check: true, field: None }
    }
}

pub(crate) fn patch(
    local: &Btf,
    local_spec: &Spec,
    target: &Btf,
    target_spec: Option<&Spec>,
    kind: CoreReloKind,
) -> Result<Patch, String> {
    let old = answer(local, Some(local_spec), kind)?;
    let new = answer(target, target_spec, kind)?;
    let mut out =
        Patch { new: new.value, old: old.value, check_old: old.check, old_size: 0, new_size: 0, wrong_width: false };
    if let (Some((old_type, old_size)), Some((new_type, new_size))) = (old.field, new.field) {
        (out.old_size, out.new_size) = (old_size, new_size);
        out.wrong_width = old_size != new_size && !may_change_width(local, old_type, target, new_type);
    }
    Ok(out)
}

/// Pointers, and unsigned integers, mean the same with another width.
fn may_change_width(local: &Btf, old: TypeId, target: &Btf, new: TypeId) -> bool {
    let (old, new) = (local.get(local.resolve(old)), target.get(target.resolve(new)));
    match (old.map(|ty| &ty.data), new.map(|ty| &ty.data)) {
        (Some(TypeData::Ptr(_)), Some(TypeData::Ptr(_))) => true,
        (Some(TypeData::Int(a)), Some(TypeData::Int(b))) => !a.is_signed() && !b.is_signed(),
        _ => false,
    }
}

fn answer(btf: &Btf, spec: Option<&Spec>, kind: CoreReloKind) -> Result<Answer, String> {
    if is_type_based(kind) {
        return type_answer(btf, spec, kind);
    }
    if is_enumval_based(kind) {
        return enumval_answer(btf, spec, kind);
    }
    if kind == CoreReloKind::FieldExists {
        return Ok(Answer::plain(u64::from(spec.is_some())));
    }
    field_answer(btf, spec.ok_or("no type of the target has such a field")?, kind)
}

fn type_answer(btf: &Btf, spec: Option<&Spec>, kind: CoreReloKind) -> Result<Answer, String> {
    // What does not exist has size and id 0, and no instruction runs wrongly with it.
    let Some(spec) = spec else { return Ok(Answer::plain(0)) };
    match kind {
        CoreReloKind::TypeExists | CoreReloKind::TypeMatches => Ok(Answer::plain(1)),
        CoreReloKind::TypeSize => {
            btf.size_of(spec.root).map(|size| Answer::plain(u64::from(size))).map_err(|e| e.to_string())
        }
        _ => Ok(Answer { value: u64::from(spec.root.0), check: false, field: None }),
    }
}

fn enumval_answer(btf: &Btf, spec: Option<&Spec>, kind: CoreReloKind) -> Result<Answer, String> {
    if kind == CoreReloKind::EnumvalExists {
        return Ok(Answer::plain(u64::from(spec.is_some())));
    }
    let step = spec.and_then(|spec| spec.steps.first()).ok_or("no type of the target has such an enumerator")?;
    let value = btf.get(step.ty).and_then(|ty| ty.as_enum()).and_then(|e| e.values.get(step.index as usize));
    Ok(Answer::plain(value.ok_or("an enumerator is missing")?.value))
}

fn field_answer(btf: &Btf, spec: &Spec, kind: CoreReloKind) -> Result<Answer, String> {
    let last = spec.steps.last().ok_or("the access string is empty")?;
    let size_of = |id| btf.size_of(id).map_err(|e| e.to_string());
    if !last.named {
        let size = size_of(last.ty)?;
        return match kind {
            CoreReloKind::FieldByteOffset => {
                Ok(Answer { value: spec.bit_offset / 8, check: true, field: Some((last.ty, size)) })
            }
            CoreReloKind::FieldByteSize => Ok(Answer::plain(u64::from(size))),
            _ => Err("this cannot be asked of an array's element".into()),
        };
    }
    let member = btf.get(last.ty).and_then(|ty| ty.as_composite()).and_then(|c| c.members.get(last.index as usize));
    let member = member.ok_or("a member is missing")?;
    let storage = size_of(member.ty)?;
    let is_bitfield = member.bitfield_size != 0;
    let place = if is_bitfield {
        bitfield_place(spec.bit_offset, u64::from(member.bitfield_size), u64::from(storage))?
    } else {
        let byte_size = u64::from(storage);
        Place { byte_offset: spec.bit_offset / 8, byte_size, bit_size: byte_size.saturating_mul(8) }
    };
    let resolved = btf.get(btf.resolve(member.ty)).map(|ty| &ty.data);
    let end_bit = spec.bit_offset.saturating_add(place.bit_size).saturating_sub(place.byte_offset.saturating_mul(8));
    let shift = |bits: u64| 64u64.checked_sub(bits).ok_or("the field does not fit 64 bits");
    Ok(match kind {
        CoreReloKind::FieldByteOffset => {
            // A load of an array is one of its first element.
            let elem = btf.element_of(member.ty);
            let is_array = btf.kind(btf.resolve(member.ty)) == Kind::Array;
            let field = if is_array { (elem, size_of(elem)?) } else { (member.ty, storage) };
            Answer { value: place.byte_offset, check: !is_bitfield, field: (!is_bitfield).then_some(field) }
        }
        CoreReloKind::FieldByteSize => Answer { value: place.byte_size, check: !is_bitfield, field: None },
        CoreReloKind::FieldSigned => {
            let signed = match resolved {
                Some(TypeData::Int(int)) => int.is_signed(),
                Some(TypeData::Enum(e) | TypeData::Enum64(e)) => e.signed,
                _ => false,
            };
            Answer::plain(u64::from(signed))
        }
        CoreReloKind::FieldLshiftU64 => Answer { value: shift(end_bit)?, check: !is_bitfield, field: None },
        CoreReloKind::FieldRshiftU64 => Answer::plain(shift(place.bit_size)?),
        _ => return Err("this is no question about a field".into()),
    })
}

struct Place {
    byte_offset: u64,
    byte_size: u64,
    bit_size: u64,
}

/// The smallest aligned load that holds a bit-field.
fn bitfield_place(bit_offset: u64, bit_size: u64, storage: u64) -> Result<Place, String> {
    let mut byte_size = storage.max(1);
    loop {
        let byte_offset = bit_offset / 8 / byte_size * byte_size;
        let end = bit_offset.saturating_add(bit_size).saturating_sub(byte_offset.saturating_mul(8));
        if end <= byte_size.saturating_mul(8) {
            return Ok(Place { byte_offset, byte_size, bit_size });
        }
        if byte_size >= 8 {
            return Err("the bit-field does not fit one load".into());
        }
        byte_size = byte_size.saturating_mul(2);
    }
}
