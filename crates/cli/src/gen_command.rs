//! `skep gen`: source code from objects.

use std::path::Path;

use anyhow::{Context, Result};
use skep_skel::COptions;

use crate::args::{Gen, Language};
use crate::exit::usage;
use crate::{input, output};

pub(crate) fn run(command: &Gen) -> Result<()> {
    let Gen::Skeleton { object, words, lang, types } = command;
    let name = match &words[..] {
        [] => None,
        [keyword, name] if keyword == "name" => Some(name.as_str()),
        _ => return usage("expected `name NAME`, or nothing for the file's name"),
    };
    output::print(&skeleton(object, name, *lang, *types)?)
}

fn skeleton(path: &Path, name: Option<&str>, lang: Language, types: bool) -> Result<String> {
    let elf = input::read_regular(path, input::MAX_FILE)?;
    let file = path.file_name().map_or_else(String::new, |file| file.to_string_lossy().into_owned());
    let shown = || path.display().to_string();
    let spec = skep_object::parse(&elf, &file).with_context(shown)?;
    let ident = name.map_or_else(|| skep_skel::object_ident(&file), str::to_owned);
    match lang {
        Language::C => skep_skel::c_skeleton(&spec, &elf, &ident, &COptions { define_types: types }),
        Language::Rust => skep_skel::rust_skeleton(&spec, &elf, &ident),
    }
    .with_context(shown)
}
