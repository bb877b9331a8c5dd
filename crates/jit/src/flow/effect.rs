//! What an op reads, writes and needs.
//!
//! Owns the register effects that liveness and frames are computed from. Invariant: `reads` may say too much, never too
//! little; `writes` may say too little, never too much. Kernel counterpart: `compute_live_registers`, kernel/bpf/verifier.c.

use std::ops::{BitAnd, BitOr, Not};

use skep_abi::{AluOp, AtomicOp, CallTarget, Insn, Operand, Reg, Size};

use super::{Key, Op};

/// A set of BPF registers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct RegSet(pub(crate) u16);

impl RegSet {
    pub(crate) const EMPTY: Self = Self(0);
    /// `r0` to `r5`: what a call overwrites.
    pub(crate) const CALLER_SAVED: Self = Self(0x3f);
    /// `r1` to `r5`: what a call may read.
    pub(crate) const ARGS: Self = Self(0x3e);

    pub(crate) const fn of(reg: Reg) -> Self {
        Self(1 << reg.number())
    }

    pub(crate) const fn has(self, reg: Reg) -> bool {
        self.0 & Self::of(reg).0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for RegSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for RegSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for RegSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

/// Effects of one op, packed into one word: these are made and read for every instruction.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Effect(u64);

const PURE: u64 = 1 << 32;
const CALLS: u64 = 1 << 33;
const CPU: u64 = 1 << 34;
const DIVISION: u64 = 1 << 35;

impl Effect {
    const fn pure(reads: RegSet, writes: RegSet) -> Self {
        Self(Self::acting(reads, writes).0 | PURE)
    }

    const fn acting(reads: RegSet, writes: RegSet) -> Self {
        Self(reads.0 as u64 | (writes.0 as u64) << 16)
    }

    const fn call(reads: RegSet) -> Self {
        Self(Self::acting(reads, RegSet::CALLER_SAVED).0 | CALLS | CPU)
    }

    const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    /// Registers whose value matters.
    pub(crate) const fn reads(self) -> RegSet {
        RegSet((self.0 & 0xffff) as u16)
    }

    /// Registers that have another value, or none, afterwards.
    pub(crate) const fn writes(self) -> RegSet {
        RegSet((self.0 >> 16 & 0xffff) as u16)
    }

    /// Registers that need a host register; what a call merely overwrites needs none.
    pub(crate) fn mentions(self) -> RegSet {
        let writes = self.writes();
        self.reads() | if writes == RegSet::CALLER_SAVED { RegSet::of(Reg::R0) } else { writes }
    }

    /// Nothing but the written registers shows that it ran.
    pub(crate) const fn is_pure(self) -> bool {
        self.0 & PURE != 0
    }

    /// Host calls happen.
    pub(crate) const fn calls(self) -> bool {
        self.0 & CALLS != 0
    }

    /// The vCPU's base is needed.
    pub(crate) const fn needs_cpu(self) -> bool {
        self.0 & CPU != 0
    }

    /// Host scratch registers are in demand.
    pub(crate) const fn is_division(self) -> bool {
        self.0 & DIVISION != 0
    }
}

/// The effects of `op`.
pub(crate) fn effect(op: &Op) -> Effect {
    let of = RegSet::of;
    match *op {
        Op::Nop => Effect::pure(RegSet::EMPTY, RegSet::EMPTY),
        Op::Insn(ref insn) | Op::Arena(ref insn) => insn_effect(insn),
        Op::LoadBe { dst, base, .. } | Op::AddImm { dst, base, .. } => Effect::pure(of(base), of(dst)),
        Op::LoadIndexed { dst, base, index, .. } => Effect::pure(of(base) | of(index), of(dst)),
        Op::Rotate { dst, src, .. } => Effect::pure(of(src), of(dst)),
        Op::PercpuAddr { dst, .. } | Op::LoadPercpu { dst, .. } => Effect::pure(RegSet::EMPTY, of(dst)).with(CPU),
        Op::StorePercpu { src, .. } => Effect::acting(operand(src), RegSet::EMPTY).with(CPU),
        Op::AddReg { dst, a, b } => Effect::pure(of(a) | of(b), of(dst)),
        Op::LookupCall { .. } => Effect::call(of(Reg::R1) | of(Reg::R2)),
        Op::Lookup { key, percpu, .. } => {
            let reads = match key {
                Key::Const(_) => RegSet::EMPTY,
                Key::Stack(_) => of(Reg::R10),
                Key::Pointer => of(Reg::R2),
            };
            Effect::pure(reads, RegSet::CALLER_SAVED).with(if percpu { CPU } else { 0 })
        }
        // The verifier counts on it that a call of this helper leaves r1 to r5 alone.
        Op::CpuId => Effect::pure(RegSet::EMPTY, of(Reg::R0)).with(CPU),
        Op::TailCall { map, poke } => {
            let map_reg = if map.is_none() { of(Reg::R2) } else { RegSet::EMPTY };
            let index = if poke.is_none() { of(Reg::R3) } else { RegSet::EMPTY };
            let reads = of(Reg::R1) | map_reg | index;
            Effect::acting(reads, RegSet::CALLER_SAVED).with(CPU)
        }
    }
}

/// The register that an atomic operation of 32 bits brings a value to. Its upper half is zero afterwards, which the verifier counts
/// on, even where the operation is skipped.
pub(crate) fn narrow_result(insn: &Insn) -> Option<Reg> {
    let Insn::Atomic { op, size: Size::W, src, .. } = *insn else { return None };
    let result = if op == AtomicOp::Cmpxchg { Reg::R0 } else { src };
    insn_effect(insn).writes().has(result).then_some(result)
}

fn operand(src: Operand) -> RegSet {
    match src {
        Operand::Reg(reg) => RegSet::of(reg),
        Operand::Imm(_) => RegSet::EMPTY,
    }
}

fn insn_effect(insn: &Insn) -> Effect {
    let of = RegSet::of;
    match *insn {
        Insn::Alu { op, dst, src, .. } => {
            let reads = if op == AluOp::Mov { operand(src) } else { operand(src) | of(dst) };
            let division = matches!(op, AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod);
            Effect::pure(reads, of(dst)).with(if division { DIVISION } else { 0 })
        }
        Insn::MovSx { dst, src, .. } => Effect::pure(of(src), of(dst)),
        Insn::AddrSpaceCast { dst, src, .. } => Effect::acting(of(src), of(dst)),
        Insn::Neg { dst, .. } | Insn::End { dst, .. } => Effect::pure(of(dst), of(dst)),
        Insn::MovPercpu { dst, src } => Effect::pure(of(src), of(dst)).with(CPU),
        Insn::LdImm64 { dst, .. } => Effect::pure(RegSet::EMPTY, of(dst)),
        Insn::Load { dst, base, .. } => Effect::pure(of(base), of(dst)),
        Insn::LoadAcquire { dst, base, .. } => Effect::acting(of(base), of(dst)),
        Insn::Store { base, src, .. } => Effect::acting(of(base) | operand(src), RegSet::EMPTY),
        Insn::StoreRelease { base, src, .. } => Effect::acting(of(base) | of(src), RegSet::EMPTY),
        Insn::Atomic { op, fetch, base, src, .. } => {
            let reads = of(base) | of(src);
            match op {
                AtomicOp::Cmpxchg => Effect::acting(reads | of(Reg::R0), of(Reg::R0)),
                AtomicOp::Xchg => Effect::acting(reads, of(src)),
                _ if fetch => Effect::acting(reads, of(src)),
                _ => Effect::acting(reads, RegSet::EMPTY),
            }
        }
        Insn::LdAbs { .. } => Effect::call(of(Reg::R6)),
        Insn::LdInd { src, .. } => Effect::call(of(Reg::R6) | of(src)),
        Insn::Ja { .. } | Insn::MayGoto { .. } => Effect::acting(RegSet::EMPTY, RegSet::EMPTY),
        Insn::Jcond { dst, src, .. } => Effect::acting(of(dst) | operand(src), RegSet::EMPTY),
        // A subprogram that needs the vCPU's base says so itself.
        Insn::Call { target: CallTarget::Subprog(_) } => Effect::acting(RegSet::ARGS, RegSet::CALLER_SAVED).with(CALLS),
        Insn::Call { .. } | Insn::TailCall { .. } => Effect::call(RegSet::ARGS),
        Insn::Exit => Effect::acting(of(Reg::R0), RegSet::EMPTY),
    }
}
