//! Measures what a run costs: `cargo run --release -p skep-sync --example cost`.
//!
//! Prints nanoseconds per enter and leave, of a nested enter, and of the same with as many threads as vCPUs.

use std::hint::black_box;
use std::time::Instant;

use skep_sync::{Config, CpuSet};

const ROUNDS: u32 = 20_000_000;

/// A run with nothing in it; a function of its own so that its machine code can be read.
#[inline(never)]
fn empty_run(set: &CpuSet) -> bool {
    match set.enter() {
        Ok(run) => {
            black_box(run.base());
            true
        }
        Err(_) => false,
    }
}

#[inline(never)]
fn nothing(set: &CpuSet) -> bool {
    black_box(set);
    true
}

/// Seconds that this thread has had a CPU, so that a busy machine does not show.
fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "differences of milliseconds are taken")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

fn median_ns(mut body: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..11)
        .map(|_| {
            let start = cpu_seconds();
            for _ in 0..ROUNDS / 10 {
                body();
            }
            (cpu_seconds() - start) * 1e9 / f64::from(ROUNDS / 10)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() -> Result<(), skep_sync::SyncError> {
    let set = CpuSet::new(Config::default())?;
    println!("mode: {}", set.mode());
    let call = median_ns(|| assert!(nothing(&set)));
    let run = median_ns(|| assert!(empty_run(&set)));
    println!("a call alone           {call:.2} ns");
    println!("enter and leave        {run:.2} ns (net {:.2})", run - call);
    let inlined = median_ns(|| {
        if let Ok(run) = set.enter() {
            black_box(run.base());
        }
    });
    println!("the same, inlined      {inlined:.2} ns");
    if let Ok(_outer) = set.enter() {
        println!("nested                 {:.2} ns", median_ns(|| assert!(empty_run(&set))));
    }
    for threads in [1, 2, 4, 8] {
        let start = Instant::now();
        let cpu: f64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let start = cpu_seconds();
                        (0..ROUNDS).for_each(|_| assert!(empty_run(&set)));
                        cpu_seconds() - start
                    })
                })
                .collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).sum()
        });
        let total = f64::from(ROUNDS) * f64::from(threads);
        println!(
            "{threads} threads on {} vCPUs   {:.0} million runs/s, {:.2} ns of CPU each",
            set.n_possible(),
            total / start.elapsed().as_secs_f64() / 1e6,
            cpu * 1e9 / total
        );
    }
    let start = Instant::now();
    for _ in 0..1000 {
        set.synchronize()?;
    }
    println!("synchronize, idle      {:.2} us", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
