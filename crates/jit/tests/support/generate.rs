//! Random programs that are safe by construction: every register holds a number, memory is the context and the stack,
//! jumps go forward or around counted loops.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers are cut and reinterpreted on purpose"
)]

use skep_abi::{AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, Reg, Size, Width};

/// Bytes of the context: the first half is input and work space, the second gets the registers.
pub(crate) const CTX_SIZE: usize = 256;

/// xorshift64*: seeded, so that a failure can be repeated.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number of any size, edges included.
    pub(crate) fn number(&mut self) -> u64 {
        let n = self.next();
        match self.below(10) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 1 << (n % 64),
            4 => (1_u64 << (n % 64)).wrapping_sub(1),
            5 => n & 0xff,
            6 => u64::from(n as u32),
            7 => i64::from(n as i32) as u64,
            8 => i64::MIN as u64,
            _ => n,
        }
    }
}

/// One group of instructions that no jump enters in the middle.
enum Item {
    Code(Vec<Insn>),
    /// A jump over the next `n` items.
    Skip(Insn, usize),
    /// A counted loop back to the item with this number: `r9 -= 1; if r9 != 0 goto`.
    Loop(usize),
}

struct Body<'r> {
    rng: &'r mut Rng,
    items: Vec<Item>,
    /// Registers that hold numbers.
    free: Vec<Reg>,
    ctx: Reg,
    calls: bool,
    sub: Option<usize>,
}

/// A program and the slots where its subprograms start.
pub(crate) struct Program {
    pub(crate) insns: Vec<Insn>,
    pub(crate) starts: Vec<usize>,
}

/// Id of the helper that generated programs call.
pub(crate) const HELPER: u32 = 200;

/// Makes a program of about `size` groups.
pub(crate) fn program(rng: &mut Rng, size: u64) -> Program {
    let calls = rng.one_in(2);
    let sub = calls && rng.one_in(2);
    let mut main = body(rng, size, calls, sub, true);
    let mut starts = vec![0];
    if sub {
        let own = body(rng, size / 2 + 1, false, false, false);
        let start: usize = main.iter().map(Insn::slots).sum();
        let mut at = 0;
        for insn in &mut main {
            if let Insn::Call { target: CallTarget::Subprog(off) } = insn {
                *off = start as i32 - at as i32 - 1;
            }
            at += insn.slots();
        }
        main.extend(own);
        starts.push(start);
    }
    Program { insns: main, starts }
}

fn reg(n: u8) -> Reg {
    Reg::new(n).expect("register")
}

fn body(rng: &mut Rng, size: u64, calls: bool, sub: bool, dump: bool) -> Vec<Insn> {
    let ctx = if calls || rng.one_in(2) { Reg::R6 } else { Reg::R1 };
    let free: Vec<Reg> = (0..9).map(reg).filter(|&r| r != ctx).collect();
    let mut body = Body { rng, items: Vec::new(), free, ctx, calls, sub: sub.then_some(0) };
    body.start();
    let mut open: Option<(usize, u64)> = None;
    // A jump into a loop would miss its counter.
    let mut skipped = 0;
    for _ in 0..size {
        if open.is_none() && body.items.len() >= skipped && body.rng.one_in(12) {
            let count = 1 + body.rng.below(4) as i32;
            body.items.push(Item::Code(vec![mov(Reg::R9, count)]));
            let len = 2 + body.rng.below(6);
            open = Some((body.items.len(), len));
        }
        if body.rng.one_in(7) && open.is_none() {
            let jump = body.jump_on_last();
            let over = 1 + body.rng.below(4) as usize;
            body.items.push(Item::Skip(jump, over));
            skipped = skipped.max(body.items.len() + over);
        }
        let mut code = body.code();
        if body.rng.one_in(6) {
            // A 64-bit number whose low half is zero.
            let dst = body.reg();
            code.extend([Insn::Alu { width: Width::W64, op: AluOp::Lsh, dst, src: Operand::Imm(32) }]);
            code.extend([Insn::Alu { width: Width::W64, op: AluOp::Or, dst, src: Operand::Imm(0x40) }]);
            code.extend([Insn::Alu { width: Width::W64, op: AluOp::Sub, dst, src: Operand::Imm(0x40) }]);
        }
        body.items.push(Item::Code(code));
        open = match open {
            Some((head, 0)) => {
                body.items.push(Item::Loop(head));
                None
            }
            Some((head, left)) => Some((head, left - 1)),
            None => None,
        };
    }
    body.finish(dump)
}

