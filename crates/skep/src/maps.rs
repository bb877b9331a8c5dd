//! An object's maps, created and filled.
//!
//! Owns what libbpf does at creation: sizes that the kernel wants rounded, images of data sections, frozen constants.
//! Invariant: either every map of the object exists and is filled, or none does. Kernel counterpart:
//! `bpf_object__create_maps`, tools/lib/bpf/libbpf.c, 6.18.

use std::sync::Arc;

use skep_abi::{Errno, MapType, map_flags, update_flags};
use skep_object::{MapKind, MapSpec, SlotTarget};
use skep_runtime::map::arena::Arena;
use skep_runtime::map::{self, FieldKind, Map, MapBtf, Record, SpecialField};
use skep_sync::CpuSet;
use skep_verifier::RecordField;

use crate::object::Object;
use crate::verify::Shapes;

/// A map that cannot be created or filled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("map '{map}': cannot {what}: {errno}")]
pub struct MapError {
    /// The map.
    pub map: String,
    /// What was tried.
    pub what: &'static str,
    /// Why not.
    pub errno: Errno,
}

/// Creates every map that is to be, parallel to [`Object::maps`]. A map that exists already (`reused`) is taken as it is;
/// `share` puts arrays that may be mapped into files.
pub(crate) fn create(
    object: &Object,
    shapes: &Shapes,
    cpus: &CpuSet,
    reused: &dyn Fn(&str) -> Option<Map>,
    share: bool,
) -> Result<Vec<Option<Map>>, MapError> {
    let mut maps = Vec::with_capacity(object.maps().len());
    for (spec, record) in object.maps().iter().zip(shapes.records()) {
        maps.push(match reused(&spec.name) {
            _ if !spec.autocreate => None,
            Some(map) => {
                check_fits(object, spec, record, cpus, &map)?;
                Some(map)
            }
            None => Some(create_one(object, spec, record, cpus, share)?),
        });
    }
    for (spec, map) in object.maps().iter().zip(&maps) {
        let Some(map) = map.as_ref().filter(|_| reused(&spec.name).is_none()) else { continue };
        for slot in &spec.initial_slots {
            if let SlotTarget::Map(inner) = slot.target {
                // A slot for a map that is not created stays empty.
                let Some(Some(inner)) = maps.get(inner) else { continue };
                let value = map::Slot::Map(inner.clone());
                map.update_slot(&slot.slot.to_ne_bytes(), value, update_flags::BPF_ANY).map_err(|errno| MapError {
                    map: spec.name.clone(),
                    what: "hold its inner map",
                    errno,
                })?;
            }
        }
    }
    Ok(maps)
}

/// A map that is taken over has the shape that the object declares.
fn check_fits(
    object: &Object,
    spec: &MapSpec,
    record: &[RecordField],
    cpus: &CpuSet,
    map: &Map,
) -> Result<(), MapError> {
    let failed = |errno| MapError { map: spec.name.clone(), what: "be adopted: its layout differs", errno };
    let wanted = runtime_spec(object, spec, record, cpus).map_err(failed)?;
    let info = map.info();
    let same = wanted.map_type == Some(info.map_type)
        && (wanted.key_size, wanted.value_size) == (info.key_size, info.value_size)
        && wanted.max_entries == info.max_entries
        // A type may have added flags of its own.
        && wanted.flags & !(info.flags | info.user_flags) == 0
        && wanted.record.fields() == info.record.fields();
    if !same {
        return Err(failed(Errno::EINVAL));
    }
    // What it keeps may be of types that the object which made it described in another way.
    if wanted.record.fields().iter().any(|field| holds_objects(field.kind)) {
        let what = "be adopted: it keeps objects of programs";
        return Err(MapError { map: spec.name.clone(), what, errno: Errno::EBUSY });
    }
    // Programs are verified against the constants of the object.
    let constants = spec.initial_value().filter(|_| spec.kind.is_read_only());
    match constants {
        Some(image) if !map.object().is_frozen() || map.lookup(&[0; 4], 0).ok().as_deref() != Some(&*image) => {
            Err(MapError { map: spec.name.clone(), what: "be adopted: its constants differ", errno: Errno::EINVAL })
        }
        _ => Ok(()),
    }
}

