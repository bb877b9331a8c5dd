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

    /// Narrows it to the bytes from `start` to `end`; `ERANGE` beyond its end.
    pub(crate) fn adjust(&mut self, start: u32, end: u32) -> Result<(), Errno> {
        if start > self.len() || end > self.len() || start > end {
            return Err(Errno::ERANGE);
        }
        self.offset += start;
        self.size = self.size & !MAX_SIZE | (end - start);
        Ok(())
    }

    /// The range from `offset` on, counted from `data`.
    pub(crate) fn range(&self, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Errno> {
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

/// Copies bytes out of a dynptr.
///
/// # Safety
/// The dynptr leads to memory that is alive; `to` is writable for its length and may overlap it.
pub(crate) unsafe fn read_into(run: &Run, from: &Dynptr, offset: u64, to: *mut u8, len: u64) -> Result<(), Errno> {
    if from.data == 0 {
        return Err(Errno::EINVAL);
    }
    let range = from.range(offset, len)?;
    let target = to.expose_provenance() as u64;
    match (from.kind(), run.packet()) {
        (Kind::Local | Kind::Ringbuf, _) => {
            // SAFETY: the range lies in the dynptr's memory (caller).
            let source = unsafe { bytes(run, from.data + range.start as u64, range.len() as u64) };
            // SAFETY: both are as long as the range; they may overlap.
            unsafe { std::ptr::copy(source.as_ptr(), to, range.len()) };
            Ok(())
        }
        (Kind::Skb, PacketRef::Skb(skb)) => {
            let source = skb.packet().get(range).ok_or(Errno::EFAULT)?;
            // SAFETY: as above.
            unsafe { std::ptr::copy(source.as_ptr(), to, source.len()) };
            Ok(())
        }
        (Kind::Xdp, PacketRef::Xdp(xdp)) => {
            if range.end > xdp.total_len() {
                return Err(Errno::EFAULT);
            }
            // The destination may lie in the packet.
            let mut copy = vec![0; range.len()];
            xdp.copy_out(range.start, &mut copy);
            // SAFETY: writable for the length (caller).
            unsafe { bytes_mut(run, target, copy.len() as u64) }.copy_from_slice(&copy);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Copies bytes into a dynptr.
///
/// # Safety
/// The dynptr leads to memory that is alive; `from` is readable for its length and may overlap it.
pub(crate) unsafe fn write_from(run: &Run, to: &Dynptr, offset: u64, from: *const u8, len: u64) -> Result<(), Errno> {
    if to.data == 0 || to.is_read_only() {
        return Err(Errno::EINVAL);
    }
    let range = to.range(offset, len)?;
    match (to.kind(), run.packet()) {
        (Kind::Local | Kind::Ringbuf, _) => {
            // SAFETY: the range lies in the dynptr's memory (caller).
            let target = unsafe { bytes_mut(run, to.data + range.start as u64, range.len() as u64) };
            // SAFETY: both are as long as the range; they may overlap.
            unsafe { std::ptr::copy(from, target.as_mut_ptr(), target.len()) };
            Ok(())
        }
        (Kind::Skb, PacketRef::Skb(skb)) => {
            let target = skb.packet_mut().get_mut(range).ok_or(Errno::EFAULT)?;
            // SAFETY: as above.
            unsafe { std::ptr::copy(from, target.as_mut_ptr(), target.len()) };
            Ok(())
        }
        (Kind::Xdp, PacketRef::Xdp(xdp)) => {
            if range.end > xdp.total_len() {
                return Err(Errno::EFAULT);
            }
            // SAFETY: readable for the length (caller); it may lie in the packet, so it is copied first.
            let copy = unsafe { bytes(run, from.expose_provenance() as u64, range.len() as u64) }.to_vec();
            xdp.copy_in(range.start, &copy);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Copies from one dynptr into another (`bpf_dynptr_copy`).
///
/// # Safety
/// Both lead to memory that is alive.
pub(crate) unsafe fn copy_between(
    run: &Run,
    (to, to_offset): (&Dynptr, u64),
    (from, from_offset): (&Dynptr, u64),
    len: u64,
) -> Result<(), Errno> {
    let (source, target) = (from.range(from_offset, len), to.range(to_offset, len));
    let (readable, writable) = (from.data != 0, to.data != 0 && !to.is_read_only());
    let either = (readable && source.is_ok()) || (writable && target.is_ok());
    if !either && (source.is_err() || target.is_err()) {
        return Err(Errno::E2BIG);
    }
    if !writable {
        return Err(Errno::EINVAL);
    }
    let mut buffer = [0_u8; 256];
    let (len, mut done) = (u64::from(low(len)), 0);
    while done < len || len == 0 {
        let part = (len - done).min(buffer.len() as u64);
        // SAFETY: the dynptr is alive (caller); the buffer has the length.
        unsafe { read_into(run, from, from_offset + done, buffer.as_mut_ptr(), part) }?;
        // SAFETY: as above.
        unsafe { write_from(run, to, to_offset + done, buffer.as_ptr(), part) }?;
        done += part;
        if len == 0 {
            break;
        }
    }
    Ok(())
}

/// Fills a part of a dynptr with one byte (`bpf_dynptr_memset`).
///
/// # Safety
/// The dynptr leads to memory that is alive.
pub(crate) unsafe fn fill(run: &Run, to: &Dynptr, offset: u64, len: u64, value: u8) -> Result<(), Errno> {
    if to.is_read_only() {
        return Err(Errno::EINVAL);
    }
    to.range(offset, len)?;
    let buffer = [value; 256];
    let (len, mut done) = (u64::from(low(len)), 0);
    while done < len {
        let part = (len - done).min(buffer.len() as u64);
        // SAFETY: the dynptr is alive (caller); the buffer has the length.
        unsafe { write_from(run, to, offset + done, buffer.as_ptr(), part) }?;
        done += part;
    }
    Ok(())
}

unsafe fn read(run: Run, [to, len, from, offset, flags]: [u64; 5]) -> u64 {
    // SAFETY: r3 is a dynptr (prototype).
    let from = unsafe { at(from) };
    // SAFETY: as above.
    let from = unsafe { from.read() };
    if flags != 0 {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: r1 is writable for r2 bytes (prototype), and the verifier keeps the dynptr's memory alive.
    status(unsafe { read_into(&run, &from, offset, std::ptr::with_exposed_provenance_mut(to as usize), len) })
}

unsafe fn write(run: Run, [to, offset, from, len, flags]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let to = unsafe { at(to) };
    // SAFETY: as above.
    let to = unsafe { to.read() };
    let in_memory = matches!(to.kind(), Kind::Local | Kind::Ringbuf);
    if in_memory && flags != 0 && to.data != 0 && !to.is_read_only() && to.range(offset, len).is_ok() {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: r3 is readable for r4 bytes (prototype), and the verifier keeps the dynptr's memory alive.
    status(unsafe { write_from(&run, &to, offset, std::ptr::with_exposed_provenance(from as usize), len) })
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
