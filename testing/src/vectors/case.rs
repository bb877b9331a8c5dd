//! One vector, and the file format.

use skep_abi::{AttachType, MapType, ProgType, map_flags};

/// A program and what it must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// `file/name`.
    pub name: String,
    /// Line of the program's first line in its file.
    pub line: usize,
    /// The program.
    pub text: String,
    /// Program type and attach type; without one, the case is a function of memory.
    pub prog_type: Option<(ProgType, AttachType)>,
    /// Maps that the program names.
    pub maps: Vec<MapDecl>,
    /// Memory behind r1, or the packet.
    pub input: Input,
    /// What must come out.
    pub expect: Expect,
    /// Engines that skip it, with the reason.
    pub skips: Vec<(String, String)>,
}

/// What a case is run on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Input {
    /// Bytes.
    pub bytes: Vec<u8>,
}

impl Input {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A map of a case: `-- map hits hash 4 8 16`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapDecl {
    /// Name in the program.
    pub name: String,
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
    /// The value of a read-only, frozen array of one element: `-- rodata text str hello`.
    pub contents: Option<Vec<u8>>,
}

/// What must come out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It runs: `-- r0 0x2a`, and perhaps `-- out …`.
    Result {
        /// r0 at exit.
        r0: u64,
        /// Memory or packet afterwards.
        out: Option<Vec<u8>>,
    },
    /// It is accepted, and its result does not matter: `-- accepted`.
    Accepted,
    /// It is refused with this message: `-- refused R1 !read_ok`.
    Refused(String),
}

/// A file that is not in the format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FormatError {
    /// File or its stem.
    pub file: String,
    /// Line from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Parses a file of cases.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, FormatError> {
    let mut cases: Vec<(Case, bool)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let fail = |problem: String| FormatError { file: file.to_owned(), line: at + 1, problem };
        if let Some(name) = line.strip_prefix("== ") {
            cases.push((Case::new(format!("{file}/{}", name.trim()), at + 2), false));
            continue;
        }
        let Some((case, expected)) = cases.last_mut() else {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            return Err(fail("text before the first `== name`".to_owned()));
        };
        match line.strip_prefix("-- ") {
            Some(directive) => *expected |= case.directive(directive).map_err(fail)?,
            None => {
                case.text.push_str(line);
                case.text.push('\n');
            }
        }
    }
    if let Some((case, _)) = cases.iter().find(|(_, expected)| !expected) {
        let problem = format!("case {} expects nothing", case.name);
        return Err(FormatError { file: file.to_owned(), line: case.line, problem });
    }
    Ok(cases.into_iter().map(|(case, _)| case).collect())
}

impl Case {
    fn new(name: String, line: usize) -> Self {
        Self {
            name,
            line,
            text: String::new(),
            prog_type: None,
            maps: Vec::new(),
            input: Input::default(),
            expect: Expect::Accepted,
            skips: Vec::new(),
        }
    }

    /// Why this engine skips it.
    #[must_use]
    pub fn skip_reason(&self, engine: &str) -> Option<&str> {
        self.skips.iter().find(|(name, _)| name == engine).map(|(_, reason)| reason.as_str())
    }

    /// Applies `-- word rest`; whether it said what to expect.
    fn directive(&mut self, directive: &str) -> Result<bool, String> {
        let (word, rest) = directive.trim().split_once(' ').unwrap_or((directive.trim(), ""));
        match word {
            "in" | "packet" => self.input.bytes = bytes(rest)?,
            "type" => self.prog_type = Some(prog_type(rest)?),
            "map" => self.maps.push(map(rest)?),
            "rodata" => self.maps.push(rodata(rest)?),
            "skip" => {
                let (engine, reason) = rest.split_once(' ').ok_or("a skip needs an engine and a reason")?;
                self.skips.push((engine.to_owned(), reason.to_owned()));
            }
            "accepted" => {
                self.expect = Expect::Accepted;
                return Ok(true);
            }
            "refused" => {
                self.expect = Expect::Refused(rest.to_owned());
                return Ok(true);
            }
            "r0" => {
                let out = match &mut self.expect {
                    Expect::Result { out, .. } => out.take(),
                    _ => None,
                };
                self.expect = Expect::Result { r0: number(rest)?, out };
                return Ok(true);
            }
            "out" => {
                let r0 = match &self.expect {
                    Expect::Result { r0, .. } => *r0,
                    _ => return Err("`out` comes after `r0`".to_owned()),
                };
                self.expect = Expect::Result { r0, out: Some(bytes(rest)?) };
                return Ok(true);
            }
            _ => return Err(format!("unknown directive {word}")),
        }
        Ok(false)
    }
}

