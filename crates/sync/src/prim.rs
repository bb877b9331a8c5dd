//! The primitives that loom replaces: atomics, the lock, the two halves of the asymmetric fence, waiting.
//!
//! Invariant: nothing else in the protocol modules names `std::sync`. loom knows neither compiler fences nor
//! membarrier, so both halves are full fences there; that models the pair as the kernel implements it and can hide only
//! an error that two full fences would repair. The stress tests run the real ones.

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard};
    use std::time::Duration;

    use rustix::thread::futex;

    /// The cheap half: orders this thread's accesses for whoever runs the heavy half, at no cost.
    #[inline(always)]
    pub(crate) fn light_barrier() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// A full fence of this thread, for the symmetric mode.
    pub(crate) fn full_fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Gives the CPU a moment.
    pub(crate) fn pause() {
        std::hint::spin_loop();
    }

    /// Sleeps while `word` holds `expected`, at most for `limit`; may return early.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, limit: Duration) {
        let limit = futex::Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // The caller looks at the word again whatever the outcome was: value changed, woken, timed out, interrupted.
        let _ = futex::wait(word, futex::Flags::PRIVATE, expected, Some(&limit));
    }

    /// Wakes every thread in [`wait`] on `word`.
    pub(crate) fn wake(word: &AtomicU32) {
        // Fails only for a bad address.
        let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
    }

    /// A monotonic clock.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Clock(std::time::Instant);

    impl Clock {
        pub(crate) fn now() -> Clock {
            Clock(std::time::Instant::now())
        }
        pub(crate) fn elapsed(self) -> Duration {
            self.0.elapsed()
        }
    }
}

#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    use std::time::Duration;

    pub(crate) fn light_barrier() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn full_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn pause() {
        loom::thread::yield_now();
    }

    pub(crate) fn wait(_word: &AtomicU32, _expected: u32, _limit: Duration) {
        loom::thread::yield_now();
    }

    pub(crate) fn wake(_word: &AtomicU32) {}

    /// Time does not pass in a model: every slice is over at once.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Clock;

    impl Clock {
        pub(crate) fn now() -> Clock {
            Clock
        }
        pub(crate) fn elapsed(self) -> Duration {
            Duration::MAX
        }
    }
}

#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use real::*;

/// Locks, ignoring poison: the states behind our locks are consistent at every point that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
