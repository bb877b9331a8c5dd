//! Statements: what a program does next, given what its registers hold.

mod call;

use skep_abi::{AluOp, Insn, JmpOp, Operand, ProgType, RawInsn, Reg, Size, Width};

use super::Builder;
use super::build::Open;
use super::value::{JMP, Kind, SIZES};
use crate::random::Random;

/// The long-lived registers.
const LONG: [Reg; 4] = [Reg::R6, Reg::R7, Reg::R8, Reg::R9];

/// Makes one program.
pub(super) struct Generator {
    pub(super) random: Random,
    pub(super) b: Builder,
    pub(super) prog_type: ProgType,
    mistakes: u64,
    /// Unknown numbers come from helpers that answer differently each time.
    pub(super) noisy: bool,
    kinds: [Kind; 4],
    /// Registers that count the rounds of a loop around the current statement.
    counters: Vec<Reg>,
    /// Branches and loops around the current statement.
    depth: u32,
    /// Calls and callback addresses of subprograms to be written at the end.
    calls: Vec<(Open, Callee)>,
    /// Statements that may still be made.
    budget: u32,
    /// Whether this is the main program, which has the context.
    main: bool,
    /// First slots of the subprograms.
    starts: Vec<u32>,
}

/// What a subprogram expects.
#[derive(Clone, Copy)]
enum Callee {
    /// `r1` a number, `r2` a pointer to 16 initialised bytes of the caller's stack.
    Function,
    /// `r1` the context, `r2` the same pointer.
    WithCtx,
    /// `bpf_loop`'s callback: `r1` the index, `r2` the same pointer.
    LoopBody,
}

impl Generator {
    pub(super) fn new(mut random: Random, prog_type: ProgType, mistakes: u64) -> Self {
        let noisy = random.one_in(6);
        Self {
            random,
            b: Builder::default(),
            prog_type,
            mistakes,
            noisy,
            kinds: [Kind::Unset; 4],
            counters: Vec::new(),
            depth: 0,
            calls: Vec::new(),
            budget: 60,
            main: true,
            starts: vec![0],
        }
    }

    /// The program and the first slots of its subprograms.
    pub(super) fn finish(self) -> (Vec<RawInsn>, Vec<u32>) {
        (self.b.finish(), self.starts)
    }

    /// Whether to make a mistake here.
    pub(super) fn mistake(&mut self) -> bool {
        self.mistakes != u64::MAX && self.random.one_in(self.mistakes)
    }

    /// Whether this program makes any.
    pub(super) fn mistakes(&self) -> bool {
        self.mistakes != u64::MAX
    }

    /// A long-lived register with such a kind.
    pub(super) fn find(&mut self, wanted: impl Fn(Kind) -> bool) -> Option<Reg> {
        let found: Vec<Reg> =
            LONG.into_iter().zip(self.kinds).filter(|(_, kind)| wanted(*kind)).map(|(r, _)| r).collect();
        (!found.is_empty()).then(|| self.random.pick(&found))
    }

    pub(super) fn any_register(&mut self) -> Reg {
        self.random.pick(&[Reg::R0, Reg::R1, Reg::R2, Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::R10])
    }

    /// A register to write: not the context, so that there is something to ask of it, and no loop's counter.
    fn target(&mut self) -> Reg {
        let keep_ctx = self.main && !self.random.one_in(12);
        let free: Vec<Reg> =
            LONG.into_iter().filter(|reg| !(keep_ctx && *reg == Reg::R6 || self.counters.contains(reg))).collect();
        self.random.pick(&free)
    }

    fn kind(&mut self, reg: Reg) -> &mut Kind {
        &mut self.kinds[reg.index() - 6]
    }

    /// The main program, then the subprograms that it asked for.
    pub(super) fn program(&mut self) {
        self.b.mov(Reg::R6, Reg::R1);
        *self.kind(Reg::R6) = Kind::Ctx;
        if !self.mistake() {
            self.b.store(Size::Dw, Reg::R10, -16, Operand::Imm(0));
            self.b.store(Size::Dw, Reg::R10, -8, Operand::Imm(0));
        }
        let count = self.random.range(3, 16);
        self.statements(count);
        self.end();
        self.main = false;
        while let Some((call, callee)) = self.calls.pop() {
            self.b.define(&call);
            self.starts.push(u32::try_from(self.b.here()).expect("a short program"));
            self.subprogram(callee);
        }
    }

