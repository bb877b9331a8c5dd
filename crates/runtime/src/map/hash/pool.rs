//! Elements of a hash map: one region, free elements in lists that rarely meet.
//!
//! An element that is freed may be used again at once, as in the kernel (preallocated or not): its memory stays an
//! element of this map, so that a program that still holds the value's address reads or writes a value of the map, of
//! another key perhaps, and nothing else. Each shard has its own free list and belongs to a vCPU or a
//! few user threads; one that is empty takes untouched elements, then steals.
//! Invariant: an element is linked in a bucket, or in one free list, or held by one updater, or a shard's spare.
//! Kernel counterpart: kernel/bpf/percpu_freelist.c, `extra_elems` of kernel/bpf/hashtab.c (6.18).

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};

use skep_abi::Errno;

use super::super::lock::{Held, Lock};
use super::super::region::Region;
use super::table::HASH;

/// Most untouched elements that a shard takes at once.
const BATCH: u32 = 32;

/// An element by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ElemIdx(pub(super) u32);

/// All elements of a map.
pub(super) struct Pool {
    region: Region,
    elem_size: usize,
    /// Elements that inserts may use; each shard has a spare beyond them.
    limit: u32,
    /// The first element that nobody has used.
    fresh: AtomicU32,
    batch: u32,
    shards: Box<[Shard]>,
    /// Shards do not take from each other (`BPF_F_NO_COMMON_LRU`).
    private: bool,
}

#[repr(align(128))]
struct Shard {
    lock: Lock,
    state: UnsafeCell<ShardState>,
}

// SAFETY: the state is only touched with the lock held.
unsafe impl Sync for Shard {}

struct ShardState {
    /// The first free element plus one; the next one is in its hash field.
    free: u32,
    /// Untouched elements.
    fresh: std::ops::Range<u32>,
    spare: ElemIdx,
}

/// A shard's spare element, lent to one update while the shard is locked.
pub(super) struct Spare<'a> {
    _held: Held<'a>,
    state: *mut ShardState,
    /// The element to fill.
    pub(super) elem: ElemIdx,
}

impl Spare<'_> {
    /// The element was linked, and `old` taken out in its place.
    pub(super) fn swap(self, old: ElemIdx) {
        // SAFETY: the shard is locked as long as `self` lives.
        unsafe { (*self.state).spare = old };
    }
}

impl Pool {
    pub(super) fn new(
        elem_size: usize,
        limit: u32,
        n_shards: usize,
        lazily: bool,
        private: bool,
    ) -> Result<Pool, Errno> {
        let n_shards = u32::try_from(n_shards).map_err(|_| Errno::ENOMEM)?;
        let total = u64::from(limit) + u64::from(n_shards);
        if u32::try_from(total).is_err() {
            return Err(Errno::ENOMEM);
        }
        let bytes = total.checked_mul(elem_size as u64).ok_or(Errno::ENOMEM)?;
        let region = if lazily { Region::reserved(bytes) } else { Region::committed(bytes) }?;
        let share = limit / n_shards;
        let shards = (0..n_shards).map(|shard| {
            let fresh = if private { shard * share..(shard + 1) * share } else { 0..0 };
            let state = ShardState { free: 0, fresh, spare: ElemIdx(limit + shard) };
            Shard { lock: Lock::default(), state: UnsafeCell::new(state) }
        });
        let batch = (share / 4).clamp(1, BATCH);
        let fresh = AtomicU32::new(if private { limit } else { 0 });
        Ok(Pool { region, elem_size, limit, fresh, batch, shards: shards.collect(), private })
    }

    /// The address of an element.
    #[inline]
    pub(super) fn addr(&self, elem: ElemIdx) -> *mut u8 {
        self.region.start().wrapping_add(elem.0 as usize * self.elem_size)
    }

    /// The number of an element.
    #[inline]
    pub(super) fn index(&self, elem: *mut u8) -> ElemIdx {
        #[expect(clippy::cast_possible_truncation, reason = "the pool has fewer than 2^32 elements")]
        ElemIdx(((elem.addr() - self.region.start().addr()) / self.elem_size) as u32)
    }

    /// All elements, the spares included.
    pub(super) fn total(&self) -> u32 {
        self.limit + u32::try_from(self.shards.len()).unwrap_or(0)
    }

    /// The elements that a private shard evicts from.
    pub(super) fn share(&self, shard: usize) -> std::ops::Range<u32> {
        let n_shards = u32::try_from(self.shards.len()).unwrap_or(1);
        let share = self.limit / n_shards;
        let shard = u32::try_from(shard % self.shards.len()).unwrap_or(0);
        shard * share..(shard + 1) * share
    }

    /// A free element.
    pub(super) fn alloc(&self, shard: usize) -> Option<ElemIdx> {
        let home = shard % self.shards.len();
        if let Some(elem) = self.take(home, true) {
            return Some(elem);
        }
        if self.private {
            return None;
        }
        (1..self.shards.len()).find_map(|step| self.take((home + step) % self.shards.len(), false))
    }

    fn take(&self, shard: usize, home: bool) -> Option<ElemIdx> {
        let shard = &self.shards[shard];
        let _held = shard.lock.acquire();
        // SAFETY: the shard is locked.
        let state = unsafe { &mut *shard.state.get() };
        if let Some(first) = state.free.checked_sub(1) {
            state.free = self.link(ElemIdx(first)).load(Ordering::Relaxed);
            return Some(ElemIdx(first));
        }
        if state.fresh.is_empty() && home {
            let claim = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
                (fresh < self.limit).then(|| self.limit.min(fresh + self.batch))
            });
            if let Ok(first) = claim {
                state.fresh = first..self.limit.min(first + self.batch);
            }
        }
        state.fresh.next().map(ElemIdx)
    }

    /// Takes an element back.
    pub(super) fn free(&self, elem: ElemIdx, shard: usize) {
        let shard = &self.shards[shard % self.shards.len()];
        let _held = shard.lock.acquire();
        // SAFETY: the shard is locked.
        let state = unsafe { &mut *shard.state.get() };
        self.link(elem).store(state.free, Ordering::Relaxed);
        state.free = elem.0 + 1;
    }

    /// The shard's spare element, for an update that replaces one: it works on a full map, too.
    pub(super) fn spare(&self, shard: usize) -> Spare<'_> {
        let shard = &self.shards[shard % self.shards.len()];
        let held = shard.lock.acquire();
        let state = shard.state.get();
        // SAFETY: the shard is locked.
        let elem = unsafe { (*state).spare };
        Spare { _held: held, state, elem }
    }

    /// The link of a free element. It is the hash field, and not the pointer to the next element: a reader that
    /// stands on an element while it is freed still finds its way to the end of the bucket.
    fn link(&self, elem: ElemIdx) -> &AtomicU32 {
        // SAFETY: an element of the pool, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.addr(elem).wrapping_add(HASH).cast()) }
    }

    /// Bytes that elements have touched, or may.
    pub(super) fn bytes(&self, lazily: bool) -> u64 {
        let elems = if lazily { self.fresh.load(Ordering::Relaxed).min(self.limit) } else { self.total() };
        u64::from(elems) * self.elem_size as u64
    }

    /// The offset inside its element of `len` bytes at `addr`, if they are inside one.
    pub(super) fn offset_in_elem(&self, addr: u64, len: u64) -> Option<u64> {
        let offset = self.region.offset_of(addr, len)?;
        let size = self.elem_size as u64;
        (offset / size < u64::from(self.total()) && offset % size + len <= size).then_some(offset % size)
    }
}
