//! Forward simplification within blocks: copies, address sums, byte-wise loads, rotations, needless extensions.
//!
//! Owns the rewriting of single ops by what their operands are known to hold ([`super::value`]); what becomes unused is
//! removed by [`super::liveness`] afterwards. Invariant: after each slot the registers that are live hold what the program
//! says they hold (a pair that is rewritten together has no jump target between).

use skep_abi::{AluOp, EndKind, Imm64, Insn, Operand, Reg, Size, Width};
use skep_verifier::{MemKind, Xlated};

use super::effect::{effect, narrow_result};
use super::value::{Bytes, Known, Value};
use super::{Flow, Key, Op};
use crate::layout::{Layout, MapAccess};

/// Simplifies all ops of `flow`.
pub(super) fn simplify(flow: &mut Flow, xlated: &Xlated, layout: &Layout) {
    let mut known = Known::new();
    for at in 0..flow.ops.len() {
        let Some(slot) = flow.slots.get_mut(at) else { break };
        if slot.leader {
            known.reset();
        }
        slot.zext = known.zext();
        let may_fault = xlated.facts.get(at).is_some_and(|facts| facts.mem == MemKind::Btf);
        let mut op = flow.op(at);
        let changed = substitute(&mut op, &known);
        let new = rewrite(flow, at, &op, (&mut known, layout), may_fault);
        // Most ops stay as they are; writing them back would cost as much as all of the above.
        if let Some(op) = new.or(changed.then_some(op))
            && let Some(place) = flow.ops.get_mut(at)
        {
            *place = op;
        }
    }
}

/// Replaces operands by older registers that hold the same; whether there were any.
fn substitute(op: &mut Op, known: &Known) -> bool {
    let Op::Insn(insn) = op else { return false };
    match insn {
        Insn::Alu { src: Operand::Reg(src), .. } | Insn::MovSx { src, .. } => replace_copy(src, known),
        Insn::Load { base, off, .. } | Insn::Atomic { base, off, .. } => replace_address(base, off, known),
        Insn::Store { base, off, src, .. } => replace_address(base, off, known) | replace_operand(src, known),
        Insn::Jcond { dst, src, .. } => replace_copy(dst, known) | replace_operand(src, known),
        _ => false,
    }
}

/// An older register with the same value; never the frame pointer, which no host register need hold.
fn replace_copy(reg: &mut Reg, known: &Known) -> bool {
    match known.value(*reg) {
        Value::Sum { base, imm: 0 } if base.reg != Reg::R10 => {
            *reg = base.reg;
            true
        }
        _ => false,
    }
}

fn replace_operand(src: &mut Operand, known: &Known) -> bool {
    match src {
        Operand::Reg(reg) => replace_copy(reg, known),
        Operand::Imm(_) => false,
    }
}

/// The address with sums folded into the offset.
fn replace_address(base: &mut Reg, off: &mut i16, known: &Known) -> bool {
    let Value::Sum { base: part, imm } = known.value(*base) else { return false };
    let Ok(sum) = i16::try_from(i32::from(*off).saturating_add(imm)) else { return false };
    *base = part.reg;
    *off = sum;
    true
}

