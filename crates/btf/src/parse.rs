//! Bytes to types.
//!
//! Owns the wire format: the header, and how each kind's record is laid out. Invariant: memory is bounded by the input's
//! size, and nothing but the layout is judged here; `check` judges what the records mean.
//! Kernel counterpart: `btf_parse_hdr`, `btf_check_all_metas`, kernel/bpf/btf.c, 6.18.

use crate::error::{Error, Result};
use crate::strings::Strings;
use crate::types::{
    Array, Composite, DataSec, Enum, EnumValue, FuncProto, Int, Kind, Linkage, Member, Param, SecVar, StrOff, Type,
    TypeData, TypeId,
};
use crate::{MAX_SIZE, MAX_STRINGS, MAX_TYPES};

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// The bits of `info` that mean something: kind flag, kind, vlen.
const INFO_MASK: u32 = 0x9f00_ffff;
/// The bits of an integer's word that mean something: encoding, offset, bits.
const INT_MASK: u32 = 0x0fff_00ff;

/// A cursor that never reads outside its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Offset of `bytes` in the whole input, for messages.
    base: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], base: usize, what: &'static str) -> Self {
        Self { bytes, pos: 0, base, what }
    }

    pub(crate) fn offset(&self) -> usize {
        self.base.saturating_add(self.pos)
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.pos)
    }

    pub(crate) fn take(&mut self, need: usize) -> Result<&'a [u8]> {
        let taken = self.pos.checked_add(need).and_then(|end| self.bytes.get(self.pos..end));
        let Some(taken) = taken else {
            return Err(Error::Truncated { what: self.what, offset: self.offset(), need, have: self.left() });
        };
        self.pos = self.pos.saturating_add(need);
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        match self.take(4)?.try_into() {
            Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
            Err(_) => Err(Error::Internal("a slice of four bytes is not four bytes")),
        }
    }

    fn id(&mut self) -> Result<TypeId> {
        Ok(TypeId(self.u32()?))
    }

    fn str_off(&mut self) -> Result<StrOff> {
        Ok(StrOff(self.u32()?))
    }
}

/// The two sections that a header frames.
struct Frame<'a> {
    types: &'a [u8],
    types_at: usize,
    strings: &'a [u8],
}

/// Parses a whole `.BTF`: types (without `void`) and strings, not yet checked for meaning.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vec<Type>, Strings)> {
    let frame = parse_header(bytes)?;
    let strings = Strings::parse(frame.strings, MAX_STRINGS)?;
    let mut reader = Reader::new(frame.types, frame.types_at, "a type record");
    // The smallest record is 12 bytes, so this reserves no more than a small multiple of the input.
    let mut types = Vec::with_capacity(frame.types.len() / 16);
    while reader.left() > 0 {
        if types.len() >= MAX_TYPES {
            return Err(Error::TooLarge { what: "types", have: types.len().saturating_add(1), max: MAX_TYPES });
        }
        let id = u32::try_from(types.len()).map_or(TypeId(u32::MAX), |n| TypeId(n.saturating_add(1)));
        types.push(parse_type(&mut reader, id)?);
    }
    Ok((types, strings))
}

