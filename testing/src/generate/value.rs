//! What the generator believes a register holds, and how it makes and uses such values.

use skep_abi::{AluOp, AtomicOp, Imm64, Insn, JmpOp, Operand, ProgType, Reg, Size, Width};

use super::statement::Generator;
use super::{DIRECT, MAPS};

/// What a register holds, as far as the generator knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Unset,
    /// A number, below this bound if there is one.
    Scalar(Option<u32>),
    Ctx,
    /// Into the packet, with so many bytes checked.
    Packet(u16),
    /// Into memory of so many bytes.
    Memory(u32),
    /// The same, or null.
    MaybeMemory(u32),
    /// An unreleased ring-buffer record, or null.
    Record(u32),
}

pub(super) const ALU: [AluOp; 12] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Mod,
    AluOp::Xor,
    AluOp::Arsh,
    AluOp::Mov,
];

pub(super) const JMP: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];

pub(super) const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::Dw];

impl Generator {
    /// An unknown number in `dst`.
    pub(super) fn fresh_scalar(&mut self, dst: Reg) -> Kind {
        match self.random.below(7) {
            0..=2 => {
                self.unknown();
                self.b.mov(dst, Reg::R0);
                Kind::Scalar(None)
            }
            3 => {
                let value = self.random.constant();
                self.b.constant(dst, value);
                Kind::Scalar(u32::try_from(value).ok().and_then(|value| value.checked_add(1)))
            }
            4 => {
                let bound = self.random.pick(&[1, 2, 4, 8, 16, 64]);
                self.b.set(dst, self.random.range(0, bound - 1));
                Kind::Scalar(Some(bound.unsigned_abs()))
            }
            _ => {
                let Some(ctx) = self.find(|kind| kind == Kind::Ctx) else {
                    self.unknown();
                    self.b.mov(dst, Reg::R0);
                    return Kind::Scalar(None);
                };
                let off = match self.prog_type {
                    ProgType::Xdp => self.random.pick(&[12, 16]),
                    _ => self.random.pick(&[0, 4, 8, 16, 48, 52]),
                };
                let (size, off) =
                    if self.mistake() { (self.random.pick(&SIZES), self.off(0, 200)) } else { (Size::W, off) };
                self.b.load(size, dst, ctx, off);
                Kind::Scalar(None)
            }
        }
    }

    /// A number in r0 that no verifier knows: most programs read the first map, so that their results can be compared.
    pub(super) fn unknown(&mut self) {
        if self.noisy {
            let helper = self.random.pick(&[5, 7, 7, 8]);
            self.b.call(helper);
            return;
        }
        let size = self.random.pick(&[Size::Dw, Size::Dw, Size::W, Size::H, Size::B]);
        let bytes = u64::from(size.bytes());
        let len = u64::from(MAPS[DIRECT].value_size);
        let off = u32::try_from(self.random.below(len / bytes) * bytes).expect("small");
        let past = if self.mistake() { MAPS[DIRECT].value_size } else { 0 };
        let fd = i32::try_from(DIRECT).expect("few maps");
        self.b.add(Insn::LdImm64 { dst: Reg::R0, imm: Imm64::MapValue { fd, off: off + past } });
        if size != Size::Dw && self.random.one_in(4) {
            self.b.add(Insn::Load { size, sign_extend: true, dst: Reg::R0, base: Reg::R0, off: 0 });
        } else {
            self.b.load(size, Reg::R0, Reg::R0, 0);
        }
    }

    /// Narrows the number in `dst` below a bound; the bound.
    pub(super) fn bound(&mut self, dst: Reg) -> u32 {
        let bits = self.random.below(7);
        let bound = 1u32 << bits;
        let mask = i32::try_from(bound - 1).expect("small");
        let width = self.random.pick(&[Width::W32, Width::W64]);
        match self.random.below(5) {
            0 | 1 => self.b.alu(width, AluOp::And, dst, Operand::Imm(mask)),
            2 => {
                let shift = Operand::Imm(i32::try_from(64 - bits.max(1)).expect("small"));
                self.b.alu(Width::W64, AluOp::Rsh, dst, shift);
            }
            3 => {
                // A jump around a new constant: one bound from two paths.
                let ok = self.b.branch(Width::W64, JmpOp::Lt, dst, Operand::Imm(mask + 1));
                self.b.set(dst, mask);
                self.b.land(ok);
            }
            _ => {
                let signed = self.random.one_in(2);
                let (low, high) = if signed { (JmpOp::Sgt, JmpOp::Slt) } else { (JmpOp::Gt, JmpOp::Lt) };
                let too_big = self.b.branch(Width::W64, low, dst, Operand::Imm(mask));
                let fine =
                    if signed { self.b.branch(Width::W64, JmpOp::Sge, dst, Operand::Imm(0)) } else { self.b.skip() };
                let negative = (signed && !self.mistake()).then_some(high);
                self.b.land(too_big);
                if negative.is_some() || !signed {
                    self.b.set(dst, 0);
                }
                self.b.land(fine);
            }
        }
        bound
    }

