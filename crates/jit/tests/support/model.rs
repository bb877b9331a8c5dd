//! A model of eBPF: the plainest interpreter that could be right. It shares nothing with the code generator.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers are cut and reinterpreted on purpose"
)]

use std::collections::BTreeMap;

use skep_abi::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, Width, decode_xlated,
};

/// A helper: the signature of compiled code.
pub(crate) type Helper = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// Runs `program` from `pc`; memory accesses are real.
pub(crate) fn run(program: &[RawInsn], helpers: &BTreeMap<u32, Helper>, ctx: u64, cpu: u64) -> u64 {
    let mut regs = [0_u64; 12];
    regs[1] = ctx;
    call(program, helpers, 0, regs, cpu, &mut 10_000_000).0
}

fn call(
    program: &[RawInsn],
    helpers: &BTreeMap<u32, Helper>,
    start: usize,
    mut regs: [u64; 12],
    cpu: u64,
    fuel: &mut u64,
) -> (u64, [u64; 12]) {
    let mut stack = vec![0_u64; 64];
    regs[10] = stack.as_mut_ptr() as u64 + 512;
    let mut pc = start;
    loop {
        *fuel = fuel.checked_sub(1).expect("the program ends");
        let insn = decode_xlated(program, pc).expect("decodes");
        let mut next = pc + insn.slots();
        let jump = |off: i32| (pc as i64 + 1 + i64::from(off)) as usize;
        match insn {
            Insn::Alu { width, op, dst, src } => {
                let b = operand(src, &regs);
                regs[dst.index()] = alu(width, op, regs[dst.index()], b);
            }
            Insn::MovSx { width, bits, dst, src } => {
                let shift = 64 - u32::from(bits);
                let value = ((regs[src.index()] << shift) as i64 >> shift) as u64;
                regs[dst.index()] = cut(width, value);
            }
            Insn::Neg { width, dst } => regs[dst.index()] = cut(width, regs[dst.index()].wrapping_neg()),
            Insn::End { kind, bits, dst } => regs[dst.index()] = end(kind, bits, regs[dst.index()]),
            Insn::MovPercpu { dst, src } => regs[dst.index()] = regs[src.index()].wrapping_add(cpu),
            Insn::LdImm64 { dst, imm: Imm64::Const(value) } => regs[dst.index()] = value,
            Insn::Load { size, sign_extend, dst, base, off } => {
                let value = load(size, address(&regs, base, off));
                let shift = 64 - 8 * u32::from(size.bytes());
                regs[dst.index()] = if sign_extend { ((value << shift) as i64 >> shift) as u64 } else { value };
            }
            Insn::LoadAcquire { size, dst, base, off } => regs[dst.index()] = load(size, address(&regs, base, off)),
            Insn::Store { size, base, off, src } => store(size, address(&regs, base, off), operand(src, &regs)),
            Insn::StoreRelease { size, base, off, src } => store(size, address(&regs, base, off), regs[src.index()]),
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let at = address(&regs, base, off);
                let old = load(size, at);
                let b = regs[src.index()];
                let mask = if size == Size::W { u64::from(u32::MAX) } else { u64::MAX };
                match op {
                    AtomicOp::Add => store(size, at, old.wrapping_add(b)),
                    AtomicOp::Or => store(size, at, old | b),
                    AtomicOp::And => store(size, at, old & b),
                    AtomicOp::Xor => store(size, at, old ^ b),
                    AtomicOp::Xchg => store(size, at, b),
                    AtomicOp::Cmpxchg => {
                        if old == regs[0] & mask {
                            store(size, at, b);
                        }
                        regs[0] = old;
                    }
                }
                if fetch && op != AtomicOp::Cmpxchg {
                    regs[src.index()] = old;
                }
            }
            Insn::Ja { off, .. } => next = jump(off),
            Insn::Jcond { width, op, dst, src, off } => {
                if holds(width, op, regs[dst.index()], operand(src, &regs)) {
                    next = jump(i32::from(off));
                }
            }
            Insn::Call { target: CallTarget::Helper(id) } => {
                let helper = helpers[&u32::try_from(id).expect("helper id")];
                regs[0] = helper(regs[1], regs[2], regs[3], regs[4], regs[5], cpu);
            }
            Insn::Call { target: CallTarget::Subprog(off) } => {
                let (r0, _) = call(program, helpers, jump(off), regs, cpu, fuel);
                regs[0] = r0;
            }
            Insn::Exit => return (regs[0], regs),
            other => unreachable!("the model does not know {other:?}"),
        }
        pc = next;
    }
}

