//! Numbers in text, and comparison of strings.
//!
//! Invariant: no byte beyond the given length is read. Kernel counterpart: `bpf_strtol`, `bpf_strtoul`, `bpf_strncmp`,
//! kernel/bpf/helpers.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, bytes, entry, low};
use crate::frame::Run;

/// Digits that are looked at, at most.
const MAX_DIGITS: usize = 63;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(105, entry!(strtol)), (106, entry!(strtoul)), (182, entry!(strncmp))]
}

/// The number at the start of `text`: bytes used, whether there was a minus sign, magnitude.
fn parse(text: &[u8], flags: u64) -> Result<(u64, bool, u64), Errno> {
    if !matches!(flags, 0 | 8 | 10 | 16) || text.is_empty() {
        return Err(Errno::EINVAL);
    }
    let mut rest = text.trim_ascii_start();
    let negative = rest.first() == Some(&b'-');
    if negative {
        rest = &rest[1..];
    }
    let before = text.len() - rest.len();
    let rest = &rest[..rest.len().min(MAX_DIGITS)];
    let hexadecimal = matches!(rest, [b'0', b'x' | b'X', ..]);
    let base = match flags {
        0 if hexadecimal && rest.get(2).is_some_and(u8::is_ascii_hexdigit) => 16,
        0 if rest.first() == Some(&b'0') => 8,
        0 => 10,
        base => base,
    };
    let prefix = if base == 16 && hexadecimal { 2 } else { 0 };
    let (mut value, mut digits) = (0_u64, 0);
    for byte in &rest[prefix..] {
        let digit = match byte {
            b'0'..=b'9' => u64::from(byte - b'0'),
            b'a'..=b'f' => u64::from(byte - b'a') + 10,
            b'A'..=b'F' => u64::from(byte - b'A') + 10,
            _ => break,
        };
        if digit >= base {
            break;
        }
        value = value.checked_mul(base).and_then(|v| v.checked_add(digit)).ok_or(Errno::ERANGE)?;
        digits += 1;
    }
    if digits == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(((before + prefix + digits) as u64, negative, value))
}

fn signed(text: &[u8], flags: u64) -> Result<(u64, u64), Errno> {
    let (used, negative, magnitude) = parse(text, flags)?;
    let value = if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    Ok((used, value.ok_or(Errno::ERANGE)?.cast_unsigned()))
}

fn unsigned(text: &[u8], flags: u64) -> Result<(u64, u64), Errno> {
    match parse(text, flags)? {
        (_, true, _) => Err(Errno::EINVAL),
        (used, false, value) => Ok((used, value)),
    }
}

/// Stores the number; the result is the number of bytes used.
///
/// # Safety
/// `to` is writable for 8 bytes.
unsafe fn store(to: u64, parsed: Result<(u64, u64), Errno>) -> u64 {
    match parsed {
        Ok((used, value)) => {
            let to = std::ptr::with_exposed_provenance_mut::<u64>(to as usize);
            // SAFETY: the caller's duty.
            unsafe { to.write_unaligned(value) };
            used
        }
        Err(errno) => {
            let to = std::ptr::with_exposed_provenance_mut::<u64>(to as usize);
            // SAFETY: the caller's duty. The kernel clears the result first.
            unsafe { to.write_unaligned(0) };
            errno.as_return()
        }
    }
}

unsafe fn strtol(run: Run, [text, len, flags, to, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let text = unsafe { bytes(&run, text, u64::from(low(len))) };
    // SAFETY: r4 is writable for 8 bytes (prototype).
    unsafe { store(to, signed(text, flags)) }
}

unsafe fn strtoul(run: Run, [text, len, flags, to, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let text = unsafe { bytes(&run, text, u64::from(low(len))) };
    // SAFETY: r4 is writable for 8 bytes (prototype).
    unsafe { store(to, unsigned(text, flags)) }
}

unsafe fn strncmp(run: Run, [a, len, b, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let a = unsafe { bytes(&run, a, u64::from(low(len))) };
    let b = std::ptr::with_exposed_provenance::<u8>(b as usize);
    for (at, left) in a.iter().enumerate() {
        // SAFETY: r3 is a string with a terminating NUL (prototype), which ends the loop below.
        let right = unsafe { b.add(at) };
        // SAFETY: as above.
        let right = unsafe { right.read() };
        match left.cmp(&right) {
            std::cmp::Ordering::Less => return u64::MAX,
            std::cmp::Ordering::Greater => return 1,
            std::cmp::Ordering::Equal if right == 0 => break,
            std::cmp::Ordering::Equal => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        assert_eq!(signed(b" -42 ", 0), Ok((4, (-42_i64).cast_unsigned())));
        assert_eq!(unsigned(b"0x1f\n", 0), Ok((4, 31)));
        assert_eq!(unsigned(b"077", 0), Ok((3, 63)));
        assert_eq!(unsigned(b"-1", 10), Err(Errno::EINVAL));
        assert_eq!(unsigned(b"18446744073709551616", 10), Err(Errno::ERANGE));
        assert_eq!(signed(b"9223372036854775808", 10), Err(Errno::ERANGE));
        assert_eq!(signed(b"+1", 10), Err(Errno::EINVAL));
        assert_eq!(signed(b"1", 7), Err(Errno::EINVAL));
    }
}
