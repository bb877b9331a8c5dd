//! `struct bpf_object`: an object file with its programs and maps, before and after load.
//!
//! Owns the pointers that C holds: an object has its programs and maps in boxes that never move, so a pointer to one is good
//! until `bpf_object__close`. Invariant: every change goes through the lock of `Core`, so calls of several threads
//! are whole; a load makes all of it or nothing, and is tried once. Counterpart: `struct bpf_object`,
//! tools/lib/bpf/libbpf.c, 6.18.

pub mod load;
pub mod open;

use std::ffi::{CString, c_char, c_int};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use skep::{Loaded, Object as Opened};
use skep_abi::Errno;
use skep_object::{MapSpec, ObjectSpec, ProgramSpec};

use crate::boundary::{call, given, name, status};
use crate::handle::{self, Handle};
use crate::image::Image;
use crate::map::Map;
use crate::program::Program;

pub(crate) use load::load;
pub(crate) use open::{OpenOpts, open};

/// `struct bpf_object`.
#[derive(Debug)]
pub struct Object {
    core: Arc<Core>,
    name: CString,
    programs: Box<[Program]>,
    maps: Box<[Map]>,
}

/// What an object, its programs and its maps share.
#[derive(Debug)]
pub(crate) struct Core {
    state: Mutex<State>,
}

/// How far an object is.
#[derive(Debug)]
pub(crate) enum State {
    /// It may be changed.
    Open(Box<Opened>),
    /// It runs.
    Loaded(Box<Loaded>),
    /// It could not be loaded, and stays as it was.
    Failed(Box<Opened>),
}

impl State {
    /// What the object holds.
    pub(crate) fn spec(&self) -> &ObjectSpec {
        match self {
            State::Open(object) | State::Failed(object) => object.spec(),
            State::Loaded(loaded) => loaded.object().spec(),
        }
    }
}

impl Core {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the object before it is loaded; `EBUSY` afterwards.
    pub(crate) fn edit<R>(&self, change: impl FnOnce(&mut ObjectSpec) -> Result<R, Errno>) -> Result<R, Errno> {
        self.edit_object(|object| change(object.spec_mut()))
    }

    /// As [`Core::edit`], with more than its description.
    pub(crate) fn edit_object<R>(&self, change: impl FnOnce(&mut Opened) -> Result<R, Errno>) -> Result<R, Errno> {
        match &mut *self.state() {
            State::Open(object) => change(object),
            State::Loaded(_) | State::Failed(_) => Err(Errno::EBUSY),
        }
    }

    /// As [`Core::edit`], one program.
    pub(crate) fn edit_program<R>(&self, index: usize, change: impl FnOnce(&mut ProgramSpec) -> R) -> Result<R, Errno> {
        self.edit(|spec| spec.programs.get_mut(index).map(change).ok_or(Errno::EINVAL))
    }

    /// As [`Core::edit`], one map.
    pub(crate) fn edit_map<R>(&self, index: usize, change: impl FnOnce(&mut MapSpec) -> R) -> Result<R, Errno> {
        self.edit(|spec| spec.maps.get_mut(index).map(change).ok_or(Errno::EINVAL))
    }

    /// Reads a program's description.
    pub(crate) fn program<R>(&self, index: usize, read: impl FnOnce(&ProgramSpec) -> R) -> Result<R, Errno> {
        self.state().spec().programs.get(index).map(read).ok_or(Errno::EINVAL)
    }

    /// Reads a map's description.
    pub(crate) fn map<R>(&self, index: usize, read: impl FnOnce(&MapSpec) -> R) -> Result<R, Errno> {
        self.state().spec().maps.get(index).map(read).ok_or(Errno::EINVAL)
    }
}

impl Object {
    /// Its programs, in the file's order.
    pub(crate) fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Its maps, those of data sections included.
    pub(crate) fn maps(&self) -> &[Map] {
        &self.maps
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// The program of this name.
    pub(crate) fn find_program(&self, name: &str) -> Result<&Program, Errno> {
        let index = self.core.state().spec().programs.iter().position(|program| program.name == name);
        index.and_then(|index| self.programs.get(index)).ok_or(Errno::ENOENT)
    }

    /// The map of this name; one of a data section answers to its section's name and to the kernel's.
    pub(crate) fn find_map(&self, name: &str) -> Result<&Map, Errno> {
        let index = self.core.state().spec().map_index(name);
        index.and_then(|index| self.maps.get(index)).ok_or(Errno::ENOENT)
    }
}

impl Object {
    /// The map in which a variable lies, and where. A subskeleton says which map it means.
    pub(crate) fn variable(&self, name: &str, holder: *const Map) -> Option<(&Map, usize)> {
        let state = self.core.state();
        let found = state.spec().variables.iter().find(|variable| {
            let map = self.maps.get(variable.map);
            variable.name == name && map.is_some_and(|map| holder.is_null() || std::ptr::eq(map, holder))
        })?;
        Some((self.maps.get(found.map)?, usize::try_from(found.offset).ok()?))
    }
}

/// What an object makes of a parsed file.
fn boxed(opened: Opened, name: CString) -> Result<Box<Object>, Errno> {
    let spec = opened.spec();
    let (n_programs, n_maps) = (spec.programs.len(), spec.maps.len());
    let mut images = Vec::with_capacity(n_maps);
    for map in &spec.maps {
        images.push(map.initial_value().map(|image| Image::new(&image)).transpose()?);
    }
    let core = Arc::new(Core { state: Mutex::new(State::Open(Box::new(opened))) });
    let programs = (0..n_programs).map(|index| Program::new(&core, index)).collect::<Result<_, _>>()?;
    let maps = images.into_iter().enumerate().map(|(index, image)| Map::new(&core, index, image));
    let maps = maps.collect::<Result<_, _>>()?;
    Ok(Box::new(Object { core, name, programs, maps }))
}

/// A descriptor that is there from load on.
#[derive(Debug, Default)]
pub(crate) struct Descriptor(Mutex<Option<Handle>>);

impl Descriptor {
    pub(crate) fn set(&self, handle: Option<Handle>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    /// Its number.
    pub(crate) fn number(&self) -> Option<c_int> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Handle::number)
    }
}

