//! Text vectors of the user side of maps: commands and what they answer, on a map of the kernel and on one of ours.
//!
//! A file holds cases, a case holds commands with their answers after `->`; see testing/README.md. Invariant: an answer is
//! the same on every machine: values that all CPUs share are written once, and nothing depends on how many there are.
//! `BLESS=1` rewrites the answers from the kernel, and those that it cannot give from ours.

use std::fmt::Write as _;

use skep_abi::{Errno, MapType, map_flags, update_flags};
use skep_runtime::map::{Map, MapSpec};
use skep_sync::{Config, CpuSet};

use crate::kernel;

/// How many vCPUs our maps have, whatever the machine: vectors name CPU 1, and `cpu=end`, which is the first too many.
pub const OUR_CPUS: usize = 4;

/// One case of a file.
#[derive(Debug, Clone)]
pub struct MapCase {
    /// Its name.
    pub name: String,
    /// Why the kernel is not asked, if it is not.
    pub skip_kernel: Option<String>,
    /// The commands.
    pub steps: Vec<Step>,
}

/// A command and its answer.
#[derive(Debug, Clone)]
pub struct Step {
    /// The line in its file, from 0.
    pub line: usize,
    /// The words of the command.
    pub words: Vec<String>,
    /// What it must answer.
    pub answer: String,
}

/// The cases of a file.
///
/// # Errors
/// The line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<MapCase>, String> {
    let mut cases: Vec<MapCase> = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if let Some(name) = content.strip_prefix("== ") {
            cases.push(MapCase { name: name.to_owned(), skip_kernel: None, steps: Vec::new() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| format!("line {}: before the first case", line + 1))?;
        if let Some(why) = content.strip_prefix("-- skip kernel ") {
            case.skip_kernel = Some(why.to_owned());
            continue;
        }
        let (command, answer) = content.split_once("->").unwrap_or((content, ""));
        let words = command.split_whitespace().map(str::to_owned).collect();
        case.steps.push(Step { line, words, answer: answer.trim().to_owned() });
    }
    Ok(cases)
}

/// A file's text with other answers: `(line, answer)`.
#[must_use]
pub fn with_answers(text: &str, answers: &[(usize, String)]) -> String {
    let mut out = String::new();
    for (line, content) in text.lines().enumerate() {
        match answers.iter().find(|(at, _)| *at == line) {
            Some((_, answer)) => {
                let command = content.split_once("->").map_or(content, |(command, _)| command).trim_end();
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{command} -> {answer}");
            }
            None => {
                out.push_str(content);
                out.push('\n');
            }
        }
    }
    out
}

