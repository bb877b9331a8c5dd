//! Hash maps from both sides, and under threads.

use std::collections::HashMap as Model;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use skep_abi::map_flags::{BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC};
use skep_abi::update_flags::{BPF_ANY, BPF_EXIST, BPF_F_ALL_CPUS, BPF_F_CPU, BPF_NOEXIST};
use skep_abi::{Errno, MapType};
use skep_sync::CpuSet;

use super::super::tests::cpus;
use super::super::{Map, MapSpec, Vcpu};

fn map(map_type: MapType, key: u32, value: u32, max: u32, flags: u32, cpus: &CpuSet) -> Map {
    Map::create(&MapSpec::new(map_type, key, value, max).flags(flags), cpus).unwrap()
}

/// A program's lookup; the first word of the value.
fn program_lookup(map: &Map, key: &[u8], cpus: &CpuSet) -> Option<u64> {
    let run = cpus.enter().unwrap();
    // SAFETY: inside a run, with a key of the size.
    let value = unsafe { map.object().ops().lookup(key.as_ptr(), Vcpu::of(&run)) };
    if value.is_null() {
        return None;
    }
    assert!(map.contains(value.addr() as u64, u64::from(map.info().value_size)).is_some());
    // SAFETY: values of the tests have at least eight bytes.
    Some(unsafe { AtomicU64::from_ptr(value.cast()) }.load(Ordering::Relaxed))
}

