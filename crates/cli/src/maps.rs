//! Maps as JSON and as text, and filled from JSON.
//!
//! An entry is `{"key":…,"value":…}`, of a per-CPU map `{"key":…,"values":[{"cpu":0,"value":…}]}`. Keys and values are
//! typed where the map has BTF, else lists of bytes; what is written can be read back.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skep::RawMap;
use skep_abi::{Errno, MapType, update_flags};
use skep_btf::TypeId;

use crate::args::Output;
use crate::value;

/// Entries that are shown of one map.
const MAX_ENTRIES: usize = 1 << 20;

/// Whether a map of this type has entries that can be listed.
fn is_listable(map_type: MapType) -> bool {
    !matches!(
        map_type,
        MapType::Ringbuf
            | MapType::UserRingbuf
            | MapType::PerfEventArray
            | MapType::Queue
            | MapType::Stack
            | MapType::BloomFilter
    )
}

fn is_percpu(map_type: MapType) -> bool {
    matches!(map_type, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash)
}

/// Arrays have every key; entries that are all zero say nothing.
fn is_array(map_type: MapType) -> bool {
    matches!(map_type, MapType::Array | MapType::PercpuArray)
}

/// Keys are indices, whether the map has a type for them or not.
fn has_index_keys(map_type: MapType) -> bool {
    is_array(map_type)
        || matches!(map_type, MapType::ProgArray | MapType::ArrayOfMaps | MapType::Devmap | MapType::Cpumap)
}

/// Values are ids of maps.
fn is_map_of_maps(map_type: MapType) -> bool {
    matches!(map_type, MapType::ArrayOfMaps | MapType::HashOfMaps)
}

/// One side of an entry in JSON, by the type `id` of the map's BTF.
fn typed(map: &RawMap, id: u32, bytes: &[u8]) -> Value {
    match &map.info().btf {
        Some(types) if value::is_typed(&types.btf, TypeId(id)) => value::to_json(&types.btf, TypeId(id), bytes),
        _ => value::raw(bytes),
    }
}

fn key_type(map: &RawMap) -> u32 {
    map.info().btf.as_ref().map_or(0, |types| types.key_type)
}

fn value_type(map: &RawMap) -> u32 {
    map.info().btf.as_ref().map_or(0, |types| types.value_type)
}

/// An entry and whether its value is all zero.
pub(crate) fn entry(map: &RawMap, key: &[u8], bytes: &[u8]) -> Value {
    let info = map.info();
    let shown_key = match info.map_type {
        // libbpf gives internal maps no key type; all arrays have this one.
        _ if has_index_keys(info.map_type) && key_type(map) == 0 => {
            json!(key.try_into().map(u32::from_ne_bytes).unwrap_or_default())
        }
        _ => typed(map, key_type(map), key),
    };
    if info.map_type == MapType::ProgArray || is_map_of_maps(info.map_type) {
        let id = bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
        return json!({ "key": shown_key, "value": id });
    }
    if !is_percpu(info.map_type) {
        return json!({ "key": shown_key, "value": typed(map, value_type(map), bytes) });
    }
    let size = usize::try_from(info.value_size).unwrap_or(usize::MAX);
    let values: Vec<Value> = bytes
        .chunks(size.next_multiple_of(8).max(8))
        .enumerate()
        .map(|(cpu, chunk)| {
            json!({ "cpu": cpu, "value": typed(map, value_type(map), chunk.get(..size).unwrap_or(chunk)) })
        })
        .collect();
    json!({ "key": shown_key, "values": values })
}

/// All entries, in the map's own order; of arrays, those that are not all zero unless `zeros` asks for them.
fn entries(map: &RawMap, zeros: bool) -> Result<(Vec<Value>, usize)> {
    let mut list = Vec::new();
    let mut skipped = 0;
    for key in map.keys().take(MAX_ENTRIES) {
        let bytes = match map.lookup(&key, 0) {
            Ok(bytes) => bytes,
            // Deleted since it was listed, or an empty slot.
            Err(Errno::ENOENT) => continue,
            Err(errno) => bail!("map {}: lookup: {errno}", map.name()),
        };
        if !zeros && is_array(map.info().map_type) && bytes.iter().all(|b| *b == 0) {
            skipped += 1;
            continue;
        }
        list.push(entry(map, &key, &bytes));
    }
    Ok((list, skipped))
}

