//! The checked interpreter: the oracle that the compiled path is compared with.
//!
//! Owns the execution of rewritten programs without machine code. Every access is tested against the memory that the run may
//! touch (stack, context, packet, map values, what helpers handed out), every call against the program, so that even a
//! program that was never verified does no harm: it ends with a [`Fault`] that names the instruction. Invariant: no address
//! is dereferenced that the module `memory` has not found in a region. Kernel counterpart: `___bpf_prog_run`, kernel/bpf/core.c, 6.18.

mod alu;
mod arguments;
mod atomic;
mod call;
mod memory;
#[cfg(feature = "shadow")]
mod observe;
mod program;
mod step;

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use thiserror::Error;

pub(crate) use self::atomic::{atomic32, atomic64};
pub(crate) use self::memory::{read, write};
#[cfg(feature = "shadow")]
pub use self::observe::{Moment, Observer};
pub use self::program::{InterpError, InterpProgram, Resolve};
use crate::ctx::CtxParts;
use crate::frame::Run;

/// Why a run stopped that the checks of the interpreter ended.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("program {program}, instruction {insn}: {kind}")]
pub struct Fault {
    /// Name of the program that was running (after tail calls, not always the one entered).
    pub program: String,
    /// Slot in the rewritten program.
    pub insn: u32,
    /// What went wrong.
    pub kind: FaultKind,
}

/// What a program did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FaultKind {
    /// A load outside of all readable memory.
    #[error("read of {len} bytes at {address:#x} is outside of the run's memory")]
    Read {
        /// First byte.
        address: u64,
        /// Length.
        len: u64,
    },
    /// A store outside of all writable memory.
    #[error("write of {len} bytes at {address:#x} is outside of the run's memory")]
    Write {
        /// First byte.
        address: u64,
        /// Length.
        len: u64,
    },
    /// An atomic access that is not aligned to its size.
    #[error("atomic access of {len} bytes at {address:#x} is not aligned")]
    Unaligned {
        /// First byte.
        address: u64,
        /// Length.
        len: u64,
    },
    /// A jump or call outside of the program, or into the middle of an instruction.
    #[error("jump to slot {0}, which is not an instruction")]
    Jump(i64),
    /// A helper or kfunc that the engine does not have.
    #[error("call of unknown function {0}")]
    UnknownFunction(i64),
    /// A helper argument that should be a map and is none of the program's.
    #[error("argument {argument} of helper {helper} is no map of the program")]
    NotAMap {
        /// Helper id.
        helper: u32,
        /// Argument, 1-5.
        argument: u8,
    },
    /// A callback that is not a function of the program.
    #[error("{0:#x} is no callback of the program")]
    NotACallback(u64),
    /// The stack of the run is used up.
    #[error("the stack is used up")]
    StackOverflow,
    /// The instruction budget is used up.
    #[error("the instruction budget is used up")]
    Budget,
    /// An instruction that only the rewrite may make, in a form that it does not make.
    #[error("instruction is not executable")]
    NotExecutable,
    /// The witness of the run ended it.
    #[cfg(feature = "shadow")]
    #[error("the witness of the run ended it")]
    Observed,
}

/// Bytes of all frames of one program that makes no tail calls: 8 at most, of 512 bytes where functions have stacks of their own
/// in the kernel, and of 512 together elsewhere; each with a counter of loops.
const FRAMES: usize = 8 * (512 + 8);
/// Bytes of stack for all frames of a run: 33 tail calls, each from a subprogram that used 256 bytes, and a whole program at the
/// end; and another for a program that calls an extension, which happens once, for what is extended is no tail callee.
const STACK: usize = 34 * (256 + 32) + 2 * FRAMES;

/// The stack of a run; a frame is zeroed when it is entered.
#[repr(align(16))]
pub(crate) struct Stack(MaybeUninit<[u8; STACK]>);

impl Stack {
    pub(crate) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// Memory that a helper handed out for the rest of the run.
#[derive(Clone, Copy)]
struct Grant {
    start: u64,
    len: u64,
    writable: bool,
}

/// Who sees a run's instructions: without the feature `shadow`, nobody.
#[cfg(feature = "shadow")]
pub(crate) type Witness<'a> = Option<&'a dyn Observer>;
#[cfg(not(feature = "shadow"))]
pub(crate) type Witness<'a> = std::marker::PhantomData<&'a ()>;

/// One interpreted run. Helpers re-enter it for callbacks, so everything in it is shared.
pub struct Interp<'a> {
    cpu_base: NonNull<u8>,
    ctx: CtxParts,
    /// The program whose instructions run.
    program: Cell<&'a InterpProgram>,
    /// Programs whose functions called an extension that has not returned; what they passed may lie in their maps.
    callers: RefCell<Vec<&'a InterpProgram>>,
    /// Lowest and highest address of the stack buffer.
    stack: (u64, u64),
    /// Lowest address in use.
    stack_low: Cell<u64>,
    calls: Cell<u32>,
    budget: Cell<u64>,
    granted: RefCell<Vec<Grant>>,
    /// Maps that lookups in maps of maps returned.
    inner_maps: RefCell<Vec<u64>>,
    fault: RefCell<Option<Fault>>,
    /// Slot of the instruction that calls a helper, for faults found inside it.
    at: Cell<usize>,
    witness: Witness<'a>,
    /// Functions on the call chain.
    #[cfg(feature = "shadow")]
    depth: Cell<u32>,
}

