//! Where C calls in: results as C expects them, pointers from C, and no panic that gets out.
//!
//! Owns the conversion of every argument and result. Invariant: a call either returns what its header says, or has set
//! `errno` and returns `-errno`, `NULL`, 0 or `false` by the type of its result; a panic becomes such an error.
//! Counterpart: `libbpf_err`, `libbpf_ptr`, `OPTS_VALID` in libbpf 1.x.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use skep_abi::Errno;

use crate::print;

/// `LIBBPF_ERRNO__INTERNAL`: a bug of this library.
pub(crate) const INTERNAL: Errno = Errno(4004);

/// What a call returns when it fails.
pub(crate) trait Fails {
    /// With `errno` set to `errno`.
    fn failed(errno: Errno) -> Self;
}

impl Fails for c_int {
    fn failed(errno: Errno) -> Self {
        -errno.0
    }
}

impl<T> Fails for *mut T {
    fn failed(_: Errno) -> Self {
        std::ptr::null_mut()
    }
}

impl<T> Fails for *const T {
    fn failed(_: Errno) -> Self {
        std::ptr::null()
    }
}

impl Fails for bool {
    fn failed(_: Errno) -> Self {
        false
    }
}

impl Fails for () {
    fn failed(_: Errno) -> Self {}
}

macro_rules! fails_with_zero {
    ($($ty:ty)+) => { $(
        impl Fails for $ty {
            fn failed(_: Errno) -> Self {
                0
            }
        }
    )+ };
}
fails_with_zero!(u32 u64 usize);

/// Runs the body of a call.
pub(crate) fn call<T: Fails>(body: impl FnOnce() -> Result<T, Errno>) -> T {
    // Nothing that a panic leaves half-done is looked at again: locks are taken over as they are, and the object of a
    // failed load is closed or nothing.
    let result = catch_unwind(AssertUnwindSafe(body));
    let errno = match result {
        Ok(Ok(value)) => return value,
        Ok(Err(errno)) => errno,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            print::warn(format_args!("a bug of this library: {}", said.unwrap_or("a panic without words")));
            // A payload whose drop panics would get out after all.
            std::mem::forget(panic);
            INTERNAL
        }
    };
    set_errno(errno);
    T::failed(errno)
}

/// As [`call`], for a body that returns nothing but success.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Errno>) -> c_int {
    call(|| body().map(|()| 0))
}

/// Sets this thread's `errno`.
pub(crate) fn set_errno(errno: Errno) {
    // SAFETY: always to be had.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the C library's place for this thread's errno, always valid.
    unsafe { place.write(errno.0) };
}

/// This thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: as in `set_errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as in `set_errno`.
    unsafe { place.read() }
}

/// Functions that ask something of what a pointer is of.
macro_rules! getters {
    ($($(#[$doc:meta])* $function:ident($it:ident: $pointer:ty) -> $ty:ty = $value:expr;)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// The pointer is NULL, or from this library and of something that is still open.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function($it: $pointer) -> $ty {
            $crate::boundary::call(|| {
                // SAFETY: the caller's duty, passed on.
                let $it = unsafe { $crate::boundary::given($it) }?;
                $value
            })
        }
    )+ };
}
pub(crate) use getters;

/// Functions that set something of what a pointer is of.
macro_rules! setters {
    ($($(#[$doc:meta])* $function:ident($it:ident: $pointer:ty, $value:ident: $ty:ty) = $change:expr;)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// The pointer is NULL, or from this library and of something that is still open.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function($it: $pointer, $value: $ty) -> c_int {
            $crate::boundary::status(|| {
                // SAFETY: the caller's duty, passed on.
                let $it = unsafe { $crate::boundary::given($it) }?;
                $change
            })
        }
    )+ };
}
pub(crate) use setters;

/// Takes back what `Box::into_raw` gave to C; NULL is nothing to do.
///
/// # Safety
/// `pointer` is NULL or from `Box::into_raw`, given back once and not in use.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    call(|| {
        if !pointer.is_null() {
            // SAFETY: the caller's duty, passed on.
            drop(unsafe { Box::from_raw(pointer) });
        }
        Ok(())
    });
}

/// What a pointer from C points at; NULL is `EINVAL`.
///
/// # Safety
/// `pointer` is NULL or points at a `T` that lives for `'a` and that nobody has an exclusive reference to.
pub(crate) unsafe fn given<'a, T>(pointer: *const T) -> Result<&'a T, Errno> {
    // SAFETY: the caller's duty, passed on.
    unsafe { pointer.as_ref() }.ok_or(Errno::EINVAL)
}

