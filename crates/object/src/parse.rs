//! From bytes to the spec, step by step.
//!
//! Owns the order of the steps and the small sections (`license`, `version`). Invariant: nothing is returned unless
//! every step accepted. Kernel counterpart: `bpf_object_open`, tools/lib/bpf/libbpf.c, 6.18.

use crate::code::Functions;
use crate::elf::Elf;
use crate::error::{Error, Result, escaped};
use crate::externs::Externs;
use crate::link::{Infos, Linker};
use crate::spec::ObjectSpec;
use crate::{data, maps, relocate, types};

/// Parses an object file; `name` is the file's name or stem, of which the part before the first dot names the object.
pub fn parse(bytes: &[u8], name: &str) -> Result<ObjectSpec> {
    let name = object_name(name);
    let elf = Elf::parse(bytes)?;
    refuse_unsupported(&elf)?;
    let functions = Functions::parse(&elf)?;
    let (btf, ext) = types::parse(&elf, &functions)?;
    let defined = maps::parse(&elf, btf.as_deref())?;
    let mut map_specs: Vec<_> = defined.iter().map(|d| d.spec.clone()).collect();
    let data = data::parse(&elf, btf.as_deref(), &name, &mut map_specs)?;
    let externs = Externs::collect(&elf, btf.as_deref(), data.kconfig, &mut map_specs);
    let context = relocate::Context {
        elf: &elf,
        functions: &functions,
        defined: &defined,
        maps_section: elf.find(maps::MAPS).map(|(index, _)| index),
        data: &data.by_section,
        externs: &externs,
    };
    let references = relocate::collect(&context)?;
    let infos = Infos::new(&ext)?;
    let linker = Linker { elf: &elf, functions: &functions, references: &references, infos, btf: btf.as_deref() };
    let programs = linker.link()?;
    maps::resolve_slots(&elf, &defined, &mut map_specs, &programs)?;
    maps::fill_legacy_slots(&mut map_specs, &programs);
    Ok(ObjectSpec {
        name,
        license: license(&elf),
        kern_version: version(&elf)?,
        programs,
        maps: map_specs,
        variables: data.variables,
        externs: externs.specs,
        btf,
    })
}

/// The last part of a path, up to its first dot, as the kernel could take it.
fn object_name(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let stem = base.split('.').next().unwrap_or(base);
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn refuse_unsupported(elf: &Elf<'_>) -> Result<()> {
    for section in elf.sections.iter().filter(|s| s.size > 0) {
        let why = match section.name {
            ".struct_ops" | ".struct_ops.link" => "struct_ops maps replace functions of a running kernel",
            _ => continue,
        };
        return Err(Error::Unsupported { section: escaped(section.name), why: why.into() });
    }
    Ok(())
}

fn license(elf: &Elf<'_>) -> String {
    let Some((_, section)) = elf.find("license") else { return String::new() };
    let text = section.data.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text.get(..128).unwrap_or(text)).into_owned()
}

fn version(elf: &Elf<'_>) -> Result<u32> {
    let Some((_, section)) = elf.find("version") else { return Ok(0) };
    match section.data.try_into() {
        Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
        Err(_) => {
            let why = format!("{} bytes, a version has 4", section.data.len());
            Err(Error::Section { section: "version".into(), offset: 0, why })
        }
    }
}
