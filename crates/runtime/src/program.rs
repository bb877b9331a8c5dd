//! Loaded programs: running them, what they did, and when their memory goes.
//!
//! A [`Program`] is a handle of one immutable version of a program. Invariant: while a run is inside a program, its code, its
//! maps and everything that it can tail-call into stay, because the run holds up grace periods; so no reference is counted
//! on the run path. Kernel counterpart: `struct bpf_prog`, include/linux/bpf.h; `bpf_prog_run`, include/linux/filter.h, 6.18.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use skep_abi::{AttachType, CallTarget, Insn, ProgType, decode_xlated};
use skep_sync::{CpuGuard, CpuId, CpuSet, EnterError, PerCpuOff, SyncError};
use skep_text::{InstalledCode, SiteBytes, TextError};
use skep_verifier::Xlated;
use thiserror::Error;

use crate::ctx::{Context, CtxParts, CtxType};
use crate::engine::EngineState;
use crate::frame::{Entered, RunFrame};
use crate::interp::{Fault, Interp, InterpError, InterpProgram, Resolve, Stack};
use crate::map::MapRef;
use crate::map::prog_array::{Owner, TailCallee};

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

/// Per-CPU memory of a program's statistics: `run_cnt` and `run_time_ns`, 8 bytes each.
#[derive(Debug)]
pub struct StatsOff {
    off: PerCpuOff,
    cpus: CpuSet,
}

impl StatsOff {
    /// Its offset from a vCPU's base.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.off.0
    }
}

impl Drop for StatsOff {
    fn drop(&mut self) {
        self.cpus.percpu_free(self.off);
    }
}

/// What a program's runs amount to, over all vCPUs. Each number is exact; the two are read one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ProgStats {
    /// Runs while statistics were on.
    pub run_cnt: u64,
    /// Nanoseconds spent in them.
    pub run_time_ns: u64,
}

/// What a program handle, a prog array and a run refer to.
pub struct ProgInner {
    /// Where a run enters; 0 when interpreted.
    entry: u64,
    ctx_type: CtxType,
    /// Whether runs set a [`RunFrame`]: something in the program may ask for it.
    needs_frame: bool,
    /// First vCPU's region and the distance to the last one's.
    regions: (u64, u64),
    cpus: CpuSet,
    engine: Arc<EngineState>,
    interpreted: Option<InterpProgram>,
    code: Option<Code>,
    parts: Described,
    stats: StatsOff,
    maps: Vec<MapRef>,
    _attached: Vec<Box<dyn Any + Send + Sync>>,
}

struct Described {
    id: u32,
    name: String,
    prog_type: ProgType,
    attach_type: AttachType,
    gpl_compatible: bool,
    tag: [u8; 8],
    verified_insns: u32,
    xlated: Arc<Xlated>,
    loaded_at: SystemTime,
}