/// A map of either side.
trait Target {
    fn value_len(&self) -> usize;
    fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno>;
    fn has(&self, value: &[u8]) -> Result<(), Errno>;
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno>;
    fn delete(&self, key: &[u8]) -> Result<(), Errno>;
    fn next(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno>;
    fn take(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno>;
    fn freeze(&self) -> Result<(), Errno>;
    fn lookup_batch(&self, count: u32, flags: u64, delete: bool) -> Result<Found, Errno>;
    fn update_batch(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<u32, Errno>;
    fn delete_batch(&self, keys: &[u8]) -> Result<u32, Errno>;
}

/// What a batch found.
struct Found {
    keys: Vec<u8>,
    values: Vec<u8>,
    end: bool,
}

impl Target for Map {
    fn value_len(&self) -> usize {
        self.info().user_value_size()
    }

    fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        Map::lookup(self, key, flags)
    }

    fn has(&self, value: &[u8]) -> Result<(), Errno> {
        self.lookup_into(&[], &mut value.to_vec(), 0)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        Map::update(self, key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        Map::delete(self, key)
    }

    fn next(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.next_key(key)
    }

    fn take(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.lookup_and_delete(key, flags)
    }

    fn freeze(&self) -> Result<(), Errno> {
        Map::freeze(self)
    }

    fn lookup_batch(&self, count: u32, flags: u64, delete: bool) -> Result<Found, Errno> {
        let batch = match delete {
            true => self.lookup_and_delete_batch(None, count, flags),
            false => Map::lookup_batch(self, None, count, flags),
        };
        batch.map(|batch| Found { keys: batch.keys, values: batch.values, end: batch.end })
    }

    fn update_batch(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<u32, Errno> {
        Map::update_batch(self, keys, values, flags).map_err(|(errno, _)| errno)
    }

    fn delete_batch(&self, keys: &[u8]) -> Result<u32, Errno> {
        Map::delete_batch(self, keys).map_err(|(errno, _)| errno)
    }
}

impl Target for kernel::Map {
    fn value_len(&self) -> usize {
        kernel::Map::value_len(self)
    }

    fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        kernel::Map::lookup(self, key, flags)
    }

    fn has(&self, value: &[u8]) -> Result<(), Errno> {
        kernel::Map::has(self, value)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        kernel::Map::update(self, key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        kernel::Map::delete(self, key)
    }

    fn next(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.next_key(key)
    }

    fn take(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.lookup_and_delete(key, flags)
    }

    fn freeze(&self) -> Result<(), Errno> {
        kernel::Map::freeze(self)
    }

    fn lookup_batch(&self, count: u32, flags: u64, delete: bool) -> Result<Found, Errno> {
        let batch = self.lookup_batch_with(None, count, delete, flags)?;
        Ok(Found { keys: batch.keys, values: batch.values, end: batch.end.is_some() })
    }

    fn update_batch(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<u32, Errno> {
        kernel::Map::update_batch(self, keys, values, flags).map_err(|(errno, _)| errno)
    }

    fn delete_batch(&self, keys: &[u8]) -> Result<u32, Errno> {
        kernel::Map::delete_batch(self, keys).map_err(|(errno, _)| errno)
    }
}

/// Which side answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The running kernel.
    Kernel,
    /// This engine.
    Ours,
}

/// The answer of each command.
///
/// # Errors
/// A command that makes no sense.
pub fn answers(case: &MapCase, side: Side) -> Result<Vec<(usize, String)>, String> {
    let cpus = CpuSet::new(Config { n_possible: OUR_CPUS, region: 1 << 26, ..Config::default() })
        .map_err(|error| error.to_string())?;
    let mut map: Option<(Box<dyn Target>, MapSpec)> = None;
    let mut answers = Vec::new();
    for step in &case.steps {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        let answer = match (words.as_slice(), &map) {
            (["create", rest @ ..], _) => {
                let spec = spec(rest)?;
                let created = create(&spec, side, &cpus);
                let answer = created.as_ref().map(|_| "ok".to_owned()).unwrap_or_else(Errno::to_string);
                map = created.ok().map(|map| (map, spec));
                answer
            }
            (words, Some((map, spec))) => run(words, map.as_ref(), spec)
                .map_err(|problem| format!("{}, line {}: {problem}", case.name, step.line + 1))?,
            _ => return Err(format!("{}, line {}: no map", case.name, step.line + 1)),
        };
        answers.push((step.line, answer));
    }
    Ok(answers)
}

fn create(spec: &MapSpec, side: Side, cpus: &CpuSet) -> Result<Box<dyn Target>, Errno> {
    Ok(match side {
        Side::Ours => Box::new(Map::create(spec, cpus)?),
        Side::Kernel => {
            let map_type = spec.map_type.ok_or(Errno::EINVAL)?;
            let create = kernel::MapCreate {
                flags: spec.flags,
                map_extra: spec.map_extra,
                name: &spec.name,
                ..kernel::MapCreate::new(map_type, spec.key_size, spec.value_size, spec.max_entries)
            };
            Box::new(create.create()?)
        }
    })
}

fn spec(words: &[&str]) -> Result<MapSpec, String> {
    let [map_type, key, value, max, rest @ ..] = words else { return Err("create TYPE KEY VALUE MAX".to_owned()) };
    let map_type = MapType::from_name(map_type).ok_or_else(|| format!("no map type {map_type}"))?;
    let number = |word: &str| word.parse::<u32>().map_err(|error| format!("{word}: {error}"));
    let mut spec = MapSpec::new(map_type, number(key)?, number(value)?, number(max)?);
    for word in rest {
        match word.split_once('=') {
            Some(("extra", extra)) => spec.map_extra = u64::from(number(extra)?),
            Some(("name", name)) => name.clone_into(&mut spec.name),
            Some(("flags", flags)) => {
                for flag in flags.split('|') {
                    spec.flags |= create_flag(flag).ok_or_else(|| format!("no flag {flag}"))?;
                }
            }
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(spec)
}

fn create_flag(name: &str) -> Option<u32> {
    Some(match name {
        "no_prealloc" => map_flags::BPF_F_NO_PREALLOC,
        "no_common_lru" => map_flags::BPF_F_NO_COMMON_LRU,
        "numa_node" => map_flags::BPF_F_NUMA_NODE,
        "rdonly" => map_flags::BPF_F_RDONLY,
        "wronly" => map_flags::BPF_F_WRONLY,
        "zero_seed" => map_flags::BPF_F_ZERO_SEED,
        "rdonly_prog" => map_flags::BPF_F_RDONLY_PROG,
        "wronly_prog" => map_flags::BPF_F_WRONLY_PROG,
        "mmapable" => map_flags::BPF_F_MMAPABLE,
        "preserve_elems" => map_flags::BPF_F_PRESERVE_ELEMS,
        "inner_map" => map_flags::BPF_F_INNER_MAP,
        _ => return None,
    })
}

/// The flags among the words, and the other words.
fn flags<'w>(words: &[&'w str]) -> Result<(u64, Vec<&'w str>), String> {
    let mut flags = 0;
    let mut rest = Vec::new();
    for &word in words {
        flags |= match word {
            "noexist" => update_flags::BPF_NOEXIST,
            "exist" => update_flags::BPF_EXIST,
            "lock" => update_flags::BPF_F_LOCK,
            "all_cpus" => update_flags::BPF_F_ALL_CPUS,
            _ => match word.split_once('=') {
                Some(("cpu", cpu)) => {
                    let cpu = match cpu {
                        "end" => OUR_CPUS as u64,
                        cpu => cpu.parse().map_err(|error| format!("{word}: {error}"))?,
                    };
                    update_flags::BPF_F_CPU | cpu << 32
                }
                Some(("high", high)) => high.parse::<u64>().map_err(|error| format!("{word}: {error}"))? << 32,
                Some(("flags", raw)) => raw.parse().map_err(|error| format!("{word}: {error}"))?,
                _ => {
                    rest.push(word);
                    0
                }
            },
        };
    }
    Ok((flags, rest))
}

fn run(words: &[&str], map: &dyn Target, spec: &MapSpec) -> Result<String, String> {
    let [command, rest @ ..] = words else { return Err("no command".to_owned()) };
    let (flags, rest) = flags(rest)?;
    let value = |word: &str| value(word, map, spec, flags);
    let show = |bytes: Vec<u8>| show(&bytes, spec, flags);
    let done = |result: Result<(), Errno>| result.map_or_else(|errno| errno.to_string(), |()| "ok".to_owned());
    Ok(match (*command, rest.as_slice()) {
        ("update", [key, new]) => done(map.update(&bytes(key)?, &value(new)?, flags)),
        ("push", [new]) => done(map.update(&[], &value(new)?, flags)),
        ("lookup", [key]) => map.lookup(&bytes(key)?, flags).map_or_else(|errno| errno.to_string(), show),
        ("peek", []) => map.lookup(&[], flags).map_or_else(|errno| errno.to_string(), show),
        ("has", [wanted]) => done(map.has(&value(wanted)?)),
        ("delete", [key]) => done(map.delete(&bytes(key)?)),
        ("take", [key]) => map.take(&bytes(key)?, flags).map_or_else(|errno| errno.to_string(), show),
        ("pop", []) => map.take(&[], flags).map_or_else(|errno| errno.to_string(), show),
        ("next", []) => map.next(None).map_or_else(|errno| errno.to_string(), |key| hex(&key)),
        ("next", [key]) => map.next(Some(&bytes(key)?)).map_or_else(|errno| errno.to_string(), |key| hex(&key)),
        ("freeze", []) => done(map.freeze()),
        ("keys", ["sorted"]) => keys(map, true),
        ("keys", []) => keys(map, false),
        ("batch_update", pairs) => {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for pair in pairs {
                let (key, new) = pair.split_once('=').ok_or_else(|| format!("{pair}: KEY=VALUE"))?;
                keys.extend(bytes(key)?);
                values.extend(value(new)?);
            }
            count(map.update_batch(&keys, &values, flags))
        }
        ("batch_delete", keys) => {
            let keys: Result<Vec<Vec<u8>>, String> = keys.iter().map(|key| bytes(key)).collect();
            count(map.delete_batch(&keys?.concat()))
        }
        ("batch_lookup" | "batch_take", [max]) => {
            let max = max.parse().map_err(|error| format!("{max}: {error}"))?;
            match map.lookup_batch(max, flags, *command == "batch_take") {
                Ok(found) => batch(&found, map, spec, flags),
                Err(errno) => errno.to_string(),
            }
        }
        _ => return Err(format!("no such command: {}", words.join(" "))),
    })
}

fn count(result: Result<u32, Errno>) -> String {
    result.map_or_else(|errno| errno.to_string(), |count| count.to_string())
}

fn keys(map: &dyn Target, sorted: bool) -> String {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Ok(key) = map.next(keys.last().map(Vec::as_slice)) {
        keys.push(key);
    }
    if sorted {
        keys.sort();
    }
    keys.iter().map(|key| hex(key)).collect::<Vec<_>>().join(" ")
}

fn batch(found: &Found, map: &dyn Target, spec: &MapSpec, flags: u64) -> String {
    let one = flags & (update_flags::BPF_F_CPU | update_flags::BPF_F_ALL_CPUS) != 0;
    let size = if one { spec.value_size as usize } else { map.value_len() };
    let pairs = found.keys.chunks(spec.key_size as usize).zip(found.values.chunks(size));
    let mut words: Vec<String> =
        pairs.map(|(key, value)| format!("{}={}", hex(key), show(value, spec, flags))).collect();
    if found.end {
        words.push("end".to_owned());
    }
    words.join(" ")
}

fn bytes(word: &str) -> Result<Vec<u8>, String> {
    if word == "-" {
        return Ok(Vec::new());
    }
    let digits: Option<Vec<u8>> =
        word.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(|| format!("not hex: {word}"))?;
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A value as the command takes it: `*HEX` is one value for each CPU.
fn value(word: &str, map: &dyn Target, spec: &MapSpec, flags: u64) -> Result<Vec<u8>, String> {
    let Some(one) = word.strip_prefix('*') else { return bytes(word) };
    let mut one = bytes(one)?;
    one.resize((spec.value_size as usize).next_multiple_of(8), 0);
    let copies = if flags & update_flags::BPF_F_CPU != 0 { 1 } else { map.value_len() / one.len() };
    Ok(one.repeat(copies))
}

/// A value as the vectors write it: values of all CPUs once if they are alike, else the first and `others`.
fn show(value: &[u8], spec: &MapSpec, flags: u64) -> String {
    let percpu = spec.map_type.is_some_and(MapType::is_percpu);
    if !percpu || flags & update_flags::BPF_F_CPU != 0 {
        return hex(value);
    }
    let size = spec.value_size as usize;
    let mut values = value.chunks(size.next_multiple_of(8)).map(|one| &one[..size]);
    let first = values.next().unwrap_or_default();
    if values.all(|one| one == first) { format!("*{}", hex(first)) } else { format!("{} and others", hex(first)) }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".to_owned() } else { crate::vectors::hex(bytes) }
}
