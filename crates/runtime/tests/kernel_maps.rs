//! The same random operations on a map of the running kernel and on ours: same results, same errnos, same order of
//! keys where the kernel has one that does not depend on a secret. Skipped, and counted, where bpf(2) is not allowed.

#![expect(clippy::unwrap_used, clippy::too_many_lines, reason = "a test's helpers and tables")]

use std::collections::BTreeSet;

use skep_abi::map_flags::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_F_NO_USER_CONV, BPF_F_NUMA_NODE,
    BPF_F_PRESERVE_ELEMS, BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_SEGV_ON_FAULT, BPF_F_WRONLY, BPF_F_WRONLY_PROG,
    BPF_F_ZERO_SEED,
};
use skep_abi::{Errno, MapType};
use skep_runtime::map::{Map, MapSpec, Slot};
use skep_sync::{Config, CpuSet};
use skep_testing::kernel;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

fn cpus() -> CpuSet {
    CpuSet::new(Config { n_possible: kernel::possible_cpus(), region: 1 << 28, ..Config::default() }).unwrap()
}

/// Both maps, from one description.
struct Pair {
    ours: Map,
    theirs: kernel::Map,
    what: String,
}

fn pair(spec: &MapSpec, cpus: &CpuSet) -> Pair {
    let map_type = spec.map_type.unwrap();
    let theirs = kernel::MapCreate {
        flags: spec.flags,
        ..kernel::MapCreate::new(map_type, spec.key_size, spec.value_size, spec.max_entries)
    };
    Pair {
        ours: Map::create(spec, cpus).unwrap(),
        theirs: theirs.create().unwrap(),
        what: format!("{map_type} {spec:?}"),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// Keys come in the kernel's order.
    Same,
    /// Keys come in any order.
    Any,
}

impl Pair {
    /// One random operation on both.
    fn step(&self, random: &mut Random, keys: &dyn Fn(&mut Random) -> Vec<u8>, order: Order) {
        let key = keys(random);
        let len = self.theirs.value_len();
        let what = &self.what;
        match random.below(10) {
            0..4 => {
                let value: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[3]).collect();
                // Padding between per-CPU values is not copied back.
                let value = mask_padding(&self.ours, value);
                let flags = random.pick(&[0, 0, 0, 0, 1, 2, 3, 4, 1 << 40]);
                let ours = self.ours.update(&key, &value, flags);
                assert_eq!(ours, self.theirs.update(&key, &value, flags), "update {key:x?} {flags} {what}");
            }
            4..6 => {
                let flags = random.pick(&[0, 0, 0, 0, 0, 1, 4]);
                let ours = self.ours.lookup(&key, flags);
                let theirs = self.theirs.lookup(&key, flags).map(|value| mask_padding(&self.ours, value));
                assert_eq!(ours, theirs, "lookup {key:x?} {flags} {what}");
            }
            6 => assert_eq!(self.ours.delete(&key), self.theirs.delete(&key), "delete {key:x?} {what}"),
            7 => {
                let flags = random.pick(&[0, 0, 0, 4, 1]);
                let ours = self.ours.lookup_and_delete(&key, flags);
                let theirs = self.theirs.lookup_and_delete(&key, flags).map(|value| mask_padding(&self.ours, value));
                assert_eq!(ours, theirs, "lookup and delete {key:x?} {flags} {what}");
            }
            8 => {
                let from = if random.below(4) == 0 { None } else { Some(key.as_slice()) };
                let (ours, theirs) = (self.ours.next_key(from), self.theirs.next_key(from));
                if order == Order::Same {
                    assert_eq!(ours, theirs, "next key {from:x?} {what}");
                } else if from.is_none() {
                    assert_eq!(ours.map(drop), theirs.map(drop), "first key {what}");
                }
            }
            _ => self.compare_keys(order),
        }
    }

    fn compare_keys(&self, order: Order) {
        let Ok(theirs) = self.theirs.keys() else { return };
        let ours: Vec<Vec<u8>> = self.ours.keys().collect();
        if order == Order::Same {
            assert_eq!(ours, theirs, "keys {}", self.what);
        } else {
            let [ours, theirs] = [ours, theirs].map(BTreeSet::from_iter);
            assert_eq!(ours, theirs, "keys {}", self.what);
        }
    }
}

