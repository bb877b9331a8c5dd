//! One verification under way: the program, what is known of each slot, and the path being walked.
//!
//! Owns every mutable part of a run of the verifier. Invariant: a refusal is made by [`Env::reject`] alone, which both logs the
//! message and returns it. Kernel counterpart: `struct bpf_verifier_env`, include/linux/bpf_verifier.h, 6.18.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::rc::Rc;

use skep_abi::Errno;
use skep_abi::Insn;
use skep_abi::kfunc::KfuncProto;

use crate::explain::trace::Trace;
use crate::explore::Pending;
use crate::live_stack::LiveStack;
use crate::log::Log;
use crate::loops::Visits;
use crate::precision::Backtrack;
use crate::shadow::Recorder;
use crate::spec::{FieldKind, MapShape, Options, ProgramSpec, RecordField};
use crate::state::frame::State;
use crate::state::reg::{Extra, Reg};
use crate::states::States;
use crate::verified::{Buffers, InsnFacts, InsnIdx, Need, RejectionKind, Stats};

/// A refusal on its way up.
#[derive(Debug)]
pub(crate) struct Reject {
    pub(crate) errno: Errno,
    pub(crate) kind: RejectionKind,
    pub(crate) message: String,
}

/// Result of a check.
pub(crate) type Check<T = ()> = Result<T, Box<Reject>>;

/// What a user may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// `CAP_BPF`: loops, calls, bounds on the stack, precise spills.
    pub(crate) bpf: bool,
    /// `CAP_PERFMON`: pointers may leak, speculation is not guarded.
    pub(crate) perfmon: bool,
}

/// What is known of a slot beyond the facts for later stages.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as in the kernel's bpf_insn_aux_data")]
pub(crate) struct InsnAux {
    /// Other states may be compared here.
    pub(crate) prune_point: bool,
    /// The jump history must record it.
    pub(crate) jmp_point: bool,
    /// A state must be kept here.
    pub(crate) force_checkpoint: bool,
    /// A call that runs a callback synchronously.
    pub(crate) calls_callback: bool,
    /// An iterator's `next`.
    pub(crate) iter_next: bool,
    /// How often it was processed, over all paths.
    pub(crate) processed: u32,
    /// Registers that may be read from here on.
    pub(crate) live_regs: u16,
    /// Its loop, 0 for none.
    pub(crate) scc: u32,
    /// The memory type of its pointer has been seen, and must stay the same.
    pub(crate) ptr_type: Option<crate::state::reg::RegType>,
    /// `bpf_loop` was seen here.
    pub(crate) loop_seen: bool,
    /// It saves a register around a call, or loads it again behind it.
    pub(crate) is_save: bool,
    /// Saves around this call that are not needed.
    pub(crate) saves: u32,
    /// Ways a conditional jump went: bit 0 taken, bit 1 not.
    pub(crate) branch_seen: u8,
    /// 64-bit arithmetic was seen on something else than pointers into the arena.
    pub(crate) other_alu: bool,
    /// How an addition to a pointer is masked.
    pub(crate) mask: Option<crate::check::sanitize::Mask>,
    /// No speculation goes on here, before it or after it.
    pub(crate) nospec: bool,
    pub(crate) nospec_after: bool,
}

/// A subprogram while it is verified.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as in the kernel's bpf_subprog_info")]
pub(crate) struct SubprogInfo {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) name: String,
    pub(crate) stack_depth: u32,
    /// Stack below that, which saves used that are not needed.
    pub(crate) save_depth: u32,
    /// They run here all the same.
    pub(crate) runs_saves: bool,
    pub(crate) saves: Option<crate::fastcall::Saves>,
    pub(crate) is_global: bool,
    pub(crate) is_cb: bool,
    pub(crate) is_async_cb: bool,
    pub(crate) is_exception_cb: bool,
    pub(crate) called: bool,
    pub(crate) has_tail_call: bool,
    pub(crate) tail_call_reachable: bool,
    pub(crate) has_ld_abs: bool,
    pub(crate) changes_pkt_data: bool,
    pub(crate) might_sleep: bool,
    pub(crate) might_throw: bool,
    /// BTF id of its function, 0 without BTF.
    pub(crate) func_id: u32,
    /// A call passed what its prototype does not say.
    pub(crate) unreliable: bool,
    /// Arguments of a global function, once read from BTF.
    pub(crate) args: Option<crate::check::global::Signature>,
}

