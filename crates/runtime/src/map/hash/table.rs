//! Buckets: chains that are read without a lock and changed under the bucket's.
//!
//! A reader may stand on an element while it is unlinked and used again elsewhere, and so miss a key that was there
//! all the time. So every unlinking counts: the bucket's `changes` goes up before it and again after it, before the
//! element is free. A reader that found nothing believes it only if the count is what it was when it began. Why this is
//! enough: who saw any effect of an unlinking, or of a later use of the element, sees at least one of the two steps
//! after its own start; who began between the two steps sees the replacement, which is linked before the first.
//! (The kernel marks the ends of chains instead, which catches an element that moved to another bucket, but not a key
//! that was replaced behind the reader's back.) A hit needs no check: the element had the key when it was compared.
//! A value may change under a program's hands, as in the kernel.
//! Kernel counterpart: `struct bucket`, `lookup_nulls_elem_raw` (kernel/bpf/hashtab.c, 6.18).

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use skep_abi::Errno;

use super::super::lock::{Held, Lock};
use super::super::region::Region;
use super::key::{KeyAny, KeyKind, Seed, hash_bytes, hash_of};

// An element: the next one, the hash, two bytes for LRU, the key padded to 8, the value.
const NEXT: usize = 0;
/// The hash; the link to the next free element while the element is free.
pub(super) const HASH: usize = 8;
/// Set by program lookups of LRU maps.
const REFERENCED: usize = 12;
/// Set while the element is linked in a bucket.
const LINKED: usize = 13;
/// The key.
pub(super) const KEY: usize = 16;

#[repr(C)]
struct Bucket {
    first: AtomicPtr<u8>,
    lock: Lock,
    /// Goes up twice with each unlinking.
    changes: AtomicU32,
}

/// The buckets of a map.
#[repr(C)]
pub(super) struct Table {
    buckets: *const Bucket,
    mask: u32,
    seed: Seed,
    key_size: usize,
    n_buckets: u32,
    memory: Region,
}

// SAFETY: the pointer is into `memory`, and buckets are changed under their locks.
unsafe impl Send for Table {}
// SAFETY: as for `Send`.
unsafe impl Sync for Table {}

/// A bucket that is locked.
pub(super) struct LockedBucket<'a> {
    table: &'a Table,
    bucket: &'a Bucket,
    _held: Held<'a>,
}

/// An element of a locked bucket and the link that points at it.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) elem: *mut u8,
    /// The element before, or null for the bucket itself.
    before: *mut u8,
}

/// # Safety
/// `elem` is an element.
#[inline]
unsafe fn next_of<'a>(elem: *mut u8) -> &'a AtomicPtr<u8> {
    // SAFETY: an element is 8-aligned and begins with its link (caller); elements live as long as the map.
    unsafe { AtomicPtr::from_ptr(elem.wrapping_add(NEXT).cast()) }
}

/// # Safety
/// `elem` is an element.
#[inline]
unsafe fn flag<'a>(elem: *mut u8, at: usize) -> &'a AtomicU8 {
    // SAFETY: inside the head of an element (caller).
    unsafe { AtomicU8::from_ptr(elem.wrapping_add(at)) }
}

impl Table {
    /// Buckets for a map of `max_entries` elements.
    pub(super) fn new(max_entries: u32, key_size: u32, seed: Seed) -> Result<Table, Errno> {
        let n_buckets = max_entries.checked_next_power_of_two().ok_or(Errno::E2BIG)?;
        // The size of the kernel's buckets must fit 32 bits; ours are as large.
        if n_buckets as usize > u32::MAX as usize / size_of::<Bucket>() {
            return Err(Errno::E2BIG);
        }
        let memory = Region::committed(u64::from(n_buckets) * size_of::<Bucket>() as u64)?;
        let buckets = memory.start().cast_const().cast();
        Ok(Table { buckets, mask: n_buckets - 1, seed, key_size: key_size as usize, n_buckets, memory })
    }

    #[inline]
    fn bucket(&self, index: u32) -> &Bucket {
        let bucket = self.buckets.wrapping_add((index & self.mask) as usize);
        // SAFETY: the index is masked, the region has that many buckets, and zeroes are an empty, unlocked one.
        unsafe { &*bucket }
    }

