//! Loaded programs: running them, what they did, and when their memory goes.
//!
//! A *version* ([`ProgInner`]) is immutable; a [`Program`] is a handle of the place that runs one, and can be given another
//! (`replace`). Invariant: while a run is inside a version, its code, its maps and everything that it can tail-call into
//! stay, because the run holds up grace periods; so no reference is counted on the run path. Kernel counterpart: `struct
//! bpf_prog`, include/linux/bpf.h; `bpf_prog_run`, include/linux/filter.h, 6.18.

mod place;

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use skep_abi::{AttachType, CallTarget, Errno, Insn, ProgType, decode_xlated};
use skep_sync::{CpuGuard, CpuSet, EnterError, PerCpuOff, SyncError};
use skep_text::{InstalledCode, SiteBytes, TextError};
use skep_verifier::Xlated;
use thiserror::Error;

use crate::ctx::{Context, CtxParts, CtxType};
use crate::engine::EngineState;
use crate::extension::Ties;
use crate::frame::{Entered, RunFrame};
use crate::inject::{Mistake, made};
use crate::interp::{Fault, Interp, InterpError, InterpProgram, Resolve, Stack, Witness};
use crate::map::MapRef;
use crate::map::prog_array::{Owner, ProgArray, TailCallee};
use crate::running::RunningProgram;
use place::Place;
pub use place::{ReplaceError, Retired};

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

/// One version of a program: what a place, a prog array and a run refer to.
pub struct ProgInner {
    /// Where a run enters; 0 when interpreted.
    entry: u64,
    ctx_type: CtxType,
    /// Whether runs set a [`RunFrame`]: something in the program may ask for it.
    needs_frame: AtomicBool,
    /// The places that run the version, or did.
    places: Mutex<Vec<Weak<Place>>>,
    engine: Arc<EngineState>,
    interpreted: Option<InterpProgram>,
    code: Option<Code>,
    parts: Described,
    stats: StatsOff,
    ties: Ties,
    maps: Vec<MapRef>,
    attached: Vec<Box<dyn Any + Send + Sync>>,
}

struct Described {
    id: u32,
    name: String,
    prog_type: ProgType,
    callee_type: ProgType,
    callee_context: CtxType,
    xdp_has_frags: bool,
    attach_type: AttachType,
    gpl_compatible: bool,
    tag: [u8; 8],
    verified_insns: u32,
    xlated: Arc<Xlated>,
    loaded_at: SystemTime,
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
        // Without a site of its own, a compiled program is counted by whoever enters it.
        let counted_outside = |code: &Code| code.stats.is_none() && code.function_entry.is_none();
        let needs_frame = needs_frame(&parts.xlated) || parts.code.as_ref().is_some_and(counted_outside);
        let version = ProgInner {
            entry,
            ctx_type: parts.ctx_type,
            needs_frame: AtomicBool::new(needs_frame),
            places: Mutex::default(),
            engine: Arc::clone(engine),
            interpreted,
            code: parts.code,
            parts: Described {
                id: engine.new_program_id(),
                name: parts.name,
                prog_type: parts.prog_type,
                callee_type: parts.callee_type,
                callee_context: parts.callee_context,
                xdp_has_frags: parts.xdp_has_frags,
                attach_type: parts.attach_type,
                gpl_compatible: parts.gpl_compatible,
                tag: parts.tag,
                verified_insns: parts.verified_insns,
                xlated: parts.xlated,
                loaded_at: SystemTime::now(),
            },
            stats: parts.stats,
            ties: Ties::new(needs_frame),
            maps: parts.maps,
            attached: parts.attached,
        };
        let version = Arc::new(version);
        if made(Mistake::Leak) && version.parts.id.is_multiple_of(64) {
            std::mem::forget(Arc::clone(&version));
        }
        if let Some(code) = &version.code {
            let mark = Arc::as_ptr(&version).expose_provenance() as u64;
            // SAFETY: marks of the engine's arena are the addresses of live versions, or 0.
            unsafe { code.installed.set_mark(mark) };
        }
        let code = version.code.as_ref().map_or(0..0, |code| {
            let start = code.installed.addr(0).0;
            start..start + code.installed.len() as u64
        });
        let program = RunningProgram { id: version.parts.id, name: version.parts.name.clone() };
        engine.versions.add(Arc::as_ptr(&version).addr(), program, code);
        Ok(Self(Place::new(version)))
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

impl Drop for ProgInner {
    fn drop(&mut self) {
        self.engine.versions.remove(std::ptr::from_ref(self).addr());
        if let Some(code) = &self.code {
            // SAFETY: marks of the engine's arena are the addresses of live versions, or 0. Runs that are in the code are over,
            // unless it is another program's too, which then has no mark.
            unsafe { code.installed.set_mark(0) };
        }
    }
}

impl ProgInner {
    pub(crate) fn prog_type(&self) -> ProgType {
        self.parts.prog_type
    }

    /// Where a run enters that sets no frame; 0: each run sets one.
    fn bare_entry(&self) -> u64 {
        if self.needs_frame.load(Ordering::Acquire) { 0 } else { self.entry }
    }

