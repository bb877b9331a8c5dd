//! The place that runs a version of a program, and the exchange of versions while threads run it.
//!
//! A run reads one word inside its grace-period mark and so uses one version from entry to exit: the entry of machine code
//! that needs no frame, or else the pointer to the version. Invariant: both words belong to the same version except during
//! an exchange, in which a run that saw the new version is followed by none that sees the old one; the old version is
//! released no earlier than a grace period after the exchange. Kernel counterpart: `bpf_xdp_link_update`, net/core/dev.c;
//! `BPF_LINK_UPDATE`, 6.18.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use skep_abi::{AttachType, ProgType};
use skep_sync::{CpuGuard, CpuId, CpuSet, SyncError};
use thiserror::Error;

use super::version::{ProgInner, enter_code};
use super::{Program, RunError};
use crate::ctx::{Context, CtxType};
use crate::engine::EngineState;
use crate::interp::Witness;

/// Why a version cannot take a program's place. The program runs on as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// It runs on another context.
    #[error("program {program} does not take the context of what it would replace")]
    WrongContext {
        /// The program.
        program: String,
    },
    /// It is of another type, or was verified for another attach type.
    #[error("program {program} is of type {found}, and would replace one of type {wanted}")]
    WrongType {
        /// The program.
        program: String,
        /// Its type and attach type.
        found: String,
        /// Those of the program that is there.
        wanted: String,
    },
    /// It was loaded into another engine.
    #[error("program {program} belongs to another engine")]
    OtherEngine {
        /// The program.
        program: String,
    },
}

/// What the handles of a program share.
pub(super) struct Place {
    /// Where a run enters that needs no frame; 0: by way of `current`.
    entry: AtomicU64,
    ctx_type: CtxType,
    /// First vCPU's region and the distance to the last one's.
    regions: (u64, u64),
    cpus: CpuSet,
    engine: Arc<EngineState>,
    /// From `Arc::into_raw`, and owned.
    current: AtomicPtr<ProgInner>,
    name: Box<str>,
    prog_type: ProgType,
    attach_type: AttachType,
    /// One exchange at a time, so that versions retire in the order in which they ran; and no look at `current` outside of
    /// runs while it changes.
    exchanging: Mutex<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // The last handle is gone, so no run can begin; one that is in progress borrows a handle.
        // SAFETY: the pointer came from `Arc::into_raw`, and this is its only owner.
        let version = unsafe { Arc::from_raw(*self.current.get_mut()) };
        version.forget_places();
    }
}

impl Place {
    pub(super) fn new(version: Arc<ProgInner>) -> Arc<Self> {
        let cpus = version.engine.cpus.clone();
        let last = u32::try_from(cpus.n_possible()).unwrap_or(1).saturating_sub(1);
        let first = cpus.base(CpuId(0)).as_ptr() as u64;
        let span = cpus.base(CpuId(last)).as_ptr() as u64 - first;
        let running = Arc::clone(&version);
        let place = Arc::new(Self {
            entry: AtomicU64::new(0),
            ctx_type: version.ctx_type,
            regions: (first, span),
            cpus,
            engine: Arc::clone(&version.engine),
            name: version.parts.name.clone().into(),
            prog_type: version.parts.prog_type,
            attach_type: version.parts.attach_type,
            current: AtomicPtr::new(Arc::into_raw(version).cast_mut()),
            exchanging: Mutex::new(()),
        });
        running.runs_at(&place);
        // Read after the version knows the place, which otherwise would not hear that runs are to have frames.
        let exchanging = place.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        place.entry.store(running.bare_entry(), Ordering::Release);
        drop(exchanging);
        place
    }

    /// Runs of `version` that start from now on have frames.
    pub(super) fn give_frames(&self, version: &ProgInner) {
        let _exchanging = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        if std::ptr::eq(self.current.load(Ordering::Acquire), version) {
            self.entry.store(0, Ordering::Release);
        }
    }

    /// What is common is inline and cannot unwind or take an address of this frame: so the guard, the context's description
    /// and the result stay in registers.
    #[inline]
    pub(super) fn run<C: Context>(&self, ctx: &mut C) -> Result<u64, RunError> {
        if C::TYPE == self.ctx_type
            && self.entry.load(Ordering::Relaxed) != 0
            && let Some(guard) = self.cpus.enter_again()
        {
            let entry = self.entry.load(Ordering::Acquire);
            if entry != 0 {
                // SAFETY: as in `run_held`: the guard holds the vCPU until the end of the call, and the context is of the
                // program's kind.
                return Ok(unsafe { enter_code(entry, guard.base(), ctx.parts()) });
            }
        }
        self.run_slow(ctx).map_err(|error| *error)
    }

    #[inline(never)]
    fn run_slow<C: Context>(&self, ctx: &mut C) -> Result<u64, Box<RunError>> {
        if C::TYPE != self.ctx_type {
            return Err(self.wrong_context());
        }
        let guard = self.cpus.enter().map_err(|error| Box::new(error.into()))?;
        // SAFETY: the guard holds the vCPU until the end of the call, and the context is of the program's kind.
        unsafe { self.run_held(guard.base(), ctx) }.map_err(Box::new)
    }

    #[inline]
    pub(super) fn run_on<C: Context>(&self, guard: &CpuGuard<'_>, ctx: &mut C) -> Result<u64, RunError> {
        if C::TYPE != self.ctx_type {
            return Err(*self.wrong_context());
        }
        let base = guard.base().as_ptr() as u64;
        if base.wrapping_sub(self.regions.0) > self.regions.1 {
            return Err(RunError::OtherEngine);
        }
        // SAFETY: the guard holds a vCPU of this engine's set, and the context is of the program's kind.
        unsafe { self.run_held(guard.base(), ctx) }
    }

