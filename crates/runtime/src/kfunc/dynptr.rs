//! Kernel functions on dynptrs, and those that make dynptrs of packets.
//!
//! Invariant: a slice lies within the dynptr, in memory that stays as long as the verifier lets the program use it: the
//! packet's linear part until a helper moves it, or the buffer that came with the call. Kernel counterpart:
//! `bpf_dynptr_slice` and others, kernel/bpf/helpers.c; `bpf_dynptr_from_skb`, `bpf_dynptr_from_xdp`, net/core/filter.c, 6.18.

use skep_abi::{Errno, ProgType};

use super::{int, status};
use crate::ctx::PacketRef;
use crate::frame::Run;
use crate::helper::dynptr::{self, Dynptr, Kind};
use crate::helper::{bytes_mut, entry, low};
use crate::map::HelperFn;

pub(super) fn table() -> Vec<(&'static str, HelperFn)> {
    vec![
        ("bpf_dynptr_from_skb", entry!(from_skb)),
        ("bpf_dynptr_from_xdp", entry!(from_xdp)),
        ("bpf_dynptr_slice", entry!(slice)),
        ("bpf_dynptr_slice_rdwr", entry!(slice_rdwr)),
        ("bpf_dynptr_adjust", entry!(adjust)),
        ("bpf_dynptr_is_null", entry!(is_null)),
        ("bpf_dynptr_is_rdonly", entry!(is_rdonly)),
        ("bpf_dynptr_size", entry!(size)),
        ("bpf_dynptr_clone", entry!(clone)),
        ("bpf_dynptr_copy", entry!(copy)),
        ("bpf_dynptr_memset", entry!(memset)),
    ]
}

/// Whether programs of this type may write their packets.
fn writes_packets(prog: ProgType) -> bool {
    matches!(prog, ProgType::SchedCls | ProgType::SchedAct | ProgType::Xdp | ProgType::LwtXmit | ProgType::SkSkb)
}

/// The dynptr argument at `address`.
///
/// # Safety
/// `address` is an initialised dynptr (prototype).
unsafe fn argument<'a>(address: u64) -> &'a mut Dynptr {
    // SAFETY: the caller's duty.
    let at = unsafe { dynptr::at(address) };
    // SAFETY: the caller's duty; a dynptr lies on the stack of this run, which nobody else uses.
    unsafe { &mut *at }
}

unsafe fn from_packet(run: &Run, ctx: u64, flags: u64, to: u64, kind: Kind) -> u64 {
    let len = match run.packet() {
        PacketRef::Skb(skb) if kind == Kind::Skb => Some(skb.packet().len()),
        PacketRef::Xdp(xdp) if kind == Kind::Xdp => Some(xdp.total_len()),
        _ => None,
    };
    let made = match len.and_then(|len| u32::try_from(len).ok()) {
        Some(len) if flags == 0 => Ok(Dynptr::new(kind, ctx, len, !writes_packets(run.program().prog_type()))),
        _ => Err(Errno::EINVAL),
    };
    // SAFETY: r3 is room for a dynptr (prototype).
    let to = unsafe { dynptr::at(to) };
    // SAFETY: as above.
    unsafe { to.write(made.unwrap_or(Dynptr::NULL)) };
    status(made.map(|_| ()))
}

unsafe fn from_skb(run: Run, [ctx, flags, to, ..]: [u64; 5]) -> u64 {
    // SAFETY: the arguments are as the prototype says.
    unsafe { from_packet(&run, ctx, flags, to, Kind::Skb) }
}

unsafe fn from_xdp(run: Run, [ctx, flags, to, ..]: [u64; 5]) -> u64 {
    // SAFETY: the arguments are as the prototype says.
    unsafe { from_packet(&run, ctx, flags, to, Kind::Xdp) }
}

/// The address of `len` bytes from `offset` on where they lie in one piece.
fn in_place(run: &Run, from: &Dynptr, offset: u64, len: u64) -> Option<u64> {
    let range = from.range(offset, len).ok().filter(|_| from.data != 0)?;
    let linear =
        |packet: &mut [u8]| packet.get_mut(range.clone()).map(|part| part.as_mut_ptr().expose_provenance() as u64);
    match (from.kind(), run.packet()) {
        (Kind::Local | Kind::Ringbuf, _) => Some(from.data + range.start as u64),
        (Kind::Skb, PacketRef::Skb(skb)) => linear(skb.packet_mut()),
        (Kind::Xdp, PacketRef::Xdp(xdp)) => linear(xdp.packet_mut()),
        _ => None,
    }
}

/// The slice, or the buffer with a copy of it; 0 if there is neither.
unsafe fn slice_of(run: &Run, from: &Dynptr, [_, offset, buffer, len, _]: [u64; 5]) -> u64 {
    let len = u64::from(low(len));
    if let Some(address) = in_place(run, from, offset, len) {
        run.grant(address, len, !from.is_read_only());
        return address;
    }
    let (Ok(range), PacketRef::Xdp(xdp)) = (from.range(offset, len), run.packet()) else { return 0 };
    if from.data == 0 || buffer == 0 || from.kind() != Kind::Xdp || range.end > xdp.total_len() {
        return 0;
    }
    // SAFETY: r3 is writable for r4 bytes (prototype).
    xdp.copy_out(range.start, unsafe { bytes_mut(run, buffer, len) });
    buffer
}

unsafe fn slice(run: Run, args: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { argument(args[0]) };
    // SAFETY: the arguments are as the prototype says.
    unsafe { slice_of(&run, from, args) }
}

unsafe fn slice_rdwr(run: Run, args: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { argument(args[0]) };
    if from.is_read_only() {
        return 0;
    }
    // SAFETY: the arguments are as the prototype says.
    unsafe { slice_of(&run, from, args) }
}

unsafe fn adjust(_run: Run, [from, start, end, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { argument(from) };
    let (start, end) = (low(start), low(end));
    if from.data == 0 || start > end {
        return int(Errno::EINVAL);
    }
    status(from.adjust(start, end))
}

unsafe fn is_null(_run: Run, [from, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    u64::from(unsafe { argument(from) }.data == 0)
}

unsafe fn is_rdonly(_run: Run, [from, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { argument(from) };
    u64::from(from.data != 0 && from.is_read_only())
}

unsafe fn size(_run: Run, [from, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = unsafe { argument(from) };
    if from.data == 0 { int(Errno::EINVAL) } else { u64::from(from.len()) }
}

unsafe fn clone(_run: Run, [from, to, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let from = *unsafe { argument(from) };
    // SAFETY: r2 is room for a dynptr (prototype).
    let to = unsafe { dynptr::at(to) };
    // SAFETY: as above.
    unsafe { to.write(if from.data == 0 { Dynptr::NULL } else { from }) };
    if from.data == 0 { int(Errno::EINVAL) } else { 0 }
}

unsafe fn copy(run: Run, [to, to_offset, from, from_offset, len]: [u64; 5]) -> u64 {
    // SAFETY: r1 and r3 are dynptrs (prototype).
    let to = *unsafe { argument(to) };
    // SAFETY: as above.
    let from = *unsafe { argument(from) };
    // SAFETY: the dynptrs lead to memory that the verifier keeps alive.
    status(unsafe { dynptr::copy_between(&run, (&to, to_offset), (&from, from_offset), len) })
}

unsafe fn memset(run: Run, [to, offset, len, value, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a dynptr (prototype).
    let to = *unsafe { argument(to) };
    // SAFETY: the dynptr leads to memory that the verifier keeps alive.
    status(unsafe { dynptr::fill(&run, &to, offset, len, low(value) as u8) })
}
