//! Clocks, random numbers, and where the run is.
//!
//! Invariant: none of them fails. Kernel counterpart: kernel/bpf/helpers.c, kernel/bpf/core.c, 6.18.

use rustix::time::{ClockId, clock_gettime};

use super::{HelperFn, entry};
use crate::frame::Run;

/// Ticks per second of `jiffies64` (`CONFIG_HZ` of common distributions).
const HZ: u64 = 250;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (5, entry!(ktime_get_ns)),
        (7, entry!(get_prandom_u32)),
        (8, entry!(get_smp_processor_id)),
        (42, entry!(get_numa_node_id)),
        (118, entry!(jiffies64)),
        (125, entry!(ktime_get_boot_ns)),
        (160, entry!(ktime_get_coarse_ns)),
        (208, entry!(ktime_get_tai_ns)),
    ]
}

#[expect(clippy::cast_sign_loss, reason = "these clocks do not show times before 1970")]
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

unsafe fn ktime_get_ns(_run: Run, _: [u64; 5]) -> u64 {
    nanoseconds(ClockId::Monotonic)
}

unsafe fn ktime_get_boot_ns(_run: Run, _: [u64; 5]) -> u64 {
    nanoseconds(ClockId::Boottime)
}

unsafe fn ktime_get_coarse_ns(_run: Run, _: [u64; 5]) -> u64 {
    nanoseconds(ClockId::MonotonicCoarse)
}

unsafe fn ktime_get_tai_ns(_run: Run, _: [u64; 5]) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is a constant, and the kernel writes the struct only.
    unsafe { libc::clock_gettime(libc::CLOCK_TAI, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

unsafe fn jiffies64(_run: Run, _: [u64; 5]) -> u64 {
    nanoseconds(ClockId::MonotonicCoarse) / (1_000_000_000 / HZ)
}

/// xoroshiro128++ with this vCPU's state, seeded on first use.
unsafe fn get_prandom_u32(run: Run, _: [u64; 5]) -> u64 {
    let state = &run.block().random;
    let [mut a, mut b] = state.get();
    if a | b == 0 {
        a = nanoseconds(ClockId::Monotonic) ^ u64::from(run.cpu()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        b = (std::ptr::from_ref(run.frame()) as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1;
    }
    let result = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
    b ^= a;
    state.set([a.rotate_left(49) ^ b ^ (b << 21), b.rotate_left(28)]);
    result >> 32
}

unsafe fn get_smp_processor_id(run: Run, _: [u64; 5]) -> u64 {
    u64::from(run.cpu())
}

/// vCPUs have no memory of their own node: the first.
unsafe fn get_numa_node_id(_run: Run, _: [u64; 5]) -> u64 {
    0
}
