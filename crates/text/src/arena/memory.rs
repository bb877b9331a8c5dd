//! Code memory: one file in memory, mapped twice.
//!
//! One mapping is read-execute, the other read-write; no page is writable and executable at one address. Neither is
//! passed on to a forked child, whose use of the code is an error instead of a surprise. Invariant: the two mappings
//! show the same bytes at the same offsets for as long as the value lives.
//! Kernel counterpart: `mm/execmem.c` and the poking mm of `arch/x86/kernel/alternative.c` (6.18).

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::error::TextError;

/// A mapping that is undone when dropped.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: &OwnedFd, near: usize, len: usize, prot: ProtFlags, extra: MapFlags) -> io::Result<Mapping> {
        let near = std::ptr::without_provenance_mut(near);
        // SAFETY: without MAP_FIXED (NOREPLACE fails instead), the mapping takes the place of nothing.
        let start = unsafe { mmap(near, len, prot, MapFlags::SHARED | extra, fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the owner of the mapping is gone, and with it everything that points into it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// Zeroed memory of this process alone, that costs nothing until it is touched.
pub(crate) struct Sparse(Mapping);

// SAFETY: an address range; access through it is the users' duty.
unsafe impl Send for Sparse {}
// SAFETY: as for `Send`.
unsafe impl Sync for Sparse {}

impl Sparse {
    pub(crate) fn new(len: usize) -> Result<Sparse, TextError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE | MapFlags::NORESERVE) };
        let mapped = start.map_err(io::Error::from).and_then(|start| {
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Sparse(Mapping { start, len }))
        });
        mapped.map_err(|source| TextError::Map { step: "the table of images", source })
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }
}

/// The two mappings of one range of code memory.
pub(crate) struct DualMap {
    exec: Mapping,
    write: Mapping,
}

// SAFETY: a pair of address ranges; access through them is the users' duty.
unsafe impl Send for DualMap {}
// SAFETY: as for `Send`.
unsafe impl Sync for DualMap {}

impl DualMap {
    /// Maps `len` bytes, the executable view within reach of `near` if there is room.
    pub(crate) fn new(len: usize, near: usize) -> Result<DualMap, TextError> {
        let fd = code_file(len)?;
        let failed = |step| move |source| TextError::Map { step, source };
        let exec = place_near(&fd, near, len).map_err(failed("the executable view"))?;
        let write = Mapping::new(&fd, 0, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
            .map_err(failed("the writable view"))?;
        let map = DualMap { exec, write };
        for view in [&map.exec, &map.write] {
            // SAFETY: the range is the mapping just made.
            unsafe { madvise(view.start.as_ptr().cast(), len, Advice::LinuxDontFork) }
                .map_err(|error| failed("keeping it from children")(error.into()))?;
        }
        Ok(map)
    }

    pub(crate) fn len(&self) -> usize {
        self.exec.len
    }

    /// The address of the executable view.
    pub(crate) fn exec(&self) -> u64 {
        self.exec.start.as_ptr().expose_provenance() as u64
    }

    /// The writable byte behind the executable one at `offset`.
    pub(crate) fn alias(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.write.len);
        self.write.start.as_ptr().wrapping_add(offset)
    }
}

/// A file in memory of `len` bytes, sealed against being executed as a program.
pub(crate) fn code_file(len: usize) -> Result<OwnedFd, TextError> {
    let failed = |step| move |source: rustix::io::Errno| TextError::Map { step, source: source.into() };
    // Kernels before 6.3 do not know the seal, which keeps the file from `execve` and not from being mapped.
    let fd = memfd_create("skep-text", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("skep-text", MemfdFlags::CLOEXEC))
        .map_err(failed("a file in memory"))?;
    ftruncate(&fd, len as u64).map_err(failed("the size of the file"))?;
    Ok(fd)
}

/// Tries places below and above `near`, so that a 32-bit displacement reaches from all of the mapping to the code that
/// is there, then any place.
fn place_near(fd: &OwnedFd, near: usize, len: usize) -> io::Result<Mapping> {
    const STEP: usize = 64 << 20;
    const REACH: usize = (1 << 31) - (128 << 20);
    let prot = ProtFlags::READ | ProtFlags::EXEC;
    let base = near & !(STEP - 1);
    for distance in (STEP..REACH).step_by(STEP) {
        // The heap grows up behind the program: below is the quieter side.
        for start in [base.checked_sub(distance + len), base.checked_add(distance)] {
            let fits = distance + len < REACH;
            let Some(start) = start.filter(|_| fits) else { continue };
            // A kernel before 4.17 takes the address as a wish and may answer with another.
            if let Ok(mapping) = Mapping::new(fd, start, len, prot, MapFlags::FIXED_NOREPLACE)
                && mapping.start.as_ptr().addr() == start
            {
                return Ok(mapping);
            }
        }
    }
    Mapping::new(fd, 0, len, prot, MapFlags::empty())
}
