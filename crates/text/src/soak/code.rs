//! Functions whose result says what form each of their sites had.
//!
//! Each site is followed by its two ways: without the jump, bit `i` of the result is set; with it, bit `i + 16`. So of
//! each pair exactly one is set, whatever happens, or something is wrong.

use crate::{CodeAddr, CodeArena, CodeImage, InstalledCode, Key, SiteBytes, SiteSpec, TextError};

/// A function in an arena.
pub(crate) struct Function {
    pub(crate) code: InstalledCode,
    /// Where each site's jump goes.
    targets: Vec<u32>,
}

/// Bytes of a site and its two ways.
const BLOCK: usize = 17;

impl Function {
    /// Installs a function with sites at these offsets, ascending, [`BLOCK`] bytes apart at least, the first above 1.
    pub(crate) fn install(arena: &CodeArena, sites: &[usize]) -> Result<Function, TextError> {
        let mut bytes = vec![0x31, 0xc0]; // xor eax, eax
        let mut targets = Vec::new();
        let mut specs = Vec::new();
        for (bit, &at) in sites.iter().enumerate() {
            pad(&mut bytes, at);
            specs.push(SiteSpec { offset: u32::try_from(at).unwrap_or(0) });
            bytes.extend([0x0f, 0x1f, 0x44, 0x00, 0x00]);
            bytes.push(0x0d); // or eax, imm32
            bytes.extend((1_u32 << bit).to_le_bytes());
            bytes.extend([0xeb, 0x05]); // jmp over the other way
            targets.push(u32::try_from(bytes.len()).unwrap_or(0));
            bytes.push(0x0d);
            bytes.extend((1_u32 << (bit + 16)).to_le_bytes());
            debug_assert_eq!(bytes.len(), at + BLOCK);
        }
        bytes.push(0xc3);
        let code = arena.install(CodeImage { bytes: &bytes, relocations: &[], sites: &specs })?;
        Ok(Function { code, targets })
    }

    /// Makes every site follow `key`.
    pub(crate) fn attach(&self, key: &Key) -> Result<(), TextError> {
        for site in 0..self.targets.len() {
            // SAFETY: both ways of a site go on to the next.
            unsafe { key.attach(&self.code, site, SiteBytes::Jump(self.target(site)), SiteBytes::Nop) }?;
        }
        Ok(())
    }

    pub(crate) fn target(&self, site: usize) -> CodeAddr {
        self.code.addr(self.targets[site])
    }

    pub(crate) fn sites(&self) -> usize {
        self.targets.len()
    }

    /// The entry as an address, for signal handlers.
    pub(crate) fn entry(&self) -> usize {
        usize::try_from(self.code.addr(0).0).unwrap_or(0)
    }

    /// Whether a result has one form for each site, and which sites have the jump.
    pub(crate) fn forms(&self, result: u32) -> Option<u16> {
        let all = u32::from(u16::MAX) >> (16 - self.sites());
        let (off, on) = (result & 0xffff, result >> 16);
        (off ^ on == all && off & on == 0).then(|| u16::try_from(on).unwrap_or(0))
    }

    /// All sites.
    pub(crate) fn all(&self) -> u16 {
        u16::MAX >> (16 - self.sites())
    }
}

/// Calls a function.
///
/// # Safety
/// `entry` is the address of a [`Function`], and this thread is in a run of its arena's set.
pub(crate) unsafe fn call(entry: usize) -> u32 {
    let entry = std::ptr::with_exposed_provenance::<()>(entry);
    // SAFETY: the caller's promise.
    let entry = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn() -> u32>(entry) };
    entry()
}

/// Fills up to offset `to` with something that runs: a jump over it, or nops.
fn pad(bytes: &mut Vec<u8>, to: usize) {
    let gap = to.saturating_sub(bytes.len());
    if gap > 16 {
        bytes.push(0xe9);
        bytes.extend(i32::try_from(gap - 5).unwrap_or(0).to_le_bytes());
        bytes.resize(to, 0xcc);
    } else {
        bytes.resize(to, 0x90);
    }
}
