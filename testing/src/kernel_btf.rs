//! An object's types in the form that BPF_BTF_LOAD takes, and the kernel's own types.
//!
//! A compiler describes what the object only declares (kernel functions, configuration variables) in ways that the kernel
//! refuses. Invariant: no type changes its id. Kernel counterpart: `bpf_object__sanitize_btf` and
//! `bpf_object__resolve_externs`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use skep_btf::{Btf, Builder, Int, Kind, Linkage, TypeData, TypeId};

/// The bytes to load; `None` if the types cannot be written.
#[must_use]
pub fn for_kernel(btf: &Btf) -> Option<Vec<u8>> {
    let mut types = btf.clone().into_builder();
    let dummy = types.string("skep_dummy").ok()?;
    let argument = types.string("arg").ok()?;
    let placeholder = TypeData::Int(Int { size: 4, encoding: 0, offset: 0, bits: 32 });
    let mut protos = BTreeSet::new();
    for id in ids(&types) {
        let section = [".ksyms", ".kconfig"].contains(&btf.name(id));
        let Some(ty) = types.get_mut(id) else { continue };
        match &mut ty.data {
            // Functions of the kernel: theirs are the prototypes whose parameters may have no names.
            TypeData::Func { proto, linkage } if *linkage == Linkage::Extern => {
                *linkage = Linkage::Global;
                protos.insert(*proto);
            }
            TypeData::Var { linkage, .. } if *linkage == Linkage::Extern => *linkage = Linkage::Global,
            TypeData::DataSec(_) if section => {
                ty.name = dummy;
                ty.data = placeholder.clone();
            }
            _ => {}
        }
    }
    for id in protos {
        let Some(TypeData::FuncProto(proto)) = types.get_mut(id).map(|ty| &mut ty.data) else { continue };
        for param in &mut proto.params {
            if param.name.0 == 0 && !param.ty.is_void() {
                param.name = argument;
            }
        }
    }
    types.to_bytes().ok()
}

fn ids(types: &Builder) -> Vec<TypeId> {
    types.types().map(|(id, _)| id).collect()
}

/// The id of a function of the running kernel, as a call of it names it.
#[must_use]
pub fn kernel_function(name: &str) -> Option<TypeId> {
    static KERNEL: OnceLock<Option<Btf>> = OnceLock::new();
    let read = || Btf::parse(&std::fs::read("/sys/kernel/btf/vmlinux").ok()?).ok();
    KERNEL.get_or_init(read).as_ref()?.find(name, Kind::Func)
}
