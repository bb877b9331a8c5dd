//! The x86-64 assembler: one method per instruction shape, appending bytes to the code buffer.
//!
//! What is odd about this CPU: instructions are 1 to 15 bytes, a REX prefix reaches the upper eight registers and the
//! 64-bit width, `rsp` and `r12` as a base need a SIB byte, `rbp` and `r13` as a base need a displacement, and byte
//! registers 4-7 mean `spl`-`dil` only under a REX prefix. Invariant: every method appends one whole instruction in its
//! shortest encoding; jumps to labels are recorded, not encoded, and get their size in [`super::relax`]. Kernel counterpart:
//! the `EMIT` macros of arch/x86/net/bpf_jit_comp.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an encoder takes numbers apart into bytes on purpose"
)]

use super::relax::{Fix, FixKind, Label, Position};

/// A general-purpose register of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostReg(pub(crate) u8);

pub(crate) const RAX: HostReg = HostReg(0);
pub(crate) const RCX: HostReg = HostReg(1);
pub(crate) const RDX: HostReg = HostReg(2);
pub(crate) const RBX: HostReg = HostReg(3);
pub(crate) const RSP: HostReg = HostReg(4);
pub(crate) const RBP: HostReg = HostReg(5);
pub(crate) const RSI: HostReg = HostReg(6);
pub(crate) const RDI: HostReg = HostReg(7);
pub(crate) const R8: HostReg = HostReg(8);
pub(crate) const R9: HostReg = HostReg(9);
pub(crate) const R10: HostReg = HostReg(10);
pub(crate) const R11: HostReg = HostReg(11);
pub(crate) const R12: HostReg = HostReg(12);
pub(crate) const R13: HostReg = HostReg(13);
pub(crate) const R14: HostReg = HostReg(14);
pub(crate) const R15: HostReg = HostReg(15);

/// Condition code of `jcc`, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cond(pub(crate) u8);

impl Cond {
    pub(crate) const B: Self = Self(0x2);
    pub(crate) const AE: Self = Self(0x3);
    pub(crate) const E: Self = Self(0x4);
    pub(crate) const NE: Self = Self(0x5);
    pub(crate) const BE: Self = Self(0x6);
    pub(crate) const A: Self = Self(0x7);
    pub(crate) const S: Self = Self(0x8);
    pub(crate) const L: Self = Self(0xc);
    pub(crate) const GE: Self = Self(0xd);
    pub(crate) const LE: Self = Self(0xe);
    pub(crate) const G: Self = Self(0xf);

    pub(crate) const fn inverted(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A memory operand: `[base + index << scale + disp]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mem {
    pub(crate) base: HostReg,
    pub(crate) index: Option<(HostReg, u8)>,
    pub(crate) disp: i32,
}

impl Mem {
    pub(crate) const fn new(base: HostReg, disp: i32) -> Self {
        Self { base, index: None, disp }
    }

    pub(crate) const fn indexed(base: HostReg, index: HostReg, scale: u8, disp: i32) -> Self {
        Self { base, index: Some((index, scale)), disp }
    }
}

/// The r/m operand of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rm {
    Reg(HostReg),
    Mem(Mem),
}

impl From<HostReg> for Rm {
    fn from(reg: HostReg) -> Self {
        Self::Reg(reg)
    }
}

impl From<Mem> for Rm {
    fn from(mem: Mem) -> Self {
        Self::Mem(mem)
    }
}

/// Operand size of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpSize {
    B8,
    B16,
    B32,
    B64,
}

impl OpSize {
    /// 64 or 32 bits.
    pub(crate) const fn wide(wide: bool) -> Self {
        if wide { Self::B64 } else { Self::B32 }
    }
}

/// The arithmetic group: the number is both the opcode row and the `/digit` of the immediate form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arith {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// The shift group: the number is the `/digit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shift {
    Rol = 0,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// The one-operand group of 0xf7: the number is the `/digit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unary {
    Not = 2,
    Neg = 3,
    Mul = 4,
    Imul = 5,
    Div = 6,
    Idiv = 7,
}

/// Opcode maps.
const ONE: u8 = 0;
const TWO_0F: u8 = 1;
const THREE_0F38: u8 = 2;
const THREE_0F3A: u8 = 3;

/// One instruction being put together.
struct Line {
    bytes: [u8; 24],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 24], len: 0 }
    }

    fn byte(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
        }
        self.len += 1;
    }

    fn imm32(&mut self, value: i32) {
        for byte in value.to_le_bytes() {
            self.byte(byte);
        }
    }

    /// ModRM, SIB and displacement.
    fn operand(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        let mem = match rm {
            Rm::Reg(r) => return self.byte(0xc0 | reg | (r.0 & 7)),
            Rm::Mem(mem) => mem,
        };
        let base = mem.base.0 & 7;
        let short = i8::try_from(mem.disp);
        let mode = match short {
            Ok(0) if base != 5 => 0x00,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        match mem.index {
            Some((index, scale)) => {
                self.byte(mode | reg | 4);
                self.byte((scale << 6) | ((index.0 & 7) << 3) | base);
            }
            None if base == 4 => {
                self.byte(mode | reg | 4);
                self.byte(0x24);
            }
            None => self.byte(mode | reg | base),
        }
        match (mode, short) {
            (0x40, Ok(disp)) => self.byte(disp as u8),
            (0x80, _) => self.imm32(mem.disp),
            _ => {}
        }
    }
}

