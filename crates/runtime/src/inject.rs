//! Deliberate mistakes, for proofs under load that must be able to fail: `cargo xtask soak tailcall --mutants`.
//!
//! With the feature `inject` off, [`made`] answers "no" at compile time. Invariant: nothing outside of a soak sets a mistake.

/// A mistake that the code must not contain; a soak has to notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mistake {
    /// A target that left a slot is released at once, under runs that may be inside of it.
    NoGrace = 1,
    /// An emptied slot keeps its word.
    StaleWord,
    /// Code whose jumps follow a slot is not told that it was emptied.
    UntoldWatcher,
    /// Code that comes to an array is not told what its slots hold.
    BlindWatcher,
    /// A jump to a new target is opened before it leads there.
    GateFirst,
    /// Of several jumps that follow a slot, the last is left out.
    OneSiteLess,
    /// One program of 64 is kept for ever.
    Leak,
    /// A version that was replaced is taken apart at once, under runs that are inside of it.
    RetiredAtOnce,
    /// The targets of a new version go into the arrays of the old one too, slot by slot.
    SlotBySlot,
}

impl Mistake {
    /// Those of tail calls, and those of generations.
    pub const OF_TAIL_CALLS: [Self; 7] = [
        Self::NoGrace,
        Self::StaleWord,
        Self::UntoldWatcher,
        Self::BlindWatcher,
        Self::GateFirst,
        Self::OneSiteLess,
        Self::Leak,
    ];
    /// See [`Mistake::OF_TAIL_CALLS`].
    pub const OF_GENERATIONS: [Self; 3] = [Self::RetiredAtOnce, Self::SlotBySlot, Self::Leak];
}

#[cfg(feature = "inject")]
mod on {
    use super::Mistake;
    use std::sync::atomic::{AtomicU32, Ordering};

    static MADE: AtomicU32 = AtomicU32::new(0);

    /// Makes this mistake from now on.
    pub fn make(mistake: Mistake) {
        MADE.store(mistake as u32, Ordering::SeqCst);
    }

    /// Whether this mistake is made.
    #[must_use]
    pub fn made(mistake: Mistake) -> bool {
        MADE.load(Ordering::Relaxed) == mistake as u32
    }
}

#[cfg(feature = "inject")]
pub use on::{made, make};

/// Whether this mistake is made: never.
#[cfg(not(feature = "inject"))]
#[inline(always)]
#[must_use]
pub const fn made(_: Mistake) -> bool {
    false
}
