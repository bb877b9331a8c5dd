//! Loaded programs: what they are made from, what may be asked of them, and their handles.
//!
//! A *version* ([`ProgInner`]) is immutable; a [`Program`] is a handle of the place that runs one, and can be given another
//! (`replace`). Invariant: while a run is inside a version, its code, its maps and everything that it can tail-call into
//! stay, because the run holds up grace periods; so no reference is counted on the run path. Kernel counterpart: `struct
//! bpf_prog`, include/linux/bpf.h; `bpf_prog_run`, include/linux/filter.h, 6.18.

mod place;
mod version;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use skep_abi::{AttachType, Errno, ProgType};
use skep_sync::{CpuGuard, EnterError, SyncError};
use skep_text::{InstalledCode, TextError};
use skep_verifier::Xlated;
use thiserror::Error;

use crate::ctx::{Context, CtxType};
use crate::engine::EngineState;
use crate::interp::{Fault, InterpError, Witness};
use crate::map::MapRef;
use crate::map::prog_array::{ProgArray, TailCallee};
use place::Place;
pub use place::{ReplaceError, Retired};
pub use version::{ProgInner, ProgStats, StatsOff};

/// Why a program could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// No per-CPU memory for its statistics.
    #[error("no memory for the program's statistics")]
    Memory(#[source] SyncError),
    /// It cannot be interpreted.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// Its statistics site could not be patched.
    #[error("the program's statistics cannot be switched")]
    Text(#[from] TextError),
}

/// Why a run did not happen, or ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// This thread got no vCPU.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// It is entered where it replaces a function, and not by itself.
    #[error("program {program} is an extension: it runs in the place of a function of another program")]
    Extension {
        /// The program.
        program: String,
    },
    /// The context is not of the kind that the program was verified for.
    #[error("program {program} does not take this context")]
    WrongContext {
        /// The program.
        program: String,
    },
    /// A limit was asked for that machine code does not have.
    #[error("program {program} is compiled and runs without a budget")]
    Compiled {
        /// The program.
        program: String,
    },
    /// The guard belongs to another engine.
    #[error("the vCPU is held in another engine")]
    OtherEngine,
    /// The interpreter's checks ended the run.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
}

/// Machine code of a program.
#[derive(Clone, Debug)]
pub struct Code {
    /// The installed image.
    pub installed: InstalledCode,
    /// Offset where a run enters.
    pub entry: u32,
    /// Offset where a tail call enters.
    pub tail_entry: u32,
    /// Of an extension: offset where it is entered in place of a function.
    pub function_entry: Option<u32>,
    /// Replaceable functions, by number, and the index of the site at their start.
    pub functions: Vec<(u32, usize)>,
    /// Index of the statistics site among the image's sites, and the offset of the stub that counts.
    pub stats: Option<(usize, u32)>,
}

/// What a program is made from.
pub struct ProgramParts {
    /// Its name.
    pub name: String,
    /// Its type.
    pub prog_type: ProgType,
    /// The attach type that it was verified for.
    pub attach_type: AttachType,
    /// The type of the programs that it may tail-call: its own, or of an extension that of the program it extends.
    pub callee_type: ProgType,
    /// The context of those programs.
    pub callee_context: CtxType,
    /// Whether it takes packets in fragments (`BPF_F_XDP_HAS_FRAGS`), as it then demands of those programs.
    pub xdp_has_frags: bool,
    /// Whether its licence is compatible with the GPL.
    pub gpl_compatible: bool,
    /// The kernel's digest of its instructions.
    pub tag: [u8; 8],
    /// Instructions that the verifier processed.
    pub verified_insns: u32,
    /// The rewritten program.
    pub xlated: Arc<Xlated>,
    /// The context that it runs on.
    pub ctx_type: CtxType,
    /// Its maps, by index in the rewritten program's used maps.
    pub maps: Vec<MapRef>,
    /// Addresses of the kfuncs that it calls.
    pub kfuncs: Vec<u64>,
    /// Its machine code; without it, it is interpreted.
    pub code: Option<Code>,
    /// Where it counts its runs, from [`Program::alloc_stats`].
    pub stats: StatsOff,
    /// Things that live as long as the program: watchers of its tail-call slots, symbols of its code.
    pub attached: Vec<Box<dyn Any + Send + Sync>>,
}

/// A handle of a loaded program. Clones are handles of the same program, and so run the same version of it.
#[derive(Clone)]
pub struct Program(Arc<Place>);

impl AsRef<Self> for Program {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Program");
        shown.field("id", &self.id()).field("name", &self.name()).field("type", &self.prog_type());
        shown.finish_non_exhaustive()
    }
}

impl Program {
    /// Room for the statistics of a program that is about to be compiled.
    ///
    /// # Errors
    /// No per-CPU memory is left.
    pub fn alloc_stats(engine: &EngineState) -> Result<StatsOff, ProgramError> {
        StatsOff::new(engine)
    }

    /// Publishes a program: from here on it can be run.
    ///
    /// # Errors
    /// It cannot be interpreted (without code), or its statistics site cannot be patched.
    pub fn new(engine: &Arc<EngineState>, parts: ProgramParts) -> Result<Self, ProgramError> {
        Ok(Self(Place::new(ProgInner::new(engine, parts)?)))
    }

