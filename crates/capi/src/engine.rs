//! The engine of the process, which all objects share as they share the kernel elsewhere.
//!
//! Invariant: it starts once, with the first thing that needs it, and lives as long as the process. The choices are made
//! before that, by `skep_configure` or the environment.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use skep::{Engine, Mode};
use skep_abi::Errno;

use crate::boundary::{call, options, status};
use crate::print::{self, chain};

/// `struct skep_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SkepOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// How many virtual CPUs; 0 for as many as the machine has.
    pub vcpus: u32,
    /// 0 for machine code, 1 for the interpreter.
    pub mode: u32,
}

enum State {
    Choosing { vcpus: Option<usize>, mode: Option<Mode> },
    Running(Engine),
}

static STATE: Mutex<State> = Mutex::new(State::Choosing { vcpus: None, mode: None });

/// The engine; started if it is not yet.
pub(crate) fn engine() -> Result<Engine, Errno> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let (vcpus, mode) = match &*state {
        State::Running(engine) => return Ok(engine.clone()),
        State::Choosing { vcpus, mode } => (*vcpus, *mode),
    };
    let mode = match mode {
        Some(mode) => mode,
        None => mode_of_environment()?,
    };
    let vcpus = match vcpus {
        Some(vcpus) => Some(vcpus),
        None => vcpus_of_environment()?,
    };
    // Descriptors of maps that loader programs make are mapped as those of an object's are.
    let mut builder = Engine::builder().mode(mode).share_data();
    if let Some(vcpus) = vcpus {
        builder = builder.vcpus(vcpus);
    }
    let engine = builder.build().map_err(|error| {
        print::warn(format_args!("the engine does not start: {}", chain(&error)));
        Errno::ENOMEM
    })?;
    *state = State::Running(engine.clone());
    Ok(engine)
}

fn vcpus_of_environment() -> Result<Option<usize>, Errno> {
    let Some(value) = std::env::var_os("SKEP_VCPUS") else { return Ok(None) };
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|&n: &usize| n > 0);
    if number.is_none() {
        print::warn(format_args!("SKEP_VCPUS is {value:?}, not a number of virtual CPUs"));
        return Err(Errno::EINVAL);
    }
    Ok(number)
}

fn mode_of_environment() -> Result<Mode, Errno> {
    let Some(value) = std::env::var_os("SKEP_MODE") else { return Ok(Mode::Jit) };
    match value.to_str() {
        Some("jit") => Ok(Mode::Jit),
        Some("interp") => Ok(Mode::Interp),
        _ => {
            print::warn(format_args!("SKEP_MODE is {value:?}, neither 'jit' nor 'interp'"));
            Err(Errno::EINVAL)
        }
    }
}

/// Chooses how many virtual CPUs there are and how programs are executed, before anything else is called.
///
/// Returns 0; `-EBUSY` once the engine runs; `-EINVAL` for a mode that there is not.
///
/// # Safety
/// `opts` is NULL (all as usual) or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skep_configure(opts: *const SkepOpts) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let opts = unsafe { options(opts) }?.unwrap_or(SkepOpts { sz: size_of::<SkepOpts>(), vcpus: 0, mode: 0 });
        let mode = match opts.mode {
            0 => Mode::Jit,
            1 => Mode::Interp,
            _ => return Err(Errno::EINVAL),
        };
        let vcpus = usize::try_from(opts.vcpus).ok().filter(|&n| n > 0);
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Running(_) => Err(Errno::EBUSY),
            State::Choosing { .. } => {
                *state = State::Choosing { vcpus, mode: Some(mode) };
                Ok(())
            }
        }
    })
}

/// How many virtual CPUs there are: as many values a per-CPU map has. Starts the engine.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_num_possible_cpus() -> c_int {
    call(|| c_int::try_from(engine()?.cpus().n_possible()).map_err(|_| Errno::E2BIG))
}

/// Nothing is charged to a limit on locked memory here; 0.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_set_memlock_rlim(_bytes: usize) -> c_int {
    0
}

/// The behaviour of libbpf 1.0 and newer is the only one; 0.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_set_strict_mode(_mode: u32) -> c_int {
    0
}
