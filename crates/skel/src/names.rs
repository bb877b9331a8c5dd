//! Names of the object as identifiers.
//!
//! Owns how maps, programs and variables are called in generated code. Invariant: distinct things get distinct
//! identifiers or an error. Kernel counterpart: `get_map_ident`, `sanitize_identifier`, tools/bpf/bpftool/gen.c, 6.18.

use std::collections::HashMap;

use skep_object::{MapSpec, ObjectSpec};

use crate::error::{Error, Result};

/// The identifier of an object file: its name without folders and `.o`, other characters `_`.
#[must_use]
pub fn object_ident(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    ident(base.strip_suffix(".o").unwrap_or(base))
}

pub(crate) fn ident(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// A map and its identifier: `.data.custom` is `data_custom`.
pub(crate) struct NamedMap<'a> {
    pub(crate) index: usize,
    pub(crate) map: &'a MapSpec,
    pub(crate) ident: String,
}

pub(crate) fn maps(object: &ObjectSpec) -> Result<Vec<NamedMap<'_>>> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut out = Vec::new();
    for (index, map) in object.maps.iter().enumerate() {
        let plain = if map.kind.is_internal() { map.name.trim_start_matches('.') } else { &map.name };
        let ident = ident(plain);
        claim(&mut seen, "maps", &map.name, &ident)?;
        out.push(NamedMap { index, map, ident });
    }
    Ok(out)
}

pub(crate) fn programs(object: &ObjectSpec) -> Result<Vec<(&str, String)>> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut out = Vec::new();
    for program in &object.programs {
        let ident = ident(&program.name);
        claim(&mut seen, "programs", &program.name, &ident)?;
        out.push((program.name.as_str(), ident));
    }
    Ok(out)
}

fn claim<'a>(seen: &mut HashMap<String, &'a str>, what: &'static str, name: &'a str, ident: &str) -> Result<()> {
    match seen.insert(ident.to_owned(), name) {
        None => Ok(()),
        Some(first) => {
            Err(Error::SameName { what, first: first.to_owned(), second: name.to_owned(), ident: ident.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::object_ident;

    #[test]
    fn files_become_identifiers() {
        assert_eq!(object_ident("dir/xdp_firewall.bpf.o"), "xdp_firewall_bpf");
        assert_eq!(object_ident("a-b c.o"), "a_b_c");
        assert_eq!(object_ident("9lives.o"), "_9lives");
    }
}
