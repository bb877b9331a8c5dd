//! Ring buffers.
//!
//! Invariant: a record that was reserved is submitted or discarded by the same run (the verifier proves it). Kernel
//! counterpart: kernel/bpf/ringbuf.c, 6.18.

use skep_abi::Errno;

use super::dynptr::{self, Dynptr, Kind};
use super::{HelperFn, entry, low, status};
use crate::frame::Run;
use crate::map::MapObject;
use crate::map::ringbuf::{Query, RingBuf};

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (130, entry!(output)),
        (131, entry!(reserve)),
        (132, entry!(submit)),
        (133, entry!(discard)),
        (134, entry!(query)),
        (198, entry!(reserve_dynptr)),
        (199, entry!(submit_dynptr)),
        (200, entry!(discard_dynptr)),
    ]
}

/// The ring buffer at `map`.
///
/// # Safety
/// `map` is a map of the program (prototype).
unsafe fn ring<'a>(map: u64) -> Option<&'a RingBuf> {
    // SAFETY: the caller's duty.
    let map = unsafe { MapObject::from_addr(map) };
    map.downcast()
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

unsafe fn output(_run: Run, [map, data, size, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (prototype).
    let Some(ring) = (unsafe { ring(map) }) else { return Errno::EINVAL.as_return() };
    // SAFETY: r2 is readable for r3 bytes (prototype).
    status(unsafe { ring.output(pointer(data), size, flags) })
}

unsafe fn reserve(run: Run, [map, size, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (prototype).
    let Some(ring) = (unsafe { ring(map) }) else { return 0 };
    let record = ring.reserve(size, flags).expose_provenance() as u64;
    if record != 0 {
        run.grant(record, size, true);
    }
    record
}

/// # Safety
/// `record` is a reserved record of this run.
unsafe fn commit(run: Run, record: u64, flags: u64, discard: bool) -> u64 {
    run.revoke(record);
    // SAFETY: the caller's duty.
    unsafe { RingBuf::commit(pointer(record), flags, discard) };
    0
}

unsafe fn submit(run: Run, [record, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a reserved record (prototype).
    unsafe { commit(run, record, flags, false) }
}

unsafe fn discard(run: Run, [record, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a reserved record (prototype).
    unsafe { commit(run, record, flags, true) }
}

unsafe fn query(_run: Run, [map, what, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (prototype).
    let Some(ring) = (unsafe { ring(map) }) else { return 0 };
    let what = match what {
        0 => Query::Available,
        1 => Query::Size,
        2 => Query::ConsumerPosition,
        3 => Query::ProducerPosition,
        _ => return 0,
    };
    ring.query(what)
}

unsafe fn reserve_dynptr(run: Run, [map, size, flags, to, _]: [u64; 5]) -> u64 {
    // SAFETY: r4 is room for a dynptr (prototype).
    let to = unsafe { dynptr::at(to) };
    let store = |dynptr: Dynptr, result: Result<(), Errno>| {
        // SAFETY: as above.
        unsafe { to.write_unaligned(dynptr) };
        status(result)
    };
    if flags != 0 {
        return store(Dynptr::NULL, Err(Errno::EINVAL));
    }
    if low(size) > dynptr::MAX_SIZE {
        return store(Dynptr::NULL, Err(Errno::E2BIG));
    }
    // SAFETY: the caller's duties, passed on.
    match unsafe { reserve(run, [map, u64::from(low(size)), 0, 0, 0]) } {
        0 => store(Dynptr::NULL, Err(Errno::EINVAL)),
        record => store(Dynptr::new(Kind::Ringbuf, record, low(size), false), Ok(())),
    }
}

/// # Safety
/// `dynptr` is a dynptr that a reservation made (prototype).
unsafe fn commit_dynptr(run: Run, dynptr: u64, flags: u64, discard: bool) -> u64 {
    // SAFETY: the caller's duty.
    let at = unsafe { dynptr::at(dynptr) };
    // SAFETY: as above.
    let dynptr = unsafe { at.replace(Dynptr::NULL) };
    if dynptr.data != 0 {
        // SAFETY: the dynptr owned the record.
        unsafe { commit(run, dynptr.data, flags, discard) };
    }
    0
}

unsafe fn submit_dynptr(run: Run, [dynptr, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: the caller's duty, passed on.
    unsafe { commit_dynptr(run, dynptr, flags, false) }
}

unsafe fn discard_dynptr(run: Run, [dynptr, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: the caller's duty, passed on.
    unsafe { commit_dynptr(run, dynptr, flags, true) }
}
