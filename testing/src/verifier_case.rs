//! Verifier vectors: a program in assembler text, and what the verifier says of it.
//!
//! Owns the format of `testing/vectors/verifier/*.txt`:
//!
//! ```text
//! # what the vector is about
//! type: xdp
//! attach: cgroup_inet_egress        (optional)
//! flags: strict_alignment           (optional, BPF_F_* in lower case)
//! license: none                     (optional)
//! caps: none                        (optional: loaded without any capability)
//! target: bpf_iter_bpf_map_elem     (optional: the kernel function that it is about; that of `bpf_iter_bpf_map` is alike
//!                                    in its first two fields)
//! profile: 6.18                     (optional: `6.18` or `7.3`; else what skep verifies by)
//! skip kernel: REASON               (optional: the running kernel is not asked)
//! map m: hash 4 8 16 flags=0x80 extra=0 contents=01020304
//! ---
//! r0 = 0
//! exit
//! ---
//! reject EACCES
//! R0 !read_ok
//! ```
//!
//! `contents` are the first value, of every CPU in a per-CPU map, and freeze the map.
//!
//! The last part is `accept` or `reject ERRNO` and the last line of the log, followed by any number of `| ` lines that the log
//! of level 2 has, and of `= ` lines that the rewritten program has, each in this order; expectations of a vector that skips the
//! kernel are blessed from ours. Invariant: what another vector expects is what the running kernel says, where there is one.

use std::borrow::Cow;
use std::fmt::Write as _;

use skep_abi::{AttachType, Errno, MapType, ProgType, RawInsn, asm};
use skep_verifier::{
    DumpOptions, Explanation, Log, MapShape, Options, Profile, ProgFlags, ProgramSpec, RewriteOptions,
};

use crate::kernel::{Map, MapCreate, ProgLoad};

/// A map of a vector.
#[derive(Clone, Debug)]
pub struct CaseMap {
    /// Name in the assembler text.
    pub name: String,
    /// Type.
    pub map_type: MapType,
    /// Key size, value size, entries.
    pub sizes: (u32, u32, u32),
    /// `BPF_F_*`.
    pub flags: u32,
    /// The first value; the map is frozen once it is written.
    pub contents: Option<Vec<u8>>,
    /// The map that is the template of its values.
    pub inner: Option<String>,
    /// `map_extra`: of an arena, where user space has it.
    pub extra: u64,
}

/// A parsed vector.
#[derive(Clone, Debug)]
pub struct Case {
    /// Lines before the first `---`, verbatim.
    pub head: String,
    /// The program, verbatim.
    pub text: String,
    /// Program type.
    pub prog_type: ProgType,
    /// Attach type.
    pub attach_type: AttachType,
    /// `BPF_F_*` of the load.
    pub flags: u32,
    /// Licence string.
    pub license: String,
    /// Maps by index.
    pub maps: Vec<CaseMap>,
    /// Assembled program; map references hold indices.
    pub insns: Vec<RawInsn>,
    /// Expected verdict.
    pub expected: Option<Outcome>,
    /// Lines that the log has.
    pub log_lines: Vec<String>,
    /// Lines that the rewritten program has.
    pub xlated_lines: Vec<String>,
    /// The kernel function that it is about.
    pub target: Option<String>,
    /// Whose rules ours verifies by.
    pub profile: Profile,
    /// Why the running kernel is not asked.
    pub skip_kernel: Option<String>,
    /// Loaded without any capability.
    pub unprivileged: bool,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted.
    Accept,
    /// Refused with this errno, and this last line of the log.
    Reject(Errno, String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Reject(errno, message) => {
                write!(f, "reject {}\n{message}", errno.name().unwrap_or("?"))
            }
        }
    }
}