/// Records what one op leaves in registers, and returns a better one if there is.
fn rewrite(flow: &mut Flow, at: usize, op: &Op, (known, layout): (&mut Known, &Layout), may_fault: bool) -> Option<Op> {
    match *op {
        Op::Insn(Insn::Alu { width, op, dst, src }) => return alu(flow, at, width, op, dst, src, known),
        Op::Insn(Insn::Load { size, sign_extend, dst, base, off }) => {
            return load(size, sign_extend, dst, base, off, known, may_fault);
        }
        Op::Insn(Insn::End { kind, bits, dst }) => return end(kind, bits, dst, known),
        Op::Insn(Insn::LdImm64 { dst, imm: Imm64::Const(value) }) => {
            known.write(dst, Value::Unknown, significant(value));
        }
        Op::Insn(Insn::LdImm64 { dst, imm }) => {
            known.write(dst, percpu_offset(imm, layout).map_or(Value::Unknown, Value::PercpuOff), 64);
        }
        Op::Insn(Insn::MovPercpu { dst, src }) => {
            let Value::PercpuOff(off) = known.value(src) else {
                known.write(dst, Value::Unknown, 64);
                return None;
            };
            known.write(dst, Value::Percpu(off), 64);
            return Some(Op::PercpuAddr { dst, off });
        }
        Op::Insn(Insn::Store { size, base, off, src }) => {
            known.clobber_memory();
            let off = percpu_address(base, off, known)?;
            return Some(Op::StorePercpu { size, src, off });
        }
        Op::Insn(Insn::MovSx { width, dst, .. } | Insn::Neg { width, dst }) | Op::Rotate { width, dst, .. } => {
            known.write(dst, Value::Unknown, width_bits(width));
        }
        Op::Insn(Insn::Jcond { .. } | Insn::Ja { .. }) | Op::Nop => {}
        Op::Insn(ref insn @ Insn::Atomic { .. }) => {
            known.clobber_memory();
            forget_written(op, known);
            if let Some(result) = narrow_result(insn) {
                known.write(result, Value::Unknown, 32);
            }
        }
        Op::Lookup { map, percpu, key: Key::Pointer } => {
            let (base, imm) = known.sum(Reg::R2);
            forget_written(op, known);
            let off = i16::try_from(imm).ok().filter(|_| base.reg == Reg::R10)?;
            return Some(Op::Lookup { map, percpu, key: Key::Stack(off) });
        }
        Op::Lookup { map, percpu: true, key: Key::Const(key) } => {
            forget_written(op, known);
            let off = percpu_element(map, key, layout)?;
            known.write(Reg::R0, Value::Percpu(off), 64);
            return Some(Op::PercpuAddr { dst: Reg::R0, off });
        }
        _ => {
            if !effect(op).is_pure() {
                known.clobber_memory();
            }
            forget_written(op, known);
        }
    }
    None
}

/// Offset in per-CPU memory of the value that an `ld_imm64` names.
fn percpu_offset(imm: Imm64, layout: &Layout) -> Option<i32> {
    let Imm64::MapValue { fd, off } = imm else { return None };
    match layout.maps.get(usize::try_from(fd).ok()?)?.access {
        MapAccess::PerCpuArray { off: first, .. } => i32::try_from(first.checked_add(u64::from(off))?).ok(),
        _ => None,
    }
}

/// Offset in per-CPU memory of an element, if there is one with that key.
fn percpu_element(map: u32, key: u32, layout: &Layout) -> Option<i32> {
    match layout.maps.get(map as usize)?.access {
        MapAccess::PerCpuArray { off, stride, max_entries } if key < max_entries => {
            i32::try_from(off.checked_add(u64::from(key) * u64::from(stride))?).ok()
        }
        _ => None,
    }
}

/// Offset from the vCPU's base, where the address is known to be one.
fn percpu_address(base: Reg, off: i16, known: &Known) -> Option<i32> {
    match known.value(base) {
        Value::Percpu(at) => at.checked_add(i32::from(off)),
        _ => None,
    }
}

fn forget_written(op: &Op, known: &mut Known) {
    let writes = effect(op).writes();
    for number in 0..=11 {
        if let Some(reg) = Reg::new(number)
            && writes.has(reg)
        {
            known.write(reg, Value::Unknown, 64);
        }
    }
}

const fn width_bits(width: Width) -> u8 {
    match width {
        Width::W32 => 32,
        Width::W64 => 64,
    }
}

/// Number of significant bits.
fn significant(value: u64) -> u8 {
    u8::try_from(64 - value.leading_zeros()).unwrap_or(64)
}

/// An immediate as the operation sees it.
fn extended(imm: i32, width: Width) -> u64 {
    match width {
        Width::W32 => u64::from(imm.cast_unsigned()),
        Width::W64 => i64::from(imm).cast_unsigned(),
    }
}

