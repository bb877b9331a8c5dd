//! The raw format: one line for a type, one for each of its entries.
//!
//! Owns the text of `bpftool btf dump file X format raw`. Invariant: byte for byte what bpftool prints for the same
//! BTF, except that control characters in names are escaped. Kernel counterpart: `dump_btf_type`,
//! tools/bpf/bpftool/btf.c, 6.18.

use std::fmt::{self, Write as _};

use crate::graph::Btf;
use crate::types::{Enum, Int, Kind, StrOff, Type, TypeData, TypeId};

/// All types in bpftool's raw format.
#[must_use]
pub fn raw_dump(btf: &Btf) -> String {
    let mut out = String::new();
    for (id, ty) in btf.types() {
        // Writing to a string cannot fail.
        let _ = write_type(&mut out, btf, id, ty);
    }
    out
}

/// A name as the format shows it.
struct Name<'a>(&'a Btf, StrOff);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.str_at(self.1) {
            "" => f.write_str("(anon)"),
            name => name
                .chars()
                .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }),
        }
    }
}

fn write_type(out: &mut String, btf: &Btf, id: TypeId, ty: &Type) -> fmt::Result {
    let name = |off| Name(btf, off);
    write!(out, "[{id}] {} '{}'", ty.kind(), name(ty.name))?;
    match &ty.data {
        TypeData::Void => {}
        TypeData::Int(int) => write!(
            out,
            " size={} bits_offset={} nr_bits={} encoding={}",
            int.size,
            int.offset,
            int.bits,
            encoding(int.encoding)
        )?,
        TypeData::Ptr(to)
        | TypeData::Typedef(to)
        | TypeData::Volatile(to)
        | TypeData::Const(to)
        | TypeData::Restrict(to)
        | TypeData::TypeTag { ty: to, .. } => write!(out, " type_id={to}")?,
        TypeData::Array(a) => write!(out, " type_id={} index_type_id={} nr_elems={}", a.elem, a.index, a.nelems)?,
        TypeData::Struct(composite) | TypeData::Union(composite) => {
            write!(out, " size={} vlen={}", composite.size, composite.members.len())?;
            for m in &composite.members {
                write!(out, "\n\t'{}' type_id={} bits_offset={}", name(m.name), m.ty, m.bit_offset)?;
                if m.bitfield_size != 0 {
                    write!(out, " bitfield_size={}", m.bitfield_size)?;
                }
            }
        }
        TypeData::Enum(e) | TypeData::Enum64(e) => write_enum(out, btf, e, ty.kind() == Kind::Enum64)?,
        TypeData::Fwd { is_union } => write!(out, " fwd_kind={}", if *is_union { "union" } else { "struct" })?,
        TypeData::Func { proto, linkage } => write!(out, " type_id={proto} linkage={}", linkage.as_str())?,
        TypeData::FuncProto(proto) => {
            write!(out, " ret_type_id={} vlen={}", proto.ret, proto.params.len())?;
            for param in &proto.params {
                write!(out, "\n\t'{}' type_id={}", name(param.name), param.ty)?;
            }
        }
        TypeData::Var { ty, linkage } => write!(out, " type_id={ty}, linkage={}", linkage.as_str())?,
        TypeData::DataSec(sec) => {
            write!(out, " size={} vlen={}", sec.size, sec.vars.len())?;
            for var in &sec.vars {
                write!(out, "\n\ttype_id={} offset={} size={}", var.ty, var.offset, var.size)?;
                if let Some(ty) = btf.get(var.ty) {
                    write!(out, " ({} '{}')", ty.kind(), name(ty.name))?;
                }
            }
        }
        TypeData::Float { size } => write!(out, " size={size}")?,
        TypeData::DeclTag { ty, component, .. } => write!(out, " type_id={ty} component_idx={component}")?,
    }
    out.write_char('\n')
}

fn write_enum(out: &mut String, btf: &Btf, e: &Enum, wide: bool) -> fmt::Result {
    let encoding = if e.signed { "SIGNED" } else { "UNSIGNED" };
    write!(out, " encoding={encoding} size={} vlen={}", e.size, e.values.len())?;
    for value in &e.values {
        let suffix = match (wide, e.signed) {
            (false, _) => "",
            (true, true) => "LL",
            (true, false) => "ULL",
        };
        write!(out, "\n\t'{}' val=", Name(btf, value.name))?;
        if e.signed {
            write!(out, "{}{suffix}", value.value.cast_signed())?;
        } else {
            write!(out, "{}{suffix}", value.value)?;
        }
    }
    Ok(())
}

fn encoding(encoding: u8) -> &'static str {
    match encoding {
        0 => "(none)",
        Int::SIGNED => "SIGNED",
        Int::CHAR => "CHAR",
        Int::BOOL => "BOOL",
        _ => "UNKN",
    }
}
