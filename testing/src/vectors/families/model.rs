//! The reference semantics: RFC 9669 in plain Rust arithmetic.

use skep_abi::{AluOp, EndKind, JmpOp, Width};

/// `dst op src`, both 64 bits wide; the result of a 32-bit operation is zero-extended.
#[must_use]
pub fn alu(op: AluOp, width: Width, dst: u64, src: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, dst, src),
        Width::W32 => u64::from(alu32(op, low(dst), low(src))),
    }
}

/// The low 32 bits.
#[must_use]
pub const fn low(value: u64) -> u32 {
    let b = value.to_le_bytes();
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn alu64(op: AluOp, dst: u64, src: u64) -> u64 {
    let shift = low(src & 63);
    let (signed_dst, signed_src) = (dst.cast_signed(), src.cast_signed());
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => dst.checked_div(src).unwrap_or(0),
        AluOp::Sdiv if src == 0 => 0,
        AluOp::Sdiv => signed_dst.wrapping_div(signed_src).cast_unsigned(),
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Lsh => dst << shift,
        AluOp::Rsh => dst >> shift,
        AluOp::Mod => dst.checked_rem(src).unwrap_or(dst),
        AluOp::Smod if src == 0 => dst,
        AluOp::Smod => signed_dst.wrapping_rem(signed_src).cast_unsigned(),
        AluOp::Xor => dst ^ src,
        AluOp::Mov => src,
        AluOp::Arsh => (signed_dst >> shift).cast_unsigned(),
    }
}

fn alu32(op: AluOp, dst: u32, src: u32) -> u32 {
    let shift = src & 31;
    let (signed_dst, signed_src) = (dst.cast_signed(), src.cast_signed());
    match op {
        AluOp::Add => dst.wrapping_add(src),
        AluOp::Sub => dst.wrapping_sub(src),
        AluOp::Mul => dst.wrapping_mul(src),
        AluOp::Div => dst.checked_div(src).unwrap_or(0),
        AluOp::Sdiv if src == 0 => 0,
        AluOp::Sdiv => signed_dst.wrapping_div(signed_src).cast_unsigned(),
        AluOp::Or => dst | src,
        AluOp::And => dst & src,
        AluOp::Lsh => dst << shift,
        AluOp::Rsh => dst >> shift,
        AluOp::Mod => dst.checked_rem(src).unwrap_or(dst),
        AluOp::Smod if src == 0 => dst,
        AluOp::Smod => signed_dst.wrapping_rem(signed_src).cast_unsigned(),
        AluOp::Xor => dst ^ src,
        AluOp::Mov => src,
        AluOp::Arsh => (signed_dst >> shift).cast_unsigned(),
    }
}

/// An immediate as a 64-bit operand.
#[must_use]
pub const fn imm(value: i32) -> u64 {
    (value as i64).cast_unsigned()
}

/// Whether the jump is taken.
#[must_use]
pub fn jump(op: JmpOp, width: Width, dst: u64, src: u64) -> bool {
    let (dst, src, signed_dst, signed_src) = match width {
        Width::W64 => (dst, src, dst.cast_signed(), src.cast_signed()),
        Width::W32 => (
            u64::from(low(dst)),
            u64::from(low(src)),
            i64::from(low(dst).cast_signed()),
            i64::from(low(src).cast_signed()),
        ),
    };
    match op {
        JmpOp::Eq => dst == src,
        JmpOp::Gt => dst > src,
        JmpOp::Ge => dst >= src,
        JmpOp::Set => dst & src != 0,
        JmpOp::Ne => dst != src,
        JmpOp::Sgt => signed_dst > signed_src,
        JmpOp::Sge => signed_dst >= signed_src,
        JmpOp::Lt => dst < src,
        JmpOp::Le => dst <= src,
        JmpOp::Slt => signed_dst < signed_src,
        JmpOp::Sle => signed_dst <= signed_src,
    }
}

/// Byte order of a little-endian machine.
#[must_use]
pub fn end(kind: EndKind, bits: u8, value: u64) -> u64 {
    let truncated = truncate(value, bits);
    match kind {
        EndKind::ToLe => truncated,
        EndKind::ToBe | EndKind::Bswap => truncated.swap_bytes() >> (64 - u32::from(bits)),
    }
}

/// The low `bits` of a value.
#[must_use]
pub const fn truncate(value: u64, bits: u8) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

/// The low `bits` of a value, sign-extended to 64.
#[must_use]
pub const fn sign_extend(value: u64, bits: u8) -> u64 {
    let shift = 64 - bits as u32;
    ((value << shift).cast_signed() >> shift).cast_unsigned()
}
