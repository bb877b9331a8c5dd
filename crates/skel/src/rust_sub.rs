//! The Rust subskeleton: a module that finds a library's variables, maps and programs in the whole loaded object.
//!
//! Owns the module's text. Invariant: it needs only the crate `skep` and no `unsafe`; a variable of another size than the
//! library's is an error when it is opened. Variables of `.percpu` sections are left out, as in C. Kernel counterpart: none;
//! `do_subskeleton`, tools/bpf/bpftool/gen.c, 6.18, is the model.

use std::collections::HashSet;
use std::fmt::Write as _;

use skep_btf::dump::{RustDump, rust_ident};
use skep_object::{MapKind, ObjectSpec};

use crate::error::{Error, Result};
use crate::names;
use crate::rust::{
    UserMap, ZEROCOPY, camel, indented, raw_map, unique, user_maps, write_handles, write_prologue, write_types,
};
use crate::section;

/// A data section: field, struct name, map, and its variables with their types.
struct Section {
    ident: String,
    type_name: String,
    map: String,
    variables: Vec<(String, String, String)>,
}

/// The module for `object`; `name` is the module's.
pub fn rust_subskeleton(object: &ObjectSpec, name: &str) -> Result<String> {
    let maps = names::maps(object)?;
    let (mut types, mut sections) = (String::new(), Vec::new());
    let mut handles: Vec<UserMap> = maps.iter().filter(|m| m.map.kind == MapKind::User).map(raw_map).collect();
    if let Some(btf) = object.btf.as_deref() {
        let mut dump = RustDump::new(btf, ZEROCOPY);
        let (mut aliases, mut taken) = (String::new(), HashSet::new());
        handles = user_maps(&mut dump, &maps, &mut aliases);
        let mut section_names: HashSet<String> =
            ["Maps", "Progs", "Subskeleton", "Variable", "Error"].map(str::to_owned).into();
        for named in maps.iter().filter(|m| section::is_visible(m.map) && m.map.kind != MapKind::PerCpu) {
            let mut variables = Vec::new();
            for field in section::fields(object, named.index, named.map)? {
                let failed =
                    |source| Error::Type { variable: field.name.clone(), section: named.map.name.clone(), source };
                let ident = rust_ident(&field.name);
                let hint = format!("{}_{}", named.ident, ident.trim_start_matches("r#"));
                let ty = dump.type_name(field.ty, &hint).map_err(failed)?;
                let alias = format!("{}{}", camel(&named.ident), camel(ident.trim_start_matches("r#")));
                let alias = unique(format!("{alias}Variable"), &mut taken);
                let _ = writeln!(aliases, "/// The type of variable `{}`.\npub type {alias} = {ty};\n", field.name);
                variables.push((ident, field.name, alias));
            }
            if !variables.is_empty() {
                let type_name = unique(camel(&named.ident), &mut section_names);
                let ident = rust_ident(&named.ident);
                sections.push(Section { ident, type_name, map: named.map.name.clone(), variables });
            }
        }
        types = dump.finish().map_err(|source| Error::Type {
            variable: "(types)".into(),
            section: name.to_owned(),
            source,
        })?;
        types.push_str(&aliases);
    }
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_module(&mut out, object, name, &types, &sections, &handles);
    Ok(out)
}

fn write_module(
    out: &mut String,
    object: &ObjectSpec,
    name: &str,
    types: &str,
    sections: &[Section],
    maps: &[UserMap],
) -> std::fmt::Result {
    write_prologue(out, &format!("Subskeleton of the library `{name}`"), name)?;
    let mut body = String::from(
        "/// What can fail while the library is looked for.\n\
         pub type Error = Box<dyn std::error::Error + Send + Sync>;\n\n\
         /// Types of the library's variables, keys and values.\npub mod types {\n",
    );
    write_types(&mut body, types);
    write_handles(&mut body, object, maps)?;
    for section in sections {
        write_section(&mut body, section)?;
    }
    write_subskeleton(&mut body, sections)?;
    body.push_str(VARIABLE);
    indented(out, body.trim_end());
    writeln!(out, "}}")
}

