//! What can go wrong, as values.

use std::io;

use thiserror::Error;

use crate::CodeAddr;

/// Why code could not be installed or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TextError {
    /// The memory for code could not be had.
    #[error("cannot map memory for code: {step}")]
    Map {
        /// Which step failed.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The arena has no hole of this size left.
    #[error("no room for {size} bytes of code")]
    ArenaFull {
        /// Bytes asked for.
        size: usize,
    },
    /// An image without code, or one above 64 MiB.
    #[error("an image of {size} bytes cannot be installed")]
    BadImage {
        /// Bytes of the image.
        size: usize,
    },
    /// A relocation or a site outside of its image.
    #[error("offset {offset:#x} lies outside of the image")]
    OutOfImage {
        /// The offset in the image.
        offset: u32,
    },
    /// The bytes at a site are neither the five-byte nop nor a `jmp rel32`: a mistake, or a debugger's breakpoint.
    #[error("no patchable instruction at {at} (or a breakpoint of a debugger)")]
    NotASite {
        /// Where the site would be.
        at: CodeAddr,
    },
    /// Two sites share bytes.
    #[error("the site at {at} overlaps another")]
    Overlap {
        /// The second of the two.
        at: CodeAddr,
    },
    /// A site whose image is gone, or that never was one.
    #[error("no site at {at}")]
    NoSuchSite {
        /// The address asked for.
        at: CodeAddr,
    },
    /// A site follows one key.
    #[error("the site at {at} has a key already")]
    HasKey {
        /// The site.
        at: CodeAddr,
    },
    /// The target of a jump is out of reach of the instruction.
    #[error("a jump at {at} cannot reach {to}")]
    TooFar {
        /// Where the jump is.
        at: CodeAddr,
        /// Where it should go.
        to: CodeAddr,
    },
    /// Live patching is off, by choice or because the kernel denies what it needs.
    #[error("live patching is off: {0}")]
    Off(&'static str),
    /// Live patching is in use and cannot be turned off any more.
    #[error("live patching is in use")]
    Live,
    /// The kernel refused a core-serializing barrier; the sites keep their old meaning, more slowly, and the next poke
    /// tries again.
    #[error("the kernel refused the barrier of step {step}")]
    Barrier {
        /// The step of the protocol: 2, 3 or 4.
        step: u8,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody has replaced the handler of SIGTRAP: a trap would not be understood.
    #[error("the handler of SIGTRAP was replaced")]
    HandlerReplaced,
    /// The handler of SIGTRAP could not be installed.
    #[error("cannot install the handler of SIGTRAP")]
    Handler(#[source] io::Error),
    /// The arena belongs to the process that made it.
    #[error("the code was installed before a fork and belongs to the parent process")]
    Forked,
    /// A counted key was disabled more often than enabled.
    #[error("the key is not enabled")]
    NotEnabled,
    /// A mistake of this crate.
    #[error("internal error: {0}")]
    Internal(&'static str),
}
