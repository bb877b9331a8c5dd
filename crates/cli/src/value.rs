//! Typed bytes as JSON and back, by BTF: map keys and values, global variables.
//!
//! Shapes are bpftool's: a struct is an object with its members in order, an array an array, an array of `char` that
//! holds text a string, an enum its name where the value has one, a pointer a number. Bytes without BTF are an array of
//! `"0x…"` strings. Nothing is written beyond the type's size, and a member that JSON leaves out stays zero.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use skep_btf::{Btf, Enum, Int, Kind, Member, TypeData, TypeId};

use crate::input;

/// Nesting of types that is followed; BTF refuses deeper ones, and arrays of arrays count too.
const MAX_DEPTH: u32 = 64;

/// Bytes without a type.
pub(crate) fn raw(bytes: &[u8]) -> Value {
    bytes.iter().map(|b| Value::String(format!("0x{b:02x}"))).collect()
}

/// The value of type `id` that `bytes` holds; bytes that are too short for the type are shown raw.
pub(crate) fn to_json(btf: &Btf, id: TypeId, bytes: &[u8]) -> Value {
    decode(btf, id, bytes, 0).unwrap_or_else(|| raw(bytes))
}

fn decode(btf: &Btf, id: TypeId, bytes: &[u8], depth: u32) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    let id = match btf.get(id)?.data {
        TypeData::Var { ty, .. } => btf.resolve(ty),
        _ => btf.resolve(id),
    };
    let size = usize::try_from(btf.size_of(id).ok()?).ok()?;
    let bytes = bytes.get(..size)?;
    Some(match &btf.get(id)?.data {
        TypeData::Int(int) => int_json(int, bytes)?,
        TypeData::Enum(kinds) | TypeData::Enum64(kinds) => enum_json(btf, kinds, bytes)?,
        TypeData::Float { .. } => match bytes.len() {
            4 => json!(f32::from_le_bytes(bytes.try_into().ok()?)),
            8 => json!(f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => raw(bytes),
        },
        TypeData::Ptr(_) => json!(unsigned(bytes)?),
        TypeData::Array(array) => {
            let element = usize::try_from(btf.size_of(array.elem).ok()?).ok()?;
            if let Some(text) = text_of(btf, array.elem, bytes) {
                return Some(Value::String(text));
            }
            if element == 0 {
                return Some(json!([]));
            }
            bytes.chunks(element).map(|chunk| decode(btf, array.elem, chunk, depth + 1)).collect::<Option<Value>>()?
        }
        TypeData::Struct(_) | TypeData::Union(_) => {
            let mut object = Map::new();
            for (index, (name, member)) in btf.members(id).enumerate() {
                let value = member_json(btf, member, bytes, depth)?;
                match value {
                    // Members of an anonymous struct or union are named in the outer one.
                    Value::Object(inner) if name.is_empty() => object.extend(inner),
                    value if name.is_empty() => drop(object.insert(format!("(anon {index})"), value)),
                    value => drop(object.insert(name.to_owned(), value)),
                }
            }
            Value::Object(object)
        }
        TypeData::DataSec(_) => {
            let mut list = Vec::new();
            for (name, var) in btf.data_sec_vars(id) {
                let at = usize::try_from(var.offset).ok()?;
                let end = at.checked_add(usize::try_from(var.size).ok()?)?;
                let value = to_json(btf, var.ty, bytes.get(at..end)?);
                list.push(json!({ name: value }));
            }
            Value::Array(list)
        }
        _ => raw(bytes),
    })
}

fn member_json(btf: &Btf, member: &Member, bytes: &[u8], depth: u32) -> Option<Value> {
    if member.bitfield_size == 0 {
        let at = usize::try_from(member.bit_offset / 8).ok()?;
        return decode(btf, member.ty, bytes.get(at..)?, depth + 1);
    }
    let (value, width) = (bits(bytes, member.bit_offset, member.bitfield_size)?, member.bitfield_size);
    match &btf.get(btf.resolve(member.ty))?.data {
        TypeData::Int(int) if int.is_bool() => Some(json!(value != 0)),
        TypeData::Int(int) if int.is_signed() => Some(json!(sign_extend(value, width))),
        TypeData::Enum(kinds) | TypeData::Enum64(kinds) => Some(named(btf, kinds, value, width)),
        _ => Some(json!(value)),
    }
}

