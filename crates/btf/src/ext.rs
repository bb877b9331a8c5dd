//! `.BTF.ext`: what the compiler says about instructions.
//!
//! Owns function, line and CO-RE records, per section, as they stand in the object: offsets in bytes from the section's
//! start. Invariant: offsets are multiples of 8 and grow within a section, type ids and strings exist. Kernel
//! counterpart: `check_btf_func`, `check_btf_line`, kernel/bpf/verifier.c, and `bpf_core_relo`, 6.18.

use crate::error::{Error, Result, escaped};
use crate::graph::Btf;
use crate::parse::Reader;
use crate::types::{StrOff, TypeId};

const MAGIC: u16 = 0xeb9f;
/// Header bytes up to the end of the line information, which the oldest format has.
const MIN_HEADER: usize = 24;
/// Header bytes with the CO-RE records.
const CORE_HEADER: usize = 32;

/// The records of one ELF section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecInfo<T> {
    /// Name of the section with the instructions.
    pub section: String,
    /// The records, in the order of the file.
    pub records: Vec<T>,
}

/// Where a function starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FuncInfo {
    /// Its first instruction: in bytes from the section's start, or in slots once a program is linked.
    pub insn_off: u32,
    /// Its `FUNC`.
    pub type_id: TypeId,
}

/// Which source line an instruction comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineInfo {
    /// Its first instruction: in bytes from the section's start, or in slots once a program is linked.
    pub insn_off: u32,
    /// The file's name.
    pub file: StrOff,
    /// The text of the line.
    pub line: StrOff,
    /// Number of the line.
    pub line_num: u32,
    /// Number of the column.
    pub column: u32,
}

/// What a CO-RE relocation asks about the target's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreRelo {
    /// The instruction: in bytes from the section's start, or in slots once a program is linked.
    pub insn_off: u32,
    /// The type it starts from, in the object's BTF.
    pub type_id: TypeId,
    /// The access string, such as `0:1:2`.
    pub access: StrOff,
    /// The question; the number is kept where no kernel defines it.
    pub kind: CoreReloKind,
}

/// The question of a CO-RE relocation (`enum bpf_core_relo_kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CoreReloKind {
    /// Offset of a field in bytes.
    FieldByteOffset,
    /// Size of a field in bytes.
    FieldByteSize,
    /// Whether a field exists.
    FieldExists,
    /// Whether a field is signed.
    FieldSigned,
    /// Left shift that brings a bit-field to the top of 64 bits.
    FieldLshiftU64,
    /// Right shift that then brings it down.
    FieldRshiftU64,
    /// Id of the type in the object.
    TypeIdLocal,
    /// Id of the type in the target.
    TypeIdTarget,
    /// Whether the type exists.
    TypeExists,
    /// Size of the type.
    TypeSize,
    /// Whether the enumerator exists.
    EnumvalExists,
    /// Value of the enumerator.
    EnumvalValue,
    /// Whether the type exists with matching members.
    TypeMatches,
    /// A number that has no meaning here.
    Unknown(u32),
}

impl CoreReloKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        const KINDS: [CoreReloKind; 13] = [
            CoreReloKind::FieldByteOffset,
            CoreReloKind::FieldByteSize,
            CoreReloKind::FieldExists,
            CoreReloKind::FieldSigned,
            CoreReloKind::FieldLshiftU64,
            CoreReloKind::FieldRshiftU64,
            CoreReloKind::TypeIdLocal,
            CoreReloKind::TypeIdTarget,
            CoreReloKind::TypeExists,
            CoreReloKind::TypeSize,
            CoreReloKind::EnumvalExists,
            CoreReloKind::EnumvalValue,
            CoreReloKind::TypeMatches,
        ];
        KINDS.get(number as usize).copied().unwrap_or(Self::Unknown(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Unknown(number) => number,
            known => (0..13).find(|&number| Self::from_number(number) == known).unwrap_or(0),
        }
    }

    /// The kernel's short name, as it prints relocations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FieldByteOffset => "byte_off",
            Self::FieldByteSize => "byte_sz",
            Self::FieldExists => "field_exists",
            Self::FieldSigned => "signed",
            Self::FieldLshiftU64 => "lshift_u64",
            Self::FieldRshiftU64 => "rshift_u64",
            Self::TypeIdLocal => "local_type_id",
            Self::TypeIdTarget => "target_type_id",
            Self::TypeExists => "type_exists",
            Self::TypeSize => "type_size",
            Self::EnumvalExists => "enumval_exists",
            Self::EnumvalValue => "enumval_value",
            Self::TypeMatches => "type_matches",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A parsed `.BTF.ext`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BtfExt {
    /// Functions.
    pub funcs: Vec<SecInfo<FuncInfo>>,
    /// Source lines.
    pub lines: Vec<SecInfo<LineInfo>>,
    /// CO-RE relocations.
    pub core_relos: Vec<SecInfo<CoreRelo>>,
}