/// A verification under way.
pub(crate) struct Env<'a> {
    pub(crate) spec: &'a ProgramSpec<'a>,
    pub(crate) options: &'a Options,
    pub(crate) log: &'a mut Log,
    pub(crate) caps: Caps,
    pub(crate) strict_alignment: bool,
    pub(crate) test_state_freq: bool,
    /// Decoded slots; the second half of an `ld_imm64`, or an undefined encoding, has none.
    pub(crate) code: Vec<Option<Insn>>,
    pub(crate) aux: Vec<InsnAux>,
    pub(crate) facts: Vec<InsnFacts>,
    pub(crate) subprogs: Vec<SubprogInfo>,
    pub(crate) cur: State,
    pub(crate) insn: u32,
    /// Slot executed before the current one.
    pub(crate) prev_insn: u32,
    /// Slot executed last: the current one, once its check has begun.
    pub(crate) executed: u32,
    pub(crate) next_id: u32,
    pub(crate) pending: Vec<Pending>,
    pub(crate) states: States,
    pub(crate) visits: Visits,
    pub(crate) live_stack: LiveStack,
    pub(crate) backtrack: Backtrack,
    pub(crate) stats: Stats,
    pub(crate) jmps_processed: u32,
    pub(crate) prev_jmps: u32,
    pub(crate) prev_processed: u32,
    /// The current instruction has its entry at the end of the history.
    pub(crate) history_pushed: bool,
    pub(crate) print: Print,
    pub(crate) seen_direct_write: bool,
    pub(crate) exception_callback: Option<u32>,
    /// Instructions to be processed before something else is done: the limit, or the log is switched on.
    pub(crate) stop: u32,
    /// Options with the log that is written after [`Self::stop`] instructions.
    pub(crate) loud: Option<&'a Options>,
    /// The path being walked, where a refusal is to be explained.
    pub(crate) trace: Option<Box<Trace>>,
    /// Parallel to the program's list of kernel functions; absent where the table has none of that name.
    pub(crate) kfuncs: Vec<Option<&'static KfuncProto>>,
    /// Special fields of the program's structs that were looked at.
    pub(crate) records: BTreeMap<u32, Rc<[RecordField]>>,
    /// Structs among them that have a lock.
    pub(crate) locked_types: Vec<u32>,
    /// What the program needs that only the kernel has.
    pub(crate) needs: Vec<Need>,
    pub(crate) recorder: Recorder,
    pub(crate) buffers: Buffers,
    /// Structs that objects are made of.
    pub(crate) made: Vec<u32>,
    /// The program's arena: index in its maps.
    pub(crate) arena: Option<u32>,
    /// Unknown numbers were added to pointers: states are covered by such with the same numbers only, so that every path shows
    /// how it is masked.
    pub(crate) explores_limits: bool,
}

/// What the log printed last, to align and not to repeat.
#[derive(Debug, Default)]
pub(crate) struct Print {
    pub(crate) regs: u32,
    pub(crate) slots: u64,
    pub(crate) prev_log_pos: usize,
    pub(crate) insn_width: usize,
    pub(crate) prev_line: Option<usize>,
}

/// Writes to the log when it is on. `log!(env, "…")` is a whole or partial line, as the kernel's `verbose`.
macro_rules! log {
    ($env:expr, $($arg:tt)*) => {
        if $env.options.log_level != 0 {
            $env.write_log(format_args!($($arg)*));
        }
    };
}
pub(crate) use log;

/// Refuses: `return Err(reject!(env, EACCES, "R{} !read_ok", n))`.
macro_rules! reject {
    ($env:expr, $errno:ident, $($arg:tt)*) => {
        $env.reject(skep_abi::Errno::$errno, crate::verified::RejectionKind::Safety, format!($($arg)*))
    };
}
pub(crate) use reject;

/// Refuses what this engine does not do.
macro_rules! unsupported {
    ($env:expr, $($arg:tt)*) => {
        $env.reject(skep_abi::Errno::ENOTSUPP, crate::verified::RejectionKind::Unsupported, format!($($arg)*))
    };
}
pub(crate) use unsupported;

/// Refuses because the verifier contradicts itself.
macro_rules! internal {
    ($env:expr, $($arg:tt)*) => {
        $env.reject(skep_abi::Errno::EFAULT, crate::verified::RejectionKind::Internal, format!("verifier bug: {}", format_args!($($arg)*)))
    };
}
pub(crate) use internal;

