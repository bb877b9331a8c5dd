//! Replacing a loaded object while threads run its program.
//!
//! A [`Slot`] runs the entry program of one loaded object; [`Slot::swap`] loads another version and exchanges the two.
//! Maps may be adopted, so that what they hold goes on. A version is everything that its object made, the prog arrays with
//! its tail-call targets included: a run sees one version from its first instruction to its last tail call. Invariant: a
//! swap that fails leaves the old version running, and an old version is taken apart a grace period after it left.
//! Kernel counterpart: `bpf_link_update`, kernel/bpf/syscall.c, 6.18, which exchanges one program and none of its targets.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use skep_runtime::ctx::Context;
use skep_runtime::slot as runtime;
use skep_runtime::{ProgStats, RunError};
use skep_sync::{CpuGuard, SyncError};

use crate::engine::Engine;
use crate::error::LoadError;
use crate::load::Adopted;
use crate::loaded::{Loaded, NotFound};
use crate::object::Object;
use crate::program::Program;

/// A version of what a slot runs: an object, its entry program, and the maps that it takes over.
#[derive(Clone, Debug)]
pub struct Version {
    object: Object,
    program: Option<String>,
    adopt: Vec<String>,
}

impl Version {
    /// Enters at this program; needed where the object loads more than one.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.program = Some(name.to_owned());
        self
    }

    /// Takes these maps over from the version before, with what they hold, instead of making new ones.
    ///
    /// # Errors
    /// The object has no such map.
    pub fn adopt_maps(mut self, names: &[&str]) -> Result<Self, NotFound> {
        for name in names {
            if !self.object.maps().iter().any(|map| map.name == *name) {
                return Err(NotFound {
                    what: "map",
                    name: (*name).to_owned(),
                    known: self.object.maps().iter().map(|map| map.name.clone()).collect(),
                });
            }
            self.adopt.push((*name).to_owned());
        }
        Ok(self)
    }

    /// The name of the program to enter at.
    fn entry(&self) -> Result<String, SlotError> {
        let loaded = || self.object.programs().iter().filter(|program| program.autoload);
        match &self.program {
            Some(name) => Ok(name.clone()),
            None if loaded().count() == 1 => Ok(loaded().map(|program| program.name.clone()).collect()),
            None => Err(SlotError::WhichProgram { known: loaded().map(|program| program.name.clone()).collect() }),
        }
    }
}

impl From<Object> for Version {
    fn from(object: Object) -> Self {
        Self { object, program: None, adopt: Vec::new() }
    }
}

impl Object {
    /// The object as a version whose entry is this program.
    #[must_use]
    pub fn entry(self, program: &str) -> Version {
        Version::from(self).program(program)
    }

    /// The object as a version that takes these maps over from the one that it replaces.
    ///
    /// # Errors
    /// The object has no such map.
    pub fn adopt_maps(self, names: &[&str]) -> Result<Version, NotFound> {
        Version::from(self).adopt_maps(names)
    }
}

/// Why a version does not get into a slot. What was running goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// It does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its entry program, or a map to adopt, does not exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The object loads several programs, or none, and no entry was named.
    #[error("which program runs? the object loads {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    WhichProgram {
        /// The programs that it loads.
        known: Vec<String>,
    },
    /// The program runs on another context than the slot's.
    #[error(transparent)]
    Program(#[from] runtime::SlotError),
}

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
    runs: runtime::Slot<C>,
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    current: Mutex<Loaded>,
}

impl<C> Clone for Slot<C> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), shared: Arc::clone(&self.shared) }
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
        let (loaded, program) = load(self, &version.into(), None)?;
        let runs = runtime::Slot::new(&program)?;
        let shared = Shared { engine: self.clone(), current: Mutex::new(loaded) };
        Ok(Slot { runs, shared: Arc::new(shared) })
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
        let version = version.into();
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (loaded, program) = load(&self.shared.engine, &version, Some(&current))?;
        let program = self.runs.swap(&program)?;
        let loaded = std::mem::replace(&mut *current, loaded);
        Ok(Retired { parts: Some((program, loaded)), engine: self.shared.engine.clone() })
    }

    /// The loaded object that runs now.
    #[must_use]
    pub fn current(&self) -> Loaded {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs and time of the current version while statistics were on.
    #[must_use]
    pub fn stats(&self) -> ProgStats {
        self.runs.program().stats()
    }
}

/// Loads a version, with maps of the one before.
fn load(engine: &Engine, version: &Version, before: Option<&Loaded>) -> Result<(Loaded, Program), SlotError> {
    let entry = version.entry()?;
    let mut adopted = Adopted::default();
    for name in &version.adopt {
        let map = match before {
            Some(before) => before.raw_map(name)?,
            None => return Err(NotFound { what: "map to adopt", name: name.clone(), known: Vec::new() }.into()),
        };
        adopted.maps.push((name.clone(), map));
    }
    let loaded = crate::load::load(engine, version.object.clone(), &adopted)?;
    let program = loaded.program(&entry)?;
    Ok((loaded, program))
}

/// A version that left its slot. Dropping it takes the version apart after a grace period.
#[derive(Debug)]
#[must_use = "call `drained` to wait until no thread is inside the old version"]
pub struct Retired {
    parts: Option<(runtime::Retired, Loaded)>,
    engine: Engine,
}

impl Retired {
    /// Waits until no thread is inside the version any more; its object, whose maps can still be read.
    ///
    /// # Errors
    /// Called from inside a run, which would wait for itself; then the version is taken apart later.
    pub fn drained(mut self) -> Result<Loaded, SyncError> {
        self.engine.cpus().synchronize()?;
        // The parts are there until this value is dropped.
        self.parts.take().map(|(_, loaded)| loaded).ok_or(SyncError::InsideRun)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // Prog arrays let go of their targets with their last user, which runs of the old version must not see.
            self.engine.cpus().defer(Box::new(move || drop(parts)));
        }
    }
}
