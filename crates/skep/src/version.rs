//! Versions: what takes the place of something that runs.
//!
//! A version is everything that its object makes, the prog arrays with its tail-call targets included, and the maps that it
//! takes over from the one before. Invariant: a version that does not load leaves nothing behind, and a version that was
//! replaced is taken apart a grace period later. Kernel counterpart: `bpf_link_update`, kernel/bpf/syscall.c, 6.18, which
//! exchanges one program and none of its targets.

use skep_runtime::inject::{Mistake, made};
use skep_sync::SyncError;

use crate::engine::Engine;
use crate::error::LoadError;
use crate::load::LoadOptions;
use crate::loaded::{Loaded, NotFound};
use crate::object::Object;
use crate::program::Program;

/// A version of what runs: an object, its entry program, and the maps that it takes over.
#[derive(Clone, Debug)]
pub struct Version {
    pub(crate) object: Object,
    pub(crate) program: Option<String>,
    pub(crate) adopt: Vec<String>,
}

impl Version {
    /// Enters at this program; needed where the object loads several and none has the name of the one before.
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

    /// The name of the program to enter at: the one that was chosen, the one that has the name of `before`, or the only one.
    fn entry(&self, before: Option<&str>) -> Result<String, SlotError> {
        if let Some(name) = &self.program {
            return Ok(name.clone());
        }
        let known: Vec<String> =
            self.object.programs().iter().filter(|p| p.autoload).map(|program| program.name.clone()).collect();
        match (before.filter(|before| known.iter().any(|name| name == before)), known.as_slice()) {
            (Some(same), _) => Ok(same.to_owned()),
            (None, [only]) => Ok(only.clone()),
            _ => Err(SlotError::WhichProgram { known }),
        }
    }

    /// Loads the object, with the maps to adopt from the first of `before` that has them.
    pub(crate) fn load(
        &self,
        engine: &Engine,
        name: Option<&str>,
        before: &[&Loaded],
    ) -> Result<(Loaded, Program), SlotError> {
        let entry = self.entry(name)?;
        let mut options = LoadOptions::default();
        for name in &self.adopt {
            let mut map = Err(NotFound { what: "map to adopt", name: name.clone(), known: Vec::new() });
            for before in before {
                map = map.or_else(|_| before.raw_map(name));
            }
            options = options.reuse_map(name, &map?);
        }
        let loaded = crate::load::load(engine, self.object.clone(), &options)?;
        let program = loaded.program(&entry)?;
        Ok((loaded, program))
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

/// Why a version does not get into a slot, or into a program's place. What was running goes on.
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
    /// The program is of another kind than the one that runs.
    #[error(transparent)]
    Program(#[from] skep_runtime::ReplaceError),
}

/// A version that was replaced. Dropping it takes the version apart after a grace period.
#[derive(Debug)]
#[must_use = "call `drained` to wait until no thread is inside the old version"]
pub struct Retired {
    parts: Option<(skep_runtime::Retired, Loaded)>,
    engine: Engine,
}

impl Retired {
    /// `version` was of the object `loaded`.
    pub(crate) fn new(version: skep_runtime::Retired, loaded: Loaded, engine: Engine) -> Self {
        Self { parts: Some((version, loaded)), engine }
    }

    /// Waits until no thread is inside the version any more; its object, whose maps can still be read.
    ///
    /// # Errors
    /// Called from inside a run, which would wait for itself; then the version is taken apart later.
    pub fn drained(mut self) -> Result<Loaded, SyncError> {
        if !made(Mistake::RetiredAtOnce) {
            self.engine.cpus().synchronize()?;
        }
        // The parts are there until this value is dropped.
        let (version, loaded) = self.parts.take().ok_or(SyncError::InsideRun)?;
        drop(version);
        Ok(loaded)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take().filter(|_| !made(Mistake::RetiredAtOnce)) {
            // Prog arrays let go of their targets with their last user, which runs of the old version must not see.
            self.engine.cpus().defer(Box::new(move || drop(parts)));
        }
    }
}
