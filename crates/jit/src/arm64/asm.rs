//! The arm64 assembler: one method per instruction shape, appending words to the code.
//!
//! What is odd about this CPU: every instruction is 4 bytes, so constants are built from 16-bit pieces, logical immediates are
//! rotated runs of ones, and register 31 is `sp` or zero depending on the instruction. Invariant: every method appends whole
//! instructions that do what its name says for all operands it takes; jumps get their displacement in [`super::relax`].
//! Kernel counterpart: arch/arm64/lib/insn.c and `A64_*`, arch/arm64/net/bpf_jit.h, 6.18.

use super::relax::{Fix, FixKind, Label};

/// A general-purpose register of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostReg(pub(crate) u8);

/// Register `xN`; 31 is `sp` as a base and in immediate additions, the zero register elsewhere.
pub(crate) const fn x(n: u8) -> HostReg {
    HostReg(n)
}

/// Zero register.
pub(crate) const ZR: HostReg = HostReg(31);
/// Stack pointer.
pub(crate) const SP: HostReg = HostReg(31);
/// Link register.
pub(crate) const LR: HostReg = HostReg(30);

/// Condition code, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cond(pub(crate) u8);

impl Cond {
    pub(crate) const EQ: Self = Self(0);
    pub(crate) const NE: Self = Self(1);
    pub(crate) const HS: Self = Self(2);
    pub(crate) const LO: Self = Self(3);
    pub(crate) const HI: Self = Self(8);
    pub(crate) const LS: Self = Self(9);
    pub(crate) const GE: Self = Self(10);
    pub(crate) const LT: Self = Self(11);
    pub(crate) const GT: Self = Self(12);
    pub(crate) const LE: Self = Self(13);

