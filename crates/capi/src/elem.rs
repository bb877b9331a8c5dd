//! Elements of maps: `bpf_map_lookup_elem` by descriptor, `bpf_map__lookup_elem` by map, and their siblings.
//!
//! Owns the sizes of what C hands in, and values that are descriptors. Invariant: no more is read or written at a pointer
//! than the map's sizes say. Counterpart: kernel/bpf/syscall.c, 6.18; `validate_map_op`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_int, c_void};

use skep::RawMap;
use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU};
use skep_abi::{Errno, MapType};
use skep_runtime::map::Slot;

use crate::boundary::{bytes, given, put_bytes, status};
use crate::handle;
use crate::map::Map;

/// Bytes of a value with these flags.
pub(crate) fn value_size(map: &RawMap, flags: u64) -> usize {
    let info = map.info();
    if flags & (BPF_F_CPU | BPF_F_ALL_CPUS) != 0 { info.value_size as usize } else { info.user_value_size() }
}

/// The key at a pointer; maps without keys take NULL only.
///
/// # Safety
/// `key` is NULL or readable for the map's key size.
unsafe fn key_at<'a>(map: &RawMap, key: *const c_void) -> Result<&'a [u8], Errno> {
    let size = map.info().key_size as usize;
    if size == 0 && !key.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty, passed on.
    unsafe { bytes(key, size) }
}

/// # Safety
/// `key` is readable and `value` writable for the map's sizes with these flags, or NULL.
unsafe fn lookup(map: &RawMap, key: *const c_void, value: *mut c_void, flags: u64) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    let key = unsafe { key_at(map, key) }?;
    let mut found = Vec::new();
    if map.info().map_type == MapType::BloomFilter {
        // It is asked about the value that the buffer holds.
        // SAFETY: the caller's duty, passed on.
        found.extend_from_slice(unsafe { bytes(value, value_size(map, flags)) }?);
        return map.lookup_into(key, &mut found, flags);
    }
    map.lookup_into(key, &mut found, flags)?;
    // SAFETY: the caller's duty, passed on.
    unsafe { put_bytes(value, &found) }
}

/// # Safety
/// `key` and `value` are readable for the map's sizes with these flags, or NULL.
unsafe fn update(map: &RawMap, key: *const c_void, value: *const c_void, flags: u64) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    let key = unsafe { key_at(map, key) }?;
    // SAFETY: the caller's duty, passed on.
    let value = unsafe { bytes(value, value_size(map, flags)) }?;
    store(map, key, value, flags)
}

/// Sets an element; descriptors in its value become what they are of.
pub(crate) fn store(map: &RawMap, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
    let word = |at: usize| {
        let word = value.get(at..).and_then(<[u8]>::first_chunk);
        word.map(|bytes| c_int::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
    };
    match map.info().map_type {
        MapType::ProgArray => map.update_slot(key, Slot::Program(handle::program(word(0)?)?.to_callee()), flags),
        MapType::ArrayOfMaps | MapType::HashOfMaps => map.update_slot(key, Slot::Map(handle::map(word(0)?)?), flags),
        MapType::Devmap | MapType::DevmapHash | MapType::Cpumap if value.len() == 8 && word(4)? > 0 => {
            let program = handle::program(word(4)?)?;
            let mut value = value.to_vec();
            value[4..].copy_from_slice(&program.id().to_ne_bytes());
            map.update(key, &value, flags)
        }
        _ => map.update(key, value, flags),
    }
}

/// # Safety
/// `key` is readable for the map's key size, or NULL.
unsafe fn delete(map: &RawMap, key: *const c_void, flags: u64) -> Result<(), Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty, passed on.
    map.delete(unsafe { key_at(map, key) }?)
}

/// # Safety
/// `key` is readable and `value` writable for the map's sizes, or NULL.
unsafe fn take(map: &RawMap, key: *const c_void, value: *mut c_void, flags: u64) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    let key = unsafe { key_at(map, key) }?;
    let found = map.lookup_and_delete(key, flags)?;
    // SAFETY: the caller's duty, passed on.
    unsafe { put_bytes(value, &found) }
}

/// # Safety
/// `key` is readable and `next` writable for the map's key size, or NULL.
unsafe fn next_key(map: &RawMap, key: *const c_void, next: *mut c_void) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    let key = if key.is_null() { None } else { Some(unsafe { key_at(map, key) }?) };
    let found = map.next_key(key)?;
    // SAFETY: the caller's duty, passed on.
    unsafe { put_bytes(next, &found) }
}

/// The value of a key, into `value`: of a per-CPU map the values of all CPUs, each rounded up to 8 bytes.
///
/// # Safety
/// `key` and `value` are NULL or have the sizes of the map's keys and values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_lookup_elem(fd: c_int, key: *const c_void, value: *mut c_void) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { lookup(&handle::map(fd)?, key, value, 0) })
}