/// `width` bits (at most 64) from bit `offset` on, little-endian.
fn bits(bytes: &[u8], offset: u32, width: u8) -> Option<u64> {
    let mut value = 0;
    for i in 0..u32::from(width).min(64) {
        let bit = offset.checked_add(i)?;
        let byte = bytes.get(usize::try_from(bit / 8).ok()?)?;
        value |= u64::from(byte >> (bit % 8) & 1) << i;
    }
    Some(value)
}

/// The signed number in the low `width` bits.
fn sign_extend(value: u64, width: u8) -> i64 {
    let shift = 64 - u32::from(width.clamp(1, 64));
    (value << shift).cast_signed() >> shift
}

fn unsigned(bytes: &[u8]) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

fn int_json(int: &Int, bytes: &[u8]) -> Option<Value> {
    let Some(value) = unsigned(bytes) else {
        // 128 bits: JSON numbers do not reach so far.
        let wide = u128::from_le_bytes(bytes.try_into().ok()?);
        return Some(json!(format!("0x{wide:x}")));
    };
    let width = u8::try_from(bytes.len() * 8).ok()?;
    Some(if int.is_bool() {
        json!(value != 0)
    } else if int.is_signed() {
        json!(sign_extend(value, width))
    } else {
        json!(value)
    })
}

fn enum_json(btf: &Btf, kinds: &Enum, bytes: &[u8]) -> Option<Value> {
    Some(named(btf, kinds, unsigned(bytes)?, u8::try_from(bytes.len() * 8).ok()?))
}

fn named(btf: &Btf, kinds: &Enum, value: u64, width: u8) -> Value {
    let low = |v: u64| if width >= 64 { v } else { v & ((1 << width) - 1) };
    match kinds.values.iter().find(|v| low(v.value) == low(value)) {
        Some(found) => json!(btf.str_at(found.name)),
        None if kinds.signed => json!(sign_extend(value, width)),
        None => json!(value),
    }
}

/// The text in an array of `char`: printable up to a first NUL, and only NULs behind it.
fn text_of(btf: &Btf, element: TypeId, bytes: &[u8]) -> Option<String> {
    let element = btf.resolve(element);
    let TypeData::Int(int) = &btf.get(element)?.data else { return None };
    if int.size != 1 || btf.name(element) != "char" {
        return None;
    }
    let end = bytes.iter().position(|b| *b == 0)?;
    let (text, rest) = bytes.split_at(end);
    let is_text = text.iter().all(|b| (b' '..=b'~').contains(b)) && rest.iter().all(|b| *b == 0);
    is_text.then(|| String::from_utf8_lossy(text).into_owned())
}

/// The bytes of the value of type `id` that `json` describes; shapes as [`to_json`] writes them.
pub(crate) fn from_json(btf: &Btf, id: TypeId, json: &Value) -> Result<Vec<u8>> {
    let size = usize::try_from(btf.size_of(id)?)?;
    let mut bytes = vec![0; size];
    encode(btf, id, json, &mut bytes, 0)?;
    Ok(bytes)
}

/// `size` bytes given as a list of numbers or `"0x…"` strings, or as one string of hex bytes.
pub(crate) fn raw_from_json(json: &Value, size: usize) -> Result<Vec<u8>> {
    let bytes = match json {
        Value::String(text) => input::parse_hex(text)?,
        Value::Array(items) => items.iter().map(|item| Ok(u8::try_from(integer(item)?)?)).collect::<Result<_>>()?,
        other => bail!("{other} is not a list of bytes"),
    };
    if bytes.len() != size {
        bail!("{} bytes given, {size} needed", bytes.len());
    }
    Ok(bytes)
}

/// A number, or a string that C would take as a number.
fn integer(json: &Value) -> Result<i128> {
    match json {
        Value::Number(number) => {
            let value = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            value.with_context(|| format!("{number} is not an integer"))
        }
        Value::String(text) => input::parse_integer(text),
        Value::Bool(value) => Ok(i128::from(*value)),
        other => bail!("{other} is not a number"),
    }
}

