//! `BPF_MAP_TYPE_ARENA`: up to 4 GiB of pages that programs and the process share, and point into.
//!
//! A pointer of a program into its arena is 32 bits wide; an address of the process has the same low half. Both lead to the
//! same byte. Pages come with `bpf_arena_alloc_pages` or when the process asks ([`Arena::populate`]); where there is none, loads
//! of programs bring 0 and their stores are lost. Invariant: pages that are handed out are zeroed, and nobody else has them.
//! Kernel counterpart: kernel/bpf/arena.c, 6.18; docs/adr/0071-arenas-never-fault.md says what differs.

mod memory;
mod ranges;

use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_abi::map_flags::{BPF_F_MMAPABLE, BPF_F_NO_USER_CONV, BPF_F_SEGV_ON_FAULT};
use skep_abi::{AtomicOp, Errno, Size};
use skep_sync::CpuSet;

use super::ops::{MapAccessInfo, MapKind, MapOps, Vcpu};
use super::region::PAGE;
use super::spec::{MapInfo, MapSpec};
use memory::Memory;
use ranges::FreePages;

pub use memory::{GUARD, TABLE};

/// The most pages: 4 GiB.
const MAX_PAGES: u32 = 1 << 20;

/// An arena.
pub struct Arena {
    memory: Memory,
    pages: u32,
    free: Mutex<FreePages>,
    /// `BPF_F_SEGV_ON_FAULT`: the process gets no pages by asking.
    by_programs_only: bool,
}

impl Arena {
    /// The address of the first page in the process: what the map asked for (`map_extra`) unless something else was there.
    #[must_use]
    pub fn user_start(&self) -> u64 {
        self.memory.start()
    }

    /// The memory: the address of the first page, and the bytes of all pages. It can be read everywhere, and keeps what is
    /// written to pages that are there ([`Arena::populate`]). Programs may write it at any time.
    #[must_use]
    pub fn memory(&self) -> (*mut u8, usize) {
        self.memory.pages()
    }

    /// Sees to it that there are pages under these bytes, counted from the first page's start, as there are in the kernel where
    /// the process touches them.
    ///
    /// # Errors
    /// `EFAULT` for bytes that are not the arena's, for pages that a program has reserved, and for pages that are not there where
    /// the map has `BPF_F_SEGV_ON_FAULT`.
    pub fn populate(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let (_, all) = self.memory();
        let end = offset.checked_add(len).filter(|&end| end <= all).ok_or(Errno::EFAULT)?;
        let page = |bytes: usize| u32::try_from(bytes / PAGE).map_err(|_| Errno::EFAULT);
        let (first, end) = (page(offset)?, page(end.next_multiple_of(PAGE))?);
        let mut free = self.free();
        for page in first..end {
            if self.memory.is_allocated(self.memory.place(page), 1) {
                continue;
            }
            if self.by_programs_only || !free.has(page, page + 1) {
                return Err(Errno::EFAULT);
            }
            free.take(page, page + 1);
            self.memory.allocate(page, page + 1)?;
        }
        Ok(())
    }

