//! Objects that programs make: memory, counts, and what they own in turn.
//!
//! An object lies behind a header that names its type, so that whoever drops it needs to know no more than its address.
//! Invariant: an object is freed once nothing owns it, and not before every run that could have seen it has ended; nothing
//! is freed twice, since each owner gives up its pointer by an exchange. Kernel counterpart: `bpf_obj_new_impl`,
//! `__bpf_obj_drop_impl`, `bpf_obj_free_fields`, kernel/bpf/helpers.c and syscall.c, 6.18.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, PoisonError, RwLock};

use skep_sync::CpuSet;

use crate::frame::Run;
use crate::graph::{list, tree};

/// Bytes before an object.
const HEADER: usize = size_of::<Header>();
/// Objects that a vCPU keeps until they are handed over to be freed together.
const BATCH: u32 = 64;

/// What a field owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owns {
    /// A pointer to an object, or null.
    One,
    /// The head of a list, whose objects have their node at this offset.
    List(u32),
    /// The root of a tree, whose objects have their node at this offset.
    Tree(u32),
}

/// A field that owns objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwningField {
    /// Bytes from the start of the value or object; a multiple of 8.
    pub offset: u32,
    /// What it owns.
    pub owns: Owns,
}

/// A struct that a program makes objects of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectType {
    /// Bytes of an object.
    pub size: u32,
    /// Offset of its `bpf_refcount`, if it has one.
    pub refcount: Option<u32>,
    /// What it owns.
    pub owned: Vec<OwningField>,
}

impl ObjectType {
    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(HEADER + self.size as usize, 16).ok()
    }

    /// The address that programs make objects by; the type is kept as long as its program and its objects.
    #[must_use]
    pub fn address(self: &Arc<Self>) -> u64 {
        Arc::as_ptr(self).expose_provenance() as u64
    }
}

/// What lies before an object.
#[repr(C, align(16))]
struct Header {
    ty: *const ObjectType,
    /// The next object that waits to be freed with this one.
    next: Cell<u64>,
}

fn pointer(address: u64) -> *mut u8 {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// The header of an object.
///
/// # Safety
/// `object` is the address of an object that was not freed.
unsafe fn header<'a>(object: u64) -> &'a Header {
    let header = pointer(object).wrapping_sub(HEADER).cast::<Header>();
    // SAFETY: an object has its header before it, and is alive (caller).
    unsafe { &*header }
}

/// The type of an object.
///
/// # Safety
/// As for [`header`].
pub(crate) unsafe fn type_of<'a>(object: u64) -> &'a ObjectType {
    // SAFETY: the caller's duty.
    let header = unsafe { header(object) };
    // SAFETY: an object keeps its type.
    unsafe { &*header.ty }
}

/// A new object, all zero; 0 without memory.
///
/// # Safety
/// `ty` is what [`ObjectType::address`] gave, and the type is alive.
pub(crate) unsafe fn make(run: &Run, ty: u64) -> u64 {
    let ty: *const ObjectType = pointer(ty).cast();
    // SAFETY: alive (caller).
    let Some(layout) = (unsafe { &*ty }).layout() else { return 0 };
    // SAFETY: the layout has a size, the header's at least.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return 0;
    }
    // SAFETY: alive (caller); the object's own reference.
    unsafe { Arc::increment_strong_count(ty) };
    // SAFETY: fresh memory of the header's size and alignment.
    unsafe { start.cast::<Header>().write(Header { ty, next: Cell::new(0) }) };
    let object = start.wrapping_add(HEADER).expose_provenance() as u64;
    // SAFETY: as above.
    let ty = unsafe { &*ty };
    if let Some(count) = ty.refcount {
        // SAFETY: a field of the object (its type).
        unsafe { counter(object, count) }.store(1, Ordering::Relaxed);
    }
    if run.is_interpreted() {
        known().insert(object, u64::from(ty.size));
    }
    object
}

/// # Safety
/// `object` is alive and has a `bpf_refcount` at `offset`.
unsafe fn counter<'a>(object: u64, offset: u32) -> &'a AtomicU32 {
    let count = pointer(object).wrapping_add(offset as usize).cast();
    // SAFETY: a field of the object, aligned to 4, which only this module touches.
    unsafe { AtomicU32::from_ptr(count) }
}

/// Takes another reference, unless the last one is gone; the object, or 0.
///
/// # Safety
/// As for [`counter`].
pub(crate) unsafe fn acquire(object: u64, offset: u32) -> u64 {
    // SAFETY: the caller's duty.
    let count = unsafe { counter(object, offset) };
    let more = |count: u32| (count != 0).then(|| count.saturating_add(1));
    if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() { object } else { 0 }
}

/// Objects that nothing owns, linked through their headers: so taking them apart needs no memory.
#[derive(Default)]
struct Unowned(u64);

