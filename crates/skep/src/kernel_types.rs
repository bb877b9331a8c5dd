//! The kernel structures that this engine has, as types that CO-RE relocations are resolved against.
//!
//! Whatever kernel an object's `vmlinux.h` came from, its accesses to these structures are moved to where this engine keeps
//! the fields. Invariant: the types say what [`KERNEL_STRUCTS`] says. Kernel counterpart: the kernel's own BTF.

use std::sync::OnceLock;

use skep_abi::ctx::{BPF_MAP_ELEM, CtxFieldKind, KERNEL_STRUCTS, KernelFieldKind, kernel_struct};
use skep_btf::{Array, Btf, Builder, Composite, Enum, Int, Member, Rules, TypeData, TypeId};

/// The types; `None` only if they cannot be built, which a test excludes.
pub(crate) fn kernel_types() -> Option<&'static Btf> {
    static TYPES: OnceLock<Option<Btf>> = OnceLock::new();
    TYPES.get_or_init(|| build().ok()).as_ref()
}

/// Whether a type of this name, without its flavour, is one of them.
pub(crate) fn is_kernel_type(name: &str) -> bool {
    name == BPF_MAP_ELEM.btf_name || kernel_struct(name).is_some()
}

fn build() -> skep_btf::Result<Btf> {
    let mut types = Builder::new();
    let int = |types: &mut Builder, name: &str, size: u32, encoding: u8| {
        types.add(name, TypeData::Int(Int { size, encoding, offset: 0, bits: u8::try_from(size * 8).unwrap_or(64) }))
    };
    let word = int(&mut types, "unsigned int", 4, 0)?;
    let long = int(&mut types, "unsigned long long", 8, 0)?;
    let char = int(&mut types, "char", 1, Int::SIGNED)?;
    let void_ptr = types.add("", TypeData::Ptr(TypeId::VOID))?;
    // The structs come first, empty, so that pointers between them have something to point to.
    let mut structs = Vec::new();
    for known in KERNEL_STRUCTS {
        structs.push(add_struct(&mut types, known.name, known.size)?);
    }
    let pointer_to = |types: &mut Builder, name: &str| match kernel_struct(name) {
        Some((index, _)) => types.add("", TypeData::Ptr(structs[index as usize])),
        None => Ok(void_ptr),
    };
    for (known, &id) in KERNEL_STRUCTS.iter().zip(&structs) {
        for field in known.fields {
            let ty = match field.kind {
                KernelFieldKind::Unsigned if field.size == 4 => word,
                KernelFieldKind::Unsigned => long,
                KernelFieldKind::Enum(name) => {
                    types.add(name, TypeData::Enum(Enum { size: field.size, signed: false, values: Vec::new() }))?
                }
                KernelFieldKind::Text => {
                    types.add("", TypeData::Array(Array { elem: char, index: word, nelems: field.size }))?
                }
                KernelFieldKind::Pointer(to) => pointer_to(&mut types, to)?,
            };
            add_member(&mut types, id, field.name, field.offset, ty)?;
        }
    }
    let context = add_struct(&mut types, &BPF_MAP_ELEM.btf_name, BPF_MAP_ELEM.size)?;
    for field in BPF_MAP_ELEM.fields.iter() {
        let ty = match field.kind {
            CtxFieldKind::Btf(name) => pointer_to(&mut types, name)?,
            _ => void_ptr,
        };
        add_member(&mut types, context, field.name, u32::from(field.offset), ty)?;
    }
    types.finish(Rules::Object)
}

fn add_struct(types: &mut Builder, name: &str, size: u32) -> skep_btf::Result<TypeId> {
    types.add(name, TypeData::Struct(Composite { size, members: Vec::new(), kind_flag: false }))
}

fn add_member(types: &mut Builder, id: TypeId, name: &str, offset: u32, ty: TypeId) -> skep_btf::Result<()> {
    let name = types.string(name)?;
    if let Some(TypeData::Struct(composite)) = types.get_mut(id).map(|ty| &mut ty.data) {
        composite.members.push(Member { name, ty, bit_offset: offset * 8, bitfield_size: 0 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_say_what_the_table_says() {
        let types = kernel_types().expect("they can be built");
        for known in KERNEL_STRUCTS {
            let id = types.find(known.name, skep_btf::Kind::Struct).expect("each struct");
            assert_eq!(types.size_of(id).ok(), Some(known.size));
            for field in known.fields {
                let member = types.find_member(id, field.name).expect("each field");
                assert_eq!(member.bit_offset, field.offset * 8, "{}", field.name);
                assert_eq!(types.size_of(member.ty).ok(), Some(field.size), "{}", field.name);
            }
        }
    }
}
