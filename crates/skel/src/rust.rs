//! The Rust skeleton: a module with an object inside, its variables as structs, its maps and programs as fields.
//!
//! Owns the module's text. Invariant: it needs only the crate `skep` and no `unsafe`; `Open` is what is there before
//! load, `Skeleton` what is there after it, and both are owned, `Send + Sync` values. Kernel counterpart: none; the C
//! skeleton of tools/bpf/bpftool/gen.c, 6.18, is the model.

use std::collections::HashSet;
use std::fmt::Write as _;

use skep_btf::dump::{RUST_PRELUDE, RustDump, rust_ident};
use skep_object::{MapKind, ObjectSpec};

use crate::error::{Error, Result};
use crate::names::{self, NamedMap};
use crate::section;

/// What a module that no one wrote may do, also where its crate's lints are stricter.
const ALLOW: &str = "#[allow(clippy::all, clippy::pedantic, missing_docs, nonstandard_style, unreachable_pub, unused, reason = \"generated\")]";
/// Where generated code finds the derives.
pub(crate) const ZEROCOPY: &str = "skep::zerocopy";

/// A data section as a struct.
struct Section {
    /// Field and method name: `rodata_limits`.
    ident: String,
    /// Struct name: `RodataLimits`.
    type_name: String,
    /// Name of the map.
    map: String,
    kind: MapKind,
}

/// A map of `.maps` as a field.
pub(crate) struct UserMap {
    ident: String,
    name: String,
    rust_type: String,
}

/// The module for `object`, whose file has the bytes `elf`; `name` is the module's
/// ([`object_ident`](crate::object_ident) of the file).
pub fn rust_skeleton(object: &ObjectSpec, elf: &[u8], name: &str) -> Result<String> {
    let maps = names::maps(object)?;
    let mut types = String::new();
    let sections = sections(object, &maps)?;
    let user_maps = match object.btf.as_deref() {
        Some(btf) => {
            let mut dump = RustDump::new(btf, ZEROCOPY);
            for section in &sections {
                dump.reserve(&section.type_name);
            }
            let mut aliases = String::new();
            let user_maps = user_maps(&mut dump, &maps, &mut aliases);
            let mut structs = String::new();
            for section in &sections {
                section_struct(&mut dump, object, &maps, section, &mut structs)?;
            }
            types = dump.finish().map_err(|source| Error::Type {
                variable: "(types)".into(),
                section: name.to_owned(),
                source,
            })?;
            types.push_str(&structs);
            types.push_str(&aliases);
            user_maps
        }
        None => maps.iter().filter(|m| m.map.kind == MapKind::User).map(raw_map).collect(),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_module(&mut out, object, elf, name, &types, &sections, &user_maps);
    Ok(out)
}

fn sections(object: &ObjectSpec, maps: &[NamedMap<'_>]) -> Result<Vec<Section>> {
    let mut out = Vec::new();
    let mut taken = HashSet::new();
    for named in maps.iter().filter(|m| section::is_visible(m.map)) {
        if object.btf.is_none() || section::fields(object, named.index, named.map)?.is_empty() {
            continue;
        }
        out.push(Section {
            ident: rust_ident(&named.ident),
            type_name: unique(camel(&named.ident), &mut taken),
            map: named.map.name.clone(),
            kind: named.map.kind,
        });
    }
    Ok(out)
}

/// `wanted`, with underscores behind it if something else has the name already.
pub(crate) fn unique(mut wanted: String, taken: &mut HashSet<String>) -> String {
    while !taken.insert(wanted.clone()) {
        wanted.push('_');
    }
    wanted
}

/// `rodata_limits` as `RodataLimits`.
pub(crate) fn camel(ident: &str) -> String {
    let mut out = String::new();
    for word in ident.split('_').filter(|w| !w.is_empty()) {
        let mut chars = word.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.extend(chars);
    }
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, 'S');
    }
    out
}

