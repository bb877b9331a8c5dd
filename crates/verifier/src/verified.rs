//! What verification yields: the proof's facts, or the reason of the refusal.
//!
//! Owns the verifier's output. Invariant: a [`Verified`] is made by `verify` alone (and by the one bypass below), so
//! what reaches the JIT was verified, by type. Kernel counterpart: `struct bpf_insn_aux_data`, `struct bpf_subprog_info`,
//! include/linux/bpf_verifier.h, 6.18.

use std::time::Duration;

use skep_abi::Errno;
use skep_abi::RawInsn;

use crate::check::global::Signature;
use crate::spec::RecordField;

/// A slot of the program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InsnIdx(pub u32);

/// Why a program was refused, coarsely.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RejectionKind {
    /// The program is not well formed: encoding, jumps, subprograms, BTF.
    Malformed,
    /// An instruction does something that is not allowed.
    Safety,
    /// A limit of size, depth or complexity.
    Limit,
    /// Something that this engine does not support.
    Unsupported,
    /// An inconsistency of the verifier itself: a bug to report.
    Internal,
}

/// A refused program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The kernel's errno.
    pub errno: Errno,
    /// Coarse reason.
    pub kind: RejectionKind,
    /// The instruction being checked.
    pub insn: Option<InsnIdx>,
    /// The kernel's last message, without line feed.
    pub message: String,
    /// Work done until then.
    pub stats: Stats,
}

/// Work done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Instructions processed over all paths.
    pub processed: u32,
    /// Most states kept at one instruction.
    pub max_states_per_insn: u32,
    /// States kept in all.
    pub total_states: u32,
    /// Most states kept at once.
    pub peak_states: u32,
    /// Read marks; 0 as in the kernels since 6.18.
    pub mark_read: u32,
    /// Wall-clock time.
    pub duration: Duration,
}

/// What memory an instruction accesses, the same on every path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemKind {
    /// No memory access, or never reached.
    #[default]
    None,
    /// The context, at the instruction's own offset.
    Ctx,
    /// The stack.
    Stack,
    /// A value of this map (index in the program's map list).
    MapValue(u32),
    /// A key of a map, in a callback.
    MapKey,
    /// Packet data or metadata.
    Packet,
    /// A socket of this class.
    Sock(SockKind),
    /// Memory of a helper: ring-buffer record, dynptr slice, iterator element.
    Mem,
    /// The map object itself (`struct bpf_map` fields).
    MapObject(u32),
    /// A kernel object reached by BTF; loads may fault and then read 0.
    Btf,
    /// Flow keys (`struct bpf_flow_keys`).
    FlowKeys,
    /// Arena memory.
    Arena,
    /// Several kinds on several paths, none of which needs rewriting.
    Mixed,
}

/// Socket classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum SockKind {
    Common,
    Full,
    Tcp,
    Xdp,
}

/// What is known of a helper's map argument, joined over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MapArg {
    /// Never reached, or no map argument.
    #[default]
    None,
    /// Always this map (index in the program's map list).
    Known(u32),
    /// Different maps on different paths.
    Unknown,
}

/// A constant joined over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Const {
    /// No path has reached it.
    #[default]
    Unseen,
    /// The same on every path.
    Known(u64),
    /// Not a constant.
    Unknown,
}

impl Const {
    /// The constant, if every path agrees.
    #[must_use]
    pub const fn get(self) -> Option<u64> {
        match self {
            Self::Known(v) => Some(v),
            Self::Unseen | Self::Unknown => None,
        }
    }

    /// Adds one path's value.
    pub fn join(&mut self, value: Option<u64>) {
        *self = match (*self, value) {
            (Self::Unseen, Some(v)) => Self::Known(v),
            (Self::Known(a), Some(v)) if a == v => Self::Known(a),
            _ => Self::Unknown,
        };
    }
}

