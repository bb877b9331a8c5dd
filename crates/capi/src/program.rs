//! `struct bpf_program`.
//!
//! Owns what C may ask and set of a program. Invariant: descriptions are read and changed through the object's lock; the
//! loaded program is kept beside it, so that a run takes no lock of the object. Counterpart: `struct bpf_program`,
//! tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use skep_abi::{AttachType, Errno, ProgType};
use skep_object::Sec;

use crate::boundary::{call, getters, given, put, setters, status};
use crate::handle::Handle;
use crate::object::{Core, Descriptor, Kept};
use crate::print;

/// `struct bpf_program`.
#[derive(Debug)]
pub struct Program {
    core: Arc<Core>,
    index: usize,
    name: String,
    c_name: Kept,
    c_section: Kept,
    insns: OnceLock<Box<[u64]>>,
    log: Mutex<Log>,
    autoattach: AtomicBool,
    running: Mutex<Option<skep::Program>>,
    descriptor: Descriptor,
}

/// Where a program's log goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) level: u32,
    buffer: *mut c_char,
    size: usize,
}

// SAFETY: the address of the caller's buffer, written under the object's lock only.
unsafe impl Send for Log {}

impl Default for Log {
    fn default() -> Self {
        Self { level: 0, buffer: std::ptr::null_mut(), size: 0 }
    }
}

impl Log {
    /// `EINVAL` for a buffer without size, a size without buffer, or a level over 7.
    pub(crate) fn new(level: u32, buffer: *mut c_char, size: usize) -> Result<Self, Errno> {
        if buffer.is_null() != (size == 0) || level > 7 {
            return Err(Errno::EINVAL);
        }
        Ok(Self { level, buffer, size })
    }

    /// Writes a log into the caller's buffer, its end if there is too little room; false without a buffer.
    pub(crate) fn write(&self, text: &str) -> bool {
        if self.buffer.is_null() {
            return false;
        }
        let bytes = text.as_bytes();
        let kept = bytes.get(bytes.len().saturating_sub(self.size - 1)..).unwrap_or_default();
        let mut kept = kept.to_vec();
        kept.push(0);
        // SAFETY: the buffer has `size` bytes for as long as the object is open (header), and no more are written.
        unsafe { self.buffer.cast::<u8>().copy_from(kept.as_ptr(), kept.len()) };
        true
    }
}