/// Loads: remember the bytes, use two-register addresses.
fn load(
    size: Size,
    sign_extend: bool,
    dst: Reg,
    base: Reg,
    off: i16,
    known: &mut Known,
    may_fault: bool,
) -> Option<Op> {
    let bits = if sign_extend { 64 } else { 8 * size.bytes() };
    let op = match known.value(base) {
        Value::Sum2 { a, b } => Some(Op::LoadIndexed { size, sign_extend, dst, base: a.reg, index: b.reg, off }),
        Value::Percpu(_) => percpu_address(base, off, known).map(|off| Op::LoadPercpu { size, sign_extend, dst, off }),
        _ => None,
    };
    let plain = !sign_extend && dst != base && !may_fault;
    let value = if plain { known.bytes(base, i32::from(off), size.bytes(), false) } else { Value::Unknown };
    known.write(dst, value, bits);
    op
}

/// Byte swaps: of memory bytes they are a big-endian load.
fn end(kind: EndKind, bits: u8, dst: Reg, known: &mut Known) -> Option<Op> {
    if kind != EndKind::ToLe
        && let Value::Bytes(bytes) = known.value(dst)
        && bytes.shift == 0
        && bytes.len * 8 == bits
        && let Some(op) = byte_load(dst, Bytes { big: !bytes.big, ..bytes })
    {
        known.write(dst, known.bytes(bytes.base.reg, bytes.off, bytes.len, !bytes.big), bits);
        return Some(op);
    }
    let left = if kind == EndKind::ToLe { known.bits(dst).min(bits) } else { bits };
    known.write(dst, Value::Unknown, left);
    None
}

/// A load of joined bytes, if there is one of that length. The base must not be `dst`: it is still needed then.
fn byte_load(dst: Reg, bytes: Bytes) -> Option<Op> {
    let size = match bytes.len {
        2 => Size::H,
        4 => Size::W,
        8 => Size::Dw,
        _ => return None,
    };
    let off = i16::try_from(bytes.off).ok()?;
    let base = bytes.base.reg;
    match (bytes.shift, bytes.big) {
        (0, false) => Some(Op::Insn(Insn::Load { size, sign_extend: false, dst, base, off })),
        (0, true) => Some(Op::LoadBe { size, dst, base, off }),
        _ => None,
    }
}

fn alu(flow: &mut Flow, at: usize, width: Width, op: AluOp, dst: Reg, src: Operand, known: &mut Known) -> Option<Op> {
    match (op, src) {
        (AluOp::Mov, Operand::Imm(imm)) => {
            known.write(dst, Value::Unknown, significant(extended(imm, width)));
            None
        }
        (AluOp::Mov, Operand::Reg(src)) => mov(width, dst, src, known),
        (AluOp::Add | AluOp::Sub, Operand::Imm(imm)) if width == Width::W64 => add_imm(op, dst, imm, known),
        (AluOp::Add, Operand::Reg(src)) if width == Width::W64 => {
            if let Some(joined) = join_bytes(width, dst, src, known) {
                return joined;
            }
            add_reg(dst, src, known)
        }
        (AluOp::Or | AluOp::Xor, Operand::Reg(src)) => {
            if let Some(rotate) = join_shifts(width, dst, src, known) {
                return Some(rotate);
            }
            if let Some(joined) = join_bytes(width, dst, src, known) {
                return joined;
            }
            let bits = known.bits(dst).max(known.bits(src)).min(width_bits(width));
            known.write(dst, Value::Unknown, bits);
            None
        }
        (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Imm(by)) => shift(flow, at, width, op, dst, by, known),
        (AluOp::And, _) => and(width, dst, src, known),
        _ => {
            known.write(dst, Value::Unknown, width_bits(width));
            None
        }
    }
}

fn mov(width: Width, dst: Reg, src: Reg, known: &mut Known) -> Option<Op> {
    let bits = known.bits(src);
    if width == Width::W32 && bits > 32 {
        known.write(dst, if dst == src { Value::Unknown } else { Value::Low32 { src: known.part(src) } }, 32);
        return None;
    }
    if dst == src {
        return Some(Op::Nop);
    }
    let (base, imm) = match known.sum(src) {
        (base, _) if base.reg == dst => (known.part(src), 0),
        sum => sum,
    };
    let op = if base.reg == Reg::R10 {
        Some(Op::AddImm { dst, base: Reg::R10, imm })
    } else if bits <= 32 && width == Width::W64 {
        // The upper half of a short value is zero already; the 32-bit form is shorter.
        Some(Op::Insn(Insn::Alu { width: Width::W32, op: AluOp::Mov, dst, src: Operand::Reg(src) }))
    } else {
        None
    };
    known.write(dst, Value::Sum { base, imm }, bits);
    op
}

