//! Lists and trees of objects, linked through nodes inside them.
//!
//! Every operation happens under the lock that the verifier proved held, or on a value that nobody else can reach.
//! Invariant: a node's `owner` is the address of the head or root that it hangs in, and 0 when it hangs in none. Kernel
//! counterpart: `bpf_list_push_front_impl`, `bpf_rbtree_add_impl` and others, kernel/bpf/helpers.c, 6.18.

pub(crate) mod list;
pub(crate) mod tree;

use std::sync::atomic::{AtomicU64, Ordering};

/// A word of a head, root or node.
///
/// # Safety
/// `at` is the address of a word of a node, head or root that is alive.
unsafe fn word<'a>(at: u64, index: u64) -> &'a AtomicU64 {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    let at = std::ptr::with_exposed_provenance_mut::<u64>((at + index * 8) as usize);
    // SAFETY: alive and aligned to 8 (caller); nodes, heads and roots are touched through atomics only.
    unsafe { AtomicU64::from_ptr(at) }
}

/// # Safety
/// As for [`word`].
unsafe fn get(at: u64, index: u64) -> u64 {
    // SAFETY: the caller's duty.
    unsafe { word(at, index) }.load(Ordering::Relaxed)
}

/// # Safety
/// As for [`word`].
unsafe fn set(at: u64, index: u64, value: u64) {
    // SAFETY: the caller's duty.
    unsafe { word(at, index) }.store(value, Ordering::Relaxed);
}

/// Marks a free node as being inserted; false if it hangs somewhere.
///
/// # Safety
/// The word is a node's owner, and the node is alive.
unsafe fn claim(node: u64, owner: u64) -> bool {
    /// No address of a head or root.
    const CLAIMED: u64 = 1;
    // SAFETY: the caller's duty. Two threads may insert one counted object into two lists at once.
    unsafe { word(node, owner) }.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
