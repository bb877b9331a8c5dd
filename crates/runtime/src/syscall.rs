//! What programs of type syscall ask of the engine: bpf(2) from inside a run.
//!
//! Owns the border between a run and whoever loads programs, which this crate does not know. Invariant: addresses in an
//! attribute are only followed through [`UserMemory`], which gives what the caller was lent and nothing else. Kernel
//! counterpart: `bpf_sys_bpf`, `kern_sys_bpf`, kernel/bpf/syscall.c, 6.18.

use skep_abi::Errno;

use crate::frame::Run;

/// Memory that the addresses in an attribute of bpf(2) lead to.
pub trait UserMemory {
    /// Copies from `address`.
    ///
    /// # Errors
    /// `EFAULT` if not all of it may be read.
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno>;

    /// Copies to `address`.
    ///
    /// # Errors
    /// `EFAULT` if not all of it may be written.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno>;
}

/// bpf(2) and its descriptors, as programs reach them.
pub trait Syscalls: Send + Sync {
    /// `bpf(cmd, attr, size)` with the commands that a program may use; a descriptor or 0.
    ///
    /// # Errors
    /// The kernel's.
    fn bpf(&self, memory: &dyn UserMemory, cmd: u32, attr: &[u8]) -> Result<u32, Errno>;

    /// Closes a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is none of this number.
    fn close(&self, fd: u32) -> Result<(), Errno>;

    /// The id of a type that the kernel would have, with the descriptor of a module's types in the upper half.
    ///
    /// # Errors
    /// `ENOENT` if there is none of this name and kind (`BTF_KIND_*`).
    fn find_type(&self, name: &str, kind: u32) -> Result<u64, Errno>;
}

/// What a run may reach: its own memory, and what its context lends it.
pub(crate) struct RunMemory(pub(crate) Run);

impl UserMemory for RunMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        crate::helper::probe::read(self.0, address, to)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if !self.0.may_write(address, from.len() as u64) {
            return Err(Errno::EFAULT);
        }
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: the run may write these bytes (tested above), so they are mapped and no reference to them is held; another
        // run may write them meanwhile, and the source may overlap.
        unsafe { std::ptr::copy(from.as_ptr(), to, from.len()) };
        Ok(())
    }
}
