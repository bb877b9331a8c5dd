//! Extension programs: replacing one function of a loaded program while threads run it.
//!
//! Owns the way from an object with a `SEC("freplace/function")` program to a function that is replaced. Invariant: an
//! extension is attached only where it was verified for, and a failure leaves what ran. Counterpart:
//! `bpf_program__set_attach_target` and `bpf_program__attach_freplace`, libbpf 1.x.

use std::fmt;
use std::sync::Arc;

use skep_abi::{Errno, ProgType};
use skep_runtime::extension as runtime;

use crate::error::LoadError;
use crate::load::{self, LoadOptions};
use crate::loaded::{Loaded, NotFound};
use crate::object::Object;
use crate::program::{Program, Source, source_of};
use crate::version::Version;

/// The function that an extension program is verified for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The program that it is in: the version that ran when it was found, whatever takes its place later.
    pub(crate) program: skep_runtime::Program,
    /// Its number among the program's functions.
    pub(crate) function: usize,
}

impl Target {
    /// The function of this name.
    fn find(program: &skep_runtime::Program, function: &str) -> Result<Self, NotFound> {
        let program = program.pinned();
        let position = program.xlated().subprogs.iter().position(|sub| sub.name == function && sub.type_id != 0);
        match position {
            Some(function) => Ok(Self { program, function }),
            None => {
                Err(NotFound { what: "function", name: function.to_owned(), known: replaceable_functions(&program) })
            }
        }
    }

    /// The function with this id in the program's own types.
    pub(crate) fn by_id(program: &skep_runtime::Program, id: u32) -> Option<Self> {
        let program = program.pinned();
        let position = program.xlated().subprogs.iter().position(|sub| sub.type_id == id && id != 0);
        position.map(|function| Self { program, function })
    }

    /// What the program was made from.
    pub(crate) fn source(&self) -> Arc<Source> {
        source_of(&self.program)
    }
}

/// Puts an extension program in the place of the function that it was loaded for, which is the second.
pub(crate) fn attach(program: &skep_runtime::Program) -> Result<(runtime::Extension, Target), ExtendError> {
    let not_extension = || ExtendError::NotExtension { program: program.name().to_owned() };
    let target = source_of(program).target.clone().ok_or_else(not_extension)?;
    Ok((target.program.replace_function(target.function, program)?, target))
}

fn replaceable_functions(program: &skep_runtime::Program) -> Vec<String> {
    program.xlated().subprogs.iter().filter(|sub| sub.replaceable).map(|sub| sub.name.clone()).collect()
}

/// Why a function is not replaced. What ran goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The extension does not load: it is refused for this function, for example.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program, the function, or a map to adopt does not exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The object has several extension programs, or none, and none was named.
    #[error("which program replaces it? the object has {}", if known.is_empty() { "none in SEC(\"freplace\")".to_owned() } else { known.join(", ") })]
    WhichProgram {
        /// Its extension programs.
        known: Vec<String>,
    },
    /// The program is no extension.
    #[error("program '{program}' is not in SEC(\"freplace\"): it replaces no function")]
    NotExtension {
        /// The program.
        program: String,
    },
    /// The function cannot be replaced, or not now.
    #[error(transparent)]
    Attach(#[from] runtime::ExtendError),
}

impl ExtendError {
    /// The errno that the kernel gives for the same.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Load(error) => error.errno(),
            Self::NotFound(_) => Errno::ESRCH,
            Self::WhichProgram { .. } | Self::NotExtension { .. } => Errno::EINVAL,
            Self::Attach(error) => error.errno(),
        }
    }
}

/// An extension program in the place of a function. Dropping it puts the function back.
///
/// The extension is loaded like any other object, with maps of its own or with maps of the program that it extends.
#[must_use = "the function is put back when this is dropped"]
pub struct Replacement {
    link: runtime::Extension,
    target: Target,
    program: Program,
    loaded: Option<Loaded>,
}

impl fmt::Debug for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Replacement");
        shown.field("target", &self.target.program).field("function", &self.function()).field("program", &self.program);
        shown.finish_non_exhaustive()
    }
}

impl Replacement {
    /// The extension program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The program whose function is replaced.
    #[must_use]
    pub fn target(&self) -> &skep_runtime::Program {
        &self.target.program
    }

    /// The name of the function.
    #[must_use]
    pub fn function(&self) -> String {
        let subprogs = &self.target.program.xlated().subprogs;
        subprogs.get(self.target.function).map_or_else(String::new, |sub| sub.name.clone())
    }

    /// The object that the extension came from, where [`Loaded::replace_function`] loaded it.
    #[must_use]
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.as_ref()
    }

    /// Puts the function back, and waits until no thread is inside the extension any more.
    ///
    /// # Errors
    /// The code could not be changed: the extension stays in place. Or this was called from inside a run: the function is
    /// back, and the extension is released later.
    pub fn detach(self) -> Result<(), runtime::ExtendError> {
        self.link.detach()
    }
}

