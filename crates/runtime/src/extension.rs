//! Putting an extension program in the place of a function of a loaded program, while threads run it.
//!
//! [`Program::replace_function`] changes where a function's start leads: in compiled code a patch site becomes a jump, in
//! the interpreter a word names the extension. A run that is inside the old function ends in it; calls that begin after the
//! change returned go to the new one. Invariant: an extension is released no earlier than a grace period after the last
//! call could have found it. As in the kernel, a program whose function is replaced is no tail callee, and a tail callee
//! has no function replaced: a tail call back into the caller could else go on for ever there. Kernel counterpart:
//! `bpf_extension_link_prog`, kernel/bpf/trampoline.c; `prog_fd_array_get_ptr`, kernel/bpf/arraymap.c, 6.18.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_abi::{Errno, ProgType};
use skep_sync::SyncError;
use skep_text::{CodeAddr, SiteBytes, TextError};
use thiserror::Error;

use crate::program::{ProgInner, Program};

/// Why a function is not replaced. What ran goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The program to put in is no extension.
    #[error("program {program} is no extension program")]
    NotExtension {
        /// The program to put in.
        program: String,
    },
    /// The program has no such function.
    #[error("program {program} has no function number {function}")]
    NoFunction {
        /// The program.
        program: String,
        /// Its function, by number.
        function: usize,
    },
    /// Its function begins without a place to change: it is static, or the engine changes no installed code.
    #[error("function {function} of program {program} cannot be replaced: {why}")]
    Fixed {
        /// The program.
        program: String,
        /// Its function.
        function: String,
        /// Why.
        why: &'static str,
    },
    /// It has a replacement already.
    #[error("function {function} of program {program} is replaced already")]
    Replaced {
        /// The program.
        program: String,
        /// Its function.
        function: String,
    },
    /// It is in a prog array.
    #[error("program {program} is in a prog array: no function of a tail callee can be replaced")]
    TailCallee {
        /// The program.
        program: String,
    },
    /// The two are of different engines, or one is compiled and the other interpreted.
    #[error("program {program} belongs to another engine")]
    OtherEngine {
        /// The program to put in.
        program: String,
    },
    /// The code could not be changed.
    #[error("the code cannot be changed")]
    Text(#[from] TextError),
    /// Asked for inside a run, which would wait for itself.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl ExtendError {
    /// As `BPF_LINK_CREATE` fails.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Replaced { .. } | Self::TailCallee { .. } => Errno::EBUSY,
            Self::Text(_) | Self::Sync(_) => Errno::ENOMEM,
            _ => Errno::EINVAL,
        }
    }
}

/// What forbids what: memberships in prog arrays, and functions that are replaced.
pub(crate) struct Ties(Mutex<State>);

struct State {
    /// Whether every run has a frame, also those that began long ago.
    framed: bool,
    /// Slots of prog arrays that hold the program.
    memberships: u64,
    /// Functions that are replaced, by number.
    replaced: BTreeSet<usize>,
}

