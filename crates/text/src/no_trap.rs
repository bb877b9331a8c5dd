//! Where instructions are replaced by one store, nobody traps: there is no handler to install.
//!
//! Invariant: the functions are those that `trap` has on x86-64, as far as others call them.

use std::io;

use crate::arch::CodeAddr;
use crate::error::TextError;

#[expect(clippy::unnecessary_wraps, reason = "as on x86-64")]
pub(crate) fn install() -> io::Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "as on x86-64")]
pub(crate) fn check() -> Result<(), TextError> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "as on x86-64")]
pub(crate) fn thread_can_trap() -> Result<(), &'static str> {
    Ok(())
}

pub(crate) fn whereabouts(_: u32) -> Option<CodeAddr> {
    None
}