#[test]
fn every_key_size_finds_what_was_put() {
    let cpus = cpus(2);
    for key_size in [1_u32, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 24, 31, 33, 64, 200] {
        for flags in [0, BPF_F_NO_PREALLOC, skep_abi::map_flags::BPF_F_ZERO_SEED] {
            let map = map(MapType::Hash, key_size, 8, 64, flags, &cpus);
            let key = |n: u8| {
                let mut key = vec![0xa5_u8; key_size as usize];
                key[key_size as usize - 1] = n;
                key
            };
            for n in 0..64_u8 {
                assert_eq!(map.update(&key(n), &u64::from(n).to_ne_bytes(), BPF_NOEXIST), Ok(()));
            }
            assert_eq!(map.update(&key(64), &[0; 8], BPF_ANY), Err(Errno::E2BIG));
            for n in 0..64_u8 {
                assert_eq!(program_lookup(&map, &key(n), &cpus), Some(u64::from(n)), "{key_size} {n}");
                assert_eq!(map.lookup(&key(n), 0), Ok(u64::from(n).to_ne_bytes().to_vec()));
            }
            assert_eq!(program_lookup(&map, &key(64), &cpus), None);
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            assert_eq!(keys, (0..64).map(key).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_full_map_replaces_and_refuses() {
    let cpus = cpus(4);
    for flags in [0, BPF_F_NO_PREALLOC] {
        let map = map(MapType::Hash, 4, 8, 3, flags, &cpus);
        for key in 0..3_u32 {
            assert_eq!(map.update(&key.to_ne_bytes(), &[1; 8], BPF_ANY), Ok(()));
        }
        for round in 0..100_u64 {
            assert_eq!(map.update(&1_u32.to_ne_bytes(), &round.to_ne_bytes(), BPF_EXIST), Ok(()));
            assert_eq!(map.update(&9_u32.to_ne_bytes(), &[1; 8], BPF_ANY), Err(Errno::E2BIG));
            assert_eq!(map.lookup(&1_u32.to_ne_bytes(), 0), Ok(round.to_ne_bytes().to_vec()));
        }
        assert_eq!(map.update(&1_u32.to_ne_bytes(), &[1; 8], BPF_NOEXIST), Err(Errno::EEXIST));
        assert_eq!(map.update(&9_u32.to_ne_bytes(), &[1; 8], BPF_EXIST), Err(Errno::ENOENT));
        assert_eq!(map.delete(&1_u32.to_ne_bytes()), Ok(()));
        assert_eq!(map.delete(&1_u32.to_ne_bytes()), Err(Errno::ENOENT));
        assert_eq!(map.update(&9_u32.to_ne_bytes(), &[1; 8], BPF_ANY), Ok(()));
        assert_eq!(map.lookup_and_delete(&9_u32.to_ne_bytes(), 0), Ok(vec![1; 8]));
        assert_eq!(map.keys().count(), 2);
    }
}

#[test]
fn per_cpu_values_and_the_flags_that_choose_one() {
    let cpus = cpus(3);
    for map_type in [MapType::PercpuHash, MapType::LruPercpuHash] {
        let map = map(map_type, 8, 4, 2, 0, &cpus);
        let key = 7_u64.to_ne_bytes();
        let on = |cpu: u64| BPF_F_CPU | cpu << 32;
        assert_eq!(map.update(&key, &5_u32.to_ne_bytes(), on(1)), Ok(()));
        assert_eq!(map.lookup(&key, on(1)), Ok(5_u32.to_ne_bytes().to_vec()));
        let all = |values: [u32; 3]| values.map(|value| u64::from(value).to_ne_bytes()).concat();
        assert_eq!(map.lookup(&key, 0), Ok(all([0, 5, 0])), "zero on the other CPUs");
        assert_eq!(map.update(&key, &6_u32.to_ne_bytes(), BPF_F_ALL_CPUS), Ok(()));
        assert_eq!(map.lookup(&key, 0), Ok(all([6, 6, 6])));
        assert_eq!(map.update(&key, &all([1, 2, 3]), 0), Ok(()));
        assert_eq!(map.lookup(&key, on(2)), Ok(3_u32.to_ne_bytes().to_vec()));
        assert_eq!(map.lookup(&key, on(3)), Err(Errno::ERANGE));
        assert_eq!(map.lookup(&key, BPF_F_ALL_CPUS), Err(Errno::EINVAL));
        assert_eq!(map.lookup(&key, 1 << 32), Err(Errno::EINVAL));
        assert_eq!(map.update(&key, &[0; 4], on(0) | BPF_F_ALL_CPUS), Err(Errno::EINVAL));
        assert_eq!(map.update(&key, &1_u32.to_ne_bytes(), on(0) | BPF_NOEXIST), Ok(()), "not heeded for one CPU");
        assert_eq!(map.update(&key, &[0; 4], BPF_F_ALL_CPUS | BPF_NOEXIST), Err(Errno::EINVAL));
        assert_eq!(map.update(&key, &[0; 4], BPF_F_ALL_CPUS | BPF_EXIST), Err(Errno::EINVAL));
        assert_eq!(map.update(&key, &[0; 8], on(0)), Err(Errno::EINVAL), "one value has four bytes");
        assert_eq!(map.lookup_batch(None, 8, on(1)).map(|batch| batch.values), Ok(2_u32.to_ne_bytes().to_vec()));
        assert_eq!(map.update_batch(&key, &9_u32.to_ne_bytes(), BPF_F_ALL_CPUS), Ok(1));
        assert_eq!(map.lookup(&key, 0), Ok(all([9, 9, 9])));
    }
    let plain = map(MapType::Hash, 8, 4, 2, 0, &cpus);
    assert_eq!(plain.update(&[0; 8], &[0; 4], BPF_F_CPU), Err(Errno::EINVAL));
}

#[test]
fn a_program_updates_its_own_cpu_and_clears_the_others() {
    let cpus = cpus(2);
    let map = map(MapType::PercpuHash, 4, 8, 4, 0, &cpus);
    for round in 0..3_u32 {
        let key = round.to_ne_bytes();
        assert_eq!(map.update(&key, &[0xff; 16], 0), Ok(()));
        assert_eq!(map.delete(&key), Ok(()));
        let run = cpus.enter_on(skep_sync::CpuId(1)).unwrap();
        let value = 3_u64.to_ne_bytes();
        // SAFETY: inside a run, with a key and a value of the sizes.
        let updated = unsafe { map.object().ops().update(key.as_ptr(), value.as_ptr(), BPF_ANY, Vcpu::of(&run)) };
        assert_eq!(updated, Ok(()));
        assert_eq!(map.lookup(&key, 0), Ok([[0; 8], value].concat()));
    }
}

#[test]
fn lru_keeps_what_programs_use() {
    let cpus = cpus(2);
    for flags in [0, BPF_F_NO_COMMON_LRU] {
        let map = map(MapType::LruHash, 4, 8, 100, flags, &cpus);
        let run = cpus.enter().unwrap();
        let update = |key: u32| {
            let value = u64::from(key).to_ne_bytes();
            // SAFETY: inside a run, with a key and a value of the sizes.
            unsafe { map.object().ops().update((&raw const key).cast(), value.as_ptr(), BPF_ANY, Vcpu::of(&run)) }
        };
        for key in 0..10_000_u32 {
            assert_eq!(update(key), Ok(()));
            assert_eq!(program_lookup(&map, &0_u32.to_ne_bytes(), &cpus), Some(0), "in use at {key}");
            assert_eq!(map.lookup(&key.to_ne_bytes(), 0), Ok(u64::from(key).to_ne_bytes().to_vec()));
        }
        assert!(map.keys().count() <= 100);
        assert!(map.keys().count() >= 50, "the elements of one CPU at least");
    }
}

#[test]
fn iteration_survives_deletion() {
    let cpus = cpus(1);
    let map = map(MapType::Hash, 4, 4, 256, 0, &cpus);
    for key in 0..256_u32 {
        map.update(&key.to_ne_bytes(), &[0; 4], 0).unwrap();
    }
    let mut last = map.next_key(None).unwrap();
    let mut deleted = 0;
    while map.delete(&last).is_ok() {
        deleted += 1;
        // The key is gone, so that the walk begins again: at the first of what is left.
        match map.next_key(Some(&last)) {
            Ok(next) => last = next,
            Err(errno) => {
                assert_eq!(errno, Errno::ENOENT);
                break;
            }
        }
    }
    assert_eq!((deleted, map.next_key(None)), (256, Err(Errno::ENOENT)));
}

#[test]
fn a_callback_may_delete() {
    let cpus = cpus(1);
    let map = map(MapType::Hash, 4, 8, 512, 0, &cpus);
    for key in 0..512_u32 {
        map.update(&key.to_ne_bytes(), &u64::from(key).to_ne_bytes(), 0).unwrap();
    }
    let run = cpus.enter().unwrap();
    let ops = map.object().ops();
    let mut sum = 0;
    let mut visit = |key: *mut u8, value: *mut u8| {
        // SAFETY: a value of eight bytes.
        sum += unsafe { AtomicU64::from_ptr(value.cast()) }.load(Ordering::Relaxed);
        // SAFETY: inside a run, with a key of the map.
        assert_eq!(unsafe { ops.delete(key, Vcpu::of(&run)) }, Ok(()));
        false
    };
    // SAFETY: inside a run.
    let calls = unsafe { ops.for_each(Vcpu::of(&run), &mut visit) };
    assert_eq!((calls, sum), (Ok(512), 511 * 256));
    assert_eq!(map.keys().count(), 0);
    assert_eq!(map.update(&[0; 4], &[0; 8], 0), Ok(()));
}

#[test]
fn batches_go_by_bucket() {
    let cpus = cpus(1);
    let map = map(MapType::Hash, 4, 4, 300, 0, &cpus);
    let keys: Vec<u8> = (0..300_u32).flat_map(u32::to_ne_bytes).collect();
    assert_eq!(map.update_batch(&keys, &keys, 0), Ok(300));
    assert_eq!(map.update_batch(&keys, &keys, BPF_NOEXIST), Err((Errno::EINVAL, 0)), "only the lock and CPU flags");
    let mut found = Model::new();
    let mut cursor: Option<Vec<u8>> = None;
    loop {
        let batch = map.lookup_and_delete_batch(cursor.as_deref(), 50, 0).unwrap();
        assert!(batch.count <= 50);
        for (key, value) in batch.keys.chunks(4).zip(batch.values.chunks(4)) {
            assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "each key once");
        }
        if batch.end {
            break;
        }
        cursor = Some(batch.next);
    }
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|(key, value)| key == value));
    assert_eq!(map.next_key(None), Err(Errno::ENOENT));
    assert_eq!(map.delete_batch(&keys[..8]), Err((Errno::ENOENT, 0)));
}

/// Threads insert, replace and delete their own keys while others look up keys that are always there: those must always
/// be found, with a value that was written for them.
#[test]
fn lookups_find_what_is_there_while_others_change() {
    for (map_type, flags) in [(MapType::Hash, 0), (MapType::Hash, BPF_F_NO_PREALLOC), (MapType::LruHash, 0)] {
        let cpus = cpus(4);
        let map = map(map_type, 8, 16, 1024, flags, &cpus);
        let pair = |key: u64, round: u64| [key.to_ne_bytes(), round.to_ne_bytes()].concat();
        for key in 0..64_u64 {
            map.update(&key.to_ne_bytes(), &pair(key, 0), 0).unwrap();
        }
        let stop = AtomicBool::new(false);
        let (lookups, changes) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for writer in 0..2_u64 {
                let (map, stop, changes) = (&map, &stop, &changes);
                scope.spawn(move || {
                    let mut round = 1;
                    while !stop.load(Ordering::Relaxed) {
                        for key in 0..64_u64 {
                            if key % 2 == writer {
                                map.update(&key.to_ne_bytes(), &pair(key, round), BPF_ANY).unwrap();
                            }
                            let own = 1000 + writer * 100 + key;
                            map.update(&own.to_ne_bytes(), &pair(own, round), BPF_ANY).unwrap();
                        }
                        for key in 0..64_u64 {
                            let own = 1000 + writer * 100 + key;
                            let _ = map.delete(&own.to_ne_bytes());
                        }
                        round += 1;
                        changes.fetch_add(192, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        for key in 0..64_u64 {
                            // A program may see the element reused under its hands; a key in place is always found.
                            assert!(program_lookup(&map, &key.to_ne_bytes(), &cpus).is_some(), "{key}");
                            let value = map.lookup(&key.to_ne_bytes(), 0).unwrap();
                            assert_eq!(value[..8], key.to_ne_bytes(), "a user's lookup sees this key's value");
                        }
                        lookups.fetch_add(64, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        });
        assert!(lookups.into_inner() > 1000 && changes.into_inner() > 1000);
        assert_eq!(map.keys().count(), 64);
    }
}

#[test]
fn no_element_is_lost_or_doubled_under_threads() {
    let cpus = cpus(4);
    let map = map(MapType::Hash, 4, 8, 128, 0, &cpus);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..3000_u32 {
                    let key = (thread * 1000 + round % 32).to_ne_bytes();
                    map.update(&key, &[7; 8], 0).unwrap();
                    if round % 3 == 0 {
                        let _ = map.delete(&key);
                    }
                }
                for key in 0..32 {
                    let _ = map.delete(&(thread * 1000 + key).to_ne_bytes());
                }
            });
        }
    });
    assert_eq!(map.keys().count(), 0);
    for key in 0..128_u32 {
        assert_eq!(map.update(&key.to_ne_bytes(), &[1; 8], 0), Ok(()), "{key}: all elements are free again");
    }
    assert_eq!(map.update(&500_u32.to_ne_bytes(), &[1; 8], 0), Err(Errno::E2BIG));
}