impl Ties {
    /// None yet, of a program whose runs have frames, or have none.
    pub(crate) fn new(framed: bool) -> Self {
        Self(Mutex::new(State { framed, memberships: 0, replaced: BTreeSet::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one operation, so a panic elsewhere leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program goes into a slot of a prog array.
    ///
    /// # Errors
    /// `EBUSY` while a function of the program is replaced.
    pub(crate) fn join_array(&self) -> Result<(), Errno> {
        let mut state = self.state();
        if !state.replaced.is_empty() {
            return Err(Errno::EBUSY);
        }
        state.memberships += 1;
        Ok(())
    }

    /// The program left a slot of a prog array.
    pub(crate) fn leave_array(&self) {
        let mut state = self.state();
        state.memberships = state.memberships.saturating_sub(1);
    }
}

/// An extension in the place of a function. Dropping it puts the function back.
#[must_use = "the function is put back when this is dropped"]
pub struct Extension {
    target: Arc<ProgInner>,
    function: usize,
    with: Option<Arc<ProgInner>>,
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = self.with.as_ref().map(|with| with.name());
        let mut shown = f.debug_struct("Extension");
        shown.field("target", &self.target.name()).field("function", &self.function).field("with", &with).finish()
    }
}

impl Program {
    /// Puts the extension that `with` is now in the place of function `function` (its number in [`Program::xlated`]'s
    /// subprograms) of this program's current version, which it was verified for. Runs that start from now on call it.
    ///
    /// # Errors
    /// The function cannot be replaced, or not now; what ran goes on.
    pub fn replace_function(&self, function: usize, with: &Self) -> Result<Extension, ExtendError> {
        let (target, with) = (self.version(), with.version());
        let name = || target.name().to_owned();
        if with.prog_type() != ProgType::Ext {
            return Err(ExtendError::NotExtension { program: with.name().to_owned() });
        }
        if !Arc::ptr_eq(target.engine(), with.engine()) || target.code().is_some() != with.code().is_some() {
            return Err(ExtendError::OtherEngine { program: with.name().to_owned() });
        }
        let Some(subprog) = target.xlated().subprogs.get(function) else {
            return Err(ExtendError::NoFunction { program: name(), function });
        };
        let fixed = |why| ExtendError::Fixed { program: name(), function: subprog.name.clone(), why };
        if !subprog.replaceable {
            return Err(fixed("it is static, or its arguments are not those of its prototype"));
        }
        if with.asks_for_frame() {
            target.await_frames()?;
        }
        let mut state = target.ties().state();
        if state.memberships > 0 {
            return Err(ExtendError::TailCallee { program: name() });
        }
        if state.replaced.contains(&function) {
            return Err(ExtendError::Replaced { program: name(), function: subprog.name.clone() });
        }
        match target.interpreted() {
            Some(program) => {
                if !program.replace(function, Some(&with)) {
                    return Err(fixed("it has no start"));
                }
            }
            None => {
                let to = with.entry_in_place_of(function).ok_or_else(|| fixed("the extension has no code"))?;
                match target.poke_function(function, SiteBytes::Jump(to)) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        // A barrier that failed half-way leaves a trap, which later pokes resolve: the code stays for them.
                        std::mem::forget(with);
                        return Err(error.into());
                    }
                    None => return Err(fixed("live patching is off")),
                }
            }
        }
        state.replaced.insert(function);
        drop(state);
        Ok(Extension { target, function, with: Some(with) })
    }
}

impl Extension {
    /// The function's number among the program's.
    #[must_use]
    pub fn function(&self) -> usize {
        self.function
    }

    /// Puts the function back, and waits until no thread is inside the extension any more.
    ///
    /// # Errors
    /// The code could not be changed: the extension stays in place, for good. Or this was called from inside a run: the
    /// function is back, and the extension is released later.
    pub fn detach(mut self) -> Result<(), ExtendError> {
        let Some(with) = self.with.take() else { return Ok(()) };
        put_back(&self.target, self.function, with)?;
        self.target.engine().cpus().synchronize()?;
        Ok(())
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        if let Some(with) = self.with.take()
            && let Err(error) = put_back(&self.target, self.function, with)
        {
            eprintln!("skep: a replaced function could not be put back: {error}");
        }
    }
}

/// Restores a function; its replacement goes after a grace period, or never if that fails.
fn put_back(target: &ProgInner, function: usize, with: Arc<ProgInner>) -> Result<(), TextError> {
    let mut state = target.ties().state();
    match target.interpreted() {
        Some(program) => {
            program.replace(function, None);
        }
        None => {
            if let Some(Err(error)) = target.poke_function(function, SiteBytes::Nop) {
                // Calls still lead there.
                std::mem::forget(with);
                return Err(error);
            }
        }
    }
    state.replaced.remove(&function);
    drop(state);
    target.engine().cpus().defer(Box::new(move || drop(with)));
    Ok(())
}

impl ProgInner {
    /// Returns when every run of the program has a frame: one that began without must not meet code that looks for it.
    fn await_frames(&self) -> Result<(), SyncError> {
        if self.ties().state().framed {
            return Ok(());
        }
        self.give_frames();
        // Without the lock: a run that is waited for may want it, where a program fills a prog array.
        self.engine().cpus().synchronize()?;
        self.ties().state().framed = true;
        Ok(())
    }

    /// Where code enters this extension instead of function `function`.
    fn entry_in_place_of(&self, function: usize) -> Option<CodeAddr> {
        let code = self.code()?;
        let offset = if function == 0 { code.entry } else { code.function_entry? };
        Some(code.installed.addr(offset))
    }

    /// Changes the site at the start of a function; `None` without one.
    fn poke_function(&self, function: usize, new: SiteBytes) -> Option<Result<(), TextError>> {
        let code = self.code()?;
        let &(_, site) = code.functions.iter().find(|(subprog, _)| *subprog as usize == function)?;
        let site = code.installed.site(site)?;
        // SAFETY: the target is the entry of an extension that was verified for this function, made for being entered at its
        // start; its caller keeps it until a grace period after the site is a no-op again.
        let poked = unsafe { code.installed.arena().poke(&[(site, new)]) };
        Some(poked.map(drop))
    }
}
