//! x86-64: instructions have any length and alignment, so a store over one that another CPU fetches may be seen in parts.
//! Hence the trap byte: a site changes behind a one-byte `int3`, and who meets that is told by the handler what to do.
//!
//! Sites hold five bytes, a nop or a `jmp rel32`: neither touches the stack, so emulating one is setting RIP.
//! Kernel counterpart: `arch/x86/include/asm/text-patching.h` (6.18).

use super::{CodeAddr, SiteBytes};

/// Bytes of a site.
pub const SITE_LEN: usize = 5;

/// `int3`.
pub const TRAP: u8 = 0xcc;

/// What fills code memory that holds no code.
pub const FILL: [u8; 4] = [TRAP; 4];

/// `nopl 0(%rax,%rax,1)`, the five-byte nop of the manuals.
pub const NOP: [u8; SITE_LEN] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

const JMP: u8 = 0xe9;

/// The bytes of `form` at address `at`; none if the target is further than a `rel32` reaches.
#[must_use]
pub fn encode(at: CodeAddr, form: SiteBytes) -> Option<[u8; SITE_LEN]> {
    match form {
        SiteBytes::Nop => Some(NOP),
        SiteBytes::Jump(to) => {
            let [a, b, c, d] = rel32(at.0.wrapping_add(SITE_LEN as u64), to.0)?.to_le_bytes();
            Some([JMP, a, b, c, d])
        }
    }
}

/// What the bytes at address `at` do; none if they are no form that a site may hold.
#[must_use]
pub fn decode(at: CodeAddr, bytes: [u8; SITE_LEN]) -> Option<SiteBytes> {
    match bytes {
        NOP => Some(SiteBytes::Nop),
        [JMP, a, b, c, d] => {
            let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
            let to = at.0.wrapping_add(SITE_LEN as u64).wrapping_add_signed(distance);
            Some(SiteBytes::Jump(CodeAddr(to)))
        }
        _ => None,
    }
}

/// The distance from the end of an instruction to its target, if 32 bits hold it.
#[must_use]
pub fn rel32(end: u64, target: u64) -> Option<i32> {
    let distance = target.wrapping_sub(end).cast_signed();
    i32::try_from(distance).ok()
}

/// Whether a direct jump or call at `from` can go to `to`.
#[must_use]
pub fn reaches(from: u64, to: u64) -> bool {
    rel32(from, to).is_some_and(|distance| distance.checked_sub(16).is_some())
}

/// Bytes of a [`veneer`].
pub const VENEER_LEN: usize = 16;

/// `jmp *0(%rip)` with the target behind it: reaches any address and changes no register.
#[must_use]
pub fn veneer(target: u64) -> [u8; VENEER_LEN] {
    let mut bytes = [TRAP; VENEER_LEN];
    bytes[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    bytes[6..14].copy_from_slice(&target.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_round_trip() {
        let at = CodeAddr(0x5555_0000_1003);
        for form in [
            SiteBytes::Nop,
            SiteBytes::Jump(CodeAddr(at.0 + 5)),
            SiteBytes::Jump(CodeAddr(at.0)),
            SiteBytes::Jump(CodeAddr(at.0 + 5 + 0x7fff_ffff)),
            SiteBytes::Jump(CodeAddr(at.0 + 5 - 0x8000_0000)),
        ] {
            let bytes = encode(at, form).unwrap();
            assert_eq!(decode(at, bytes), Some(form), "{bytes:02x?}");
            assert_eq!(SiteBytes::from_word(form.to_word()), form);
        }
        assert_eq!(encode(at, SiteBytes::Jump(CodeAddr(at.0 + 5 + 0x8000_0000))), None);
        assert_eq!(encode(at, SiteBytes::Jump(CodeAddr(at.0 + 4 - 0x8000_0000))), None);
        assert_eq!(decode(at, [0x90; 5]), None);
    }

    #[test]
    fn a_jump_has_the_bytes_that_the_manual_says() {
        assert_eq!(encode(CodeAddr(0x1000), SiteBytes::Jump(CodeAddr(0x1005))), Some([0xe9, 0, 0, 0, 0]));
        assert_eq!(encode(CodeAddr(0x1000), SiteBytes::Jump(CodeAddr(0x1000))), Some([0xe9, 0xfb, 0xff, 0xff, 0xff]));
    }
}