    pub(crate) const fn inverted(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A memory operand: `[base, #off]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mem {
    pub(crate) base: HostReg,
    pub(crate) off: i32,
}

/// Access size as log2 of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Log2(pub(crate) u8);

/// Three-register arithmetic; the value is the 32-bit opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Op3 {
    Add = 0x0b00_0000,
    Sub = 0x4b00_0000,
    And = 0x0a00_0000,
    Orr = 0x2a00_0000,
    Eor = 0x4a00_0000,
    Mul = 0x1b00_7c00,
    Udiv = 0x1ac0_0800,
    Sdiv = 0x1ac0_0c00,
    Lsl = 0x1ac0_2000,
    Lsr = 0x1ac0_2400,
    Asr = 0x1ac0_2800,
}

/// Logical operations with an immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Logic {
    And = 0x1200_0000,
    Orr = 0x3200_0000,
    Eor = 0x5200_0000,
    Tst = 0x7200_0000,
}

/// Large-system-extension atomics; the value is `opc << 12`, for the fetching form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Lse {
    Add = 0x0000,
    Clr = 0x1000,
    Eor = 0x2000,
    Set = 0x3000,
    Swp = 0x8000,
}

/// The 4-byte no-op of patch sites.
pub(crate) const NOP: u32 = 0xd503_201f;

const fn rd(r: HostReg) -> u32 {
    r.0 as u32
}

const fn rn(r: HostReg) -> u32 {
    (r.0 as u32) << 5
}

const fn rm(r: HostReg) -> u32 {
    (r.0 as u32) << 16
}

const fn sf(wide: bool) -> u32 {
    (wide as u32) << 31
}

/// The code of one image while it is put together.
#[derive(Default)]
pub(crate) struct Asm {
    pub(super) code: Vec<u32>,
    pub(super) fixes: Vec<Fix>,
    pub(super) labels: Vec<u32>,
    /// Conditional jumps may be farther than their field reaches.
    pub(super) far: bool,
}

impl Asm {
    pub(crate) fn new(insns: usize, far: bool) -> Self {
        Self { code: Vec::with_capacity(insns.saturating_mul(2)), far, ..Self::default() }
    }

    /// Offset of the next instruction in bytes.
    pub(crate) fn here(&self) -> u32 {
        u32::try_from(self.code.len() * 4).unwrap_or(u32::MAX)
    }

    /// Appends one instruction.
    pub(crate) fn put(&mut self, word: u32) {
        self.code.push(word);
    }

    // Moves and constants.

    /// `mov dst, src`; the 32-bit form zero-extends. A 64-bit move to itself is nothing. Not for `sp`.
    pub(crate) fn mov(&mut self, wide: bool, dst: HostReg, src: HostReg) {
        if !(wide && dst == src) {
            self.put(0x2a00_03e0 | sf(wide) | rm(src) | rd(dst));
        }
    }

    /// The constant in as few instructions as there are.
    pub(crate) fn mov_imm(&mut self, dst: HostReg, value: u64) {
        let pieces = value.to_le_bytes();
        let pieces: [u16; 4] =
            [0, 2, 4, 6].map(|i| u16::from_le_bytes([*pieces.get(i).unwrap_or(&0), *pieces.get(i + 1).unwrap_or(&0)]));
        let zeros = pieces.iter().filter(|&&p| p == 0).count();
        let ones = pieces.iter().filter(|&&p| p == 0xffff).count();
        if zeros < 3
            && ones < 3
            && let Some(mask) = bitmask(value, true)
        {
            return self.put(Logic::Orr as u32 | sf(true) | mask | rn(ZR) | rd(dst));
        }
        // The first instruction sets all other pieces to 0 or, `movn`, to ones.
        let (rest, first) = if ones > zeros { (0xffff, 0x9280_0000) } else { (0, 0xd280_0000) };
        let mut started = false;
        for (hw, &piece) in (0_u32..).zip(&pieces) {
            if piece == rest {
                continue;
            }
            let (code, bits) = if started { (0xf280_0000, piece) } else { (first, piece ^ rest) };
            self.put(code | hw << 21 | u32::from(bits) << 5 | rd(dst));
            started = true;
        }
        if !started {
            self.put(first | rd(dst));
        }
    }

    // Arithmetic.

    /// `op dst, a, b`.
    pub(crate) fn op3(&mut self, wide: bool, op: Op3, dst: HostReg, a: HostReg, b: HostReg) {
        self.put(op as u32 | sf(wide) | rm(b) | rn(a) | rd(dst));
    }

    /// `add dst, a, b, lsl #by`.
    pub(crate) fn add_shifted(&mut self, dst: HostReg, a: HostReg, b: HostReg, by: u8) {
        self.put(Op3::Add as u32 | sf(true) | rm(b) | u32::from(by) << 10 | rn(a) | rd(dst));
    }

    /// `madd dst, a, b, c`: a * b + c.
    pub(crate) fn madd(&mut self, dst: HostReg, a: HostReg, b: HostReg, c: HostReg) {
        self.put(0x9b00_0000 | rm(b) | u32::from(c.0) << 10 | rn(a) | rd(dst));
    }

    /// `msub dst, a, b, c`: c - a * b.
    pub(crate) fn msub(&mut self, wide: bool, dst: HostReg, a: HostReg, b: HostReg, c: HostReg) {
        self.put(0x1b00_8000 | sf(wide) | rm(b) | u32::from(c.0) << 10 | rn(a) | rd(dst));
    }

    /// `umulh dst, a, b`.
    pub(crate) fn umulh(&mut self, dst: HostReg, a: HostReg, b: HostReg) {
        self.put(0x9bc0_7c00 | rm(b) | rn(a) | rd(dst));
    }

    /// `add`/`sub dst, src, #imm` if the immediate has a form; `src` and `dst` may be `sp`.
    pub(crate) fn try_add_imm(&mut self, wide: bool, dst: HostReg, src: HostReg, imm: i32) -> bool {
        let (code, size) = if imm < 0 { (0x5100_0000, imm.unsigned_abs()) } else { (0x1100_0000, imm.unsigned_abs()) };
        let Some(field) = imm12(size) else { return false };
        self.put(code | sf(wide) | field | rn(src) | rd(dst));
        true
    }

    /// `cmp a, b`.
    pub(crate) fn cmp(&mut self, wide: bool, a: HostReg, b: HostReg) {
        self.put(0x6b00_001f | sf(wide) | rm(b) | rn(a));
    }

    /// `cmp a, #imm` (or `cmn`) if the immediate has a form.
    pub(crate) fn try_cmp_imm(&mut self, wide: bool, a: HostReg, imm: i32) -> bool {
        let code = if imm < 0 { 0x3100_001f } else { 0x7100_001f };
        let Some(field) = imm12(imm.unsigned_abs()) else { return false };
        self.put(code | sf(wide) | field | rn(a));
        true
    }

    /// `tst a, b`.
    pub(crate) fn tst(&mut self, wide: bool, a: HostReg, b: HostReg) {
        self.put(0x6a00_001f | sf(wide) | rm(b) | rn(a));
    }

    /// Logical operation with an immediate, if it is a rotated run of ones.
    pub(crate) fn try_logic_imm(&mut self, wide: bool, op: Logic, dst: HostReg, src: HostReg, imm: u64) -> bool {
        let Some(mask) = bitmask(imm, wide) else { return false };
        let dst = if op == Logic::Tst { ZR } else { dst };
        self.put(op as u32 | sf(wide) | mask | rn(src) | rd(dst));
        true
    }

    /// `mvn dst, src`.
    pub(crate) fn mvn(&mut self, wide: bool, dst: HostReg, src: HostReg) {
        self.put(0x2a20_03e0 | sf(wide) | rm(src) | rd(dst));
    }

    /// `neg dst, src`.
    pub(crate) fn neg(&mut self, wide: bool, dst: HostReg, src: HostReg) {
        self.op3(wide, Op3::Sub, dst, ZR, src);
    }

    /// `ubfm` or `sbfm`: bit-field moves, of which shifts and extensions are made.
    pub(crate) fn bitfield(&mut self, wide: bool, signed: bool, dst: HostReg, src: HostReg, immr: u8, imms: u8) {
        let code = if signed { 0x1300_0000 } else { 0x5300_0000 };
        let n = u32::from(wide) << 22;
        self.put(code | sf(wide) | n | u32::from(immr) << 16 | u32::from(imms) << 10 | rn(src) | rd(dst));
    }

    /// Shift by a constant below the width.
    pub(crate) fn shift_imm(&mut self, wide: bool, op: Op3, dst: HostReg, src: HostReg, by: u8) {
        let top = if wide { 63 } else { 31 };
        match op {
            Op3::Lsl => self.bitfield(wide, false, dst, src, (top + 1 - by) & top, top - by),
            Op3::Asr => self.bitfield(wide, true, dst, src, by, top),
            _ => self.bitfield(wide, false, dst, src, by, top),
        }
    }

    /// `extr dst, high, low, #by`; a rotation to the right when both are the same.
    pub(crate) fn extr(&mut self, wide: bool, dst: HostReg, high: HostReg, low: HostReg, by: u8) {
        let n = u32::from(wide) << 22;
        self.put(0x1380_0000 | sf(wide) | n | rm(low) | u32::from(by) << 10 | rn(high) | rd(dst));
    }

    /// `rev` of 64 or 32 bits.
    pub(crate) fn rev(&mut self, wide: bool, dst: HostReg, src: HostReg) {
        self.put(if wide { 0xdac0_0c00 } else { 0x5ac0_0800 } | rn(src) | rd(dst));
    }

    /// `rev16`, 32 bits.
    pub(crate) fn rev16(&mut self, dst: HostReg, src: HostReg) {
        self.put(0x5ac0_0400 | rn(src) | rd(dst));
    }

    // Memory.

    /// Load or store with an immediate offset, if it has a form. `opc`: 0 store, 1 zero-extending load, 2 sign-extending.
    pub(crate) fn try_access(&mut self, size: Log2, opc: u32, reg: HostReg, mem: Mem) -> bool {
        let code = u32::from(size.0) << 30 | opc << 22 | rn(mem.base) | rd(reg);
        let scaled = mem.off >> size.0;
        if (0..4096).contains(&scaled) && scaled << size.0 == mem.off {
            self.put(0x3900_0000 | code | scaled.unsigned_abs() << 10);
            true
        } else if (-256..256).contains(&mem.off) {
            self.put(0x3800_0000 | code | (mem.off.cast_unsigned() & 0x1ff) << 12);
            true
        } else {
            false
        }
    }

    /// Load or store at `base + index`.
    pub(crate) fn access_indexed(&mut self, size: Log2, opc: u32, reg: HostReg, base: HostReg, index: HostReg) {
        self.put(0x3820_6800 | u32::from(size.0) << 30 | opc << 22 | rm(index) | rn(base) | rd(reg));
    }

    /// `ldr dst, [base, index, lsl #3]`.
    pub(crate) fn load_word_at(&mut self, dst: HostReg, base: HostReg, index: HostReg) {
        self.put(0xf860_7800 | rm(index) | rn(base) | rd(dst));
    }

    /// `ldar`.
    pub(crate) fn load_acquire(&mut self, size: Log2, dst: HostReg, base: HostReg) {
        self.put(0x08df_fc00 | u32::from(size.0) << 30 | rn(base) | rd(dst));
    }

    /// `stlr`.
    pub(crate) fn store_release(&mut self, size: Log2, src: HostReg, base: HostReg) {
        self.put(0x089f_fc00 | u32::from(size.0) << 30 | rn(base) | rd(src));
    }

    /// `ldxr`.
    pub(crate) fn load_exclusive(&mut self, size: Log2, dst: HostReg, base: HostReg) {
        self.put(0x085f_7c00 | u32::from(size.0) << 30 | rn(base) | rd(dst));
    }

    /// `stlxr status, src, [base]`.
    pub(crate) fn store_exclusive(&mut self, size: Log2, status: HostReg, src: HostReg, base: HostReg) {
        self.put(0x0800_fc00 | u32::from(size.0) << 30 | rm(status) | rn(base) | rd(src));
    }

    /// A large-system-extension operation: memory with `src`, the old value to `dst`; ordered both ways unless `dst` is
    /// the zero register.
    pub(crate) fn lse(&mut self, size: Log2, op: Lse, src: HostReg, dst: HostReg, base: HostReg) {
        let order = if dst == ZR { 0 } else { 0x00c0_0000 };
        self.put(0x3820_0000 | u32::from(size.0) << 30 | order | rm(src) | op as u32 | rn(base) | rd(dst));
    }

    /// `casal expected, new, [base]`.
    pub(crate) fn casal(&mut self, size: Log2, expected: HostReg, new: HostReg, base: HostReg) {
        self.put(0x08e0_fc00 | u32::from(size.0) << 30 | rm(expected) | rn(base) | rd(new));
    }

    /// `dmb ish`.
    pub(crate) fn barrier(&mut self) {
        self.put(0xd503_3bbf);
    }

    // Control.

    /// `b label`.
    pub(crate) fn jmp(&mut self, label: Label) {
        self.fix(FixKind::Branch26(label));
        self.put(0x1400_0000);
    }

    /// `bl label`.
    pub(crate) fn call(&mut self, label: Label) {
        self.fix(FixKind::Branch26(label));
        self.put(0x9400_0000);
    }

    /// `b.cond label`.
    pub(crate) fn jcc(&mut self, cond: Cond, label: Label) {
        self.branch19(0x5400_0000 | u32::from(cond.0), 0x5400_0000 | u32::from(cond.inverted().0), label);
    }

    /// `cbz` or `cbnz`.
    pub(crate) fn jump_if_zero(&mut self, wide: bool, zero: bool, reg: HostReg, label: Label) {
        let code = |zero: bool| if zero { 0x3400_0000 } else { 0x3500_0000 } | sf(wide) | rd(reg);
        self.branch19(code(zero), code(!zero), label);
    }

    fn branch19(&mut self, code: u32, opposite: u32, label: Label) {
        if self.far {
            // Over the next instruction, which reaches everything.
            self.put(opposite | 2 << 5);
            self.jmp(label);
        } else {
            self.fix(FixKind::Branch19(label));
            self.put(code);
        }
    }

    /// `adr dst, label`.
    pub(crate) fn adr(&mut self, dst: HostReg, label: Label) {
        self.fix(FixKind::Adr(label));
        self.put(0x1000_0000 | rd(dst));
    }

    /// `br reg`.
    pub(crate) fn jmp_reg(&mut self, reg: HostReg) {
        self.put(0xd61f_0000 | rn(reg));
    }

    /// `blr reg`.
    pub(crate) fn call_reg(&mut self, reg: HostReg) {
        self.put(0xd63f_0000 | rn(reg));
    }

    /// `ret`.
    pub(crate) fn ret(&mut self) {
        self.put(0xd65f_03c0);
    }

    /// Pads with no-ops to a multiple of 16 bytes.
    pub(crate) fn align16(&mut self) {
        while !self.code.len().is_multiple_of(4) {
            self.put(NOP);
        }
    }

    fn fix(&mut self, kind: FixKind) {
        self.fixes.push(Fix { at: self.code.len(), kind });
    }
}

/// The field of a 12-bit immediate, shifted by 12 if need be.
const fn imm12(value: u32) -> Option<u32> {
    if value < 0x1000 {
        Some(value << 10)
    } else if value & 0xfff == 0 && value < 0x100_0000 {
        Some(1 << 22 | (value >> 12) << 10)
    } else {
        None
    }
}

/// The fields N, immr and imms of a logical immediate: a run of ones in an element of 2 to 64 bits, rotated, repeated.
fn bitmask(value: u64, wide: bool) -> Option<u32> {
    let value = if wide { value } else { (value & 0xffff_ffff) | value << 32 };
    if value == 0 || value == u64::MAX {
        return None;
    }
    let mut size = 64;
    while size > 2 {
        let half = size / 2;
        let mask = (1_u64 << half) - 1;
        if value & mask != value >> half & mask {
            break;
        }
        size = half;
    }
    let mask = u64::MAX >> (64 - size);
    let element = value & mask;
    // Rotate the run down to bit 0.
    let ones = element.count_ones();
    let rotation = (0..size).find(|&by| {
        let rotated = if by == 0 { element } else { (element >> by | element << (size - by)) & mask };
        rotated == (1_u64 << ones) - 1
    })?;
    let n = u32::from(size == 64);
    let immr = (size - rotation) % size;
    let imms = (!(size * 2 - 1) & 0x3f) | (ones - 1);
    Some(n << 22 | immr << 16 | imms << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(emit: impl FnOnce(&mut Asm)) -> u32 {
        let mut asm = Asm::default();
        emit(&mut asm);
        assert_eq!(asm.code.len(), 1, "one instruction");
        asm.code[0]
    }

    #[test]
    fn encodings_of_the_architecture_manual() {
        // Checked against GNU as.
        assert_eq!(one(|a| a.mov(true, x(0), x(1))), 0xaa01_03e0);
        assert_eq!(one(|a| a.mov_imm(x(9), 0x1234)), 0xd282_4689);
        assert_eq!(one(|a| a.mov_imm(x(9), u64::MAX)), 0x9280_0009);
        assert_eq!(one(|a| a.mov_imm(x(9), 0xff00_ff00_ff00_ff00)), 0xb208_9fe9);
        assert_eq!(one(|a| assert!(a.try_add_imm(true, x(0), SP, 16))), 0x9100_43e0);
        assert_eq!(one(|a| assert!(a.try_logic_imm(false, Logic::And, x(0), x(1), 0xff))), 0x1200_1c20);
        assert_eq!(one(|a| a.shift_imm(true, Op3::Lsl, x(0), x(1), 3)), 0xd37d_f020);
        assert_eq!(one(|a| a.lse(Log2(3), Lse::Add, x(1), x(1), x(0))), 0xf8e1_0001);
        assert_eq!(one(|a| a.casal(Log2(2), x(7), x(1), x(0))), 0x88e7_fc01);
    }

    #[test]
    fn immediates_without_a_form_are_refused() {
        let mut asm = Asm::default();
        assert!(!asm.try_add_imm(true, x(0), x(0), 0x1001));
        assert!(!asm.try_logic_imm(true, Logic::And, x(0), x(0), 0));
        assert!(!asm.try_logic_imm(true, Logic::And, x(0), x(0), u64::MAX));
        assert!(!asm.try_logic_imm(true, Logic::And, x(0), x(0), 0x5));
        assert!(!asm.try_access(Log2(3), 1, x(0), Mem { base: x(1), off: 32769 }));
        assert!(asm.code.is_empty());
    }
}
