//! Deliberate mistakes, for tests: what a proof by execution needs to be able to fail.
//!
//! With the feature `shadow` off, every question is answered "no" at compile time. Invariant: nothing outside of tests makes
//! any. Kernel counterpart: none.

/// A mistake that the verifier must not make; shadow execution has to notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "shadow"), expect(unreachable_pub, reason = "tests reach it with the feature"))]
pub enum Mutant {
    /// A sum's bounds are kept although it may wrap.
    WrappingSum,
    /// The upper half survives a 32-bit operation.
    NoZeroExtension,
    /// Negative immediates are not sign-extended.
    UnsignedImmediate,
    /// The bits of a byte swap stay where they were.
    UnmovedBytes,
    /// `>=` is taken for `>`.
    StrictBranch,
    /// `jset` says that every bit of the mask is set.
    AllBitsSet,
    /// A scalar that was copied and moved on learns the bounds of the copy unmoved.
    UnmovedLink,
    /// Packet pointers survive what moves the packet.
    StalePacket,
    /// A comparison with the packet's end proves a byte too much.
    LongPacket,
    /// A pointer that may be null is taken for one that is not, on both sides of its test.
    NeverNull,
    /// A store of data leaves the spilled register that it overwrites.
    StaleSpill,
    /// What an atomic operation fetched is taken for what was there before.
    StaleFetch,
    /// Memory may be accessed eight bytes beyond its end.
    BeyondEnd,
    /// What scalars were does not matter when states are compared.
    BlindPruning,
    /// Which scalars were equal does not matter when states are compared.
    IdlessPruning,
    /// A packet pointer of less proven range covers one of more.
    ShortPruning,
    /// Nothing is tracked back to what it was made from.
    NoPrecision,
    /// A callback is not walked.
    NoCallback,
    /// The index that a loop's callback is given is that of the first call.
    FirstIndex,
    /// What was precise in a kept state is not traced back from a path that ends within it.
    ForgetfulJoin,
    /// A copy is not traced back to what it is a copy of.
    UntracedCopy,
    /// Scalars that a jump narrowed together are not traced back together.
    UntracedLinks,
    /// The arguments of a function are not traced back to its caller.
    UntracedArguments,
    /// A saved scalar is not traced back to the register that was saved.
    UntracedSpill,
    /// Data that a program stores on the stack are taken for zero.
    ZeroData,
}

#[cfg(feature = "shadow")]
impl Mutant {
    /// Every mutant.
    pub const ALL: [Self; 25] = [
        Self::WrappingSum,
        Self::NoZeroExtension,
        Self::UnsignedImmediate,
        Self::UnmovedBytes,
        Self::StrictBranch,
        Self::AllBitsSet,
        Self::UnmovedLink,
        Self::StalePacket,
        Self::LongPacket,
        Self::NeverNull,
        Self::StaleSpill,
        Self::StaleFetch,
        Self::BeyondEnd,
        Self::BlindPruning,
        Self::IdlessPruning,
        Self::ShortPruning,
        Self::NoPrecision,
        Self::NoCallback,
        Self::FirstIndex,
        Self::ForgetfulJoin,
        Self::UntracedCopy,
        Self::UntracedLinks,
        Self::UntracedArguments,
        Self::UntracedSpill,
        Self::ZeroData,
    ];
}

#[cfg(feature = "shadow")]
mod on {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Makes this mistake from now on, on this thread; `None` for none.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether to make it here.
    pub(crate) fn active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}

#[cfg(feature = "shadow")]
pub(crate) use on::active;
#[cfg(feature = "shadow")]
pub use on::set;

/// Whether to make it here: never.
#[cfg(not(feature = "shadow"))]
#[inline(always)]
pub(crate) const fn active(_mutant: Mutant) -> bool {
    false
}