fn mask_padding(map: &Map, mut value: Vec<u8>) -> Vec<u8> {
    let info = map.info();
    if info.map_type.is_percpu() {
        for one in value.chunks_mut(info.percpu_stride()) {
            one[info.value_size as usize..].fill(0);
        }
    }
    value
}

fn index_keys(max: u32) -> impl Fn(&mut Random) -> Vec<u8> {
    move |random| u32::try_from(random.below(u64::from(max) + 3)).unwrap().to_ne_bytes().to_vec()
}

fn few_keys(size: usize, count: u64) -> impl Fn(&mut Random) -> Vec<u8> {
    move |random| {
        let mut key = vec![0x11; size];
        key[size - 1] = random.below(count).to_le_bytes()[0];
        key
    }
}

#[test]
fn arrays() {
    if !kernel::require("map differential, arrays") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(1);
    for map_type in [MapType::Array, MapType::PercpuArray] {
        for (value_size, max) in [(1, 1), (4, 3), (8, 7), (13, 16), (100, 5)] {
            let pair = pair(&MapSpec::new(map_type, 4, value_size, max), &cpus);
            for _ in 0..600 {
                pair.step(&mut random, &index_keys(max), Order::Same);
            }
        }
    }
}

#[test]
fn hashes() {
    if !kernel::require("map differential, hashes") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(2);
    for map_type in [MapType::Hash, MapType::PercpuHash] {
        for flags in [0, BPF_F_NO_PREALLOC, BPF_F_ZERO_SEED, BPF_F_ZERO_SEED | BPF_F_NO_PREALLOC] {
            for (key_size, value_size, max) in [(1, 1, 5), (4, 4, 8), (8, 8, 30), (16, 24, 20), (13, 5, 9), (40, 8, 16)]
            {
                let pair = pair(&MapSpec::new(map_type, key_size, value_size, max).flags(flags), &cpus);
                // With a zero seed even the order of the buckets and of colliding keys is the kernel's.
                let order = if flags & BPF_F_ZERO_SEED != 0 { Order::Same } else { Order::Any };
                for _ in 0..600 {
                    pair.step(&mut random, &few_keys(key_size as usize, u64::from(max) + 6), order);
                }
            }
        }
    }
}

#[test]
fn lru_hashes_below_their_capacity() {
    if !kernel::require("map differential, LRU hashes") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(3);
    for map_type in [MapType::LruHash, MapType::LruPercpuHash] {
        // So large that neither evicts: the kernel's free lists are shared out to CPUs in batches of 128.
        let pair = pair(&MapSpec::new(map_type, 4, 8, 4096), &cpus);
        for _ in 0..2000 {
            pair.step(&mut random, &few_keys(4, 40), Order::Any);
        }
    }
}

#[test]
fn lpm_tries() {
    if !kernel::require("map differential, LPM tries") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(4);
    for (data, value_size, max) in [(1_usize, 1, 20), (4, 8, 12), (4, 8, 200), (8, 4, 50), (16, 8, 100), (5, 12, 30)] {
        let key_size = u32::try_from(data).unwrap() + 4;
        let pair = pair(&MapSpec::new(MapType::LpmTrie, key_size, value_size, max).flags(BPF_F_NO_PREALLOC), &cpus);
        let keys = |random: &mut Random| {
            let prefix = random.below(data as u64 * 8 + 2);
            // Few distinct bits, so that prefixes nest and part often.
            let mut bytes: Vec<u8> = (0..data).map(|_| random.pick(&[0, 0x80, 0xc0, 0x01, 0xff])).collect();
            if random.below(2) == 0 {
                bytes[1.min(data - 1)..].fill(0);
            }
            [&u32::try_from(prefix).unwrap().to_ne_bytes()[..], &bytes].concat()
        };
        for _ in 0..3000 {
            pair.step(&mut random, &keys, Order::Same);
        }
        pair.compare_keys(Order::Same);
    }
}

#[test]
fn queues_and_stacks() {
    if !kernel::require("map differential, queues and stacks") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(5);
    for map_type in [MapType::Queue, MapType::Stack] {
        for (value_size, max) in [(1, 1), (4, 5), (12, 3)] {
            let pair = pair(&MapSpec::new(map_type, 0, value_size, max), &cpus);
            for _ in 0..800 {
                pair.step(&mut random, &|_| Vec::new(), Order::Same);
            }
        }
    }
}