/// Reads a vector.
///
/// # Errors
/// One sentence with what is wrong.
pub fn parse(source: &str) -> Result<Case, String> {
    let mut parts = source.splitn(3, "\n---\n");
    let head = parts.next().unwrap_or_default().to_owned();
    let text = parts.next().ok_or("no program after '---'")?.to_owned();
    let tail = parts.next().unwrap_or_default();
    let mut case = Case {
        head: head.clone(),
        text: text.clone(),
        prog_type: ProgType::SocketFilter,
        attach_type: AttachType::default(),
        flags: 0,
        license: "GPL".to_owned(),
        maps: Vec::new(),
        insns: Vec::new(),
        expected: None,
        log_lines: Vec::new(),
        xlated_lines: Vec::new(),
        target: None,
        profile: Profile::default(),
        skip_kernel: None,
        unprivileged: false,
    };
    for line in head.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("no ':' in '{line}'"))?;
        let value = value.trim();
        match key {
            "type" => case.prog_type = ProgType::from_name(value).ok_or_else(|| format!("program type '{value}'"))?,
            "attach" => {
                case.attach_type = AttachType::from_name(value).ok_or_else(|| format!("attach type '{value}'"))?;
            }
            "target" => case.target = Some(value.to_owned()),
            "skip kernel" => case.skip_kernel = Some(value.to_owned()),
            "profile" => {
                case.profile = match value {
                    "6.18" => Profile::linux_6_18(),
                    "7.3" => Profile::linux_7_3(),
                    _ => return Err(format!("profile '{value}'")),
                }
            }
            "caps" if value == "none" => case.unprivileged = true,
            "license" => case.license = if value == "none" { String::new() } else { value.to_owned() },
            "flags" => {
                for flag in value.split_whitespace() {
                    case.flags |= match flag {
                        "strict_alignment" => ProgFlags::STRICT_ALIGNMENT,
                        "any_alignment" => ProgFlags::ANY_ALIGNMENT,
                        "test_state_freq" => ProgFlags::TEST_STATE_FREQ,
                        "sleepable" => ProgFlags::SLEEPABLE,
                        "xdp_has_frags" => ProgFlags::XDP_HAS_FRAGS,
                        _ => return Err(format!("flag '{flag}'")),
                    };
                }
            }
            _ => match key.strip_prefix("map ") {
                Some(name) => case.maps.push(parse_map(name.trim(), value)?),
                None => return Err(format!("key '{key}'")),
            },
        }
    }
    let maps = case.maps.clone();
    let mut index = |name: &str| maps.iter().position(|m| m.name == name).and_then(|i| i32::try_from(i).ok());
    case.insns = asm::assemble_with(&text, &mut index).map_err(|e| e.to_string())?;
    let mut lines = tail.lines();
    match lines.next().map(str::trim) {
        None | Some("") => {}
        Some("accept") => case.expected = Some(Outcome::Accept),
        Some(line) => {
            let name = line.strip_prefix("reject ").ok_or_else(|| format!("verdict '{line}'"))?;
            let errno =
                (1..600).map(Errno).find(|e| e.name() == Some(name)).ok_or_else(|| format!("errno '{name}'"))?;
            case.expected = Some(Outcome::Reject(errno, lines.next().unwrap_or_default().to_owned()));
        }
    }
    let with = |mark| tail.lines().filter_map(move |l| l.strip_prefix(mark).map(str::to_owned)).collect();
    (case.log_lines, case.xlated_lines) = (with("| "), with("= "));
    Ok(case)
}

fn parse_map(name: &str, value: &str) -> Result<CaseMap, String> {
    let mut words = value.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let map_type = MapType::from_name(kind).ok_or_else(|| format!("map type '{kind}'"))?;
    let mut number = || -> Result<u32, String> {
        let word = words.next().ok_or("map needs key size, value size, entries")?;
        word.parse().map_err(|_| format!("number '{word}'"))
    };
    let sizes = (number()?, number()?, number()?);
    let mut map = CaseMap { name: name.to_owned(), map_type, sizes, flags: 0, contents: None, inner: None, extra: 0 };
    for word in words {
        match word.split_once('=') {
            Some(("flags", v)) => {
                map.flags = u32::from_str_radix(v.trim_start_matches("0x"), 16).map_err(|e| e.to_string())?;
            }
            Some(("extra", v)) => map.extra = u64::from_str_radix(v, 16).map_err(|e| e.to_string())?,
            Some(("inner", v)) => map.inner = Some(v.to_owned()),
            Some(("contents", v)) => {
                let byte = |i: usize| u8::from_str_radix(v.get(i..i + 2).unwrap_or("?"), 16).map_err(|e| e.to_string());
                map.contents = Some((0..v.len()).step_by(2).map(byte).collect::<Result<_, _>>()?);
            }
            _ => return Err(format!("map option '{word}'")),
        }
    }
    Ok(map)
}

