//! Arithmetic, byte order and conditions of the interpreter.
//!
//! Pure functions on 64-bit register values. Invariant: for every operand the result equals the one of RFC 9669, which the
//! JIT and the kernel compute too. Kernel counterpart: `___bpf_prog_run`, kernel/bpf/core.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "registers are reinterpreted as the instruction's width and signedness demand"
)]

use skep_abi::{AluOp, EndKind, JmpOp, Width};

/// `dst op src`; a 32-bit result is zero-extended.
pub(super) fn alu(op: AluOp, width: Width, dst: u64, src: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, dst, src),
        Width::W32 => u64::from(alu32(op, dst as u32, src as u32)),
    }
}

fn alu64(op: AluOp, dst: u64, src: u64) -> u64 {
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => dst.checked_div(src).unwrap_or(0),
        AluOp::Sdiv if src == 0 => 0,
        AluOp::Sdiv => (dst as i64).wrapping_div(src as i64) as u64,
        AluOp::Mod => dst.checked_rem(src).unwrap_or(dst),
        AluOp::Smod if src == 0 => dst,
        AluOp::Smod => (dst as i64).wrapping_rem(src as i64) as u64,
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Xor => dst ^ src,
        AluOp::Mov => src,
        AluOp::Lsh => dst.wrapping_shl(src as u32),
        AluOp::Rsh => dst.wrapping_shr(src as u32),
        AluOp::Arsh => (dst as i64).wrapping_shr(src as u32) as u64,
    }
}

fn alu32(op: AluOp, dst: u32, src: u32) -> u32 {
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => dst.checked_div(src).unwrap_or(0),
        AluOp::Sdiv if src == 0 => 0,
        AluOp::Sdiv => (dst as i32).wrapping_div(src as i32) as u32,
        AluOp::Mod => dst.checked_rem(src).unwrap_or(dst),
        AluOp::Smod if src == 0 => dst,
        AluOp::Smod => (dst as i32).wrapping_rem(src as i32) as u32,
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Xor => dst ^ src,
        AluOp::Mov => src,
        AluOp::Lsh => dst.wrapping_shl(src),
        AluOp::Rsh => dst.wrapping_shr(src),
        AluOp::Arsh => (dst as i32).wrapping_shr(src) as u32,
    }
}

/// The low `bits` (8, 16 or 32) of `value`, sign-extended to 64.
pub(super) fn sign_extend(value: u64, bits: u8) -> u64 {
    let unused = 64 - u32::from(bits);
    ((value << unused) as i64 >> unused) as u64
}

/// The low `bits` of `value` in the byte order asked for, the rest zero. The host is little-endian.
pub(super) fn end(kind: EndKind, bits: u8, value: u64) -> u64 {
    match (kind, bits) {
        (EndKind::ToLe, 16) => value & 0xffff,
        (EndKind::ToLe, 32) => value & 0xffff_ffff,
        (EndKind::ToLe, _) => value,
        (EndKind::ToBe | EndKind::Bswap, 16) => u64::from((value as u16).swap_bytes()),
        (EndKind::ToBe | EndKind::Bswap, 32) => u64::from((value as u32).swap_bytes()),
        (EndKind::ToBe | EndKind::Bswap, _) => value.swap_bytes(),
    }
}

/// Whether the jump is taken.
pub(super) fn condition(op: JmpOp, width: Width, dst: u64, src: u64) -> bool {
    let (dst, src, sdst, ssrc) = match width {
        Width::W64 => (dst, src, dst as i64, src as i64),
        Width::W32 => {
            let (d, s) = (dst as u32, src as u32);
            (u64::from(d), u64::from(s), i64::from(d as i32), i64::from(s as i32))
        }
    };
    match op {
        JmpOp::Eq => dst == src,
        JmpOp::Ne => dst != src,
        JmpOp::Gt => dst > src,
        JmpOp::Ge => dst >= src,
        JmpOp::Lt => dst < src,
        JmpOp::Le => dst <= src,
        JmpOp::Set => dst & src != 0,
        JmpOp::Sgt => sdst > ssrc,
        JmpOp::Sge => sdst >= ssrc,
        JmpOp::Slt => sdst < ssrc,
        JmpOp::Sle => sdst <= ssrc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_by_zero_and_overflow_follow_the_rfc() {
        assert_eq!(alu(AluOp::Div, Width::W64, 7, 0), 0);
        assert_eq!(alu(AluOp::Mod, Width::W64, 7 << 32, 0), 7 << 32);
        assert_eq!(alu(AluOp::Mod, Width::W32, (7 << 32) | 5, 0), 5);
        assert_eq!(alu(AluOp::Sdiv, Width::W64, i64::MIN as u64, u64::MAX), i64::MIN as u64);
        assert_eq!(alu(AluOp::Smod, Width::W64, i64::MIN as u64, u64::MAX), 0);
        assert_eq!(alu(AluOp::Sdiv, Width::W32, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
        assert_eq!(alu(AluOp::Smod, Width::W32, -13i32 as u32 as u64, 4), (-1i32 as u32).into());
    }

    #[test]
    fn shifts_mask_their_count() {
        assert_eq!(alu(AluOp::Lsh, Width::W64, 1, 65), 2);
        assert_eq!(alu(AluOp::Lsh, Width::W32, 1, 33), 2);
        assert_eq!(alu(AluOp::Arsh, Width::W32, 0x8000_0000, 31), 0xffff_ffff);
    }

    #[test]
    fn byte_order_clears_the_rest() {
        assert_eq!(end(EndKind::ToBe, 16, 0x1122_3344), 0x4433);
        assert_eq!(end(EndKind::ToLe, 32, 0x11_2233_4455), 0x2233_4455);
        assert_eq!(end(EndKind::Bswap, 64, 1), 1 << 56);
        assert_eq!(sign_extend(0x80, 8), u64::MAX - 0x7f);
    }

    #[test]
    fn conditions_respect_width_and_sign() {
        assert!(condition(JmpOp::Slt, Width::W32, 0xffff_ffff, 0));
        assert!(!condition(JmpOp::Slt, Width::W64, 0xffff_ffff, 0));
        assert!(condition(JmpOp::Eq, Width::W32, 1 << 32, 0));
        assert!(condition(JmpOp::Set, Width::W64, 6, 2));
    }
}
