//! A switch in a running program, without BPF: `cargo run --release -p skep-text --example static_key`.
//!
//! Two threads work; the main thread turns tracing on and off under them. Off costs a nop.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_text::{static_branch_unlikely, static_key};

static_key! {
    /// Whether requests are counted.
    static TRACING = false;
}

static TRACED: AtomicU64 = AtomicU64::new(0);

/// The work: a few nanoseconds, and a branch that is mostly off.
#[inline(never)]
fn request(id: u64) -> u64 {
    if static_branch_unlikely!(TRACING) {
        TRACED.fetch_add(1, Ordering::Relaxed);
    }
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// The same with a flag.
#[inline(never)]
fn request_with_flag(id: u64, flag: &AtomicBool) -> u64 {
    if flag.load(Ordering::Relaxed) {
        TRACED.fetch_add(1, Ordering::Relaxed);
    }
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn ns_per_call(mut call: impl FnMut(u64) -> u64) -> f64 {
    let start = Instant::now();
    for id in 0..50_000_000 {
        black_box(call(id));
    }
    start.elapsed().as_secs_f64() * 1e9 / 5e7
}

fn main() -> Result<(), skep_text::TextError> {
    let flag = AtomicBool::new(false);
    println!("off, static key  {:.2} ns", ns_per_call(request));
    println!("off, a flag      {:.2} ns", ns_per_call(|id| request_with_flag(id, black_box(&flag))));

    let (stop, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut id = 0;
                while !stop.load(Ordering::Relaxed) {
                    black_box(request(id));
                    id += 1;
                }
                requests.fetch_add(id, Ordering::Relaxed);
            });
        }
        let flips: Result<Vec<Duration>, _> = (0..2000)
            .map(|flip| {
                std::thread::sleep(Duration::from_micros(500));
                let report = if flip % 2 == 0 { TRACING.enable() } else { TRACING.disable() };
                report.map(|report| report.took)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        let mut flips = flips?;
        flips.sort();
        println!("2000 flips under two threads, median {:?}", flips[1000]);
        Ok::<(), skep_text::TextError>(())
    })?;
    println!("{} requests, {} of them traced", requests.into_inner(), TRACED.load(Ordering::Relaxed));
    println!("{:?}", skep_text::trap_counts());
    Ok(())
}