/// Maps that keep objects were made with the types that the program was verified with: nothing else tells a struct of one
/// object file from one of another.
pub(crate) fn check_types(object: &Object, maps: &[Map]) -> Result<(), MapError> {
    let own = object.spec().btf.as_ref();
    let foreign = maps.iter().map(|map| map.info()).find(|info| {
        let same = info.btf.as_ref().zip(own).is_some_and(|(types, own)| Arc::ptr_eq(&types.btf, own));
        info.record.fields().iter().any(|field| holds_objects(field.kind)) && !same
    });
    let what = "be used: it keeps objects of other types";
    foreign.map_or(Ok(()), |info| Err(MapError { map: info.name.clone(), what, errno: Errno::EINVAL }))
}

/// Whether values keep objects that programs made.
fn holds_objects(kind: FieldKind) -> bool {
    matches!(kind, FieldKind::Kptr | FieldKind::ListHead { .. } | FieldKind::RbRoot { .. })
}

fn create_one(
    object: &Object,
    spec: &MapSpec,
    record: &[RecordField],
    cpus: &CpuSet,
    share: bool,
) -> Result<Map, MapError> {
    let failed = |what, errno| MapError { map: spec.name.clone(), what, errno };
    let mut wanted = runtime_spec(object, spec, record, cpus).map_err(|errno| failed("be created", errno))?;
    wanted.shared = share;
    let map = Map::create(&wanted, cpus).map_err(|errno| failed("be created", errno))?;
    if let Some(arena) = map.downcast::<Arena>().filter(|_| !spec.arena_globals().is_empty()) {
        arena.write(0, spec.arena_globals()).map_err(|errno| failed("be filled", errno))?;
    }
    if let Some(image) = spec.initial_value() {
        let flags = if spec.kind == MapKind::PerCpu { update_flags::BPF_F_ALL_CPUS } else { update_flags::BPF_ANY };
        map.update(&[0; 4], &image, flags).map_err(|errno| failed("be filled", errno))?;
        if spec.kind.is_read_only() {
            map.freeze().map_err(|errno| failed("be frozen", errno))?;
        }
    }
    Ok(map)
}

fn runtime_spec(object: &Object, spec: &MapSpec, record: &[RecordField], cpus: &CpuSet) -> Result<map::MapSpec, Errno> {
    let map_type = MapType::from_u32(spec.map_type).ok_or(Errno::EINVAL)?;
    let inner = match &spec.inner {
        Some(inner) => Some(Map::create(&runtime_spec(object, inner, &[], cpus)?, cpus)?),
        None => None,
    };
    let read_only = if spec.kind.is_read_only() { map_flags::BPF_F_RDONLY_PROG } else { 0 };
    let types = spec.value_type.zip(object.spec().btf.as_ref());
    let record = Record::new(record.iter().filter_map(special).collect(), spec.value_size)?;
    // Users do not get to write what only programs may: such values stay out of their memory.
    let owns = record.fields().iter().any(|field| holds_objects(field.kind));
    let map_flags = if owns { spec.map_flags & !map_flags::BPF_F_MMAPABLE } else { spec.map_flags };
    Ok(map::MapSpec {
        name: spec.kernel_name.clone(),
        map_type: Some(map_type),
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: u32::try_from(cpus.n_possible()).ok().and_then(|cpus| spec.entries(cpus)).ok_or(Errno::E2BIG)?,
        flags: map_flags | read_only,
        map_extra: spec.map_extra,
        inner,
        record,
        btf: types.map(|(value, btf)| MapBtf {
            btf: Arc::clone(btf),
            key_type: spec.key_type.map_or(0, |id| id.0),
            value_type: value.0,
        }),
        shared: false,
    })
}

pub(crate) fn special(field: &RecordField) -> Option<SpecialField> {
    use skep_verifier::FieldKind as Kind;
    let kind = match field.kind {
        Kind::SpinLock => FieldKind::SpinLock,
        Kind::ResSpinLock => FieldKind::ResSpinLock,
        Kind::Timer => FieldKind::Timer,
        Kind::Workqueue => FieldKind::Workqueue,
        Kind::KptrUnref | Kind::KptrRef | Kind::KptrPercpu | Kind::Uptr => FieldKind::Kptr,
        Kind::ListHead => FieldKind::ListHead { node: node(field)? },
        Kind::ListNode => FieldKind::ListNode,
        Kind::RbRoot => FieldKind::RbRoot { node: node(field)? },
        Kind::RbNode => FieldKind::RbNode,
        Kind::Refcount => FieldKind::Refcount,
        Kind::TaskWork => return None,
    };
    Some(SpecialField { kind, offset: field.offset, size: field.size })
}

/// Offset of the node in the objects of a list or tree.
fn node(field: &RecordField) -> Option<u32> {
    match field.target {
        skep_verifier::FieldTarget::Nodes { node, .. } => Some(node),
        _ => None,
    }
}