fn parse_header(bytes: &[u8]) -> Result<Frame<'_>> {
    if bytes.len() > MAX_SIZE {
        return Err(Error::TooLarge { what: "bytes", have: bytes.len(), max: MAX_SIZE });
    }
    let header = |field, offset, why: String| Error::Header { field, offset, why };
    let mut reader = Reader::new(bytes, 0, "the header");
    let word = reader.u32()?;
    let [lo, hi, version, flags] = word.to_le_bytes();
    let magic = u16::from_le_bytes([lo, hi]);
    if magic == MAGIC.swap_bytes() {
        return Err(Error::BigEndian);
    }
    if magic != MAGIC {
        return Err(header("magic", 0, format!("{magic:#06x} instead of {MAGIC:#06x}")));
    }
    if version != 1 {
        return Err(header("version", 2, format!("{version} is not supported, only 1")));
    }
    if flags != 0 {
        return Err(header("flags", 3, format!("{flags:#x} is not supported, only 0")));
    }
    let hdr_len = reader.u32()? as usize;
    if hdr_len < HEADER_LEN {
        return Err(header("hdr_len", 4, format!("{hdr_len} is less than {HEADER_LEN}")));
    }
    let (type_off, type_len) = (reader.u32()? as usize, reader.u32()? as usize);
    let (str_off, str_len) = (reader.u32()? as usize, reader.u32()? as usize);
    let extra = reader.take(hdr_len.saturating_sub(HEADER_LEN))?;
    if let Some(at) = extra.iter().position(|&b| b != 0) {
        return Err(header("hdr_len", HEADER_LEN.saturating_add(at), "unknown header field is not zero".into()));
    }
    if type_off % 4 != 0 {
        return Err(header("type_off", 8, format!("{type_off} is not a multiple of 4")));
    }
    let section = |field, at, off: usize, len: usize| {
        let start = hdr_len.checked_add(off);
        let range = start.and_then(|start| Some((start, start.checked_add(len)?)));
        range
            .and_then(|(start, end)| Some((start, bytes.get(start..end)?)))
            .ok_or_else(|| header(field, at, format!("{len} bytes at {off:#x} end outside the {} given", bytes.len())))
    };
    let (types_at, types) = section("type_len", 12, type_off, type_len)?;
    let (strings_at, strings) = section("str_len", 20, str_off, str_len)?;
    let types_end = types_at.saturating_add(types.len());
    if types_end > strings_at {
        return Err(header("str_off", 16, format!("{str_off:#x} lies before the end of the types or inside them")));
    }
    if type_off != 0 || types_end != strings_at {
        return Err(header("str_off", 16, "unknown bytes between the header, the types and the strings".into()));
    }
    if strings_at.saturating_add(strings.len()) != bytes.len() {
        return Err(header("str_len", 20, "bytes after the strings".into()));
    }
    Ok(Frame { types, types_at, strings })
}

