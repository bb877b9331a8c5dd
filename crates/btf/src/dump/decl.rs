//! Declarators and bodies: one type as C text.
//!
//! Owns how a declaration is spelt inside out and how struct, union and enum bodies are written with bit-fields and
//! padding. Invariant: recursion follows only anonymous composites and prototypes and is cut at [`MAX_DEPTH`].
//! Kernel counterpart: `btf_dump_emit_type_chain`, tools/lib/bpf/btf_dump.c, 6.18.

use std::fmt::Write as _;

use crate::MAX_DEPTH;
use crate::error::{Error, Result};
use crate::types::{Composite, Enum, FuncProto, Int, Kind, TypeData, TypeId};

use super::c::{CDump, Style};

/// Pointers, arrays and qualifiers that one declaration may have.
const MAX_CHAIN: usize = 256;

/// Qualifiers met on the way, not yet written.
#[derive(Default)]
struct Quals {
    is_const: bool,
    is_volatile: bool,
    is_restrict: bool,
    tags: String,
}

impl Quals {
    /// As words, each with a space after it.
    fn take(&mut self, style: Style) -> String {
        let mut out = String::new();
        if style.strip_qualifiers {
            *self = Self::default();
            return out;
        }
        for (set, word) in [(self.is_const, "const "), (self.is_volatile, "volatile "), (self.is_restrict, "restrict ")]
        {
            if set {
                out.push_str(word);
            }
        }
        out.push_str(&std::mem::take(&mut self.tags));
        *self = Self::default();
        out
    }
}