    /// The element with a program's key, without a lock.
    ///
    /// # Safety
    /// `key` is readable for the key's size, and `K` is this map's.
    #[inline]
    pub(super) unsafe fn find<K: KeyKind>(&self, key: *const u8) -> Option<*mut u8> {
        // SAFETY: the caller's duty.
        let loaded = unsafe { K::load(key, self.key_size) };
        // SAFETY: as above.
        let hash = unsafe { K::hash(loaded, self.key_size, &self.seed) };
        let bucket = self.bucket(hash);
        loop {
            let before = bucket.changes.load(Ordering::Acquire);
            let mut link = bucket.first.load(Ordering::Acquire);
            while !link.is_null() {
                // SAFETY: links point at elements of this map.
                if unsafe { K::matches(link, loaded, hash, self.key_size) } {
                    return Some(link);
                }
                // SAFETY: as above.
                link = unsafe { next_of(link) }.load(Ordering::Acquire);
            }
            // Everything read above is older than the count read now; see `write_key` and `remove`.
            fence(Ordering::Acquire);
            if bucket.changes.load(Ordering::Relaxed) == before {
                return None;
            }
        }
    }

    /// The hash of a key.
    ///
    /// # Safety
    /// `key` is readable for the key's size.
    pub(super) unsafe fn hash(&self, key: *const u8) -> u32 {
        // SAFETY: the caller's duty, passed on.
        unsafe { hash_bytes(key, self.key_size, &self.seed) }
    }

    /// Locks the bucket of a hash, or of an index.
    pub(super) fn lock(&self, hash: u32) -> LockedBucket<'_> {
        let bucket = self.bucket(hash);
        LockedBucket { table: self, bucket, _held: bucket.lock.acquire() }
    }

    /// Whether a bucket has no elements, without its lock.
    pub(super) fn is_empty(&self, index: u32) -> bool {
        self.bucket(index).first.load(Ordering::Acquire).is_null()
    }

    pub(super) fn n_buckets(&self) -> u32 {
        self.n_buckets
    }

    pub(super) fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Calls `visit` for the elements of a bucket, without its lock, until it returns `true`; whether it did.
    pub(super) fn walk(&self, index: u32, visit: &mut dyn FnMut(*mut u8) -> bool) -> bool {
        let mut link = self.bucket(index).first.load(Ordering::Acquire);
        while !link.is_null() {
            // The callback may delete this element, and another thread link it elsewhere.
            // SAFETY: links point at elements of this map.
            let next = unsafe { next_of(link) }.load(Ordering::Acquire);
            // One that was just freed is no element any more, but its link still leads on.
            // SAFETY: as above.
            if unsafe { is_linked(link) } {
                // SAFETY: as above.
                if unsafe { hash_of(link) } & self.mask != index {
                    return false;
                }
                if visit(link) {
                    return true;
                }
            }
            link = next;
        }
        false
    }
}

