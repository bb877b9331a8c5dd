//! One version of a program: its code or interpreted form, its runs, and what it counts.
//!
//! Invariant: nothing of it changes after it was made but whether its runs set a frame, who runs it, and its counts.
//! Kernel counterpart: `struct bpf_prog`, `struct bpf_prog_aux`, include/linux/bpf.h; `bpf_prog_run`,
//! include/linux/filter.h, 6.18.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use skep_abi::{AttachType, CallTarget, Errno, Insn, ProgType, decode_xlated};
use skep_sync::{CpuSet, PerCpuOff};
use skep_text::SiteBytes;
use skep_verifier::Xlated;

use super::place::Place;
use super::{Code, ProgramError, ProgramParts, RunError};
use crate::ctx::{CtxParts, CtxType};
use crate::engine::EngineState;
use crate::extension::Ties;
use crate::frame::{Entered, RunFrame};
use crate::inject::{Mistake, made};
use crate::interp::{Interp, InterpProgram, Resolve, Stack, Witness};
use crate::map::MapRef;
use crate::map::prog_array::{Owner, TailCallee};
use crate::running::RunningProgram;

/// Per-CPU memory of a program's statistics: `run_cnt` and `run_time_ns`, 8 bytes each.
#[derive(Debug)]
pub struct StatsOff {
    off: PerCpuOff,
    cpus: CpuSet,
}

impl StatsOff {
    /// Room for the statistics of one program.
    pub(super) fn new(engine: &EngineState) -> Result<Self, ProgramError> {
        // One line for itself, so that two programs of one vCPU share none with another's data.
        let off = engine.cpus.percpu_alloc(16, 16).map_err(ProgramError::Memory)?;
        Ok(Self { off, cpus: engine.cpus.clone() })
    }

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
    pub(super) ctx_type: CtxType,
    /// Whether runs set a [`RunFrame`]: something in the program may ask for it.
    needs_frame: AtomicBool,
    /// The places that run the version, or did.
    places: Mutex<Vec<Weak<Place>>>,
    pub(super) engine: Arc<EngineState>,
    interpreted: Option<InterpProgram>,
    pub(super) code: Option<Code>,
    pub(super) parts: Described,
    stats: StatsOff,
    ties: Ties,
    pub(super) maps: Vec<MapRef>,
    pub(super) attached: Vec<Box<dyn Any + Send + Sync>>,
}

/// What there is to say of it.
pub(super) struct Described {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) prog_type: ProgType,
    callee_type: ProgType,
    callee_context: CtxType,
    xdp_has_frags: bool,
    pub(super) attach_type: AttachType,
    pub(super) gpl_compatible: bool,
    pub(super) tag: [u8; 8],
    pub(super) verified_insns: u32,
    pub(super) xlated: Arc<Xlated>,
    pub(super) loaded_at: SystemTime,
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
    /// Makes a version and lets the engine know of it.
    pub(super) fn new(engine: &Arc<EngineState>, parts: ProgramParts) -> Result<Arc<Self>, ProgramError> {
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
        Ok(version)
    }

    pub(crate) fn prog_type(&self) -> ProgType {
        self.parts.prog_type
    }

    /// Where a run enters that sets no frame; 0: each run sets one.
    pub(super) fn bare_entry(&self) -> u64 {
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
    pub(super) fn runs_at(&self, place: &Arc<Place>) {
        self.forget_places();
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(place));
    }

    /// Lets go of the memory of places that are gone.
    pub(super) fn forget_places(&self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|known| known.strong_count() > 0);
    }

    /// Runs with a frame.
    ///
    /// # Safety
    /// This thread holds the vCPU with this base, of the engine's set, and `ctx` is of the program's kind.
    pub(super) unsafe fn run_framed(&self, base: NonNull<u8>, ctx: CtxParts) -> Result<u64, RunError> {
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
    pub(super) fn run_limited(
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

    pub(super) fn stats(&self) -> ProgStats {
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
pub(super) unsafe fn enter_code(entry: u64, base: NonNull<u8>, ctx: CtxParts) -> u64 {
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