impl<'a> Env<'a> {
    pub(crate) fn write_log(&mut self, args: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.log.write_fmt(args);
    }

    /// Logs `message` and makes it the refusal.
    pub(crate) fn reject(&mut self, errno: Errno, kind: RejectionKind, message: String) -> Box<Reject> {
        log!(self, "{message}\n");
        Box::new(Reject { errno, kind, message })
    }

    /// A fresh identity.
    pub(crate) fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// A register of the running frame.
    pub(crate) fn reg(&self, number: u8) -> &Reg {
        &self.cur.frame().regs[number as usize]
    }

    /// A register of the running frame, to be written.
    pub(crate) fn reg_mut(&mut self, number: u8) -> &mut Reg {
        &mut self.cur.frame_mut().regs[number as usize]
    }

    /// Replaces a register of the running frame.
    pub(crate) fn set_reg(&mut self, number: u8, reg: Reg) {
        self.print.regs |= 1 << number;
        *self.reg_mut(number) = reg;
    }

    /// The shape behind a map pointer.
    pub(crate) fn map_of(&self, reg: &Reg) -> Option<&'a MapShape<'a>> {
        let Extra::Map { map, inner, .. } = reg.extra else { return None };
        let shape = self.spec.maps.get(map as usize)?;
        if inner { shape.inner.as_deref() } else { Some(shape) }
    }

    /// The special fields of what a register points to: of a map value, or of an object of the program.
    pub(crate) fn record_of(&mut self, reg: &Reg) -> Rc<[RecordField]> {
        match reg.extra {
            Extra::Map { .. } => self.map_of(reg).map_or_else(|| Rc::from([]), |shape| Rc::from(&*shape.record)),
            Extra::Btf(id) => self.struct_record(id),
            _ => Rc::from([]),
        }
    }

    /// The special fields of a struct of the program.
    pub(crate) fn struct_record(&mut self, id: u32) -> Rc<[RecordField]> {
        if let Some(known) = self.records.get(&id) {
            return Rc::clone(known);
        }
        let fields = self.spec.btf.and_then(|btf| crate::record::struct_record(btf, skep_btf::TypeId(id)).ok());
        let fields: Rc<[RecordField]> = Rc::from(fields.unwrap_or_default());
        if fields.iter().any(|field| matches!(field.kind, FieldKind::SpinLock | FieldKind::ResSpinLock)) {
            self.locked_types.push(id);
        }
        self.records.insert(id, Rc::clone(&fields));
        fields
    }

    /// Notes that running the program takes something that this engine does not have.
    pub(crate) fn need(&mut self, what: &str) {
        if !self.needs.iter().any(|need| need.what == what) {
            self.needs.push(Need { insn: InsnIdx(self.insn), what: what.to_owned() });
        }
    }

    /// The subprogram that contains `insn`.
    pub(crate) fn subprog_at(&self, insn: u32) -> usize {
        self.subprogs.partition_point(|s| s.start <= insn).saturating_sub(1)
    }

    /// The subprogram that starts at `insn`.
    pub(crate) fn subprog_starting(&self, insn: i64) -> Option<usize> {
        self.subprogs.iter().position(|s| i64::from(s.start) == insn)
    }

    /// The instruction in this slot.
    pub(crate) fn insn_at(&self, at: u32) -> Option<Insn> {
        self.code.get(at as usize).copied().flatten()
    }

    /// Facts of the current instruction, to be joined.
    pub(crate) fn facts_mut(&mut self) -> &mut InsnFacts {
        let at = self.insn as usize;
        &mut self.facts[at]
    }

    /// Whether every path of the log is kept.
    pub(crate) fn level2(&self) -> bool {
        self.options.log_level & Options::LOG_LEVEL2 != 0
    }

    /// Marks a register for the next state line.
    pub(crate) fn scratch_reg(&mut self, number: u8) {
        self.print.regs |= 1 << number;
    }

    /// Marks a stack slot for the next state line.
    pub(crate) fn scratch_slot(&mut self, slot: usize) {
        self.print.slots |= 1u64.checked_shl(u32::try_from(slot).unwrap_or(64)).unwrap_or(0);
    }

    /// Marks everything for the next state line.
    pub(crate) fn scratch_all(&mut self) {
        self.print.regs = u32::MAX;
        self.print.slots = u64::MAX;
    }
}
