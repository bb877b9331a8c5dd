//! Links: what attaches inside of this process, an iterator to the map that it walks and an extension to the function that it
//! replaces.
//!
//! Invariant: an extension is in its place exactly as long as its `struct bpf_link` is not destroyed; what attaches to a
//! kernel is refused ([`refused`](crate::refused)). Counterpart: `struct bpf_link`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use skep::Replacement;
use skep_abi::{AttachType, Errno, ProgType};

use crate::boundary::{bytes, call, given, name, options, status};
use crate::handle::{self, Handle, Target};
use crate::print::{self, chain};
use crate::program::Program;
use crate::refused::{NO_HOOKS, nothing_to_attach_to, unsupported};

/// `struct bpf_link`.
#[derive(Debug)]
pub struct Link {
    descriptor: Handle,
    /// What keeps an extension in its place.
    extension: Option<Replacement>,
    is_disconnected: AtomicBool,
}

impl Link {
    fn new(target: Target, extension: Option<Replacement>) -> Result<*mut Self, Errno> {
        let descriptor = Handle::of_link(target)?;
        Ok(Box::into_raw(Box::new(Self { descriptor, extension, is_disconnected: AtomicBool::new(false) })))
    }
}

/// `struct bpf_iter_attach_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IterAttachOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// A `union bpf_iter_link_info`, which begins with the map's descriptor.
    pub link_info: *const c_void,
    /// Bytes of the union.
    pub link_info_len: u32,
}

/// Attaches a program to what its section, or a choice before load, says; nothing for a program that is attached by hand.
///
/// # Errors
/// `EBADF` for an iterator, whose map nobody names; `EOPNOTSUPP` for a place in a kernel.
pub(crate) fn attach_by_section(program: &Program) -> Result<Option<*mut Link>, Errno> {
    use ProgType::{Ext, Kprobe, Lsm, RawTracepoint, RawTracepointWritable, Tracepoint, Tracing};
    let Some(sec) = program.sec()? else { return Ok(None) };
    match (sec.prog_type, sec.target) {
        (Ext, _) => extension(program).map(Some),
        (Tracing, _) if sec.attach_type == AttachType::TraceIter => Err(without_a_map(program)),
        (Kprobe | Tracepoint | RawTracepoint | RawTracepointWritable | Tracing | Lsm, Some(target)) => {
            print::warn(format_args!(
                "program '{}' is not attached to '{target}': nothing of this process hangs on events of a kernel; run it \
                 with bpf_prog_test_run_opts, or take it out with bpf_program__set_autoattach",
                program.name()
            ));
            Err(Errno::ENOTSUP)
        }
        _ => Ok(None),
    }
}

/// Says that an iterator needs a map.
fn without_a_map(program: &Program) -> Errno {
    print::warn(format_args!(
        "iterator '{}' is not attached: its map is named to bpf_program__attach_iter; a skeleton passes it over after \
         bpf_program__set_autoattach",
        program.name()
    ));
    Errno::EBADF
}

/// Puts an extension in the place that it was loaded for.
fn extension(program: &Program) -> Result<*mut Link, Errno> {
    let running = program.running().ok_or(Errno::EINVAL)?;
    let replacement = running.attach_replacement().map_err(|error| {
        print::warn(format_args!("extension '{}' is not attached: {}", program.name(), chain(&error)));
        error.errno()
    })?;
    Link::new(Target::Extension, Some(replacement))
}

/// Attaches a program to what its section says: an extension to the function that it was loaded for. NULL for everything
/// else, with `errno` `EBADF` for an iterator, whose map is named to `bpf_program__attach_iter`, and `EOPNOTSUPP` otherwise.
///
/// # Safety
/// `program` is NULL or of an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__attach(program: *const Program) -> *mut Link {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        match program.sec()? {
            Some(sec) if sec.prog_type == ProgType::Ext => extension(program),
            Some(sec) if sec.attach_type == AttachType::TraceIter => Err(without_a_map(program)),
            _ => Err(nothing_to_attach_to(program)),
        }
    })
}

/// Puts a loaded extension in the place of a function. With `target_fd` 0 and no name, that is the one that it was loaded
/// for; others are `EINVAL`, since it is verified for that one.
///
/// # Safety
/// `program` is NULL or of an open object; `function` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__attach_freplace(
    program: *const Program,
    target_fd: c_int,
    function: *const c_char,
) -> *mut Link {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        let is_extension = program.sec()?.is_some_and(|sec| sec.prog_type == ProgType::Ext);
        if !is_extension || (target_fd != 0) == function.is_null() {
            return Err(Errno::EINVAL);
        }
        if target_fd != 0 {
            // SAFETY: not NULL, a string (caller).
            let function = unsafe { name(function) }?;
            let target = handle::program(target_fd)?;
            let loaded = program.running().ok_or(Errno::EINVAL)?.replaces();
            if !loaded.is_some_and(|(program, known)| program.id() == target.id() && known == function) {
                print::warn(format_args!(
                    "extension '{}' was not verified for function '{function}' of that program: choose it with \
                     bpf_program__set_attach_target before load",
                    program.name()
                ));
                return Err(Errno::EINVAL);
            }
        }
        extension(program)
    })
}

