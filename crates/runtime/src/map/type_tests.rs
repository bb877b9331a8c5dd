//! What the comparison with the kernel cannot show: the program side of each type, threads, memory that comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use skep_abi::map_flags::BPF_F_NO_PREALLOC;
use skep_abi::{AttachType, Errno, MapType, ProgType};
use skep_sync::CpuId;

use super::perf_event_array::{BPF_F_CURRENT_CPU, PerfEventArray, PerfRecord, PerfRing};
use super::prog_array::{Owner, ProgArray, SlotWatcher, TailCallee};
use super::ringbuf::{Query, RingBuf, wakeup};
use super::tests::cpus;
use super::*;

struct Callee {
    id: u32,
    prog_type: ProgType,
    drops: Arc<AtomicUsize>,
}

impl TailCallee for Callee {
    fn id(&self) -> u32 {
        self.id
    }

    fn owner(&self) -> Owner {
        Owner {
            prog_type: self.prog_type,
            attach_type: AttachType::default(),
            jited: true,
            xdp_has_frags: false,
            context: 0,
        }
    }

    fn tail_entry(&self) -> u64 {
        0x1000 + u64::from(self.id)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Sites(std::sync::Mutex<Vec<(u32, u64)>>);

impl SlotWatcher for Sites {
    fn slot_changed(&self, key: u32, target: u64) {
        self.0.lock().unwrap().push((key, target));
    }
}

#[test]
fn a_prog_array_publishes_keeps_and_lets_go() {
    let cpus = cpus(2);
    let map = Map::create(&MapSpec::new(MapType::ProgArray, 4, 4, 3), &cpus).unwrap();
    let array: &ProgArray = map.downcast().unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    let callee = |id, prog_type| Slot::Program(Arc::new(Callee { id, prog_type, drops: drops.clone() }));
    let sites: Arc<dyn SlotWatcher> = Arc::new(Sites::default());
    let key = |index: u32| index.to_ne_bytes();

    assert_eq!(map.update_slot(&key(1), callee(7, ProgType::Xdp), 0), Ok(()));
    array.watch(&sites);
    assert_eq!((array.target(0), array.target(1), array.target(9)), (0, 0x1007, 0));
    assert_eq!(map.lookup(&key(1), 0), Ok(7_u32.to_ne_bytes().to_vec()));
    assert_eq!(map.update_slot(&key(1), callee(8, ProgType::SchedCls), 0), Err(Errno::EINVAL), "another owner");
    assert_eq!(map.update_slot(&key(3), callee(8, ProgType::Xdp), 0), Err(Errno::E2BIG));
    assert_eq!(map.update_slot(&key(0), callee(8, ProgType::Xdp), 1), Err(Errno::EINVAL));
    assert_eq!(map.update(&key(0), &[0; 4], 0), Err(Errno::EBADF));
    drops.store(0, Ordering::Relaxed);

    let run = cpus.enter().unwrap();
    assert_eq!(map.update_slot(&key(1), callee(9, ProgType::Xdp), 0), Ok(()));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(drops.load(Ordering::Relaxed), 0, "the run may still enter the old program");
    drop(run);
    cpus.barrier().unwrap();
    assert_eq!(drops.load(Ordering::Relaxed), 1);

    let kept = map.keep();
    drop(map);
    cpus.barrier().unwrap();
    assert_eq!(drops.load(Ordering::Relaxed), 2, "no user, no programs: cycles do not leak");
    let array: &ProgArray = kept.downcast().unwrap();
    assert_eq!(array.target(1), 0);
    let map = kept.to_user();
    assert_eq!(map.delete(&key(1)), Err(Errno::ENOENT));
    let watched = kept.downcast::<ProgArray>().unwrap();
    assert_eq!(watched.set_many(vec![(0, None), (5, None)]), Err(Errno::E2BIG));
}

#[test]
fn watchers_hear_every_change_in_order() {
    let cpus = cpus(1);
    let map = Map::create(&MapSpec::new(MapType::ProgArray, 4, 4, 2), &cpus).unwrap();
    let array: &ProgArray = map.downcast().unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    let callee = |id| Slot::Program(Arc::new(Callee { id, prog_type: ProgType::Xdp, drops: drops.clone() }));
    let sites = Arc::new(Sites::default());
    let watcher: Arc<dyn SlotWatcher> = sites.clone();
    map.update_slot(&0_u32.to_ne_bytes(), callee(1), 0).unwrap();
    array.watch(&watcher);
    map.update_slot(&1_u32.to_ne_bytes(), callee(2), 0).unwrap();
    map.update_slot(&0_u32.to_ne_bytes(), callee(3), 0).unwrap();
    map.delete(&1_u32.to_ne_bytes()).unwrap();
    assert_eq!(*sites.0.lock().unwrap(), [(0, 0x1001), (1, 0x1002), (0, 0x1003), (1, 0)]);
}

fn ringbuf(size: u32) -> Map {
    Map::create(&MapSpec::new(MapType::Ringbuf, 0, 0, size), &cpus(1)).unwrap()
}

#[test]
fn ring_buffer_records_come_in_order_of_reservation() {
    let map = ringbuf(4096);
    let ring: &RingBuf = map.downcast().unwrap();
    let first = ring.reserve(5, 0);
    let second = ring.reserve(16, 0);
    assert_eq!(map.contains(first.addr() as u64, 5), Some(Access { read: true, write: true }));
    assert!(ring.reserve(8, 1).is_null(), "no flags");
    // SAFETY: reserved with five bytes.
    unsafe { first.write_bytes(1, 5) };
    // SAFETY: reserved with sixteen bytes.
    unsafe { second.write_bytes(2, 16) };
    // SAFETY: reserved above.
    unsafe { RingBuf::commit(second, 0, false) };
    assert_eq!(ring.consume(|_| true), 0, "the first one is busy");
    assert!(!ring.wait(Duration::ZERO));
    assert_eq!(ring.query(Query::Available), 16 + 24);
    // SAFETY: reserved above.
    unsafe { RingBuf::commit(first, 0, false) };
    assert!(ring.wait(Duration::ZERO));
    let mut records = Vec::new();
    let count = ring.consume(|record| {
        records.push(record.to_vec());
        true
    });
    assert_eq!(count, 2);
    assert_eq!(records, [vec![1; 5], vec![2; 16]]);
    let discarded = ring.reserve(8, 0);
    // SAFETY: reserved just now.
    unsafe { RingBuf::commit(discarded, 0, true) };
    assert_eq!(ring.consume(|_| true), 0);
    assert_eq!(ring.query(Query::Available), 0);
    assert_eq!((ring.query(Query::ConsumerPosition), ring.query(Query::ProducerPosition)), (56, 56));
    assert_eq!(ring.query(Query::Size), 4096);
}

#[test]
fn a_full_ring_buffer_refuses_and_records_wrap_in_one_piece() {
    let map = ringbuf(4096);
    let ring: &RingBuf = map.downcast().unwrap();
    assert!(ring.reserve(4089, 0).is_null());
    assert!(ring.reserve(4088, 0).is_null(), "one byte less than the size is the most");
    let data = vec![7_u8; 3000];
    for round in 0..50_u8 {
        let data = vec![round; 1040 + usize::from(round)];
        // SAFETY: the data has its length.
        let output = |flags| unsafe { ring.output(data.as_ptr(), data.len() as u64, flags) };
        for _ in 0..3 {
            assert_eq!(output(0), Ok(()));
        }
        assert_eq!(output(4), Err(Errno::EINVAL));
        assert_eq!(output(wakeup::BPF_RB_FORCE_WAKEUP | wakeup::BPF_RB_NO_WAKEUP), Err(Errno::EAGAIN));
        assert_eq!(ring.consume(|record| record == data || panic!("round {round}")), 3);
    }
    // SAFETY: as above.
    assert_eq!(unsafe { ring.output(data.as_ptr(), u64::MAX, 0) }, Err(Errno::EAGAIN));
}

#[test]
fn ring_buffer_event_is_readable_while_there_is_something_to_consume() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let map = ringbuf(4096);
    let ring: &RingBuf = map.downcast().unwrap();
    let output = |flags| {
        // SAFETY: eight readable bytes.
        unsafe { ring.output([1_u64].as_ptr().cast(), 8, flags) }.unwrap();
    };
    output(0);
    let event = ring.event().unwrap();
    let readable = || poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1;
    assert!(readable(), "a record from before the event");
    assert_eq!((ring.consume(|_| true), readable(), ring.is_ready()), (1, false, false));
    output(wakeup::BPF_RB_NO_WAKEUP);
    assert!(!readable() && ring.is_ready());
    output(wakeup::BPF_RB_FORCE_WAKEUP);
    assert!(readable());
    assert_eq!((ring.consume(|_| false), readable()), (1, true), "one is left");
    assert_eq!((ring.consume_in_place(|_, len| len == 8), readable()), (1, false));
    output(0);
    assert!(readable());
}

#[test]
fn ring_buffer_under_threads_loses_nothing_and_wakes() {
    const EACH: u64 = 20_000;
    let map = ringbuf(1 << 14);
    let ring: &RingBuf = map.downcast().unwrap();
    let mut last = [0_u64; 3];
    std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            scope.spawn(move || {
                for n in 1..=EACH {
                    let record = [writer, n];
                    // SAFETY: sixteen readable bytes.
                    while unsafe { ring.output(record.as_ptr().cast(), 16, 0) } == Err(Errno::EAGAIN) {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut total = 0;
        while total < 3 * EACH {
            assert!(ring.wait(Duration::from_secs(10)), "a wakeup was lost at {total}");
            total += ring.consume(|record| {
                let word = |at: usize| u64::from_ne_bytes(*record[at..].first_chunk().unwrap());
                let writer = usize::try_from(word(0)).unwrap();
                last[writer] += 1;
                assert_eq!(word(8), last[writer], "in order");
                true
            }) as u64;
        }
    });
    assert_eq!(last, [EACH; 3]);
}

#[test]
fn perf_samples_go_to_the_ring_of_the_cpu() {
    let cpus = cpus(2);
    let map = Map::create(&MapSpec::new(MapType::PerfEventArray, 4, 4, 2), &cpus).unwrap();
    let array: &PerfEventArray = map.downcast().unwrap();
    let run = cpus.enter_on(CpuId(1)).unwrap();
    let cpu = Vcpu::of(&run);
    let data = *b"hello";
    let packet = *b"pkt";
    // SAFETY: readable parts.
    let output = |flags| unsafe { array.output(flags, (data.as_ptr(), 5), (packet.as_ptr(), 3), cpu) };
    assert_eq!(output(BPF_F_CURRENT_CPU), Err(Errno::ENOENT));
    assert_eq!(output(2), Err(Errno::E2BIG));
    assert_eq!(output(1 << 63), Err(Errno::EINVAL));
    let ring = PerfRing::new(1, 64).unwrap();
    assert_eq!(map.update_slot(&1_u32.to_ne_bytes(), Slot::PerfRing(ring.clone()), 0), Ok(()));
    let other = PerfRing::new(0, 64).unwrap();
    assert_eq!(map.update_slot(&0_u32.to_ne_bytes(), Slot::PerfRing(other), 0), Ok(()));
    assert_eq!(output(0), Err(Errno::ENOTSUP), "the ring of another CPU");
    for _ in 0..10 {
        let sent = (0..10).take_while(|_| output(BPF_F_CURRENT_CPU) == Ok(())).count();
        assert_eq!(sent, 4, "64 bytes hold four samples of 16");
        assert_eq!(ring.read(), Some(PerfRecord::Lost(1)));
        for _ in 0..4 {
            assert_eq!(ring.read(), Some(PerfRecord::Sample(b"hellopkt\0\0\0\0".to_vec())));
        }
        assert_eq!(ring.read(), None);
    }
    assert_eq!(map.lookup(&1_u32.to_ne_bytes(), 0), Err(Errno::ENOTSUPP));

    // The event is readable from the first sample after the reader found nothing.
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fresh = PerfRing::new(1, 64).unwrap();
    let event = fresh.event().unwrap();
    let readable = || poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1;
    assert_eq!(map.update_slot(&1_u32.to_ne_bytes(), Slot::PerfRing(fresh.clone()), 0), Ok(()));
    assert!(!readable() && fresh.drained());
    for _ in 0..2 {
        assert_eq!((output(BPF_F_CURRENT_CPU), readable()), (Ok(()), true));
        assert_eq!(output(BPF_F_CURRENT_CPU), Ok(()));
        assert!(!fresh.drained(), "two samples are there");
        assert!(fresh.read().is_some() && fresh.read().is_some() && fresh.read().is_none());
        assert!(fresh.drained() && !readable());
    }
}

#[test]
fn a_bloom_filter_never_forgets() {
    let cpus = cpus(1);
    let map = Map::create(&MapSpec::new(MapType::BloomFilter, 0, 8, 1000), &cpus).unwrap();
    let has = |value: u64| map.lookup_into(&[], &mut value.to_ne_bytes().to_vec(), 0);
    assert_eq!((0..1000).filter(|&value| has(value) == Err(Errno::ENOENT)).count(), 1000, "empty at first");
    for value in 0..1000_u64 {
        assert_eq!(map.update(&[], &value.to_ne_bytes(), 0), Ok(()));
    }
    assert!((0..1000).all(|value| has(value) == Ok(())));
    let wrong = (1000..11_000).filter(|&value| has(value) == Ok(())).count();
    assert!(wrong < 1000, "{wrong} of 10000 wrongly found");
    assert_eq!(map.update(&[], &[0; 8], 1), Err(Errno::EINVAL));
    assert_eq!(map.delete(&[]), Err(Errno::ENOTSUP));
    assert_eq!(map.next_key(None), Err(Errno::ENOTSUP));
}

#[test]
fn inner_maps_live_as_long_as_a_run_may_use_them() {
    let cpus = cpus(1);
    let inner = Map::create(&MapSpec::new(MapType::Array, 4, 8, 1), &cpus).unwrap();
    for outer in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        let map = Map::create(&MapSpec::new(outer, 4, 4, 2).inner(inner.clone()), &cpus).unwrap();
        let value = Map::create(&MapSpec::new(MapType::Array, 4, 8, 1), &cpus).unwrap();
        let key = 1_u32.to_ne_bytes();
        assert_eq!(map.update_slot(&key, Slot::Map(value.clone()), 0), Ok(()));
        assert_eq!(map.lookup(&key, 0), Ok(value.id().to_ne_bytes().to_vec()));
        let run = cpus.enter().unwrap();
        // SAFETY: inside a run, with a key of the size.
        let found = unsafe { map.object().ops().lookup(key.as_ptr(), Vcpu::of(&run)) };
        assert_eq!(found.addr() as u64, value.object_addr());
        drop(value);
        assert_eq!(map.delete(&key), Ok(()));
        // SAFETY: the run began while the map was there.
        let object = unsafe { MapObject::from_addr(found.addr() as u64) };
        assert_eq!(object.info().max_entries, 1);
        // SAFETY: as above.
        assert!(unsafe { map.object().ops().lookup(key.as_ptr(), Vcpu::of(&run)) }.is_null());
    }
}

#[test]
fn redirect_maps_record_their_targets() {
    let cpus = cpus(2);
    let create = |map_type, value| Map::create(&MapSpec::new(map_type, 4, value, 4), &cpus).unwrap();
    let target = |map: &Map, key: u64| map.object().ops().redirect(key);
    let key = 1_u32.to_ne_bytes();
    let device = [7_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    for map_type in [MapType::Devmap, MapType::DevmapHash] {
        let map = create(map_type, 8);
        assert_eq!(target(&map, 1), None);
        map.update(&key, &device, 0).unwrap();
        assert_eq!(target(&map, 1), Some(RedirectTarget::Device { ifindex: 7, program: 0 }));
        assert_eq!((target(&map, 4), target(&map, 1 << 32 | 1)), (None, None));
        map.delete(&key).unwrap();
        assert_eq!(target(&map, 1), None);
    }
    let map = create(MapType::Cpumap, 4);
    map.update(&key, &64_u32.to_ne_bytes(), 0).unwrap();
    assert_eq!(target(&map, 1), Some(RedirectTarget::Cpu { cpu: 1, program: 0 }));
    let map = create(MapType::Xskmap, 4);
    map.update(&key, &0_u32.to_ne_bytes(), 0).unwrap();
    assert_eq!(target(&map, 1), Some(RedirectTarget::Socket { socket: 0 }));
    assert_eq!(map.lookup(&key, 0), Err(Errno::ENOTSUP));
}

/// Programs look up a prefix that is always there while threads change the trie around it, for longer than nodes last.
#[test]
fn lpm_lookups_while_others_change() {
    let cpus = cpus(4);
    let spec = MapSpec::new(MapType::LpmTrie, 8, 8, 4096).flags(BPF_F_NO_PREALLOC);
    let map = Map::create(&spec, &cpus).unwrap();
    let key = |prefix: u32, addr: u32| [prefix.to_ne_bytes(), addr.to_be_bytes()].concat();
    map.update(&key(8, 0x0a00_0000), &8_u64.to_ne_bytes(), 0).unwrap();
    map.update(&key(16, 0x0a01_0000), &16_u64.to_ne_bytes(), 0).unwrap();
    let stop = AtomicBool::new(false);
    let lookups = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..2_u32 {
            let (map, stop) = (&map, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..256 {
                        let key = key(17 + n % 16, 0x0a02_0000 | writer << 20 | n << 8);
                        map.update(&key, &99_u64.to_ne_bytes(), 0).unwrap();
                    }
                    for n in 0..256 {
                        let _ = map.delete(&key(17 + n % 16, 0x0a02_0000 | writer << 20 | n << 8));
                    }
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let run = cpus.enter().unwrap();
                    for (addr, expected) in [(0x0a01_0203, 16), (0x0aff_ffff, 8)] {
                        let key = key(32, addr);
                        // SAFETY: inside a run, with a key of the size.
                        let value = unsafe { map.object().ops().lookup(key.as_ptr(), Vcpu::of(&run)) };
                        assert!(!value.is_null());
                        // SAFETY: a value of eight bytes, alive to the end of the run.
                        let value = unsafe { AtomicU64::from_ptr(value.cast()) }.load(Ordering::Relaxed);
                        assert_eq!(value, expected);
                    }
                    lookups.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lookups.into_inner() > 100);
}

#[test]
fn lpm_nodes_come_back() {
    let cpus = cpus(1);
    let spec = MapSpec::new(MapType::LpmTrie, 8, 8, 4096).flags(BPF_F_NO_PREALLOC);
    let map = Map::create(&spec, &cpus).unwrap();
    let key = |n: u32| [(17 + n % 16).to_ne_bytes(), (0x0a02_0000 | n << 8).to_be_bytes()].concat();
    for _ in 0..60 {
        (0..256).for_each(|n| map.update(&key(n), &[1; 8], 0).unwrap());
        // Short prefixes of several keys are one.
        for n in 0..256 {
            let _ = map.delete(&key(n));
        }
        cpus.barrier().unwrap();
    }
    // 60 times 500 nodes of 40 bytes would be 1.2 MB.
    assert!(map.memory() < 1 << 17, "{}", map.memory());
}