pub(crate) fn raw_map(named: &NamedMap<'_>) -> UserMap {
    UserMap { ident: rust_ident(&named.ident), name: named.map.name.clone(), rust_type: "skep::RawMap".into() }
}

/// The maps of `.maps`: typed where the object says the types of keys and values.
pub(crate) fn user_maps(dump: &mut RustDump<'_>, maps: &[NamedMap<'_>], aliases: &mut String) -> Vec<UserMap> {
    let mut out = Vec::new();
    let mut taken = HashSet::new();
    let named: Vec<(&NamedMap<'_>, String)> = maps
        .iter()
        .filter(|m| m.map.kind == MapKind::User)
        .map(|named| (named, unique(camel(&named.ident), &mut taken)))
        .collect();
    for (_, prefix) in &named {
        for end in ["MapKey", "MapValue"] {
            dump.reserve(&format!("{prefix}{end}"));
        }
    }
    for (named, prefix) in named {
        let mut user = raw_map(named);
        if let (Some(key), Some(value)) = (named.map.key_type, named.map.value_type) {
            let plain = &named.ident;
            let key = dump.type_name(key, &format!("{plain}_key"));
            let value = dump.type_name(value, &format!("{plain}_value"));
            if let (Ok(key), Ok(value)) = (key, value) {
                let _ = writeln!(aliases, "/// A key of map `{plain}`.\npub type {prefix}MapKey = {key};\n");
                let _ = writeln!(aliases, "/// A value of map `{plain}`.\npub type {prefix}MapValue = {value};\n");
                user.rust_type = format!("skep::TypedMap<types::{prefix}MapKey, types::{prefix}MapValue>");
            }
        }
        out.push(user);
    }
    out
}

fn section_struct(
    dump: &mut RustDump<'_>,
    object: &ObjectSpec,
    maps: &[NamedMap<'_>],
    section: &Section,
    out: &mut String,
) -> Result<()> {
    let named = maps.iter().find(|m| m.map.name == section.map);
    let Some(named) = named else { return Ok(()) };
    let fields = section::fields(object, named.index, named.map)?;
    let mut body = String::new();
    let (mut end, mut pads, mut largest) = (0u32, 0u32, 1u32);
    let mut is_packed = false;
    let mut pad = |body: &mut String, from: u32, to: u32| {
        if to > from {
            let _ = writeln!(body, "    /// Padding: bytes {from} to {to}.\n    pub __pad{pads}: [u8; {}],", to - from);
            pads = pads.saturating_add(1);
        }
    };
    for field in &fields {
        let failed = |source| Error::Type { variable: field.name.clone(), section: section.map.clone(), source };
        let ident = rust_ident(&field.name);
        let hint = format!("{}_{}", named.ident, ident.trim_start_matches("r#"));
        let ty = dump.type_name(field.ty, &hint).map_err(failed)?;
        let align = dump.align_of(field.ty).map_err(failed)?;
        largest = largest.max(align);
        is_packed |= !field.offset.is_multiple_of(align);
        pad(&mut body, end, field.offset);
        end = field.offset.saturating_add(field.size);
        let _ = writeln!(body, "    /// Bytes {} to {end}.\n    pub {ident}: {ty},", field.offset);
    }
    let step = if is_packed { 1 } else { largest };
    let whole = named.map.value_size.max(end).checked_next_multiple_of(step).unwrap_or(end);
    pad(&mut body, end, whole);
    let repr = if is_packed { "C, packed" } else { "C" };
    let _ = write!(
        out,
        "/// The variables of `{}`.\n#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]\n\
         #[zerocopy(crate = \"{ZEROCOPY}\")]\n#[repr({repr})]\npub struct {} {{\n{body}}}\n\n",
        section.map, section.type_name
    );
    Ok(())
}

/// A program and whether it is loaded with the object.
fn programs(object: &ObjectSpec) -> Vec<(String, &str, bool)> {
    object.programs.iter().map(|p| (rust_ident(&p.name), p.name.as_str(), p.autoload)).collect()
}

fn write_module(
    out: &mut String,
    object: &ObjectSpec,
    elf: &[u8],
    name: &str,
    types: &str,
    sections: &[Section],
    maps: &[UserMap],
) -> std::fmt::Result {
    write_prologue(out, &format!("Skeleton of the object `{name}`"), name)?;
    let mut body = String::new();
    write!(
        body,
        "use std::sync::Arc;\n\nuse skep::zerocopy::{{FromZeros, IntoBytes}};\n\n\
         /// What can fail between the object file and the running program.\n\
         pub type Error = Box<dyn std::error::Error + Send + Sync>;\n\n\
         /// Types of the object's variables, keys and values.\npub mod types {{\n"
    )?;
    write_types(&mut body, types);
    for section in sections {
        writeln!(body, "pub use types::{};", section.type_name)?;
    }
    write_open(&mut body, name, sections)?;
    write_handles(&mut body, object, maps)?;
    write_loaded(&mut body, sections)?;
    write_helpers(&mut body)?;
    write_elf(&mut body, elf)?;
    indented(out, body.trim_end());
    writeln!(out, "}}")
}

/// The start of a generated file: its comment, and its module up to the opening brace.
pub(crate) fn write_prologue(out: &mut String, doc: &str, name: &str) -> std::fmt::Result {
    let name = rust_ident(name);
    writeln!(out, "// Generated by skep: do not edit.\n\n/// {doc}.\n{ALLOW}\npub mod {name} {{")
}

/// The inside of the module `types`, and its closing brace.
pub(crate) fn write_types(out: &mut String, types: &str) {
    let mut inner =
        String::from("use skep::zerocopy::{self, FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};\n\n");
    inner.push_str(&RUST_PRELUDE.replace(
        "#[repr(transparent)]\npub struct Bool",
        &format!("#[zerocopy(crate = \"{ZEROCOPY}\")]\n#[repr(transparent)]\npub struct Bool"),
    ));
    inner.push_str(types);
    indented(out, inner.trim_end());
    out.push_str("}\n\n");
}

/// Appends `text` one level deeper; empty lines stay empty.
pub(crate) fn indented(out: &mut String, text: &str) {
    for line in text.lines() {
        if !line.is_empty() {
            out.push_str("    ");
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// Whether the skeleton keeps the values that a section was loaded with: constants, and the image that all vCPUs start
/// from.
fn keeps_image(kind: MapKind) -> bool {
    kind.is_read_only() || kind == MapKind::PerCpu
}

fn write_open(out: &mut String, name: &str, sections: &[Section]) -> std::fmt::Result {
    out.push_str(
        "\n/// The object before load: its variables have their initial values and can be set.\n\
         #[derive(Clone, Debug)]\npub struct Open {\n    object: skep::Object,\n",
    );
    for Section { ident, type_name, map, .. } in sections {
        writeln!(out, "    /// `{map}`.\n    pub {ident}: Box<{type_name}>,")?;
    }
    write!(
        out,
        "}}\n\nimpl Open {{\n    /// Parses the object.\n    pub fn new() -> Result<Self, Error> {{\n        \
         let object = skep::Object::from_bytes({name:?}, ELF)?;\n        Ok(Self {{\n"
    )?;
    for Section { ident, map, .. } in sections {
        writeln!(out, "            {ident}: Box::new(initial(&object, {map:?})),")?;
    }
    out.push_str(
        "            object,\n        })\n    }\n\n    \
         /// The object, to change what is no variable: sizes of maps, which programs are loaded.\n    \
         pub fn object_mut(&mut self) -> &mut skep::Object {\n        &mut self.object\n    }\n\n    \
         /// Verifies and compiles the programs.\n    \
         pub fn load(mut self, engine: &skep::Engine) -> Result<Skeleton, Error> {\n",
    );
    for Section { ident, map, kind, .. } in sections {
        if *kind != MapKind::Kconfig {
            writeln!(out, "        set_initial(&mut self.object, {map:?}, self.{ident}.as_bytes())?;")?;
        }
    }
    out.push_str(
        "        let loaded = engine.load(self.object)?;\n        Ok(Skeleton {\n            \
         maps: Maps::new(&loaded)?,\n            progs: Progs::new(&loaded)?,\n",
    );
    for Section { ident, kind, .. } in sections {
        if keeps_image(*kind) {
            writeln!(out, "            {ident}: self.{ident}.into(),")?;
        }
    }
    out.push_str("            loaded,\n        })\n    }\n}\n\n");
    Ok(())
}

pub(crate) fn write_handles(out: &mut String, object: &ObjectSpec, maps: &[UserMap]) -> std::fmt::Result {
    out.push_str("/// The maps; clones are handles of the same.\n#[derive(Clone)]\npub struct Maps {\n");
    for UserMap { ident, name, rust_type } in maps {
        writeln!(out, "    /// `{name}`.\n    pub {ident}: {rust_type},")?;
    }
    out.push_str("}\n\nimpl Maps {\n    fn new(loaded: &skep::Loaded) -> Result<Self, Error> {\n        Ok(Self {\n");
    for UserMap { ident, name, rust_type } in maps {
        let get = if rust_type == "skep::RawMap" { "raw_map" } else { "map" };
        writeln!(out, "            {ident}: loaded.{get}({name:?})?,")?;
    }
    out.push_str("        })\n    }\n}\n\n");
    out.push_str("/// The programs; clones are handles of the same.\n#[derive(Clone)]\npub struct Progs {\n");
    for (ident, name, autoload) in programs(object) {
        if autoload {
            writeln!(out, "    /// `{name}`.\n    pub {ident}: skep::Program,")?;
        } else {
            writeln!(out, "    /// `{name}`, if it was asked for.\n    pub {ident}: Option<skep::Program>,")?;
        }
    }
    out.push_str("}\n\nimpl Progs {\n    fn new(loaded: &skep::Loaded) -> Result<Self, Error> {\n        Ok(Self {\n");
    for (ident, name, autoload) in programs(object) {
        let end = if autoload { "?" } else { ".ok()" };
        writeln!(out, "            {ident}: loaded.program({name:?}){end},")?;
    }
    out.push_str("        })\n    }\n}\n\n");
    Ok(())
}

fn write_loaded(out: &mut String, sections: &[Section]) -> std::fmt::Result {
    out.push_str(
        "/// The object after load. Clones are handles of the same.\n#[derive(Clone)]\npub struct Skeleton {\n    \
         /// Its maps.\n    pub maps: Maps,\n    /// Its programs.\n    pub progs: Progs,\n    loaded: skep::Loaded,\n",
    );
    for Section { ident, type_name, kind, .. } in sections {
        if keeps_image(*kind) {
            writeln!(out, "    {ident}: Arc<{type_name}>,")?;
        }
    }
    out.push_str(
        "}\n\nimpl Skeleton {\n    /// What the engine made of the object.\n    \
         pub fn loaded(&self) -> &skep::Loaded {\n        &self.loaded\n    }\n",
    );
    // A section may be called as a method of another.
    let mut taken: HashSet<String> = sections.iter().map(|section| section.ident.clone()).collect();
    for Section { ident, type_name, map, kind } in sections {
        let plain = ident.trim_start_matches("r#");
        let mut method = |name: String| unique(name, &mut taken);
        match kind {
            MapKind::Rodata | MapKind::Kconfig => write!(
                out,
                "\n    /// `{map}`, which nothing changes after load.\n    pub fn {ident}(&self) -> &{type_name} {{\n        \
                 &self.{ident}\n    }}\n"
            )?,
            MapKind::PerCpu => {
                let (sum, initial) = (method(format!("{plain}_sum")), method(format!("{plain}_initial")));
                write!(
                    out,
                    "\n    /// The variables of `{map}` on each vCPU, as they are now.\n    \
                 pub fn {ident}(&self) -> Result<Vec<{type_name}>, Error> {{\n        \
                 read_all(&self.loaded, {map:?})\n    }}\n\n    \
                 /// The sum over all vCPUs of what `field` takes out of `{map}`.\n    \
                 pub fn {sum}<T: std::iter::Sum>(&self, field: impl Fn(&{type_name}) -> T) -> Result<T, Error> {{\n        \
                 Ok(self.{ident}()?.iter().map(field).sum())\n    }}\n\n    \
                 /// What `{map}` was loaded with, the same on all vCPUs; it stays as it was.\n    \
                 pub fn {initial}(&self) -> &{type_name} {{\n        \
                 &self.{ident}\n    }}\n"
                )?
            }
            _ => write!(
                out,
                "\n    /// The variables of `{map}` as they are now.\n    \
                 pub fn {ident}(&self) -> Result<{type_name}, Error> {{\n        \
                 read(&self.loaded, {map:?})\n    }}\n\n    \
                 /// Sets all variables of `{map}`.\n    \
                 pub fn set_{plain}(&self, value: &{type_name}) -> Result<(), Error> {{\n        \
                 write(&self.loaded, {map:?}, value.as_bytes())\n    }}\n"
            )?,
        }
    }
    out.push_str("}\n\n");
    Ok(())
}

/// Functions between structs and the bytes of maps; a struct may be longer than its section by padding at its end.
fn write_helpers(out: &mut String) -> std::fmt::Result {
    out.write_str(
        "fn copied<T: FromZeros + skep::zerocopy::FromBytes + IntoBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    let place = value.as_mut_bytes();
    let len = place.len().min(bytes.len());
    place[..len].copy_from_slice(&bytes[..len]);
    value
}

fn initial<T: FromZeros + skep::zerocopy::FromBytes + IntoBytes>(object: &skep::Object, map: &str) -> T {
    let image = object.spec().map(map).and_then(|map| map.initial_value());
    copied(image.as_deref().unwrap_or_default())
}

fn set_initial(object: &mut skep::Object, map: &str, bytes: &[u8]) -> Result<(), Error> {
    let size = object.spec().map(map).map_or(0, |map| map.value_size as usize);
    Ok(object.set_initial_value(map, &bytes[..size.min(bytes.len())])?)
}

fn read<T: FromZeros + skep::zerocopy::FromBytes + IntoBytes>(loaded: &skep::Loaded, map: &str) -> Result<T, Error> {
    Ok(copied(&loaded.raw_map(map)?.lookup(&0u32.to_ne_bytes(), 0)?))
}

fn read_all<T: FromZeros + skep::zerocopy::FromBytes + IntoBytes>(
    loaded: &skep::Loaded,
    map: &str,
) -> Result<Vec<T>, Error> {
    let size = loaded.object().spec().map(map).map_or(0, |map| map.value_size as usize);
    let values = loaded.raw_map(map)?.lookup(&0u32.to_ne_bytes(), 0)?;
    // Each vCPU's value takes a whole number of 8 bytes.
    let stride = size.next_multiple_of(8).max(8);
    Ok(values.chunks_exact(stride).map(|value| copied(&value[..size])).collect())
}

fn write(loaded: &skep::Loaded, map: &str, bytes: &[u8]) -> Result<(), Error> {
    let size = loaded.object().spec().map(map).map_or(0, |map| map.value_size as usize);
    Ok(loaded.raw_map(map)?.update(&0u32.to_ne_bytes(), &bytes[..size.min(bytes.len())], 0)?)
}

",
    )
}

fn write_elf(out: &mut String, elf: &[u8]) -> std::fmt::Result {
    out.push_str("/// The object file.\npub const ELF: &[u8] = b\"");
    for line in elf.chunks(26) {
        out.push_str("\\\n");
        for byte in line {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    out.push_str("\";\n");
    Ok(())
}