impl BtfExt {
    /// Parses a `.BTF.ext` section that belongs to `btf`.
    pub fn parse(bytes: &[u8], btf: &Btf) -> Result<Self> {
        let header = parse_header(bytes)?;
        let funcs = parse_sections(&header.funcs, btf, "func_info", 8, |reader| {
            let info = FuncInfo { insn_off: reader.u32()?, type_id: TypeId(reader.u32()?) };
            btf.ty(info.type_id)?;
            Ok((info.insn_off, info))
        })?;
        let lines = parse_sections(&header.lines, btf, "line_info", 16, |reader| {
            let (insn_off, file, line) = (reader.u32()?, StrOff(reader.u32()?), StrOff(reader.u32()?));
            let position = reader.u32()?;
            let offset = reader.offset();
            for text in [file, line] {
                if !btf.strings().contains(text) {
                    let why = format!("string offset {:#x} is outside the strings", text.0);
                    return Err(Error::Ext { what: "line_info", offset, why });
                }
            }
            Ok((insn_off, LineInfo { insn_off, file, line, line_num: position >> 10, column: position & 0x3ff }))
        })?;
        let core_relos = parse_sections(&header.core_relos, btf, "core_relo", 16, |reader| {
            let (insn_off, type_id, access) = (reader.u32()?, TypeId(reader.u32()?), StrOff(reader.u32()?));
            let kind = CoreReloKind::from_number(reader.u32()?);
            btf.ty(type_id)?;
            if !btf.strings().contains(access) {
                let why = format!("access string offset {:#x} is outside the strings", access.0);
                return Err(Error::Ext { what: "core_relo", offset: reader.offset(), why });
            }
            Ok((insn_off, CoreRelo { insn_off, type_id, access, kind }))
        })?;
        Ok(Self { funcs, lines, core_relos })
    }