#[test]
fn redirect_maps() {
    if !kernel::require("map differential, redirect maps") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(6);
    for (map_type, order) in
        [(MapType::Devmap, Order::Same), (MapType::DevmapHash, Order::Same), (MapType::Cpumap, Order::Same)]
    {
        for value_size in [4, 8] {
            let pair = pair(&MapSpec::new(map_type, 4, value_size, 4), &cpus);
            for _ in 0..400 {
                let key = u32::try_from(random.below(7)).unwrap().to_ne_bytes();
                // Interface 1 is there everywhere; 0 empties a slot, and 20000 is too long a queue.
                let first = random.pick(if map_type == MapType::Cpumap { &[0_u32, 8, 20000] } else { &[0, 1] });
                let value = [first.to_ne_bytes(), [0; 4]].concat();
                let value = &value[..value_size as usize];
                let flags = random.pick(&[0, 0, 0, 1, 2, 3]);
                match random.below(6) {
                    0..2 => {
                        let ours = pair.ours.update(&key, value, flags);
                        assert_eq!(
                            ours,
                            pair.theirs.update(&key, value, flags),
                            "{key:?} {value:?} {flags} {}",
                            pair.what
                        );
                    }
                    2 => assert_eq!(pair.ours.delete(&key), pair.theirs.delete(&key), "{}", pair.what),
                    3 => assert_eq!(pair.ours.lookup(&key, 0), pair.theirs.lookup(&key, 0), "{key:?} {}", pair.what),
                    4 => assert_eq!(pair.ours.next_key(Some(&key)), pair.theirs.next_key(Some(&key)), "{}", pair.what),
                    _ => pair.compare_keys(order),
                }
            }
        }
    }
}

#[test]
fn maps_of_maps() {
    use std::os::fd::AsRawFd;
    if !kernel::require("map differential, maps of maps") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(7);
    // Templates and candidates: some fit, some do not.
    let shapes = [
        MapSpec::new(MapType::Array, 4, 8, 4),
        MapSpec::new(MapType::Array, 4, 8, 5),
        MapSpec::new(MapType::Array, 4, 4, 4),
        MapSpec::new(MapType::Array, 4, 8, 4).flags(BPF_F_INNER_MAP),
        MapSpec::new(MapType::Array, 4, 8, 9).flags(BPF_F_INNER_MAP),
        MapSpec::new(MapType::Hash, 4, 8, 4),
        MapSpec::new(MapType::Hash, 4, 8, 9),
        MapSpec::new(MapType::Hash, 4, 8, 4).flags(BPF_F_NO_PREALLOC),
        MapSpec::new(MapType::PercpuArray, 4, 8, 4),
        MapSpec::new(MapType::LruHash, 4, 8, 4),
        MapSpec::new(MapType::Queue, 0, 8, 4),
        MapSpec::new(MapType::Ringbuf, 0, 0, 4096),
        MapSpec::new(MapType::Ringbuf, 0, 0, 8192),
        MapSpec::new(MapType::ProgArray, 4, 4, 2),
    ];
    let inner: Vec<Pair> = shapes.iter().map(|spec| pair(spec, &cpus)).collect();
    for outer in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        for template in &inner {
            let create = kernel::MapCreate {
                inner_map: Some(template.theirs.raw_fd()),
                ..kernel::MapCreate::new(outer, 4, 4, 3)
            };
            let theirs = create.create();
            let ours = Map::create(&MapSpec::new(outer, 4, 4, 3).inner(template.ours.clone()), &cpus);
            assert_eq!(ours.as_ref().err(), theirs.as_ref().err(), "{outer} of {}", template.what);
            let (Ok(ours), Ok(theirs)) = (ours, theirs) else { continue };
            for _ in 0..60 {
                let key = u32::try_from(random.below(5)).unwrap().to_ne_bytes();
                let value = &inner[usize::try_from(random.below(inner.len() as u64)).unwrap()];
                let flags = random.pick(&[0, 0, 0, 1, 2]);
                match random.below(4) {
                    0..2 => {
                        let fd = std::os::fd::AsFd::as_fd(&value.theirs).as_raw_fd();
                        assert_eq!(
                            ours.update_slot(&key, Slot::Map(value.ours.clone()), flags),
                            theirs.update(&key, &fd.to_ne_bytes(), flags),
                            "{outer} of {} takes {} with {flags}",
                            template.what,
                            value.what
                        );
                    }
                    2 => assert_eq!(ours.delete(&key), theirs.delete(&key), "{outer}"),
                    _ => assert_eq!(ours.lookup(&key, 0).map(drop), theirs.lookup(&key, 0).map(drop), "{outer}"),
                }
            }
        }
    }
}

