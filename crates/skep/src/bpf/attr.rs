//! Attributes of bpf(2), as bytes.
//!
//! Invariant: what is read lies in the attribute or is 0, as the kernel pads a short one. Kernel counterpart: `__sys_bpf`
//! and `CHECK_ATTR`, kernel/bpf/syscall.c, 6.18.

use skep_abi::Errno;

/// `sizeof(union bpf_attr)` of 6.18.
const UNION: usize = 168;
/// Longest attribute that is looked at.
const MAX: usize = 4096;

/// An attribute, padded with zeroes.
pub(super) struct Attr {
    bytes: Vec<u8>,
}

impl Attr {
    /// The attribute of a command whose last member ends at `end`.
    ///
    /// # Errors
    /// `E2BIG` for one that knows more than this engine, `EINVAL` for one with something behind the last member.
    pub(super) fn new(bytes: &[u8], end: usize) -> Result<Self, Errno> {
        let set = |from: usize| bytes.get(from..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
        if bytes.len() > MAX || set(UNION) {
            return Err(Errno::E2BIG);
        }
        if set(end) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = bytes.to_vec();
        bytes.resize(UNION, 0);
        Ok(Self { bytes })
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        self.array(at).map_or(0, u32::from_ne_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.array(at).map_or(0, u64::from_ne_bytes)
    }

    /// An object's name: the bytes up to a NUL, which there must be.
    pub(super) fn name(&self, at: usize) -> Result<String, Errno> {
        let bytes = self.bytes.get(at..at + 16).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
        // What lies behind the NUL must be zero too.
        if !bytes[..end].iter().all(allowed) || bytes[end..].iter().any(|byte| *byte != 0) {
            return Err(Errno::EINVAL);
        }
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }
}