/// A string from C; NULL is `EINVAL`.
///
/// # Safety
/// `text` is NULL or points at bytes that end with a zero and stay as they are for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a CStr, Errno> {
    if text.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty, passed on.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// As [`text`], for names: what is not UTF-8 names nothing.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn name<'a>(pointer: *const c_char) -> Result<&'a str, Errno> {
    // SAFETY: the caller's duty, passed on.
    unsafe { text(pointer) }?.to_str().map_err(|_| Errno::ENOENT)
}

/// Bytes from C; NULL is `EFAULT` unless there are none.
///
/// # Safety
/// `data` is NULL or readable for `len` bytes, which stay as they are for `'a`.
pub(crate) unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Errno::EFAULT);
    }
    if isize::try_from(len).is_err() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty, passed on; the length fits.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// Writes bytes to memory of C's; NULL is `EFAULT` unless there are none.
///
/// # Safety
/// `to` is NULL or writable for as many bytes.
pub(crate) unsafe fn put_bytes(to: *mut c_void, from: &[u8]) -> Result<(), Errno> {
    if from.is_empty() {
        return Ok(());
    }
    if to.is_null() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the caller's duty; Rust's slice is not memory that C was given.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.cast(), from.len()) };
    Ok(())
}

/// Writes one value to memory of C's, unless it is NULL.
///
/// # Safety
/// `to` is NULL or writable for a `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's duty, passed on.
        unsafe { to.write_unaligned(value) };
    }
}

/// Options that begin with their own size, as a struct of this library's size: what the caller's is short of is zero.
///
/// # Safety
/// `options` is NULL or points at a `size_t` that says how many bytes from there on are readable; `T` is `repr(C)`, begins
/// with that size and is valid for any bytes.
pub(crate) unsafe fn options<T: Copy>(options: *const T) -> Result<Option<T>, Errno> {
    if options.is_null() {
        return Ok(None);
    }
    // SAFETY: options begin with their size (caller).
    let size = unsafe { options.cast::<usize>().read_unaligned() };
    if size < size_of::<usize>() {
        print::warn(format_args!("options of {size} bytes are too short: is `sz` set?"));
        return Err(Errno::EINVAL);
    }
    // SAFETY: that many bytes are readable (caller).
    let given = unsafe { bytes(options.cast(), size) }?;
    if given.iter().skip(size_of::<T>()).any(|&byte| byte != 0) {
        print::warn(format_args!("options of {size} bytes set something that this library does not know"));
        return Err(Errno::EINVAL);
    }
    let mut known = std::mem::MaybeUninit::<T>::zeroed();
    let len = given.len().min(size_of::<T>());
    // SAFETY: both are `len` bytes long, and one is this function's own.
    unsafe { std::ptr::copy_nonoverlapping(given.as_ptr(), known.as_mut_ptr().cast(), len) };
    // SAFETY: zero where nothing was copied, and valid for any bytes (caller).
    Ok(Some(unsafe { known.assume_init() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Opts {
        sz: usize,
        flags: u32,
        more: u32,
    }

    fn read(words: &[u32]) -> Result<Option<Opts>, Errno> {
        // SAFETY: each array below is as long as it says; any bytes are valid.
        unsafe { options(words.as_ptr().cast::<Opts>()) }
    }

    #[test]
    fn options_of_any_size() {
        // SAFETY: NULL.
        assert_eq!(unsafe { options::<Opts>(std::ptr::null()) }, Ok(None));
        assert_eq!(read(&[16, 0, 3, 4]), Ok(Some(Opts { sz: 16, flags: 3, more: 4 })));
        assert_eq!(read(&[12, 0, 3]), Ok(Some(Opts { sz: 12, flags: 3, more: 0 })));
        assert_eq!(read(&[8, 0]), Ok(Some(Opts { sz: 8, flags: 0, more: 0 })));
        assert_eq!(read(&[20, 0, 3, 4, 0]), Ok(Some(Opts { sz: 20, flags: 3, more: 4 })));
        assert_eq!(read(&[20, 0, 3, 4, 1]), Err(Errno::EINVAL));
        assert_eq!(read(&[4, 0]), Err(Errno::EINVAL));
        assert_eq!(read(&[0, 0]), Err(Errno::EINVAL));
    }

    #[test]
    fn a_panic_is_an_error() {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        set_errno(Errno(0));
        let result: c_int = call(|| panic!("on purpose"));
        std::panic::set_hook(quiet);
        assert_eq!((result, errno()), (-4004, 4004));
    }

    #[test]
    fn results_say_that_they_failed() {
        assert_eq!(call::<c_int>(|| Err(Errno::ENOENT)), -2);
        assert_eq!(errno(), 2);
        assert!(call::<*mut u8>(|| Err(Errno::EINVAL)).is_null() && errno() == 22);
        assert!(!call::<bool>(|| Err(Errno::EBUSY)) && errno() == 16);
        assert_eq!((call::<u32>(|| Err(Errno::EBUSY)), status(|| Ok(()))), (0, 0));
    }
}