/// Says, before load, which function of which loaded program an extension takes the place of; without a name, the one that
/// its section names. `-ENOENT` for a function that there is not, `-EINVAL` after load; `-EOPNOTSUPP` for other programs, which
/// would hang on a kernel.
///
/// # Safety
/// `program` is NULL or of an open object; `function` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__set_attach_target(
    program: *mut Program,
    target_fd: c_int,
    function: *const c_char,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        if program.sec()?.is_none_or(|sec| sec.prog_type != ProgType::Ext) {
            return Err(unsupported(NO_HOOKS));
        }
        if target_fd <= 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        let function = if function.is_null() { None } else { Some(unsafe { name(function) }?) };
        let target = handle::program(target_fd)?;
        program.set_target(&target, function).map_err(|errno| if errno == Errno::EBUSY { Errno::EINVAL } else { errno })
    })
}

/// Attaches an iterator (`SEC("iter/bpf_map_elem")`) to the map that the options name. NULL with `errno` `EBADF` without one,
/// `EACCES` if it reaches further than the map's elements, `EINVAL` for maps and programs of other kinds.
///
/// # Safety
/// `program` is NULL or of an open object; `opts` is NULL or begins with its size, and its `link_info` is NULL or has as many
/// bytes as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__attach_iter(program: *const Program, opts: *const IterAttachOpts) -> *mut Link {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        // SAFETY: the caller's duty, passed on.
        let opts = unsafe { options(opts) }?;
        let running = program.running().ok_or(Errno::EINVAL)?;
        let opts = opts.ok_or(Errno::EBADF)?;
        // SAFETY: the caller's duty, passed on.
        let info = unsafe { bytes(opts.link_info, opts.link_info_len as usize) }?;
        let fd = info.first_chunk().map_or(0, |fd| c_int::from_ne_bytes(*fd));
        if fd == 0 {
            return Err(Errno::EBADF);
        }
        let map = handle::map(fd)?;
        running.check_iter(&map).map_err(|error| {
            print::warn(format_args!("iterator '{}' is not attached: {error}", program.name()));
            error.errno()
        })?;
        Link::new(Target::Iterator((*running).clone(), map), None)
    })
}

/// Runs the iterator of a link over its map; a descriptor to read what it wrote, to be closed with `close`. The walk is over
/// when this returns, so its error is this call's.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_iter_create(link_fd: c_int) -> c_int {
    call(|| {
        let Target::Iterator(program, map) = handle::target(link_fd)? else { return Err(Errno::EINVAL) };
        let written = program.iter_map(&map).map_err(|error| {
            print::warn(format_args!("iterator '{}' over map '{}': {}", program.name(), map.name(), chain(&error)));
            error.errno()
        })?;
        handle::of_bytes(&written, "skep-iter")
    })
}

/// A link's descriptor, which is closed with it.
///
/// # Safety
/// `link` is NULL or not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_link__fd(link: *const Link) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(link) }?.descriptor.number()))
}

/// Takes what is attached back and frees the link; 0 for NULL.
///
/// # Safety
/// `link` is NULL or not destroyed, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_link__destroy(link: *mut Link) -> c_int {
    status(|| {
        if link.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, made by `Link::new` and not destroyed (caller).
        let link = *unsafe { Box::from_raw(link) };
        if link.is_disconnected.into_inner() {
            // It stays attached, and its descriptor open, as long as the process.
            std::mem::forget((link.descriptor, link.extension));
            return Ok(());
        }
        let Some(extension) = link.extension else { return Ok(()) };
        extension.detach().map_err(|error| {
            print::warn(format_args!("an extension is not taken back: {}", chain(&error)));
            error.errno()
        })
    })
}

/// Lets go of what is attached: when the link is destroyed, it stays.
///
/// # Safety
/// `link` is NULL or not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_link__disconnect(link: *mut Link) {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { given(link) }?.is_disconnected.store(true, Ordering::Relaxed);
        Ok(())
    });
}

/// The path of a pinned link: there is none, NULL.
///
/// # Safety
/// `link` is NULL or not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_link__pin_path(_link: *const Link) -> *const c_char {
    std::ptr::null()
}