    /// The section's bytes; `string` gives the offset of a text in the strings of the types that it belongs to.
    ///
    /// # Errors
    /// `string` fails, or a number does not fit its field.
    pub fn to_bytes(&self, string: &mut dyn FnMut(&str) -> Result<StrOff>) -> Result<Vec<u8>> {
        let funcs = write_sections(&self.funcs, 8, string, |r| [r.insn_off, r.type_id.0, 0, 0])?;
        let lines = write_sections(&self.lines, 16, string, |r| {
            [r.insn_off, r.file.0, r.line.0, r.line_num << 10 | r.column & 0x3ff]
        })?;
        let core =
            write_sections(&self.core_relos, 16, string, |r| [r.insn_off, r.type_id.0, r.access.0, r.kind.number()])?;
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(&32u32.to_le_bytes());
        let mut at = 0usize;
        for part in [&funcs, &lines, &core] {
            for number in [at, part.len()] {
                let number = u32::try_from(number).map_err(|_| Error::Internal("BTF.ext is too long"))?;
                out.extend_from_slice(&number.to_le_bytes());
            }
            at = at.saturating_add(part.len());
        }
        for part in [funcs, lines, core] {
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    /// The functions of one section, in the order of the file.
    pub fn funcs_of<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a FuncInfo> {
        of_section(&self.funcs, section)
    }

    /// The lines of one section, in the order of the file.
    pub fn lines_of<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a LineInfo> {
        of_section(&self.lines, section)
    }

    /// The CO-RE relocations of one section, in the order of the file.
    pub fn core_relos_of<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a CoreRelo> {
        of_section(&self.core_relos, section)
    }
}

/// One of the three parts; empty if there are no records.
fn write_sections<T>(
    infos: &[SecInfo<T>],
    size: u32,
    string: &mut dyn FnMut(&str) -> Result<StrOff>,
    words: impl Fn(&T) -> [u32; 4],
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    if infos.is_empty() {
        return Ok(out);
    }
    out.extend_from_slice(&size.to_le_bytes());
    for info in infos {
        let count = u32::try_from(info.records.len()).map_err(|_| Error::Internal("too many records"))?;
        out.extend_from_slice(&string(&info.section)?.0.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for record in &info.records {
            for word in words(record).iter().take(size as usize / 4) {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    Ok(out)
}

fn of_section<'a, T>(infos: &'a [SecInfo<T>], section: &'a str) -> impl Iterator<Item = &'a T> {
    infos.iter().filter(move |info| info.section == section).flat_map(|info| &info.records)
}

/// One of the three parts, and where it starts in `.BTF.ext`.
#[derive(Default)]
struct Part<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[derive(Default)]
struct Header<'a> {
    funcs: Part<'a>,
    lines: Part<'a>,
    core_relos: Part<'a>,
}

fn parse_header(bytes: &[u8]) -> Result<Header<'_>> {
    let bad = |what, offset, why: String| Error::Ext { what, offset, why };
    if bytes.len() > crate::MAX_SIZE {
        return Err(Error::TooLarge { what: "bytes of BTF.ext", have: bytes.len(), max: crate::MAX_SIZE });
    }
    let mut reader = Reader::new(bytes, 0, "the BTF.ext header");
    let [lo, hi, version, flags] = reader.u32()?.to_le_bytes();
    let magic = u16::from_le_bytes([lo, hi]);
    if magic == MAGIC.swap_bytes() {
        return Err(Error::BigEndian);
    }
    if magic != MAGIC {
        return Err(bad("magic", 0, format!("{magic:#06x} instead of {MAGIC:#06x}")));
    }
    if version != 1 || flags != 0 {
        return Err(bad("version", 2, format!("version {version}, flags {flags:#x} are not supported")));
    }
    let hdr_len = reader.u32()? as usize;
    if hdr_len < MIN_HEADER {
        return Err(bad("hdr_len", 4, format!("{hdr_len} is less than {MIN_HEADER}")));
    }
    let mut part = |what: &'static str| {
        let offset = reader.offset();
        let (off, len) = (reader.u32()? as usize, reader.u32()? as usize);
        if off % 4 != 0 {
            return Err(bad(what, offset, format!("{off} is not a multiple of 4")));
        }
        let start = hdr_len.checked_add(off);
        let found = start.and_then(|at| Some(Part { bytes: bytes.get(at..at.checked_add(len)?)?, at }));
        found.ok_or_else(|| bad(what, offset, format!("{len} bytes at {off:#x} end outside the {} given", bytes.len())))
    };
    let funcs = part("func_info")?;
    let lines = part("line_info")?;
    let core_relos = if hdr_len >= CORE_HEADER { part("core_relo")? } else { Part::default() };
    Ok(Header { funcs, lines, core_relos })
}

fn parse_sections<T>(
    part: &Part<'_>,
    btf: &Btf,
    what: &'static str,
    min_size: usize,
    mut one: impl FnMut(&mut Reader<'_>) -> Result<(u32, T)>,
) -> Result<Vec<SecInfo<T>>> {
    let mut out = Vec::new();
    if part.bytes.is_empty() {
        return Ok(out);
    }
    let bad = |offset, why: String| Error::Ext { what, offset, why };
    let mut reader = Reader::new(part.bytes, part.at, what);
    let rec_size = reader.u32()? as usize;
    if rec_size < min_size || !rec_size.is_multiple_of(4) {
        return Err(bad(part.at, format!("record size {rec_size}, at least {min_size} and a multiple of 4 wanted")));
    }
    while reader.left() > 0 {
        let start = reader.offset();
        let name = StrOff(reader.u32()?);
        let count = reader.u32()? as usize;
        let section = match btf.strings().at(name) {
            Some(section) if !section.is_empty() => section.to_owned(),
            Some(_) => return Err(bad(start, "the section has no name".into())),
            None => return Err(bad(start, format!("section name offset {:#x} is outside the strings", name.0))),
        };
        if count == 0 {
            return Err(bad(start, format!("section {} has no records", escaped(section.as_bytes()))));
        }
        let mut body = Reader::new(reader.take(count.saturating_mul(rec_size))?, start.saturating_add(8), what);
        let mut records = Vec::with_capacity(count);
        let mut last = None;
        for _ in 0..count {
            let offset = body.offset();
            let mut record = Reader::new(body.take(rec_size)?, offset, what);
            let (insn_off, info) = one(&mut record)?;
            if insn_off % 8 != 0 {
                return Err(bad(offset, format!("instruction offset {insn_off:#x} is not a multiple of 8")));
            }
            // CO-RE records of one instruction are not ordered by clang; the others are, and searches rely on it.
            if min_size != 16 || what == "line_info" {
                if last.is_some_and(|last| insn_off <= last) {
                    return Err(bad(offset, format!("instruction offset {insn_off:#x} is not after the one before")));
                }
                last = Some(insn_off);
            }
            records.push(info);
        }
        out.push(SecInfo { section, records });
    }
    Ok(out)
}