/// A handle of a loaded program. Clones are handles of the same program.
#[derive(Clone)]
pub struct Program(Arc<ProgInner>);

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
        // One line for itself, so that two programs of one vCPU share none with another's data.
        let off = engine.cpus.percpu_alloc(16, 16).map_err(ProgramError::Memory)?;
        Ok(StatsOff { off, cpus: engine.cpus.clone() })
    }

    /// Publishes a program: from here on it can be run.
    ///
    /// # Errors
    /// It cannot be interpreted (without code), or its statistics site cannot be patched.
    pub fn new(engine: &Arc<EngineState>, parts: ProgramParts) -> Result<Self, ProgramError> {
        let interpreted = match parts.code {
            Some(_) => None,
            None => {
                let helper = |id| engine.helper(id).map(|function| function as *const () as u64);
                let resolve = Resolve {
                    maps: &parts.maps,
                    helper: &helper,
                    kfuncs: &parts.kfuncs,
                    protos: engine.added_helpers().map(|added| added.proto.clone()).collect(),
                };
                Some(InterpProgram::new(&parts.name, &parts.xlated, &resolve)?)
            }
        };
        let entry = parts.code.as_ref().map_or(0, |code| code.installed.addr(code.entry).0);
        if let Some(Code { installed, stats: Some((site, stub)), .. }) = &parts.code {
            let on = SiteBytes::Jump(installed.addr(*stub));
            // SAFETY: the stub is in the same image and does what the site's no-op does, and counts.
            unsafe { engine.stats_key().attach(installed, *site, on, SiteBytes::Nop) }?;
        }
        let cpus = engine.cpus.clone();
        let last = u32::try_from(cpus.n_possible()).unwrap_or(1).saturating_sub(1);
        let first = cpus.base(CpuId(0)).as_ptr() as u64;
        let span = cpus.base(CpuId(last)).as_ptr() as u64 - first;
        Ok(Self(Arc::new(ProgInner {
            entry,
            ctx_type: parts.ctx_type,
            // Without a site of its own, a compiled program is counted by whoever enters it.
            needs_frame: needs_frame(&parts.xlated) || parts.code.as_ref().is_some_and(|code| code.stats.is_none()),
            regions: (first, span),
            cpus,
            engine: Arc::clone(engine),
            interpreted,
            code: parts.code,
            parts: Described {
                id: engine.new_program_id(),
                name: parts.name,
                prog_type: parts.prog_type,
                attach_type: parts.attach_type,
                gpl_compatible: parts.gpl_compatible,
                tag: parts.tag,
                verified_insns: parts.verified_insns,
                xlated: parts.xlated,
                loaded_at: SystemTime::now(),
            },
            stats: parts.stats,
            maps: parts.maps,
            _attached: parts.attached,
        })))
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
        if C::TYPE != self.0.ctx_type {
            return Err(self.0.wrong_context());
        }
        let guard = self.0.cpus.enter()?;
        self.0.run_limited(guard.base(), ctx.parts(), instructions)
    }

    /// Its number, unique in the engine.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.parts.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.parts.name
    }

    /// Its type.
    #[must_use]
    pub fn prog_type(&self) -> ProgType {
        self.0.parts.prog_type
    }

    /// The attach type that it was verified for.
    #[must_use]
    pub fn attach_type(&self) -> AttachType {
        self.0.parts.attach_type
    }

    /// The kernel's digest of its instructions, in hexadecimal.
    #[must_use]
    pub fn tag(&self) -> String {
        self.0.parts.tag.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether its licence is compatible with the GPL.
    #[must_use]
    pub fn is_gpl_compatible(&self) -> bool {
        self.0.parts.gpl_compatible
    }

    /// Instructions that the verifier processed.
    #[must_use]
    pub fn verified_insns(&self) -> u32 {
        self.0.parts.verified_insns
    }

    /// When it was loaded.
    #[must_use]
    pub fn loaded_at(&self) -> SystemTime {
        self.0.parts.loaded_at
    }

    /// The rewritten program.
    #[must_use]
    pub fn xlated(&self) -> &Xlated {
        &self.0.parts.xlated
    }

    /// Its machine code; `None` when it is interpreted.
    #[must_use]
    pub fn code(&self) -> Option<&Code> {
        self.0.code.as_ref()
    }

    /// The maps that it uses.
    #[must_use]
    pub fn maps(&self) -> &[MapRef] {
        &self.0.maps
    }

    /// Ids of the maps that it uses.
    #[must_use]
    pub fn map_ids(&self) -> Vec<u32> {
        self.0.maps.iter().map(|map| map.info().id).collect()
    }

    /// Runs and time while statistics were on.
    #[must_use]
    pub fn stats(&self) -> ProgStats {
        let mut sum = ProgStats::default();
        for cpu in self.0.cpus.cpus() {
            let words = self.0.cpus.at(cpu, self.0.stats.off).cast::<u64>();
            // SAFETY: two words of this program's own per-CPU memory; a run may change them meanwhile, whole.
            sum.run_cnt = sum.run_cnt.wrapping_add(unsafe { words.read_volatile() });
            // SAFETY: as above.
            let time = unsafe { words.add(1) };
            // SAFETY: as above.
            sum.run_time_ns = sum.run_time_ns.wrapping_add(unsafe { time.read_volatile() });
        }
        sum
    }

    /// The program as a prog array takes it.
    #[must_use]
    pub fn to_callee(&self) -> Arc<dyn TailCallee> {
        Arc::clone(&self.0) as Arc<dyn TailCallee>
    }

    /// The engine that it was loaded into.
    #[must_use]
    pub fn engine(&self) -> &Arc<EngineState> {
        &self.0.engine
    }

    /// The kind of context that it runs on.
    #[must_use]
    pub fn ctx_type(&self) -> CtxType {
        self.0.ctx_type
    }

    pub(crate) fn inner(&self) -> &Arc<ProgInner> {
        &self.0
    }

    pub(crate) fn from_inner(inner: Arc<ProgInner>) -> Self {
        Self(inner)
    }
}