impl CDump<'_> {
    /// `id` declared as `name` (which may be empty), inside `depth` levels of braces.
    pub(crate) fn declaration_at(&mut self, id: TypeId, name: &str, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(Error::Depth { id, max: MAX_DEPTH });
        }
        let mut decl = name.to_owned();
        let mut quals = Quals::default();
        let mut at = id;
        for _ in 0..MAX_CHAIN {
            let btf = self.btf();
            match &btf.ty(at)?.data {
                TypeData::Const(to) => {
                    quals.is_const = true;
                    at = *to;
                }
                TypeData::Volatile(to) => {
                    quals.is_volatile = true;
                    at = *to;
                }
                TypeData::Restrict(to) => {
                    quals.is_restrict = true;
                    at = *to;
                }
                TypeData::TypeTag { ty: to, attribute } => {
                    let text = btf.str_at(btf.ty(at)?.name);
                    if *attribute {
                        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                            let _ = write!(quals.tags, "__attribute__(({text})) ");
                        }
                    } else {
                        let _ = write!(quals.tags, "__attribute__((btf_type_tag(\"{}\"))) ", text.escape_default());
                    }
                    at = *to;
                }
                TypeData::Ptr(to) => {
                    let quals = quals.take(self.style());
                    let wrap = matches!(btf.kind(btf.skip_qualifiers(*to)), Kind::Array | Kind::FuncProto);
                    decl = if wrap { format!("(*{quals}{decl})") } else { format!("*{quals}{decl}") };
                    at = *to;
                }
                TypeData::Array(array) => {
                    let _ = write!(decl, "[{}]", array.nelems);
                    at = array.elem;
                }
                TypeData::FuncProto(proto) => {
                    let params = self.params(proto, depth)?;
                    let _ = write!(decl, "({params})");
                    // A qualified function type means nothing in C.
                    quals = Quals::default();
                    at = proto.ret;
                }
                _ => {
                    let base = self.base(at, depth)?;
                    let quals = quals.take(self.style());
                    let space = if decl.is_empty() { "" } else { " " };
                    return Ok(format!("{quals}{base}{space}{decl}"));
                }
            }
            if decl.len() > MAX_CHAIN.saturating_mul(64) {
                break;
            }
        }
        Err(Error::TooLarge { what: "parts of one declaration", have: MAX_CHAIN.saturating_add(1), max: MAX_CHAIN })
    }

    fn params(&mut self, proto: &FuncProto, depth: usize) -> Result<String> {
        if proto.params.is_empty() || (proto.params.len() == 1 && proto.is_vararg()) {
            return Ok("void".into());
        }
        let mut out = String::new();
        for (at, param) in proto.params.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            if param.ty.is_void() {
                out.push_str("...");
            } else {
                let name = self.ident(self.btf().str_at(param.name));
                out.push_str(&self.declaration_at(param.ty, &name, depth.saturating_add(1))?);
            }
            self.check_budget(out.len())?;
        }
        Ok(out)
    }

    /// What a declaration starts with.
    fn base(&mut self, id: TypeId, depth: usize) -> Result<String> {
        let ty = self.btf().ty(id)?;
        let named = ty.name.0 != 0;
        Ok(match &ty.data {
            TypeData::Void => "void".into(),
            TypeData::Int(int) => match int_name(self.btf().name(id), *int) {
                "_Bool" if self.style().after_uapi => "bool".into(),
                name => name.into(),
            },
            TypeData::Float { size } => float_name(self.btf().name(id), *size).into(),
            TypeData::Typedef(_) => self.name(id),
            TypeData::Fwd { is_union } => {
                let keyword = if *is_union { "union" } else { "struct" };
                format!("{keyword} {}", self.name(self.canonical(id)))
            }
            TypeData::Struct(_) if named => format!("struct {}", self.name(id)),
            TypeData::Union(_) if named => format!("union {}", self.name(id)),
            TypeData::Enum(_) | TypeData::Enum64(_) if named => format!("enum {}", self.name(id)),
            TypeData::Struct(_) | TypeData::Union(_) | TypeData::Enum(_) | TypeData::Enum64(_) => {
                self.body(id, depth)?
            }
            _ => {
                let name = self.btf().name(id).escape_default().to_string();
                return Err(Error::Type { id, kind: ty.kind(), name, why: "is no type of a value".into() });
            }
        })
    }

    pub(crate) fn define_typedef(&mut self, id: TypeId) -> Result<()> {
        let TypeData::Typedef(to) = self.btf().ty(id)?.data else {
            return Err(Error::Internal("a typedef is none"));
        };
        let name = self.name(id);
        let text = self.declaration_at(to, &name, 0)?;
        self.print(format_args!("typedef {text};\n\n"))
    }

    /// The definition of a struct, union or enum, without the semicolon.
    pub(crate) fn body(&mut self, id: TypeId, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(Error::Depth { id, max: MAX_DEPTH });
        }
        let ty = self.btf().ty(id)?;
        let space = if ty.name.0 == 0 { String::new() } else { format!(" {}", self.name(id)) };
        match &ty.data {
            TypeData::Enum(e) => Ok(self.enum_body(e, &space, depth, false)),
            TypeData::Enum64(e) => Ok(self.enum_body(e, &space, depth, true)),
            TypeData::Struct(composite) => self.composite_body(id, composite, &format!("struct{space}"), depth),
            TypeData::Union(composite) => self.composite_body(id, composite, &format!("union{space}"), depth),
            _ => Err(Error::Internal("a body for what has none")),
        }
    }

    fn enum_body(&mut self, e: &Enum, name: &str, depth: usize, wide: bool) -> String {
        let mut out = format!("enum{name}");
        if e.values.is_empty() {
            return out;
        }
        out.push_str(" {\n");
        for value in &e.values {
            let ident = self.unique_value(self.btf().str_at(value.name));
            indent(&mut out, depth.saturating_add(1));
            let _ = match (wide, e.signed) {
                (true, true) => writeln!(out, "{ident} = {}LL,", value.value.cast_signed()),
                (true, false) => writeln!(out, "{ident} = {}ULL,", value.value),
                (false, true) => writeln!(out, "{ident} = {},", value.value.cast_signed()),
                (false, false) if value.value > 0x7fff_ffff => writeln!(out, "{ident} = {}U,", value.value),
                (false, false) => writeln!(out, "{ident} = {},", value.value),
            };
        }
        indent(&mut out, depth);
        out.push_str(match e.size {
            1 => "} __attribute__((mode(QI)))",
            2 => "} __attribute__((mode(HI)))",
            8 => "} __attribute__((mode(DI)))",
            _ => "}",
        });
        out
    }

    fn composite_body(&mut self, id: TypeId, composite: &Composite, head: &str, depth: usize) -> Result<String> {
        let shape = self.shape(id)?;
        let is_union = self.btf().kind(id) == Kind::Union;
        let mut out = format!("{head} {{");
        let inner = depth.saturating_add(1);
        let mut cursor = 0u64;
        let mut line = |out: &mut String, text: &str| {
            out.push('\n');
            indent(out, inner);
            out.push_str(text);
            out.push(';');
        };
        for member in &composite.members {
            let place = self.place(member)?;
            if !is_union {
                if place.start < cursor {
                    let name = self.btf().name(id).escape_default().to_string();
                    let why = format!("the member at bit {} overlaps the one before", place.start);
                    return Err(Error::Type { id, kind: Kind::Struct, name, why });
                }
                if place.natural_start(cursor, shape.packed) != place.start {
                    pad(&mut out, &mut line, cursor, place.start, shape.align);
                }
            }
            let name = self.ident(self.btf().str_at(member.name));
            let mut text = self.declaration_at(member.ty, &name, inner)?;
            if let Some(width) = place.width {
                let _ = write!(text, ": {width}");
            }
            line(&mut out, &text);
            cursor = cursor.max(place.end());
            self.check_budget(out.len())?;
        }
        let end = u64::from(composite.size).saturating_mul(8);
        let step = if shape.packed { 8 } else { u64::from(shape.align).saturating_mul(8) };
        if cursor.next_multiple_of(step) < end {
            if is_union {
                line(&mut out, &format!("unsigned char __pad_0[{}]", composite.size));
            } else {
                pad(&mut out, &mut line, cursor, end, shape.align);
            }
        }
        if !composite.members.is_empty() || composite.size > 0 {
            out.push('\n');
            indent(&mut out, depth);
        }
        out.push_str(if shape.packed { "} __attribute__((packed))" } else { "}" });
        Ok(out)
    }
}

