//! arm64: every instruction is one aligned word, and the architecture allows a few of them to be replaced by one store
//! while other CPUs execute them: each CPU runs the old or the new one, and after a context synchronization the new.
//!
//! The list is B, BL, BRK, HVC, ISB, NOP, SMC, SVC (Arm ARM, B2.2.5, "Concurrent modification and execution of
//! instructions"); a site here holds NOP or B, and BRK fills what holds no code. So there is no trap and no batch vector:
//! store, clean and invalidate, serialize. A `B` reaches 128 MiB; a far target goes through a [`veneer`], whose literal
//! always holds a legal address. Kernel counterpart: `arch/arm64/kernel/patching.c` (6.18).

use super::{CodeAddr, SiteBytes};

/// Bytes of a site.
pub const SITE_LEN: usize = 4;

/// `brk #0xf0`.
pub const TRAP: u32 = 0xd420_1e00;

/// What fills code memory that holds no code.
pub const FILL: [u8; 4] = TRAP.to_le_bytes();

/// `nop`.
pub const NOP: u32 = 0xd503_201f;

const B: u32 = 0x1400_0000;
const OP_MASK: u32 = 0xfc00_0000;
const BL: u32 = 0x9400_0000;

/// The word of `form` at address `at`; none if the address or the target is not aligned, or out of reach.
#[must_use]
pub fn encode_word(at: CodeAddr, form: SiteBytes) -> Option<u32> {
    match form {
        SiteBytes::Nop => at.0.is_multiple_of(4).then_some(NOP),
        SiteBytes::Jump(to) => {
            let distance = to.0.wrapping_sub(at.0).cast_signed();
            let aligned = at.0.is_multiple_of(4) && distance % 4 == 0;
            let near = (-(1 << 27)..1 << 27).contains(&distance);
            let words = i32::try_from(distance / 4).ok()?.cast_unsigned();
            (aligned && near).then_some(B | (words & !OP_MASK))
        }
    }
}

/// What the word at address `at` does; none if it is no form that a site may hold.
#[must_use]
pub fn decode_word(at: CodeAddr, word: u32) -> Option<SiteBytes> {
    if word == NOP {
        return Some(SiteBytes::Nop);
    }
    if word & OP_MASK != B {
        return None;
    }
    // Shifts the 26-bit field to the top and back, which extends its sign, and leaves it times four.
    let distance = i64::from((word << 6).cast_signed() >> 4);
    Some(SiteBytes::Jump(CodeAddr(at.0.wrapping_add_signed(distance))))
}

/// Whether `old` may be replaced by `new` with one store while other CPUs execute it.
#[must_use]
pub fn may_replace(old: u32, new: u32) -> bool {
    let listed =
        |word: u32| word == NOP || word & OP_MASK == B || word & OP_MASK == BL || word & 0xffe0_001f == 0xd420_0000;
    listed(old) && listed(new)
}

/// The bytes of `form`, as [`encode_word`].
#[must_use]
pub fn encode(at: CodeAddr, form: SiteBytes) -> Option<[u8; SITE_LEN]> {
    encode_word(at, form).map(u32::to_le_bytes)
}

/// What the bytes do, as [`decode_word`].
#[must_use]
pub fn decode(at: CodeAddr, bytes: [u8; SITE_LEN]) -> Option<SiteBytes> {
    decode_word(at, u32::from_le_bytes(bytes))
}

/// Whether a direct branch at `from` can go to `to`.
#[must_use]
pub fn reaches(from: u64, to: u64) -> bool {
    encode_word(CodeAddr(from & !3), SiteBytes::Jump(CodeAddr(to & !3))).is_some()
}

/// The word of a `B` or `BL` at address `at`, with its target set to `to`; none if that is out of reach.
#[must_use]
pub fn with_target(at: CodeAddr, word: u32, to: CodeAddr) -> Option<u32> {
    let field = encode_word(at, SiteBytes::Jump(to))? & !OP_MASK;
    (word & OP_MASK == B || word & OP_MASK == BL).then_some(word & OP_MASK | field)
}

/// Bytes of a [`veneer`].
pub const VENEER_LEN: usize = 16;

/// `ldr x16, .+8; br x16` with the target behind it: x16 is the platform's scratch register for this.
#[must_use]
pub fn veneer(target: u64) -> [u8; VENEER_LEN] {
    let mut bytes = [0; VENEER_LEN];
    bytes[..4].copy_from_slice(&0x5800_0050_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&0xd61f_0200_u32.to_le_bytes());
    bytes[8..].copy_from_slice(&target.to_le_bytes());
    bytes
}

/// Makes stores to `len` bytes at `start` visible to instruction fetches of all CPUs, up to their next context
/// synchronization.
///
/// # Safety
/// The range is mapped.
#[cfg(target_arch = "aarch64")]
pub unsafe fn clean_and_invalidate(start: *const u8, len: usize) {
    use std::arch::asm;
    // The smallest line that the architecture allows, so that no line is left out, whatever CTR_EL0 says.
    const LINE: usize = 16;
    let first = start.addr() & !(LINE - 1);
    let end = start.addr() + len;
    for line in (first..end).step_by(LINE) {
        // SAFETY: cleaning a line of mapped memory changes no data.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in (first..end).step_by(LINE) {
        // SAFETY: invalidating a line of the instruction cache changes no data.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_round_trip() {
        let at = CodeAddr(0x4000_0000);
        for form in [
            SiteBytes::Nop,
            SiteBytes::Jump(CodeAddr(at.0)),
            SiteBytes::Jump(CodeAddr(at.0 + 4)),
            SiteBytes::Jump(CodeAddr(at.0 - 4)),
            SiteBytes::Jump(CodeAddr(at.0 + (1 << 27) - 4)),
            SiteBytes::Jump(CodeAddr(at.0 - (1 << 27))),
        ] {
            let word = encode_word(at, form).unwrap();
            assert_eq!(decode_word(at, word), Some(form), "{word:08x}");
            assert!(may_replace(word, NOP) && may_replace(TRAP, word));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let at = CodeAddr(0x4000_0000);
        for to in [at.0 + (1 << 27), at.0 - (1 << 27) - 4, at.0 + 2, at.0 + (1 << 40)] {
            assert_eq!(encode_word(at, SiteBytes::Jump(CodeAddr(to))), None);
        }
        assert_eq!(encode_word(CodeAddr(2), SiteBytes::Nop), None);
        // add x0, x0, #1 may not be replaced under way, nor put there.
        assert!(!may_replace(0x9100_0400, NOP) && !may_replace(NOP, 0x9100_0400));
        assert_eq!(decode_word(at, 0x9100_0400), None);
    }

    #[test]
    fn a_call_stays_a_call_when_it_is_relocated() {
        let (at, to) = (CodeAddr(0x1000), CodeAddr(0x0ff8));
        assert_eq!(with_target(at, 0x9400_0000, to), Some(0x97ff_fffe));
        assert_eq!(with_target(at, 0x1400_0000, to), Some(0x17ff_fffe));
        assert_eq!(with_target(at, NOP, to), None);
        assert!(reaches(0, (1 << 27) - 4) && !reaches(0, 1 << 27));
    }

    #[test]
    fn words_are_the_manual_s() {
        assert_eq!(encode_word(CodeAddr(0), SiteBytes::Jump(CodeAddr(8))), Some(0x1400_0002));
        assert_eq!(encode_word(CodeAddr(8), SiteBytes::Jump(CodeAddr(4))), Some(0x17ff_ffff));
        assert_eq!(veneer(0x1122_3344_5566_7788)[8..], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    }
}