/// The code of one image while it is put together.
#[derive(Default)]
pub(crate) struct Asm {
    pub(super) code: Vec<u8>,
    pub(super) fixes: Vec<Fix>,
    pub(super) labels: Vec<Position>,
}

impl Asm {
    pub(crate) fn with_capacity(insns: usize) -> Self {
        Self {
            code: Vec::with_capacity(insns.saturating_mul(5).saturating_add(256)),
            fixes: Vec::with_capacity(insns / 2 + 16),
            labels: Vec::new(),
        }
    }

    /// Where the next instruction will be.
    pub(crate) fn here(&self) -> Position {
        Position { raw: self.code.len() as u32, fixes: self.fixes.len() as u32 }
    }

    fn put(&mut self, line: &Line) {
        self.code.extend_from_slice(line.bytes.get(..line.len).unwrap_or(&line.bytes));
    }

    /// Legacy-encoded instruction without immediate.
    fn op(&mut self, size: OpSize, map: u8, code: u8, reg: u8, rm: impl Into<Rm>) {
        let mut line = Line::new();
        legacy(&mut line, 0, size, map, code, reg, rm.into(), false);
        self.put(&line);
    }

    fn op_imm8(&mut self, size: OpSize, map: u8, code: u8, reg: u8, rm: Rm, imm: u8) {
        let mut line = Line::new();
        legacy(&mut line, 0, size, map, code, reg, rm, false);
        line.byte(imm);
        self.put(&line);
    }

    fn op_imm32(&mut self, size: OpSize, map: u8, code: u8, reg: u8, rm: Rm, imm: i32) {
        let mut line = Line::new();
        legacy(&mut line, 0, size, map, code, reg, rm, false);
        line.imm32(imm);
        self.put(&line);
    }

    /// Raw bytes: encodings without operands.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    // Moves.

    /// `mov dst, src`; the 32-bit form zero-extends. A 64-bit move to itself is nothing.
    pub(crate) fn mov(&mut self, wide: bool, dst: HostReg, src: HostReg) {
        if !(wide && dst == src) {
            self.op(OpSize::wide(wide), ONE, 0x8b, dst.0, src);
        }
    }

    /// The constant in its shortest form. `keep_flags` forbids `xor` for zero.
    pub(crate) fn mov_imm(&mut self, dst: HostReg, value: u64, keep_flags: bool) {
        if value == 0 && !keep_flags {
            self.op(OpSize::B32, ONE, 0x33, dst.0, dst);
        } else if let Ok(imm) = u32::try_from(value) {
            let mut line = Line::new();
            rex(&mut line, false, 0, Rm::Reg(dst), false);
            line.byte(0xb8 | (dst.0 & 7));
            line.imm32(imm.cast_signed());
            self.put(&line);
        } else if let Ok(imm) = i32::try_from(value.cast_signed()) {
            self.op_imm32(OpSize::B64, ONE, 0xc7, 0, Rm::Reg(dst), imm);
        } else {
            let mut line = Line::new();
            rex(&mut line, true, 0, Rm::Reg(dst), false);
            line.byte(0xb8 | (dst.0 & 7));
            for byte in value.to_le_bytes() {
                line.byte(byte);
            }
            self.put(&line);
        }
    }

