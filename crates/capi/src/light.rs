//! Light skeletons from C: what `bpf/skel_internal.h` calls to run a loader program on this engine.
//!
//! A loader makes maps and programs from inside a run, reading initial values at addresses that its context names. Invariant:
//! of the process it reaches the images of [`skep_light_data`] and the log's buffer, as copies, and nothing else; what it
//! made comes back as descriptors of this library, in the places of its context that it filled. Counterpart:
//! `bpf_load_and_run`, tools/lib/bpf/skel_internal.h, 7.3.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep::{Engine, LightError, Syscall};
use skep_abi::Errno;

use crate::boundary::{bytes, call, put, put_bytes, status};
use crate::engine::engine;
use crate::handle::Handle;
use crate::image::Image;
use crate::print::{self, chain};

/// `sizeof(struct bpf_loader_ctx)`, and where its log is.
const CTX: usize = 24;
const LOG_LEVEL: usize = 8;
const LOG_SIZE: usize = 12;
const LOG_BUF: usize = 16;
/// Where the first `struct bpf_map_desc` has the address of its initial value, and bytes to the next one's. Programs'
/// descriptors come after the maps, and are zero before a run.
const INITIAL_VALUE: usize = CTX + 8;
const MAP_DESC: usize = 16;
/// The longest log that is kept.
const MAX_LOG: usize = 64 << 20;

/// The image of a data section, and how much of it is the section's.
struct Section {
    image: Image,
    len: usize,
}

/// Images by their address.
static SECTIONS: Mutex<BTreeMap<usize, Section>> = Mutex::new(BTreeMap::new());

fn sections() -> MutexGuard<'static, BTreeMap<usize, Section>> {
    SECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory for a data section of a light skeleton, which its loader may read: `mapped` bytes that begin with the `len` bytes of
/// `value`. NULL with `errno` `EINVAL` if there is less memory than value.
///
/// # Safety
/// `value` is NULL or readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skep_light_data(value: *const c_void, mapped: usize, len: usize) -> *mut c_void {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let value = unsafe { bytes(value, len) }?;
        if mapped < len || mapped == 0 || isize::try_from(mapped).is_err() {
            return Err(Errno::EINVAL);
        }
        let mut all = value.to_vec();
        all.resize(mapped, 0);
        let image = Image::new(&all)?;
        let pointer = image.pointer();
        sections().insert(pointer.addr(), Section { image, len });
        Ok(pointer)
    })
}

/// Gives memory of [`skep_light_data`] back; 0 for NULL, `-EINVAL` for other memory.
///
/// # Safety
/// Nobody uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skep_light_data_free(memory: *mut c_void) -> c_int {
    status(|| {
        if memory.is_null() {
            return Ok(());
        }
        let section = sections().remove(&memory.addr());
        section.map(drop).ok_or(Errno::EINVAL)
    })
}

/// Why a loader loaded nothing: the errno, and what was being done.
type Failure = (Errno, &'static CStr);

/// Runs a loader program over the context of its light skeleton, which afterwards has the descriptors of what was loaded.
/// What fails leaves nothing behind, and `why` says what it was.
///
/// # Safety
/// `ctx` is NULL or begins with a `struct bpf_loader_ctx`, has as many bytes as that says, and its log's buffer is NULL or has
/// room for as many; `data` and `insns` are NULL or have the bytes beside them; `why` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skep_load_and_run(
    ctx: *mut c_void,
    data: *const c_void,
    data_len: u32,
    insns: *const c_void,
    insns_len: u32,
    why: *mut *const c_char,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let insns = unsafe { bytes(insns, insns_len as usize) }?;
        // SAFETY: the caller's duty, passed on.
        let data = unsafe { bytes(data, data_len as usize) }?;
        // SAFETY: the caller's duty, passed on.
        let result = unsafe { load_and_run(ctx, insns, data) };
        result.map_err(|(errno, what)| {
            // SAFETY: the caller's duty, passed on.
            unsafe { put(why, what.as_ptr()) };
            errno
        })
    })
}