fn write_section(out: &mut String, section: &Section) -> std::fmt::Result {
    let Section { type_name, map, variables, .. } = section;
    writeln!(out, "/// The variables of `{map}`.\n#[derive(Clone, Debug)]\npub struct {type_name} {{")?;
    for (ident, name, alias) in variables {
        writeln!(out, "    /// `{name}`.\n    pub {ident}: Variable<types::{alias}>,")?;
    }
    out.push_str("}\n\n");
    Ok(())
}

fn write_subskeleton(out: &mut String, sections: &[Section]) -> std::fmt::Result {
    out.push_str(
        "/// The library in a loaded object. Clones are handles of the same.\n#[derive(Clone)]\npub struct Subskeleton {\n    \
         /// Its maps.\n    pub maps: Maps,\n    /// Its programs.\n    pub progs: Progs,\n",
    );
    for Section { ident, type_name, map, .. } in sections {
        writeln!(out, "    /// `{map}`.\n    pub {ident}: {type_name},")?;
    }
    out.push_str(
        "}\n\nimpl Subskeleton {\n    /// Finds the library in an object that was linked with it.\n    \
         pub fn open(loaded: &skep::Loaded) -> Result<Self, Error> {\n        Ok(Self {\n            \
         maps: Maps::new(loaded)?,\n            progs: Progs::new(loaded)?,\n",
    );
    for Section { ident, type_name, map, variables } in sections {
        writeln!(out, "            {ident}: {type_name} {{")?;
        for (field, name, _) in variables {
            writeln!(out, "                {field}: Variable::find(loaded, {map:?}, {name:?})?,")?;
        }
        out.push_str("            },\n");
    }
    out.push_str("        })\n    }\n}\n\n");
    Ok(())
}

const VARIABLE: &str = "/// A global variable of the loaded object.
#[derive(Debug)]
pub struct Variable<T> {
    map: skep::RawMap,
    offset: usize,
    ty: std::marker::PhantomData<fn() -> T>,
}

impl<T> Clone for Variable<T> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone(), offset: self.offset, ty: std::marker::PhantomData }
    }
}

impl<T: skep::zerocopy::FromBytes + skep::zerocopy::IntoBytes + skep::zerocopy::Immutable> Variable<T> {
    fn find(loaded: &skep::Loaded, section: &str, name: &str) -> Result<Self, Error> {
        let spec = loaded.object().spec();
        let found = spec.variable(name).filter(|v| spec.maps.get(v.map).is_some_and(|map| map.name == section));
        let found = found.ok_or_else(|| format!(\"the object has no variable {name} in {section}\"))?;
        let (have, want) = (found.size as usize, std::mem::size_of::<T>());
        if have != want {
            return Err(format!(\"variable {name} has {have} bytes in the object and {want} in the library\").into());
        }
        let map = loaded.raw_map(section)?;
        Ok(Self { map, offset: found.offset as usize, ty: std::marker::PhantomData })
    }

    /// Its value now.
    pub fn get(&self) -> Result<T, Error> {
        let bytes = self.map.lookup(&0u32.to_ne_bytes(), 0)?;
        let bytes = bytes.get(self.offset..).unwrap_or_default();
        let (value, _) = T::read_from_prefix(bytes).map_err(|_| \"the section is shorter than its variables\")?;
        Ok(value)
    }

    /// Sets it. The other variables of the section are written back as they were read a moment before, so that no program
    /// should change them meanwhile.
    pub fn set(&self, value: &T) -> Result<(), Error> {
        let mut bytes = self.map.lookup(&0u32.to_ne_bytes(), 0)?;
        let place = bytes.get_mut(self.offset..).and_then(|rest| rest.get_mut(..std::mem::size_of::<T>()));
        place.ok_or(\"the section is shorter than its variables\")?.copy_from_slice(value.as_bytes());
        Ok(self.map.update(&0u32.to_ne_bytes(), &bytes, 0)?)
    }
}
";
