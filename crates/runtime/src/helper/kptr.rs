//! `bpf_kptr_xchg`: pointers that map values and objects keep.
//!
//! Invariant: whoever puts a pointer in gives up its reference, whoever takes one out gets it; the exchange is the only way.
//! Kernel counterpart: `bpf_kptr_xchg`, kernel/bpf/helpers.c, 6.18.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{HelperFn, entry};
use crate::frame::Run;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(194, entry!(exchange))]
}

unsafe fn exchange(_run: Run, [field, new, ..]: [u64; 5]) -> u64 {
    let field = std::ptr::with_exposed_provenance_mut(field as usize);
    // SAFETY: r1 is a kptr field of a live value or object (prototype): 8 bytes, aligned, touched by exchanges alone.
    unsafe { AtomicU64::from_ptr(field) }.swap(new, Ordering::AcqRel)
}
