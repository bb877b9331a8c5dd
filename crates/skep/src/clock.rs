//! How the time stamp counter becomes nanoseconds.
//!
//! Measured once per process against the monotonic clock. Invariant: without an invariant counter there is no scale, and
//! statistics use the clock itself. Kernel counterpart: `tsc_khz`, arch/x86/kernel/tsc.c, 6.18.

use std::sync::OnceLock;

use skep_jit::TscScale;

/// `ns = cycles * mult >> shift`, if the counter is invariant.
pub(crate) fn tsc_scale() -> Option<TscScale> {
    static SCALE: OnceLock<Option<TscScale>> = OnceLock::new();
    *SCALE.get_or_init(measure)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<TscScale> {
    use std::arch::x86_64::{__cpuid, _rdtsc};
    use std::time::{Duration, Instant};

    /// How long the two clocks are compared; the error is their read latency over this.
    const WINDOW: Duration = Duration::from_millis(2);
    const SHIFT: u8 = 32;

    let highest = __cpuid(0x8000_0000).eax;
    let invariant = highest >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0;
    if !invariant {
        return None;
    }
    let start = Instant::now();
    // SAFETY: every x86-64 CPU has the instruction.
    let first = unsafe { _rdtsc() };
    while start.elapsed() < WINDOW {
        std::hint::spin_loop();
    }
    let elapsed = start.elapsed().as_nanos();
    // SAFETY: as above.
    let cycles = unsafe { _rdtsc() }.checked_sub(first)?;
    let mult = (elapsed << SHIFT).checked_div(u128::from(cycles))?;
    u32::try_from(mult).ok().filter(|&mult| mult > 0).map(|mult| TscScale { mult, shift: SHIFT })
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<TscScale> {
    None
}
