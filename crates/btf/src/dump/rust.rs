//! Types as Rust: plain data that can be copied from and to the bytes of a map's value.
//!
//! Owns the spelling of types, their layout and their derives. Invariant: every struct has the size of the BTF, each
//! named member lies at its offset, and no byte is implicit padding, so that `zerocopy` accepts the derives. Bit-fields
//! and members of unions are methods. Kernel counterpart: none; this is what a Rust skeleton needs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;

use crate::check::own_size;
use crate::error::{Error, Result};
use crate::graph::Btf;
use crate::types::{Composite, Enum, Int, Kind, Member, TypeData, TypeId};

use super::layout::Layout;

/// What every struct and enumeration derives.
const DERIVES: &str = "#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]\n";

/// Definitions of types in Rust, made on demand and each once.
#[derive(Debug)]
pub struct RustDump<'a> {
    btf: &'a Btf,
    /// The `#[zerocopy(crate = …)]` line for the derives.
    attribute: String,
    layout: Layout,
    names: HashMap<TypeId, String>,
    given: HashSet<String>,
    queue: VecDeque<TypeId>,
    aligns: HashMap<TypeId, u32>,
    out: String,
}

/// A part of a struct: a member, or bytes that no plain member covers.
enum Part<'m> {
    Plain { member: &'m Member, offset: u32, size: u32 },
    Bytes { offset: u32, size: u32, has_bits: bool },
}

/// A bit-field as a method.
struct BitField {
    name: String,
    bytes: String,
    shift: u64,
    width: u32,
    ty: TypeId,
}

impl<'a> RustDump<'a> {
    /// Nothing defined yet; `zerocopy` is the path under which the derives find that crate.
    #[must_use]
    pub fn new(btf: &'a Btf, zerocopy: &str) -> Self {
        Self {
            btf,
            attribute: format!("#[zerocopy(crate = \"{zerocopy}\")]\n"),
            layout: Layout::default(),
            names: HashMap::new(),
            given: ["Bool".to_owned()].into(),
            queue: VecDeque::new(),
            aligns: HashMap::new(),
            out: String::new(),
        }
    }

    /// Keeps a name for the caller's own use, so that no type gets it.
    pub fn reserve(&mut self, name: &str) {
        self.given.insert(name.to_owned());
    }

    /// Alignment in bytes of the Rust type that [`RustDump::type_name`] gives.
    pub fn align_of(&mut self, id: TypeId) -> Result<u32> {
        self.align(id)
    }

    /// The Rust type of a value; its definition is written by [`RustDump::finish`]. `hint` names it if it has no name.
    pub fn type_name(&mut self, id: TypeId, hint: &str) -> Result<String> {
        self.btf.size_of(id)?;
        let mut at = id;
        let mut hint = hint.to_owned();
        let mut suffix = String::new();
        let mut prefix = String::new();
        for _ in 0..self.btf.len().min(256) {
            let ty = self.btf.ty(at)?;
            match &ty.data {
                TypeData::Typedef(to) => {
                    hint = self.btf.name(at).to_owned();
                    at = *to;
                }
                TypeData::Array(array) => {
                    prefix.push('[');
                    suffix.insert_str(0, &format!("; {}]", array.nelems));
                    at = array.elem;
                }
                data => match ty.qualified() {
                    Some(to) => at = to,
                    None => {
                        let base = self.base(at, data, &hint)?;
                        return Ok(format!("{prefix}{base}{suffix}"));
                    }
                },
            }
        }
        Err(Error::Depth { id, max: 256 })
    }

    fn base(&mut self, id: TypeId, data: &TypeData, hint: &str) -> Result<String> {
        Ok(match data {
            TypeData::Int(int) => int_name(*int),
            TypeData::Ptr(_) => "u64".into(),
            TypeData::Float { size: 4 } => "f32".into(),
            TypeData::Float { size: 8 } => "f64".into(),
            TypeData::Float { size } => format!("[u8; {size}]"),
            TypeData::Struct(_) | TypeData::Union(_) | TypeData::Enum(_) | TypeData::Enum64(_) => self.named(id, hint),
            _ => return Err(Error::NoSize { id, kind: self.btf.kind(id) }),
        })
    }

