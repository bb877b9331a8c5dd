//! The string section.
//!
//! Owns the bytes between NULs that every name is an offset into. Invariant: it starts and ends with a NUL, so that an
//! offset inside it always finds the end of its string. Kernel counterpart: `btf_parse_str_sec`, kernel/bpf/btf.c, 6.18.

use crate::error::{Error, Result};
use crate::types::StrOff;

/// The strings of one BTF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { bytes: vec![0] }
    }
}

impl Strings {
    /// Takes over a string section.
    pub(crate) fn parse(bytes: &[u8], max: usize) -> Result<Self> {
        if bytes.len() > max {
            return Err(Error::TooLarge { what: "bytes of strings", have: bytes.len(), max });
        }
        match (bytes.first(), bytes.last()) {
            (Some(0), Some(0)) => Ok(Self { bytes: bytes.to_vec() }),
            (None, _) | (_, None) => Err(Error::Strings { why: "the section is empty".into() }),
            (Some(0), Some(_)) => Err(Error::Strings { why: "the last string is not terminated".into() }),
            (Some(_), _) => Err(Error::Strings { why: "the first string is not the empty one".into() }),
        }
    }

    /// The bytes of the string at `off`, without its NUL; `None` outside the section.
    #[must_use]
    pub fn bytes_at(&self, off: StrOff) -> Option<&[u8]> {
        let rest = self.bytes.get(off.0 as usize..)?;
        let end = rest.iter().position(|&b| b == 0)?;
        rest.get(..end)
    }

    /// Whether a string starts at `off` or it lies inside one.
    #[must_use]
    pub fn contains(&self, off: StrOff) -> bool {
        (off.0 as usize) < self.bytes.len()
    }

    /// As [`Strings::bytes_at`], without looking further than `max` bytes: what is longer comes back cut to `max`.
    pub(crate) fn bytes_at_most(&self, off: StrOff, max: usize) -> Option<&[u8]> {
        let rest = self.bytes.get(off.0 as usize..).filter(|rest| !rest.is_empty())?;
        let rest = rest.get(..max).unwrap_or(rest);
        Some(rest.iter().position(|&b| b == 0).and_then(|end| rest.get(..end)).unwrap_or(rest))
    }

    /// The string at `off`; `None` outside the section or if it is not UTF-8.
    #[must_use]
    pub fn at(&self, off: StrOff) -> Option<&str> {
        std::str::from_utf8(self.bytes_at(off)?).ok()
    }

    /// The whole section.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends `text`; the offset of its start. It is not searched for first: a builder keeps its own index.
    pub(crate) fn push(&mut self, text: &str) -> Result<StrOff> {
        if text.is_empty() {
            return Ok(StrOff(0));
        }
        if text.contains('\0') {
            return Err(Error::Strings { why: "a name contains a NUL".into() });
        }
        let off = u32::try_from(self.bytes.len()).ok().filter(|&off| off as usize <= crate::MAX_STRINGS);
        let Some(off) = off else {
            return Err(Error::TooLarge { what: "bytes of strings", have: self.bytes.len(), max: crate::MAX_STRINGS });
        };
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        Ok(StrOff(off))
    }
}
