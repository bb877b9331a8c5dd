//! XDP: head, tail and metadata of the packet, and its bytes.
//!
//! Invariant: the pointers in the context are what the helper left, so the program reloads them. Kernel counterpart:
//! net/core/filter.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, bytes, bytes_mut, entry, low, low_signed, status};
use crate::ctx::{PacketRef, XdpBuff};
use crate::frame::Run;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (44, entry!(adjust_head)),
        (54, entry!(adjust_meta)),
        (65, entry!(adjust_tail)),
        (188, entry!(get_buff_len)),
        (189, entry!(load_bytes)),
        (190, entry!(store_bytes)),
    ]
}

fn with(run: &Run, f: impl FnOnce(&mut XdpBuff) -> Result<(), Errno>) -> u64 {
    status(match run.packet() {
        PacketRef::Xdp(xdp) => f(xdp),
        PacketRef::None | PacketRef::Skb(_) => Err(Errno::EINVAL),
    })
}

unsafe fn adjust_head(run: Run, [_, offset, ..]: [u64; 5]) -> u64 {
    with(&run, |xdp| xdp.adjust_head(low_signed(offset)))
}

unsafe fn adjust_tail(run: Run, [_, offset, ..]: [u64; 5]) -> u64 {
    with(&run, |xdp| xdp.adjust_tail(low_signed(offset)))
}

unsafe fn adjust_meta(run: Run, [_, offset, ..]: [u64; 5]) -> u64 {
    with(&run, |xdp| xdp.adjust_meta(low_signed(offset)))
}

unsafe fn get_buff_len(run: Run, _: [u64; 5]) -> u64 {
    match run.packet() {
        PacketRef::Xdp(xdp) => xdp.total_len() as u64,
        PacketRef::None | PacketRef::Skb(_) => 0,
    }
}

/// The range of the packet, with the errors in the kernel's order.
fn range(xdp: &XdpBuff, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Errno> {
    let (offset, len) = (low(offset) as usize, low(len) as usize);
    if offset > 0xffff || len > 0xffff {
        return Err(Errno::EFAULT);
    }
    if offset + len > xdp.total_len() {
        return Err(Errno::EINVAL);
    }
    Ok(offset..offset + len)
}

unsafe fn load_bytes(run: Run, [_, offset, to, len, _]: [u64; 5]) -> u64 {
    with(&run, |xdp| {
        let range = range(xdp, offset, len)?;
        // The destination may lie in the packet.
        let mut copy = vec![0; range.len()];
        xdp.copy_out(range.start, &mut copy);
        // SAFETY: r3 is writable for r4 bytes (prototype).
        unsafe { bytes_mut(&run, to, copy.len() as u64) }.copy_from_slice(&copy);
        Ok(())
    })
}

unsafe fn store_bytes(run: Run, [_, offset, from, len, _]: [u64; 5]) -> u64 {
    with(&run, |xdp| {
        let range = range(xdp, offset, len)?;
        // SAFETY: r3 is readable for r4 bytes (prototype); it may lie in the packet, so it is copied first.
        let copy = unsafe { bytes(&run, from, range.len() as u64) }.to_vec();
        xdp.copy_in(range.start, &copy);
        Ok(())
    })
}