impl Unowned {
    /// Gives up one reference to `object`, which is kept here if it was the last.
    ///
    /// # Safety
    /// The caller owned the reference.
    unsafe fn disown(&mut self, object: u64) {
        // SAFETY: what is owned is alive.
        let ty = unsafe { type_of(object) };
        if let Some(offset) = ty.refcount {
            // SAFETY: as above.
            let count = unsafe { counter(object, offset) };
            if count.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        // SAFETY: alive; nothing owns it any more, so the link is this thread's.
        unsafe { header(object) }.next.set(self.0);
        self.0 = object;
    }

    /// Gives up what the objects own in turn, and passes each to `free`.
    fn take_apart(mut self, mut free: impl FnMut(u64)) {
        while self.0 != 0 {
            let object = self.0;
            // SAFETY: in the chain, so alive.
            self.0 = unsafe { header(object) }.next.get();
            // SAFETY: as above.
            let ty = unsafe { type_of(object) };
            // SAFETY: nothing owns the object any more, so its fields are this thread's.
            unsafe { self.take_owned(&ty.owned, object) };
            free(object);
        }
    }

    /// Takes everything out of the owning fields of a value or an object, and gives it up.
    ///
    /// # Safety
    /// `at` is a value or an object with these fields, alive; lists and trees in it are touched by nobody else.
    unsafe fn take_owned(&mut self, fields: &[OwningField], at: u64) {
        for field in fields {
            let place = at + u64::from(field.offset);
            match field.owns {
                Owns::One => {
                    // SAFETY: a field of 8 bytes, aligned to 8 (type).
                    let kept = unsafe { AtomicU64::from_ptr(pointer(place).cast()) }.swap(0, Ordering::AcqRel);
                    if kept != 0 {
                        // SAFETY: the field owned it.
                        unsafe { self.disown(kept) };
                    }
                }
                Owns::List(node) => {
                    // SAFETY: the list owned it.
                    let each = |link| unsafe { self.disown(link - u64::from(node)) };
                    // SAFETY: the list is the caller's.
                    unsafe { list::drain(place, each) }
                }
                Owns::Tree(node) => {
                    // SAFETY: the tree owned it.
                    let each = |link| unsafe { self.disown(link - u64::from(node)) };
                    // SAFETY: the tree is the caller's.
                    unsafe { tree::drain(place, each) }
                }
            }
        }
    }
}

/// Gives up a reference that the program owned (`bpf_obj_drop`).
///
/// # Safety
/// `object` is an object that the program owned (prototype).
pub(crate) unsafe fn drop_in_run(run: &Run, object: u64) {
    let block = run.block();
    let mut unowned = Unowned::default();
    // SAFETY: the caller's duty.
    unsafe { unowned.disown(object) };
    unowned.take_apart(|object| {
        // SAFETY: alive until it is freed.
        unsafe { header(object) }.next.set(block.garbage.get());
        block.garbage.set(object);
        block.garbage_len.set(block.garbage_len.get() + 1);
    });
    if block.garbage_len.get() >= BATCH {
        block.garbage_len.set(0);
        let first = block.garbage.replace(0);
        // SAFETY: nothing owns them, and the closure runs after a grace period.
        run.engine().cpus().defer(Box::new(move || unsafe { free_chain(first) }));
    }
}

/// Frees the objects that a vCPU kept; when no run is left.
///
/// # Safety
/// `first` begins a chain of objects that nothing owns and no run can see.
pub(crate) unsafe fn free_chain(first: u64) {
    let mut object = first;
    while object != 0 {
        // SAFETY: in the chain, so alive.
        let next = unsafe { header(object) }.next.get();
        // SAFETY: nothing owns it, and no run can see it (caller).
        unsafe { free(object) };
        object = next;
    }
}

/// # Safety
/// Nothing owns the object, and no run can see it.
unsafe fn free(object: u64) {
    known().remove(&object);
    // SAFETY: alive until here.
    let ty = unsafe { header(object) }.ty;
    // SAFETY: an object keeps its type.
    let layout = unsafe { &*ty }.layout();
    if let Some(layout) = layout {
        // SAFETY: made by `make` with this layout.
        unsafe { dealloc(pointer(object).wrapping_sub(HEADER), layout) };
    }
    // SAFETY: the object's own reference, taken by `make`.
    unsafe { Arc::decrement_strong_count(ty) };
}

/// What values of a map own.
#[derive(Clone)]
pub(crate) struct Owned {
    fields: Vec<OwningField>,
    cpus: CpuSet,
}

impl Owned {
    /// `None` where values own nothing.
    pub(crate) fn new(fields: Vec<OwningField>, cpus: &CpuSet) -> Option<Self> {
        (!fields.is_empty()).then(|| Self { fields, cpus: cpus.clone() })
    }

    /// Drops what a value owns, as it is overwritten or deleted.
    ///
    /// # Safety
    /// `value` is a value of the map; its lock is held if it has lists or trees.
    pub(crate) unsafe fn release(&self, value: *mut u8) {
        let mut unowned = Unowned::default();
        // SAFETY: the caller's duty.
        unsafe { unowned.take_owned(&self.fields, value.expose_provenance() as u64) };
        let mut chain = 0;
        unowned.take_apart(|object| {
            // SAFETY: alive until it is freed.
            unsafe { header(object) }.next.set(chain);
            chain = object;
        });
        if chain != 0 {
            // SAFETY: nothing owns them, and the closure runs after a grace period.
            self.cpus.defer(Box::new(move || unsafe { free_chain(chain) }));
        }
    }
}

/// Objects that interpreted programs made, with their sizes: what the interpreter tests accesses against.
static KNOWN: RwLock<BTreeMap<u64, u64>> = RwLock::new(BTreeMap::new());

fn known() -> std::sync::RwLockWriteGuard<'static, BTreeMap<u64, u64>> {
    KNOWN.write().unwrap_or_else(PoisonError::into_inner)
}

/// How many objects of interpreted programs are not freed yet: none, once the engines that made them are gone.
#[must_use]
pub fn interpreted_objects() -> usize {
    known().len()
}

/// Whether the bytes lie in an object that an interpreted program made.
pub(crate) fn contains(address: u64, len: u64) -> bool {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let below = known.range(..=address).next_back();
    below.is_some_and(|(start, size)| address - start <= *size && len <= size - (address - start))
}