impl Program {
    pub(crate) fn new(core: &Arc<Core>, index: usize) -> Result<Self, Errno> {
        Ok(Self {
            core: Arc::clone(core),
            index,
            name: core.program(index, |spec| spec.name.clone())?,
            c_name: Kept::default(),
            c_section: Kept::default(),
            insns: OnceLock::new(),
            log: Mutex::default(),
            autoattach: AtomicBool::new(true),
            running: Mutex::new(None),
            descriptor: Descriptor::default(),
        })
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn log(&self) -> Log {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_log(&self, log: Log) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(crate) fn loaded(&self, program: &skep::Program, handle: Handle) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(program.clone());
        self.descriptor.set(Some(handle));
    }

    /// The loaded program.
    pub(crate) fn running(&self) -> Option<skep::Program> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `bpf_object__attach_skeleton` attaches it.
    pub(crate) fn is_attached_by_skeleton(&self) -> Result<bool, Errno> {
        Ok(self.autoattach.load(Ordering::Relaxed) && self.core.program(self.index, |spec| spec.autoload)?)
    }

    /// What its section says of it.
    pub(crate) fn sec(&self) -> Result<Option<Sec>, Errno> {
        self.core.program(self.index, |spec| spec.sec.clone())
    }

    /// Says what it takes the place of, before load.
    pub(crate) fn set_target(&self, target: &skep::RawProgram, function: Option<&str>) -> Result<(), Errno> {
        self.core.edit_object(|object| {
            object.set_attach_target(&self.name, target, function).map_err(|error| match error {
                skep::ExtendError::NotFound(error) => {
                    print::warn(format_args!("program '{}': {error}", self.name));
                    Errno::ENOENT
                }
                error => error.errno(),
            })
        })
    }

    fn change(&self, change: impl FnOnce(&mut Sec)) -> Result<(), Errno> {
        self.core.edit_program(self.index, |spec| {
            let sec = spec.sec.get_or_insert_with(|| Sec {
                prog_type: ProgType::SocketFilter,
                attach_type: AttachType::default(),
                prog_flags: 0,
                target: None,
            });
            change(sec);
        })
    }
}

getters! {
    /// The name of its function.
    bpf_program__name(program: *const Program) -> *const c_char = program.c_name.pointer(|| Ok(program.name.clone()));
    /// Its section, without a leading `?`.
    bpf_program__section_name(program: *const Program) -> *const c_char =
        program.c_section.pointer(|| program.core.program(program.index, |spec| spec.section.clone()));
    /// Whether it is loaded with the object.
    bpf_program__autoload(program: *const Program) -> bool = program.core.program(program.index, |spec| spec.autoload);
    /// Whether a skeleton attaches it.
    bpf_program__autoattach(program: *const Program) -> bool = Ok(program.autoattach.load(Ordering::Relaxed));
    /// Its instructions as the object has them, `bpf_program__insn_cnt` times 8 bytes, until the object is closed.
    bpf_program__insns(program: *const Program) -> *const c_void = {
        if program.insns.get().is_none() {
            let insns = program.core.program(program.index, |spec| {
                spec.insns.iter().map(|insn| u64::from_ne_bytes(insn.to_bytes())).collect()
            })?;
            // Another thread was faster: the same instructions.
            let _ = program.insns.set(insns);
        }
        Ok(program.insns.get().map_or(std::ptr::null(), |insns| insns.as_ptr().cast()))
    };
    /// How many instructions it has.
    bpf_program__insn_cnt(program: *const Program) -> usize = program.core.program(program.index, |spec| spec.insns.len());
    /// Its descriptor; `-ENOENT` before it is loaded.
    bpf_program__fd(program: *const Program) -> c_int = program.descriptor.number().ok_or(Errno::ENOENT);
    /// Its type; 0 for a section whose name says none.
    bpf_program__type(program: *const Program) -> u32 =
        program.core.program(program.index, |spec| spec.sec.as_ref().map_or(0, |sec| sec.prog_type as u32));
    /// As `bpf_program__type`.
    bpf_program__get_type(program: *const Program) -> u32 =
        program.core.program(program.index, |spec| spec.sec.as_ref().map_or(0, |sec| sec.prog_type as u32));
    /// What it is verified to be attached to.
    bpf_program__expected_attach_type(program: *const Program) -> u32 =
        program.core.program(program.index, |spec| spec.sec.as_ref().map_or(0, |sec| sec.attach_type as u32));
    /// As `bpf_program__expected_attach_type`.
    bpf_program__get_expected_attach_type(program: *const Program) -> u32 =
        program.core.program(program.index, |spec| spec.sec.as_ref().map_or(0, |sec| sec.attach_type as u32));
    /// `BPF_F_*` of its load.
    bpf_program__flags(program: *const Program) -> u32 =
        program.core.program(program.index, |spec| spec.sec.as_ref().map_or(0, |sec| sec.prog_flags));
    /// How much is logged.
    bpf_program__log_level(program: *const Program) -> u32 = Ok(program.log().level);
}

setters! {
    /// Sets whether it is loaded with the object; `-EINVAL` after load.
    bpf_program__set_autoload(program: *mut Program, autoload: bool) = {
        let busy = |errno| if errno == Errno::EBUSY { Errno::EINVAL } else { errno };
        program.core.edit_program(program.index, |spec| spec.autoload = autoload).map_err(busy)
    };
    /// Sets its type; `-EBUSY` after load, `-EINVAL` for a type that there is not.
    bpf_program__set_type(program: *mut Program, prog_type: u32) = {
        let prog_type = ProgType::from_u32(prog_type).ok_or(Errno::EINVAL)?;
        program.change(|sec| sec.prog_type = prog_type)
    };
    /// Sets what it is verified to be attached to; `-EBUSY` after load, `-EINVAL` for what there is not.
    bpf_program__set_expected_attach_type(program: *mut Program, attach_type: u32) = {
        let attach_type = AttachType::from_u32(attach_type).ok_or(Errno::EINVAL)?;
        program.change(|sec| sec.attach_type = attach_type)
    };
    /// Sets the flags of its load; `-EBUSY` after it.
    bpf_program__set_flags(program: *mut Program, flags: u32) = program.change(|sec| sec.prog_flags = flags);
}

/// Sets whether a skeleton attaches it.
///
/// # Safety
/// `program` is NULL or of an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__set_autoattach(program: *mut Program, autoattach: bool) {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { given(program) }?.autoattach.store(autoattach, Ordering::Relaxed);
        Ok(())
    });
}

/// No program is made for a device; `ifindex` is not looked at.
///
/// # Safety
/// Any pointer will do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__set_ifindex(_program: *mut Program, _ifindex: u32) {}

/// Sets how much is logged; `-EBUSY` after load.
///
/// # Safety
/// `program` is NULL or of an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__set_log_level(program: *mut Program, level: u32) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        program.core.edit(|_| Ok(()))?;
        program.set_log(Log { level, ..program.log() });
        Ok(())
    })
}

/// The log's buffer and, unless `size` is NULL, its size.
///
/// # Safety
/// `program` is NULL or of an open object; `size` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__log_buf(program: *const Program, size: *mut usize) -> *const c_char {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let log = unsafe { given(program) }?.log();
        // SAFETY: the caller's duty, passed on.
        unsafe { put(size, log.size) };
        Ok(log.buffer.cast_const())
    })
}

/// Sets where the verifier's log goes; `-EBUSY` after load, `-EINVAL` for a buffer without size or a size without buffer.
///
/// # Safety
/// `program` is NULL or of an open object; `buffer` is writable for `size` bytes until the object is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__set_log_buf(program: *mut Program, buffer: *mut c_char, size: usize) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        program.core.edit(|_| Ok(()))?;
        program.set_log(Log::new(program.log().level, buffer, size)?);
        Ok(())
    })
}

/// Closes its descriptor. What was compiled goes when the object is closed.
///
/// # Safety
/// `program` is NULL or of an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_program__unload(program: *mut Program) {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let program = unsafe { given(program) }?;
        *program.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        program.descriptor.set(None);
        Ok(())
    });
}
