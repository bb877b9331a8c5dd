//! Locks that may refuse to be taken (`struct bpf_res_spin_lock`), and interrupt flags.
//!
//! The word of a lock is 0, or one more than the number of the vCPU that holds it. Whoever waits says for which lock, so that two
//! that wait for each other notice; what else goes wrong ends after a quarter of a second. Invariant: a lock is taken by a
//! compare-and-exchange from 0 alone, and given back by who took it. A holder may lose its real CPU, unlike in the kernel, so
//! waiters yield. Kernel counterpart: kernel/bpf/rqspinlock.c, 6.18.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_abi::Errno;
use skep_sync::CpuId;

use crate::frame::{BLOCK_OFF, CpuBlock, HELD_LOCKS, Run};
use crate::helper::entry;
use crate::map::HelperFn;

/// Attempts before the thread yields, and looks whether the others go on.
const SPINS: u32 = 64;
/// How long a lock is waited for (`RES_DEF_TIMEOUT`).
const PATIENCE: Duration = Duration::from_millis(250);

pub(super) fn table() -> Vec<(&'static str, HelperFn)> {
    vec![
        ("bpf_res_spin_lock", entry!(lock)),
        ("bpf_res_spin_lock_irqsave", entry!(lock_irqsave)),
        ("bpf_res_spin_unlock", entry!(unlock)),
        ("bpf_res_spin_unlock_irqrestore", entry!(unlock_irqrestore)),
        ("bpf_local_irq_save", entry!(irq_save)),
        ("bpf_local_irq_restore", entry!(irq_restore)),
    ]
}

unsafe fn lock(run: Run, [lock, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a lock of a map value or object (prototype).
    match unsafe { take(&run, lock) } {
        Ok(()) => 0,
        // The verifier takes the whole register for a negative number.
        Err(errno) => i64::from(errno.0).wrapping_neg().cast_unsigned(),
    }
}

unsafe fn unlock(run: Run, [lock, ..]: [u64; 5]) -> u64 {
    let block = run.block();
    block.held_len.set(block.held_len.get().saturating_sub(1));
    // SAFETY: r1 is a lock of a map value or object (prototype).
    unsafe { word(lock) }.store(0, Ordering::Release);
    0
}

unsafe fn lock_irqsave(run: Run, [word, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a lock of a map value or object (prototype).
    let result = unsafe { lock(run, [word, 0, 0, 0, 0]) };
    if result == 0 {
        // SAFETY: r2 is a word of the program's stack (prototype).
        unsafe { irq_save(run, [flags, 0, 0, 0, 0]) };
    }
    result
}

unsafe fn unlock_irqrestore(run: Run, [word, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a lock of a map value or object (prototype).
    unsafe { unlock(run, [word, 0, 0, 0, 0]) }
}

/// A run has no interrupts to keep away. The program cannot look at what is saved.
unsafe fn irq_save(_run: Run, [flags, ..]: [u64; 5]) -> u64 {
    let flags: *mut u64 = std::ptr::with_exposed_provenance_mut(flags as usize);
    // SAFETY: r1 is an aligned word of the program's stack (prototype).
    unsafe { flags.write(0) };
    0
}

unsafe fn irq_restore(_run: Run, _: [u64; 5]) -> u64 {
    0
}

/// # Safety
/// `lock` is the address of a `bpf_res_spin_lock` field of a live map value or object.
unsafe fn word<'a>(lock: u64) -> &'a AtomicU32 {
    let lock = std::ptr::with_exposed_provenance_mut(lock as usize);
    // SAFETY: the field is aligned to 4 bytes and used through atomics only (caller).
    unsafe { AtomicU32::from_ptr(lock) }
}

/// # Safety
/// As for [`word`].
unsafe fn take(run: &Run, address: u64) -> Result<(), Errno> {
    // SAFETY: the caller's duty.
    let lock = unsafe { word(address) };
    let me = run.cpu() + 1;
    let block = run.block();
    if lock.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
        block.waits_for.store(address, Ordering::Relaxed);
        let waited = wait(run, lock, me);
        block.waits_for.store(0, Ordering::Relaxed);
        waited?;
    }
    let held = block.held_len.get();
    if let Some(slot) = block.held.get(held as usize) {
        slot.set(address);
    }
    block.held_len.set(held + 1);
    Ok(())
}

/// Waits until the lock is taken, or will not be.
fn wait(run: &Run, lock: &AtomicU32, me: u32) -> Result<(), Errno> {
    let started = Instant::now();
    let mut attempts = 0_u32;
    loop {
        let owner = lock.load(Ordering::Relaxed);
        if owner == me {
            return Err(Errno::EDEADLOCK);
        }
        if owner == 0 && lock.compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
        attempts = attempts.wrapping_add(1);
        if !attempts.is_multiple_of(SPINS) {
            std::hint::spin_loop();
            continue;
        }
        // Who holds it waits for what this vCPU holds, and holds it still.
        if owner != 0 && waits_for_mine(run, owner - 1) && lock.load(Ordering::Relaxed) == owner {
            return Err(Errno::EDEADLOCK);
        }
        if started.elapsed() > PATIENCE {
            return Err(Errno::ETIMEDOUT);
        }
        std::thread::yield_now();
    }
}

/// Whether vCPU `other` waits for a lock that this one holds.
fn waits_for_mine(run: &Run, other: u32) -> bool {
    let cpus = &run.engine().cpus;
    if other as usize >= cpus.n_possible() {
        return false;
    }
    let block: NonNull<CpuBlock> =
        // SAFETY: the block lies at this offset of every region of the set (engine creation checks that).
        unsafe { cpus.base(CpuId(other)).byte_add(BLOCK_OFF as usize) }.cast();
    // SAFETY: a field of a live block.
    let field = unsafe { &raw const (*block.as_ptr()).waits_for };
    // SAFETY: initialised, used through atomics only, and as long-lived as the engine.
    let wanted = unsafe { AtomicU64::from_ptr(field.cast_mut().cast()) }.load(Ordering::Relaxed);
    let mine = run.block();
    let held = (mine.held_len.get() as usize).min(HELD_LOCKS);
    wanted != 0 && mine.held[..held].iter().any(|lock| lock.get() == wanted)
}