    fn named(&mut self, id: TypeId, hint: &str) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let own = self.btf.name(id);
        let plain = rust_ident(if own.is_empty() { hint } else { own });
        let mut name = plain.clone();
        let mut count = 1u32;
        while !self.given.insert(name.clone()) {
            count = count.saturating_add(1);
            name = format!("{plain}_{count}");
        }
        self.names.insert(id, name.clone());
        self.queue.push_back(id);
        name
    }

    /// Writes the definitions of all types named so far, and of those that they need.
    pub fn finish(mut self) -> Result<String> {
        while let Some(id) = self.queue.pop_front() {
            let name = self.names.get(&id).cloned().ok_or(Error::Internal("a type was queued without a name"))?;
            match &self.btf.ty(id)?.data {
                TypeData::Struct(composite) => self.define_struct(id, &name, composite)?,
                TypeData::Union(composite) => self.define_union(id, &name, composite)?,
                TypeData::Enum(e) | TypeData::Enum64(e) => self.define_enum(&name, e),
                _ => return Err(Error::Internal("a type was queued that needs no definition")),
            }
        }
        Ok(self.out)
    }

    /// Alignment of the Rust type in bytes.
    fn align(&mut self, id: TypeId) -> Result<u32> {
        let elem = self.btf.element_of(id);
        if let Some(&align) = self.aligns.get(&elem) {
            return Ok(align);
        }
        // Parts first, with a stack of its own.
        let mut work = vec![elem];
        while let Some(&top) = work.last() {
            let btf = self.btf;
            let data = &btf.ty(top)?.data;
            let align = match data {
                TypeData::Union(_) => Some(self.layout.align(btf, top)?),
                TypeData::Struct(composite) => {
                    let mut largest = Some(1);
                    for member in composite.members.iter().filter(|m| m.bitfield_size == 0) {
                        let part = btf.element_of(member.ty);
                        match self.aligns.get(&part) {
                            Some(&align) => largest = largest.map(|l: u32| l.max(align)),
                            None => {
                                work.push(part);
                                largest = None;
                            }
                        }
                    }
                    match largest {
                        Some(_) if self.is_packed(composite)? => Some(1),
                        other => other,
                    }
                }
                TypeData::Int(int) if !matches!(int.size, 1 | 2 | 4 | 8 | 16) => Some(1),
                TypeData::Float { size: 2 | 12 | 16 } => Some(1),
                data => Some(own_size(data).unwrap_or(1).max(1)),
            };
            if let Some(align) = align {
                self.aligns.insert(top, align);
                work.pop();
            }
        }
        Ok(self.aligns.get(&elem).copied().unwrap_or(1))
    }

    /// Whether `repr(C)` alone would put something elsewhere; the parts' alignments are known.
    fn is_packed(&self, composite: &Composite) -> Result<bool> {
        for member in composite.members.iter().filter(|m| m.bitfield_size == 0) {
            let align = self.aligns.get(&self.btf.element_of(member.ty)).copied().unwrap_or(1);
            if !(member.bit_offset / 8).is_multiple_of(align) || !composite.size.is_multiple_of(align) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The struct cut into plain members and the bytes between them.
    fn parts<'m>(&self, id: TypeId, composite: &'m Composite) -> Result<Vec<Part<'m>>> {
        let mut out = Vec::new();
        let mut end = 0u32;
        let is_bits = |m: &&Member| m.bitfield_size != 0;
        let gap = |out: &mut Vec<Part<'m>>, from: u32, to: u32| {
            let inside = |m: &Member| (from..to).contains(&(m.bit_offset / 8));
            let has_bits = composite.members.iter().filter(is_bits).any(inside);
            out.push(Part::Bytes { offset: from, size: to.saturating_sub(from), has_bits });
        };
        for member in composite.members.iter().filter(|m| m.bitfield_size == 0) {
            let (offset, size) = (member.bit_offset / 8, self.btf.size_of(member.ty)?);
            if offset < end {
                let name = self.btf.name(id).escape_default().to_string();
                let why = format!("the member at byte {offset} overlaps the one before");
                return Err(Error::Type { id, kind: Kind::Struct, name, why });
            }
            if offset > end {
                gap(&mut out, end, offset);
            }
            out.push(Part::Plain { member, offset, size });
            end = offset.saturating_add(size);
        }
        if composite.size > end {
            gap(&mut out, end, composite.size);
        }
        Ok(out)
    }

    fn define_struct(&mut self, id: TypeId, name: &str, composite: &Composite) -> Result<()> {
        let parts = self.parts(id, composite)?;
        self.align(id)?;
        let repr = if self.is_packed(composite)? { "C, packed" } else { "C" };
        let mut body = String::new();
        let mut bits = Vec::new();
        let (mut pads, mut anons) = (0u32, 0u32);
        let mut used = HashSet::new();
        for part in &parts {
            match *part {
                Part::Plain { member, offset, size } => {
                    let own = self.btf.str_at(member.name);
                    let mut field = rust_ident(own);
                    if own.is_empty() {
                        field = format!("anon{anons}");
                        anons = anons.saturating_add(1);
                    }
                    while !used.insert(field.clone()) {
                        field.push('_');
                    }
                    let plain = field.trim_start_matches("r#");
                    let ty = self.type_name(member.ty, &format!("{name}_{plain}"))?;
                    let _ = writeln!(body, "    /// Bytes {offset} to {}.", offset.saturating_add(size));
                    let _ = writeln!(body, "    pub {field}: {ty},");
                }
                Part::Bytes { offset, size, has_bits } => {
                    let field = format!("{}{pads}", if has_bits { "bits" } else { "pad" });
                    pads = pads.saturating_add(1);
                    let what = if has_bits { "Bit-fields" } else { "Padding" };
                    let _ = writeln!(body, "    /// {what}: bytes {offset} to {}.", offset.saturating_add(size));
                    let _ = writeln!(body, "    pub {field}: [u8; {size}],");
                    let inside = offset..offset.saturating_add(size);
                    let within = composite.members.iter().filter(|m| m.bitfield_size != 0 && m.name.0 != 0);
                    for member in within.filter(|m| inside.contains(&(m.bit_offset / 8))) {
                        bits.push(BitField {
                            name: self.btf.str_at(member.name).to_owned(),
                            bytes: field.clone(),
                            shift: u64::from(member.bit_offset).saturating_sub(u64::from(offset).saturating_mul(8)),
                            width: u32::from(member.bitfield_size),
                            ty: member.ty,
                        });
                    }
                }
            }
        }
        let _ = write!(
            self.out,
            "/// `struct {}`, {} bytes.\n{DERIVES}{}#[repr({repr})]\npub struct {name} {{\n{body}}}\n\n",
            doc_name(self.btf.name(id)),
            composite.size,
            self.attribute
        );
        self.bit_methods(name, &bits);
        Ok(())
    }

    fn bit_methods(&mut self, name: &str, bits: &[BitField]) {
        if bits.is_empty() {
            return;
        }
        let _ = writeln!(self.out, "impl {name} {{");
        for BitField { name, bytes, shift, width, ty } in bits {
            let signed = match self.btf.get(self.btf.resolve(*ty)).map(|ty| &ty.data) {
                Some(TypeData::Int(int)) => int.is_signed(),
                Some(TypeData::Enum(e) | TypeData::Enum64(e)) => e.signed,
                _ => false,
            };
            let plain = rust_ident(name);
            let setter = format!("set_{}", plain.trim_start_matches("r#"));
            let (ty, read) = if signed {
                (
                    "i64",
                    format!("(get_bits(&self.{bytes}, {shift}, {width}) << (64 - {width})) as i64 >> (64 - {width})"),
                )
            } else {
                ("u64", format!("get_bits(&self.{bytes}, {shift}, {width})"))
            };
            let _ = write!(
                self.out,
                "    /// The bit-field of {width} bits.\n    #[must_use]\n    pub fn {plain}(&self) -> {ty} {{\n        {read}\n    }}\n\n    \
                 /// Sets the low {width} bits.\n    pub fn {setter}(&mut self, value: {ty}) {{\n        \
                 set_bits(&mut self.{bytes}, {shift}, {width}, value as u64);\n    }}\n"
            );
        }
        self.out.push_str("}\n\n");
    }

    fn define_union(&mut self, id: TypeId, name: &str, composite: &Composite) -> Result<()> {
        let align = self.align(id)?;
        let (elem, size) = match align {
            _ if !composite.size.is_multiple_of(align.max(1)) => ("u8", 1),
            2 => ("u16", 2),
            4 => ("u32", 4),
            8 => ("u64", 8),
            16 => ("u128", 16),
            _ => ("u8", 1),
        };
        let mut methods = String::new();
        let mut anons = 0u32;
        for member in composite.members.iter().filter(|m| m.bitfield_size == 0) {
            let own = self.btf.str_at(member.name);
            let mut field = rust_ident(own);
            if own.is_empty() {
                field = format!("anon{anons}");
                anons = anons.saturating_add(1);
            }
            let plain = field.trim_start_matches("r#").to_owned();
            let ty = self.type_name(member.ty, &format!("{name}_{plain}"))?;
            let _ = write!(
                methods,
                "    /// The union as `{plain}`.\n    #[must_use]\n    pub fn {field}(&self) -> {ty} {{\n        \
                 <{ty}>::read_from_prefix(self.as_bytes()).map_or_else(|_| FromZeros::new_zeroed(), |(value, _)| value)\n    }}\n\n    \
                 /// Sets the union as `{plain}`.\n    pub fn set_{plain}(&mut self, value: {ty}) {{\n        \
                 let _ = value.write_to_prefix(self.as_mut_bytes());\n    }}\n"
            );
        }
        let count = composite.size.checked_div(size).unwrap_or(0);
        let _ = write!(
            self.out,
            "/// `union {}`, {} bytes.\n{DERIVES}{}#[repr(C)]\npub struct {name} {{\n    /// All of it.\n    pub bytes: [{elem}; {count}],\n}}\n\n",
            doc_name(self.btf.name(id)),
            composite.size,
            self.attribute
        );
        if !methods.is_empty() {
            let _ = write!(self.out, "impl {name} {{\n{methods}}}\n\n");
        }
        Ok(())
    }

    fn define_enum(&mut self, name: &str, e: &Enum) {
        let repr = match (e.size, e.signed) {
            (1, true) => "i8",
            (1, false) => "u8",
            (2, true) => "i16",
            (2, false) => "u16",
            (8, true) => "i64",
            (8, false) => "u64",
            (_, true) => "i32",
            (_, false) => "u32",
        };
        let _ = write!(
            self.out,
            "/// An enumeration; other values than those named can occur.\n{}{}#[repr(transparent)]\npub struct {name}(pub {repr});\n\n",
            DERIVES.replace("Clone, Copy,", "Clone, Copy, PartialEq, Eq,"),
            self.attribute
        );
        if e.values.is_empty() {
            return;
        }
        let _ = writeln!(self.out, "impl {name} {{");
        let mut given = HashSet::new();
        for value in &e.values {
            let own = self.btf.str_at(value.name);
            let ident = rust_ident(own);
            if !given.insert(ident.clone()) {
                continue;
            }
            let number = if e.signed { value.value.cast_signed().to_string() } else { value.value.to_string() };
            let _ = writeln!(self.out, "    /// `{}`.\n    pub const {ident}: Self = Self({number});", doc_name(own));
        }
        self.out.push_str("}\n\n");
    }
}