    fn subprogram(&mut self, callee: Callee) {
        let first = if matches!(callee, Callee::WithCtx) { Kind::Ctx } else { Kind::Scalar(None) };
        self.kinds = [first, Kind::Memory(16), Kind::Unset, Kind::Unset];
        self.b.mov(Reg::R6, Reg::R1);
        self.b.mov(Reg::R7, Reg::R2);
        self.b.store(Size::Dw, Reg::R10, -16, Operand::Imm(0));
        self.b.store(Size::Dw, Reg::R10, -8, Operand::Imm(0));
        self.budget = self.budget.max(6);
        let count = self.random.range(1, 5);
        self.statements(count);
        match callee {
            Callee::Function | Callee::WithCtx => self.end(),
            Callee::LoopBody => {
                let result = self.random.range(0, 1);
                self.b.set(Reg::R0, result);
                self.b.exit();
            }
        }
    }

    pub(super) fn statements(&mut self, count: i32) {
        for _ in 0..count {
            if self.budget == 0 {
                return;
            }
            self.budget -= 1;
            self.statement();
        }
    }

    fn statement(&mut self) {
        let fresh = self.target();
        match self.random.below(26) {
            0..=2 => {
                self.release(fresh);
                *self.kind(fresh) = self.fresh_scalar(fresh);
            }
            3..=5 => self.on_scalar(),
            6 | 7 => self.stack(),
            8 | 9 => {
                self.release(fresh);
                *self.kind(fresh) = self.lookup(fresh);
                if !self.random.one_in(5) {
                    self.checked(fresh);
                }
            }
            10..=12 => self.use_memory(),
            13 | 14 => self.packet_statement(fresh),
            15 | 16 if self.depth < 2 => self.conditional(),
            17 if self.depth < 2 => self.repeat(),
            18 => self.helper(),
            19 if self.calls.len() < 3 => self.call_subprogram(),
            20 => {
                self.release(fresh);
                *self.kind(fresh) = self.reserve(fresh);
                if !self.random.one_in(8) {
                    self.null_check(fresh);
                }
                if !self.random.one_in(8) {
                    self.release(fresh);
                }
            }
            21 => self.tail_call(),
            22 => self.spill(),
            23 => self.linked(fresh),
            24 => self.copy(fresh),
            _ => self.on_scalar(),
        }
    }

