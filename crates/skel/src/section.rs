//! Data sections as structs: which variables, where, and what lies between them.
//!
//! Owns the layout that both languages share. Invariant: fields are in order of offset and do not overlap; static
//! variables are left out, since two files may have one of the same name. Kernel counterpart: `codegen_datasec_def`,
//! tools/bpf/bpftool/gen.c, 6.18.

use skep_btf::{Linkage, TypeId};
use skep_object::{MapKind, MapSpec, ObjectSpec};

use crate::error::{Error, Result};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// A variable in a section.
pub(crate) struct Field {
    /// The name in the object.
    pub(crate) name: String,
    pub(crate) ty: TypeId,
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

/// Whether user space sees the map's variables: it maps the section's memory, or holds the per-CPU image.
pub(crate) fn is_visible(map: &MapSpec) -> bool {
    map.kind == MapKind::PerCpu || (map.kind.is_internal() && map.map_flags & MMAPABLE != 0)
}

/// The variables of a section that have a name outside the object.
pub(crate) fn fields(object: &ObjectSpec, index: usize, map: &MapSpec) -> Result<Vec<Field>> {
    let mut out: Vec<Field> = Vec::new();
    let mut end = 0;
    let externs = object.externs.iter().filter_map(|e| match e.kind {
        skep_object::ExternKind::Kconfig { map, offset, size, type_id, .. } if map == index => {
            Some((&e.name, offset, size, Some(type_id)))
        }
        _ => None,
    });
    let variables = object.variables.iter().filter(|v| v.map == index && v.linkage != Linkage::Static);
    let mut all: Vec<_> = variables.map(|v| (&v.name, v.offset, v.size, v.type_id)).chain(externs).collect();
    all.sort_by_key(|&(_, offset, ..)| offset);
    for (name, offset, size, type_id) in all {
        let ty = type_id.ok_or_else(|| Error::NoTypes { section: map.name.clone() })?;
        if offset < end {
            return Err(Error::Overlap { variable: name.clone(), section: map.name.clone() });
        }
        end = offset.saturating_add(size);
        out.push(Field { name: name.clone(), ty, offset, size });
    }
    Ok(out)
}
