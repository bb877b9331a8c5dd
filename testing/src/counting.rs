//! An allocator that counts what is in use: what a soak compares to say that memory is flat.
//!
//! Invariant: the count is exact; a program that does not make it the global allocator reads zero.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting bytes in use.
#[derive(Debug)]
pub struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the heap in use.
#[must_use]
pub fn bytes_in_use() -> usize {
    BYTES.load(Ordering::Relaxed)
}

// SAFETY: every call is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}
