//! The instructions that a site may hold, per architecture.
//!
//! Both modules compile everywhere, so that both are tested on any host; [`host`] is the one that runs here.
//! Invariant: a form that `encode` returns, `decode` reads back as the same.

pub mod arm64;
pub mod x64;

#[cfg(target_arch = "aarch64")]
pub use arm64 as host;
#[cfg(not(target_arch = "aarch64"))]
pub use x64 as host;

/// An address in installed code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeAddr(pub u64);

impl std::fmt::Display for CodeAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl std::fmt::Debug for CodeAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodeAddr({:#x})", self.0)
    }
}

/// What a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteBytes {
    /// Nothing: execution goes on behind the site.
    Nop,
    /// A direct jump.
    Jump(CodeAddr),
}

impl SiteBytes {
    /// As one word, so that it can be stored atomically: no code lives at address zero.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            SiteBytes::Nop => 0,
            SiteBytes::Jump(to) => to.0,
        }
    }

    /// The inverse of [`to_word`](SiteBytes::to_word).
    #[must_use]
    pub const fn from_word(word: u64) -> SiteBytes {
        match word {
            0 => SiteBytes::Nop,
            to => SiteBytes::Jump(CodeAddr(to)),
        }
    }
}
