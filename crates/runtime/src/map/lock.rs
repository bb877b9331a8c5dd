//! Locks of map internals: four bytes, so that a hash bucket or a value can carry its own.
//!
//! A thread that holds one can be preempted, which the kernel's spin locks rule out; so a waiter spins a little and
//! then sleeps. Invariant: the word is 0 (free), 1 (held) or 2 (held, and someone may be asleep).
//! Kernel counterpart: `raw_spinlock_t` of `struct bucket` (kernel/bpf/hashtab.c), `bpf_spin_lock` (6.18).

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// How often a waiter looks before it sleeps. A critical section is tens of nanoseconds.
const SPINS: u32 = 100;

/// A mutex in one word.
#[repr(transparent)]
#[derive(Default)]
pub(crate) struct Lock(AtomicU32);

/// Holds a [`Lock`] until it drops.
pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    /// Takes the lock, waiting if need be.
    #[inline]
    pub(crate) fn acquire(&self) -> Held<'_> {
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slow();
        }
        Held(self)
    }

    #[cold]
    fn acquire_slow(&self) {
        for _ in 0..SPINS {
            if self.0.load(Ordering::Relaxed) == 0
                && self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            std::hint::spin_loop();
        }
        while self.0.swap(2, Ordering::Acquire) != 0 {
            // An error is a wake-up before its time or a changed word: both mean to look again.
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, 2, None);
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.0.swap(0, Ordering::Release) == 2 {
            // Nobody to wake is no error.
            let _ = futex::wake(&self.0.0, futex::Flags::PRIVATE, 1);
        }
    }
}

/// Takes a `bpf_spin_lock` in a value: 0 is free and 1 is held, which is all that a program's view allows.
pub(crate) fn spin_acquire(lock: &AtomicU32) {
    let mut spins = 0_u32;
    while lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spins += 1;
        if spins.is_multiple_of(SPINS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Gives a `bpf_spin_lock` back.
pub(crate) fn spin_release(lock: &AtomicU32) {
    lock.store(0, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;

    struct Shared {
        lock: Lock,
        spin: AtomicU32,
        count: UnsafeCell<u64>,
    }
    // SAFETY: the tests access the count with a lock held.
    unsafe impl Sync for Shared {}

    fn count(increment: impl Fn(&Shared) + Sync) -> u64 {
        let shared = Shared { lock: Lock::default(), spin: AtomicU32::new(0), count: UnsafeCell::new(0) };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| increment(&shared)));
            }
        });
        shared.count.into_inner()
    }

    #[test]
    fn excludes() {
        let total = count(|shared| {
            let _held = shared.lock.acquire();
            // SAFETY: the lock is held.
            unsafe { *shared.count.get() += 1 };
        });
        assert_eq!(total, 80_000);
    }

    #[test]
    fn spin_lock_excludes() {
        let total = count(|shared| {
            spin_acquire(&shared.spin);
            // SAFETY: the lock is held.
            unsafe { *shared.count.get() += 1 };
            spin_release(&shared.spin);
        });
        assert_eq!(total, 80_000);
    }
}
