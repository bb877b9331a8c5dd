//! Symbols that the object expects from the kernel.
//!
//! Owns the table of externs by symbol. Invariant: an extern is declared in BTF's `.kconfig` or `.ksyms`; an undefined
//! symbol that is not is an error where it is used. Kernel counterpart: `bpf_object__collect_externs`,
//! `bpf_object__resolve_externs`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::HashMap;

use skep_btf::{Btf, TypeData, TypeId};

use crate::elf::Elf;
use crate::spec::{ExternKind, ExternSpec, KsymRef, MapSpec};
use crate::types::{KCONFIG, KSYMS};

/// What an undefined symbol is.
#[derive(Debug, Clone)]
pub(crate) enum Extern {
    /// A configuration value: its offset in the map, and the map's index.
    Kconfig { map: usize, offset: u32 },
    /// A kernel function.
    Func(KsymRef),
    /// A kernel variable.
    Var(KsymRef),
}

/// The externs by name.
#[derive(Debug, Default)]
pub(crate) struct Externs {
    by_name: HashMap<String, Extern>,
    pub(crate) specs: Vec<ExternSpec>,
}

impl Externs {
    pub(crate) fn get(&self, name: &str) -> Option<&Extern> {
        self.by_name.get(name)
    }

    /// Collects the externs; `kconfig` is the index that the `.kconfig` map has in `maps`.
    pub(crate) fn collect(elf: &Elf<'_>, btf: Option<&Btf>, kconfig: Option<usize>, maps: &mut [MapSpec]) -> Self {
        let mut out = Self::default();
        let Some(btf) = btf else { return out };
        let weak: HashMap<&str, bool> =
            elf.symbols.iter().filter(|s| s.is_undefined && !s.name.is_empty()).map(|s| (s.name, s.is_weak)).collect();
        if let (Some((sec, _)), Some(map)) = (btf.data_sec(KCONFIG), kconfig) {
            for (name, var) in btf.data_sec_vars(sec) {
                let Some(TypeData::Var { ty, .. }) = btf.get(var.ty).map(|ty| &ty.data) else { continue };
                let is_weak = weak.get(name).copied().unwrap_or(false);
                let is_set = maps.get_mut(map).is_some_and(|map| set_builtin(map, name, var.offset, var.size));
                let kind = ExternKind::Kconfig { map, offset: var.offset, size: var.size, type_id: *ty, is_set };
                out.specs.push(ExternSpec { name: name.to_owned(), is_weak, kind });
                out.by_name.insert(name.to_owned(), Extern::Kconfig { map, offset: var.offset });
            }
        }
        if let Some((sec, _)) = btf.data_sec(KSYMS) {
            for (name, var) in btf.data_sec_vars(sec) {
                let is_weak = weak.get(name).copied().unwrap_or(false);
                let plain = name.split_once("___").map_or(name, |(plain, _)| plain).to_owned();
                let (kind, found) = match btf.get(var.ty).map(|ty| &ty.data) {
                    Some(TypeData::Func { .. }) => {
                        let ksym = KsymRef { name: plain, type_id: Some(var.ty), is_weak, is_func: true };
                        (ExternKind::Func, Extern::Func(ksym))
                    }
                    Some(TypeData::Var { ty, .. }) => {
                        let type_id = Some(var.ty).filter(|_| btf.resolve(*ty) != TypeId::VOID);
                        (ExternKind::Var, Extern::Var(KsymRef { name: plain, type_id, is_weak, is_func: false }))
                    }
                    _ => continue,
                };
                out.specs.push(ExternSpec { name: name.to_owned(), is_weak, kind });
                out.by_name.insert(name.to_owned(), found);
            }
        }
        out
    }
}

/// The values that libbpf makes up itself: the version whose behaviour skep has, and what that version can do.
fn set_builtin(map: &mut MapSpec, name: &str, offset: u32, size: u32) -> bool {
    let value: u64 = match name {
        "LINUX_KERNEL_VERSION" => (6 << 16) | (18 << 8),
        "LINUX_HAS_BPF_COOKIE" | "LINUX_HAS_SYSCALL_WRAPPER" => 1,
        _ => return false,
    };
    let bytes = value.to_le_bytes();
    let range = offset as usize..(offset as usize).saturating_add(size as usize);
    match (map.image.get_mut(range), bytes.get(..size as usize)) {
        (Some(place), Some(value)) => {
            place.copy_from_slice(value);
            true
        }
        _ => false,
    }
}