#[test]
fn frozen_and_restricted_maps() {
    if !kernel::require("map differential, permissions") {
        return;
    }
    let cpus = cpus();
    for flags in [0, BPF_F_RDONLY, BPF_F_WRONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG] {
        for map_type in [MapType::Array, MapType::Hash, MapType::PercpuHash] {
            let pair = pair(&MapSpec::new(map_type, 4, 8, 2).flags(flags), &cpus);
            let key = [0; 4];
            let value = vec![1; pair.theirs.value_len()];
            for _ in 0..3 {
                let what = &pair.what;
                assert_eq!(pair.ours.update(&key, &value, 0), pair.theirs.update(&key, &value, 0), "{what}");
                assert_eq!(pair.ours.lookup(&key, 0), pair.theirs.lookup(&key, 0), "{what}");
                assert_eq!(pair.ours.next_key(None), pair.theirs.next_key(None), "{what}");
                assert_eq!(pair.ours.lookup_and_delete(&key, 0), pair.theirs.lookup_and_delete(&key, 0), "{what}");
                assert_eq!(pair.ours.delete(&key), pair.theirs.delete(&key), "{what}");
                assert_eq!(pair.ours.freeze(), pair.theirs.freeze(), "{what}");
            }
        }
    }
}

#[test]
fn batches() {
    if !kernel::require("map differential, batches") {
        return;
    }
    let cpus = cpus();
    let mut random = Random(8);
    let specs = [
        MapSpec::new(MapType::Array, 4, 8, 10),
        MapSpec::new(MapType::PercpuArray, 4, 8, 10),
        MapSpec::new(MapType::Hash, 4, 8, 10).flags(BPF_F_ZERO_SEED),
        MapSpec::new(MapType::PercpuHash, 4, 8, 10).flags(BPF_F_ZERO_SEED),
        MapSpec::new(MapType::LruHash, 4, 8, 4096),
        MapSpec::new(MapType::LpmTrie, 8, 8, 10).flags(BPF_F_NO_PREALLOC),
        MapSpec::new(MapType::Queue, 0, 8, 10),
    ];
    for spec in &specs {
        let pair = pair(spec, &cpus);
        let (ours, theirs, what) = (&pair.ours, &pair.theirs, &pair.what);
        let order = spec.map_type != Some(MapType::LruHash);
        for _ in 0..200 {
            let keys: Vec<u8> = (0..random.below(6) + 1)
                .flat_map(|_| {
                    let key = u32::try_from(random.below(14)).unwrap().to_ne_bytes();
                    if spec.key_size == 8 { [key, [1, 2, 3, 0]].concat() } else { key.to_vec() }
                })
                .collect();
            let keys = if spec.key_size == 0 { Vec::new() } else { keys };
            let count = keys.len() / (spec.key_size as usize).max(4);
            let values: Vec<u8> = (0..count * theirs.value_len()).map(|_| random.next().to_le_bytes()[2]).collect();
            match random.below(4) {
                0..2 => {
                    let flags = random.pick(&[0, 0, 0, 1, 4]);
                    let ours = ours.update_batch(&keys, &values, flags);
                    assert_eq!(
                        ours.map_err(|e| e.0),
                        theirs.update_batch(&keys, &values, flags).map_err(|e| e.0),
                        "{what}"
                    );
                }
                2 => assert_eq!(
                    ours.delete_batch(&keys).map_err(|e| e.0),
                    theirs.delete_batch(&keys).map_err(|e| e.0),
                    "{what}"
                ),
                _ => {
                    let delete = random.below(2) == 0;
                    let count = u32::try_from(random.pick(&[0_u64, 1, 3, 8, 20])).unwrap();
                    let ours = if delete {
                        ours.lookup_and_delete_batch(None, count, 0)
                    } else {
                        ours.lookup_batch(None, count, 0)
                    };
                    let theirs = theirs.lookup_batch(None, count, delete);
                    match (ours, theirs) {
                        (Ok(_), Ok(_)) if !order => {}
                        (Ok(ours), Ok(theirs)) => {
                            let found = (theirs.count, theirs.keys, theirs.values);
                            assert_eq!((ours.count, ours.keys, ours.values), found, "{what}");
                            assert_eq!(ours.end, theirs.end.is_some(), "{what} {count}");
                        }
                        (ours, theirs) if order => {
                            assert_eq!(ours.map(drop), theirs.map(drop), "{what} {count} {delete}")
                        }
                        _ => {}
                    }
                    if delete && !order {
                        // What fits a batch depends on the buckets: make both empty.
                        for key in pair.ours.keys().chain(pair.theirs.keys().unwrap()).collect::<Vec<_>>() {
                            let _ = (pair.ours.delete(&key), pair.theirs.delete(&key));
                        }
                    }
                }
            }
        }
    }
}

