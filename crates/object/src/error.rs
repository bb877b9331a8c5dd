//! What can be wrong with an object.
//!
//! Owns the crate's one error type. Invariant: every text names the section and the offset it is about, and what it
//! quotes from the input is escaped. Kernel counterpart: none; libbpf's warnings, tools/lib/bpf/libbpf.c, 6.18.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an object was refused, or a change to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the ELF header or of a table is wrong.
    #[error("not a BPF object: {field} at offset {offset:#x}: {why}")]
    Elf {
        /// The field, as in elf(5).
        field: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Something in a section is wrong.
    #[error("section {section}, offset {offset:#x}: {why}")]
    Section {
        /// The section's name, escaped.
        section: String,
        /// Offset in the section.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A relocation cannot be applied.
    #[error("relocation in section {section}, offset {offset:#x}: {why}")]
    Relocation {
        /// The section that the relocation changes.
        section: String,
        /// Offset in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A map's definition is wrong.
    #[error("map '{map}': {why}")]
    Map {
        /// The map's name, escaped.
        map: String,
        /// What is wrong.
        why: String,
    },
    /// A program cannot be loaded.
    #[error("program '{program}' in section {section}: {why}")]
    Program {
        /// The program's name, escaped.
        program: String,
        /// Its section.
        section: String,
        /// What is wrong.
        why: String,
    },
    /// An `extern` has no value.
    #[error("extern '{name}' in section {section}: {why}")]
    Extern {
        /// Its name.
        name: String,
        /// `.kconfig` or `.ksyms`.
        section: String,
        /// What is wrong.
        why: String,
    },
    /// What libbpf 1.x or this engine does not do.
    #[error("section {section} is not supported: {why}")]
    Unsupported {
        /// The section's name, escaped.
        section: String,
        /// What to do instead.
        why: String,
    },
    /// More of something than the limit.
    #[error("the object has too many or too large {what}: {have}, the limit is {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        have: u64,
        /// The limit.
        max: u64,
    },
    /// The type information is wrong.
    #[error("section {section}")]
    Btf {
        /// `.BTF` or `.BTF.ext`.
        section: &'static str,
        /// What is wrong with it.
        #[source]
        source: skep_btf::Error,
    },
    /// Nothing of this name is there to change.
    #[error("the object has no {what} '{name}'")]
    NotFound {
        /// `program`, `map` or `variable`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// A change does not fit what it changes.
    #[error("{what} '{name}': {why}")]
    Mismatch {
        /// `variable` or `map`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What does not fit.
        why: String,
    },
    /// A bug of this crate, never the input's fault.
    #[error("internal error in skep-object: {0}")]
    Internal(&'static str),
}

impl Error {
    /// The errno that libbpf or the kernel gives for the same, positive.
    #[must_use]
    pub fn errno(&self) -> i32 {
        const ENOENT: i32 = 2;
        const E2BIG: i32 = 7;
        const ESRCH: i32 = 3;
        const EINVAL: i32 = 22;
        const EOPNOTSUPP: i32 = 95;
        match self {
            Self::NotFound { .. } => ENOENT,
            Self::TooLarge { .. } => E2BIG,
            Self::Extern { .. } => ESRCH,
            Self::Unsupported { .. } => EOPNOTSUPP,
            Self::Btf { source, .. } => source.errno(),
            _ => EINVAL,
        }
    }
}

/// `text` with control characters, quotes and non-ASCII escaped, cut after 128 characters.
pub(crate) fn escaped(text: &str) -> String {
    let mut out: String = text.as_bytes().escape_ascii().take(128).map(char::from).collect();
    if text.len() > 128 {
        out.push('…');
    }
    out
}