/// As `bpf_map_lookup_elem`, with flags; with `BPF_F_CPU` and a CPU in the upper half, that CPU's value alone.
///
/// # Safety
/// As for `bpf_map_lookup_elem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_lookup_elem_flags(
    fd: c_int,
    key: *const c_void,
    value: *mut c_void,
    flags: u64,
) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { lookup(&handle::map(fd)?, key, value, flags) })
}

/// Sets the value of a key. `BPF_F_CPU` sets one CPU's value, `BPF_F_ALL_CPUS` gives one value to all.
///
/// # Safety
/// `key` and `value` are NULL or have the sizes of the map's keys and values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_update_elem(fd: c_int, key: *const c_void, value: *const c_void, flags: u64) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { update(&handle::map(fd)?, key, value, flags) })
}

/// Removes a key.
///
/// # Safety
/// `key` is NULL or has the size of the map's keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_delete_elem(fd: c_int, key: *const c_void) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { delete(&handle::map(fd)?, key, 0) })
}

/// As `bpf_map_delete_elem`; no flags are known.
///
/// # Safety
/// As for `bpf_map_delete_elem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_delete_elem_flags(fd: c_int, key: *const c_void, flags: u64) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { delete(&handle::map(fd)?, key, flags) })
}

/// The value of a key, which is removed; of a queue or stack, the next one.
///
/// # Safety
/// `key` and `value` are NULL or have the sizes of the map's keys and values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_lookup_and_delete_elem(fd: c_int, key: *const c_void, value: *mut c_void) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { take(&handle::map(fd)?, key, value, 0) })
}

/// As `bpf_map_lookup_and_delete_elem`, with flags.
///
/// # Safety
/// As for `bpf_map_lookup_and_delete_elem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_lookup_and_delete_elem_flags(
    fd: c_int,
    key: *const c_void,
    value: *mut c_void,
    flags: u64,
) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { take(&handle::map(fd)?, key, value, flags) })
}

/// The key after `key`, or the first for NULL; `-ENOENT` after the last.
///
/// # Safety
/// `key` and `next` are NULL or have the size of the map's keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_get_next_key(fd: c_int, key: *const c_void, next: *mut c_void) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { next_key(&handle::map(fd)?, key, next) })
}

/// From here on only programs change the map.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_map_freeze(fd: c_int) -> c_int {
    status(|| handle::freeze(fd))
}

/// The loaded map behind a pointer, with the sizes that were given checked.
///
/// # Safety
/// `map` is NULL or of an open object.
unsafe fn checked(map: *const Map, key_size: usize, value: Option<(usize, u64)>) -> Result<RawMap, Errno> {
    // SAFETY: the caller's duty, passed on.
    let raw = unsafe { given(map) }?.raw()?;
    let wrong_value = value.is_some_and(|(size, flags)| size != value_size(&raw, flags));
    if raw.info().key_size as usize != key_size || wrong_value { Err(Errno::EINVAL) } else { Ok(raw) }
}

macro_rules! checked_calls {
    ($($(#[$doc:meta])* $function:ident(value: $value:ty) = $run:ident;)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// `map` is NULL or of an open object; `key` and `value` are NULL or of the sizes given.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(
            map: *const Map,
            key: *const c_void,
            key_size: usize,
            value: $value,
            value_size: usize,
            flags: u64,
        ) -> c_int {
            status(|| {
                // SAFETY: the caller's duty, passed on.
                let map = unsafe { checked(map, key_size, Some((value_size, flags))) }?;
                // SAFETY: the caller's duty; the sizes are the map's.
                unsafe { $run(&map, key, value, flags) }
            })
        }
    )+ };
}

checked_calls! {
    /// As `bpf_map_lookup_elem_flags`, with the sizes checked. `-ENOENT` before load too.
    bpf_map__lookup_elem(value: *mut c_void) = lookup;
    /// As `bpf_map_update_elem`, with the sizes checked.
    bpf_map__update_elem(value: *const c_void) = update;
    /// As `bpf_map_lookup_and_delete_elem_flags`, with the sizes checked.
    bpf_map__lookup_and_delete_elem(value: *mut c_void) = take;
}

/// As `bpf_map_delete_elem_flags`, with the size checked.
///
/// # Safety
/// As for `bpf_map__lookup_elem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__delete_elem(
    map: *const Map,
    key: *const c_void,
    key_size: usize,
    flags: u64,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { checked(map, key_size, None) }?;
        // SAFETY: the caller's duty; the size is the map's.
        unsafe { delete(&map, key, flags) }
    })
}

/// As `bpf_map_get_next_key`, with the size checked.
///
/// # Safety
/// As for `bpf_map__lookup_elem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__get_next_key(
    map: *const Map,
    key: *const c_void,
    next: *mut c_void,
    key_size: usize,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { checked(map, key_size, None) }?;
        // SAFETY: the caller's duty; the size is the map's.
        unsafe { next_key(&map, key, next) }
    })
}
