//! The address space of an arena, and loads and stores in it.
//!
//! Owns one reservation, `TABLE | guard | 4 GiB | guard`, whose 4 GiB begin at a multiple of their size: 32 bits and a
//! displacement of 16 always lie in it or in a guard. Nothing in it ever faults. All of it can be read, and what is no page of
//! the arena reads as zeros; the pages themselves can be written. The table has a byte for each page, which says whether it is
//! allocated: stores ask it. Invariant: bytes of the table are set for pages of the arena alone. Kernel counterpart:
//! `arena_map_alloc`, kernel/bpf/arena.c, where accesses do fault and the handler of exceptions makes up for it, 6.18.
#![expect(clippy::cast_possible_wrap, reason = "places are below 2^33")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use skep_abi::{AtomicOp, Errno, Size};

use super::super::region::PAGE;
use crate::interp::{atomic32, atomic64};

/// Bytes that 32 bits can address.
const WINDOW: usize = 1 << 32;
/// Bytes on each side that only a displacement reaches.
pub const GUARD: usize = 1 << 16;
/// Bytes of the table: one for each page of window and guards, in whole pages.
pub const TABLE: usize = ((WINDOW + 2 * GUARD) / PAGE).next_multiple_of(PAGE);
/// All of it.
const WHOLE: usize = TABLE + GUARD + WINDOW + GUARD;
/// The place of the first page where nobody asks for one: the low half of a pointer to it is not that of null.
const FIRST: usize = GUARD;

/// The reservation.
pub(super) struct Memory {
    /// The first byte of the window.
    base: NonNull<u8>,
    /// The first page's place in the window.
    first: usize,
    /// Bytes of all pages.
    len: usize,
}