impl Object {
    /// Says which function of which loaded program an extension program (`SEC("freplace")`) takes the place of: what it is
    /// verified for when the object is loaded. `function` is the one that the section names, if `None`.
    ///
    /// ```
    /// use skep::{Engine, Object, Xdp, XdpAction};
    ///
    /// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/");
    /// let engine = Engine::new()?;
    /// let policy = engine.load(Object::open(format!("{folder}policy.bpf.o"))?)?;
    /// let mut object = Object::open(format!("{folder}policy_strict.bpf.o"))?;
    /// object.set_attach_target("strict", &policy.program("filter")?, None)?;
    /// let strict = engine.load(object)?;
    ///
    /// let filter = policy.program("filter")?;
    /// assert_eq!(filter.test_run(Xdp::packet(&[0; 64]))?.action(), XdpAction::Pass);
    /// let link = strict.program("strict")?.attach_replacement()?;
    /// assert_eq!(filter.test_run(Xdp::packet(&[0; 64]))?.action(), XdpAction::Drop);
    /// link.detach()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// There is no such program or function, or the program is no extension.
    pub fn set_attach_target(
        &mut self,
        program: &str,
        target: &impl AsRef<skep_runtime::Program>,
        function: Option<&str>,
    ) -> Result<(), ExtendError> {
        let Some(spec) = self.programs().iter().find(|spec| spec.name == program) else {
            let known = self.programs().iter().map(|spec| spec.name.clone()).collect();
            return Err(NotFound { what: "program", name: program.to_owned(), known }.into());
        };
        let Some(sec) = spec.sec.as_ref().filter(|sec| sec.prog_type == ProgType::Ext) else {
            return Err(ExtendError::NotExtension { program: program.to_owned() });
        };
        let named = function.or(sec.target.as_deref()).unwrap_or("").to_owned();
        self.add_target(program, Target::find(target.as_ref(), &named)?);
        Ok(())
    }
}

impl Program {
    /// Puts this extension program in the place of the function that it was loaded for: runs that start from now on call it.
    ///
    /// # Errors
    /// The program is no extension; the function has a replacement already; its program is in a prog array, or its code
    /// cannot be changed. What ran goes on.
    pub fn attach_replacement(&self) -> Result<Replacement, ExtendError> {
        let (link, target) = attach(self.runtime())?;
        Ok(Replacement { link, target, program: self.clone(), loaded: None })
    }

    /// What this extension program was loaded for: a program, and the name of its function.
    #[must_use]
    pub fn replaces(&self) -> Option<(skep_runtime::Program, String)> {
        let target = source_of(self.runtime()).target.clone()?;
        let function = target.program.xlated().subprogs.get(target.function).map(|sub| sub.name.clone())?;
        Some((target.program, function))
    }

    /// Names of the functions that an extension program can take the place of, the program itself among them.
    #[must_use]
    pub fn replaceable_functions(&self) -> Vec<String> {
        replaceable_functions(self)
    }
}

impl Loaded {
    /// Loads an extension (an object with a `SEC("freplace")` program) and puts it in the place of a function of one of this
    /// object's programs, while threads run it. Maps that the version adopts are this object's. The function is one of the version
    /// of the program that runs now: a program that replaces it has functions of its own. Where the object has several
    /// extension programs, [`Object::entry`] names one, and those without a target of their own are not loaded.
    ///
    /// ```
    /// use skep::{Engine, Object, Xdp, XdpAction};
    ///
    /// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/");
    /// let engine = Engine::new()?;
    /// let policy = engine.load(Object::open(format!("{folder}policy.bpf.o"))?)?;
    /// let filter = policy.program("filter")?;
    /// assert_eq!(filter.test_run(Xdp::packet(&[0; 64]))?.action(), XdpAction::Pass);
    ///
    /// let strict = Object::open(format!("{folder}policy_strict.bpf.o"))?.adopt_maps(&[".percpu"])?;
    /// let link = policy.replace_function("filter", "decide", strict)?;
    /// assert_eq!(filter.test_run(Xdp::packet(&[0; 64]))?.action(), XdpAction::Drop);
    ///
    /// drop(link); // the old function is back
    /// assert_eq!(filter.test_run(Xdp::packet(&[0; 64]))?.action(), XdpAction::Pass);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// There is no such function; the extension is refused for it; it has a replacement already; the program is in a prog
    /// array; the code cannot be changed. What ran goes on.
    pub fn replace_function(
        &self,
        program: &str,
        function: &str,
        with: impl Into<Version>,
    ) -> Result<Replacement, ExtendError> {
        let version = with.into();
        let target = self.program(program)?;
        let extensions = || {
            let of_type = |sec: &skep_object::Sec| sec.prog_type == ProgType::Ext;
            version.object.programs().iter().filter(move |spec| spec.sec.as_ref().is_some_and(of_type))
        };
        let name = match &version.program {
            Some(name) => name.clone(),
            None if extensions().count() == 1 => extensions().map(|spec| spec.name.clone()).collect(),
            None => return Err(ExtendError::WhichProgram { known: extensions().map(|p| p.name.clone()).collect() }),
        };
        let mut object = version.object.clone();
        object.set_attach_target(&name, &target, Some(function))?;
        object.leave_out_untargeted();
        let mut options = LoadOptions::default();
        for map in &version.adopt {
            options = options.reuse_map(map, &self.raw_map(map)?);
        }
        let loaded = load::load(self.engine(), object, &options)?;
        let link = loaded.program(&name)?.attach_replacement()?;
        Ok(Replacement { loaded: Some(loaded), ..link })
    }
}
