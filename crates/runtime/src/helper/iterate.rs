//! Helpers that call the program back.
//!
//! Invariant: a callback's non-zero result ends the iteration. Kernel counterpart: `bpf_loop`, kernel/bpf/bpf_iter.c;
//! `bpf_for_each_map_elem`, 6.18.

use skep_abi::Errno;

use super::{HelperFn, entry, low};
use crate::frame::Run;
use crate::map::{MapObject, Vcpu};

/// Rounds of one `bpf_loop` at most (`BPF_MAX_LOOPS`).
const MAX_LOOPS: u32 = 8 << 20;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(164, entry!(for_each_map_elem)), (181, entry!(bpf_loop))]
}

unsafe fn bpf_loop(run: Run, [rounds, callback, ctx, flags, _]: [u64; 5]) -> u64 {
    if flags != 0 {
        return Errno::EINVAL.as_return();
    }
    let rounds = low(rounds);
    if rounds > MAX_LOOPS {
        return Errno::E2BIG.as_return();
    }
    for round in 0..u64::from(rounds) {
        // SAFETY: r2 is a callback of the running program (prototype).
        if unsafe { run.call_callback(callback, [round, ctx, 0, 0, 0]) } != 0 {
            return round + 1;
        }
    }
    u64::from(rounds)
}

unsafe fn for_each_map_elem(run: Run, [address, callback, ctx, flags, _]: [u64; 5]) -> u64 {
    if flags != 0 {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: r1 is a map of the program (prototype).
    let map = unsafe { MapObject::from_addr(address) };
    // SAFETY: the run is on the vCPU with this base.
    let cpu = unsafe { Vcpu::from_base(run.base().as_ptr()) };
    let key_size = u64::from(map.info().key_size);
    let mut visit = |key: *mut u8, value: *mut u8| {
        // Keys of arrays are copies that the interpreter does not know.
        run.grant(key as u64, key_size, false);
        // SAFETY: r2 is a callback of the running program (prototype).
        let stop = unsafe { run.call_callback(callback, [address, key as u64, value as u64, ctx, 0]) };
        run.revoke(key as u64);
        stop != 0
    };
    // SAFETY: the map is alive, the pointers are valid for each call.
    unsafe { map.ops().for_each(cpu, &mut visit) }.unwrap_or_else(|errno| errno.as_return())
}