/// Helpers that the definitions call, once per file.
pub const RUST_PRELUDE: &str = "\
/// C's `bool`: any byte can be in memory, and what is not 0 is true.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl Bool {
    /// Its value.
    #[must_use]
    pub fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Self(u8::from(value))
    }
}

fn get_bits(bytes: &[u8], shift: usize, width: usize) -> u64 {
    (0..width).fold(0, |value, at| {
        let bit = shift + at;
        value | u64::from(bytes[bit / 8] >> (bit % 8) & 1) << at
    })
}

fn set_bits(bytes: &mut [u8], shift: usize, width: usize, value: u64) {
    for at in 0..width {
        let bit = shift + at;
        let byte = &mut bytes[bit / 8];
        *byte = *byte & !(1 << (bit % 8)) | u8::from(value >> at & 1 != 0) << (bit % 8);
    }
}

";

fn int_name(int: Int) -> String {
    let sign = if int.is_signed() { 'i' } else { 'u' };
    match int.size {
        1 if int.is_bool() => "Bool".into(),
        size @ (1 | 2 | 4 | 8 | 16) => format!("{sign}{}", size.saturating_mul(8)),
        size => format!("[u8; {size}]"),
    }
}

/// What is quoted in a doc comment.
fn doc_name(name: &str) -> String {
    if name.is_empty() { "(anonymous)".into() } else { name.chars().filter(|c| !c.is_control() && *c != '`').collect() }
}

/// `text` as a Rust identifier: other characters become `_`, keywords become raw or get a `_`.
#[must_use]
pub fn rust_ident(text: &str) -> String {
    const KEYWORDS: [&str; 46] = [
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else", "enum",
        "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
        "move", "mut", "override", "priv", "pub", "ref", "return", "static", "struct", "trait", "true", "try", "type",
        "typeof", "unsafe", "unsized", "use", "where", "while",
    ];
    let mut out: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    match out.as_str() {
        "_" | "self" | "Self" | "super" | "crate" | "virtual" | "yield" => out.push('_'),
        word if KEYWORDS.contains(&word) => out.insert_str(0, "r#"),
        _ => {}
    }
    out
}