fn parse_type(reader: &mut Reader<'_>, id: TypeId) -> Result<Type> {
    let offset = reader.offset();
    let bad = |why: String| Error::Record { id, offset, why };
    let name = reader.str_off()?;
    let info = reader.u32()?;
    let word = reader.u32()?;
    if info & !INFO_MASK != 0 {
        return Err(bad(format!("info {info:#010x} has reserved bits set")));
    }
    let number = (info >> 24) & 0x1f;
    let kind = Kind::from_number(number).ok_or_else(|| bad(format!("unknown kind {number}")))?;
    let vlen = (info & 0xffff) as usize;
    let flag = info >> 31 != 0;
    let has_vlen = matches!(
        kind,
        Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::FuncProto | Kind::DataSec | Kind::Func
    );
    if !has_vlen && vlen != 0 {
        return Err(bad(format!("{kind} with vlen {vlen}, which must be 0")));
    }
    let has_flag = matches!(
        kind,
        Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Fwd | Kind::DeclTag | Kind::TypeTag
    );
    if !has_flag && flag {
        return Err(bad(format!("{kind} with its kind flag set")));
    }
    let data = match kind {
        Kind::Void => return Err(Error::Internal("a record of kind void")),
        Kind::Int => {
            let value = reader.u32()?;
            if value & !INT_MASK != 0 {
                return Err(bad(format!("INT with reserved bits set in {value:#010x}")));
            }
            let [bits, _, offset, encoding] = value.to_le_bytes();
            TypeData::Int(Int { size: word, encoding, offset, bits })
        }
        Kind::Ptr => TypeData::Ptr(TypeId(word)),
        Kind::Typedef => TypeData::Typedef(TypeId(word)),
        Kind::Volatile => TypeData::Volatile(TypeId(word)),
        Kind::Const => TypeData::Const(TypeId(word)),
        Kind::Restrict => TypeData::Restrict(TypeId(word)),
        Kind::TypeTag => TypeData::TypeTag { ty: TypeId(word), attribute: flag },
        Kind::Fwd | Kind::Array if word != 0 => return Err(bad(format!("{kind} with size {word}, which must be 0"))),
        Kind::Fwd => TypeData::Fwd { is_union: flag },
        Kind::Array => TypeData::Array(Array { elem: reader.id()?, index: reader.id()?, nelems: reader.u32()? }),
        Kind::Struct => TypeData::Struct(parse_composite(reader, word, vlen, flag)?),
        Kind::Union => TypeData::Union(parse_composite(reader, word, vlen, flag)?),
        Kind::Enum => TypeData::Enum(parse_enum(reader, word, vlen, flag, false)?),
        Kind::Enum64 => TypeData::Enum64(parse_enum(reader, word, vlen, flag, true)?),
        Kind::Func => {
            let linkage = linkage(vlen).ok_or_else(|| bad(format!("FUNC with linkage {vlen}")))?;
            TypeData::Func { proto: TypeId(word), linkage }
        }
        Kind::FuncProto => TypeData::FuncProto(FuncProto {
            ret: TypeId(word),
            params: entries(reader, vlen, 8, |r| Ok(Param { name: r.str_off()?, ty: r.id()? }))?,
        }),
        Kind::Var => {
            let number = reader.u32()?;
            let linkage = Linkage::from_number(number).ok_or_else(|| bad(format!("VAR with linkage {number}")))?;
            TypeData::Var { ty: TypeId(word), linkage }
        }
        Kind::DataSec => TypeData::DataSec(DataSec {
            size: word,
            vars: entries(reader, vlen, 12, |r| Ok(SecVar { ty: r.id()?, offset: r.u32()?, size: r.u32()? }))?,
        }),
        Kind::Float => TypeData::Float { size: word },
        Kind::DeclTag => {
            let component = i32::from_le_bytes(reader.u32()?.to_le_bytes());
            TypeData::DeclTag { ty: TypeId(word), component, attribute: flag }
        }
    };
    Ok(Type { name, data })
}

fn linkage(vlen: usize) -> Option<Linkage> {
    u32::try_from(vlen).ok().and_then(Linkage::from_number)
}

fn parse_composite(reader: &mut Reader<'_>, size: u32, vlen: usize, kind_flag: bool) -> Result<Composite> {
    let members = entries(reader, vlen, 12, |r| {
        let (name, ty, word) = (r.str_off()?, r.id()?, r.u32()?);
        let (bit_offset, bitfield_size) =
            if kind_flag { (word & 0x00ff_ffff, word.to_le_bytes()[3]) } else { (word, 0) };
        Ok(Member { name, ty, bit_offset, bitfield_size })
    })?;
    Ok(Composite { size, members, kind_flag })
}

fn parse_enum(reader: &mut Reader<'_>, size: u32, vlen: usize, signed: bool, wide: bool) -> Result<Enum> {
    let values = entries(reader, vlen, if wide { 12 } else { 8 }, |r| {
        let (name, low) = (r.str_off()?, r.u32()?);
        let value = if wide {
            u64::from(low) | (u64::from(r.u32()?) << 32)
        } else if signed {
            i64::from(low.cast_signed()).cast_unsigned()
        } else {
            u64::from(low)
        };
        Ok(EnumValue { name, value })
    })?;
    Ok(Enum { size, signed, values })
}

/// `count` entries of `size` bytes each; refuses before it reserves memory for what is not there.
fn entries<'a, T>(
    reader: &mut Reader<'a>,
    count: usize,
    size: usize,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let need = count.saturating_mul(size);
    if need > reader.left() {
        return Err(Error::Truncated { what: "a type's entries", offset: reader.offset(), need, have: reader.left() });
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(one(reader)?);
    }
    Ok(out)
}
