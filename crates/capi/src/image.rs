//! The memory behind `skel->bss`, `skel->rodata`, `skel->percpu`: one address from open to close.
//!
//! Before load it is the image of initial values, private and writable. At load the pages of an array's file take its
//! place at the same address, so that pointers into it go on to work and show what programs read and write; constants
//! and the per-CPU image become read-only. Invariant: the mapping is of whole pages and is not moved but by
//! [`Image::resize`]. Counterpart: `bpf_map_mmap_sz`, `bpf_object__load_skeleton`, libbpf 1.x.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use skep_abi::Errno;

use crate::handle::errno;

const PAGE: usize = 4096;

/// A data section's memory.
#[derive(Debug)]
pub(crate) struct Image {
    start: NonNull<u8>,
    /// Bytes of the section.
    size: usize,
    is_writable: bool,
}

// SAFETY: a range of addresses; C accesses it as it likes, Rust copies from and to it.
unsafe impl Send for Image {}

impl Image {
    /// A writable image of these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Errno> {
        let (flags, protection) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), pages(bytes.len()), protection, flags) };
        let start = start.map_err(errno)?;
        let image =
            Self { start: NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?, size: bytes.len(), is_writable: true };
        // SAFETY: the mapping is at least as long, and nobody else knows it yet.
        unsafe { image.start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(image)
    }

    /// The address for C.
    pub(crate) fn pointer(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    /// Bytes of the section.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A copy of what it holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the mapping, which is readable; C may write it at the same time.
            *byte = unsafe { self.start.as_ptr().wrapping_add(at).read_volatile() };
        }
        bytes
    }

    /// Overwrites it; `bytes` has its size.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() != self.size {
            return Err(Errno::EINVAL);
        }
        if !self.is_writable {
            return Err(Errno::EBUSY);
        }
        // SAFETY: the mapping is as long and writable; what C hands in does not overlap with it unless it is the same.
        unsafe { self.start.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Another size; what it held stays, and what is new is zero. The address changes.
    pub(crate) fn resize(&mut self, size: usize) -> Result<(), Errno> {
        let mut bytes = self.bytes();
        bytes.resize(size, 0);
        *self = Self::new(&bytes)?;
        Ok(())
    }

    /// Puts the file's pages in its place.
    pub(crate) fn become_shared(&mut self, file: BorrowedFd<'_>, writable: bool) -> Result<(), Errno> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let (start, flags) = (self.start.as_ptr().cast(), MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: the range is this mapping's own, and is replaced as a whole.
        let mapped = unsafe { mmap(start, pages(self.size), protection, flags, file, 0) };
        self.is_writable = writable;
        mapped.map(drop).map_err(errno)
    }

    /// From here on nobody writes it.
    pub(crate) fn protect(&mut self) -> Result<(), Errno> {
        self.is_writable = false;
        // SAFETY: the range is this mapping's own, and Rust has no reference into it.
        unsafe { mprotect(self.start.as_ptr().cast(), pages(self.size), MprotectFlags::READ) }.map_err(errno)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the object is closed, and with it every pointer into the mapping has ended (see the header).
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), pages(self.size)) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

fn pages(size: usize) -> usize {
    size.max(1).next_multiple_of(PAGE)
}
