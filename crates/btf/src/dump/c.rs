//! The C format: definitions that compile and lay out as the BTF says.
//!
//! Owns [`CDump`]: the text so far, the names given out, what was declared and defined. Invariant: the text's length is
//! bounded by the input's size, so nested anonymous types cannot blow up. Kernel counterpart: tools/lib/bpf/btf_dump.c
//! and tools/bpf/bpftool/btf.c, 6.18.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use crate::error::{Error, Result};
use crate::graph::Btf;
use crate::types::{Member, Type, TypeData, TypeId};

use super::layout::{Layout, Place, Shape};
use super::order::{Need, Progress};

/// How declarations are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Leave out `const`, `volatile`, `restrict` and attributes of types: for what user space writes to.
    pub strip_qualifiers: bool,
    /// For a header that C++ may include after `<linux/bpf.h>`: `bool` for `_Bool`, which C++ does not know, and no
    /// definition of what that header defines (tags that start with `bpf_`).
    pub after_uapi: bool,
}

/// Definitions of types in C, made on demand and each once.
#[derive(Debug)]
pub struct CDump<'a> {
    btf: &'a Btf,
    out: String,
    budget: usize,
    layout: Layout,
    progress: Vec<Progress>,
    /// Names that differ from those in the BTF.
    renamed: HashMap<TypeId, String>,
    /// For each `FWD`, the type it declares.
    completed: HashMap<TypeId, TypeId>,
    style: Style,
    /// How often an ordinary identifier (typedef or enumerator) was given out.
    ordinary: HashMap<String, u32>,
}

/// All types as a header in the manner of `vmlinux.h`.
pub fn c_dump(btf: &Btf) -> Result<String> {
    let mut dump = CDump::new(btf);
    dump.print(format_args!(
        "#ifndef __VMLINUX_H__\n#define __VMLINUX_H__\n\n#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n\
         #pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)\n#endif\n\n"
    ))?;
    dump.emit_all()?;
    dump.print(format_args!(
        "#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n#pragma clang attribute pop\n#endif\n\n#endif /* __VMLINUX_H__ */\n"
    ))?;
    Ok(dump.into_text())
}

impl<'a> CDump<'a> {
    /// Nothing emitted yet.
    #[must_use]
    pub fn new(btf: &'a Btf) -> Self {
        let input = btf.strings().as_bytes().len().saturating_add(btf.len().saturating_mul(64));
        let mut dump = Self {
            btf,
            out: String::new(),
            budget: input.saturating_mul(16).saturating_add(1 << 20),
            layout: Layout::default(),
            progress: vec![Progress::default(); btf.len()],
            renamed: HashMap::new(),
            completed: HashMap::new(),
            style: Style::default(),
            ordinary: HashMap::new(),
        };
        dump.give_names();
        dump
    }