fn prog_type(text: &str) -> Result<(ProgType, AttachType), String> {
    let mut words = text.split_whitespace();
    let name = words.next().ok_or("a program type is missing")?;
    let prog = ProgType::from_name(name).ok_or_else(|| format!("unknown program type {name}"))?;
    let attach = match words.next() {
        Some(name) => AttachType::from_name(name).ok_or_else(|| format!("unknown attach type {name}"))?,
        None => AttachType::default(),
    };
    Ok((prog, attach))
}

fn map(text: &str) -> Result<MapDecl, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, kind, rest @ ..] = words.as_slice() else { return Err("a map needs a name and a type".to_owned()) };
    let map_type = MapType::from_name(kind).ok_or_else(|| format!("unknown map type {kind}"))?;
    let mut numbers = [0u32; 4];
    for (to, word) in numbers.iter_mut().zip(rest) {
        *to = u32::try_from(number(word)?).map_err(|_| format!("{word} does not fit"))?;
    }
    let [key_size, value_size, max_entries, flags] = numbers;
    Ok(MapDecl { name: (*name).to_owned(), map_type, key_size, value_size, max_entries, flags, contents: None })
}

fn rodata(text: &str) -> Result<MapDecl, String> {
    let (name, rest) = text.trim().split_once(' ').ok_or("read-only data needs a name and bytes")?;
    let contents = bytes(rest)?;
    Ok(MapDecl {
        name: name.to_owned(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: u32::try_from(contents.len()).map_err(|_| "too much data".to_owned())?,
        max_entries: 1,
        flags: map_flags::BPF_F_RDONLY_PROG,
        contents: Some(contents),
    })
}

/// A number of 64 bits, decimal (also negative) or `0x`.
fn number(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let parsed = match (text.strip_prefix("0x"), text.strip_prefix('-')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (None, Some(_)) => text.parse::<i64>().ok().map(i64::cast_unsigned),
        (None, None) => text.parse().ok(),
    };
    parsed.ok_or_else(|| format!("not a number: {text}"))
}

/// `u64 0x1 0x2`, `u32 …` (little-endian words), `hex 00ff`, `zero 64`, `str text` (with a final zero).
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let (kind, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let mut out = Vec::new();
    match kind {
        "u64" => {
            for word in rest.split_whitespace() {
                out.extend(number(word)?.to_le_bytes());
            }
        }
        "u32" => {
            for word in rest.split_whitespace() {
                out.extend(u32::try_from(number(word)?).map_err(|_| format!("{word} does not fit"))?.to_le_bytes());
            }
        }
        "zero" => out.resize(usize::try_from(number(rest)?).map_err(|error| error.to_string())?.min(1 << 16), 0),
        "hex" => {
            let digits: Vec<u32> = rest
                .chars()
                .filter(|c| !c.is_whitespace())
                .map(|c| c.to_digit(16).ok_or_else(|| format!("not a hexadecimal digit: {c}")))
                .collect::<Result<_, _>>()?;
            let (pairs, rest) = digits.as_chunks::<2>();
            if !rest.is_empty() {
                return Err("an odd number of hexadecimal digits".to_owned());
            }
            out.extend(pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).unwrap_or(u8::MAX)));
        }
        "str" => {
            out.extend(rest.bytes());
            out.push(0);
        }
        _ => return Err(format!("expected u64, u32, zero, hex or str, found {kind}")),
    }
    Ok(out)
}