    /// Arithmetic on a number.
    pub(super) fn arithmetic(&mut self, dst: Reg) -> Kind {
        let width = self.random.pick(&[Width::W32, Width::W64]);
        match self.random.below(8) {
            0 => self.b.add(Insn::Neg { width, dst }),
            1 => {
                let bits =
                    if width == Width::W32 { self.random.pick(&[8, 16]) } else { self.random.pick(&[8, 16, 32]) };
                self.b.add(Insn::MovSx { width, bits, dst, src: dst });
            }
            2 => {
                let kind =
                    self.random.pick(&[skep_abi::EndKind::ToLe, skep_abi::EndKind::ToBe, skep_abi::EndKind::Bswap]);
                let bits = self.random.pick(&[16, 32, 64]);
                self.b.add(Insn::End { kind, bits, dst });
            }
            _ => {
                let op = self.random.pick(&ALU);
                let other = self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(2));
                let imm = match op {
                    AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => {
                        let bits = if width == Width::W32 { 31 } else { 63 };
                        self.random.range(0, bits)
                    }
                    AluOp::Div | AluOp::Mod => self.random.immediate().max(1),
                    _ => self.random.immediate(),
                };
                self.b.alu(width, op, dst, other.map_or(Operand::Imm(imm), Operand::Reg));
            }
        }
        Kind::Scalar(None)
    }

    /// A load or store in memory of `len` bytes at `base`.
    pub(super) fn access(&mut self, base: Reg, len: u32, packet: bool) {
        let size = self.random.pick(&SIZES);
        let bytes = u32::from(size.bytes());
        let room = len.saturating_sub(bytes);
        // Adding an unknown number to a packet pointer loses what was checked.
        if self.random.one_in(3)
            && (!packet || self.mistake())
            && let Some(index) = self.find(|kind| matches!(kind, Kind::Scalar(_)))
        {
            self.indexed_access(base, index, size, room);
            return;
        }
        let mut off = i32::try_from(self.random.below(u64::from(room) + 1)).expect("small");
        if self.random.one_in(2) {
            off &= !(i32::try_from(bytes).expect("small") - 1);
        }
        if len < bytes || self.mistake() {
            // Mostly just beyond the end.
            let end = i32::try_from(len).expect("small");
            off = match self.random.below(3) {
                0 => self.random.range(-8, end + 8),
                _ => end - i32::try_from(bytes).expect("small") + self.random.range(1, 8),
            };
        }
        let atomics = !packet || self.random.one_in(20);
        self.touch(base, size, i16::try_from(off).expect("small"), atomics);
    }

    /// `base[index]` with a bounded index.
    fn indexed_access(&mut self, base: Reg, index: Reg, size: Size, room: u32) {
        self.b.mov(Reg::R2, index);
        let mut limit = self.bound(Reg::R2);
        while limit > room + 1 && !self.mistake() {
            self.b.alu(Width::W64, AluOp::Rsh, Reg::R2, Operand::Imm(1));
            limit /= 2;
        }
        self.b.mov(Reg::R1, base);
        if self.random.one_in(6) {
            // The pointer as the second operand.
            self.b.add_reg(Reg::R2, Reg::R1);
            self.touch(Reg::R2, size, 0, true);
        } else {
            self.b.add_reg(Reg::R1, Reg::R2);
            self.touch(Reg::R1, size, 0, true);
        }
    }

    fn touch(&mut self, base: Reg, size: Size, off: i16, atomics: bool) {
        match self.random.below(8) {
            0 | 1 => {
                let imm = self.random.immediate();
                self.b.store(size, base, off, Operand::Imm(imm));
            }
            2 | 3 => {
                let src = self.find(|kind| matches!(kind, Kind::Scalar(_)));
                let src = if self.mistake() { Some(self.any_register()) } else { src };
                self.b.store(size, base, off, src.map_or(Operand::Imm(1), Operand::Reg));
            }
            4 if atomics && matches!(size, Size::W | Size::Dw) => self.atomic(base, size, off),
            5 if size != Size::Dw => {
                self.b.add(Insn::Load { size, sign_extend: true, dst: Reg::R0, base, off });
            }
            _ => self.b.load(size, Reg::R0, base, off),
        }
    }

    fn atomic(&mut self, base: Reg, size: Size, off: i16) {
        let op = self.random.pick(&[
            AtomicOp::Add,
            AtomicOp::Or,
            AtomicOp::And,
            AtomicOp::Xor,
            AtomicOp::Xchg,
            AtomicOp::Cmpxchg,
        ]);
        let fetch = matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg) || self.random.one_in(2);
        let imm = self.random.immediate();
        self.b.set(Reg::R3, imm);
        if !self.mistake() {
            self.b.set(Reg::R0, 1);
        }
        self.b.add(Insn::Atomic { op, fetch, size, base, off, src: Reg::R3 });
    }

    /// The value of a map, or null, in `dst`.
    pub(super) fn lookup(&mut self, dst: Reg) -> Kind {
        let map = self.random.pick(&[0, 0, 1, 1, 2, 5, 6]);
        let key = if MAPS[map].key_size == 8 { Size::Dw } else { Size::W };
        let slot = if self.mistake() { self.off(-16, 8) } else { -8 };
        if let Some(scalar) = self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(2)) {
            self.b.store(key, Reg::R10, slot, Operand::Reg(scalar));
        } else if !self.mistake() {
            let index = self.random.range(0, 4);
            self.b.store(key, Reg::R10, slot, Operand::Imm(index));
        }
        self.b.map(Reg::R1, map);
        self.b.mov(Reg::R2, Reg::R10);
        self.b.add_imm(Reg::R2, i32::from(slot));
        self.b.call(1);
        self.b.mov(dst, Reg::R0);
        Kind::MaybeMemory(MAPS[map].value_size)
    }

    /// Tests the pointer in `reg` for null; on the null path it leaves or goes on past `inside`.
    pub(super) fn null_check(&mut self, reg: Reg) {
        if self.random.one_in(2) {
            let fine = self.b.branch(Width::W64, JmpOp::Ne, reg, Operand::Imm(0));
            self.leave();
            self.b.land(fine);
        } else {
            let null = self.b.branch(Width::W64, JmpOp::Eq, reg, Operand::Imm(0));
            let over = self.b.skip();
            self.b.land(null);
            self.leave();
            self.b.land(over);
        }
    }

    /// A packet pointer in `dst` with some bytes checked.
    pub(super) fn packet(&mut self, dst: Reg) -> Option<Kind> {
        let ctx = self.find(|kind| kind == Kind::Ctx)?;
        let (data, end) = if self.prog_type == ProgType::Xdp { (0, 4) } else { (76, 80) };
        self.b.load(Size::W, Reg::R2, ctx, data);
        self.b.load(Size::W, Reg::R3, ctx, end);
        let mut bytes = self.random.range(1, 40);
        if self.random.one_in(3)
            && let Some(index) = self.find(|kind| matches!(kind, Kind::Scalar(_)))
        {
            self.b.mov(Reg::R1, index);
            self.bound(Reg::R1);
            self.b.add_reg(Reg::R2, Reg::R1);
        }
        self.b.mov(Reg::R4, Reg::R2);
        self.b.add_imm(Reg::R4, bytes);
        let (op, strict) = self.random.pick(&[(JmpOp::Gt, false), (JmpOp::Ge, true), (JmpOp::Gt, false)]);
        let short = if self.random.one_in(3) {
            let flipped = if op == JmpOp::Gt { JmpOp::Lt } else { JmpOp::Le };
            self.b.branch(Width::W64, flipped, Reg::R3, Operand::Reg(Reg::R4))
        } else {
            self.b.branch(Width::W64, op, Reg::R4, Operand::Reg(Reg::R3))
        };
        let over = self.b.skip();
        self.b.land(short);
        self.leave();
        self.b.land(over);
        self.b.mov(dst, Reg::R2);
        if !self.noisy && self.random.one_in(5) {
            bytes += self.longer_on_one_path(dst, bytes);
        }
        if strict && self.random.one_in(2) {
            bytes += 1;
        }
        Some(Kind::Packet(u16::try_from(bytes).expect("small")))
    }

    /// More bytes of the packet checked on one of two paths; how many of them the generator believes in, mostly none.
    fn longer_on_one_path(&mut self, packet: Reg, bytes: i32) -> i32 {
        let more = self.random.range(1, 8);
        self.unknown();
        let other_way = self.b.branch(Width::W64, JmpOp::Set, Reg::R0, Operand::Imm(1));
        self.b.mov(Reg::R4, packet);
        self.b.add_imm(Reg::R4, bytes + more);
        let enough = self.b.branch(Width::W64, JmpOp::Le, Reg::R4, Operand::Reg(Reg::R3));
        self.leave();
        self.b.land(enough);
        self.b.land(other_way);
        if self.mistake() || (self.mistakes() && self.random.one_in(4)) { more } else { 0 }
    }

    /// A ring-buffer record, or null, in `dst`.
    pub(super) fn reserve(&mut self, dst: Reg) -> Kind {
        let size = self.random.pick(&[8, 16, 24]);
        let map = if self.mistake() { 0 } else { 3 };
        self.b.map(Reg::R1, map);
        self.b.set(Reg::R2, size);
        self.b.set(Reg::R3, 0);
        self.b.call(131);
        self.b.mov(dst, Reg::R0);
        Kind::Record(size.unsigned_abs())
    }

    pub(super) fn off(&mut self, min: i32, max: i32) -> i16 {
        i16::try_from(self.random.range(min, max)).expect("small")
    }
}
