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

fn median_ns(mut body: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..11)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS / 10 {
                body();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS / 10)
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
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..ROUNDS).for_each(|_| assert!(empty_run(&set))));
            }
        });
        let total = f64::from(ROUNDS) * f64::from(threads);
        println!(
            "{threads} threads on {} vCPUs   {:.0} million runs/s",
            set.n_possible(),
            total / start.elapsed().as_secs_f64() / 1e6
        );
    }
    let start = Instant::now();
    for _ in 0..1000 {
        set.synchronize()?;
    }
    println!("synchronize, idle      {:.2} us", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
