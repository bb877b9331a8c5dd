//! A place that a program runs in and can be exchanged at while threads run it.
//!
//! A [`Slot`] holds one pointer to a program. A run loads it once, inside its grace-period mark, and so uses one version from
//! entry to exit. Invariant: the old version is released no earlier than a grace period after the exchange. Kernel
//! counterpart: `bpf_xdp_link_update`, net/core/dev.c; `BPF_LINK_UPDATE`, 6.18.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use skep_sync::{CpuGuard, CpuSet, SyncError};
use thiserror::Error;

use crate::ctx::{Context, CtxType};
use crate::program::{ProgInner, Program, RunError};

/// Why a program cannot be put into a slot. The slot keeps what it had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SlotError {
    /// It runs on another context than the slot's programs.
    #[error("program {program} does not take the context of this slot")]
    WrongContext {
        /// The program.
        program: String,
    },
    /// It was loaded into another engine.
    #[error("program {program} belongs to another engine")]
    OtherEngine {
        /// The program.
        program: String,
    },
}

struct Shared {
    current: AtomicPtr<ProgInner>,
    ctx_type: CtxType,
    cpus: CpuSet,
    /// One exchange at a time, so that versions retire in the order in which they ran.
    swapping: Mutex<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last handle is gone, so no run can begin; one that is in progress borrows a handle.
        // SAFETY: the pointer came from `Arc::into_raw`, and this is its only owner.
        drop(unsafe { Arc::from_raw(*self.current.get_mut()) });
    }
}

/// A place for programs that run on contexts of type `C`. Clones are the same place.
pub struct Slot<C> {
    shared: Arc<Shared>,
    _ctx: PhantomData<fn(&mut C)>,
}

impl<C> Clone for Slot<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _ctx: PhantomData }
    }
}

impl<C> fmt::Debug for Slot<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("ctx_type", &self.shared.ctx_type).finish_non_exhaustive()
    }
}

impl<C: Context> Slot<C> {
    /// A place with a first program.
    ///
    /// # Errors
    /// The program runs on another context than `C`.
    pub fn new(program: &Program) -> Result<Self, SlotError> {
        if C::TYPE != program.ctx_type() {
            return Err(SlotError::WrongContext { program: program.name().to_owned() });
        }
        let current = Arc::into_raw(Arc::clone(program.inner())).cast_mut();
        let shared = Shared {
            current: AtomicPtr::new(current),
            ctx_type: program.ctx_type(),
            cpus: program.engine().cpus().clone(),
            swapping: Mutex::new(()),
        };
        Ok(Self { shared: Arc::new(shared), _ctx: PhantomData })
    }

    /// Runs the current version once; r0 as it left it.
    ///
    /// # Errors
    /// The context is of another kind, no vCPU is to be had, or the interpreter found a fault.
    #[inline]
    pub fn run(&self, ctx: &mut C) -> Result<u64, RunError> {
        let guard = self.shared.cpus.enter()?;
        self.run_on(&guard, ctx)
    }

    /// As [`Slot::run`], on a vCPU that this thread holds.
    ///
    /// # Errors
    /// As for [`Slot::run`], or the guard is another engine's.
    #[inline]
    pub fn run_on(&self, guard: &CpuGuard<'_>, ctx: &mut C) -> Result<u64, RunError> {
        // Acquire: the version is whole before it is seen. The load comes after the guard's mark, so that a grace period
        // that begins after an exchange waits for every run that loaded the old version.
        let program = self.shared.current.load(Ordering::Acquire);
        // SAFETY: a version is released a grace period after it left the slot; this run is marked since before the load.
        let program = unsafe { &*program };
        program.run_on(guard, ctx)
    }

    /// The current version.
    #[must_use]
    pub fn program(&self) -> Program {
        let _swapping = self.shared.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.current.load(Ordering::Acquire);
        // SAFETY: the slot owns a reference, which no exchange takes away while the lock is held.
        unsafe { Arc::increment_strong_count(current) };
        // SAFETY: the count was raised for this one.
        Program::from_inner(unsafe { Arc::from_raw(current) })
    }

    /// Puts in another version: runs that start from now on use it, those in progress end with the old one.
    ///
    /// # Errors
    /// The program does not fit; the slot keeps what it had.
    pub fn swap(&self, program: &Program) -> Result<Retired, SlotError> {
        let name = || program.name().to_owned();
        if program.ctx_type() != self.shared.ctx_type {
            return Err(SlotError::WrongContext { program: name() });
        }
        if !program.engine().cpus().is_same(&self.shared.cpus) {
            return Err(SlotError::OtherEngine { program: name() });
        }
        let _swapping = self.shared.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::into_raw(Arc::clone(program.inner())).cast_mut();
        let old = self.shared.current.swap(new, Ordering::AcqRel);
        // SAFETY: the pointer came from `Arc::into_raw`, and the slot owned it until the exchange.
        let old = unsafe { Arc::from_raw(old) };
        Ok(Retired { program: Some(Program::from_inner(old)), cpus: self.shared.cpus.clone() })
    }
}

/// A version that left its slot. Dropping it releases the version after a grace period.
#[derive(Debug)]
pub struct Retired {
    program: Option<Program>,
    cpus: CpuSet,
}

impl Retired {
    /// The version, which can be put back.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Waits until no thread is inside the version any more (in a run that started before the exchange).
    ///
    /// # Errors
    /// Called from inside a run, which would wait for itself; then the version is released later.
    pub fn drained(self) -> Result<Program, SyncError> {
        self.cpus.synchronize()?;
        let mut this = self;
        this.program.take().ok_or(SyncError::InsideRun)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(program) = self.program.take() {
            self.cpus.defer(Box::new(move || drop(program)));
        }
    }
}
