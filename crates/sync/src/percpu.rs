//! Per-CPU memory: one region per vCPU, and an allocator of offsets that are valid in all of them.
//!
//! `address(cpu, offset) = base + cpu * stride + offset`. The regions are one reservation of address space; a page costs
//! memory once it is touched. Invariant: an allocated range is zero in every region when it is handed out, and no range
//! is handed out again before a grace period has passed since it was freed.
//! Kernel counterpart: `mm/percpu.c` (6.18).

use std::collections::BTreeMap;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::SyncError;

/// A page, and the largest alignment of a per-CPU allocation.
pub(crate) const PAGE: usize = 4096;

/// The part of each region that is this crate's: the vCPU's number at offset 0, the rest unused.
const HEADER: usize = 64;

/// The offset of an allocation, the same in every vCPU's region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerCpuOff(pub u64);

/// Private zeroed memory that a forked child sees as zeros again.
pub(crate) struct Reservation {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a reservation is an address range; what is done through it is its users' duty.
unsafe impl Send for Reservation {}
// SAFETY: as for `Send`.
unsafe impl Sync for Reservation {}

impl Reservation {
    pub(crate) fn new(len: usize) -> io::Result<Reservation> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Reservation { start, len };
        // SAFETY: the range is the mapping just made.
        unsafe { madvise(memory.start.as_ptr().cast(), len, Advice::LinuxWipeOnFork) }?;
        Ok(memory)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the owner of the reservation is gone, and with it everything that points into it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// The regions of a set.
pub(crate) struct Regions {
    memory: Reservation,
    stride: usize,
    count: u32,
}

impl Regions {
    /// Reserves `count` regions of `size` bytes, or of half, a quarter, … where address space is limited.
    pub(crate) fn new(count: u32, size: usize) -> Result<Regions, SyncError> {
        let mut size = size.clamp(16 * PAGE, 1 << 40).next_multiple_of(PAGE);
        loop {
            // One page more than a round number, so that equal offsets of two regions fall into different cache sets.
            let stride = size + PAGE;
            let attempt = stride
                .checked_mul(count as usize)
                .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
                .and_then(Reservation::new);
            match attempt {
                Ok(memory) => {
                    let regions = Regions { memory, stride, count };
                    for cpu in 0..count {
                        let id = regions.base(cpu).cast::<u32>();
                        // SAFETY: the first word of a region, page-aligned, which nobody else knows yet.
                        unsafe { id.write(cpu) };
                    }
                    return Ok(regions);
                }
                Err(source) if size <= 16 * PAGE => {
                    return Err(SyncError::Reserve { cpus: count as usize, source });
                }
                Err(_) => size = (size / 2).next_multiple_of(PAGE),
            }
        }
    }

    /// The first byte of vCPU `cpu`'s region.
    pub(crate) fn base(&self, cpu: u32) -> NonNull<u8> {
        assert!(cpu < self.count, "vCPU {cpu} of {}", self.count);
        // SAFETY: `cpu` is below the count, so that the offset lies in the reservation.
        unsafe { self.memory.start().add(cpu as usize * self.stride) }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Makes `len` bytes at `offset` zero in every region.
    ///
    /// # Safety
    /// The range is inside the regions, and no run uses it.
    pub(crate) unsafe fn clear(&self, offset: usize, len: usize) {
        let inner = offset.next_multiple_of(PAGE)..(offset + len) / PAGE * PAGE;
        for cpu in 0..self.count {
            let base = self.base(cpu).as_ptr();
            let zero = |from: usize, to: usize| {
                let start = base.wrapping_add(from);
                // SAFETY: every part below lies in the caller's range.
                unsafe { start.write_bytes(0, to - from) };
            };
            let pages = base.wrapping_add(inner.start).cast();
            let discarded = inner.end > inner.start + PAGE
                // SAFETY: whole pages inside the caller's range; private memory reads as zero afterwards.
                && unsafe { madvise(pages, inner.end - inner.start, Advice::LinuxDontNeed) }.is_ok();
            if discarded {
                zero(offset, inner.start);
                zero(inner.end, offset + len);
            } else {
                zero(offset, offset + len);
            }
        }
    }
}

/// Which offsets are in use.
pub(crate) struct Offsets {
    /// Start and length of each hole, none adjacent to another.
    free: BTreeMap<usize, usize>,
    used: BTreeMap<usize, usize>,
}

impl Offsets {
    pub(crate) fn new(stride: usize) -> Offsets {
        Offsets { free: BTreeMap::from([(HEADER, stride - HEADER)]), used: BTreeMap::new() }
    }

    pub(crate) fn alloc(&mut self, size: usize, align: usize) -> Result<PerCpuOff, SyncError> {
        if !align.is_power_of_two() || align > PAGE || size == 0 {
            return Err(SyncError::BadLayout { size, align });
        }
        let fits = |(&start, &len): (&usize, &usize)| {
            let at = start.next_multiple_of(align);
            (len.checked_sub(at - start)? >= size).then_some((start, len, at))
        };
        let (start, len, at) = self.free.iter().find_map(fits).ok_or(SyncError::OutOfPerCpuMemory { size, align })?;
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        if start + len > at + size {
            self.free.insert(at + size, start + len - at - size);
        }
        self.used.insert(at, size);
        Ok(PerCpuOff(at as u64))
    }

    /// Bytes that are allocated, those that wait for a grace period included; `stride` is a region's length.
    pub(crate) fn used(&self, stride: usize) -> usize {
        stride - HEADER - self.free.values().sum::<usize>()
    }

    /// Takes an allocation out of use, without making it free; its length.
    pub(crate) fn retire(&mut self, offset: PerCpuOff) -> Option<usize> {
        self.used.remove(&usize::try_from(offset.0).ok()?)
    }

    /// Makes a retired range free, joined with its neighbours.
    pub(crate) fn release(&mut self, mut start: usize, mut len: usize) {
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            start = before;
            len += before_len;
        }
        if let Some(after_len) = self.free.remove(&(start + len)) {
            len += after_len;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_reused_and_joined() {
        let mut offsets = Offsets::new(64 * PAGE);
        let all = offsets.free.clone();
        let taken: Vec<PerCpuOff> = [(8, 8), (1, 1), (4096, 4096), (24, 16), (100, 64)]
            .into_iter()
            .map(|(size, align)| {
                let at = offsets.alloc(size, align).unwrap();
                assert_eq!(at.0 % align as u64, 0, "{size} bytes at {align}");
                assert!(at.0 >= HEADER as u64);
                at
            })
            .collect();
        assert_eq!(offsets.used(64 * PAGE), 8 + 1 + 4096 + 24 + 100);
        for at in [2, 0, 4, 1, 3] {
            let len = offsets.retire(taken[at]).unwrap();
            assert!(offsets.retire(taken[at]).is_none(), "freed twice");
            offsets.release(usize::try_from(taken[at].0).unwrap(), len);
        }
        assert_eq!(offsets.free, all);
        assert_eq!(offsets.used(64 * PAGE), 0);
    }

    #[test]
    fn impossible_layouts_are_errors() {
        let mut offsets = Offsets::new(16 * PAGE);
        for (size, align) in [(0, 8), (8, 3), (8, 0), (8, 8192)] {
            assert!(matches!(offsets.alloc(size, align), Err(SyncError::BadLayout { .. })));
        }
        assert!(matches!(offsets.alloc(17 * PAGE, 8), Err(SyncError::OutOfPerCpuMemory { .. })));
        assert!(matches!(offsets.alloc(usize::MAX, 8), Err(SyncError::OutOfPerCpuMemory { .. })));
    }
}
