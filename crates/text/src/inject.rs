//! Delays, faults and deliberate mistakes, for tests: what a proof under load needs to be able to fail.
//!
//! With the feature `inject` off, every function here is empty and every question is answered "no" at compile time.
//! Invariant: nothing outside of tests sets anything here.

/// A place between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Point {
    /// The batch is published, no byte has changed.
    Published,
    /// The trap bytes are written, not yet serialized.
    TrapsWritten,
    /// The tails are written, not yet serialized.
    TailsWritten,
    /// The first bytes are written, not yet serialized.
    HeadsWritten,
    /// The third barrier is over, the references are still held.
    BeforeDrop,
    /// The first instructions of the handler.
    HandlerEntry,
    /// The handler holds a reference and has not looked yet.
    HandlerHolds,
    /// Between two sites of one step.
    BetweenSites,
}

/// How many points there are.
pub const POINTS: usize = 8;

/// A mistake that the protocol must not contain; the soak has to notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mutant {
    /// No barrier after the trap bytes.
    NoFirstSync = 1,
    /// No barrier after the tails.
    NoSecondSync = 2,
    /// No barrier after the first bytes.
    NoThirdSync = 4,
    /// The references are dropped after the trap bytes, and not waited for.
    EarlyDrop = 8,
    /// The vector is not sorted.
    Unsorted = 16,
    /// A trap that finds no batch goes to the previous handler.
    NoLateRule = 32,
}

impl Mutant {
    /// Every mutant.
    pub const ALL: [Mutant; 6] = [
        Mutant::NoFirstSync,
        Mutant::NoSecondSync,
        Mutant::NoThirdSync,
        Mutant::EarlyDrop,
        Mutant::Unsorted,
        Mutant::NoLateRule,
    ];

    /// The name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mutant::NoFirstSync => "no-first-sync",
            Mutant::NoSecondSync => "no-second-sync",
            Mutant::NoThirdSync => "no-third-sync",
            Mutant::EarlyDrop => "early-drop",
            Mutant::Unsorted => "unsorted",
            Mutant::NoLateRule => "no-late-rule",
        }
    }
}

#[cfg(feature = "inject")]
mod on {
    use super::{Mutant, POINTS, Point};
    use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

    static DELAYS: [AtomicU32; POINTS] = [const { AtomicU32::new(0) }; POINTS];
    static MUTANTS: AtomicU32 = AtomicU32::new(0);
    static FAIL_STEP: AtomicU32 = AtomicU32::new(0);
    static VIOLATIONS: AtomicU64 = AtomicU64::new(0);
    /// The addresses of hooks, 0 for none.
    static AFTER_SYNC: AtomicUsize = AtomicUsize::new(0);
    static STEP: AtomicUsize = AtomicUsize::new(0);
    static LATE_DELAYS: AtomicU32 = AtomicU32::new(0);

    /// Delays every pass of `point` by about `loops` pauses of the CPU.
    pub fn set_delay(point: Point, loops: u32) {
        DELAYS[point as usize].store(loops, Ordering::SeqCst);
    }

    /// Makes one handler in `n` wait long enough to be late; 0 for none.
    pub fn set_late(n: u32) {
        LATE_DELAYS.store(n, Ordering::SeqCst);
    }

    /// Switches a mutant on or off.
    pub fn set_mutant(mutant: Mutant, on: bool) {
        if on {
            MUTANTS.fetch_or(mutant as u32, Ordering::SeqCst);
        } else {
            MUTANTS.fetch_and(!(mutant as u32), Ordering::SeqCst);
        }
    }

    /// Makes the barrier after step `step` (2, 3 or 4) fail; 0 for none.
    pub fn set_failing_step(step: u8) {
        FAIL_STEP.store(step.into(), Ordering::SeqCst);
    }

    /// Adds to the CPUs that a core-serializing barrier serializes: `after_sync` runs after each. `step` runs at every
    /// point of a poke, in the poker's thread.
    pub fn set_hooks(step: Option<fn(Point)>, after_sync: Option<fn()>) {
        let step = step.map_or(0, |hook| hook as usize);
        let after_sync = after_sync.map_or(0, |hook| hook as usize);
        STEP.store(step, Ordering::SeqCst);
        AFTER_SYNC.store(after_sync, Ordering::SeqCst);
    }

    /// Broken promises that the code noticed itself.
    #[must_use]
    pub fn violations() -> u64 {
        VIOLATIONS.load(Ordering::SeqCst)
    }

    /// Forgets the violations.
    pub fn reset_violations() {
        VIOLATIONS.store(0, Ordering::SeqCst);
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn violation() {
        VIOLATIONS.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn at(point: Point) {
        let loops = DELAYS[point as usize].load(Ordering::Relaxed);
        for _ in 0..loops {
            std::hint::spin_loop();
        }
        if matches!(point, Point::HandlerEntry | Point::HandlerHolds) {
            if point == Point::HandlerEntry {
                late_delay();
            }
            return;
        }
        let step = STEP.load(Ordering::SeqCst);
        if step != 0 {
            // SAFETY: `set_hooks` stored the address of such a function.
            let step = unsafe { std::mem::transmute::<usize, fn(Point)>(step) };
            step(point);
        }
    }

    /// Sleeps in one handler of `n`, by a system call that is safe there.
    fn late_delay() {
        static TICK: AtomicU32 = AtomicU32::new(0);
        let n = LATE_DELAYS.load(Ordering::Relaxed);
        if n != 0 && TICK.fetch_add(1, Ordering::Relaxed).is_multiple_of(n) {
            let time = libc::timespec { tv_sec: 0, tv_nsec: 30_000 };
            // SAFETY: sleeps; the time is valid, and the rest is not asked for.
            unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
        }
    }

    pub(crate) fn mutant(mutant: Mutant) -> bool {
        MUTANTS.load(Ordering::Relaxed) & mutant as u32 != 0
    }

    pub(crate) fn fails(step: u8) -> bool {
        FAIL_STEP.load(Ordering::SeqCst) == u32::from(step)
    }

    pub(crate) fn after_sync() {
        let hook = AFTER_SYNC.load(Ordering::SeqCst);
        if hook != 0 {
            // SAFETY: `set_hooks` stored the address of such a function.
            let hook = unsafe { std::mem::transmute::<usize, fn()>(hook) };
            hook();
        }
    }
}

#[cfg(all(feature = "inject", target_arch = "x86_64"))]
pub(crate) use on::violation;
#[cfg(feature = "inject")]
pub(crate) use on::{after_sync, at, fails, mutant};
#[cfg(feature = "inject")]
pub use on::{reset_violations, set_delay, set_failing_step, set_hooks, set_late, set_mutant, violations};

#[cfg(not(feature = "inject"))]
mod off {
    use super::{Mutant, Point};

    #[inline(always)]
    pub(crate) fn at(_: Point) {}
    #[inline(always)]
    pub(crate) fn mutant(_: Mutant) -> bool {
        false
    }
    #[inline(always)]
    pub(crate) fn fails(_: u8) -> bool {
        false
    }
    #[inline(always)]
    pub(crate) fn after_sync() {}
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn violation() {}
}

#[cfg(all(not(feature = "inject"), target_arch = "x86_64"))]
pub(crate) use off::violation;
#[cfg(not(feature = "inject"))]
pub(crate) use off::{after_sync, at, fails, mutant};