impl Case {
    fn shape<'a>(&'a self, map: &'a CaseMap) -> MapShape<'a> {
        let (key, value, entries) = map.sizes;
        let mut shape = MapShape::new(map.map_type, key, value, entries);
        shape.name = Cow::Borrowed(&map.name);
        shape.flags = map.flags;
        shape.user_start = map.extra;
        shape.frozen = map.contents.is_some();
        // What a per-CPU map holds is no constant.
        shape.contents = map.contents.as_deref().filter(|_| !map.map_type.is_percpu()).map(Cow::Borrowed);
        let inner = map.inner.as_ref().and_then(|name| self.maps.iter().find(|m| &m.name == name));
        shape.inner = inner.map(|m| {
            let mut inner = self.shape(m);
            inner.name = Cow::Borrowed("");
            Box::new(inner)
        });
        shape
    }

    /// What our verifier says, and its log.
    #[must_use]
    pub fn ours(&self, log_level: u32) -> (Outcome, String) {
        let mut log = Log::new();
        let verdict = self.with_spec(log_level, |spec, options| skep_verifier::verify(spec, options, &mut log));
        let outcome = match verdict {
            Ok(_) => Outcome::Accept,
            Err(refused) => Outcome::Reject(refused.errno, refused.message),
        };
        (outcome, log.into_text())
    }

    /// What our verifier says with another kernel's rules.
    #[must_use]
    pub fn by_profile(&self, profile: &Profile) -> Outcome {
        let mut log = Log::new();
        let verdict = self.with_spec(0, |spec, options| {
            let options = Options { profile: profile.clone(), ..options.clone() };
            skep_verifier::verify(spec, &options, &mut log)
        });
        verdict.map_or_else(|refused| Outcome::Reject(refused.errno, refused.message), |_| Outcome::Accept)
    }

    /// Why our verifier refuses it.
    #[must_use]
    pub fn explanation(&self) -> Option<Explanation> {
        let mut log = Log::new();
        let verdict = self.with_spec(0, |spec, options| skep_verifier::verify_explained(spec, options, &mut log));
        verdict.err().map(|refusal| refusal.explanation)
    }

    /// The program after the rewriting, as `skep prog dump xlated` prints it; empty if it is refused.
    #[must_use]
    pub fn xlated(&self) -> String {
        self.with_spec(0, |spec, options| {
            let Ok(verified) = skep_verifier::verify(spec, options, &mut Log::new()) else { return String::new() };
            let rewritten = skep_verifier::rewrite(spec, &verified, &RewriteOptions::default());
            let name = |map: u32| Some(spec.maps.get(map as usize)?.name.to_string());
            let dump = |x: skep_verifier::Xlated| skep_verifier::dump_xlated(&x, &name, &DumpOptions::default());
            rewritten.map_or_else(|e| e.to_string(), dump)
        })
    }

