//! What can be wrong with BTF.
//!
//! Owns the crate's one error type. Invariant: every text names the type id or the byte offset it is about, and what it
//! quotes from the input is escaped. Kernel counterpart: the `btf_verifier_log_*` family, kernel/bpf/btf.c, 6.18.

use crate::types::{Kind, TypeId};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why BTF was refused, or why a question about it has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The magic number is that of a big-endian producer.
    #[error("BTF is big-endian (magic at offset 0 is 9f eb byte-swapped); only little-endian BTF is supported")]
    BigEndian,
    /// A header field is wrong.
    #[error("BTF header: {field} at offset {offset:#x}: {why}")]
    Header {
        /// The field's name, as in `struct btf_header`.
        field: &'static str,
        /// Offset of the field in the bytes given.
        offset: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The input ends inside something.
    #[error("BTF ends inside {what}: {need} bytes wanted at offset {offset:#x}, {have} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes it needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The string section is malformed.
    #[error("BTF strings: {why}")]
    Strings {
        /// What is wrong.
        why: String,
    },
    /// One type breaks a rule.
    #[error("BTF type [{id}] {kind} '{name}': {why}")]
    Type {
        /// The type.
        id: TypeId,
        /// Its kind.
        kind: Kind,
        /// Its name, escaped; `(anon)` where it has none.
        name: String,
        /// The rule.
        why: String,
    },
    /// A record whose kind number is not known, so that nothing after it can be read.
    #[error("BTF type [{id}] at offset {offset:#x}: {why}")]
    Record {
        /// The id the record would have had.
        id: TypeId,
        /// Offset of the record.
        offset: usize,
        /// What is wrong.
        why: String,
    },
    /// A type contains itself.
    #[error("BTF type [{id}] {kind} '{name}': loop detected")]
    Loop {
        /// The type at which the loop closed.
        id: TypeId,
        /// Its kind.
        kind: Kind,
        /// Its name, escaped.
        name: String,
    },
    /// Types are nested more than [`crate::MAX_DEPTH`] deep.
    #[error("BTF type [{id}]: nested more than {max} deep")]
    Depth {
        /// The type at which the limit was reached.
        id: TypeId,
        /// The limit.
        max: usize,
    },
    /// More of something than the limit.
    #[error("BTF has too many or too large {what}: {have}, the limit is {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        have: usize,
        /// The limit.
        max: usize,
    },
    /// An id that no type has.
    #[error("BTF has no type with id {id}: the last is {last}")]
    NoSuchType {
        /// The id asked for.
        id: TypeId,
        /// The last id there is.
        last: TypeId,
    },
    /// The type has no size (void, a function, a forward declaration).
    #[error("BTF type [{id}] {kind} has no size")]
    NoSize {
        /// The type asked about.
        id: TypeId,
        /// The kind of the type that has no size.
        kind: Kind,
    },
    /// The `.BTF.ext` section is malformed.
    #[error("BTF.ext: {what} at offset {offset:#x}: {why}")]
    Ext {
        /// What was being read.
        what: &'static str,
        /// Offset in `.BTF.ext`.
        offset: usize,
        /// What is wrong.
        why: String,
    },
    /// A bug of this crate, never the input's fault.
    #[error("internal error in skep-btf: {0}")]
    Internal(&'static str),
}

impl Error {
    /// The errno with which `BPF_BTF_LOAD` answers the same input, positive.
    #[must_use]
    pub fn errno(&self) -> i32 {
        const ENOENT: i32 = 2;
        const E2BIG: i32 = 7;
        const EEXIST: i32 = 17;
        const EINVAL: i32 = 22;
        const ENOTSUP: i32 = 524;
        match self {
            Self::Depth { .. } | Self::TooLarge { .. } => E2BIG,
            Self::Loop { .. } => EEXIST,
            Self::NoSuchType { .. } => ENOENT,
            Self::Header { field: "version" | "flags", .. } => ENOTSUP,
            _ => EINVAL,
        }
    }
}

/// `text` with control characters, quotes and non-ASCII escaped, cut after 128 characters.
pub(crate) fn escaped(text: &[u8]) -> String {
    let mut out: String = text.escape_ascii().take(128).map(char::from).collect();
    if text.len() > 128 {
        out.push('…');
    }
    out
}