/// # Safety
/// `ctx` is as [`skep_load_and_run`] says.
unsafe fn load_and_run(ctx: *mut c_void, insns: &[u8], data: &[u8]) -> Result<(), Failure> {
    let before = |errno| (errno, c"the loader's context is not one");
    // SAFETY: a context begins with its size (caller).
    let head = unsafe { bytes(ctx, 4) }.map_err(before)?;
    let len = word(head, 0) as usize;
    if !(CTX..=Syscall::MAX).contains(&len) || !len.is_multiple_of(4) {
        return Err(before(Errno::EINVAL));
    }
    // SAFETY: a context has as many bytes as it says (caller).
    let given = unsafe { bytes(ctx, len) }.map_err(before)?.to_vec();
    let engine = engine().map_err(|errno| (errno, c"the engine does not start"))?;
    let mut lent = Lent::of(&given);
    let sent = lent.run.to_bytes();
    let result = engine.run_loader(insns, data, &mut lent.run);
    // SAFETY: the caller's duty, passed on.
    unsafe { lent.return_log(&given, &result) }.map_err(|errno| (errno, c"the log has no room"))?;
    result.map_err(|error| refused(&error))?;
    let handles = take(&engine, &sent, &lent.run.to_bytes());
    let handles = handles.map_err(|errno| (errno, c"what was loaded got no descriptor"))?;
    for (at, handle) in handles {
        // SAFETY: inside the context (it was found there), which is the caller's and not Rust's.
        let place = unsafe { ctx.cast::<u8>().add(at) };
        // SAFETY: as above, and the place has four bytes, since the context's length is a multiple of four.
        unsafe { place.cast::<c_int>().write_unaligned(handle.into_number()) };
    }
    Ok(())
}

fn refused(error: &LightError) -> Failure {
    print::warn(format_args!("a light skeleton is not loaded: {}", chain(error)));
    match error {
        LightError::Refused { errno, .. } => (*errno, c"the loader program is refused"),
        LightError::Failed { errno, .. } => (*errno, c"the loader program failed"),
        _ => (Errno::EFAULT, c"the loader program did not run"),
    }
}

/// A run's context with copies of what it may reach.
struct Lent {
    run: Syscall,
    /// The log's place in the memory that is lent.
    log: Option<std::ops::Range<usize>>,
}

impl Lent {
    fn of(given: &[u8]) -> Self {
        let mut memory = Vec::new();
        let mut places = Vec::new();
        let sections = sections();
        for at in (INITIAL_VALUE..given.len().saturating_sub(7)).step_by(MAP_DESC) {
            let address = usize::try_from(long(given, at)).unwrap_or(0);
            if let Some(section) = sections.get(&address) {
                places.push((at, memory.len()));
                memory.extend_from_slice(section.image.bytes().get(..section.len).unwrap_or_default());
            }
        }
        drop(sections);
        let room = (word(given, LOG_SIZE) as usize).min(MAX_LOG);
        let wants_log = word(given, LOG_LEVEL) != 0 && long(given, LOG_BUF) != 0 && room != 0;
        let log = wants_log.then(|| memory.len()..memory.len() + room);
        if let Some(log) = &log {
            memory.resize(log.end, 0);
        }
        let mut run = Syscall::bytes(given).with_user_memory(memory);
        let start = run.user_address();
        for (at, place) in places {
            run.set_u64(at, start + place as u64);
        }
        if let Some(log) = &log {
            run.set_u64(LOG_BUF, start + log.start as u64);
            run.set_u64(LOG_LEVEL, u64::from(word(given, LOG_LEVEL)) | (room as u64) << 32);
        }
        Self { run, log }
    }

    /// Copies the log to the buffer that the context names.
    ///
    /// # Safety
    /// The buffer is as long as the context that was given says.
    unsafe fn return_log(&self, given: &[u8], result: &Result<(), LightError>) -> Result<(), Errno> {
        let Some(range) = self.log.clone() else { return Ok(()) };
        let written = self.run.user_memory().get(range.clone()).unwrap_or_default();
        let mut log = written.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        if let Err(LightError::Refused { log: of_loader, .. }) = result {
            log = of_loader.clone().into_bytes();
        }
        if log.is_empty() {
            return Ok(());
        }
        log.truncate(range.len().saturating_sub(1));
        log.push(0);
        let buffer = usize::try_from(long(given, LOG_BUF)).map_err(|_| Errno::EFAULT)?;
        // SAFETY: no longer than the room that the context says (caller), of which there is at least a byte.
        unsafe { put_bytes(std::ptr::with_exposed_provenance_mut(buffer), &log) }
    }
}

/// Descriptors of this library for the engine's, which a run left in its context, by their place there: where the context is
/// not what it was.
fn take(engine: &Engine, sent: &[u8], left: &[u8]) -> Result<Vec<(usize, Handle)>, Errno> {
    let changed = |at: &usize| word(sent, *at) != word(left, *at);
    let places: Vec<usize> = (CTX..sent.len()).step_by(4).filter(changed).collect();
    let handle = |fd| match engine.map_of_fd(fd) {
        Ok(map) => Handle::of_map(&map),
        Err(_) => engine.program_of_fd(fd).and_then(|program| Handle::of_program(&program)),
    };
    let handles = places.iter().map(|&at| Ok((at, handle(word(left, at))?))).collect();
    for at in places {
        // What is no descriptor cannot be closed, and has made `handles` an error.
        let _ = engine.close_fd(word(left, at));
    }
    handles
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|long| long.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
