//! Dynamic pointers: memory with a length that is known at run time.
//!
//! A dynptr is 16 bytes on the program's stack that only helpers touch. Invariant: `offset + size` lies within what the
//! dynptr was made for. Kernel counterpart: `struct bpf_dynptr_kern`, include/linux/bpf.h; kernel/bpf/helpers.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, bytes, bytes_mut, entry, low, status};
use crate::ctx::PacketRef;
use crate::frame::Run;

/// Sizes take 24 bits (`DYNPTR_MAX_SIZE`).
pub(super) const MAX_SIZE: u32 = (1 << 24) - 1;
/// Set in `size` when the memory may not be written.
const READ_ONLY: u32 = 1 << 31;
/// Where the kind is kept in `size`.
const KIND_SHIFT: u32 = 28;

/// What a dynptr leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Local,
    Ringbuf,
    Skb,
    Xdp,
}

/// `struct bpf_dynptr_kern`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Dynptr {
    pub(crate) data: u64,
    /// Length in bits 0-23, kind in bits 28-30, read-only in bit 31.
    size: u32,
    offset: u32,
}

impl Dynptr {
    pub(crate) const NULL: Self = Self { data: 0, size: 0, offset: 0 };

    pub(crate) fn new(kind: Kind, data: u64, size: u32, read_only: bool) -> Self {
        let kind = match kind {
            Kind::Local => 0,
            Kind::Ringbuf => 1,
            Kind::Skb => 2,
            Kind::Xdp => 3,
        };
        Self { data, size: size | kind << KIND_SHIFT | if read_only { READ_ONLY } else { 0 }, offset: 0 }
    }

    pub(crate) fn len(&self) -> u32 {
        self.size & MAX_SIZE
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.size & READ_ONLY != 0
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.size >> KIND_SHIFT & 7 {
            0 => Kind::Local,
            1 => Kind::Ringbuf,
            2 => Kind::Skb,
            _ => Kind::Xdp,
        }
    }

    /// Address and length of the memory that it leads to; `None` for a null one and for packets.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let in_memory = matches!(self.kind(), Kind::Local | Kind::Ringbuf);
        (in_memory && self.data != 0).then(|| (self.data.wrapping_add(u64::from(self.offset)), u64::from(self.len())))
    }

    /// The range from `offset` on, counted from `data`.
    fn range(&self, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Errno> {
        let (offset, len, size) = (u64::from(low(offset)), u64::from(low(len)), u64::from(self.len()));
        if len > size || offset > size - len {
            return Err(Errno::E2BIG);
        }
        let start = u64::from(self.offset) + offset;
        Ok(start as usize..(start + len) as usize)
    }
}

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(197, entry!(from_mem)), (201, entry!(read)), (202, entry!(write)), (203, entry!(data))]
}

/// The dynptr argument at `address`.
///
/// # Safety
/// `address` is an initialised dynptr, or room for one (prototype).
pub(crate) unsafe fn at(address: u64) -> *mut Dynptr {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

unsafe fn from_mem(_run: Run, [memory, size, flags, to, _]: [u64; 5]) -> u64 {
    let result = if low(size) > MAX_SIZE {
        Err(Errno::E2BIG)
    } else if flags != 0 {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    };
    let dynptr = if result.is_ok() { Dynptr::new(Kind::Local, memory, low(size), false) } else { Dynptr::NULL };
    // SAFETY: r4 is room for a dynptr (prototype).
    let to = unsafe { at(to) };
    // SAFETY: as above.
    unsafe { to.write(dynptr) };
    status(result)
}

/// Runs `f` on the bytes of the packet that a packet dynptr leads to.
fn packet(run: &Run, kind: Kind, f: impl FnOnce(&mut [u8]) -> Result<(), Errno>) -> Result<(), Errno> {
    match (run.packet(), kind) {
        (PacketRef::Skb(skb), Kind::Skb) => f(skb.packet_mut()),
        (PacketRef::Xdp(xdp), Kind::Xdp) => f(xdp.packet_mut()),
        _ => Err(Errno::EINVAL),
    }
}

unsafe fn read(run: Run, [to, len, from, offset, flags]: [u64; 5]) -> u64 {
    // SAFETY: r3 is a dynptr (prototype).
    let from = unsafe { at(from) };
    // SAFETY: as above.
    let from = unsafe { from.read() };
    if from.data == 0 || flags != 0 {
        return Errno::EINVAL.as_return();
    }
    let range = match from.range(offset, len) {
        Ok(range) => range,
        Err(errno) => return errno.as_return(),
    };
    // SAFETY: r1 is writable for r2 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, range.len() as u64) };
    status(match from.kind() {
        Kind::Local | Kind::Ringbuf => {
            // SAFETY: the range lies in the dynptr's memory, which the verifier keeps alive.
            let source = unsafe { bytes(&run, from.data + range.start as u64, range.len() as u64) };
            // SAFETY: both are as long as the range; they may overlap.
            unsafe { std::ptr::copy(source.as_ptr(), to.as_mut_ptr(), to.len()) };
            Ok(())
        }
        kind => packet(&run, kind, |bytes| {
            to.copy_from_slice(bytes.get(range).ok_or(Errno::EFAULT)?);
            Ok(())
        }),
    })
}

unsafe fn write(run: Run, [to, offset, from, len, flags]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let to = unsafe { at(to) };
    // SAFETY: as above.
    let to = unsafe { to.read() };
    if to.data == 0 || to.is_read_only() {
        return Errno::EINVAL.as_return();
    }
    let range = match to.range(offset, len) {
        Ok(range) => range,
        Err(errno) => return errno.as_return(),
    };
    // SAFETY: r3 is readable for r4 bytes (prototype).
    let from = unsafe { bytes(&run, from, range.len() as u64) };
    status(match to.kind() {
        Kind::Local | Kind::Ringbuf if flags != 0 => Err(Errno::EINVAL),
        Kind::Local | Kind::Ringbuf => {
            // SAFETY: the range lies in the dynptr's memory, which the verifier keeps alive.
            let target = unsafe { bytes_mut(&run, to.data + range.start as u64, range.len() as u64) };
            // SAFETY: both are as long as the range; they may overlap.
            unsafe { std::ptr::copy(from.as_ptr(), target.as_mut_ptr(), target.len()) };
            Ok(())
        }
        kind => packet(&run, kind, |bytes| {
            bytes.get_mut(range).ok_or(Errno::EFAULT)?.copy_from_slice(from);
            Ok(())
        }),
    })
}

unsafe fn data(run: Run, [from, offset, len, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { at(from) };
    // SAFETY: as above.
    let from = unsafe { from.read() };
    let in_memory = matches!(from.kind(), Kind::Local | Kind::Ringbuf);
    match from.range(offset, len) {
        Ok(range) if from.data != 0 && !from.is_read_only() && in_memory => {
            let address = from.data + range.start as u64;
            run.grant(address, range.len() as u64, true);
            address
        }
        _ => 0,
    }
}
