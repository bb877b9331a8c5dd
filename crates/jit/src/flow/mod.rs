//! The program as the back ends see it: decoded, simplified, and with what is known of each instruction.
//!
//! Owns everything between `Xlated` and a back end that does not depend on the host. The order is: [`decode`] slots into
//! [`Op`]s, [`simplify`] forward through each block, [`liveness`] backward with removal of dead results; a back end then
//! walks the ops. Invariant: an op stands at the slot of the last instruction it replaces, and removed slots hold
//! [`Op::Nop`], so slot numbers never change.

pub(crate) mod decode;
mod effect;
mod liveness;
mod simplify;
mod value;

use skep_abi::{Insn, Operand, Reg, Size, Width};
use skep_verifier::{Subprog, Xlated};

use crate::error::JitError;
use crate::layout::{Layout, Role};

pub(crate) use effect::{RegSet, narrow_result};

/// One instruction for a back end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Nothing: second slot of an `ld_imm64`, or removed.
    Nop,
    /// As decoded.
    Insn(Insn),
    /// An access to the arena.
    Arena(Insn),
    /// A load of a big-endian value.
    LoadBe { size: Size, dst: Reg, base: Reg, off: i16 },
    /// A zero- or sign-extending load at `base + index + off`.
    LoadIndexed { size: Size, sign_extend: bool, dst: Reg, base: Reg, index: Reg, off: i16 },
    /// `dst = src` rotated left by `left`.
    Rotate { width: Width, dst: Reg, src: Reg, left: u8 },
    /// `dst = base + imm`, 64 bits.
    AddImm { dst: Reg, base: Reg, imm: i32 },
    /// `dst = a + b`, 64 bits.
    AddReg { dst: Reg, a: Reg, b: Reg },
    /// `dst` = address of a per-CPU value, `off` from the vCPU's base.
    PercpuAddr { dst: Reg, off: i32 },
    /// A load of a per-CPU value.
    LoadPercpu { size: Size, sign_extend: bool, dst: Reg, off: i32 },
    /// A store to a per-CPU value.
    StorePercpu { size: Size, src: Operand, off: i32 },
    /// `r0` = what this map's own lookup function returns; arguments as for the helper.
    LookupCall { map: u32 },
    /// `r0` = address of a map's value, or 0; `percpu` values lie at the vCPU's base.
    Lookup { map: u32, percpu: bool, key: Key },
    /// `r0` = number of the vCPU.
    CpuId,
    /// A tail call; `map` when it is known.
    TailCall { map: Option<u32>, poke: Option<u16> },
}

/// Where an inlined lookup finds its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// The same on every path.
    Const(u32),
    /// At this offset from the frame pointer.
    Stack(i16),
    /// Where `r2` points.
    Pointer,
}

/// What is known of a slot beside its op.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SlotInfo {
    /// Registers that are read later, after this slot.
    pub(crate) live_out: RegSet,
    /// Registers that are read at or after it.
    pub(crate) live_in: RegSet,
    /// Reached by a jump or as the start of a subprogram.
    pub(crate) leader: bool,
    /// Reached by a jump from further down.
    pub(crate) loop_head: bool,
    /// Registers whose upper 32 bits are zero before it.
    pub(crate) zext: RegSet,
    /// A division's divisor is not zero.
    pub(crate) divisor_nonzero: bool,
    /// A signed division's divisor is not -1.
    pub(crate) divisor_not_minus_one: bool,
}

/// One subprogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubFlow {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) stack_depth: u32,
    /// Registers that the ops mention.
    pub(crate) used: RegSet,
    /// It calls helpers or subprograms.
    pub(crate) has_calls: bool,
    /// Helper calls, tail calls, per-CPU accesses: it needs the vCPU's base.
    pub(crate) needs_cpu: bool,
    /// It accesses the arena.
    pub(crate) has_arena: bool,
    /// It begins with a site for a function in its place.
    pub(crate) replaceable: bool,
    /// It divides, or multiplies in other ways that want host registers.
    pub(crate) has_division: bool,
}

/// The whole program.
pub(crate) struct Flow {
    pub(crate) ops: Vec<Op>,
    pub(crate) slots: Vec<SlotInfo>,
    pub(crate) subs: Vec<SubFlow>,
    /// Any subprogram needs the vCPU's base, or what may take its place does.
    pub(crate) needs_cpu: bool,
    /// The program itself is entered as a subprogram is.
    pub(crate) is_extension: bool,
    /// The base of the arena.
    pub(crate) arena: Option<u64>,
}

impl Flow {
    /// Decodes and improves.
    pub(crate) fn build(xlated: &Xlated, layout: &Layout, optimize: bool) -> Result<Self, JitError> {
        let mut flow = decode::decode(xlated, layout)?;
        if optimize {
            simplify::simplify(&mut flow, xlated, layout);
        }
        liveness::compute(&mut flow, optimize)?;
        Ok(flow)
    }

    /// The op at `slot`.
    pub(crate) fn op(&self, slot: usize) -> Op {
        self.ops.get(slot).copied().unwrap_or(Op::Nop)
    }

    /// What is known at `slot`.
    pub(crate) fn slot(&self, slot: usize) -> SlotInfo {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    /// The subprogram that starts at `slot`.
    pub(crate) fn sub_at(&self, slot: usize) -> Option<usize> {
        self.subs.binary_search_by_key(&slot, |sub| sub.start).ok()
    }
}

/// Most stack that a frame is planned for; eBPF has 512 bytes per subprogram.
const MAX_STACK: u32 = 1 << 15;

impl SubFlow {
    /// Bytes of stack below r10, in whole words.
    pub(crate) fn locals(&self) -> Option<u32> {
        self.stack_depth.checked_next_multiple_of(8).filter(|&depth| depth <= MAX_STACK)
    }

    fn new(sub: &Subprog, role: Role) -> Self {
        Self {
            start: sub.start as usize,
            end: sub.end as usize,
            stack_depth: sub.stack_depth,
            used: RegSet::EMPTY,
            has_calls: false,
            needs_cpu: false,
            has_arena: false,
            replaceable: role == Role::Replaceable && sub.replaceable,
            has_division: false,
        }
    }
}