fn mov(dst: Reg, imm: i32) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src: Operand::Imm(imm) }
}

fn copy(dst: Reg, src: Reg) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src: Operand::Reg(src) }
}

impl Body<'_> {
    fn reg(&mut self) -> Reg {
        let free = self.free.clone();
        self.rng.pick(&free)
    }

    fn width(&mut self) -> Width {
        self.rng.pick(&[Width::W32, Width::W64])
    }

    fn size(&mut self) -> Size {
        self.rng.pick(&[Size::B, Size::H, Size::W, Size::Dw])
    }

    fn constant(&mut self, dst: Reg) -> Insn {
        Insn::LdImm64 { dst, imm: Imm64::Const(self.rng.number()) }
    }

    fn start(&mut self) {
        let mut code = Vec::new();
        if self.ctx != Reg::R1 {
            code.push(copy(self.ctx, Reg::R1));
        }
        for r in self.free.clone() {
            code.push(self.constant(r));
        }
        for slot in 1..=8 {
            let src = Operand::Reg(self.reg());
            code.push(Insn::Store { size: Size::Dw, base: Reg::R10, off: -8 * slot, src });
        }
        code.push(mov(Reg::R9, 0));
        self.items.push(Item::Code(code));
    }

    /// A base register and offset for an access of `size`.
    fn place(&mut self, size: Size, aligned: bool) -> (Reg, i16) {
        let bytes = u64::from(size.bytes());
        let unit = if aligned { bytes } else { 1 };
        if self.rng.one_in(2) {
            let off = self.rng.below((128 - bytes) / unit + 1) * unit;
            (self.ctx, off as i16)
        } else {
            let off = self.rng.below((64 - bytes) / unit + 1) * unit;
            (Reg::R10, off as i16 - 64)
        }
    }

    fn operand(&mut self) -> Operand {
        if self.rng.one_in(2) { Operand::Reg(self.reg()) } else { Operand::Imm(self.rng.number() as i32) }
    }

    fn alu(&mut self) -> Insn {
        let (width, dst) = (self.width(), self.reg());
        let op = self.rng.pick(&[
            AluOp::Add,
            AluOp::Sub,
            AluOp::Mul,
            AluOp::Or,
            AluOp::And,
            AluOp::Xor,
            AluOp::Mov,
            AluOp::Lsh,
            AluOp::Rsh,
            AluOp::Arsh,
            AluOp::Div,
            AluOp::Mod,
            AluOp::Sdiv,
            AluOp::Smod,
        ]);
        let mut src = self.operand();
        if let Operand::Imm(imm) = &mut src {
            match op {
                AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => {
                    *imm &= if width == Width::W32 { 31 } else { 63 };
                }
                AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod if *imm == 0 => *imm = 7,
                _ => {}
            }
        }
        Insn::Alu { width, op, dst, src }
    }

    fn jump(&mut self) -> Insn {
        let op = self.rng.pick(&[
            JmpOp::Eq,
            JmpOp::Ne,
            JmpOp::Gt,
            JmpOp::Ge,
            JmpOp::Lt,
            JmpOp::Le,
            JmpOp::Set,
            JmpOp::Sgt,
            JmpOp::Sge,
            JmpOp::Slt,
            JmpOp::Sle,
        ]);
        let (width, dst) = (self.width(), self.reg());
        let src = if self.rng.one_in(3) { Operand::Imm(0) } else { self.operand() };
        Insn::Jcond { width, op, dst, src, off: 0 }
    }

    /// Half of the time a test for zero of what the last group wrote, so that flags are reused.
    fn jump_on_last(&mut self) -> Insn {
        let jump = self.jump();
        let Some(Item::Code(code)) = self.items.last() else { return jump };
        let Some(&Insn::Alu { dst, .. }) = code.last() else { return jump };
        if dst == Reg::R9 || self.rng.one_in(2) {
            return jump;
        }
        let op = self.rng.pick(&[JmpOp::Eq, JmpOp::Ne]);
        Insn::Jcond { width: self.width(), op, dst, src: Operand::Imm(0), off: 0 }
    }

    fn code(&mut self) -> Vec<Insn> {
        let (dst, src, width, size) = (self.reg(), self.reg(), self.width(), self.size());
        match self.rng.below(23) {
            21 => self.update(dst, src),
            0..=5 => vec![self.alu()],
            6 => vec![self.constant(dst)],
            7 => {
                let bits = self.rng.pick(if width == Width::W32 { &[8, 16][..] } else { &[8, 16, 32][..] });
                vec![Insn::MovSx { width, bits, dst, src }]
            }
            8 => vec![Insn::Neg { width, dst }],
            9 => {
                let kind = self.rng.pick(&[EndKind::ToLe, EndKind::ToBe, EndKind::Bswap]);
                vec![Insn::End { kind, bits: self.rng.pick(&[16, 32, 64]), dst }]
            }
            10 | 11 => {
                let (base, off) = self.place(size, false);
                let load = Insn::Load { size, sign_extend: size != Size::Dw && self.rng.one_in(4), dst, base, off };
                let mut code = vec![load];
                if self.rng.one_in(2) {
                    code.push(Insn::Alu {
                        width,
                        op: self.rng.pick(&[AluOp::Add, AluOp::And, AluOp::Xor, AluOp::Mul]),
                        dst: src,
                        src: Operand::Reg(dst),
                    });
                }
                code
            }
            12 => {
                let (base, off) = self.place(size, false);
                vec![Insn::Store { size, base, off, src: self.operand() }]
            }
            13 => self.atomic(),
            14 => self.rotate(dst, src, width),
            15 => self.bytes(dst, src),
            16 => self.pointer(dst, src),
            17 => self.extension(dst, width),
            18 => vec![
                copy(dst, src),
                self.alu(),
                Insn::Alu {
                    width,
                    op: AluOp::And,
                    dst,
                    src: Operand::Imm(self.rng.pick(&[1, 0xff, 0xffff, 0x7f, -16])),
                },
            ],
            19 => {
                let (base, off) = self.place(size, true);
                if self.rng.one_in(2) {
                    vec![Insn::LoadAcquire { size, dst, base, off }]
                } else {
                    vec![Insn::StoreRelease { size, base, off, src }]
                }
            }
            20 if self.calls => self.call(),
            _ => vec![copy(dst, src), Insn::Alu { width, op: AluOp::Add, dst, src: self.operand() }],
        }
    }

    /// `t = *mem; t op= x; *mem = t`, after which `t` is mostly not used.
    fn update(&mut self, t: Reg, x: Reg) -> Vec<Insn> {
        let size = self.size();
        let (base, off) = self.place(size, false);
        let src = if self.rng.one_in(2) { Operand::Reg(x) } else { Operand::Imm(self.rng.number() as i32) };
        let op = self.rng.pick(&[AluOp::Add, AluOp::Sub, AluOp::Or, AluOp::And, AluOp::Xor, AluOp::Mul]);
        let mut code = vec![
            Insn::Load { size, sign_extend: false, dst: t, base, off },
            Insn::Alu { width: self.width(), op, dst: t, src },
            Insn::Store { size: if self.rng.one_in(10) { Size::B } else { size }, base, off, src: Operand::Reg(t) },
        ];
        if !self.rng.one_in(4) {
            code.push(self.constant(t));
        }
        code
    }

    fn atomic(&mut self) -> Vec<Insn> {
        let size = self.rng.pick(&[Size::W, Size::Dw]);
        let (base, off) = self.place(size, true);
        let op = self.rng.pick(&[
            AtomicOp::Add,
            AtomicOp::Or,
            AtomicOp::And,
            AtomicOp::Xor,
            AtomicOp::Xchg,
            AtomicOp::Cmpxchg,
        ]);
        let fetch = matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg) || self.rng.one_in(2);
        let src = self.reg();
        let mut code = Vec::new();
        if op == AtomicOp::Cmpxchg && self.rng.one_in(2) {
            // Let the exchange happen half of the time.
            code.push(Insn::Load { size, sign_extend: false, dst: Reg::R0, base, off });
        }
        code.push(Insn::Atomic { op, fetch, size, base, off, src });
        code
    }

    /// The shapes in which clang rotates.
    fn rotate(&mut self, a: Reg, b: Reg, width: Width) -> Vec<Insn> {
        let x = self.reg();
        let bits = if width == Width::W32 { 32 } else { 64 };
        let by = 1 + self.rng.below(bits as u64 - 1) as i32;
        let other = if self.rng.one_in(8) { by } else { bits - by };
        let (first, second) = self.rng.pick(&[(AluOp::Rsh, AluOp::Lsh), (AluOp::Lsh, AluOp::Rsh)]);
        let shift = |op, dst, by| Insn::Alu { width, op, dst, src: Operand::Imm(by) };
        let join_width = if self.rng.one_in(6) { self.width() } else { width };
        let join = |dst, src| Insn::Alu { width: join_width, op: AluOp::Or, dst, src: Operand::Reg(src) };
        let move_width = if self.rng.one_in(3) { width } else { Width::W64 };
        let to = |dst| Insn::Alu { width: move_width, op: AluOp::Mov, dst, src: Operand::Reg(x) };
        match self.rng.below(3) {
            0 => vec![to(a), shift(first, a, by), shift(second, x, other), join(x, a)],
            1 => vec![to(a), shift(first, a, by), shift(second, x, other), join(a, x)],
            _ => vec![to(a), shift(first, a, by), to(b), shift(second, b, other), join(b, a)],
        }
    }

    /// Neighbouring bytes put together.
    fn bytes(&mut self, a: Reg, b: Reg) -> Vec<Insn> {
        if a == b {
            return vec![self.alu()];
        }
        let (base, off) = self.place(Size::Dw, false);
        let mut code = Vec::new();
        let width = self.width();
        let mask = if width == Width::W32 { 31 } else { 63 };
        let big = self.rng.one_in(2);
        let count = self.rng.pick(&[2, 2, 4, 8]);
        let disorder = self.rng.one_in(8);
        for i in 0..count {
            let dst = if i == 0 { a } else { b };
            let at = if disorder { self.rng.below(8) as i16 } else { i };
            code.push(Insn::Load { size: Size::B, sign_extend: false, dst, base, off: off + at });
            let place = if big { count - 1 - i } else { i };
            if place > 0 {
                code.push(Insn::Alu { width, op: AluOp::Lsh, dst, src: Operand::Imm((8 * i32::from(place)) & mask) });
            }
            if i > 0 {
                let op = self.rng.pick(&[AluOp::Or, AluOp::Or, AluOp::Xor, AluOp::Add]);
                let width = if self.rng.one_in(12) { self.width() } else { width };
                code.push(Insn::Alu { width, op, dst: a, src: Operand::Reg(b) });
            }
            if self.rng.one_in(10) {
                code.push(Insn::Store { size: Size::B, base, off: off + 1, src: Operand::Imm(i32::from(i) + 90) });
            }
        }
        if self.rng.one_in(2) {
            code.push(Insn::End { kind: EndKind::ToBe, bits: self.rng.pick(&[16, 32, 64]), dst: a });
        }
        code
    }

    /// Addresses computed in registers.
    fn pointer(&mut self, a: Reg, b: Reg) -> Vec<Insn> {
        if a == b {
            return vec![self.alu()];
        }
        let size = self.size();
        let (base, off) = self.place(size, false);
        let index = self.rng.below(16) as i32;
        let split = i32::from(off) - index;
        let mut code = vec![copy(a, base)];
        code.push(Insn::Alu { width: Width::W64, op: AluOp::Add, dst: a, src: Operand::Imm(split) });
        if self.rng.one_in(2) {
            code.push(mov(b, index));
            code.push(Insn::Alu { width: Width::W64, op: AluOp::Add, dst: a, src: Operand::Reg(b) });
        } else {
            code.push(Insn::Alu { width: Width::W64, op: AluOp::Sub, dst: a, src: Operand::Imm(-index) });
        }
        if self.rng.one_in(2) {
            code.push(Insn::Load { size, sign_extend: false, dst: b, base: a, off: 0 });
        } else {
            code.push(Insn::Store { size, base: a, off: 0, src: Operand::Reg(b) });
        }
        code.push(mov(a, index));
        code
    }

    fn extension(&mut self, dst: Reg, width: Width) -> Vec<Insn> {
        let by = if width == Width::W32 { self.rng.pick(&[8, 16, 24]) } else { self.rng.pick(&[8, 32, 48, 56]) };
        let back = self.rng.pick(&[AluOp::Rsh, AluOp::Arsh]);
        let shift = |op| Insn::Alu { width, op, dst, src: Operand::Imm(by) };
        vec![shift(AluOp::Lsh), shift(back)]
    }

    fn call(&mut self) -> Vec<Insn> {
        let mut code = Vec::new();
        let sub = self.sub.is_some() && self.rng.one_in(2);
        if sub {
            code.push(copy(Reg::R1, self.ctx));
            code.push(Insn::Call { target: CallTarget::Subprog(0) });
        } else {
            code.push(Insn::Call { target: CallTarget::Helper(HELPER as i32) });
        }
        for n in 1..=5 {
            code.push(self.constant(reg(n)));
        }
        code
    }

    /// Ends with some of the registers in the context (or in r0), and resolves the jumps.
    fn finish(mut self, dump: bool) -> Vec<Insn> {
        let mut code = Vec::new();
        for r in self.free.clone() {
            if self.rng.one_in(4) {
                continue;
            }
            if dump {
                let off = 128 + 8 * i16::from(r.number());
                code.push(Insn::Store { size: Size::Dw, base: self.ctx, off, src: Operand::Reg(r) });
            } else if r != Reg::R0 {
                code.push(Insn::Alu { width: Width::W64, op: AluOp::Xor, dst: Reg::R0, src: Operand::Reg(r) });
            }
        }
        code.push(Insn::Exit);
        self.items.push(Item::Code(code));
        // Where each item starts.
        let mut starts = Vec::new();
        let mut at = 0_i32;
        for item in &self.items {
            starts.push(at);
            at += match item {
                Item::Code(code) => code.iter().map(|insn| insn.slots() as i32).sum(),
                Item::Skip(..) => 1,
                Item::Loop(_) => 2,
            };
        }
        let last = starts.len() - 1;
        let mut insns = Vec::new();
        for (i, item) in self.items.into_iter().enumerate() {
            match item {
                Item::Code(code) => insns.extend(code),
                Item::Skip(mut jump, over) => {
                    let to = starts[(i + over + 1).min(last)];
                    if let Insn::Jcond { off, .. } = &mut jump {
                        *off = (to - starts[i] - 1) as i16;
                    }
                    insns.push(jump);
                }
                Item::Loop(head) => {
                    insns.push(Insn::Alu { width: Width::W64, op: AluOp::Add, dst: Reg::R9, src: Operand::Imm(-1) });
                    let off = (starts[head] - starts[i] - 2) as i16;
                    let src = Operand::Imm(0);
                    insns.push(Insn::Jcond { width: Width::W64, op: JmpOp::Ne, dst: Reg::R9, src, off });
                }
            }
        }
        insns
    }
}