impl LockedBucket<'_> {
    /// The element with this key.
    ///
    /// # Safety
    /// `key` is readable for the key's size, and `hash` is its hash.
    pub(super) unsafe fn find(&self, key: *const u8, hash: u32) -> Option<Found> {
        self.search(|elem| {
            // SAFETY: the caller's duty; an element of this map.
            unsafe { KeyAny::matches(elem, key, hash, self.table.key_size) }
        })
    }

    /// The element at this address, if it is in this bucket.
    pub(super) fn find_elem(&self, elem: *mut u8) -> Option<Found> {
        self.search(|linked| linked == elem)
    }

    /// The first element.
    pub(super) fn first(&self) -> Option<*mut u8> {
        let first = self.bucket.first.load(Ordering::Relaxed);
        (!first.is_null()).then_some(first)
    }

    /// The element after this one of the bucket.
    pub(super) fn after(&self, elem: *mut u8) -> Option<*mut u8> {
        // SAFETY: an element of this bucket, which is locked.
        let next = unsafe { next_of(elem) }.load(Ordering::Relaxed);
        (!next.is_null()).then_some(next)
    }

    fn search(&self, wanted: impl Fn(*mut u8) -> bool) -> Option<Found> {
        let mut before = std::ptr::null_mut();
        let mut link = self.first();
        while let Some(elem) = link {
            if wanted(elem) {
                return Some(Found { elem, before });
            }
            before = elem;
            link = self.after(elem);
        }
        None
    }

    /// Links an element, whose key and value are filled, as the first one.
    ///
    /// # Safety
    /// `elem` is an element of this map that is not linked and not free.
    pub(super) unsafe fn insert(&self, elem: *mut u8, hash: u32) {
        // SAFETY: inside the head of an element (caller).
        unsafe { AtomicU32::from_ptr(elem.wrapping_add(HASH).cast()) }.store(hash, Ordering::Relaxed);
        let first = self.bucket.first.load(Ordering::Relaxed);
        // Release: a reader that stands on the element since it was elsewhere learns that it was unlinked.
        // SAFETY: an element (caller).
        unsafe { next_of(elem) }.store(first, Ordering::Release);
        // SAFETY: as above.
        unsafe { flag(elem, LINKED) }.store(1, Ordering::Relaxed);
        self.bucket.first.store(elem, Ordering::Release);
    }

    /// Unlinks an element. Readers may stand on it still.
    pub(super) fn remove(&self, found: Found) {
        // SAFETY: an element of this bucket, which has been locked since it was found.
        unsafe { flag(found.elem, LINKED) }.store(0, Ordering::Relaxed);
        let next = self.after(found.elem).unwrap_or(std::ptr::null_mut());
        let changes = self.bucket.changes.load(Ordering::Relaxed);
        self.bucket.changes.store(changes.wrapping_add(1), Ordering::Release);
        if found.before.is_null() {
            self.bucket.first.store(next, Ordering::Release);
        } else {
            // SAFETY: as above.
            unsafe { next_of(found.before) }.store(next, Ordering::Release);
        }
        self.bucket.changes.store(changes.wrapping_add(2), Ordering::Release);
    }

    /// Replaces an element by one that is filled: readers find the old one or the new one.
    ///
    /// # Safety
    /// As for [`LockedBucket::insert`].
    pub(super) unsafe fn replace(&self, old: Found, elem: *mut u8, hash: u32) {
        // The new one goes first, so that there is no moment without the key.
        // SAFETY: the caller's duty, passed on.
        unsafe { self.insert(elem, hash) };
        let before = if old.before.is_null() { elem } else { old.before };
        self.remove(Found { elem: old.elem, before });
    }
}

/// Writes an element's key.
///
/// # Safety
/// `elem` is an element that is not linked and not free; `key` is readable for `size` bytes.
pub(super) unsafe fn write_key(elem: *mut u8, key: *const u8, size: usize) {
    // A reader that sees the new key sees that the element was unlinked before.
    fence(Ordering::Release);
    let last = size.next_multiple_of(8) - 8;
    // The padding is zero, so that whole words compare.
    // SAFETY: the last word of the padded key.
    unsafe { AtomicU64::from_ptr(elem.wrapping_add(KEY + last).cast()) }.store(0, Ordering::Relaxed);
    // SAFETY: the element's key and the caller's.
    unsafe { super::super::value::copy(elem.wrapping_add(KEY), key, size) };
}

/// Marks an element as used, for LRU: a write only if it is not marked yet.
///
/// # Safety
/// `elem` is an element.
#[inline]
pub(super) unsafe fn mark_referenced(elem: *mut u8) {
    // SAFETY: the caller's duty.
    let flag = unsafe { flag(elem, REFERENCED) };
    if flag.load(Ordering::Relaxed) == 0 {
        flag.store(1, Ordering::Relaxed);
    }
}

/// Makes an element one that was not used; whether it was.
///
/// # Safety
/// `elem` is an element.
pub(super) unsafe fn clear_referenced(elem: *mut u8) -> bool {
    // SAFETY: the caller's duty.
    let flag = unsafe { flag(elem, REFERENCED) };
    flag.load(Ordering::Relaxed) != 0 && {
        flag.store(0, Ordering::Relaxed);
        true
    }
}

/// Whether an element is linked in a bucket; a hint without the bucket's lock.
///
/// # Safety
/// `elem` is an element.
pub(super) unsafe fn is_linked(elem: *mut u8) -> bool {
    // SAFETY: the caller's duty.
    unsafe { flag(elem, LINKED) }.load(Ordering::Relaxed) != 0
}
