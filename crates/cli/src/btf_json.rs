//! BTF as bpftool's JSON: one object per type, in order of their ids.

use serde_json::{Map, Value, json};
use skep_btf::{Btf, Enum, Int, Type, TypeData, TypeId};

/// `{"types":[…]}`.
pub(crate) fn types(btf: &Btf) -> Value {
    let list: Vec<Value> = btf.types().map(|(id, ty)| Value::Object(one(btf, id, ty))).collect();
    json!({ "types": list })
}

fn one(btf: &Btf, id: TypeId, ty: &Type) -> Map<String, Value> {
    let mut out = Map::new();
    let name = |off| match btf.str_at(off) {
        "" => "(anon)",
        name => name,
    };
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    put("id", json!(id.0));
    put("kind", json!(ty.kind().as_str()));
    put("name", json!(name(ty.name)));
    match &ty.data {
        TypeData::Void => {}
        TypeData::Int(int) => {
            put("size", json!(int.size));
            put("bits_offset", json!(int.offset));
            put("nr_bits", json!(int.bits));
            put("encoding", json!(encoding(int.encoding)));
        }
        TypeData::Ptr(to)
        | TypeData::Typedef(to)
        | TypeData::Volatile(to)
        | TypeData::Const(to)
        | TypeData::Restrict(to)
        | TypeData::TypeTag { ty: to, .. } => put("type_id", json!(to.0)),
        TypeData::Array(array) => {
            put("type_id", json!(array.elem.0));
            put("index_type_id", json!(array.index.0));
            put("nr_elems", json!(array.nelems));
        }
        TypeData::Struct(composite) | TypeData::Union(composite) => {
            put("size", json!(composite.size));
            put("vlen", json!(composite.members.len()));
            let members = composite.members.iter().map(|m| {
                let mut member = json!({ "name": name(m.name), "type_id": m.ty.0, "bits_offset": m.bit_offset });
                if m.bitfield_size != 0 {
                    member["bitfield_size"] = json!(m.bitfield_size);
                }
                member
            });
            put("members", members.collect());
        }
        TypeData::Enum(kinds) | TypeData::Enum64(kinds) => {
            put("encoding", json!(if kinds.signed { "SIGNED" } else { "UNSIGNED" }));
            put("size", json!(kinds.size));
            put("vlen", json!(kinds.values.len()));
            put("values", enum_values(btf, kinds));
        }
        TypeData::Fwd { is_union } => put("fwd_kind", json!(if *is_union { "union" } else { "struct" })),
        TypeData::Func { proto, linkage } => {
            put("type_id", json!(proto.0));
            put("linkage", json!(linkage.as_str()));
        }
        TypeData::FuncProto(proto) => {
            put("ret_type_id", json!(proto.ret.0));
            put("vlen", json!(proto.params.len()));
            let params = proto.params.iter().map(|p| json!({ "name": name(p.name), "type_id": p.ty.0 }));
            put("params", params.collect());
        }
        TypeData::Var { ty, linkage } => {
            put("type_id", json!(ty.0));
            put("linkage", json!(linkage.as_str()));
        }
        TypeData::DataSec(section) => {
            put("size", json!(section.size));
            put("vlen", json!(section.vars.len()));
            let vars = section.vars.iter().map(|v| json!({ "type_id": v.ty.0, "offset": v.offset, "size": v.size }));
            put("vars", vars.collect());
        }
        TypeData::Float { size } => put("size", json!(size)),
        TypeData::DeclTag { ty, component, .. } => {
            put("type_id", json!(ty.0));
            put("component_idx", json!(component));
        }
    }
    out
}

fn enum_values(btf: &Btf, kinds: &Enum) -> Value {
    let value = |v: u64| if kinds.signed { json!(v.cast_signed()) } else { json!(v) };
    kinds.values.iter().map(|v| json!({ "name": btf.str_at(v.name), "val": value(v.value) })).collect()
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