impl<'a> Interp<'a> {
    /// A run of `program` on the held vCPU with this base, with `budget` instructions at most, before a witness.
    pub(crate) fn new(
        program: &'a InterpProgram,
        cpu_base: NonNull<u8>,
        ctx: CtxParts,
        stack: &'a mut Stack,
        (budget, witness): (Option<u64>, Witness<'a>),
    ) -> Self {
        let low = stack.0.as_mut_ptr() as u64;
        let high = low + STACK as u64;
        Self {
            cpu_base,
            ctx,
            program: Cell::new(program),
            callers: RefCell::new(Vec::new()),
            stack: (low, high),
            stack_low: Cell::new(high),
            calls: Cell::new(0),
            budget: Cell::new(budget.unwrap_or(u64::MAX)),
            granted: RefCell::new(Vec::new()),
            inner_maps: RefCell::new(Vec::new()),
            fault: RefCell::new(None),
            at: Cell::new(0),
            witness,
            #[cfg(feature = "shadow")]
            depth: Cell::new(0),
        }
    }

    /// Runs the program from its first instruction; returns r0.
    pub(crate) fn run(&self) -> Result<u64, Fault> {
        let mut regs = [0_u64; 12];
        regs[1] = self.ctx.object() as u64;
        if let Some(replacement) = self.program.get().replacement(0) {
            self.program.set(replacement);
        }
        let result = self.execute(0, regs);
        if result.is_err() {
            // The run may have ended while the program's frames were being left.
            // SAFETY: the vCPU is held by this thread for the length of the run.
            unsafe { Run::new(self.cpu_base.as_ptr()) }.block().exception.set([0; 2]);
        }
        match (result, self.fault.borrow_mut().take()) {
            (Ok(r0), None) => Ok(r0),
            (_, Some(fault)) => Err(fault),
            (Err(Stopped), None) => {
                Err(Fault { program: self.program.get().name.clone(), insn: 0, kind: FaultKind::NotExecutable })
            }
        }
    }

    /// Whether the run is over because of a fault in a callback.
    pub(crate) fn failed(&self) -> bool {
        self.fault.borrow().is_some()
    }

    /// Runs the callback `token` for a helper. After a fault the result is 1, which ends every loop.
    pub(crate) fn callback(&self, token: u64, args: [u64; 5]) -> u64 {
        if self.failed() {
            return 1;
        }
        let Some(start) = self.program.get().callback(token) else {
            let _ = self.stop(self.at.get(), FaultKind::NotACallback(token));
            return 1;
        };
        let mut regs = [0_u64; 12];
        regs[1..6].copy_from_slice(&args);
        let program = self.program.get();
        let at = self.at.get();
        let result = self.execute(start, regs);
        self.program.set(program);
        self.at.set(at);
        result.unwrap_or(1)
    }

    /// Lets the program access memory that a helper hands out.
    pub(crate) fn grant(&self, start: u64, len: u64, writable: bool) {
        let mut granted = self.granted.borrow_mut();
        if !granted.iter().any(|g| g.start == start && g.len >= len && g.writable == writable) {
            granted.push(Grant { start, len, writable });
        }
    }

    /// Takes back what was granted from `start` on.
    pub(crate) fn revoke(&self, start: u64) {
        self.granted.borrow_mut().retain(|g| g.start != start);
    }

    /// Ends the run.
    fn stop(&self, insn: usize, kind: FaultKind) -> Result<std::convert::Infallible, Stopped> {
        let mut fault = self.fault.borrow_mut();
        if fault.is_none() {
            let program = self.program.get().name.clone();
            *fault = Some(Fault { program, insn: u32::try_from(insn).unwrap_or(u32::MAX), kind });
        }
        Err(Stopped)
    }
}

/// The run is over; [`Interp::fault`] says why.
#[derive(Clone, Copy, Debug)]
struct Stopped;