/// What was learnt at one instruction, over all paths that reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InsnFacts {
    /// Some path executes it.
    pub reachable: bool,
    /// The memory it accesses.
    pub mem: MemKind,
    /// The divisor (or its low half, in 32 bits) is never zero.
    pub divisor_nonzero: bool,
    /// Signed division: the divisor is never -1 of its width.
    pub divisor_not_minus_one: bool,
    /// 64-bit arithmetic on pointers into the arena, which is done in 32 bits.
    pub alu32: bool,
    /// The source register's constant before the instruction (ALU, jumps, stores).
    pub src_const: Const,
    /// The destination register's constant before the instruction (ALU, jumps).
    pub dst_const: Const,
    /// Calls: the map argument.
    pub helper_map: MapArg,
    /// Lookups of array maps and tail calls: the constant key or index (`u32`).
    pub const_key: Const,
    /// Calls with a callback: the subprogram passed, if always the same.
    pub callback: Const,
    /// Kernel functions on objects: the struct that `bpf_obj_new` makes, the offset of the node that goes into a list or
    /// tree, the offset of the counter of `bpf_refcount_acquire`.
    pub object: Const,
    /// `bpf_loop`: flags are 0 and the callback is fixed, so the call may be inlined.
    pub loop_inline: bool,
    /// A store or load that saves a register around a call which leaves that register alone.
    pub is_save: bool,
    /// A conditional jump that is always taken, or never; `None` when both were seen.
    pub only_taken: Option<bool>,
}

/// A subprogram.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as in the kernel's bpf_subprog_info")]
pub struct Subprog {
    /// First slot.
    pub start: u32,
    /// One past its last slot.
    pub end: u32,
    /// Name from BTF; empty without.
    pub name: String,
    /// Stack bytes it uses itself.
    pub stack_depth: u32,
    /// Those of them, the lowest, that it does not use once the rewrite has removed what [`InsnFacts::is_save`] marks.
    pub save_depth: u32,
    /// A global function, verified by its prototype.
    pub is_global: bool,
    /// Called back by a helper.
    pub is_callback: bool,
    /// Called back outside the run (timer, workqueue).
    pub is_async_callback: bool,
    /// Called with what was thrown.
    pub is_exception_callback: bool,
    /// It makes a tail call itself.
    pub has_tail_call: bool,
    /// It is called, through any chain, from or with a tail call, so the counter passes through it.
    pub tail_call_reachable: bool,
    /// It uses `LD_ABS` or `LD_IND`.
    pub has_ld_abs: bool,
    /// It changes packet data, so callers' packet pointers die.
    pub changes_pkt_data: bool,
    /// It may sleep.
    pub might_sleep: bool,
    /// Its `FUNC` in the program's BTF, 0 without.
    pub type_id: u32,
    /// Its prototype in BTF says what it is called with. Not so for functions that the compiler changed, or a program whose
    /// argument is not its context.
    pub reliable: bool,
    /// It is global and its prototype is reliable: an extension program may take its place.
    pub replaceable: bool,
    /// What its callers pass, where that is known by its prototype.
    pub signature: Option<Signature>,
}

/// Something that an accepted program uses and this engine cannot run: the verdict holds, a load is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("insn {}: this engine cannot run {what}", insn.0)]
pub struct Need {
    /// Where it is used first.
    pub insn: InsnIdx,
    /// What it is: a kernel function, a kind of object.
    pub what: String,
}

/// How far a program reaches into memory whose size is known when it is attached: an iterator's key and value.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Buffers {
    /// Bytes of what it may only read (`max_rdonly_access`).
    pub rdonly: u32,
    /// Bytes of what it may write (`max_rdwr_access`).
    pub rdwr: u32,
    /// Whether it writes any.
    pub is_written: bool,
}

/// A struct of the program that it makes objects of (`bpf_obj_new`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectLayout {
    /// Its id in the program's BTF.
    pub id: u32,
    /// Bytes.
    pub size: u32,
    /// What only helpers touch.
    pub record: Vec<RecordField>,
}

/// A verified program and what was learnt of it.
#[derive(Clone, Debug)]
pub struct Verified {
    insns: Vec<RawInsn>,
    facts: Vec<InsnFacts>,
    subprogs: Vec<Subprog>,
    stats: Stats,
    unprivileged: bool,
    needs: Vec<Need>,
    buffers: Buffers,
    processed: Vec<u32>,
    objects: Vec<ObjectLayout>,
}

/// Shows that a caller has taken on the duty of [`Verified::assume`].
#[derive(Clone, Copy, Debug)]
pub struct AssumeVerified(());

impl AssumeVerified {
    /// The bypass of verification, for tests and the instruction-set conformance plugin.
    ///
    /// Whoever calls this vouches that the program ends, and touches no memory but its stack and its context: nothing will
    /// check it any more, and the JIT emits no checks.
    #[must_use]
    pub const fn i_vouch_for_the_program() -> Self {
        Self(())
    }
}

