//! Types in the form that BPF_BTF_LOAD takes.
//!
//! A compiler describes what the object only declares (kernel functions, configuration variables) in ways that the kernel
//! refuses. Invariant: no type changes its id. Kernel counterpart: `bpf_object__sanitize_btf` and
//! `bpf_object__resolve_externs`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::graph::Btf;
use crate::types::{Int, Linkage, TypeData, TypeId};

impl Btf {
    /// The bytes of a `.BTF` section that the kernel takes.
    ///
    /// # Errors
    /// The types are too many to be written.
    pub fn to_kernel_bytes(&self) -> Result<Vec<u8>> {
        let mut types = self.clone().into_builder();
        let dummy = types.string("skep_dummy")?;
        let argument = types.string("arg")?;
        let placeholder = TypeData::Int(Int { size: 4, encoding: 0, offset: 0, bits: 32 });
        let mut protos = BTreeSet::new();
        for id in types.types().map(|(id, _)| id).collect::<Vec<TypeId>>() {
            let section = [".ksyms", ".kconfig"].contains(&self.name(id));
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
        types.to_bytes()
    }
}