/// Sizes, entries and flags of every type at their edges: the same verdict as BPF_MAP_CREATE.
#[test]
fn creation() {
    if !kernel::require("map differential, creation") {
        return;
    }
    let cpus = cpus();
    let types = [
        MapType::Array,
        MapType::PercpuArray,
        MapType::Hash,
        MapType::PercpuHash,
        MapType::LruHash,
        MapType::LruPercpuHash,
        MapType::LpmTrie,
        MapType::ProgArray,
        MapType::PerfEventArray,
        MapType::Queue,
        MapType::Stack,
        MapType::BloomFilter,
        MapType::Ringbuf,
        MapType::Devmap,
        MapType::DevmapHash,
        MapType::Cpumap,
        MapType::Xskmap,
        MapType::Arena,
    ];
    let all_flags = [
        0,
        BPF_F_NO_PREALLOC,
        BPF_F_NO_COMMON_LRU,
        BPF_F_NUMA_NODE,
        BPF_F_RDONLY,
        BPF_F_WRONLY,
        BPF_F_ZERO_SEED,
        BPF_F_RDONLY_PROG,
        BPF_F_WRONLY_PROG,
        BPF_F_MMAPABLE,
        BPF_F_PRESERVE_ELEMS,
        BPF_F_INNER_MAP,
        BPF_F_RDONLY | BPF_F_WRONLY,
        BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG,
        BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
        BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE,
        1 << 5,
        1 << 9,
        1 << 13,
        BPF_F_SEGV_ON_FAULT,
        BPF_F_NO_USER_CONV,
        1 << 19,
        1 << 20,
        1 << 31,
    ];
    let mut cases = 0;
    let mut differences = Vec::new();
    let mut compare = |spec: &MapSpec| {
        // How many CPUs a kernel is built for is its configuration; ours is what distributions have.
        if spec.map_type == Some(MapType::Cpumap) && (64..=8192).contains(&spec.max_entries) {
            return;
        }
        let theirs = kernel::MapCreate {
            flags: spec.flags,
            map_extra: spec.map_extra,
            name: &spec.name,
            ..kernel::MapCreate::new(spec.map_type.unwrap(), spec.key_size, spec.value_size, spec.max_entries)
        };
        let theirs = theirs.create();
        let ours = Map::create(spec, &cpus);
        let verdicts = (ours.as_ref().map(drop).err(), theirs.as_ref().map(drop).err());
        if verdicts.0 != verdicts.1 {
            differences
                .push(format!("{spec:?} extra {}: ours {:?}, theirs {:?}", spec.map_extra, verdicts.0, verdicts.1));
        }
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            let (ours, theirs) = (ours.info().clone(), theirs.info().unwrap());
            assert_eq!((ours.max_entries, ours.flags), (theirs.max_entries, theirs.flags), "{spec:?}");
        }
        cases += 1;
    };
    for map_type in types {
        for flags in all_flags {
            let base = match map_type {
                MapType::Queue | MapType::Stack | MapType::BloomFilter => MapSpec::new(map_type, 0, 4, 4),
                MapType::Ringbuf => MapSpec::new(map_type, 0, 0, 4096),
                MapType::Arena => MapSpec::new(map_type, 0, 0, 4).flags(BPF_F_MMAPABLE),
                MapType::LpmTrie => MapSpec::new(map_type, 8, 4, 4).flags(BPF_F_NO_PREALLOC),
                _ => MapSpec::new(map_type, 4, 4, 4),
            };
            let flags = base.flags | flags;
            compare(&base.flags(flags));
        }
        let flags = match map_type {
            MapType::LpmTrie => BPF_F_NO_PREALLOC,
            MapType::Arena => BPF_F_MMAPABLE,
            _ => 0,
        };
        for key_size in [0, 1, 4, 5, 8, 260, 261, 4096, 1 << 16, (4 << 20) - 60, 4 << 20, u32::MAX] {
            for value_size in [0, 1, 4, 8, 9, 4096, (32 << 10) - 7, 32 << 10, (32 << 10) + 1, 1 << 31, u32::MAX] {
                for max_entries in [0, 1, 3, 4096] {
                    let bytes = u64::from(key_size.min(1 << 23)) + u64::from(value_size.min(1 << 23));
                    // Not what takes the kernel long to allocate and clear.
                    if bytes * u64::from(max_entries) < 1 << 25 || bytes >= 1 << 22 {
                        compare(&MapSpec::new(map_type, key_size, value_size, max_entries).flags(flags));
                    }
                }
            }
        }
        for max_entries in [2, 100, 8192, 8193, 12288, u32::MAX - 1, u32::MAX, 1 << 31, (1 << 31) + 1] {
            let huge = max_entries > 1 << 20;
            // These the kernel can make, given memory enough: what happens says something about the machine only.
            let linear = matches!(
                map_type,
                MapType::Array
                    | MapType::PercpuArray
                    | MapType::ProgArray
                    | MapType::PerfEventArray
                    | MapType::BloomFilter
                    | MapType::Queue
                    | MapType::Stack
                    | MapType::Devmap
                    | MapType::DevmapHash
                    | MapType::Xskmap
                    | MapType::LpmTrie
                    | MapType::Ringbuf
            );
            if !(huge && linear) {
                compare(&MapSpec::new(map_type, 4, 4, max_entries).flags(flags));
            }
        }
        for name in ["ok.name_15chars", "bad name", "bad-name"] {
            if map_type == MapType::Array {
                compare(&MapSpec::new(map_type, 4, 4, 1).name(name));
            }
        }
        for extra in [1, 5, 15, 16] {
            let mut spec = MapSpec::new(map_type, 0, 4, 4);
            spec.map_extra = extra;
            compare(&spec);
        }
        for pages in [0, 1, 4, 1 << 19, 1 << 20, (1 << 20) + 1, u32::MAX] {
            let top = !0xfff_u64;
            for extra in [0, 1, 0x800, 0x1000, 1 << 31, 0xffff_f000, 1 << 44, (1 << 44) - 0x1000, 1 << 63, top] {
                if map_type == MapType::Arena {
                    let mut spec = MapSpec::new(map_type, 0, 0, pages).flags(flags);
                    spec.map_extra = extra;
                    compare(&spec);
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert!(cases > 3000, "{cases}");
}

/// What the kernel cannot be asked about without the machine's memory: refused before anything is allocated.
#[test]
fn products_that_do_not_fit_are_refused() {
    let cpus = cpus();
    for (map_type, key_size, value_size, errno) in [
        (MapType::Array, 4, 1 << 20, Errno::ENOMEM),
        (MapType::PercpuArray, 4, 32 << 10, Errno::ENOMEM),
        (MapType::ProgArray, 4, 4, Errno::ENOMEM),
        (MapType::Hash, 4, 4, Errno::E2BIG),
        (MapType::PercpuHash, 4, 4, Errno::E2BIG),
        (MapType::LruHash, 4, 4, Errno::E2BIG),
        (MapType::Queue, 0, 4, Errno::ENOMEM),
        (MapType::Ringbuf, 0, 0, Errno::EINVAL),
        (MapType::DevmapHash, 4, 4, Errno::EINVAL),
    ] {
        let spec = MapSpec::new(map_type, key_size, value_size, u32::MAX);
        assert_eq!(Map::create(&spec, &cpus).map(drop), Err(errno), "{map_type}");
        let spec = MapSpec::new(map_type, key_size, value_size, 0);
        assert_eq!(Map::create(&spec, &cpus).map(drop), Err(Errno::EINVAL), "{map_type}");
    }
}
