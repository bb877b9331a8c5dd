//! Perf event arrays: samples, with packet data on request.
//!
//! Invariant: the packet part of a sample is at most as long as the packet. Kernel counterpart: `bpf_xdp_event_output`,
//! `bpf_skb_event_output`, net/core/filter.c; `bpf_perf_event_output`, kernel/trace/bpf_trace.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, entry, status};
use crate::ctx::PacketRef;
use crate::frame::Run;
use crate::map::perf_event_array::PerfEventArray;
use crate::map::{MapObject, Vcpu};

/// Where the flags hold the length of the packet part (`BPF_F_CTXLEN_MASK`).
const CTX_LEN_SHIFT: u32 = 32;
const CTX_LEN_MASK: u64 = 0xf_ffff << CTX_LEN_SHIFT;
/// `BPF_F_INDEX_MASK`.
const INDEX_MASK: u64 = 0xffff_ffff;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (25, entry!(perf_event_output)),
        (111, entry!(perf_event_output)), // skb_output
        (121, entry!(perf_event_output)), // xdp_output
    ]
}

unsafe fn perf_event_output(run: Run, [_, map, flags, data, size]: [u64; 5]) -> u64 {
    // SAFETY: r2 is a map of the program (prototype).
    let map = unsafe { MapObject::from_addr(map) };
    let Some(array) = map.downcast::<PerfEventArray>() else { return Errno::EINVAL.as_return() };
    let wanted = ((flags & CTX_LEN_MASK) >> CTX_LEN_SHIFT) as usize;
    let mut part = Vec::new();
    let len = match run.packet() {
        _ if flags & !(CTX_LEN_MASK | INDEX_MASK) != 0 => return Errno::EINVAL.as_return(),
        PacketRef::Xdp(xdp) => {
            part.resize(wanted.min(xdp.total_len()), 0);
            xdp.copy_out(0, &mut part);
            xdp.total_len()
        }
        PacketRef::Skb(skb) => {
            part.extend_from_slice(&skb.packet()[..wanted.min(skb.packet().len())]);
            skb.packet().len()
        }
        PacketRef::None if wanted > 0 => return Errno::EINVAL.as_return(),
        PacketRef::None => 0,
    };
    if wanted > len {
        return Errno::EFAULT.as_return();
    }
    // SAFETY: the run is on the vCPU with this base.
    let cpu = unsafe { Vcpu::from_base(run.base().as_ptr()) };
    let data = (std::ptr::with_exposed_provenance(data as usize), size as usize);
    // SAFETY: r4 is readable for r5 bytes (prototype); the packet part is a copy.
    status(unsafe { array.output(flags, data, (part.as_ptr(), part.len()), cpu) })
}
