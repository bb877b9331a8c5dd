//! Internet checksums.
//!
//! One's complement sums in network byte order as they lie in memory. Invariant: a sum is zero only if everything summed is
//! zero, as in the kernel. Kernel counterpart: `bpf_csum_diff`, `bpf_l3_csum_replace`, `bpf_l4_csum_replace`,
//! net/core/filter.c, 6.18.
#![expect(clippy::cast_possible_truncation, reason = "checksums are folded to 32 and 16 bits")]

use skep_abi::Errno;

use super::{HelperFn, bytes, entry, low, status};
use crate::ctx::PacketRef;
use crate::frame::Run;

/// How many bytes of the header changed (`BPF_F_HDR_FIELD_MASK`).
const FIELD: u64 = 0xf;
/// `BPF_F_PSEUDO_HDR`.
const PSEUDO: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: a zero checksum means none, and stays.
const MANGLED_0: u64 = 1 << 5;
/// `BPF_F_MARK_ENFORCE`.
const ENFORCE: u64 = 1 << 6;
/// `BPF_F_IPV6`.
const IPV6: u64 = 1 << 7;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (10, entry!(l3_csum_replace)),
        (11, entry!(l4_csum_replace)),
        (28, entry!(csum_diff)),
        (40, entry!(csum_update)),
        (135, entry!(csum_level)),
    ]
}

/// `csum_add`: with end-around carry.
fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

/// To 16 bits, as a sum (not complemented).
fn fold(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// `csum_partial`: the sum of the bytes as 32-bit words, added to `seed`.
fn partial(bytes: &[u8], seed: u32) -> u32 {
    bytes.chunks(4).fold(seed, |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        add(sum, u32::from_ne_bytes(word))
    })
}

unsafe fn csum_diff(run: Run, [from, from_size, to, to_size, seed]: [u64; 5]) -> u64 {
    let (from_size, to_size, seed) = (low(from_size), low(to_size), low(seed));
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let from = unsafe { bytes(&run, from, u64::from(from_size)) };
    // SAFETY: r3 is readable for r4 bytes (prototype).
    let to = unsafe { bytes(&run, to, u64::from(to_size)) };
    let sum = match (from.is_empty(), to.is_empty()) {
        (false, false) => add(partial(to, seed), !partial(from, 0)),
        (true, false) => partial(to, seed),
        (false, true) => !partial(from, !seed),
        (true, true) => seed,
    };
    u64::from(fold(sum))
}

/// Replaces the checksum at `offset` of the packet by `new(old)`.
fn replace(run: Run, offset: u32, new: impl FnOnce(u16) -> Result<u16, Errno>) -> Result<(), Errno> {
    if offset > 0xffff || offset & 1 != 0 {
        return Err(Errno::EFAULT);
    }
    let PacketRef::Skb(skb) = run.packet() else { return Err(Errno::EFAULT) };
    let field = skb.packet_mut().get_mut(offset as usize..).and_then(|rest| rest.first_chunk_mut::<2>());
    let field = field.ok_or(Errno::EFAULT)?;
    *field = new(u16::from_ne_bytes(*field))?.to_ne_bytes();
    Ok(())
}

/// The checksum after `from` was replaced by `to`, both as 32-bit sums.
fn replaced(sum: u16, from: u32, to: u32) -> u16 {
    !fold(add(add(!u32::from(sum), !from), to))
}

fn field_change(sum: u16, from: u64, to: u64, flags: u64) -> Result<u16, Errno> {
    match flags & FIELD {
        0 if from != 0 => Err(Errno::EINVAL),
        0 => Ok(!fold(add(low(to), !u32::from(sum)))),
        2 => Ok(replaced(sum, u32::from(from as u16), u32::from(to as u16))),
        4 => Ok(replaced(sum, low(from), low(to))),
        _ => Err(Errno::EINVAL),
    }
}

unsafe fn l3_csum_replace(run: Run, [_, offset, from, to, flags]: [u64; 5]) -> u64 {
    if flags & !FIELD != 0 {
        return Errno::EINVAL.as_return();
    }
    status(replace(run, low(offset), |sum| field_change(sum, from, to, flags)))
}

unsafe fn l4_csum_replace(run: Run, [_, offset, from, to, flags]: [u64; 5]) -> u64 {
    if flags & !(FIELD | PSEUDO | MANGLED_0 | ENFORCE | IPV6) != 0 {
        return Errno::EINVAL.as_return();
    }
    let zero_is_none = flags & MANGLED_0 != 0;
    status(replace(run, low(offset), |sum| {
        if zero_is_none && flags & ENFORCE == 0 && sum == 0 {
            return Ok(0);
        }
        let new = field_change(sum, from, to, flags)?;
        Ok(if zero_is_none && new == 0 { 0xffff } else { new })
    }))
}

/// Packets here carry no sum of the hardware (`CHECKSUM_NONE`), which is what the helper would change.
unsafe fn csum_update(_run: Run, _: [u64; 5]) -> u64 {
    Errno::ENOTSUPP.as_return()
}

/// As for a packet with `CHECKSUM_NONE`.
unsafe fn csum_level(_run: Run, [_, level, ..]: [u64; 5]) -> u64 {
    match level {
        0 => Errno::EACCES.as_return(),
        1..=3 => 0,
        _ => Errno::EINVAL.as_return(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_field_gives_the_sum_of_the_new_header() {
        let mut header = *b"\x45\0\0\x54\0\0\x40\0\x40\x01\0\0\x0a\0\0\x01\x0a\0\0\x02";
        let sum = !fold(partial(&header, 0));
        let old = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
        header[12..16].copy_from_slice(&[192, 168, 7, 9]);
        let new = u32::from_ne_bytes([192, 168, 7, 9]);
        assert_eq!(replaced(sum, old, new), !fold(partial(&header, 0)));
    }
}
