//! The verifier's log: a text in the kernel's format.
//!
//! Owns the buffer. Invariant: nothing reads it to decide anything; a path that is left takes its lines with it at level 1,
//! so that the log of a refused program is the failing path. Kernel counterpart: kernel/bpf/log.c, 6.18.

use std::fmt;

/// A growing text that keeps its last bytes when it has a limit.
#[derive(Clone, Debug, Default)]
pub struct Log {
    text: String,
    /// Bytes dropped from the front so far.
    dropped: usize,
    limit: Option<usize>,
}

impl Log {
    /// Without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps at least the last `bytes` bytes.
    #[must_use]
    pub fn with_limit(bytes: usize) -> Self {
        Self { limit: Some(bytes), ..Self::default() }
    }

    /// What was logged.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, owned.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Position of the end, counted from the first byte ever written.
    pub(crate) fn end(&self) -> usize {
        self.dropped + self.text.len()
    }

    /// Forgets everything after `end`, a value that [`Self::end`] gave.
    pub(crate) fn reset(&mut self, end: usize) {
        self.text.truncate(end.saturating_sub(self.dropped));
    }

    /// Appends text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.trim();
    }

    fn trim(&mut self) {
        let Some(limit) = self.limit else { return };
        if self.text.len() <= limit.saturating_mul(2) {
            return;
        }
        let mut cut = self.text.len() - limit;
        while !self.text.is_char_boundary(cut) {
            cut += 1;
        }
        self.text.drain(..cut);
        self.dropped += cut;
    }
}

impl fmt::Write for Log {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s);
        Ok(())
    }
}
