//! A program of a loaded object: to run, to ask, to replace while it runs.
//!
//! Owns the link from a program to its object. Invariant: a replacement that fails leaves the old version running, and the
//! object's prog arrays name the version that runs.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};

use skep_btf::Btf;

use crate::code::Code;
use crate::engine::Context;
use crate::extension::Target;
use crate::loaded::Loaded;
use crate::version::{Retired, SlotError, Version};

/// A handle of a program of a loaded object, which stays loaded as long as the handle. Clones are handles of the same
/// program.
///
/// It is the runtime's [`Program`](skep_runtime::Program), to run and to ask, plus the listing of its code, and its
/// replacement by another version.
///
/// ```
/// use skep::{Engine, Object, Xdp};
///
/// let open = || Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o"));
/// let firewall = Engine::new()?.load(open()?)?;
/// let program = firewall.program("firewall")?;
/// let mut packet = Xdp::packet(&[0; 64]).build()?;
/// program.run(&mut packet)?; // and on other threads meanwhile
///
/// let stricter = open()?.set_rodata("drop_fragments", 0u8)?;
/// let old = program.replace(stricter.adopt_maps(&["verdicts"])?)?;
/// old.drained()?; // no thread is inside the old version any more
/// program.run(&mut packet)?;
/// assert_eq!(firewall.map::<u32, u64>("verdicts")?.sum_cpus(&0)?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Program {
    inner: skep_runtime::Program,
    home: Loaded,
    /// Which of the object's programs it is.
    index: usize,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// What a version of a program was made from, as far as extensions of it need it.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The object's types.
    pub(crate) btf: Option<Arc<Btf>>,
    /// The embedder's context that it runs on.
    pub(crate) context: Option<Context>,
    /// Of an extension: the function that it was verified for.
    pub(crate) target: Option<Target>,
}

/// What the current version of a program was made from.
pub(crate) fn source_of(program: &skep_runtime::Program) -> Arc<Source> {
    program.attached().unwrap_or_default()
}

impl Program {
    pub(crate) fn new(inner: skep_runtime::Program, home: Loaded, index: usize) -> Self {
        Self { inner, home, index }
    }

    /// The machine code of its current version with lines and functions; `None` when it is interpreted.
    #[must_use]
    pub fn listing(&self) -> Option<Code> {
        self.inner.attached()
    }

    /// The loaded object that its current version came from: the one that it was asked of, until it is replaced.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        let behind = self.home.behind(self.index).map(|behind| behind.lock().unwrap_or_else(PoisonError::into_inner));
        behind.and_then(|behind| behind.clone()).unwrap_or_else(|| self.home.clone())
    }

    /// Loads another version and puts it in this program's place: runs that start from now on, through any handle, and tail
    /// calls through the prog arrays of the program's object use it; runs in progress end with the old one.
    ///
    /// The version is a whole object with maps of its own, except for those that it adopts, by name, from the version before
    /// or from the object that this program was loaded with. Its entry is the program of the same name unless another was
    /// chosen. Each entry into the program is of one version; who needs all programs of a chain to change at once takes a
    /// [`Slot`](crate::Slot).
    ///
    /// # Errors
    /// The version does not load, or its program is of another type; the old one goes on.
    pub fn replace(&self, version: impl Into<Version>) -> Result<Retired, SlotError> {
        let version = version.into();
        let engine = self.home.engine();
        let Some(behind) = self.home.behind(self.index) else {
            return Err(SlotError::WhichProgram { known: Vec::new() });
        };
        let mut behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
        let before = behind.as_ref().unwrap_or(&self.home);
        let (loaded, program) = version.load(engine, Some(self.name()), &[before, &self.home])?;
        let old = self.inner.replace(program.runtime())?;
        self.home.replace_in_arrays(old.id(), &program.to_callee());
        let before = behind.replace(loaded).unwrap_or_else(|| self.home.clone());
        Ok(Retired::new(old, before, engine.clone()))
    }

    pub(crate) fn runtime(&self) -> &skep_runtime::Program {
        &self.inner
    }
}

impl AsRef<skep_runtime::Program> for Program {
    fn as_ref(&self) -> &skep_runtime::Program {
        &self.inner
    }
}

impl Deref for Program {
    type Target = skep_runtime::Program;

    fn deref(&self) -> &skep_runtime::Program {
        &self.inner
    }
}