// SAFETY: a range of addresses; what is done through it is atomic, or volatile.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory for this many pages, if possible at address `wanted`, else where its low half is the same.
    pub(super) fn new(pages: u32, wanted: u64) -> Result<Self, Errno> {
        let len = pages as usize * PAGE;
        #[expect(clippy::cast_possible_truncation, reason = "an address of this process, or refused by the system")]
        let wanted = wanted as usize;
        let first = match wanted {
            0 if len <= WINDOW - FIRST => FIRST,
            0 => 0,
            wanted => wanted % WINDOW,
        };
        let base = reserve_at(wanted - wanted % WINDOW).map_or_else(reserve, Ok)?;
        let memory = Self { base, first, len };
        memory.allow(memory.at(0) as usize - TABLE - GUARD, TABLE, MprotectFlags::READ | MprotectFlags::WRITE)?;
        memory.allow(memory.at(0) as usize - GUARD, WHOLE - TABLE, MprotectFlags::READ)?;
        memory.allow(memory.at(first as i64) as usize, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
        Ok(memory)
    }

    fn allow(&self, at: usize, len: usize, what: MprotectFlags) -> Result<(), Errno> {
        // SAFETY: a part of this reservation, which nobody else knows yet.
        unsafe { mprotect(std::ptr::with_exposed_provenance_mut(at), len, what) }.map_err(|_| Errno::ENOMEM)
    }

    /// The address of the window: what a pointer of 32 bits is added to.
    pub(super) fn base(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// The address of the first page, as the process and its programs know it.
    pub(super) fn start(&self) -> u64 {
        self.base() + self.first as u64
    }

    /// The place of a page, counted from the first one.
    pub(super) fn place(&self, page: u32) -> i64 {
        self.first as i64 + i64::from(page) * PAGE as i64
    }

    /// The pages.
    pub(super) fn pages(&self) -> (*mut u8, usize) {
        (self.at(self.first as i64), self.len)
    }

    fn at(&self, place: i64) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "64-bit hosts")]
        self.base.as_ptr().wrapping_offset(place as isize)
    }

    /// The table's byte of the page at a place in window or guards.
    fn entry(&self, place: i64) -> Option<&AtomicU8> {
        let page = usize::try_from(place.checked_add(GUARD as i64)?).ok()? / PAGE;
        let entry = (page < TABLE).then(|| self.base.as_ptr().wrapping_sub(GUARD + TABLE).wrapping_add(page))?;
        // SAFETY: a byte of the table, which lives as long as this and is accessed atomically, by compiled code too.
        Some(unsafe { AtomicU8::from_ptr(entry) })
    }

    /// Whether there are pages under all of these bytes.
    pub(super) fn is_allocated(&self, place: i64, len: u64) -> bool {
        let has = |place| self.entry(place).is_some_and(|entry| entry.load(Ordering::Relaxed) != 0);
        let (Ok(len), true) = (i64::try_from(len), has(place)) else { return false };
        let Some(last) = place.checked_add((len - 1).max(0)) else { return false };
        let step = PAGE as i64;
        has(last) && (place / step + 1..last / step).all(|page| has(page * step))
    }

    /// Makes zeroed pages of this place, counted in pages from the first one.
    pub(super) fn allocate(&self, start: u32, end: u32) -> Result<(), Errno> {
        // A store that was under way when they were freed may have come too late.
        self.forget(start, end)?;
        self.mark(start, end, 1);
        Ok(())
    }

    /// Takes pages away.
    pub(super) fn free(&self, start: u32, end: u32) -> Result<(), Errno> {
        self.mark(start, end, 0);
        self.forget(start, end)
    }

    fn mark(&self, start: u32, end: u32, state: u8) {
        for page in start..end {
            if let Some(entry) = self.entry(self.place(page)) {
                entry.store(state, Ordering::Release);
            }
        }
    }

    fn forget(&self, start: u32, end: u32) -> Result<(), Errno> {
        let at = self.at(self.place(start));
        let len = (end - start) as usize * PAGE;
        debug_assert!(end as usize * PAGE <= self.len, "pages of this arena");
        // SAFETY: pages of this reservation. Whoever reads them meanwhile sees old bytes or zeros.
        unsafe { madvise(at.cast(), len, Advice::LinuxDontNeed) }.map_err(|_| Errno::ENOMEM)
    }

    /// Loads and zero-extends.
    pub(crate) fn load(&self, place: i64, size: Size) -> u64 {
        if !inside(place, size) {
            return 0;
        }
        // SAFETY: the bytes lie in the window or a guard, all of which can be read.
        unsafe { crate::interp::read(self.at(place) as u64, size) }
    }

    /// Stores, if there are pages.
    pub(crate) fn store(&self, place: i64, size: Size, value: u64) {
        if self.is_allocated(place, u64::from(size.bytes())) {
            // SAFETY: bytes of pages, all of which can be written.
            unsafe { crate::interp::write(self.at(place) as u64, size, value) };
        }
    }

    /// Read-modify-write, if there are pages; the old value, zero-extended.
    pub(crate) fn atomic(&self, place: i64, size: Size, op: AtomicOp, value: u64, compare: u64) -> Option<u64> {
        if !self.is_allocated(place, u64::from(size.bytes())) {
            return None;
        }
        let at = self.at(place);
        if !(at as usize).is_multiple_of(usize::from(size.bytes())) {
            // SAFETY: bytes of pages, all of which can be written.
            return unsafe { unaligned(at, size, op, value, compare) };
        }
        if size == Size::Dw {
            // SAFETY: bytes of pages, aligned, and shared with other runs through atomics.
            let cell = unsafe { AtomicU64::from_ptr(at.cast()) };
            return Some(atomic64(cell, op, value, compare));
        }
        // SAFETY: as above.
        let cell = unsafe { AtomicU32::from_ptr(at.cast()) };
        Some(u64::from(atomic32(cell, op, value, compare)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let start = self.base.as_ptr().wrapping_sub(TABLE + GUARD);
        // SAFETY: the map is gone, and with it everything that points into it.
        let unmapped = unsafe { munmap(start.cast(), WHOLE) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// Whether the bytes lie in window or guards.
fn inside(place: i64, size: Size) -> bool {
    place >= -(GUARD as i64) && place + i64::from(size.bytes()) <= (WINDOW + GUARD) as i64
}

/// The window at this address, unless something is there.
fn reserve_at(base: usize) -> Option<NonNull<u8>> {
    let start = base.checked_sub(TABLE + GUARD)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a fresh mapping where nothing else is, or none.
    let at =
        unsafe { mmap_anonymous(std::ptr::with_exposed_provenance_mut(start), WHOLE, ProtFlags::empty(), flags).ok()? };
    if at as usize != start {
        // Kernels before 4.17 take the address for a hint.
        // SAFETY: the mapping that was just made.
        let unmapped = unsafe { munmap(at, WHOLE) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
        return None;
    }
    NonNull::new(at.cast::<u8>().wrapping_add(TABLE + GUARD))
}

/// The window anywhere.
fn reserve() -> Result<NonNull<u8>, Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    let len = WHOLE + WINDOW;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let whole = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
    let whole = whole.map_err(|_| Errno::ENOMEM)?.cast::<u8>();
    let before = (whole as usize + TABLE + GUARD).next_multiple_of(WINDOW) - (whole as usize + TABLE + GUARD);
    let start = whole.wrapping_add(before);
    let end = start.wrapping_add(WHOLE);
    for (at, len) in [(whole, before), (end, len - before - WHOLE)] {
        if len > 0 {
            // SAFETY: a part of the mapping that was just made, and that nobody uses.
            unsafe { munmap(at.cast(), len) }.map_err(|_| Errno::ENOMEM)?;
        }
    }
    NonNull::new(start.wrapping_add(TABLE + GUARD)).ok_or(Errno::ENOMEM)
}

/// What the instruction does at an address that is no multiple of its size: `lock` asks for none.
///
/// # Safety
/// The bytes can be written.
#[cfg(target_arch = "x86_64")]
unsafe fn unaligned(at: *mut u8, size: Size, op: AtomicOp, value: u64, compare: u64) -> Option<u64> {
    let low = |number: u64| if size == Size::Dw { number } else { number & 0xffff_ffff };
    // SAFETY: readable (caller).
    let mut old = unsafe { crate::interp::read(at as u64, size) };
    loop {
        let new = match op {
            AtomicOp::Add => old.wrapping_add(value),
            AtomicOp::Or => old | value,
            AtomicOp::And => old & value,
            AtomicOp::Xor => old ^ value,
            AtomicOp::Xchg => value,
            AtomicOp::Cmpxchg if old == low(compare) => value,
            AtomicOp::Cmpxchg => old,
        };
        // SAFETY: writable (caller).
        let found = unsafe { compare_exchange(at, size, old, new) };
        if low(found) == old {
            return Some(old);
        }
        old = low(found);
    }
}

/// `lock cmpxchg`; what was found.
///
/// # Safety
/// The bytes can be written.
#[cfg(target_arch = "x86_64")]
unsafe fn compare_exchange(at: *mut u8, size: Size, old: u64, new: u64) -> u64 {
    let found;
    if size == Size::Dw {
        // SAFETY: writable (caller); the instruction takes any address.
        unsafe {
            std::arch::asm!("lock cmpxchg [{at}], {new}", at = in(reg) at, new = in(reg) new, inout("rax") old => found)
        };
    } else {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("lock cmpxchg [{at}], {new:e}", at = in(reg) at, new = in(reg) new, inout("rax") old => found)
        };
    }
    found
}

/// The CPU refuses such addresses, and the kernel then does nothing.
///
/// # Safety
/// None.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn unaligned(_: *mut u8, _: Size, _: AtomicOp, _: u64, _: u64) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_faults_and_only_pages_keep_what_is_stored() {
        let memory = Memory::new(4, 0).unwrap();
        assert_eq!(memory.base() % (1 << 32), 0);
        let first = memory.first as i64;
        let places =
            [-32768, -8, 0, first - 4, first, first + 4096, first + 4 * 4096, u32::MAX.into(), (1 << 32) + 32767];
        for place in places {
            memory.store(place, Size::Dw, 1);
            assert_eq!(memory.load(place, Size::Dw), 0, "{place:#x}");
        }
        memory.allocate(1, 2).unwrap();
        let page = first + 4096;
        memory.store(page, Size::Dw, !0);
        memory.store(page - 4, Size::Dw, 1);
        memory.store(page + 4092, Size::Dw, 1);
        assert_eq!([-8, 0, 4088].map(|at| memory.load(page + at, Size::Dw)), [0, !0, 0]);
        assert_eq!(memory.load(page - 4, Size::Dw), 0xffff_ffff_0000_0000);
        memory.free(1, 2).unwrap();
        assert_eq!(memory.load(page, Size::Dw), 0);
    }

    #[test]
    fn many_bytes_need_all_their_pages() {
        let memory = Memory::new(8, 0).unwrap();
        let first = memory.first as i64;
        memory.allocate(1, 4).unwrap();
        memory.allocate(5, 6).unwrap();
        assert!(memory.is_allocated(first + 4096, 3 * 4096));
        for (start, len) in [(4095, 2), (4096, 3 * 4096 + 1), (3 * 4096, 3 * 4096), (4 * 4096, 1), (-70_000, 1)] {
            assert!(!memory.is_allocated(first + start, len), "{start} {len}");
        }
    }

    #[test]
    fn an_address_is_as_wanted_or_its_low_half_is() {
        let wanted = 0x2_3456_7000_u64 << 12;
        let one = Memory::new(4, wanted).unwrap();
        let other = Memory::new(4, wanted).unwrap();
        assert_eq!(other.start() % (1 << 32), wanted % (1 << 32));
        assert_ne!(one.start(), other.start());
        let whole = Memory::new(1 << 20, 0).unwrap();
        assert_eq!(whole.start(), whole.base());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn atomics_need_no_alignment() {
        let memory = Memory::new(1, 0).unwrap();
        memory.allocate(0, 1).unwrap();
        for at in [memory.first as i64, memory.first as i64 + 61] {
            let atomic = |size, op, value, compare| memory.atomic(at, size, op, value, compare);
            assert_eq!(atomic(Size::Dw, AtomicOp::Add, u64::MAX, 0), Some(0));
            assert_eq!(atomic(Size::W, AtomicOp::Add, 1, 0), Some(0xffff_ffff));
            assert_eq!(atomic(Size::Dw, AtomicOp::Xor, 0xff, 0), Some(0xffff_ffff_0000_0000));
            assert_eq!(atomic(Size::W, AtomicOp::Cmpxchg, 7, 0xff), Some(0xff));
            assert_eq!(atomic(Size::W, AtomicOp::Cmpxchg, 8, 0xff), Some(7));
            assert_eq!(atomic(Size::Dw, AtomicOp::Xchg, 5, 0), Some(0xffff_ffff_0000_0007));
            assert_eq!(atomic(Size::Dw, AtomicOp::And, 4, 0), Some(5));
            assert_eq!(atomic(Size::Dw, AtomicOp::Or, 3, 0), Some(4));
            assert_eq!(memory.load(at, Size::Dw), 7);
        }
    }
}
