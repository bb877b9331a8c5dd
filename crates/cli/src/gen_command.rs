//! `skep gen`: source code from objects, and one object of several.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use skep_object::{LinkInput, ObjectSpec};
use skep_skel::COptions;

use crate::args::{Code, Gen, Language};
use crate::exit::usage;
use crate::{input, output};

pub(crate) fn run(command: &Gen) -> Result<()> {
    match command {
        Gen::Skeleton { use_loader, code } => {
            let (spec, elf, ident) = open(code)?;
            let options = COptions { define_types: code.types };
            let text = match (code.lang, use_loader) {
                (Language::C, false) => skep_skel::c_skeleton(&spec, &elf, &ident, &options),
                (Language::C, true) => skep_skel::c_light_skeleton(&spec, &ident, &options),
                (Language::Rust, false) => skep_skel::rust_skeleton(&spec, &elf, &ident),
                (Language::Rust, true) => skep_skel::rust_light_skeleton(&spec, &ident),
            };
            output::print(&text.with_context(|| code.object.display().to_string())?)
        }
        Gen::Subskeleton(code) => {
            let (spec, _, ident) = open(code)?;
            let text = match code.lang {
                Language::C => skep_skel::c_subskeleton(&spec, &ident, &COptions { define_types: code.types }),
                Language::Rust => skep_skel::rust_subskeleton(&spec, &ident),
            };
            output::print(&text.with_context(|| code.object.display().to_string())?)
        }
        Gen::Object { output, inputs } => link(output, inputs),
    }
}

/// The object, its bytes, and what the generated code is called.
fn open(Code { object: path, words, .. }: &Code) -> Result<(ObjectSpec, Vec<u8>, String)> {
    let name = match words.as_slice() {
        [] => None,
        [keyword, name] if keyword == "name" => Some(name.as_str()),
        _ => return usage("expected `name NAME`, or nothing for the file's name"),
    };
    let elf = input::read_regular(path, input::MAX_FILE)?;
    let file = path.file_name().map_or_else(String::new, |file| file.to_string_lossy().into_owned());
    let spec = skep_object::parse(&elf, &file).with_context(|| path.display().to_string())?;
    let ident = name.map_or_else(|| skep_skel::object_ident(&file), str::to_owned);
    Ok((spec, elf, ident))
}

/// Links the inputs; the output is written whole or not at all.
fn link(output: &Path, inputs: &[PathBuf]) -> Result<()> {
    let mut files = Vec::new();
    for path in inputs {
        files.push((path.display().to_string(), input::read_regular(path, input::MAX_FILE)?));
    }
    let units: Vec<LinkInput<'_>> = files.iter().map(|(name, bytes)| LinkInput { name, bytes }).collect();
    let linked = skep_object::link_objects(&units)?;
    if output.is_dir() {
        bail!("{} is a directory, a file was expected", output.display());
    }
    let shown = || format!("cannot write {}", output.display());
    // Beside the target, so that a failure leaves what was there before.
    let mut part = output.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let written = std::fs::write(&part, &linked).and_then(|()| std::fs::rename(&part, output));
    if written.is_err() {
        // Whatever there is of it is of no use.
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(shown)
}