    /// Zero-extending load, or register form with an 8- or 16-bit source.
    pub(crate) fn movzx(&mut self, size: OpSize, dst: HostReg, src: impl Into<Rm>) {
        match size {
            OpSize::B8 => {
                let mut line = Line::new();
                let rm = src.into();
                legacy(&mut line, 0, OpSize::B32, TWO_0F, 0xb6, dst.0, rm, byte_rm(rm));
                self.put(&line);
            }
            OpSize::B16 => self.op(OpSize::B32, TWO_0F, 0xb7, dst.0, src),
            OpSize::B32 => self.op(OpSize::B32, ONE, 0x8b, dst.0, src),
            OpSize::B64 => self.op(OpSize::B64, ONE, 0x8b, dst.0, src),
        }
    }

    /// Sign-extending load or register form, to 32 or 64 bits.
    pub(crate) fn movsx(&mut self, wide: bool, size: OpSize, dst: HostReg, src: impl Into<Rm>) {
        let to = OpSize::wide(wide);
        match size {
            OpSize::B8 => {
                let mut line = Line::new();
                let rm = src.into();
                legacy(&mut line, 0, to, TWO_0F, 0xbe, dst.0, rm, byte_rm(rm));
                self.put(&line);
            }
            OpSize::B16 => self.op(to, TWO_0F, 0xbf, dst.0, src),
            OpSize::B32 if wide => self.op(OpSize::B64, ONE, 0x63, dst.0, src),
            OpSize::B32 | OpSize::B64 => self.op(to, ONE, 0x8b, dst.0, src),
        }
    }

    /// `mov [mem], src`.
    pub(crate) fn store(&mut self, size: OpSize, mem: Mem, src: HostReg) {
        let mut line = Line::new();
        let code = if size == OpSize::B8 { 0x88 } else { 0x89 };
        legacy(&mut line, 0, size, ONE, code, src.0, Rm::Mem(mem), size == OpSize::B8 && needs_byte_rex(src));
        self.put(&line);
    }

    /// `mov [mem], imm`; 64-bit stores sign-extend the immediate.
    pub(crate) fn store_imm(&mut self, size: OpSize, mem: Mem, imm: i32) {
        let mut line = Line::new();
        let code = if size == OpSize::B8 { 0xc6 } else { 0xc7 };
        legacy(&mut line, 0, size, ONE, code, 0, Rm::Mem(mem), false);
        match size {
            OpSize::B8 => line.byte(imm as u8),
            OpSize::B16 => {
                line.byte(imm as u8);
                line.byte((imm >> 8) as u8);
            }
            OpSize::B32 | OpSize::B64 => line.imm32(imm),
        }
        self.put(&line);
    }

    /// `movbe dst, [mem]`, 16 (zero-extend afterwards), 32 or 64 bits.
    pub(crate) fn movbe(&mut self, size: OpSize, dst: HostReg, mem: Mem) {
        self.op(size, THREE_0F38, 0xf0, dst.0, mem);
    }

    /// `lea dst, [mem]`.
    pub(crate) fn lea(&mut self, wide: bool, dst: HostReg, mem: Mem) {
        self.op(OpSize::wide(wide), ONE, 0x8d, dst.0, mem);
    }

    /// `lea dst, [rip + label]`.
    pub(crate) fn lea_label(&mut self, dst: HostReg, label: Label) {
        let mut line = Line::new();
        line.byte(0x48 | ((dst.0 >> 3) << 2));
        line.byte(0x8d);
        line.byte(((dst.0 & 7) << 3) | 5);
        self.put(&line);
        self.rel32(label);
    }

    // Arithmetic.

    /// `op dst, src`.
    pub(crate) fn arith(&mut self, wide: bool, op: Arith, dst: HostReg, src: impl Into<Rm>) {
        self.op(OpSize::wide(wide), ONE, ((op as u8) << 3) | 3, dst.0, src);
    }

    /// `op [mem], src` without lock.
    pub(crate) fn arith_mem(&mut self, size: OpSize, op: Arith, mem: Mem, src: HostReg) {
        let mut line = Line::new();
        let code = ((op as u8) << 3) | u8::from(size != OpSize::B8);
        legacy(&mut line, 0, size, ONE, code, src.0, Rm::Mem(mem), size == OpSize::B8 && needs_byte_rex(src));
        self.put(&line);
    }