impl Verified {
    pub(crate) fn new(
        insns: Vec<RawInsn>,
        facts: Vec<InsnFacts>,
        subprogs: Vec<Subprog>,
        stats: Stats,
        unprivileged: bool,
        needs: Vec<Need>,
    ) -> Self {
        Self {
            insns,
            facts,
            subprogs,
            stats,
            unprivileged,
            needs,
            buffers: Buffers::default(),
            processed: Vec::new(),
            objects: Vec::new(),
        }
    }

    pub(crate) fn with_buffers(self, buffers: Buffers) -> Self {
        Self { buffers, ..self }
    }

    pub(crate) fn with_processed(mut self, processed: Vec<u32>) -> Self {
        self.processed = processed;
        self
    }

    pub(crate) fn with_objects(self, objects: Vec<ObjectLayout>) -> Self {
        Self { objects, ..self }
    }

    /// Takes a program as verified without looking at it; see [`AssumeVerified`].
    ///
    /// Every slot counts as reachable and nothing else is known. `starts` are the first slots of the subprograms, the first
    /// of them 0; all get the full stack.
    #[must_use]
    pub fn assume(_duty: AssumeVerified, insns: Vec<RawInsn>, starts: &[u32]) -> Self {
        let end = u32::try_from(insns.len()).unwrap_or(u32::MAX);
        let facts = vec![
            InsnFacts {
                reachable: true,
                src_const: Const::Unknown,
                dst_const: Const::Unknown,
                helper_map: MapArg::Unknown,
                const_key: Const::Unknown,
                callback: Const::Unknown,
                ..InsnFacts::default()
            };
            insns.len()
        ];
        let subprogs = starts
            .iter()
            .enumerate()
            .map(|(i, &start)| Subprog {
                start,
                end: starts.get(i + 1).copied().unwrap_or(end),
                stack_depth: 512,
                ..Subprog::default()
            })
            .collect();
        let (stats, needs, buffers) = (Stats::default(), Vec::new(), Buffers::default());
        Self {
            insns,
            facts,
            subprogs,
            stats,
            unprivileged: false,
            needs,
            buffers,
            processed: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// The program, as it was given.
    #[must_use]
    pub fn insns(&self) -> &[RawInsn] {
        &self.insns
    }

    /// The subprograms in program order; the first is the program itself.
    #[must_use]
    pub fn subprogs(&self) -> &[Subprog] {
        &self.subprogs
    }

    /// What is known at `insn`; nothing for a slot outside the program.
    #[must_use]
    pub fn facts(&self, insn: InsnIdx) -> InsnFacts {
        self.facts.get(insn.0 as usize).copied().unwrap_or_default()
    }

    /// All facts, parallel to [`Self::insns`].
    #[must_use]
    pub fn all_facts(&self) -> &[InsnFacts] {
        &self.facts
    }

    /// How far it reaches into an iterator's key and value.
    #[must_use]
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// How often each slot was processed; empty for a program that was taken as verified.
    #[must_use]
    pub fn processed(&self) -> &[u32] {
        &self.processed
    }

    /// Work done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What the program uses that this engine cannot run. [`crate::rewrite()`] refuses a program that has any, so that
    /// what is accepted and what is run are two things by type.
    #[must_use]
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// The structs that the program makes objects of; [`crate::RewriteOptions::objects`] says where their descriptions are.
    #[must_use]
    pub fn objects(&self) -> &[ObjectLayout] {
        &self.objects
    }

    /// Whether unprivileged rules were applied.
    #[must_use]
    pub fn unprivileged(&self) -> bool {
        self.unprivileged
    }
}

/// A constant tail call, to be patched when its slot changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poke {
    /// Xlated slot of the tail call.
    pub insn: u32,
    /// Map, index in [`Xlated::used_maps`].
    pub map: u32,
    /// Slot of the prog array.
    pub key: u32,
}

/// A rewritten program, ready for the interpreter and the JIT.
#[derive(Clone, Debug)]
pub struct Xlated {
    /// Instructions; map references are indices in `used_maps`.
    pub insns: Vec<RawInsn>,
    /// Parallel to `insns`; maps are indices in `used_maps`.
    pub facts: Vec<InsnFacts>,
    /// In program order; the first is the program itself.
    pub subprogs: Vec<Subprog>,
    /// Index in [`crate::ProgramSpec::maps`] of each used map.
    pub used_maps: Vec<u32>,
    /// Tail calls with constant map and index.
    pub pokes: Vec<Poke>,
    /// The original slot of each slot.
    pub source: Vec<u32>,
    /// How far it reaches into an iterator's key and value.
    pub buffers: Buffers,
}
