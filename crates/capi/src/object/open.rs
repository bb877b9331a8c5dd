//! Opening: a file or bytes become an object.
//!
//! Invariant: nothing of the caller's is kept but the log buffer that the options name. Counterpart:
//! `bpf_object__open_file`, `bpf_object__open_mem`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use skep::{Object as Opened, ObjectError};
use skep_abi::Errno;

use super::{Object, boxed};
use crate::boundary::{bytes, call, options, text};
use crate::print::{self, chain};
use crate::program::Log;

/// `struct bpf_object_open_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// The object's name, instead of the file's.
    pub object_name: *const c_char,
    /// Definitions of maps may have attributes that are not known; no difference here.
    pub relaxed_maps: bool,
    /// Where maps are pinned; maps are not pinned here.
    pub pin_root_path: *const c_char,
    /// Not used.
    pub unused: u32,
    /// Values of `CONFIG_` variables, in the form of a kernel's configuration file.
    pub kconfig: *const c_char,
    /// A file with the types that CO-RE relocations are resolved against.
    pub btf_custom_path: *const c_char,
    /// Where the verifier's log goes.
    pub kernel_log_buf: *mut c_char,
    /// Bytes of it.
    pub kernel_log_size: usize,
    /// 0 for a log of refused programs only, 1 or 2 for a log of all.
    pub kernel_log_level: u32,
    /// No tokens are needed here.
    pub bpf_token_path: *const c_char,
}

/// Opens the bytes of an object file.
///
/// # Safety
/// `opts` is NULL or begins with its size, and its strings are NULL or strings; its log buffer is writable until the
/// object is closed.
pub(crate) unsafe fn open(
    read: impl FnOnce(Option<&str>) -> Result<Opened, ObjectError>,
    opts: *const OpenOpts,
    default_name: Option<&str>,
) -> Result<*mut Object, Errno> {
    // SAFETY: the caller's duty, passed on.
    let opts = unsafe { options(opts) }?;
    let string = |pointer: *const c_char| {
        // SAFETY: the caller's duty, passed on.
        if pointer.is_null() { Ok(None) } else { unsafe { text(pointer) }.map(|text| Some(text.to_owned())) }
    };
    let wanted = opts.map_or(Ok(None), |opts| string(opts.object_name))?;
    let wanted = wanted.map(|name| name.to_string_lossy().into_owned()).or_else(|| default_name.map(str::to_owned));
    let mut opened = read(wanted.as_deref()).map_err(|error| refused(&error))?;
    let name = CString::new(wanted.unwrap_or_else(|| opened.spec().name.clone())).map_err(|_| Errno::EINVAL)?;
    let mut log = Log::default();
    if let Some(opts) = opts {
        log = Log::new(opts.kernel_log_level, opts.kernel_log_buf, opts.kernel_log_size)?;
        if let Some(path) = string(opts.btf_custom_path)? {
            opened = opened.with_target_btf(Arc::new(custom_btf(Path::new(OsStr::from_bytes(path.as_bytes())))?));
        }
        if let Some(config) = string(opts.kconfig)? {
            crate::kconfig::apply(opened.spec_mut(), &config.to_string_lossy())?;
        }
    }
    let object = boxed(opened, name)?;
    for program in object.programs() {
        program.set_log(log);
    }
    Ok(Box::into_raw(object))
}

/// Says why, and what that is as a number.
fn refused(error: &ObjectError) -> Errno {
    print::warn(format_args!("{}", chain(error)));
    match error {
        ObjectError::Io { source, .. } => Errno(source.raw_os_error().unwrap_or(Errno::EIO.0)),
        ObjectError::TooLong { .. } => Errno::E2BIG,
        ObjectError::Object { source, .. } => Errno(source.errno()),
        _ => Errno::EINVAL,
    }
}

fn custom_btf(path: &Path) -> Result<skep_btf::Btf, Errno> {
    let bytes = std::fs::read(path).map_err(|error| {
        print::warn(format_args!("cannot read {}: {error}", path.display()));
        Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
    })?;
    let failed = |error: &dyn std::error::Error, errno| {
        print::warn(format_args!("{}: {}", path.display(), chain(error)));
        Errno(errno)
    };
    // Plain BTF, or the types of an object file.
    if bytes.starts_with(b"\x7fELF") {
        let spec = skep_object::parse(&bytes, "types").map_err(|error| failed(&error, error.errno()))?;
        return spec.btf.map(Arc::unwrap_or_clone).ok_or(Errno::ENOENT);
    }
    skep_btf::Btf::parse_with(&bytes, skep_btf::Rules::Kernel).map_err(|error| failed(&error, error.errno()))
}

/// Opens an object file.
///
/// # Safety
/// `path` is NULL or a string; `opts` is as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__open_file(path: *const c_char, opts: *const OpenOpts) -> *mut Object {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let path = Path::new(OsStr::from_bytes(unsafe { text(path) }?.to_bytes()));
        let read = |name: Option<&str>| match name {
            None => Opened::open(path),
            Some(name) => Opened::open_as(path, name),
        };
        // SAFETY: the caller's duty, passed on.
        unsafe { open(read, opts, None) }
    })
}

/// As `bpf_object__open_file`, without options.
///
/// # Safety
/// `path` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__open(path: *const c_char) -> *mut Object {
    // SAFETY: the caller's duty, passed on.
    unsafe { bpf_object__open_file(path, std::ptr::null()) }
}

/// Opens the bytes of an object file, which are not needed any more afterwards.
///
/// # Safety
/// `data` is NULL or readable for `size` bytes; `opts` is as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__open_mem(data: *const c_void, size: usize, opts: *const OpenOpts) -> *mut Object {
    call(|| {
        if data.is_null() || size == 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        let elf = unsafe { bytes(data, size) }?;
        let default = format!("{:x}-{size:x}", data.addr());
        // SAFETY: the caller's duty, passed on.
        unsafe { open(|name| Opened::from_bytes(name.unwrap_or(&default), elf), opts, Some(&default)) }
    })
}