/// `{"name","type","entries"}`.
pub(crate) fn json((name, map): (&str, &RawMap)) -> Result<Value> {
    let listed = if is_listable(map.info().map_type) { entries(map, true)?.0 } else { Vec::new() };
    Ok(json!({ "name": name, "type": map.info().map_type.name(), "entries": listed }))
}

/// The map's entries, one line each.
pub(crate) fn text((name, map): (&str, &RawMap), output: Output) -> Result<String> {
    let info = map.info();
    let (bold, plain) = if output.colored() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let mut out = format!("{bold}{name}{plain} ({}", info.map_type);
    // Writing to a string cannot fail.
    if !is_listable(info.map_type) {
        let _ = writeln!(out, ", {} bytes or entries at most)", info.max_entries);
        return Ok(out);
    }
    let (list, skipped) = entries(map, false)?;
    let zeros = if skipped > 0 { format!(", {skipped} more zero") } else { String::new() };
    let _ = writeln!(out, ", {} of {} entries{zeros})", list.len(), info.max_entries);
    for entry in list {
        let _ = writeln!(out, "  {}", line(&entry));
    }
    Ok(out)
}

/// `key: value`, per-CPU values with their sum where they are numbers.
pub(crate) fn line(entry: &Value) -> String {
    let key = plain(&entry["key"]);
    let Some(values) = entry["values"].as_array() else {
        return format!("{key}: {}", plain(&entry["value"]));
    };
    let numbers: Option<Vec<u64>> = values.iter().map(|v| v["value"].as_u64()).collect();
    let shown: Vec<String> = values.iter().map(|v| format!("cpu{} {}", plain(&v["cpu"]), plain(&v["value"]))).collect();
    match numbers {
        Some(numbers) => {
            let sum = numbers.iter().fold(0u64, |a, b| a.wrapping_add(*b));
            format!("{key}: {sum} ({})", shown.join(", "))
        }
        None => format!("{key}: {}", shown.join(", ")),
    }
}

