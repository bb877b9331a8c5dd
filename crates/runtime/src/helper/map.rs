//! Maps: lookup, update, delete, queues, per-CPU lookup.
//!
//! Invariant: the map pointer is the address of a map object that the running program keeps. Kernel counterpart:
//! kernel/bpf/helpers.c, 6.18.

use super::{HelperFn, entry, low, status};
use crate::frame::Run;
use crate::map::{self, MapObject, Vcpu};

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (1, map::map_lookup_elem),
        (2, map::map_update_elem),
        (3, map::map_delete_elem),
        (12, entry!(tail_call)),
        (87, entry!(push_elem)),
        (88, entry!(pop_elem)),
        (89, entry!(peek_elem)),
        (194, entry!(kptr_xchg)),
        (195, entry!(lookup_percpu_elem)),
        (153, entry!(per_cpu_ptr)),
        (154, entry!(this_cpu_ptr)),
    ]
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// The rewrite replaces every tail call; one that it left fails, as `bpf_tail_call` of the kernel's table does.
unsafe fn tail_call(_run: Run, _: [u64; 5]) -> u64 {
    skep_abi::Errno::EINVAL.as_return()
}

unsafe fn push_elem(_run: Run, [map, value, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (module invariant).
    let map = unsafe { MapObject::from_addr(map) };
    // SAFETY: r2 is readable for the map's value size (prototype).
    status(unsafe { map.ops().push(pointer(value), flags) })
}

unsafe fn pop_elem(_run: Run, [map, value, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (module invariant).
    let map = unsafe { MapObject::from_addr(map) };
    // SAFETY: r2 is writable for the map's value size (prototype).
    status(unsafe { map.ops().pop(pointer(value)) })
}

unsafe fn peek_elem(_run: Run, [map, value, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (module invariant).
    let map = unsafe { MapObject::from_addr(map) };
    // SAFETY: r2 is writable for the map's value size (prototype).
    status(unsafe { map.ops().peek(pointer(value)) })
}

unsafe fn lookup_percpu_elem(run: Run, [map, key, cpu, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (module invariant).
    let map = unsafe { MapObject::from_addr(map) };
    // SAFETY: the run is on the vCPU with this base.
    let vcpu = unsafe { Vcpu::from_base(run.base().as_ptr()) };
    // SAFETY: r2 is readable for the map's key size (prototype).
    unsafe { map.ops().lookup_percpu(pointer(key), low(cpu), vcpu) }.expose_provenance() as u64
}

unsafe fn kptr_xchg(_run: Run, [slot, new, ..]: [u64; 5]) -> u64 {
    let slot = pointer(slot).cast::<u64>();
    // SAFETY: r1 is an aligned pointer field of a map value (prototype), which runs share through atomics.
    let slot = unsafe { std::sync::atomic::AtomicU64::from_ptr(slot) };
    slot.swap(new, std::sync::atomic::Ordering::AcqRel)
}

/// A per-CPU variable is an offset; its address on another vCPU.
unsafe fn per_cpu_ptr(run: Run, [offset, cpu, ..]: [u64; 5]) -> u64 {
    let cpus = &run.engine().cpus;
    if low(cpu) as usize >= cpus.n_possible() {
        return 0;
    }
    (cpus.base(skep_sync::CpuId(low(cpu))).as_ptr() as u64).wrapping_add(offset)
}

unsafe fn this_cpu_ptr(run: Run, [offset, ..]: [u64; 5]) -> u64 {
    (run.base().as_ptr() as u64).wrapping_add(offset)
}