    /// `op [mem], imm` without lock; narrow sizes take the immediate's low bits.
    pub(crate) fn arith_mem_imm(&mut self, size: OpSize, op: Arith, mem: Mem, imm: i32) {
        match size {
            OpSize::B32 | OpSize::B64 => self.arith_imm(size == OpSize::B64, op, mem, imm),
            OpSize::B8 | OpSize::B16 => self.narrow_imm(size, op, mem, imm as u16),
        }
    }

    /// `op rm, imm`.
    pub(crate) fn arith_imm(&mut self, wide: bool, op: Arith, rm: impl Into<Rm>, imm: i32) {
        let rm = rm.into();
        let size = OpSize::wide(wide);
        if let Ok(short) = i8::try_from(imm) {
            self.op_imm8(size, ONE, 0x83, op as u8, rm, short as u8);
        } else if rm == Rm::Reg(RAX) {
            let mut line = Line::new();
            if wide {
                line.byte(0x48);
            }
            line.byte(((op as u8) << 3) | 5);
            line.imm32(imm);
            self.put(&line);
        } else {
            self.op_imm32(size, ONE, 0x81, op as u8, rm, imm);
        }
    }

    /// `cmp byte [mem], imm` or `cmp word [mem], imm`: the immediate compares in that size.
    pub(crate) fn cmp_narrow(&mut self, size: OpSize, mem: Mem, imm: u16) {
        self.narrow_imm(size, Arith::Cmp, mem, imm);
    }

    fn narrow_imm(&mut self, size: OpSize, op: Arith, mem: Mem, imm: u16) {
        let mut line = Line::new();
        if size == OpSize::B8 {
            legacy(&mut line, 0, size, ONE, 0x80, op as u8, Rm::Mem(mem), false);
            line.byte(imm as u8);
        } else if let Ok(short) = i8::try_from(imm.cast_signed()) {
            legacy(&mut line, 0, size, ONE, 0x83, op as u8, Rm::Mem(mem), false);
            line.byte(short as u8);
        } else {
            legacy(&mut line, 0, size, ONE, 0x81, op as u8, Rm::Mem(mem), false);
            line.byte(imm as u8);
            line.byte((imm >> 8) as u8);
        }
        self.put(&line);
    }

    /// `test a, b`.
    pub(crate) fn test(&mut self, wide: bool, a: HostReg, b: HostReg) {
        self.op(OpSize::wide(wide), ONE, 0x85, b.0, a);
    }

    /// `test a, imm`, as a byte test where the immediate allows.
    pub(crate) fn test_imm(&mut self, wide: bool, a: HostReg, imm: i32) {
        if (0..0x80).contains(&imm) {
            let mut line = Line::new();
            if a == RAX {
                line.byte(0xa8);
            } else {
                legacy(&mut line, 0, OpSize::B8, ONE, 0xf6, 0, Rm::Reg(a), needs_byte_rex(a));
            }
            line.byte(imm as u8);
            self.put(&line);
        } else {
            self.op_imm32(OpSize::wide(wide && imm < 0), ONE, 0xf7, 0, Rm::Reg(a), imm);
        }
    }

    /// `not`, `neg`, `mul`, `imul`, `div`, `idiv` of one operand.
    pub(crate) fn unary(&mut self, wide: bool, op: Unary, rm: impl Into<Rm>) {
        self.op(OpSize::wide(wide), ONE, 0xf7, op as u8, rm);
    }

    /// `imul dst, src`.
    pub(crate) fn imul(&mut self, wide: bool, dst: HostReg, src: impl Into<Rm>) {
        self.op(OpSize::wide(wide), TWO_0F, 0xaf, dst.0, src);
    }

    /// `imul dst, src, imm`.
    pub(crate) fn imul_imm(&mut self, wide: bool, dst: HostReg, src: HostReg, imm: i32) {
        let size = OpSize::wide(wide);
        match i8::try_from(imm) {
            Ok(short) => self.op_imm8(size, ONE, 0x6b, dst.0, Rm::Reg(src), short as u8),
            Err(_) => self.op_imm32(size, ONE, 0x69, dst.0, Rm::Reg(src), imm),
        }
    }