    /// A copy of a number at a constant distance, and a comparison of one of the two, which says as much of the other.
    fn linked(&mut self, to: Reg) {
        let Some(from) = self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|from| *from != to) else { return };
        self.release(to);
        let width = self.random.pick(&[Width::W32, Width::W64, Width::W64]);
        // Perhaps on one of two paths only.
        let other_way = self.random.one_in(4).then(|| {
            self.unknown();
            self.b.mov(to, Reg::R0);
            self.unknown();
            self.b.branch(Width::W64, JmpOp::Set, Reg::R0, Operand::Imm(1))
        });
        self.b.alu(width, AluOp::Mov, to, Operand::Reg(from));
        if let Some(other_way) = other_way {
            self.b.land(other_way);
        }
        *self.kind(to) = Kind::Scalar(None);
        if self.random.one_in(2) {
            let (width, by) = (self.random.pick(&[Width::W32, Width::W64]), self.random.range(-8, 8));
            self.b.alu(width, AluOp::Add, to, Operand::Imm(by));
        }
        if self.random.one_in(3) {
            self.b.store(Size::Dw, Reg::R10, -48, Operand::Reg(to));
        }
        let (compared, used) = if self.random.one_in(2) { (from, to) } else { (to, from) };
        let (width, op) = (self.random.pick(&[Width::W32, Width::W64]), self.random.pick(&JMP));
        let limit = self.random.range(0, 15);
        let way = self.b.branch(width, op, compared, Operand::Imm(limit));
        if self.random.one_in(2) {
            self.leave();
        } else {
            self.b.set(used, limit);
        }
        self.b.land(way);
        let floor = self.random.one_in(2).then(|| self.b.branch(Width::W64, JmpOp::Sge, used, Operand::Imm(0)));
        if let Some(floor) = floor {
            self.leave();
            self.b.land(floor);
        }
        self.b.mov(Reg::R1, Reg::R10);
        self.b.add_imm(Reg::R1, -40);
        self.b.mov(Reg::R2, used);
        if self.random.one_in(3) {
            self.b.alu(Width::W64, AluOp::And, Reg::R2, Operand::Imm(31));
        }
        self.b.add_reg(Reg::R1, Reg::R2);
        self.b.store(Size::B, Reg::R1, 0, Operand::Imm(7));
    }

    /// A pointer in a second register, perhaps moved on.
    fn copy(&mut self, to: Reg) {
        let wanted = |kind| matches!(kind, Kind::Memory(_) | Kind::MaybeMemory(_) | Kind::Packet(_));
        let Some(from) = self.find(wanted).filter(|from| *from != to) else { return };
        self.release(to);
        self.b.mov(to, from);
        *self.kind(to) = *self.kind(from);
        if let Kind::Memory(size) = *self.kind(to)
            && self.random.one_in(2)
        {
            let by = self.random.range(0, i32::try_from(size.min(16)).expect("small"));
            self.b.add_imm(to, by);
            *self.kind(to) = Kind::Memory(size.saturating_sub(by.unsigned_abs()));
        }
    }

    fn on_scalar(&mut self) {
        let Some(reg) = self.find(|kind| matches!(kind, Kind::Scalar(_))) else { return };
        if self.random.one_in(3) {
            *self.kind(reg) = Kind::Scalar(Some(self.bound(reg)));
        } else if self.mistake() {
            let wrong = self.random.pick(&LONG);
            self.arithmetic(wrong);
        } else {
            *self.kind(reg) = self.arithmetic(reg);
        }
    }

    /// Loads and stores on the stack, at fixed and variable offsets.
    fn stack(&mut self) {
        let size = self.random.pick(&SIZES);
        if self.random.one_in(3)
            && let Some(index) = self.find(|kind| matches!(kind, Kind::Scalar(_)))
        {
            self.b.mov(Reg::R2, index);
            let mask = self.random.pick(&[7, 8, 12]);
            self.b.alu(Width::W64, AluOp::And, Reg::R2, Operand::Imm(mask));
            self.b.mov(Reg::R1, Reg::R10);
            let base = if self.mistake() { self.random.range(-20, 8) } else { -16 };
            self.b.add_imm(Reg::R1, base);
            self.b.add_reg(Reg::R1, Reg::R2);
            if self.random.one_in(2) {
                self.b.load(Size::B, Reg::R0, Reg::R1, 0);
            } else {
                self.b.store(Size::B, Reg::R1, 0, Operand::Imm(3));
            }
            return;
        }
        let bytes = i32::from(size.bytes());
        let mut off = -(self.random.range(1, 64 / bytes) * bytes);
        if self.mistake() {
            off = self.random.pick(&[-520, -513, -3, -1, 0, 1, 8, -512]);
        }
        let off = i16::try_from(off).expect("small");
        let src = self.random.pick(&LONG);
        let kind = *self.kind(src);
        let whole = matches!(kind, Kind::Scalar(_)) || size == Size::Dw || self.mistake();
        if kind != Kind::Unset && whole && self.random.one_in(2) {
            self.b.store(size, Reg::R10, off, Operand::Reg(src));
        } else {
            let imm = self.random.immediate();
            self.b.store(size, Reg::R10, off, Operand::Imm(imm));
        }
        if !self.random.one_in(4) {
            let narrower = self.random.pick(&SIZES);
            let size = if self.mistake() { narrower } else { size };
            self.b.load(size, Reg::R0, Reg::R10, off);
        }
    }

    /// A register to the stack and back, perhaps into another or in part.
    fn spill(&mut self) {
        let (from, to) = (self.random.pick(&LONG), self.target());
        let kind = *self.kind(from);
        if kind == Kind::Unset || matches!(kind, Kind::Record(_)) || matches!(*self.kind(to), Kind::Record(_)) {
            return;
        }
        let off = self.random.pick(&[-24, -32, -40]);
        self.b.store(Size::Dw, Reg::R10, off, Operand::Reg(from));
        if self.mistake() {
            self.b.store(self.random.pick(&SIZES), Reg::R10, off, Operand::Imm(1));
        }
        if matches!(kind, Kind::Scalar(_)) && self.random.one_in(3) {
            let size = self.random.pick(&SIZES);
            self.b.load(size, to, Reg::R10, off);
            *self.kind(to) = Kind::Scalar(None);
        } else {
            self.b.load(Size::Dw, to, Reg::R10, off);
            *self.kind(to) = kind;
        }
    }

    /// Checks the possibly null pointer in `reg`.
    fn checked(&mut self, reg: Reg) {
        self.null_check(reg);
        if let Kind::MaybeMemory(size) = *self.kind(reg) {
            *self.kind(reg) = Kind::Memory(size);
        }
    }

    fn use_memory(&mut self) {
        let wanted = |kind| matches!(kind, Kind::Memory(_) | Kind::MaybeMemory(_) | Kind::Packet(_));
        let Some(reg) = self.find(wanted) else { return };
        let kind = *self.kind(reg);
        match kind {
            Kind::MaybeMemory(_) if !self.mistake() => self.checked(reg),
            Kind::Memory(size) | Kind::MaybeMemory(size) => self.access(reg, size, false),
            Kind::Packet(bytes) => self.access(reg, u32::from(bytes), true),
            _ => {}
        }
    }

    fn packet_statement(&mut self, dst: Reg) {
        if self.prog_type == ProgType::SocketFilter && !self.mistake() {
            // Socket filters read the packet by LD_ABS and LD_IND, with the context in r6.
            if *self.kind(Reg::R6) == Kind::Ctx && self.main {
                let size = self.random.pick(&[Size::B, Size::H, Size::W]);
                let imm = self.random.range(0, 60);
                match self.find(|kind| matches!(kind, Kind::Scalar(_))) {
                    Some(src) if self.random.one_in(2) => self.b.add(Insn::LdInd { size, src, imm }),
                    _ => self.b.add(Insn::LdAbs { size, imm }),
                }
                if dst != Reg::R6 {
                    self.release(dst);
                    self.b.mov(dst, Reg::R0);
                    *self.kind(dst) = Kind::Scalar(None);
                }
            }
            return;
        }
        self.release(dst);
        if let Some(kind) = self.packet(dst) {
            *self.kind(dst) = kind;
            self.use_memory();
        }
    }

    fn condition(&mut self) -> Option<(Width, JmpOp, Reg, Operand)> {
        let dst = self.find(|kind| matches!(kind, Kind::Scalar(_)))?;
        let width = self.random.pick(&[Width::W32, Width::W64]);
        let op = self.random.pick(&JMP);
        let other = self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(3));
        let imm = if self.random.one_in(2) { self.random.range(0, 64) } else { self.random.immediate() };
        Some((width, op, dst, other.map_or(Operand::Imm(imm), Operand::Reg)))
    }

    /// `if` with one or two arms.
    fn conditional(&mut self) {
        let Some((width, op, dst, src)) = self.condition() else { return };
        self.depth += 1;
        let other_way = self.b.branch(width, op, dst, src);
        let before = self.kinds;
        let count = self.random.range(1, 4);
        self.statements(count);
        let then = self.kinds;
        if self.random.one_in(2) {
            let over = self.b.skip();
            self.b.land(other_way);
            self.kinds = before;
            let count = self.random.range(1, 4);
            self.statements(count);
            self.b.land(over);
        } else {
            self.kinds = before;
            self.b.land(other_way);
        }
        self.join(then);
        self.depth -= 1;
    }

    /// Keeps what both ways agree on.
    fn join(&mut self, other: [Kind; 4]) {
        for (kind, other) in self.kinds.iter_mut().zip(other) {
            *kind = match (*kind, other) {
                (a, b) if a == b => a,
                (Kind::Scalar(_), Kind::Scalar(_)) => Kind::Scalar(None),
                _ => Kind::Unset,
            };
        }
    }

    /// A loop of one of the shapes that a verifier can follow.
    fn repeat(&mut self) {
        let counter = self.target();
        self.release(counter);
        self.counters.push(counter);
        self.depth += 1;
        let before = self.kinds;
        let rounds = match self.random.below(64) {
            0 if self.mistake() => 100_000,
            _ => self.random.range(1, if self.depth > 1 { 3 } else { 6 }),
        };
        let may_goto = self.random.one_in(4);
        self.b.set(counter, 0);
        let top = self.b.here();
        let leave = may_goto.then(|| self.b.may_goto());
        *self.kind(counter) = Kind::Unset;
        let count = self.random.range(1, 3);
        self.statements(count);
        if let Some(leave) = leave {
            self.b.back(top);
            self.b.land(leave);
        } else {
            self.b.add_imm(counter, 1);
            let width = self.random.pick(&[Width::W32, Width::W64]);
            let op = self.random.pick(&[JmpOp::Lt, JmpOp::Ne, JmpOp::Slt]);
            self.b.branch_back(width, op, counter, Operand::Imm(rounds), top);
        }
        self.join(before);
        self.counters.pop();
        *self.kind(counter) = if may_goto { Kind::Unset } else { Kind::Scalar(None) };
        self.depth -= 1;
    }

    /// Leaves the subprogram on a side path.
    pub(super) fn leave(&mut self) {
        let kinds = self.kinds;
        self.release_all();
        self.kinds = kinds;
        let code = self.random.range(0, 1);
        self.b.set(Reg::R0, code);
        self.b.exit();
    }

    /// The end of the subprogram.
    fn end(&mut self) {
        self.release_all();
        match self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(3)) {
            Some(scalar) => self.b.mov(Reg::R0, scalar),
            None if self.mistake() => {}
            None => self.b.set(Reg::R0, 1),
        }
        self.b.exit();
    }
}