    /// A handle of the version that runs now, and of no other.
    #[must_use]
    pub fn pinned(&self) -> Self {
        Self(Place::new(self.0.current()))
    }

    /// Runs the program once on this thread's vCPU; r0 as it left it.
    ///
    /// # Errors
    /// The context is of another kind, no vCPU is to be had, or the interpreter found a fault.
    #[inline]
    pub fn run<C: Context>(&self, ctx: &mut C) -> Result<u64, RunError> {
        self.0.run(ctx)
    }

    /// Runs the program once on a vCPU that this thread holds; r0 as it left it.
    ///
    /// # Errors
    /// As for [`Program::run`], or the guard is another engine's.
    #[inline]
    pub fn run_on<C: Context>(&self, guard: &CpuGuard<'_>, ctx: &mut C) -> Result<u64, RunError> {
        self.0.run_on(guard, ctx)
    }

    /// Runs an interpreted program once, and ends the run with a fault after `instructions`.
    ///
    /// # Errors
    /// As for [`Program::run`]; the budget is used up; or the program is compiled, which runs without a budget.
    pub fn run_limited<C: Context>(&self, ctx: &mut C, instructions: u64) -> Result<u64, RunError> {
        self.0.run_limited(ctx, instructions, Witness::default())
    }

    /// As [`Program::run_limited`], with a witness who sees every instruction.
    ///
    /// # Errors
    /// As for [`Program::run_limited`]; or the witness ended the run.
    #[cfg(feature = "shadow")]
    pub fn run_observed<C: Context>(
        &self,
        ctx: &mut C,
        instructions: u64,
        observer: &dyn crate::interp::Observer,
    ) -> Result<u64, RunError> {
        self.0.run_limited(ctx, instructions, Some(observer))
    }

    /// Puts the version that `with` runs now in the place of this program's: runs that start from now on, through any
    /// handle, use it; those in progress end with the old one. Slots of prog arrays keep what they have.
    ///
    /// # Errors
    /// It is of another type or another engine; the program runs on as it was.
    pub fn replace(&self, with: &Self) -> Result<Retired, ReplaceError> {
        self.0.replace(with.0.current())
    }

    /// The number of its current version, unique in the engine.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.current().parts.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Its type.
    #[must_use]
    pub fn prog_type(&self) -> ProgType {
        self.0.prog_type()
    }

    /// The attach type that it was verified for.
    #[must_use]
    pub fn attach_type(&self) -> AttachType {
        self.0.attach_type()
    }

    /// The kernel's digest of its current instructions, in hexadecimal.
    #[must_use]
    pub fn tag(&self) -> String {
        self.0.current().parts.tag.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether its licence is compatible with the GPL.
    #[must_use]
    pub fn is_gpl_compatible(&self) -> bool {
        self.0.current().parts.gpl_compatible
    }

    /// Instructions that the verifier processed.
    #[must_use]
    pub fn verified_insns(&self) -> u32 {
        self.0.current().parts.verified_insns
    }

    /// When its current version was loaded.
    #[must_use]
    pub fn loaded_at(&self) -> SystemTime {
        self.0.current().parts.loaded_at
    }

    /// The rewritten program.
    #[must_use]
    pub fn xlated(&self) -> Arc<Xlated> {
        Arc::clone(&self.0.current().parts.xlated)
    }

    /// Its machine code; `None` when it is interpreted.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.0.current().code.clone()
    }

    /// What was attached to its current version ([`ProgramParts::attached`]) of this type.
    #[must_use]
    pub fn attached<T: Any + Clone>(&self) -> Option<T> {
        self.0.current().attached.iter().find_map(|thing| thing.downcast_ref().cloned())
    }

    /// The maps that it uses.
    #[must_use]
    pub fn maps(&self) -> Vec<MapRef> {
        self.0.current().maps.clone()
    }

    /// Ids of the maps that it uses.
    #[must_use]
    pub fn map_ids(&self) -> Vec<u32> {
        self.0.current().maps.iter().map(|map| map.info().id).collect()
    }

    /// Runs and time of the current version while statistics were on.
    #[must_use]
    pub fn stats(&self) -> ProgStats {
        self.0.current().stats()
    }

    /// Tests that the program may tail-call through the prog arrays that it uses, and fixes what kind of program they take.
    ///
    /// # Errors
    /// The index in [`Program::maps`] of an array that is for other programs, and `EINVAL`.
    pub fn check_prog_arrays(&self) -> Result<(), (usize, Errno)> {
        let version = self.0.current();
        for (index, map) in version.maps.iter().enumerate() {
            if let Some(array) = map.downcast::<ProgArray>() {
                array.check_owner(&version.owner()).map_err(|errno| (index, errno))?;
            }
        }
        Ok(())
    }

    /// The current version as a prog array takes it.
    #[must_use]
    pub fn to_callee(&self) -> Arc<dyn TailCallee> {
        self.0.current()
    }

    /// The version that runs now.
    pub(crate) fn version(&self) -> Arc<ProgInner> {
        self.0.current()
    }

    /// The engine that it was loaded into.
    #[must_use]
    pub fn engine(&self) -> &Arc<EngineState> {
        self.0.engine()
    }

    /// The kind of context that it runs on.
    #[must_use]
    pub fn ctx_type(&self) -> CtxType {
        self.0.ctx_type()
    }
}
