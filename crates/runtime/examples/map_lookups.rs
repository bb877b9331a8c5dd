//! What lookups and updates cost: nanoseconds per call of the functions that compiled code calls.
//!
//! `cargo run --release -p skep-runtime --example map_lookups`. Each row is the median of 15 rounds, the rows taken in
//! turn, with the cost of an empty call of the same shape subtracted. Then updates of one hash map by one thread and by
//! two, each on its vCPU with keys of its own: what a thread pays, and how the sum grows.

use std::hint::black_box;
use std::time::Instant;

use skep_abi::MapType;
use skep_abi::map_flags::BPF_F_NO_PREALLOC;
use skep_runtime::map::{HelperFn, Map, MapSpec};
use skep_sync::{Config, CpuSet};

const CALLS: u32 = 200_000;
const ROUNDS: usize = 15;

unsafe extern "sysv64" fn nothing(_: u64, key: u64, _: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    key
}

struct Row {
    name: &'static str,
    lookup: HelperFn,
    map: u64,
    keys: Vec<Vec<u8>>,
    rounds: Vec<f64>,
}

fn main() {
    let cpus = CpuSet::new(Config::default()).expect("vCPUs");
    let mut rows =
        vec![Row { name: "empty call", lookup: nothing, map: 0, keys: vec![vec![0; 64]], rounds: Vec::new() }];
    let mut maps = Vec::new();
    let cases: [(&'static str, MapType, u32, u32, u32); 10] = [
        ("array", MapType::Array, 4, 1024, 0),
        ("per-CPU array", MapType::PercpuArray, 4, 1024, 0),
        ("hash, 4-byte key, 1 K", MapType::Hash, 4, 1024, 0),
        ("hash, 8-byte key, 1 K", MapType::Hash, 8, 1024, 0),
        ("hash, 8-byte key, 64 K", MapType::Hash, 8, 65536, 0),
        ("hash, 16-byte key, 1 K", MapType::Hash, 16, 1024, 0),
        ("hash, 40-byte key, 1 K", MapType::Hash, 40, 1024, 0),
        ("per-CPU hash, 8-byte key, 1 K", MapType::PercpuHash, 8, 1024, 0),
        ("LRU hash, 8-byte key, 1 K", MapType::LruHash, 8, 1024, 0),
        ("LPM, IPv4, 1 K", MapType::LpmTrie, 8, 1024, BPF_F_NO_PREALLOC),
    ];
    for (name, map_type, key_size, max, flags) in cases {
        let map = Map::create(&MapSpec::new(map_type, key_size, 8, max).flags(flags), &cpus).expect("a map");
        let size = key_size as usize;
        let key = |n: u32| {
            let mut key = vec![0; size];
            if map_type == MapType::LpmTrie {
                key[..4].copy_from_slice(&32_u32.to_ne_bytes());
                key[4..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            } else {
                key[..4].copy_from_slice(&n.to_ne_bytes());
            }
            key
        };
        let value = vec![1; map.info().user_value_size()];
        let keys: Vec<Vec<u8>> = (0..max).map(key).collect();
        for key in &keys {
            map.update(key, &value, 0).expect("room");
        }
        // Many keys, in an order that no prefetcher follows, but few enough to be cached themselves.
        let keys = (0..256).map(|n: u32| keys[(n.wrapping_mul(0x9e37_79b1) % max) as usize].clone()).collect();
        rows.push(Row { name, lookup: map.fns().lookup, map: map.object_addr(), keys, rounds: Vec::new() });
        maps.push(map);
    }
    let run = cpus.enter().expect("a vCPU");
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let keys: Vec<u64> = row.keys.iter().map(|key| key.as_ptr().expose_provenance() as u64).collect();
            let start = Instant::now();
            let mut at = 0;
            for _ in 0..CALLS {
                // SAFETY: inside a run, with a live map and a key of its size.
                let value = unsafe { (row.lookup)(row.map, keys[at], 0, 0, 0, run.base().as_ptr()) };
                black_box(value);
                at = (at + 1) & (keys.len() - 1);
            }
            row.rounds.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
        }
    }
    let mut empty = 0.0;
    for row in &mut rows {
        row.rounds.sort_by(f64::total_cmp);
        let median = row.rounds[ROUNDS / 2];
        if row.map == 0 {
            empty = median;
        }
        println!(
            "{:32} {:6.2} ns  (net {:5.2}; {:.2} to {:.2})",
            row.name,
            median,
            median - empty,
            row.rounds[0],
            row.rounds[ROUNDS - 1]
        );
    }
    drop(run);
    for (name, map_type) in
        [("hash", MapType::Hash), ("per-CPU hash", MapType::PercpuHash), ("LRU hash", MapType::LruHash)]
    {
        let spec = MapSpec::new(map_type, 8, 8, 4096);
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for threads in [1, 2] {
                let map = Map::create(&spec, &cpus).expect("a map");
                figures[threads - 1].push(update(&map, &cpus, threads as u64));
            }
        }
        let [one, two] = figures.map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        });
        println!(
            "{name} update, 8-byte key: {one:.1} ns by one thread, {two:.1} ns by each of two, {:.2} times one",
            2.0 * one / two
        );
    }
}

/// Nanoseconds that this thread has run: on a busy machine, without the time it waited for a CPU.
fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds per update of a thread, with `threads` of them at work on keys of their own.
fn update(map: &Map, cpus: &CpuSet, threads: u64) -> f64 {
    let update = map.fns().update;
    let address = map.object_addr();
    let barrier = std::sync::Barrier::new(usize::try_from(threads).unwrap_or(1));
    let times: Vec<f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let run = cpus.enter().expect("a vCPU");
                    barrier.wait();
                    let start = cpu_time();
                    for n in 0..u64::from(CALLS) {
                        let key = (thread << 32) | (n % 1024);
                        let [key, value] = [&key, &n].map(|word| (&raw const *word).expose_provenance() as u64);
                        // SAFETY: inside a run, with a live map, a key and a value of its sizes.
                        black_box(unsafe { update(address, key, value, 0, 0, run.base().as_ptr()) });
                    }
                    (cpu_time() - start) / f64::from(CALLS)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    times.iter().sum::<f64>() / times.len() as f64
}