    fn with_spec<R>(&self, log_level: u32, f: impl FnOnce(&ProgramSpec<'_>, &Options) -> R) -> R {
        let maps: Vec<MapShape<'_>> = self.maps.iter().map(|m| self.shape(m)).collect();
        let spec = ProgramSpec {
            name: "skep",
            prog_type: self.prog_type,
            attach_type: self.attach_type,
            flags: ProgFlags(self.flags),
            insns: &self.insns,
            maps: &maps,
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: !self.license.is_empty(),
            target: None,
            ctx: match self.target.as_deref() {
                Some("bpf_iter_bpf_map_elem" | "bpf_iter_bpf_map") => Some(&skep_abi::ctx::BPF_MAP_ELEM),
                _ => None,
            },
            helpers: None,
        };
        let profile = self.profile.clone();
        let mut options = Options { log_level, profile, unprivileged: self.unprivileged, ..Options::default() };
        options.profile.nr_cpus = u32::try_from(crate::kernel::possible_cpus()).unwrap_or(1);
        f(&spec, &options)
    }

    /// What the running kernel says, and its log; at level 0 its messages alone.
    ///
    /// # Errors
    /// A map cannot be made.
    pub fn kernel(&self, log_level: u32) -> Result<(Outcome, String), String> {
        Ok(self.load(&self.create_maps()?, log_level))
    }

    /// The vector's maps in the running kernel.
    ///
    /// # Errors
    /// A map cannot be made.
    pub fn create_maps(&self) -> Result<Vec<Map>, String> {
        let mut maps: Vec<Map> = Vec::new();
        for map in &self.maps {
            let (key, value, entries) = map.sizes;
            let inner = map.inner.as_ref().and_then(|name| self.maps.iter().position(|m| &m.name == name));
            let inner = match inner {
                Some(i) => Some(maps.get(i).ok_or("the inner map must come first")?.raw_fd()),
                None => None,
            };
            let create = MapCreate {
                flags: map.flags,
                name: &map.name,
                inner_map: inner,
                map_extra: map.extra,
                ..MapCreate::new(map.map_type, key, value, entries)
            };
            let created = create.create().map_err(|e| format!("map {}: {e}", map.name))?;
            if let Some(contents) = &map.contents {
                created.fill(contents).map_err(|e| format!("map {}: {e}", map.name))?;
                created.freeze().map_err(|e| format!("map {}: {e}", map.name))?;
            }
            maps.push(created);
        }
        Ok(maps)
    }

    /// What the running kernel says of the program with these maps, and its log.
    #[must_use]
    pub fn load(&self, maps: &[Map], log_level: u32) -> (Outcome, String) {
        let mut insns = self.insns.clone();
        let mut at = 0;
        while at < insns.len() {
            let insn = &mut insns[at];
            if insn.code != 0x18 {
                at += 1;
                continue;
            }
            if matches!(insn.src, 1 | 2)
                && let Some(map) = usize::try_from(insn.imm).ok().and_then(|i| maps.get(i))
            {
                insn.imm = map.raw_fd();
            }
            at += 2;
        }
        let target = self.target.as_deref().and_then(crate::kernel_btf::kernel_function);
        let fds: Vec<_> = maps.iter().map(Map::raw_fd).collect();
        let load = ProgLoad {
            fd_array: &fds,
            attach_btf_id: target.map_or(0, |id| id.0),
            attach_type: self.attach_type,
            license: &self.license,
            log_level,
            flags: self.flags,
            ..ProgLoad::new(self.prog_type, &insns)
        };
        let loaded = if log_level == 0 { load.load_briefly() } else { load.load() };
        match loaded {
            Ok(loaded) => (Outcome::Accept, loaded.log),
            Err(failure) => (Outcome::Reject(failure.errno, last_line(&failure.log)), failure.log),
        }
    }

    /// The vector with this outcome in its last part.
    #[must_use]
    pub fn bless(&self, outcome: &Outcome) -> String {
        let mut out = format!("{}\n---\n{}\n---\n{outcome}\n", self.head, self.text);
        for line in &self.log_lines {
            let _ = writeln!(out, "| {line}");
        }
        for line in &self.xlated_lines {
            let _ = writeln!(out, "= {line}");
        }
        out
    }
}

/// How lines begin that are no message.
const STATISTICS: [&str; 4] = ["processed ", "verification time ", "stack depth ", "; "];

/// The last line of a log that is a message: not the statistics, not a source line.
#[must_use]
pub fn last_line(log: &str) -> String {
    let log = crate::kernel::before_explanation(log);
    let statistic =
        |line: &str| STATISTICS.iter().any(|start| line.starts_with(start)) || line.contains(" insns_self ");
    let mut lines = log.lines().rev().filter(|line| !line.is_empty() && !statistic(line));
    let mut last = lines.next().unwrap_or_default();
    let marker = "infinite loop detected at insn";
    if let Some(line) = log.lines().rev().find(|l| l.contains(marker)) {
        last = &line[line.find(marker).unwrap_or(0)..];
    }
    // One message of the kernel's lacks its line feed.
    let end = last.find("processed ").filter(|_| last.ends_with("mark_read 0")).unwrap_or(last.len());
    last[..end].to_owned()
}