    /// Copies bytes into the arena, to pages that are made where there are none.
    ///
    /// # Errors
    /// As for [`Arena::populate`].
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        self.populate(offset, bytes.len())?;
        let at = self.memory().0.wrapping_add(offset);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: a byte of the arena (it was populated); volatile, since programs may access it at any time.
            unsafe { at.wrapping_add(i).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Copies bytes out of the arena; zeros where there are no pages.
    ///
    /// # Errors
    /// `EFAULT` for bytes that are not the arena's.
    pub fn read(&self, offset: usize, len: usize) -> Result<Vec<u8>, Errno> {
        let (start, all) = self.memory();
        offset.checked_add(len).filter(|&end| end <= all).ok_or(Errno::EFAULT)?;
        let byte = |i| {
            // SAFETY: a byte of the arena, which can be read; volatile, since programs may write it at any time.
            unsafe { start.wrapping_add(i).read_volatile() }
        };
        Ok((offset..offset + len).map(byte).collect())
    }

    /// `bpf_arena_alloc_pages`: zeroed pages at this address, or anywhere if it is 0; their address, 0 for none.
    pub(crate) fn alloc_pages(&self, at: u64, pages: u32) -> u64 {
        if pages == 0 || pages > self.pages {
            return 0;
        }
        let mut free = self.free();
        let start = if at == 0 {
            free.find(pages)
        } else if at.is_multiple_of(PAGE as u64) {
            let start = self.page_of(at);
            (start <= self.pages - pages && free.has(start, start + pages)).then_some(start)
        } else {
            None
        };
        let Some(start) = start else { return 0 };
        if self.memory.allocate(start, start + pages).is_err() {
            return 0;
        }
        free.take(start, start + pages);
        self.user_start() + u64::from(start) * PAGE as u64
    }

    /// `bpf_arena_free_pages`: the pages of this address and behind it, as far as they are the arena's.
    pub(crate) fn free_pages(&self, at: u64, pages: u32) {
        let start = self.page_of(at & !(PAGE as u64 - 1));
        let end = start.saturating_add(pages).min(self.pages);
        if start >= end {
            return;
        }
        let mut free = self.free();
        free.give(start, end);
        // What cannot be given back to the system is zeroed when it is handed out again, or not handed out.
        let _ = self.memory.free(start, end);
    }

    /// `bpf_arena_reserve_pages`: pages that nobody gets, until they are freed.
    pub(crate) fn reserve_pages(&self, at: u64, pages: u32) -> Result<(), Errno> {
        if pages == 0 || !at.is_multiple_of(PAGE as u64) {
            return Ok(());
        }
        let start = self.page_of(at);
        let end = start.checked_add(pages).filter(|&end| end <= self.pages).ok_or(Errno::EINVAL)?;
        let mut free = self.free();
        if !free.has(start, end) {
            return Err(Errno::EBUSY);
        }
        free.take(start, end);
        Ok(())
    }

    /// The page that the low half of an address lies in, counted from the first one; beyond the last for others.
    fn page_of(&self, at: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the low halves count")]
        let distance = (at as u32).wrapping_sub(self.user_start() as u32);
        distance / PAGE as u32
    }

    fn free(&self) -> MutexGuard<'_, FreePages> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads for a program, and zero-extends.
    pub(crate) fn load(&self, place: i64, size: Size) -> u64 {
        self.memory.load(place, size)
    }

    /// Stores for a program.
    pub(crate) fn store(&self, place: i64, size: Size, value: u64) {
        self.memory.store(place, size, value);
    }

    /// Read-modify-write for a program; nothing where there is no page.
    pub(crate) fn atomic(&self, place: i64, size: Size, op: AtomicOp, value: u64, compare: u64) -> Option<u64> {
        self.memory.atomic(place, size, op, value, compare)
    }
}

// SAFETY: the memory lives as long as the map; no lookup returns an address.
unsafe impl MapOps for Arena {
    fn access(&self) -> MapAccessInfo {
        MapAccessInfo::Arena { base: self.memory.base(), start: self.user_start() }
    }

    unsafe fn update(&self, _: *const u8, _: *const u8, _: u64, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn delete(&self, _: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn push(&self, _: *const u8, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn pop(&self, _: *mut u8) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn peek(&self, _: *mut u8) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn user_lookup(&self, _: &[u8], _: &mut [u8], _: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn user_update(&self, _: &[u8], _: &[u8], _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn user_delete(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn user_next_key(&self, _: Option<&[u8]>, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    /// As the kernel, which counts none.
    fn memory(&self) -> u64 {
        0
    }
}

impl MapKind for Arena {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        let known = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT | BPF_F_NO_USER_CONV;
        if spec.key_size != 0 || spec.value_size != 0 || spec.max_entries == 0 {
            return Err(Errno::EINVAL);
        }
        if !spec.has(BPF_F_MMAPABLE) || spec.flags & !known != 0 || !spec.map_extra.is_multiple_of(PAGE as u64) {
            return Err(Errno::EINVAL);
        }
        if spec.max_entries > MAX_PAGES {
            return Err(Errno::E2BIG);
        }
        let last = spec.map_extra.wrapping_add(u64::from(spec.max_entries) * PAGE as u64 - 1);
        if spec.map_extra >> 32 != last >> 32 { Err(Errno::ERANGE) } else { Ok(()) }
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, _: &CpuSet) -> Result<Arena, Errno> {
        Ok(Arena {
            memory: Memory::new(spec.max_entries, spec.map_extra)?,
            pages: spec.max_entries,
            free: Mutex::new(FreePages::new(spec.max_entries)),
            by_programs_only: spec.has(BPF_F_SEGV_ON_FAULT),
        })
    }
}