fn add_imm(op: AluOp, dst: Reg, imm: i32, known: &mut Known) -> Option<Op> {
    let delta = if op == AluOp::Add { Some(imm) } else { imm.checked_neg() };
    if let (Value::Percpu(before), Some(delta)) = (known.value(dst), delta)
        && let Some(off) = before.checked_add(delta)
    {
        known.write(dst, Value::Percpu(off), 64);
        return Some(Op::PercpuAddr { dst, off });
    }
    let (base, before) = known.sum(dst);
    match delta.and_then(|delta| before.checked_add(delta)) {
        Some(sum) if base.reg != dst => {
            known.write(dst, Value::Sum { base, imm: sum }, 64);
            Some(Op::AddImm { dst, base: base.reg, imm: sum })
        }
        _ => {
            known.write(dst, Value::Unknown, 64);
            None
        }
    }
}

fn add_reg(dst: Reg, src: Reg, known: &mut Known) -> Option<Op> {
    match known.sum(dst) {
        (base, 0) if base.reg != dst && base.reg != Reg::R10 && src != Reg::R10 && src != dst => {
            let value = Value::Sum2 { a: base, b: known.part(src) };
            known.write(dst, value, 64);
            Some(Op::AddReg { dst, a: base.reg, b: src })
        }
        _ => {
            known.write(dst, Value::Unknown, 64);
            None
        }
    }
}

/// `dst |= src` of neighbouring bytes. `Some(None)`: joined, but no load has that length yet.
fn join_bytes(width: Width, dst: Reg, src: Reg, known: &mut Known) -> Option<Option<Op>> {
    let (Value::Bytes(a), Value::Bytes(b)) = (known.value(dst), known.value(src)) else { return None };
    let bytes = a.join(b)?;
    if bytes.shift + 8 * bytes.len > width_bits(width) {
        return None;
    }
    let op = byte_load(dst, bytes);
    known.write(dst, Value::Bytes(bytes), bytes.shift + 8 * bytes.len);
    Some(op)
}

/// `dst |= src` of two shifts of the same register: a rotation.
fn join_shifts(join_width: Width, dst: Reg, src: Reg, known: &mut Known) -> Option<Op> {
    let Value::Shifted { src: x, width, left, by } = known.value(dst) else { return None };
    let Value::Shifted { src: y, width: other_width, left: other_left, by: other_by } = known.value(src) else {
        return None;
    };
    let truncates = join_width == Width::W32 && width == Width::W64;
    if truncates || x != y || width != other_width || left == other_left || by + other_by != width_bits(width) {
        return None;
    }
    let left = if left { by } else { other_by };
    known.write(dst, Value::Unknown, width_bits(width));
    Some(Op::Rotate { width, dst, src: x.reg, left })
}

fn and(width: Width, dst: Reg, src: Operand, known: &mut Known) -> Option<Op> {
    let bits = known.bits(dst);
    let mask_bits = match src {
        Operand::Imm(imm) => {
            let mask = extended(imm, width);
            // A mask of ones that covers all significant bits does nothing.
            let ones = if mask.wrapping_add(1).is_power_of_two() || mask == u64::MAX { significant(mask) } else { 0 };
            if ones >= bits {
                return Some(Op::Nop);
            }
            significant(mask)
        }
        Operand::Reg(src) => known.bits(src),
    };
    known.write(dst, Value::Unknown, bits.min(mask_bits).min(width_bits(width)));
    None
}

