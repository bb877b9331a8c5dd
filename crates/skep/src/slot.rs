//! Replacing what threads run, object by object.
//!
//! A [`Slot`] runs the entry program of one loaded object; [`Slot::swap`] loads another version and exchanges the two: a run
//! sees one version from its first instruction to its last tail call. Invariant: a swap that fails leaves the old version
//! running. Kernel counterpart: `bpf_link_update`, kernel/bpf/syscall.c, 6.18.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use skep_runtime::ctx::Context;
use skep_runtime::inject::{Mistake, made};
use skep_runtime::{ProgStats, ReplaceError, RunError};
use skep_sync::CpuGuard;

use crate::engine::Engine;
use crate::loaded::Loaded;
use crate::version::{Retired, SlotError, Version};

/// A place where threads run a program that can be replaced under them. Clones are the same place.
///
/// ```
/// use skep::{Engine, Object, Xdp, XdpBuff};
///
/// let open = || Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o"));
/// let engine = Engine::new()?;
/// let slot: skep::Slot<XdpBuff> = engine.slot(open()?)?;
/// let mut packet = Xdp::packet(&[0; 64]).build()?;
/// slot.run(&mut packet)?;
///
/// let stricter = open()?.set_rodata("drop_fragments", 0u8)?;
/// let old = slot.swap(stricter.adopt_maps(&["verdicts"])?)?;
/// old.drained()?; // no thread is inside the old version any more
/// slot.run(&mut packet)?;
/// assert_eq!(slot.current().map::<u32, u64>("verdicts")?.sum_cpus(&0)?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Slot<C> {
    runs: skep_runtime::Program,
    shared: Arc<Shared>,
    _ctx: PhantomData<fn(&mut C)>,
}

struct Shared {
    engine: Engine,
    current: Mutex<Loaded>,
}

impl<C> Clone for Slot<C> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), shared: Arc::clone(&self.shared), _ctx: PhantomData }
    }
}

impl<C> fmt::Debug for Slot<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("runs", &self.runs).finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a first version and makes a place for it.
    ///
    /// # Errors
    /// It does not load, or its program does not run on a `C`.
    pub fn slot<C: Context>(&self, version: impl Into<Version>) -> Result<Slot<C>, SlotError> {
        let (loaded, program) = version.into().load(self, None, &[])?;
        if program.ctx_type() != C::TYPE {
            return Err(ReplaceError::WrongContext { program: program.name().to_owned() }.into());
        }
        let shared = Shared { engine: self.clone(), current: Mutex::new(loaded) };
        Ok(Slot { runs: program.runtime().clone(), shared: Arc::new(shared), _ctx: PhantomData })
    }
}

impl<C: Context> Slot<C> {
    /// Runs the current version once; r0 as it left it.
    ///
    /// # Errors
    /// No vCPU is to be had, or the interpreter found a fault.
    #[inline]
    pub fn run(&self, ctx: &mut C) -> Result<u64, RunError> {
        self.runs.run(ctx)
    }

    /// As [`Slot::run`], on a vCPU that this thread holds.
    ///
    /// # Errors
    /// As for [`Slot::run`], or the guard is another engine's.
    #[inline]
    pub fn run_on(&self, guard: &CpuGuard<'_>, ctx: &mut C) -> Result<u64, RunError> {
        self.runs.run_on(guard, ctx)
    }

    /// Loads another version and puts it in: runs that start from now on use it, those in progress end with the old one.
    ///
    /// # Errors
    /// The version does not load or does not fit; the old one goes on.
    pub fn swap(&self, version: impl Into<Version>) -> Result<Retired, SlotError> {
        let engine = &self.shared.engine;
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (loaded, program) = version.into().load(engine, Some(self.runs.name()), &[&current])?;
        if made(Mistake::SlotBySlot) {
            for (old, new) in current.programs().zip(loaded.programs()) {
                current.replace_in_arrays(old.id(), &new.to_callee());
            }
        }
        let old = self.runs.replace(program.runtime())?;
        Ok(Retired::new(old, std::mem::replace(&mut *current, loaded), engine.clone()))
    }

    /// The loaded object that runs now.
    #[must_use]
    pub fn current(&self) -> Loaded {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs and time of the current version while statistics were on.
    #[must_use]
    pub fn stats(&self) -> ProgStats {
        self.runs.stats()
    }
}
