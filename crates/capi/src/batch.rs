//! Many elements in one call.
//!
//! Invariant: `*count` is how many were done, whatever the result. Counterpart: `bpf_map_do_batch`,
//! kernel/bpf/syscall.c, 6.18.

use std::ffi::{c_int, c_void};

use skep::RawMap;
use skep_abi::Errno;

use crate::boundary::{bytes, options, put, put_bytes, status};
use crate::elem::{store, value_size};
use crate::handle;

/// `struct bpf_map_batch_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// Flags of each element.
    pub elem_flags: u64,
    /// Flags of the batch; none are known.
    pub flags: u64,
}

/// The map, the flags of each element, and how many may be done; `*count` is 0 from here on.
///
/// # Safety
/// `count` is NULL or a number; `opts` is NULL or begins with its size.
unsafe fn begin(fd: c_int, count: *mut u32, opts: *const BatchOpts) -> Result<(RawMap, u64, u32), Errno> {
    // SAFETY: the caller's duty, passed on.
    let opts = unsafe { options(opts) }?.unwrap_or(BatchOpts { sz: size_of::<BatchOpts>(), elem_flags: 0, flags: 0 });
    let map = handle::map(fd)?;
    if opts.flags != 0 || count.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: not NULL, and a number (caller).
    let wanted = unsafe { count.read_unaligned() };
    Ok((map, opts.elem_flags, wanted))
}

/// # Safety
/// As the header says of `bpf_map_lookup_batch`.
unsafe fn find(
    fd: c_int,
    cursors: (*const c_void, *mut c_void),
    out: (*mut c_void, *mut c_void),
    count: *mut u32,
    opts: *const BatchOpts,
    delete: bool,
) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    let (map, flags, wanted) = unsafe { begin(fd, count, opts) }?;
    let support = map.object().ops().batch_support();
    let cursor_size = if support.by_bucket { 4 } else { map.info().key_size as usize };
    // SAFETY: a cursor of the map's (caller).
    let from = if cursors.0.is_null() { None } else { Some(unsafe { bytes(cursors.0, cursor_size) }?) };
    let batch =
        if delete { map.lookup_and_delete_batch(from, wanted, flags) } else { map.lookup_batch(from, wanted, flags) };
    let batch = match batch {
        Ok(batch) => batch,
        Err(errno) => {
            if errno == Errno::ENOSPC {
                // SAFETY: a number (caller).
                unsafe { put(count, 0) };
            }
            return Err(errno);
        }
    };
    // SAFETY: room for `wanted` keys (caller), and there are no more.
    unsafe { put_bytes(out.0, &batch.keys) }?;
    // SAFETY: room for `wanted` values (caller), and there are no more.
    unsafe { put_bytes(out.1, &batch.values) }?;
    // SAFETY: room for a cursor (caller).
    unsafe { put_bytes(cursors.1, &batch.next) }?;
    // SAFETY: a number (caller).
    unsafe { put(count, batch.count) };
    if batch.end { Err(Errno::ENOENT) } else { Ok(()) }
}

macro_rules! lookups {
    ($($(#[$doc:meta])* $function:ident = $delete:literal;)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// `keys` and `values` have room for `*count`; cursors have their size; `in_batch` may be NULL.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(
            fd: c_int,
            in_batch: *mut c_void,
            out_batch: *mut c_void,
            keys: *mut c_void,
            values: *mut c_void,
            count: *mut u32,
            opts: *const BatchOpts,
        ) -> c_int {
            // SAFETY: the caller's duty, passed on.
            status(|| unsafe { find(fd, (in_batch, out_batch), (keys, values), count, opts, $delete) })
        }
    )+ };
}

lookups! {
    /// Up to `*count` elements, from the start (`in_batch` NULL) or from where another call's `out_batch` says; `-ENOENT` with
    /// the last ones. A cursor has 4 bytes for hash maps, a key's size for others.
    bpf_map_lookup_batch = false;
    /// As `bpf_map_lookup_batch`; the elements are removed.
    bpf_map_lookup_and_delete_batch = true;
}

/// Bytes of `count` items.
fn total(count: u32, size: usize) -> Result<usize, Errno> {
    usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or(Errno::E2BIG)
}

/// Sets `*count` elements.
///
/// # Safety
/// `keys` and `values` hold `*count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_update_batch(
    fd: c_int,
    keys: *const c_void,
    values: *const c_void,
    count: *mut u32,
    opts: *const BatchOpts,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let (map, flags, wanted) = unsafe { begin(fd, count, opts) }?;
        let (key_size, value_size) = (map.info().key_size as usize, value_size(&map, flags));
        // SAFETY: the caller's duty, passed on.
        let keys = unsafe { bytes(keys, total(wanted, key_size)?) }?;
        // SAFETY: the caller's duty, passed on.
        let values = unsafe { bytes(values, total(wanted, value_size)?) }?;
        let result = if map.info().holds_references() && map.object().ops().batch_support().update {
            let mut done = 0;
            let pairs = keys.chunks(key_size.max(1)).zip(values.chunks(value_size.max(1)));
            let failed = pairs.map(|(key, value)| store(&map, key, value, flags)).find_map(|result| {
                done += u32::from(result.is_ok());
                result.err()
            });
            failed.map_or(Ok(done), |errno| Err((errno, done)))
        } else {
            map.update_batch(keys, values, flags)
        };
        // SAFETY: the caller's duty, passed on.
        unsafe { finish(count, result) }
    })
}

/// Removes `*count` keys.
///
/// # Safety
/// `keys` holds `*count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_delete_batch(
    fd: c_int,
    keys: *const c_void,
    count: *mut u32,
    opts: *const BatchOpts,
) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let (map, flags, wanted) = unsafe { begin(fd, count, opts) }?;
        if flags & !skep_abi::update_flags::BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        let keys = unsafe { bytes(keys, total(wanted, map.info().key_size as usize)?) }?;
        // SAFETY: the caller's duty, passed on.
        unsafe { finish(count, map.delete_batch(keys)) }
    })
}

/// Says how many were done.
///
/// # Safety
/// `count` is NULL or a number.
unsafe fn finish(count: *mut u32, result: Result<u32, (Errno, u32)>) -> Result<(), Errno> {
    let (result, done) = match result {
        Ok(done) => (Ok(()), done),
        Err((errno, done)) => (Err(errno), done),
    };
    // SAFETY: the caller's duty, passed on.
    unsafe { put(count, done) };
    result
}