    /// Runs that start from now on have a frame.
    pub(crate) fn give_frames(&self) {
        self.needs_frame.store(true, Ordering::Release);
        // A place that takes the version up from here on sees the flag.
        let places = std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner));
        for place in places.iter().filter_map(Weak::upgrade) {
            place.give_frames(self);
        }
    }

    pub(crate) fn asks_for_frame(&self) -> bool {
        self.needs_frame.load(Ordering::Acquire)
    }

    /// A place is about to run the version.
    fn runs_at(&self, place: &Arc<Place>) {
        self.forget_places();
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(place));
    }

    /// Lets go of the memory of places that are gone.
    fn forget_places(&self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|known| known.strong_count() > 0);
    }

    /// Runs with a frame.
    ///
    /// # Safety
    /// This thread holds the vCPU with this base, of the engine's set, and `ctx` is of the program's kind.
    unsafe fn run_framed(&self, base: NonNull<u8>, ctx: CtxParts) -> Result<u64, RunError> {
        let mut frame = RunFrame::new(NonNull::from(&*self.engine), NonNull::from(self), ctx);
        // SAFETY: the caller holds the vCPU until this call ends.
        let entered = unsafe { Entered::new(base, &mut frame) };
        match &self.interpreted {
            None => {
                let started = self.started();
                // SAFETY: the caller's duties; without interpreted form there is code, which the version keeps.
                let r0 = unsafe { enter_code(self.entry, base, ctx) };
                self.ended(base, started);
                Ok(r0)
            }
            Some(program) => self.interpret(program, base, ctx, &entered, (None, Witness::default())),
        }
    }

    #[cold]
    fn interpret(
        &self,
        program: &InterpProgram,
        base: NonNull<u8>,
        ctx: CtxParts,
        entered: &Entered<'_>,
        (budget, witness): (Option<u64>, Witness<'_>),
    ) -> Result<u64, RunError> {
        let started = self.started();
        let mut stack = Stack::new();
        let interp = Interp::new(program, base, ctx, &mut stack, (budget, witness));
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
    fn run_limited(
        &self,
        base: NonNull<u8>,
        ctx: CtxParts,
        budget: u64,
        witness: Witness<'_>,
    ) -> Result<u64, RunError> {
        let Some(program) = &self.interpreted else {
            return Err(RunError::Compiled { program: self.parts.name.clone() });
        };
        let mut frame = RunFrame::new(NonNull::from(&*self.engine), NonNull::from(self), ctx);
        // SAFETY: the only caller holds the vCPU with this base in a guard until this call ends.
        let entered = unsafe { Entered::new(base, &mut frame) };
        self.interpret(program, base, ctx, &entered, (Some(budget), witness))
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

    fn stats(&self) -> ProgStats {
        let mut sum = ProgStats::default();
        let cpus = &self.engine.cpus;
        for cpu in cpus.cpus() {
            let words = cpus.at(cpu, self.stats.off).cast::<u64>();
            // SAFETY: two words of this program's own per-CPU memory; a run may change them meanwhile, whole.
            sum.run_cnt = sum.run_cnt.wrapping_add(unsafe { words.read_volatile() });
            // SAFETY: as above.
            let time = unsafe { words.add(1) };
            // SAFETY: as above.
            sum.run_time_ns = sum.run_time_ns.wrapping_add(unsafe { time.read_volatile() });
        }
        sum
    }

    pub(crate) fn name(&self) -> &str {
        &self.parts.name
    }

    pub(crate) fn maps(&self) -> &[MapRef] {
        &self.maps
    }

    /// What ties the program to prog arrays and extensions.
    pub(crate) fn ties(&self) -> &Ties {
        &self.ties
    }

    pub(crate) fn code(&self) -> Option<&Code> {
        self.code.as_ref()
    }

    pub(crate) fn xlated(&self) -> &Xlated {
        &self.parts.xlated
    }

    pub(crate) fn engine(&self) -> &Arc<EngineState> {
        &self.engine
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
        let context = match self.parts.callee_context {
            CtxType::User(id) => {
                let mut hasher = std::hash::DefaultHasher::new();
                id.hash(&mut hasher);
                hasher.finish()
            }
            CtxType::Xdp | CtxType::Skb | CtxType::RawTp | CtxType::Syscall | CtxType::MapElem | CtxType::Function => 0,
        };
        Owner {
            prog_type: self.parts.callee_type,
            attach_type: self.parts.attach_type,
            jited: self.code.is_some(),
            xdp_has_frags: self.parts.xdp_has_frags,
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

    fn is_extension(&self) -> bool {
        self.parts.prog_type == ProgType::Ext
    }

    fn join_array(&self) -> Result<(), Errno> {
        self.ties.join_array()
    }

    fn leave_array(&self) {
        self.ties.leave_array();
    }
}

/// Enters machine code.
///
/// # Safety
/// `entry` is the entry of installed verified code, which stays until the call returns; this thread holds the vCPU
/// with this base, of the engine's set; `ctx` is of the program's kind.
#[inline]
unsafe fn enter_code(entry: u64, base: NonNull<u8>, ctx: CtxParts) -> u64 {
    type Entry = unsafe extern "sysv64" fn(ctx: *mut u8, cpu_base: *mut u8) -> u64;
    // SAFETY: the caller says what the address is.
    let entry = unsafe { std::mem::transmute::<usize, Entry>(entry as usize) };
    // SAFETY: verified code on a context of its kind, on a vCPU that the caller holds.
    unsafe { entry(ctx.object(), base.as_ptr()) }
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