    /// `cdq` or `cqo`.
    pub(crate) fn sign_extend_rax(&mut self, wide: bool) {
        self.raw(if wide { &[0x48, 0x99] } else { &[0x99] });
    }

    /// Shift or rotate by a constant.
    pub(crate) fn shift_imm(&mut self, wide: bool, op: Shift, dst: HostReg, count: u8) {
        match count {
            0 => {}
            1 => self.op(OpSize::wide(wide), ONE, 0xd1, op as u8, dst),
            _ => self.op_imm8(OpSize::wide(wide), ONE, 0xc1, op as u8, Rm::Reg(dst), count),
        }
    }

    /// `shrd low, high, count`, 64 bits.
    pub(crate) fn shrd_imm(&mut self, low: HostReg, high: HostReg, count: u8) {
        if count > 0 {
            self.op_imm8(OpSize::B64, TWO_0F, 0xac, high.0, Rm::Reg(low), count);
        }
    }

    /// Shift by `cl`.
    pub(crate) fn shift_cl(&mut self, wide: bool, op: Shift, dst: HostReg) {
        self.op(OpSize::wide(wide), ONE, 0xd3, op as u8, dst);
    }

    /// `shlx`, `shrx`, `sarx` (BMI2).
    pub(crate) fn shift_x(&mut self, wide: bool, op: Shift, dst: HostReg, src: HostReg, count: HostReg) {
        let prefix = match op {
            Shift::Shl => 1,
            Shift::Sar => 2,
            _ => 3,
        };
        self.vex(2, prefix, wide, 0xf7, dst.0, count.0, Rm::Reg(src), None);
    }

    /// `rorx` (BMI2).
    pub(crate) fn rorx(&mut self, wide: bool, dst: HostReg, src: HostReg, count: u8) {
        self.vex(3, 3, wide, 0xf0, dst.0, 0, Rm::Reg(src), Some(count));
    }

    /// `mulx high, low, src` (BMI2), the other factor in `rdx`; one register for both gets the high half.
    pub(crate) fn mulx(&mut self, wide: bool, high: HostReg, low: HostReg, src: HostReg) {
        self.vex(2, 3, wide, 0xf6, high.0, low.0, Rm::Reg(src), None);
    }

    /// `bswap`.
    pub(crate) fn bswap(&mut self, wide: bool, dst: HostReg) {
        let mut line = Line::new();
        rex(&mut line, wide, 0, Rm::Reg(dst), false);
        line.byte(0x0f);
        line.byte(0xc8 | (dst.0 & 7));
        self.put(&line);
    }

    // Atomics.

    /// `lock op [mem], src`, 32 or 64 bits.
    pub(crate) fn lock_arith(&mut self, wide: bool, op: Arith, mem: Mem, src: HostReg) {
        self.locked(wide, ONE, ((op as u8) << 3) | 1, src, mem);
    }

    /// `lock xadd [mem], src`.
    pub(crate) fn lock_xadd(&mut self, wide: bool, mem: Mem, src: HostReg) {
        self.locked(wide, TWO_0F, 0xc1, src, mem);
    }

    /// `lock cmpxchg [mem], src`, comparing with `rax`.
    pub(crate) fn lock_cmpxchg(&mut self, wide: bool, mem: Mem, src: HostReg) {
        self.locked(wide, TWO_0F, 0xb1, src, mem);
    }

    /// `xchg [mem], src`: locked by nature.
    pub(crate) fn xchg(&mut self, wide: bool, mem: Mem, src: HostReg) {
        self.op(OpSize::wide(wide), ONE, 0x87, src.0, mem);
    }

    fn locked(&mut self, wide: bool, map: u8, code: u8, src: HostReg, mem: Mem) {
        let mut line = Line::new();
        legacy(&mut line, 0xf0, OpSize::wide(wide), map, code, src.0, Rm::Mem(mem), false);
        self.put(&line);
    }

    // Stack and control.

    /// `push`.
    pub(crate) fn push(&mut self, reg: HostReg) {
        let mut line = Line::new();
        rex(&mut line, false, 0, Rm::Reg(reg), false);
        line.byte(0x50 | (reg.0 & 7));
        self.put(&line);
    }

