//! A table that readers follow without a lock while a writer replaces it:
//! `cargo run --release -p skep-sync --example read_copy_update`.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuSet, SyncError};

/// Consistent in itself: `sum` is the sum of `words`.
struct Table {
    words: [u64; 16],
    sum: u64,
}

fn table(seed: u64) -> *mut Table {
    let words: [u64; 16] = std::array::from_fn(|at| seed.wrapping_mul(at as u64 + 1));
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word));
    Box::into_raw(Box::new(Table { words, sum }))
}

fn main() -> Result<(), SyncError> {
    let set = CpuSet::new(Config::default())?;
    let current = AtomicPtr::new(table(1));
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut swaps = 0_u64;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(_run) = set.enter() else { return };
                    // SAFETY: published, and freed only a grace period after it was replaced.
                    let table = unsafe { &*current.load(Ordering::Acquire) };
                    let sum = table.words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word));
                    assert_eq!(sum, table.sum, "a reader saw a table that was freed");
                    mine += 1;
                }
                reads.fetch_add(mine, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            swaps += 1;
            let old = current.swap(table(swaps), Ordering::AcqRel).expose_provenance();
            set.defer(Box::new(move || {
                let old = std::ptr::with_exposed_provenance_mut::<Table>(old);
                // SAFETY: replaced, and every run that could have seen it has ended.
                drop(unsafe { Box::from_raw(old) });
            }));
            std::thread::sleep(Duration::from_micros(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    set.barrier()?;
    // SAFETY: the readers have ended.
    drop(unsafe { Box::from_raw(current.into_inner()) });
    println!("{} reads beside {swaps} replacements", reads.into_inner());
    Ok(())
}