fn operand(src: Operand, regs: &[u64; 12]) -> u64 {
    match src {
        Operand::Reg(reg) => regs[reg.index()],
        Operand::Imm(imm) => i64::from(imm) as u64,
    }
}

fn address(regs: &[u64; 12], base: Reg, off: i16) -> u64 {
    regs[base.index()].wrapping_add(i64::from(off) as u64)
}

fn cut(width: Width, value: u64) -> u64 {
    if width == Width::W32 { value & 0xffff_ffff } else { value }
}

fn alu(width: Width, op: AluOp, a: u64, b: u64) -> u64 {
    if width == Width::W32 {
        let (a, b) = (a as u32, b as u32);
        let value = match op {
            AluOp::Add => a.wrapping_add(b),
            AluOp::Sub => a.wrapping_sub(b),
            AluOp::Mul => a.wrapping_mul(b),
            AluOp::Div => a.checked_div(b).unwrap_or(0),
            AluOp::Mod => a.checked_rem(b).unwrap_or(a),
            AluOp::Sdiv if b == 0 => 0,
            AluOp::Sdiv => (a as i32).wrapping_div(b as i32) as u32,
            AluOp::Smod if b == 0 => a,
            AluOp::Smod => (a as i32).wrapping_rem(b as i32) as u32,
            AluOp::Or => a | b,
            AluOp::And => a & b,
            AluOp::Xor => a ^ b,
            AluOp::Mov => b,
            AluOp::Lsh => a << (b & 31),
            AluOp::Rsh => a >> (b & 31),
            AluOp::Arsh => ((a as i32) >> (b & 31)) as u32,
        };
        return u64::from(value);
    }
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::Sdiv if b == 0 => 0,
        AluOp::Sdiv => (a as i64).wrapping_div(b as i64) as u64,
        AluOp::Smod if b == 0 => a,
        AluOp::Smod => (a as i64).wrapping_rem(b as i64) as u64,
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Mov => b,
        AluOp::Lsh => a << (b & 63),
        AluOp::Rsh => a >> (b & 63),
        AluOp::Arsh => ((a as i64) >> (b & 63)) as u64,
    }
}

fn end(kind: EndKind, bits: u8, value: u64) -> u64 {
    match (kind, bits) {
        (EndKind::ToLe, 16) => value & 0xffff,
        (EndKind::ToLe, 32) => value & 0xffff_ffff,
        (EndKind::ToLe, _) => value,
        (_, 16) => u64::from((value as u16).swap_bytes()),
        (_, 32) => u64::from((value as u32).swap_bytes()),
        _ => value.swap_bytes(),
    }
}

fn holds(width: Width, op: JmpOp, a: u64, b: u64) -> bool {
    let (a, b, sa, sb) = match width {
        Width::W32 => (a & 0xffff_ffff, b & 0xffff_ffff, i64::from(a as i32), i64::from(b as i32)),
        Width::W64 => (a, b, a as i64, b as i64),
    };
    match op {
        JmpOp::Eq => a == b,
        JmpOp::Ne => a != b,
        JmpOp::Gt => a > b,
        JmpOp::Ge => a >= b,
        JmpOp::Lt => a < b,
        JmpOp::Le => a <= b,
        JmpOp::Set => a & b != 0,
        JmpOp::Sgt => sa > sb,
        JmpOp::Sge => sa >= sb,
        JmpOp::Slt => sa < sb,
        JmpOp::Sle => sa <= sb,
    }
}

fn load(size: Size, at: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the test's programs access their context and stack only.
    unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), usize::from(size.bytes())) };
    u64::from_le_bytes(bytes)
}

fn store(size: Size, at: u64, value: u64) {
    let bytes = value.to_le_bytes();
    // SAFETY: as in `load`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, usize::from(size.bytes())) };
}