    /// `pop`.
    pub(crate) fn pop(&mut self, reg: HostReg) {
        let mut line = Line::new();
        rex(&mut line, false, 0, Rm::Reg(reg), false);
        line.byte(0x58 | (reg.0 & 7));
        self.put(&line);
    }

    /// `ret`.
    pub(crate) fn ret(&mut self) {
        self.raw(&[0xc3]);
    }

    /// `jmp reg`.
    pub(crate) fn jmp_reg(&mut self, reg: HostReg) {
        self.op(OpSize::B32, ONE, 0xff, 4, reg);
    }

    /// `call rel32` with the displacement left 0, for a relocation; returns where the displacement is.
    pub(crate) fn call_far(&mut self) -> Position {
        self.raw(&[0xe8]);
        let at = self.here();
        self.raw(&[0; 4]);
        at
    }

    /// `call label`.
    pub(crate) fn call(&mut self, label: Label) {
        self.raw(&[0xe8]);
        self.rel32(label);
    }

    /// `jmp label`, short where it reaches.
    pub(crate) fn jmp(&mut self, label: Label) {
        self.fix(FixKind::Jmp(label));
    }

    /// `jcc label`, short where it reaches.
    pub(crate) fn jcc(&mut self, cond: Cond, label: Label) {
        self.fix(FixKind::Jcc(cond, label));
    }

    /// Pads so that the next 5 bytes lie within one aligned 8-byte word.
    pub(crate) fn align_site(&mut self) {
        self.fix(FixKind::Site);
    }

    /// Pads to `1 << log2` bytes, if at most `max` bytes of padding do it.
    pub(crate) fn align(&mut self, log2: u8, max: u8) {
        self.fix(FixKind::Align { log2, max });
    }

    fn rel32(&mut self, label: Label) {
        self.fix(FixKind::Rel32(label));
        self.raw(&[0; 4]);
    }

    fn fix(&mut self, kind: FixKind) {
        let at = self.code.len() as u32;
        self.fixes.push(Fix { at, kind });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a VEX prefix")]
    fn vex(&mut self, map: u8, prefix: u8, wide: bool, code: u8, reg: u8, vvvv: u8, rm: Rm, imm: Option<u8>) {
        let (x, b) = extension(rm);
        let mut line = Line::new();
        line.byte(0xc4);
        line.byte(((!reg & 8) << 4) | (u8::from(!x) << 6) | (u8::from(!b) << 5) | map);
        line.byte((u8::from(wide) << 7) | ((!vvvv & 15) << 3) | prefix);
        line.byte(code);
        line.operand(reg, rm);
        if let Some(imm) = imm {
            line.byte(imm);
        }
        self.put(&line);
    }
}

const fn needs_byte_rex(reg: HostReg) -> bool {
    reg.0 >= 4
}

const fn byte_rm(rm: Rm) -> bool {
    matches!(rm, Rm::Reg(reg) if needs_byte_rex(reg))
}

/// The X and B extension bits of an operand.
const fn extension(rm: Rm) -> (bool, bool) {
    match rm {
        Rm::Reg(r) => (false, r.0 >= 8),
        Rm::Mem(Mem { base, index: None, .. }) => (false, base.0 >= 8),
        Rm::Mem(Mem { base, index: Some((index, _)), .. }) => (index.0 >= 8, base.0 >= 8),
    }
}

fn rex(line: &mut Line, wide: bool, reg: u8, rm: Rm, force: bool) {
    let (x, b) = extension(rm);
    let bits = (u8::from(wide) << 3) | ((reg >> 3) << 2) | (u8::from(x) << 1) | u8::from(b);
    if bits != 0 || force {
        line.byte(0x40 | bits);
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of an x86 instruction")]
fn legacy(line: &mut Line, lock: u8, size: OpSize, map: u8, code: u8, reg: u8, rm: Rm, force_rex: bool) {
    if lock != 0 {
        line.byte(lock);
    }
    if size == OpSize::B16 {
        line.byte(0x66);
    }
    rex(line, size == OpSize::B64, reg, rm, force_rex);
    match map {
        ONE => {}
        TWO_0F => line.byte(0x0f),
        THREE_0F3A => {
            line.byte(0x0f);
            line.byte(0x3a);
        }
        _ => {
            line.byte(0x0f);
            line.byte(0x38);
        }
    }
    line.byte(code);
    line.operand(reg, rm);
}
