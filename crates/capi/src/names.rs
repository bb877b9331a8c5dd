//! Names of types, and what the names of sections mean.
//!
//! Invariant: a name that was given out stays. Counterpart: `libbpf_bpf_map_type_str` and its siblings,
//! `libbpf_prog_type_by_name`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use skep_abi::{AttachType, Errno, MapType, ProgType};
use skep_object::Sec;
use skep_runtime::ctx::CtxType;

use crate::boundary::{call, name, put, status};

type Names = OnceLock<BTreeMap<u32, CString>>;

/// The name of a number, from a table that is made once.
fn text(table: &'static Names, all: impl Iterator<Item = (u32, &'static str)>, number: u32) -> *const c_char {
    let names = table.get_or_init(|| {
        let unspecified = (0, "unspec");
        let named = std::iter::once(unspecified).chain(all);
        named.filter_map(|(number, name)| Some((number, CString::new(name).ok()?))).collect()
    });
    names.get(&number).map_or(std::ptr::null(), |name| name.as_ptr())
}

/// The name of a program type; NULL for an unknown one.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_bpf_prog_type_str(prog_type: u32) -> *const c_char {
    static NAMES: Names = OnceLock::new();
    call(|| Ok(text(&NAMES, ProgType::ALL.iter().map(|t| (*t as u32, t.name())), prog_type)))
}

/// The name of a map type; NULL for an unknown one.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_bpf_map_type_str(map_type: u32) -> *const c_char {
    static NAMES: Names = OnceLock::new();
    call(|| Ok(text(&NAMES, MapType::ALL.iter().map(|t| (*t as u32, t.name())), map_type)))
}

/// The name of an attach type; NULL for an unknown one.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_bpf_attach_type_str(attach_type: u32) -> *const c_char {
    static NAMES: Names = OnceLock::new();
    // Attach types begin with 0, which takes the place of "unspec".
    call(|| Ok(text(&NAMES, AttachType::ALL.iter().map(|t| (*t as u32, t.name())), attach_type)))
}

/// The program type and attach type that a section's name says; `-ESRCH` for a name that says none.
///
/// # Safety
/// `section` is NULL or a string; the others are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libbpf_prog_type_by_name(
    section: *const c_char,
    prog_type: *mut u32,
    attach_type: *mut u32,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let sec = Sec::parse(unsafe { name(section) }?).ok_or(Errno::ESRCH)?;
        // SAFETY: the caller's duty, passed on.
        unsafe { put(prog_type, sec.prog_type as u32) };
        // SAFETY: the caller's duty, passed on.
        unsafe { put(attach_type, sec.attach_type as u32) };
        Ok(())
    })
}

/// The attach type that a section's name says; `-EINVAL` for a name that says none.
///
/// # Safety
/// As for `libbpf_prog_type_by_name`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libbpf_attach_type_by_name(section: *const c_char, attach_type: *mut u32) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let sec = Sec::parse(unsafe { name(section) }?).ok_or(Errno::EINVAL)?;
        // SAFETY: the caller's duty, passed on.
        unsafe { put(attach_type, sec.attach_type as u32) };
        Ok(())
    })
}

/// Whether programs of this type run here: 1 or 0.
#[unsafe(no_mangle)]
pub extern "C" fn libbpf_probe_bpf_prog_type(prog_type: u32, opts: *const c_void) -> c_int {
    call(|| {
        if !opts.is_null() {
            return Err(Errno::EINVAL);
        }
        Ok(c_int::from(ProgType::from_u32(prog_type).and_then(CtxType::of).is_some()))
    })
}