impl ProgInner {
    #[inline]
    pub(crate) fn run<C: Context>(&self, ctx: &mut C) -> Result<u64, RunError> {
        if C::TYPE != self.ctx_type {
            return Err(self.wrong_context());
        }
        let guard = self.cpus.enter()?;
        // SAFETY: the guard holds the vCPU until the end of the call, and the context is of the program's kind.
        unsafe { self.run_held(guard.base(), ctx.parts()) }
    }

    #[inline]
    pub(crate) fn run_on<C: Context>(&self, guard: &CpuGuard<'_>, ctx: &mut C) -> Result<u64, RunError> {
        if C::TYPE != self.ctx_type {
            return Err(self.wrong_context());
        }
        let base = guard.base().as_ptr() as u64;
        if base.wrapping_sub(self.regions.0) > self.regions.1 {
            return Err(RunError::OtherEngine);
        }
        // SAFETY: the guard holds a vCPU of this engine's set, and the context is of the program's kind.
        unsafe { self.run_held(guard.base(), ctx.parts()) }
    }

    /// # Safety
    /// This thread holds the vCPU with this base, of the engine's set, and `ctx` is of the program's kind.
    #[inline]
    unsafe fn run_held(&self, base: NonNull<u8>, ctx: CtxParts) -> Result<u64, RunError> {
        if self.needs_frame || self.entry == 0 {
            // SAFETY: the caller's duties, passed on.
            return unsafe { self.run_framed(base, ctx) };
        }
        // SAFETY: the caller's duties, passed on; the program asks for no frame.
        Ok(unsafe { self.enter_code(base, ctx) })
    }

    /// # Safety
    /// As for [`Self::run_held`]; the program is compiled.
    #[inline]
    unsafe fn enter_code(&self, base: NonNull<u8>, ctx: CtxParts) -> u64 {
        type Entry = unsafe extern "sysv64" fn(ctx: *mut u8, cpu_base: *mut u8) -> u64;
        // SAFETY: the address is the entry of installed code, which the program keeps.
        let entry = unsafe { std::mem::transmute::<usize, Entry>(self.entry as usize) };
        // SAFETY: verified code on a context of its kind, on a vCPU that the caller holds.
        unsafe { entry(ctx.object(), base.as_ptr()) }
    }

    /// # Safety
    /// As for [`Self::run_held`].
    unsafe fn run_framed(&self, base: NonNull<u8>, ctx: CtxParts) -> Result<u64, RunError> {
        let mut frame = RunFrame::new(NonNull::from(&*self.engine), NonNull::from(self), ctx);
        // SAFETY: the caller holds the vCPU until this call ends.
        let entered = unsafe { Entered::new(base, &mut frame) };
        match &self.interpreted {
            None => {
                let started = self.started();
                // SAFETY: the caller's duties; without interpreted form there is code.
                let r0 = unsafe { self.enter_code(base, ctx) };
                self.ended(base, started);
                Ok(r0)
            }
            Some(program) => self.interpret(program, base, ctx, &entered, None),
        }
    }