/// JSON for people: strings of bytes run together, objects without quotes around their keys.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Array(items) if items.iter().all(is_byte) && !items.is_empty() => {
            let digits: Vec<&str> = items.iter().filter_map(|i| i.as_str()?.strip_prefix("0x")).collect();
            digits.join(" ")
        }
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let shown: Vec<String> = members.iter().map(|(name, v)| format!("{name}={}", plain(v))).collect();
            format!("{{{}}}", shown.join(" "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_byte(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 4 && text.starts_with("0x"))
}

/// Updates the map with entries as [`json`] shows them: the list, or an object that has it as `entries`.
pub(crate) fn fill(map: &RawMap, json: &Value) -> Result<()> {
    let list = json.get("entries").unwrap_or(json);
    let Value::Array(list) = list else { bail!("expected a list of entries, each with key and value") };
    for (index, item) in list.iter().enumerate() {
        fill_one(map, item).with_context(|| format!("entry {index}"))?;
    }
    Ok(())
}

fn fill_one(map: &RawMap, item: &Value) -> Result<()> {
    let info = map.info();
    let key = item.get("key").context("has no key")?;
    let key = match key {
        Value::Number(number) if has_index_keys(info.map_type) => {
            let index = number.as_u64().and_then(|n| u32::try_from(n).ok()).context("the key is no index")?;
            index.to_ne_bytes().to_vec()
        }
        key => untyped(map, key_type(map), key, info.key_size).context("key")?,
    };
    let parse = |json: &Value| untyped(map, value_type(map), json, info.value_size).context("value");
    let update = |value: &[u8], flags: u64| {
        map.update(&key, value, flags).map_err(|errno| anyhow::anyhow!("cannot be updated: {errno}"))
    };
    if let Some(value) = item.get("value") {
        let flags = if is_percpu(info.map_type) { update_flags::BPF_F_ALL_CPUS } else { update_flags::BPF_ANY };
        return update(&parse(value)?, flags);
    }
    let Some(Value::Array(values)) = item.get("values") else { bail!("has neither value nor values") };
    for value in values {
        let cpu = value.get("cpu").and_then(Value::as_u64).context("values need a cpu")?;
        update(&parse(value.get("value").context("values need a value")?)?, update_flags::BPF_F_CPU | cpu << 32)?;
    }
    Ok(())
}

fn untyped(map: &RawMap, id: u32, json: &Value, size: u32) -> Result<Vec<u8>> {
    let size = usize::try_from(size)?;
    match &map.info().btf {
        Some(types) if value::is_typed(&types.btf, TypeId(id)) => {
            match value::from_json(&types.btf, TypeId(id), json) {
                Ok(bytes) if bytes.len() == size => Ok(bytes),
                Ok(bytes) => bail!("the type has {} bytes, the map {size}", bytes.len()),
                // Bytes are always possible too, as bpftool takes them.
                Err(error) => value::raw_from_json(json, size).map_err(|_| error),
            }
        }
        _ => value::raw_from_json(json, size),
    }
}

/// A key as [`text`] shows it.
pub(crate) fn key_text(map: &RawMap, key: &[u8]) -> String {
    plain(&entry(map, key, &[])["key"])
}

/// One value by its type.
pub(crate) fn value_json(map: &RawMap, bytes: &[u8]) -> Value {
    typed(map, value_type(map), bytes)
}

/// Bytes as bpftool writes them in JSON.
pub(crate) fn hex_bytes(bytes: &[u8]) -> Value {
    bytes.iter().map(|byte| format!("{byte:#04x}")).collect()
}

/// A key from the words of a command line.
pub(crate) fn parse_key(map: &RawMap, words: &[&str]) -> Result<Vec<u8>> {
    let info = map.info();
    parse_data(map, if has_index_keys(info.map_type) { 0 } else { key_type(map) }, words, info.key_size)
}

/// A value from the words of a command line.
pub(crate) fn parse_value(map: &RawMap, words: &[&str]) -> Result<Vec<u8>> {
    parse_data(map, value_type(map), words, map.info().value_size)
}

/// As many bytes as the map wants, `hex` in front or not; or one number; or JSON by the type.
fn parse_data(map: &RawMap, id: u32, words: &[&str], size: u32) -> Result<Vec<u8>> {
    let size = usize::try_from(size)?;
    let (radix, digits) = match words {
        ["hex", rest @ ..] => (16, rest),
        rest => (10, rest),
    };
    if radix == 10 && digits.first().is_some_and(|word| word.starts_with(['{', '[', '"'])) {
        return untyped(map, id, &serde_json::from_str(&digits.join(" "))?, u32::try_from(size)?);
    }
    if let ([word], 2 | 4 | 8) = (digits, size) {
        let number = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if radix == 10 => word.parse::<i64>().map(i64::cast_unsigned).or_else(|_| word.parse()),
            None => u64::from_str_radix(word, 16),
        };
        let number = number.with_context(|| format!("'{word}' is no number"))?;
        let bytes = number.to_ne_bytes();
        let (low, high) = bytes.split_at(size);
        let negative = number.cast_signed() < 0 && low.last().is_some_and(|byte| *byte >= 0x80);
        if high.iter().any(|byte| *byte != if negative { 0xff } else { 0 }) {
            bail!("{word} does not fit {size} bytes");
        }
        return Ok(low.to_vec());
    }
    let bytes: Result<Vec<u8>> = digits
        .iter()
        .map(|word| {
            let parsed = match word.strip_prefix("0x") {
                Some(hex) => u8::from_str_radix(hex, 16),
                None => u8::from_str_radix(word, radix),
            };
            parsed.with_context(|| format!("'{word}' is no byte"))
        })
        .collect();
    let bytes = bytes?;
    if bytes.len() == size { Ok(bytes) } else { bail!("{} bytes, the map has {size}", bytes.len()) }
}
