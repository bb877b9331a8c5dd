//! Memory that map elements live in: one anonymous mapping per map, zeroed, at an address that never changes.
//!
//! Programs hold addresses into it, so a region is never resized or moved; it goes back when the map's last reference
//! goes, which is a grace period after the last program that used it. A page costs memory once it is touched.
//! Kernel counterpart: `bpf_map_area_alloc` (kernel/bpf/syscall.c, 6.18).

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use skep_abi::Errno;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// The cap of a whole address space: a map that would need more is refused before the kernel is asked.
const ADDRESS_CAP: u64 = 1 << 45;

/// A mapping of its own: private and anonymous, or of a file in memory that others may map as well.
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is a range of addresses; what is done through it is its users' duty.
unsafe impl Send for Region {}
// SAFETY: as for `Send`.
unsafe impl Sync for Region {}

impl Region {
    /// Memory that the map may touch as a whole: refused when the machine does not have that much.
    pub(crate) fn committed(len: u64) -> Result<Region, Errno> {
        if len > total_ram() { Err(Errno::ENOMEM) } else { Region::reserved(len) }
    }

    /// Address space whose pages are touched as elements come (`BPF_F_NO_PREALLOC`).
    pub(crate) fn reserved(len: u64) -> Result<Region, Errno> {
        if len > ADDRESS_CAP {
            return Err(Errno::ENOMEM);
        }
        let len = usize::try_from(len).map_err(|_| Errno::ENOMEM)?.max(1).next_multiple_of(PAGE);
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let start = start.ok().and_then(|start| NonNull::new(start.cast())).ok_or(Errno::ENOMEM)?;
        Ok(Region { start, len })
    }

    /// As [`Region::committed`], in a file in memory whose other mappings see the same bytes.
    pub(crate) fn shared(len: u64, name: &str) -> Result<(Region, OwnedFd), Errno> {
        if len > total_ram() {
            return Err(Errno::ENOMEM);
        }
        let len = usize::try_from(len).map_err(|_| Errno::ENOMEM)?.max(1).next_multiple_of(PAGE);
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(memory_errno)?;
        ftruncate(&file, len as u64).map_err(memory_errno)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0) };
        let start = start.ok().and_then(|start| NonNull::new(start.cast())).ok_or(Errno::ENOMEM)?;
        Ok((Region { start, len }, file))
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The length, a multiple of the page.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether `len` bytes at `addr` lie inside; then the offset of the first.
    pub(crate) fn offset_of(&self, addr: u64, len: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.start.as_ptr().addr() as u64)?;
        (offset.checked_add(len)? <= self.len as u64).then_some(offset)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the owner of the region is gone, and with it everything that points into it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// Too many open files stay what they are; all else that can fail here is a want of memory.
fn memory_errno(error: rustix::io::Errno) -> Errno {
    match error {
        rustix::io::Errno::MFILE => Errno::EMFILE,
        rustix::io::Errno::NFILE => Errno::ENFILE,
        _ => Errno::ENOMEM,
    }
}

/// The machine's memory in bytes: what the kernel's `vmalloc` compares a request with.
fn total_ram() -> u64 {
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(|| {
        let info = rustix::system::sysinfo();
        (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_inside() {
        let region = Region::committed(5000).unwrap();
        let start = region.start().addr() as u64;
        assert_eq!(region.len(), 8192);
        assert_eq!(region.offset_of(start, 8192), Some(0));
        assert_eq!(region.offset_of(start + 8191, 1), Some(8191));
        for (addr, len) in [(start, 8193), (start + 8192, 1), (start - 1, 1), (start + 8, u64::MAX), (0, 1)] {
            assert_eq!(region.offset_of(addr, len), None, "{addr:#x} {len}");
        }
    }

    #[test]
    fn a_shared_region_and_its_file_are_one_memory() {
        let (region, file) = Region::shared(5000, "test").unwrap();
        assert_eq!((region.len(), rustix::fs::fstat(&file).unwrap().st_size), (8192, 8192));
        rustix::io::pwrite(&file, &[7], 4999).unwrap();
        // SAFETY: a byte of the region, which nobody writes now.
        assert_eq!(unsafe { region.start().wrapping_add(4999).read_volatile() }, 7);
        // SAFETY: as above.
        unsafe { region.start().write_volatile(9) };
        let mut byte = [0];
        rustix::io::pread(&file, &mut byte, 0).unwrap();
        assert_eq!(byte, [9]);
    }

    #[test]
    fn too_much_is_refused() {
        assert_eq!(Region::shared(1 << 50, "").err(), Some(Errno::ENOMEM));
        assert_eq!(Region::committed(1 << 50).err(), Some(Errno::ENOMEM));
        assert_eq!(Region::reserved(u64::MAX).err(), Some(Errno::ENOMEM));
    }
}