/// Fills the bits from `cursor` to `target`. Unnamed bit-fields no wider than the struct's alignment leave the alignment
/// as it is on every ABI; long gaps become one array.
fn pad(out: &mut String, line: &mut dyn FnMut(&mut String, &str), mut cursor: u64, target: u64, align: u32) {
    const LONGEST: u64 = 512;
    while cursor < target {
        if cursor.is_multiple_of(8) && target - cursor > LONGEST {
            let bytes = (target - cursor) / 8;
            line(out, &format!("unsigned char __pad_{}[{bytes}]", cursor / 8));
            cursor = cursor.saturating_add(bytes.saturating_mul(8));
            continue;
        }
        let units = [(64, "long"), (32, "int"), (16, "short"), (8, "char")];
        let fits = |unit: u64| {
            unit <= u64::from(align).saturating_mul(8)
                && (cursor.is_multiple_of(unit) || target - cursor < unit - cursor % unit)
        };
        let (unit, name) = units.into_iter().find(|&(unit, _)| fits(unit)).unwrap_or((8, "char"));
        let chunk = (unit - cursor % unit).min(target - cursor);
        line(out, &format!("{name}: {chunk}"));
        cursor = cursor.saturating_add(chunk);
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n('\t', depth));
}

/// The C spelling of an integer: its own name where C has it, one of the same size where another language made it.
fn int_name(name: &str, int: Int) -> &str {
    const KNOWN: [&str; 24] = [
        "char",
        "signed char",
        "unsigned char",
        "short",
        "short int",
        "unsigned short",
        "short unsigned int",
        "int",
        "unsigned int",
        "unsigned",
        "long",
        "long int",
        "unsigned long",
        "long unsigned int",
        "long long",
        "long long int",
        "unsigned long long",
        "long long unsigned int",
        "_Bool",
        "__int128",
        "unsigned __int128",
        "__int128 unsigned",
        "signed int",
        "long long unsigned",
    ];
    if KNOWN.contains(&name) {
        return name;
    }
    match (int.is_bool(), int.size, int.is_signed()) {
        (true, ..) => "_Bool",
        (_, 1, true) => "signed char",
        (_, 1, false) => "unsigned char",
        (_, 2, true) => "short",
        (_, 2, false) => "unsigned short",
        (_, 8, true) => "long long",
        (_, 8, false) => "unsigned long long",
        (_, 16, true) => "__int128",
        (_, 16, false) => "unsigned __int128",
        (_, _, true) => "int",
        (_, _, false) => "unsigned int",
    }
}

fn float_name(name: &str, size: u32) -> &str {
    match (name, size) {
        ("float" | "double" | "long double" | "_Float16" | "__float128", _) => name,
        (_, 2) => "_Float16",
        (_, 4) => "float",
        (_, 8) => "double",
        _ => "long double",
    }
}