    /// # Safety
    /// This thread holds the vCPU with this base, of the engine's set, and `ctx` is of the program's kind.
    #[inline(always)]
    unsafe fn run_held<C: Context>(&self, base: NonNull<u8>, ctx: &mut C) -> Result<u64, RunError> {
        // Acquire: the version is whole before it is seen. The load comes after the guard's mark, so that a grace period
        // that begins after an exchange waits for every run that loaded the old word.
        let entry = self.entry.load(Ordering::Acquire);
        if entry == 0 {
            // SAFETY: the caller's duties, passed on.
            return unsafe { self.run_framed(base, ctx) }.map_err(|error| *error);
        }
        // SAFETY: the entry of a version that is released a grace period after it left; the rest is the caller's duty.
        Ok(unsafe { enter_code(entry, base, ctx.parts()) })
    }

    /// # Safety
    /// As for [`Self::run_held`].
    #[inline(never)]
    unsafe fn run_framed<C: Context>(&self, base: NonNull<u8>, ctx: &mut C) -> Result<u64, Box<RunError>> {
        let version = self.current.load(Ordering::Acquire);
        // SAFETY: a version is released a grace period after it left; this run is marked since before the load.
        let version = unsafe { &*version };
        // SAFETY: the caller's duties, passed on.
        unsafe { version.run_framed(base, ctx.parts()) }.map_err(Box::new)
    }

    pub(super) fn run_limited<C: Context>(
        &self,
        ctx: &mut C,
        budget: u64,
        witness: Witness<'_>,
    ) -> Result<u64, RunError> {
        if C::TYPE != self.ctx_type {
            return Err(*self.wrong_context());
        }
        let guard = self.cpus.enter()?;
        self.current().run_limited(guard.base(), ctx.parts(), budget, witness)
    }

    #[cold]
    #[inline(never)]
    fn wrong_context(&self) -> Box<RunError> {
        let program = self.name.to_string();
        Box::new(match self.ctx_type {
            CtxType::Function => RunError::Extension { program },
            _ => RunError::WrongContext { program },
        })
    }

    pub(super) fn engine(&self) -> &Arc<EngineState> {
        &self.engine
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn prog_type(&self) -> ProgType {
        self.prog_type
    }

    pub(super) fn attach_type(&self) -> AttachType {
        self.attach_type
    }

    pub(super) fn ctx_type(&self) -> CtxType {
        self.ctx_type
    }

    /// The version that runs now.
    pub(super) fn current(&self) -> Arc<ProgInner> {
        let _exchanging = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: the place owns a reference, which no exchange takes away while the lock is held.
        unsafe { Arc::increment_strong_count(current) };
        // SAFETY: the count was raised for this one.
        unsafe { Arc::from_raw(current) }
    }

    pub(super) fn replace(self: &Arc<Self>, with: Arc<ProgInner>) -> Result<Retired, ReplaceError> {
        self.check(&with)?;
        with.runs_at(self);
        let _exchanging = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = with.bare_entry();
        let old = self.current.swap(Arc::into_raw(with).cast_mut(), Ordering::AcqRel);
        // Last: until here a run without a frame is one of the old version, and each run behind it one of the new.
        self.entry.store(entry, Ordering::Release);
        // SAFETY: the pointer came from `Arc::into_raw`, and the place owned it until the exchange.
        let old = unsafe { Arc::from_raw(old) };
        Ok(Retired { version: Some(old), cpus: self.cpus.clone() })
    }

    fn check(&self, with: &ProgInner) -> Result<(), ReplaceError> {
        let program = || with.parts.name.clone();
        if !with.engine.cpus.is_same(&self.cpus) {
            return Err(ReplaceError::OtherEngine { program: program() });
        }
        if with.ctx_type != self.ctx_type {
            return Err(ReplaceError::WrongContext { program: program() });
        }
        let shown = |prog: ProgType, attach: AttachType| format!("{prog} ({attach:?})");
        if (with.parts.prog_type, with.parts.attach_type) != (self.prog_type, self.attach_type) {
            return Err(ReplaceError::WrongType {
                program: program(),
                found: shown(with.parts.prog_type, with.parts.attach_type),
                wanted: shown(self.prog_type, self.attach_type),
            });
        }
        Ok(())
    }
}

/// A version that was replaced. Dropping it releases the version after a grace period.
#[must_use = "call `drained` to wait until no thread is inside the old version"]
pub struct Retired {
    version: Option<Arc<ProgInner>>,
    cpus: CpuSet,
}

impl std::fmt::Debug for Retired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.version.as_ref().map(|version| version.parts.id);
        f.debug_struct("Retired").field("id", &id).finish_non_exhaustive()
    }
}

impl Retired {
    /// The number that the version had.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.version.as_ref().map_or(0, |version| version.parts.id)
    }

    /// Waits until no thread is inside the version any more (in a run that started before the exchange); then it is a
    /// program of its own, which can be put back.
    ///
    /// # Errors
    /// Called from inside a run, which would wait for itself; then the version is released later.
    pub fn drained(mut self) -> Result<Program, SyncError> {
        self.cpus.synchronize()?;
        let version = self.version.take().ok_or(SyncError::InsideRun)?;
        Ok(Program(Place::new(version)))
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(version) = self.version.take() {
            self.cpus.defer(Box::new(move || drop(version)));
        }
    }
}
