//! Types to bytes.
//!
//! Owns the writing half of the wire format. Invariant: `parse` of what this writes gives the same types and strings,
//! and for well-formed input the same bytes. Kernel counterpart: none; libbpf's `btf__raw_data` does the same.

use crate::error::{Error, Result};
use crate::strings::Strings;
use crate::types::{Composite, Enum, Kind, Type, TypeData, TypeId};

/// Serialises types (without `void`) and strings as a `.BTF` section.
pub(crate) fn write(types: &[Type], strings: &Strings) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for ty in types {
        write_type(&mut body, ty)?;
    }
    let type_len = length("bytes of types", body.len())?;
    let str_len = length("bytes of strings", strings.as_bytes().len())?;
    let mut out = Vec::with_capacity(body.len().saturating_add(strings.as_bytes().len()).saturating_add(24));
    out.extend_from_slice(&[0x9f, 0xeb, 1, 0]);
    for word in [24, 0, type_len, type_len, str_len] {
        word32(&mut out, word);
    }
    out.append(&mut body);
    out.extend_from_slice(strings.as_bytes());
    Ok(out)
}

fn length(what: &'static str, len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::TooLarge { what, have: len, max: u32::MAX as usize })
}

fn word32(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_le_bytes());
}

fn write_type(out: &mut Vec<u8>, ty: &Type) -> Result<()> {
    let record = |out: &mut Vec<u8>, vlen: u32, flag: bool, word: u32| {
        word32(out, ty.name.0);
        word32(out, u32::from(flag) << 31 | (ty.kind() as u32) << 24 | vlen);
        word32(out, word);
    };
    let plain = |out: &mut Vec<u8>, id: &TypeId| record(out, 0, false, id.0);
    match &ty.data {
        TypeData::Void => return Err(Error::Internal("void has no record")),
        TypeData::Int(int) => {
            record(out, 0, false, int.size);
            out.extend_from_slice(&[int.bits, 0, int.offset, int.encoding]);
        }
        TypeData::Ptr(id)
        | TypeData::Typedef(id)
        | TypeData::Volatile(id)
        | TypeData::Const(id)
        | TypeData::Restrict(id) => plain(out, id),
        TypeData::TypeTag { ty, attribute } => record(out, 0, *attribute, ty.0),
        TypeData::Array(array) => {
            record(out, 0, false, 0);
            for word in [array.elem.0, array.index.0, array.nelems] {
                word32(out, word);
            }
        }
        TypeData::Struct(composite) | TypeData::Union(composite) => {
            record(out, vlen(composite.members.len())?, composite.kind_flag, composite.size);
            write_members(out, composite)?;
        }
        TypeData::Enum(e) | TypeData::Enum64(e) => {
            record(out, vlen(e.values.len())?, e.signed, e.size);
            write_values(out, e, ty.kind() == Kind::Enum64);
        }
        TypeData::Fwd { is_union } => record(out, 0, *is_union, 0),
        TypeData::Func { proto, linkage } => record(out, linkage.number(), false, proto.0),
        TypeData::FuncProto(proto) => {
            record(out, vlen(proto.params.len())?, false, proto.ret.0);
            for param in &proto.params {
                word32(out, param.name.0);
                word32(out, param.ty.0);
            }
        }
        TypeData::Var { ty, linkage } => {
            record(out, 0, false, ty.0);
            word32(out, linkage.number());
        }
        TypeData::DataSec(sec) => {
            record(out, vlen(sec.vars.len())?, false, sec.size);
            for var in &sec.vars {
                for word in [var.ty.0, var.offset, var.size] {
                    word32(out, word);
                }
            }
        }
        TypeData::Float { size } => record(out, 0, false, *size),
        TypeData::DeclTag { ty, component, attribute } => {
            record(out, 0, *attribute, ty.0);
            word32(out, component.cast_unsigned());
        }
    }
    Ok(())
}

fn vlen(count: usize) -> Result<u32> {
    const MAX: usize = 0xffff;
    match u32::try_from(count) {
        Ok(vlen) if count <= MAX => Ok(vlen),
        _ => Err(Error::TooLarge { what: "entries in one type", have: count, max: MAX }),
    }
}

fn write_members(out: &mut Vec<u8>, composite: &Composite) -> Result<()> {
    for member in &composite.members {
        word32(out, member.name.0);
        word32(out, member.ty.0);
        let word = if composite.kind_flag {
            if member.bit_offset > 0x00ff_ffff {
                return Err(Error::TooLarge {
                    what: "bits before a member beside bit-fields",
                    have: member.bit_offset as usize,
                    max: 0x00ff_ffff,
                });
            }
            u32::from(member.bitfield_size) << 24 | member.bit_offset
        } else if member.bitfield_size != 0 {
            return Err(Error::Internal("a bit-field in a struct without its kind flag"));
        } else {
            member.bit_offset
        };
        word32(out, word);
    }
    Ok(())
}

fn write_values(out: &mut Vec<u8>, e: &Enum, wide: bool) {
    for value in &e.values {
        word32(out, value.name.0);
        let bytes = value.value.to_le_bytes();
        out.extend_from_slice(if wide { &bytes } else { &bytes[..4] });
    }
}
