//! `skep map lookup`, `update`, `delete`, `getnext`, `push`, `pop`, … and `batch`: elements of an object's maps.
//!
//! The words are bpftool's: `name NAME key [hex] BYTES value [hex] BYTES any|exist|noexist`, and `cpu N` or `all-cpus` for
//! per-CPU maps. Where a key or value has a type, a number or JSON will do. Invariant: a command is read completely before
//! it does anything.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skep::{Loaded, RawMap};
use skep_abi::{Errno, update_flags};

use crate::args::{MapVerb, Output};
use crate::exit::{Rejected, usage};
use crate::{input, maps, output};

/// Words that end a list of bytes.
const KEYWORDS: [&str; 9] = ["name", "key", "value", "cpu", "all-cpus", "any", "exist", "noexist", "lock"];

/// What a command line asks for.
struct Request<'w> {
    map: &'w RawMap,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    flags: u64,
}

/// Runs one verb.
pub(crate) fn run(loaded: &Loaded, verb: MapVerb, words: &[String], output: Output) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (text, json, found) = execute(loaded, verb, &words)?;
    if output.is_json() {
        output.print_json(&json)?
    } else {
        output::print(&text)?
    }
    if found { Ok(()) } else { Err(Rejected.into()) }
}

/// Runs the commands of a file, one a line, `map` in front or not, as `bpftool batch file` has them; `-` is standard input.
pub(crate) fn batch(loaded: &Loaded, path: &Path, output: Output) -> Result<()> {
    let script = if path == Path::new("-") {
        let mut script = String::new();
        std::io::stdin().lock().take(input::MAX_FILE).read_to_string(&mut script).context("standard input")?;
        script
    } else {
        let bytes = input::read_regular(path, input::MAX_FILE)?;
        String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8", path.display()))?
    };
    let mut answers = Vec::new();
    let mut all_found = true;
    for (number, line) in script.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().peekable();
        let _ = words.next_if_eq(&"map");
        let Some(verb) = words.next() else { continue };
        let place = || format!("{}:{}", path.display(), number + 1);
        let Some(verb) = MapVerb::from_word(verb) else { return usage(format!("{}: no command '{verb}'", place())) };
        let (text, json, found) = execute(loaded, verb, &words.collect::<Vec<_>>()).with_context(place)?;
        all_found &= found;
        if output.is_json() {
            answers.push(json);
        } else {
            output::print(&text)?;
        }
    }
    if output.is_json() {
        output.print_json(&Value::Array(answers))?;
    }
    if all_found { Ok(()) } else { Err(Rejected.into()) }
}

/// What a command prints, as text and as JSON, and whether the key was there.
fn execute(loaded: &Loaded, verb: MapVerb, words: &[&str]) -> Result<(String, Value, bool)> {
    let request = parse(loaded, words)?;
    let map = request.map;
    let key = || match &request.key {
        Some(key) => Ok(key.as_slice()),
        None if map.info().key_size == 0 => Ok(&[][..]),
        None => usage("a key is missing: `key BYTES`"),
    };
    let value = || match &request.value {
        Some(value) => Ok(value.as_slice()),
        None => usage("a value is missing: `value BYTES`"),
    };
    let done = |result: Result<(), Errno>| match result {
        Ok(()) => Ok((String::new(), Value::Null, true)),
        Err(errno) => bail!("map {}: {}: {errno}", map.name(), verb.word()),
    };
    let shown = |key: &[u8], result: Result<Vec<u8>, Errno>| match result {
        Ok(bytes) => Ok(show(map, key, &bytes, request.flags)),
        Err(Errno::ENOENT) => Ok(("Not found\n".to_owned(), json!({ "error": "Not found" }), false)),
        Err(errno) => bail!("map {}: {}: {errno}", map.name(), verb.word()),
    };
    match verb {
        MapVerb::Lookup => shown(key()?, map.lookup(key()?, request.flags)),
        MapVerb::Update => done(map.update(key()?, &for_all_cpus(map, value()?, request.flags), request.flags)),
        MapVerb::Delete => done(map.delete(key()?)),
        MapVerb::Push | MapVerb::Enqueue => done(map.update(&[], value()?, request.flags)),
        MapVerb::Peek => shown(&[], map.lookup(&[], request.flags)),
        MapVerb::Pop | MapVerb::Dequeue => shown(&[], map.lookup_and_delete(&[], request.flags)),
        MapVerb::Freeze => done(map.freeze()),
        MapVerb::Getnext => match map.next_key(request.key.as_deref()) {
            Ok(next) => {
                let text = format!("{}\n", maps::key_text(map, &next));
                Ok((text, json!({ "next_key": maps::hex_bytes(&next) }), true))
            }
            Err(Errno::ENOENT) => Ok(("No more keys\n".to_owned(), json!({ "error": "No more keys" }), false)),
            Err(errno) => bail!("map {}: getnext: {errno}", map.name()),
        },
    }
}

