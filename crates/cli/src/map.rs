//! `skep map`: the maps of an object, as they are once it is loaded.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use skep::{Engine, Loaded, Object, RawMap};

use crate::args::{MapCommand, MapVerb, Output};
use crate::exit::usage;
use crate::{map_elem, maps, output};

pub(crate) fn run(command: &MapCommand, output: Output) -> Result<()> {
    match command {
        MapCommand::Show { object } => show(object, output),
        MapCommand::Dump { object, words } => dump(object, words, output),
        MapCommand::Lookup(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Lookup, &elem.words, output),
        MapCommand::Update(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Update, &elem.words, output),
        MapCommand::Delete(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Delete, &elem.words, output),
        MapCommand::Getnext(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Getnext, &elem.words, output),
        MapCommand::Peek(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Peek, &elem.words, output),
        MapCommand::Push(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Push, &elem.words, output),
        MapCommand::Pop(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Pop, &elem.words, output),
        MapCommand::Enqueue(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Enqueue, &elem.words, output),
        MapCommand::Dequeue(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Dequeue, &elem.words, output),
        MapCommand::Freeze(elem) => map_elem::run(&load(&elem.object)?, MapVerb::Freeze, &elem.words, output),
        MapCommand::Batch { object, file } => map_elem::batch(&load(object)?, file, output),
    }
}

fn load(path: &Path) -> Result<Loaded> {
    let object = Object::open(path)?;
    Engine::new()?.load(object).map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))
}

fn show(path: &Path, output: Output) -> Result<()> {
    let loaded = load(path)?;
    if output.is_json() {
        return output.print_json(&loaded.maps().map(show_json).collect());
    }
    let mut out = String::new();
    for (name, map) in loaded.maps() {
        let info = map.info();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}: {}  name {}  flags 0x{:x}\n\tkey {}B  value {}B  max_entries {}  memlock {}B",
            map.id(),
            info.map_type,
            name,
            info.flags,
            info.key_size,
            info.value_size,
            info.max_entries,
            map.memory()
        );
    }
    output::print(&out)
}

fn show_json((name, map): (&str, &RawMap)) -> Value {
    let info = map.info();
    json!({
        "id": map.id(), "type": info.map_type.name(), "name": name, "flags": info.flags,
        "bytes_key": info.key_size, "bytes_value": info.value_size, "max_entries": info.max_entries,
        "bytes_memlock": map.memory(), "frozen": u8::from(map.object().is_frozen()),
    })
}

fn dump(path: &Path, words: &[String], output: Output) -> Result<()> {
    let wanted = match words {
        [] => None,
        [keyword, name] if keyword == "name" => Some(name.as_str()),
        _ => return usage("expected `name NAME`, or nothing for all maps"),
    };
    let loaded = load(path)?;
    let chosen: Vec<(&str, &RawMap)> =
        loaded.maps().filter(|(name, _)| wanted.is_none_or(|wanted| *name == wanted)).collect();
    if chosen.is_empty() && wanted.is_some() {
        let names: Vec<&str> = loaded.maps().map(|(name, _)| name).collect();
        return usage(format!("{}: no such map; there are {}", path.display(), names.join(", ")));
    }
    if output.is_json() {
        let list: Result<Vec<Value>> = chosen.into_iter().map(maps::json).collect();
        return output.print_json(&Value::Array(list?));
    }
    let mut out = String::new();
    for map in chosen {
        out.push_str(&maps::text(map, output)?);
    }
    output::print(&out)
}