    #[cold]
    fn interpret(
        &self,
        program: &InterpProgram,
        base: NonNull<u8>,
        ctx: CtxParts,
        entered: &Entered<'_>,
        budget: Option<u64>,
    ) -> Result<u64, RunError> {
        let started = self.started();
        let mut stack = Stack::new();
        let interp = Interp::new(program, base, ctx, &mut stack, budget);
        entered.interpreting(&interp);
        let result = interp.run();
        self.ended(base, started);
        result.map_err(|fault| RunError::Fault(Box::new(fault)))
    }

    /// When the run started, if it is counted here and not by a site in its code.
    fn started(&self) -> Option<Instant> {
        let has_site = self.code.as_ref().is_some_and(|code| code.stats.is_some());
        (!has_site && self.engine.stats_key().is_enabled()).then(Instant::now)
    }

    /// Counts a run that [`Self::started`] said is counted here.
    fn ended(&self, base: NonNull<u8>, started: Option<Instant>) {
        if let Some(started) = started {
            self.count(base, u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Runs an interpreted program with a limit.
    fn run_limited(&self, base: NonNull<u8>, ctx: CtxParts, budget: u64) -> Result<u64, RunError> {
        let Some(program) = &self.interpreted else {
            return Err(RunError::Compiled { program: self.parts.name.clone() });
        };
        let mut frame = RunFrame::new(NonNull::from(&*self.engine), NonNull::from(self), ctx);
        // SAFETY: the only caller holds the vCPU with this base in a guard until this call ends.
        let entered = unsafe { Entered::new(base, &mut frame) };
        self.interpret(program, base, ctx, &entered, Some(budget))
    }

    /// Counts one run on the held vCPU.
    fn count(&self, base: NonNull<u8>, time: u64) {
        // SAFETY: two words of this program's own memory in the region of the held vCPU.
        let words = unsafe { base.byte_add(usize::try_from(self.stats.off.0).unwrap_or(0)) }.cast::<[u64; 2]>();
        // SAFETY: as above.
        let [runs, total] = unsafe { words.read_volatile() };
        // SAFETY: as above.
        unsafe { words.write_volatile([runs.wrapping_add(1), total.wrapping_add(time)]) };
    }

    #[cold]
    fn wrong_context(&self) -> RunError {
        RunError::WrongContext { program: self.parts.name.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.parts.name
    }

    pub(crate) fn maps(&self) -> &[MapRef] {
        &self.maps
    }

    /// The form that the interpreter runs; `None` when it is compiled.
    pub(crate) fn interpreted(&self) -> Option<&InterpProgram> {
        self.interpreted.as_ref()
    }
}

impl TailCallee for ProgInner {
    fn id(&self) -> u32 {
        self.parts.id
    }

    fn owner(&self) -> Owner {
        use std::hash::{Hash as _, Hasher as _};
        let context = match self.ctx_type {
            CtxType::User(id) => {
                let mut hasher = std::hash::DefaultHasher::new();
                id.hash(&mut hasher);
                hasher.finish()
            }
            CtxType::Xdp | CtxType::Skb | CtxType::RawTp | CtxType::Syscall => 0,
        };
        Owner {
            prog_type: self.parts.prog_type,
            attach_type: self.parts.attach_type,
            jited: self.code.is_some(),
            context,
        }
    }

    fn tail_entry(&self) -> u64 {
        match &self.code {
            Some(code) => code.installed.addr(code.tail_entry).0,
            None => std::ptr::from_ref(self).expose_provenance() as u64,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether something that the program calls looks for the run's frame.
fn needs_frame(xlated: &Xlated) -> bool {
    let mut slot = 0;
    while slot < xlated.insns.len() {
        let Ok(insn) = decode_xlated(&xlated.insns, slot) else { return true };
        match insn {
            Insn::Call { target: CallTarget::Helper(_) | CallTarget::Kfunc { .. } }
            | Insn::TailCall { .. }
            | Insn::LdAbs { .. }
            | Insn::LdInd { .. } => return true,
            _ => slot += insn.slots(),
        }
    }
    false
}
