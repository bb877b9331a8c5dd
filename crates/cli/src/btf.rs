//! `skep btf dump`: the types of an object, raw or as C.

use std::path::Path;

use anyhow::{Context, Result, bail};
use skep_btf::Btf;

use crate::args::{BtfCommand, Output};
use crate::exit::usage;
use crate::{input, output};

pub(crate) fn run(command: &BtfCommand, output: Output) -> Result<()> {
    let BtfCommand::Dump { words } = command;
    let mut words = words.iter().map(String::as_str);
    let mut file = None;
    let mut format = "raw";
    while let Some(word) = words.next() {
        match (word, words.next()) {
            ("file", Some(path)) => file = Some(path),
            ("format", Some(name @ ("raw" | "c"))) => format = name,
            ("format", Some(other)) => return usage(format!("format {other:?}: there are raw and c")),
            (word, _) => return usage(format!("{word:?}: expected `file FILE` and `format raw|c`")),
        }
    }
    let Some(file) = file else { return usage("expected `file FILE`") };
    let btf = read(Path::new(file))?;
    if output.is_json() {
        if format == "c" {
            return usage("the C form has no JSON; leave out -j or `format c`");
        }
        return output.print_json(&crate::btf_json::types(&btf));
    }
    let text = if format == "c" { skep_btf::dump::c_dump(&btf)? } else { skep_btf::dump::raw_dump(&btf) };
    output::print(&text)
}

/// The BTF of an ELF object, or of a file that is BTF from its first byte on.
fn read(path: &Path) -> Result<Btf> {
    let bytes = input::read_regular(path, input::MAX_FILE)?;
    let shown = path.display();
    if bytes.starts_with(&[0x9f, 0xeb]) || bytes.starts_with(&[0xeb, 0x9f]) {
        return Btf::parse(&bytes).with_context(|| format!("{shown}"));
    }
    let object = skep::Object::from_bytes(&shown.to_string(), &bytes).with_context(|| format!("{shown}"))?;
    match object.btf() {
        Some(btf) => Ok(btf.clone()),
        None => bail!("{shown}: has no .BTF section; compile with -g"),
    }
}
