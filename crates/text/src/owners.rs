//! Which address belongs to which site of which image: what a late handler asks.
//!
//! An *owner* is an arena, with a pointer per granule to the image that lies there, or a loaded module, with one image
//! for all. Owners form a list that only grows; its nodes are reused. A reader raises its CPU's `active` count, and who
//! takes something out waits for those counts before freeing it.
//!
//! Invariant: an image that a reader can find is not freed before the reader has finished; its sites never change place.
//! Kernel counterpart: `jump_label_text_reserved` and `core_kernel_text`, which ask a similar question.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::arch::CodeAddr;
use crate::arena::GRANULE;
use crate::refs::{self, CpuSlot};

/// A site and what it does now; during a poke of it, what it did before.
#[derive(Debug)]
pub(crate) struct SiteRecord {
    pub(crate) at: CodeAddr,
    /// A [`SiteBytes`](crate::SiteBytes) as a word.
    pub(crate) current: AtomicU64,
}

/// The sites of one piece of code, sorted by address.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: u64,
    pub(crate) sites: Box<[SiteRecord]>,
    /// What whoever installed the image says of it.
    pub(crate) mark: AtomicU64,
}

impl Image {
    pub(crate) fn find(&self, at: CodeAddr) -> Option<&SiteRecord> {
        let place = self.sites.binary_search_by_key(&at, |site| site.at).ok()?;
        self.sites.get(place)
    }
}

/// A number that no other image of this process has or had.
pub(crate) fn next_image_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A range of addresses and the images in it.
pub(crate) struct Owner {
    start: AtomicU64,
    end: AtomicU64,
    /// One image pointer per granule, for an arena.
    shadow: AtomicPtr<AtomicPtr<Image>>,
    /// The one image, for a module.
    image: AtomicPtr<Image>,
    next: AtomicPtr<Owner>,
}

static OWNERS: AtomicPtr<Owner> = AtomicPtr::new(std::ptr::null_mut());

fn owners() -> impl Iterator<Item = &'static Owner> {
    let mut at = OWNERS.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: nodes are leaked: once in the list, they stay.
        let owner: &'static Owner = unsafe { at.as_ref() }?;
        at = owner.next.load(Ordering::Acquire);
        Some(owner)
    })
}

/// Publishes an arena (`shadow`) or a module (`image`). The caller holds the poke lock.
pub(crate) fn add(start: u64, end: u64, shadow: *mut AtomicPtr<Image>, image: *mut Image) -> &'static Owner {
    let spare = owners().find(|owner| owner.end.load(Ordering::Relaxed) == 0);
    let owner = spare.unwrap_or_else(|| {
        let owner: &'static Owner = Box::leak(Box::new(Owner {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            shadow: AtomicPtr::default(),
            image: AtomicPtr::default(),
            next: AtomicPtr::new(OWNERS.load(Ordering::Acquire)),
        }));
        OWNERS.store(std::ptr::from_ref(owner).cast_mut(), Ordering::Release);
        owner
    });
    owner.shadow.store(shadow, Ordering::Relaxed);
    owner.image.store(image, Ordering::Relaxed);
    owner.start.store(start, Ordering::Relaxed);
    // Release: who sees an end sees the rest.
    owner.end.store(end, Ordering::Release);
    owner
}

/// Takes an owner out of the list and waits for its readers. The caller holds the poke lock.
pub(crate) fn remove(owner: &'static Owner) {
    owner.start.store(u64::MAX, Ordering::SeqCst);
    refs::wait_for_table_readers();
    owner.end.store(0, Ordering::SeqCst);
}

/// Calls `found` with the live site at `at`, if there is one. For the handler: no lock, no allocation.
pub(crate) fn with_site<R>(slot: &'static CpuSlot, at: CodeAddr, found: impl FnOnce(&SiteRecord) -> R) -> Option<R> {
    // SeqCst, as the fence of `wait_for_table_readers`: either it sees the count or we see what it unpublished.
    slot.active.fetch_add(1, Ordering::SeqCst);
    let image = owners().find_map(|owner| {
        let end = owner.end.load(Ordering::SeqCst);
        let start = owner.start.load(Ordering::SeqCst);
        if !(start..end).contains(&at.0) {
            return None;
        }
        let shadow = owner.shadow.load(Ordering::Relaxed);
        if shadow.is_null() {
            return Some(owner.image.load(Ordering::Relaxed));
        }
        let granule = usize::try_from(at.0 - start).ok()? / GRANULE;
        // SAFETY: the owner is live while `active` is raised, so its table is, and the index lies in it.
        let entry = unsafe { &*shadow.wrapping_add(granule) };
        Some(entry.load(Ordering::SeqCst))
    });
    // SAFETY: an image that was found is not freed while `active` is raised.
    let image = image.and_then(|image| unsafe { image.as_ref() });
    let answer = image.and_then(|image| image.find(at)).map(found);
    slot.active.fetch_sub(1, Ordering::Release);
    answer
}