/// Text that C may hold a pointer to for as long as the object lives.
#[derive(Debug, Default)]
pub(crate) struct Kept(OnceLock<CString>);

impl Kept {
    pub(crate) fn pointer(&self, text: impl FnOnce() -> Result<String, Errno>) -> Result<*const c_char, Errno> {
        if let Some(known) = self.0.get() {
            return Ok(known.as_ptr());
        }
        let text = CString::new(text()?).map_err(|_| Errno::EINVAL)?;
        Ok(self.0.get_or_init(|| text).as_ptr())
    }
}

/// Takes an object apart: its descriptors are closed, its memory is unmapped. What runs elsewhere (a map in another map, a
/// program in another object's prog array) goes on to. NULL is nothing to do.
///
/// # Safety
/// `object` is NULL or came from an open call and was not closed. Pointers to it, its programs, its maps and into its data
/// sections end here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__close(object: *mut Object) {
    call(|| {
        if !object.is_null() {
            // SAFETY: an open call gave it away with `Box::into_raw`, and it is given back once (caller).
            drop(unsafe { Box::from_raw(object) });
            handle::sweep();
        }
        Ok(())
    });
}

/// The object's name: the file's up to its first dot, or what the options said.
///
/// # Safety
/// `object` is NULL or an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__name(object: *const Object) -> *const c_char {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(object) }?.name.as_ptr()))
}

/// The number in the object's `version` section; 0 without one.
///
/// # Safety
/// `object` is NULL or an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__kversion(object: *const Object) -> u32 {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(object) }?.core.state().spec().kern_version))
}

/// Sets that number, which nothing depends on.
///
/// # Safety
/// `object` is NULL or an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__set_kversion(object: *mut Object, version: u32) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { given(object) }?.core.edit(|spec| {
            spec.kern_version = version;
            Ok(())
        })
    })
}

/// The program of this name, `ENOENT` without.
///
/// # Safety
/// `object` is NULL or an open object, `wanted` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__find_program_by_name(
    object: *const Object,
    wanted: *const c_char,
) -> *mut Program {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { given(object) }?;
        // SAFETY: the caller's duty, passed on.
        let wanted = unsafe { name(wanted) }?;
        Ok(std::ptr::from_ref(object.find_program(wanted)?).cast_mut())
    })
}

/// The map of this name, `ENOENT` without.
///
/// # Safety
/// `object` is NULL or an open object, `wanted` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__find_map_by_name(object: *const Object, wanted: *const c_char) -> *mut Map {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { given(object) }?;
        // SAFETY: the caller's duty, passed on.
        let wanted = unsafe { name(wanted) }?;
        Ok(std::ptr::from_ref(object.find_map(wanted)?).cast_mut())
    })
}

/// The descriptor of the map of this name; `-ENOENT` without such a map, -1 before it is loaded.
///
/// # Safety
/// `object` is NULL or an open object, `wanted` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__find_map_fd_by_name(object: *const Object, wanted: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { given(object) }?;
        // SAFETY: the caller's duty, passed on.
        let wanted = unsafe { name(wanted) }?;
        Ok(object.find_map(wanted)?.descriptor().number().unwrap_or(-1))
    })
}

/// The element after `current`, the first one for NULL, or NULL at the end.
fn next<T>(all: &[T], current: *const T) -> *mut T {
    let at = match all.iter().position(|item| std::ptr::eq(item, current)) {
        Some(at) => at.checked_add(1),
        None if current.is_null() => Some(0),
        None => None,
    };
    at.and_then(|at| all.get(at)).map_or(std::ptr::null_mut(), |item| std::ptr::from_ref(item).cast_mut())
}

/// The element before `current`, the last one for NULL, or NULL at the end.
fn previous<T>(all: &[T], current: *const T) -> *mut T {
    let at = match all.iter().position(|item| std::ptr::eq(item, current)) {
        Some(at) => at.checked_sub(1),
        None if current.is_null() => all.len().checked_sub(1),
        None => None,
    };
    at.and_then(|at| all.get(at)).map_or(std::ptr::null_mut(), |item| std::ptr::from_ref(item).cast_mut())
}

macro_rules! walks {
    ($($(#[$doc:meta])* $function:ident: $walk:ident over $list:ident of $ty:ty;)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// `object` is NULL or an open object.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(object: *const Object, current: *const $ty) -> *mut $ty {
            // SAFETY: the caller's duty, passed on.
            call(|| Ok($walk(unsafe { given(object) }?.$list(), current)))
        }
    )+ };
}

walks! {
    /// The program after `current` (the first for NULL); NULL after the last.
    bpf_object__next_program: next over programs of Program;
    /// The program before `current` (the last for NULL); NULL before the first.
    bpf_object__prev_program: previous over programs of Program;
    /// The map after `current` (the first for NULL); NULL after the last.
    bpf_object__next_map: next over maps of Map;
    /// The map before `current` (the last for NULL); NULL before the first.
    bpf_object__prev_map: previous over maps of Map;
}
