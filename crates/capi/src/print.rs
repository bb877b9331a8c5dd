//! Messages: to the program's own function, or to standard error.
//!
//! Owns the callback of `libbpf_set_print` and the texts of error numbers. Invariant: a message is one `%s`, so that
//! nothing in it is taken for a format. Counterpart: `libbpf_print`, `libbpf_strerror`, libbpf 1.x.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::fmt::Arguments;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::boundary::{call, put_bytes, status};
use skep_abi::Errno;

const WARN: c_uint = 0;
const INFO: c_uint = 1;
const DEBUG: c_uint = 2;

/// The state of a `va_list` whose arguments are all in memory, as the platform's calling convention lays it out.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
pub struct VaList {
    gp_offset: c_uint,
    fp_offset: c_uint,
    overflow_arg_area: *const *const c_char,
    reg_save_area: *const u8,
}

/// As on x86-64.
#[cfg(target_arch = "aarch64")]
#[repr(C)]
pub struct VaList {
    stack: *const *const c_char,
    gr_top: *const u8,
    vr_top: *const u8,
    gr_offs: c_int,
    vr_offs: c_int,
}

impl VaList {
    /// A list whose next argument is the first of `arguments`. On both architectures a `va_list` parameter is a pointer to
    /// this.
    #[cfg(target_arch = "x86_64")]
    fn of(arguments: &[*const c_char; 1]) -> Self {
        // Six integer and eight vector registers are used up.
        Self { gp_offset: 48, fp_offset: 176, overflow_arg_area: arguments.as_ptr(), reg_save_area: std::ptr::null() }
    }

    #[cfg(target_arch = "aarch64")]
    fn of(arguments: &[*const c_char; 1]) -> Self {
        let none = std::ptr::null();
        // No register arguments are left.
        Self { stack: arguments.as_ptr(), gr_top: none, vr_top: none, gr_offs: 0, vr_offs: 0 }
    }
}

/// `libbpf_print_fn_t`.
type PrintFn = unsafe extern "C" fn(c_uint, *const c_char, *mut VaList) -> c_int;

unsafe extern "C" {
    /// Of the C library.
    fn vdprintf(fd: c_int, format: *const c_char, arguments: *mut VaList) -> c_int;
}

/// A [`PrintFn`], or null for none.
static PRINT: AtomicPtr<()> = AtomicPtr::new(to_stderr as PrintFn as *mut ());

/// Warnings and information to standard error.
unsafe extern "C" fn to_stderr(level: c_uint, format: *const c_char, arguments: *mut VaList) -> c_int {
    if level > INFO {
        return 0;
    }
    // SAFETY: format and arguments fit each other (caller).
    unsafe { vdprintf(2, format, arguments) }
}

fn print(level: c_uint, message: Arguments<'_>) {
    let function = PRINT.load(Ordering::Acquire);
    if function.is_null() {
        return;
    }
    // SAFETY: only functions of this type are stored.
    let function = unsafe { std::mem::transmute::<*mut (), PrintFn>(function) };
    let Ok(text) = CString::new(format!("libskep: {message}\n").replace('\0', "\\0")) else { return };
    let arguments = [text.as_ptr()];
    let mut list = VaList::of(&arguments);
    // A caller's `errno` is not for its print function to change.
    let errno = crate::boundary::errno();
    // SAFETY: one `%s` and one string, which live until the call is over.
    unsafe { function(level, c"%s".as_ptr(), &raw mut list) };
    crate::boundary::set_errno(Errno(errno));
}

/// Something went wrong.
pub(crate) fn warn(message: Arguments<'_>) {
    print(WARN, message);
}

/// Something that the user may want to know.
pub(crate) fn info(message: Arguments<'_>) {
    print(INFO, message);
}

/// Something to find faults with.
pub(crate) fn debug(message: Arguments<'_>) {
    print(DEBUG, message);
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Sets the function that gets messages; `NULL` for none. Returns the one before.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_set_print(function: Option<PrintFn>) -> Option<PrintFn> {
    let new = function.map_or(std::ptr::null_mut(), |function| function as *mut ());
    let old = PRINT.swap(new, Ordering::AcqRel);
    // SAFETY: null is `None`, and only functions of this type are stored.
    unsafe { std::mem::transmute::<*mut (), Option<PrintFn>>(old) }
}

/// What each number from 4000 on means.
const OWN_ERRORS: [&str; 14] = [
    "the file cannot be read as ELF",
    "the object's format is wrong",
    "the object's version section is wrong",
    "the object has the other byte order",
    "a bug of the library",
    "a relocation failed",
    "the program could not be loaded",
    "the verifier refused the program",
    "the program is too long",
    "the object is for another kernel version",
    "the program type is not supported",
    "an answer of another process",
    "an answer out of sequence",
    "an answer that cannot be parsed",
];

/// The text of an error number of either sign, cut to `size` bytes with the final zero.
///
/// Returns 0; `-EINVAL` without a buffer; `-ENOENT` for an unknown number, whose text says so; `-ERANGE` for a text that
/// was cut.
///
/// # Safety
/// `buffer` is NULL or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libbpf_strerror(error: c_int, buffer: *mut c_char, size: usize) -> c_int {
    status(|| {
        if buffer.is_null() || size == 0 {
            return Err(Errno::EINVAL);
        }
        let number = error.unsigned_abs();
        let own = number.checked_sub(4000).and_then(|index| OWN_ERRORS.get(usize::try_from(index).ok()?));
        let (text, known) = match own {
            Some(text) => ((*text).to_owned(), true),
            None if number < 4000 => (system_text(error), true),
            None => (format!("unknown error {number}"), false),
        };
        let kept = text.len().min(size - 1);
        let mut bytes = text.as_bytes()[..kept].to_vec();
        bytes.push(0);
        // SAFETY: no more than `size` bytes, which are writable (caller).
        unsafe { put_bytes(buffer.cast(), &bytes) }?;
        match (known, kept == text.len()) {
            (false, _) => Err(Errno::ENOENT),
            (true, false) => Err(Errno::ERANGE),
            (true, true) => Ok(()),
        }
    })
}

/// The C library's text.
fn system_text(error: c_int) -> String {
    let text = std::io::Error::from_raw_os_error(error.saturating_abs()).to_string();
    // Rust appends the number.
    text.rsplit_once(" (os error").map_or(text.clone(), |(text, _)| text.to_owned())
}

/// The error that made a call return `pointer`, negative; 0 for a pointer that is none.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_get_error(pointer: *const std::ffi::c_void) -> std::ffi::c_long {
    if pointer.is_null() { std::ffi::c_long::from(-crate::boundary::errno()) } else { 0 }
}

/// What a library of this interface would be called: 1.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_major_version() -> u32 {
    1
}

/// The newest minor version of libbpf whose functions and options are known.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_minor_version() -> u32 {
    7
}

/// `v1.7`, with this library's own version.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_version_string() -> *const c_char {
    concat!("v1.7 (libskep ", env!("CARGO_PKG_VERSION"), ")\0").as_ptr().cast()
}

/// This library's version.
#[unsafe(no_mangle)]
pub extern "C" fn skep_version() -> *const c_char {
    call(|| Ok(concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()))
}