/// An element for people and for scripts, with bpftool's keys.
fn show(map: &RawMap, key: &[u8], bytes: &[u8], flags: u64) -> (String, Value, bool) {
    if flags & update_flags::BPF_F_CPU != 0 {
        let cpu = flags >> 32;
        let typed = maps::value_json(map, bytes);
        let text = format!("{}: cpu{cpu} {}\n", maps::key_text(map, key), maps::plain(&typed));
        let json =
            json!({ "key": maps::hex_bytes(key), "cpu": cpu, "value": maps::hex_bytes(bytes), "formatted": typed });
        return (text, json, true);
    }
    let entry = maps::entry(map, key, bytes);
    if key.is_empty() {
        let text = format!("{}\n", maps::plain(&entry["value"]));
        return (text, json!({ "value": maps::hex_bytes(bytes), "formatted": entry["value"] }), true);
    }
    let text = format!("{}\n", maps::line(&entry));
    let info = map.info();
    let json = if info.map_type.is_percpu() {
        let values = bytes.chunks(info.percpu_stride()).enumerate();
        let values: Vec<Value> =
            values.map(|(cpu, value)| json!({ "cpu": cpu, "value": maps::hex_bytes(value) })).collect();
        json!({ "key": maps::hex_bytes(key), "values": values, "formatted": entry })
    } else {
        json!({ "key": maps::hex_bytes(key), "value": maps::hex_bytes(bytes), "formatted": entry })
    };
    (text, json, true)
}

/// One value stands for all CPUs when no CPU is named, as a plain update needs all of them.
fn for_all_cpus(map: &RawMap, value: &[u8], flags: u64) -> Vec<u8> {
    let info = map.info();
    let one = update_flags::BPF_F_CPU | update_flags::BPF_F_ALL_CPUS;
    if !info.map_type.is_percpu() || flags & one != 0 || value.len() != info.value_size as usize {
        return value.to_vec();
    }
    let mut padded = value.to_vec();
    padded.resize(info.percpu_stride(), 0);
    padded.repeat(info.n_cpus as usize)
}

fn parse<'l>(loaded: &'l Loaded, words: &[&str]) -> Result<Request<'l>> {
    let [first, name, rest @ ..] = words else { return usage("which map? `name NAME`") };
    if *first != "name" {
        return usage(format!("expected `name NAME`, not '{first}'"));
    }
    let Some((_, map)) = loaded.maps().find(|(known, _)| known == name) else {
        let names: Vec<&str> = loaded.maps().map(|(name, _)| name).collect();
        return usage(format!("no map '{name}'; there are {}", names.join(", ")));
    };
    let mut request = Request { map, key: None, value: None, flags: 0 };
    let mut words = rest.iter().copied().peekable();
    while let Some(word) = words.next() {
        let mut data =
            || -> Vec<&str> { std::iter::from_fn(|| words.next_if(|word| !KEYWORDS.contains(word))).collect() };
        match word {
            "key" => {
                request.key = Some(maps::parse_key(map, &data()).or_else(|error| usage(format!("key: {error:#}")))?)
            }
            "value" => {
                request.value =
                    Some(maps::parse_value(map, &data()).or_else(|error| usage(format!("value: {error:#}")))?);
            }
            "cpu" => match words.next().map(str::parse::<u32>) {
                Some(Ok(cpu)) => request.flags |= update_flags::BPF_F_CPU | u64::from(cpu) << 32,
                _ => return usage("`cpu` needs the number of a CPU"),
            },
            "all-cpus" => request.flags |= update_flags::BPF_F_ALL_CPUS,
            "any" => request.flags |= update_flags::BPF_ANY,
            "exist" => request.flags |= update_flags::BPF_EXIST,
            "noexist" => request.flags |= update_flags::BPF_NOEXIST,
            "lock" => request.flags |= update_flags::BPF_F_LOCK,
            other => return usage(format!("what is '{other}'?")),
        }
    }
    Ok(request)
}