fn shift(flow: &mut Flow, at: usize, width: Width, op: AluOp, dst: Reg, by: i32, known: &mut Known) -> Option<Op> {
    let limit = width_bits(width);
    let Ok(by) = u8::try_from(by) else {
        known.write(dst, Value::Unknown, limit);
        return None;
    };
    if by >= limit {
        known.write(dst, Value::Unknown, limit);
        return None;
    }
    if let Some(op) = extension(flow, at, width, op, dst, by) {
        return Some(op);
    }
    if let Some(op) = rotation(flow, at, width, op, dst, by, known) {
        return Some(op);
    }
    let bits = known.bits(dst).min(limit);
    let value = match (op, known.value(dst)) {
        (AluOp::Lsh, Value::Bytes(bytes))
            if by.is_multiple_of(8)
                && u32::from(bytes.shift) + 8 * u32::from(bytes.len) + u32::from(by) <= u32::from(limit) =>
        {
            Value::Bytes(Bytes { shift: bytes.shift + by, ..bytes })
        }
        (AluOp::Lsh | AluOp::Rsh, Value::Sum { base, imm: 0 }) if by > 0 => {
            Value::Shifted { src: base, width, left: op == AluOp::Lsh, by }
        }
        (AluOp::Lsh | AluOp::Rsh, Value::Low32 { src }) if by > 0 && width == Width::W32 => {
            Value::Shifted { src, width, left: op == AluOp::Lsh, by }
        }
        _ => Value::Unknown,
    };
    let bits = match op {
        AluOp::Lsh => limit.min(bits.saturating_add(by)),
        AluOp::Rsh => bits.saturating_sub(by),
        _ => limit,
    };
    known.write(dst, value, bits);
    None
}

/// `r <<= n; r >>= n` and `r <<= n; r s>>= n` for 8, 16 and 32 bits that stay: the second becomes the extension, and is
/// simplified in its turn.
fn extension(flow: &mut Flow, at: usize, width: Width, op: AluOp, dst: Reg, by: u8) -> Option<Op> {
    let next = at + 1;
    if op != AluOp::Lsh || flow.slot(next).leader {
        return None;
    }
    let Op::Insn(Insn::Alu { width: next_width, op: back, dst: next_dst, src: Operand::Imm(next_by) }) = flow.op(next)
    else {
        return None;
    };
    if next_width != width || next_dst != dst || next_by != i32::from(by) {
        return None;
    }
    let stay = width_bits(width) - by;
    let insn = match (back, stay) {
        (AluOp::Rsh, 32) => Insn::Alu { width: Width::W32, op: AluOp::Mov, dst, src: Operand::Reg(dst) },
        (AluOp::Rsh, 8 | 16) => {
            Insn::Alu { width: Width::W32, op: AluOp::And, dst, src: Operand::Imm((1 << stay) - 1) }
        }
        (AluOp::Arsh, 8 | 16 | 32) => Insn::MovSx { width, bits: stay, dst, src: dst },
        _ => return None,
    };
    *flow.ops.get_mut(next)? = Op::Insn(insn);
    Some(Op::Nop)
}

/// `t = x; t >>= s; x <<= n - s; x |= t`: the shift in place, at `at`, waits for the `|=` that must follow.
fn rotation(flow: &mut Flow, at: usize, width: Width, op: AluOp, dst: Reg, by: u8, known: &mut Known) -> Option<Op> {
    let next = at + 1;
    if by == 0 || flow.slot(next).leader {
        return None;
    }
    let Op::Insn(Insn::Alu { width: or_width, op: AluOp::Or | AluOp::Xor, dst: or_dst, src: Operand::Reg(or_src) }) =
        flow.op(next)
    else {
        return None;
    };
    if or_width == Width::W32 && width == Width::W64 {
        return None;
    }
    let other = match dst {
        _ if or_dst == dst => or_src,
        _ if or_src == dst => or_dst,
        _ => return None,
    };
    let Value::Shifted { src, width: other_width, left, by: other_by } = known.value(other) else { return None };
    let opposite = if left { AluOp::Rsh } else { AluOp::Lsh };
    if src != known.part(dst) || other_width != width || op != opposite || by + other_by != width_bits(width) {
        return None;
    }
    let left = if left { other_by } else { by };
    let shift = Op::Insn(Insn::Alu { width, op, dst, src: Operand::Imm(i32::from(by)) });
    let (first, second) = if or_dst == dst {
        (Op::Nop, Op::Rotate { width, dst, src: dst, left })
    } else {
        // The result goes to the other register; the shifted one may still be wanted.
        (Op::Rotate { width, dst: other, src: dst, left }, shift)
    };
    if let Some(place) = flow.ops.get_mut(next) {
        *place = second;
    }
    known.write(other, Value::Unknown, 64);
    known.write(dst, Value::Unknown, 64);
    Some(first)
}