    /// The same with another style.
    #[must_use]
    pub fn with_style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Whether a header that comes before defines this type already.
    pub(crate) fn is_defined_elsewhere(&self, id: TypeId) -> bool {
        let name = self.btf.name(id);
        match self.btf.get(id).map(|ty| &ty.data) {
            // The compiler knows this one: defining it again is an error in C++ and a clash in C.
            Some(TypeData::Typedef(_)) if name == "__builtin_va_list" => true,
            Some(TypeData::Typedef(_)) => self.style.after_uapi && is_libc_typedef(name),
            _ => self.style.after_uapi && (name.starts_with("bpf_") || name.starts_with("libbpf_")),
        }
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Emits every definition, in order of id but for what must come first.
    pub fn emit_all(&mut self) -> Result<()> {
        let referenced = referenced(self.btf);
        for (id, ty) in self.btf.types() {
            match &ty.data {
                TypeData::Struct(_) | TypeData::Union(_) if ty.name.0 != 0 => self.order(id, Need::Whole)?,
                TypeData::Typedef(_) => self.order(id, Need::Name)?,
                TypeData::Fwd { .. } => self.order(id, Need::Name)?,
                TypeData::Enum(_) | TypeData::Enum64(_) if ty.name.0 != 0 => self.order(id, Need::Whole)?,
                TypeData::Enum(_) | TypeData::Enum64(_) if referenced.get(id.index()) == Some(&false) => {
                    let text = self.body(id, 0)?;
                    self.print(format_args!("{text};\n\n"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Emits what a declaration of a value of this type needs before it.
    pub fn emit_for(&mut self, id: TypeId) -> Result<()> {
        self.order(id, Need::Whole)
    }

    /// `name` declared with this type, without a semicolon; [`CDump::emit_for`] comes first.
    pub fn declaration(&mut self, id: TypeId, name: &str) -> Result<String> {
        self.declaration_at(id, name, 0)
    }

    /// As [`CDump::declaration`], for a line `depth` tabs deep.
    pub fn declaration_indented(&mut self, id: TypeId, name: &str, depth: usize) -> Result<String> {
        self.declaration_at(id, name, depth)
    }

    /// Alignment in bytes of a value of this type as it is printed.
    pub fn align_of(&mut self, id: TypeId) -> Result<u32> {
        self.layout.align(self.btf, id)
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.out
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.out
    }

    pub(crate) fn btf(&self) -> &'a Btf {
        self.btf
    }

    pub(crate) fn print(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(text);
        self.check_budget(0)
    }

    pub(crate) fn check_budget(&self, more: usize) -> Result<()> {
        let have = self.out.len().saturating_add(more);
        if have > self.budget {
            return Err(Error::TooLarge { what: "bytes of C", have, max: self.budget });
        }
        Ok(())
    }

    pub(crate) fn progress_mut(&mut self, id: TypeId) -> Result<&mut Progress> {
        self.progress.get_mut(id.index()).ok_or(Error::Internal("an id was not checked"))
    }

    pub(crate) fn shape(&mut self, id: TypeId) -> Result<Shape> {
        self.layout.shape(self.btf, id)
    }

    pub(crate) fn place(&mut self, member: &Member) -> Result<Place> {
        self.layout.place(self.btf, member)
    }

    /// The struct or union that a forward declaration stands for, where the BTF has it; else the id itself.
    pub(crate) fn canonical(&self, id: TypeId) -> TypeId {
        self.completed.get(&id).copied().unwrap_or(id)
    }

    /// The name a type has in the text.
    pub(crate) fn name(&self, id: TypeId) -> String {
        match self.renamed.get(&id) {
            Some(name) => name.clone(),
            None => self.ident(self.btf.name(id)),
        }
    }

    /// `text` as a C identifier: other characters become `_`.
    pub(crate) fn ident(&self, text: &str) -> String {
        c_ident(text)
    }

    /// An enumerator's name, with a number where another one has it already.
    pub(crate) fn unique_value(&mut self, text: &str) -> String {
        unique(&mut self.ordinary, &c_ident(text))
    }

    /// Gives each tag and typedef a name of its own, as libbpf does: the second `foo` becomes `foo___2`.
    fn give_names(&mut self) {
        let mut tags: HashMap<String, u32> = HashMap::new();
        let mut whole: HashMap<(bool, &str), TypeId> = HashMap::new();
        let btf = self.btf;
        for (id, ty) in btf.types().filter(|(_, ty)| ty.name.0 != 0) {
            let space = match &ty.data {
                TypeData::Struct(_) | TypeData::Union(_) => {
                    let is_union = matches!(ty.data, TypeData::Union(_));
                    whole.entry((is_union, btf.name(id))).or_insert(id);
                    &mut tags
                }
                TypeData::Enum(_) | TypeData::Enum64(_) => &mut tags,
                TypeData::Typedef(_) => &mut self.ordinary,
                _ => continue,
            };
            let plain = c_ident(btf.name(id));
            let name = unique(space, &plain);
            if name != plain {
                self.renamed.insert(id, name);
            }
        }
        for (id, ty) in btf.types() {
            if let TypeData::Fwd { is_union } = ty.data {
                // Without a definition, the first declaration of this name stands for all of them.
                let first = *whole.entry((is_union, btf.name(id))).or_insert(id);
                if first != id {
                    self.completed.insert(id, first);
                }
            }
        }
    }
}

fn unique(given: &mut HashMap<String, u32>, name: &str) -> String {
    let count = given.entry(name.to_owned()).or_insert(0);
    *count = count.saturating_add(1);
    if *count == 1 { name.to_owned() } else { format!("{name}___{count}") }
}

/// `text` as a C identifier: other characters become `_`, and a digit or keyword gets one in front.
#[must_use]
pub fn c_ident(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) || is_c_keyword(&out) {
        out.insert(0, '_');
    }
    out
}

/// Names that `<stdint.h>`, `<stdbool.h>` and `<sys/types.h>` define, not always as BPF's headers do.
fn is_libc_typedef(name: &str) -> bool {
    let plain = name.trim_start_matches('_').trim_start_matches('u');
    let is_int = matches!(plain, "int8_t" | "int16_t" | "int32_t" | "int64_t" | "intptr_t");
    is_int || matches!(name, "bool" | "size_t" | "ssize_t" | "pid_t" | "uid_t" | "gid_t" | "dev_t" | "loff_t")
}

/// Whether C reserves `word`, so that no variable or member can have it as its name.
#[must_use]
pub fn is_c_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 37] = [
        "_Bool",
        "_Complex",
        "_Imaginary",
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
    ];
    KEYWORDS.binary_search(&word).is_ok()
}

/// For each id, whether some type refers to it.
fn referenced(btf: &Btf) -> Vec<bool> {
    let mut seen = vec![false; btf.len()];
    let mut mark = |id: TypeId| {
        if let Some(slot) = seen.get_mut(id.index()) {
            *slot = true;
        }
    };
    for (_, Type { data, .. }) in btf.types() {
        match data {
            TypeData::Ptr(to)
            | TypeData::Typedef(to)
            | TypeData::Volatile(to)
            | TypeData::Const(to)
            | TypeData::Restrict(to)
            | TypeData::TypeTag { ty: to, .. }
            | TypeData::Var { ty: to, .. }
            | TypeData::Func { proto: to, .. } => mark(*to),
            TypeData::Array(array) => {
                mark(array.elem);
                mark(array.index);
            }
            TypeData::Struct(composite) | TypeData::Union(composite) => {
                composite.members.iter().for_each(|m| mark(m.ty));
            }
            TypeData::FuncProto(proto) => {
                mark(proto.ret);
                proto.params.iter().for_each(|p| mark(p.ty));
            }
            _ => {}
        }
    }
    seen
}
