//! Tests of what all types share, through the handle.

use skep_abi::map_flags::{BPF_F_RDONLY, BPF_F_WRONLY};
use skep_abi::update_flags::BPF_F_LOCK;
use skep_abi::{Errno, MapType};
use skep_sync::{Config, CpuSet};

use super::*;

pub(super) fn cpus(n: usize) -> CpuSet {
    CpuSet::new(Config { n_possible: n, region: 1 << 26, ..Config::default() }).unwrap()
}

fn array() -> MapSpec {
    MapSpec::new(MapType::Array, 4, 8, 3).name("a")
}

#[test]
fn an_array_is_created_read_and_written() {
    let map = Map::create(&array(), &cpus(2)).unwrap();
    assert_eq!(map.lookup(&2u32.to_ne_bytes(), 0), Ok(vec![0; 8]));
    assert_eq!(map.update(&2u32.to_ne_bytes(), &7u64.to_ne_bytes(), 0), Ok(()));
    assert_eq!(map.lookup(&2u32.to_ne_bytes(), 0), Ok(7u64.to_ne_bytes().to_vec()));
    assert_eq!(map.keys().count(), 3);
    let MapAccessInfo::Array { values, stride: 8, max_entries: 3 } = map.layout() else { panic!("an array") };
    assert!(map.contains(values + 16, 8).is_some());
    assert!(map.contains(values + 17, 8).is_none());
    assert!(map.contains(values + 24, 1).is_none());
}

#[test]
fn the_program_side_goes_through_the_object_address() {
    let cpus = cpus(2);
    let map = Map::create(&MapSpec::new(MapType::PercpuArray, 4, 4, 2), &cpus).unwrap();
    let run = cpus.enter().unwrap();
    let key = 1u32;
    let value = 5u32;
    let addr = |of: &u32| (&raw const *of).expose_provenance() as u64;
    let base = run.base().as_ptr();
    // SAFETY: inside a run, with a live map, a key and a value.
    let updated = unsafe { map_update_elem(map.object_addr(), addr(&key), addr(&value), 0, 0, base) };
    assert_eq!(updated, 0);
    // SAFETY: as above.
    let found = unsafe { map_lookup_elem(map.object_addr(), addr(&key), 0, 0, 0, base) };
    let MapAccessInfo::PerCpuArray { off, stride: 8, max_entries: 2 } = map.layout() else { panic!("per CPU") };
    assert_eq!(found, base.addr() as u64 + off + 8);
    assert_eq!(map.contains(found, 4), Some(Access { read: true, write: true }));
    assert_eq!(map.contains(found, 5), None);
    // SAFETY: as above.
    let deleted = unsafe { map_delete_elem(map.object_addr(), addr(&key), 0, 0, 0, base) };
    assert_eq!(deleted, Errno::EINVAL.as_return());
    let mut all = vec![0; 16];
    all[run.cpu().0 as usize * 8] = 5;
    assert_eq!(map.lookup(&1u32.to_ne_bytes(), 0), Ok(all));
}

#[test]
fn permissions_and_freezing() {
    let cpus = cpus(1);
    let key = 0u32.to_ne_bytes();
    let map = Map::create(&array().flags(BPF_F_RDONLY), &cpus).unwrap();
    assert_eq!(map.update(&key, &[0; 8], 0), Err(Errno::EPERM));
    assert_eq!(map.freeze(), Err(Errno::EPERM));
    let map = Map::create(&array().flags(BPF_F_WRONLY), &cpus).unwrap();
    assert_eq!(map.lookup(&key, 0), Err(Errno::EPERM));
    assert_eq!(map.next_key(None), Err(Errno::EPERM));
    let map = Map::create(&array(), &cpus).unwrap();
    assert_eq!(map.freeze(), Ok(()));
    assert_eq!(map.freeze(), Err(Errno::EPERM));
    assert_eq!(map.update(&key, &[0; 8], 0), Err(Errno::EPERM));
    assert_eq!(map.lookup(&key, 0), Ok(vec![0; 8]));
}

/// Writers and readers that ask for the lock never see half a value; a user never sees the lock.
#[test]
fn values_with_a_lock_are_whole() {
    let record =
        |size| Record::new(vec![SpecialField { kind: FieldKind::SpinLock, offset: 0, size: 4 }], size).unwrap();
    for map_type in [MapType::Array, MapType::Hash] {
        let spec = MapSpec { record: record(64), ..MapSpec::new(map_type, 4, 64, 1) };
        let map = Map::create(&spec, &cpus(2)).unwrap();
        let key = 0_u32.to_ne_bytes();
        let flags = BPF_F_LOCK;
        assert_eq!(map.update(&key, &[0; 64], flags), Ok(()));
        std::thread::scope(|scope| {
            for writer in 1..3_u8 {
                let map = &map;
                scope.spawn(move || (0..5000).for_each(|_| map.update(&key, &[writer; 64], flags).unwrap()));
            }
            for _ in 0..2000 {
                let value = map.lookup(&key, flags).unwrap();
                assert_eq!(value[..4], [0; 4], "the lock reads as zero");
                assert!(value[4..].iter().all(|&byte| byte == value[4]), "{value:?}");
            }
        });
        assert_eq!(map.freeze(), Err(Errno::ENOTSUPP));
    }
    let plain = Map::create(&array(), &cpus(1)).unwrap();
    assert_eq!(plain.update(&0_u32.to_ne_bytes(), &[0; 8], BPF_F_LOCK), Err(Errno::EINVAL));
}