fn encode(btf: &Btf, id: TypeId, json: &Value, out: &mut [u8], depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("type nested too deeply");
    }
    let id = btf.resolve(id);
    match &btf.ty(id)?.data {
        TypeData::Int(int) => put(out, integer(json)?, int.is_signed()),
        TypeData::Ptr(_) => put(out, integer(json)?, false),
        TypeData::Enum(kinds) | TypeData::Enum64(kinds) => put(out, enum_value(btf, kinds, json)?, kinds.signed),
        TypeData::Array(array) => {
            let element = usize::try_from(btf.size_of(array.elem)?)?;
            if let Value::String(text) = json
                && element == 1
            {
                if text.len() > out.len() {
                    bail!("{text:?} has {} bytes, {} fit", text.len(), out.len());
                }
                out[..text.len()].copy_from_slice(text.as_bytes());
                return Ok(());
            }
            let Value::Array(items) = json else { bail!("{json} is not an array") };
            if element == 0 || items.len() > out.len() / element {
                bail!("{} elements given, the array has {}", items.len(), array.nelems);
            }
            for (index, (item, chunk)) in items.iter().zip(out.chunks_mut(element)).enumerate() {
                encode(btf, array.elem, item, chunk, depth + 1).with_context(|| format!("element {index}"))?;
            }
            Ok(())
        }
        TypeData::Struct(_) | TypeData::Union(_) => {
            let Value::Object(object) = json else { bail!("{json} is not an object") };
            for (name, value) in object {
                let member = btf.find_member(id, name).with_context(|| {
                    let known: Vec<&str> = btf.members(id).map(|(name, _)| name).collect();
                    format!("no member {name:?}; there are {}", known.join(", "))
                })?;
                let field = Field { offset: member.bit_offset, bits: member.bitfield_size };
                field.encode(btf, member.ty, value, out, depth).with_context(|| format!("member {name}"))?;
            }
            Ok(())
        }
        _ => bail!("a value of kind {} cannot be given as JSON", btf.kind(id).as_str()),
    }
}

/// Where a member lies; `bits` is 0 for all but bit-fields.
struct Field {
    offset: u32,
    bits: u8,
}

impl Field {
    fn encode(&self, btf: &Btf, ty: TypeId, json: &Value, out: &mut [u8], depth: u32) -> Result<()> {
        if self.bits == 0 {
            let at = usize::try_from(self.offset / 8)?;
            let size = usize::try_from(btf.size_of(ty)?)?;
            let place = at.checked_add(size).and_then(|end| out.get_mut(at..end)).context("outside the struct")?;
            return encode(btf, ty, json, place, depth + 1);
        }
        let value = match &btf.ty(btf.resolve(ty))?.data {
            TypeData::Enum(kinds) | TypeData::Enum64(kinds) => enum_value(btf, kinds, json)?,
            _ => integer(json)?,
        };
        let range = -(1i128 << (self.bits - 1))..1i128 << self.bits;
        if !range.contains(&value) {
            bail!("{value} does not fit in {} bits", self.bits);
        }
        for i in 0..u32::from(self.bits) {
            let bit = self.offset + i;
            let byte = out.get_mut(usize::try_from(bit / 8)?).context("outside the struct")?;
            let mask = 1 << (bit % 8);
            if value >> i & 1 == 1 { *byte |= mask } else { *byte &= !mask }
        }
        Ok(())
    }
}

fn enum_value(btf: &Btf, kinds: &Enum, json: &Value) -> Result<i128> {
    if let Value::String(text) = json
        && let Some(found) = kinds.values.iter().find(|v| btf.str_at(v.name) == text)
    {
        return Ok(if kinds.signed { i128::from(found.value.cast_signed()) } else { i128::from(found.value) });
    }
    integer(json)
}

/// Stores `value` in all of `out`, if it fits the signed or the unsigned range of that size.
fn put(out: &mut [u8], value: i128, signed: bool) -> Result<()> {
    let bits = out.len() * 8;
    if bits == 0 || bits > 128 {
        bail!("an integer of {} bytes cannot be given as JSON", out.len());
    }
    let fits = bits == 128 || (value >= -(1i128 << (bits - 1)) && value < 1i128 << bits);
    if !fits || (value < 0 && !signed) {
        bail!("{value} does not fit in {} {} bytes", if signed { "signed" } else { "unsigned" }, out.len());
    }
    out.copy_from_slice(&value.to_le_bytes()[..out.len()]);
    Ok(())
}

/// Whether keys or values of this type are worth more than raw bytes.
pub(crate) fn is_typed(btf: &Btf, id: TypeId) -> bool {
    !id.is_void() && btf.kind(btf.resolve(id)) != Kind::Void
}
