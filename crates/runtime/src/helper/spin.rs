//! `struct bpf_spin_lock` in map values.
//!
//! Invariant: the word is 0 when free and 1 when held. A holder may lose its real CPU, unlike in the kernel, so waiters
//! yield. Kernel counterpart: `bpf_spin_lock`, kernel/bpf/helpers.c, 6.18.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{HelperFn, entry};
use crate::frame::Run;

/// Attempts before the thread yields.
const SPINS: u32 = 64;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(93, entry!(spin_lock)), (94, entry!(spin_unlock))]
}

/// # Safety
/// `lock` is the address of a `bpf_spin_lock` field of a live map value.
unsafe fn word<'a>(lock: u64) -> &'a AtomicU32 {
    let lock = std::ptr::with_exposed_provenance_mut(lock as usize);
    // SAFETY: the field is aligned to 4 bytes and used through atomics only (caller).
    unsafe { AtomicU32::from_ptr(lock) }
}

unsafe fn spin_lock(_run: Run, [lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a lock of a map value (prototype).
    let lock = unsafe { word(lock) };
    let mut attempts = 0;
    while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        attempts += 1;
        if attempts % SPINS == 0 {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    0
}

unsafe fn spin_unlock(_run: Run, [lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a lock of a map value (prototype).
    unsafe { word(lock) }.store(0, Ordering::Release);
    0
}
