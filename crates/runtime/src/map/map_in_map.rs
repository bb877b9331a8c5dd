//! `BPF_MAP_TYPE_ARRAY_OF_MAPS` and `BPF_MAP_TYPE_HASH_OF_MAPS`: maps as values.
//!
//! A program's lookup gives the inner map's object, so running code reads one word per element; the references that keep
//! the inner maps alive are beside it, under a lock, which no lookup takes. Invariant: a published object lives, and is known to
//! be inside, until a grace period after it was replaced. Inner maps have the shape of the template, for programs were verified
//! against that.
//! Kernel counterpart: kernel/bpf/map_in_map.c, `array_of_maps_map_ops`, `htab_of_maps_map_ops` (6.18).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_abi::map_flags::{BPF_F_NUMA_NODE, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
use skep_abi::update_flags::BPF_ANY;
use skep_abi::{Errno, MapType};
use skep_sync::CpuSet;

use super::array::{check_array, index_at, index_of, next_index};
use super::hash::{self, HashMap, KeyKind};
use super::object::MapRef;
use super::ops::{Access, BatchSupport, MapKind, MapOps, Slot, Vcpu};
use super::region::Region;
use super::spec::{ACCESS_FLAGS, MapInfo, MapSpec};

/// An array of maps.
pub struct ArrayOfMaps {
    objects: Region,
    max_entries: u32,
    template: MapInfo,
    refs: Refs<u32>,
}

/// A hash of maps.
pub struct HashOfMaps<K> {
    objects: HashMap<K, false, false>,
    template: MapInfo,
    refs: Refs<Vec<u8>>,
}

/// What keeps the inner maps alive.
struct Refs<K> {
    held: Arc<Mutex<Held<K>>>,
    cpus: CpuSet,
}

/// Maps that a run may have found.
struct Held<K> {
    maps: BTreeMap<K, MapRef>,
    /// Those that were replaced, until no run is left from before.
    replaced: BTreeMap<u64, MapRef>,
    /// How many were replaced ever.
    count: u64,
}

fn lock<K>(held: &Mutex<Held<K>>) -> MutexGuard<'_, Held<K>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Ord + Send + 'static> Refs<K> {
    fn new(cpus: &CpuSet) -> Refs<K> {
        let held = Held { maps: BTreeMap::new(), replaced: BTreeMap::new(), count: 0 };
        Refs { held: Arc::new(Mutex::new(held)), cpus: cpus.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        lock(&self.held)
    }

    /// Lets go of a map that a run in progress may still use.
    fn drop_later(&self, held: &mut Held<K>, map: Option<MapRef>) {
        let Some(map) = map else { return };
        let number = held.count;
        held.count += 1;
        held.replaced.insert(number, map);
        let shared = Arc::clone(&self.held);
        self.cpus.defer(Box::new(move || {
            let map = lock(&shared).replaced.remove(&number);
            drop(map);
        }));
    }

    /// The access to these bytes in a value of a map inside. The map lives until the run that asks has ended.
    fn contain(&self, addr: u64, len: u64) -> Option<Access> {
        let held = self.lock();
        if let Some(access) = held.maps.values().find_map(|map| map.ops().contains(addr, len)) {
            return Some(access);
        }
        let found = |map: &MapRef| map.ops().contains(addr, len).map(|access| (map.clone(), access));
        let (map, access) = held.replaced.values().find_map(found)?;
        // The run may have begun after the map was replaced, so that nothing else waits for its end.
        self.cpus.defer(Box::new(move || drop(map)));
        Some(access)
    }
}

/// The template, checked (`bpf_map_meta_alloc`).
fn template(spec: &MapSpec) -> Result<MapInfo, Errno> {
    let inner = spec.inner.as_ref().ok_or(Errno::EINVAL)?;
    let info = inner.info();
    if info.map_type.is_map_of_maps() {
        return Err(Errno::EINVAL);
    }
    if info.map_type == MapType::ProgArray { Err(Errno::ENOTSUPP) } else { Ok(info.clone()) }
}

/// The map in a slot value, if it fits.
fn inner_map(value: Slot, template: &MapInfo) -> Result<MapRef, Errno> {
    let Slot::Map(map) = value else { return Err(Errno::EINVAL) };
    if map.info().fits_template(template) { Ok(map.keep()) } else { Err(Errno::EINVAL) }
}

impl ArrayOfMaps {
    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        let slot = self.objects.start().cast::<u64>().wrapping_add(index as usize);
        // SAFETY: the region has a word for each slot, and is accessed with atomics only.
        (index < self.max_entries).then(|| unsafe { AtomicU64::from_ptr(slot) })
    }
}

// SAFETY: what `lookup` returns is a map object that the references keep, and a grace period after them.
unsafe impl MapOps for ArrayOfMaps {
    unsafe fn lookup(&self, key: *const u8, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        let object = self.slot(index).map_or(0, |slot| slot.load(Ordering::Acquire));
        object_pointer(object)
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        let refs = self.refs.lock();
        let map = refs.maps.get(&index_of(key)).ok_or(Errno::ENOENT)?;
        out.copy_from_slice(&map.info().id.to_ne_bytes());
        Ok(())
    }

    fn user_update(&self, key: &[u8], _: &[u8], flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        // A number names no map here: the caller resolves descriptors and ids.
        if index_of(key) >= self.max_entries { Err(Errno::E2BIG) } else { Err(Errno::EBADF) }
    }

    fn user_update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        let slot = self.slot(index).ok_or(Errno::E2BIG)?;
        let map = inner_map(value, &self.template)?;
        let mut refs = self.refs.lock();
        slot.store(map.addr(), Ordering::Release);
        let old = refs.maps.insert(index, map);
        self.refs.drop_later(&mut refs, old);
        Ok(())
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        let index = index_of(key);
        let slot = self.slot(index).ok_or(Errno::E2BIG)?;
        let mut refs = self.refs.lock();
        slot.store(0, Ordering::Release);
        let old = refs.maps.remove(&index);
        let was_there = old.is_some();
        self.refs.drop_later(&mut refs, old);
        if was_there { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        next_index(key, out, self.max_entries)
    }

    fn batch_support(&self) -> BatchSupport {
        BatchSupport { lookup: true, update: true, ..BatchSupport::default() }
    }

    fn contains_inside(&self, addr: u64, len: u64) -> Option<Access> {
        self.refs.contain(addr, len)
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + u64::from(self.max_entries) * 8
    }
}

impl MapKind for ArrayOfMaps {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.value_size != 4 || spec.has(BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) {
            return Err(Errno::EINVAL);
        }
        check_array(spec, ACCESS_FLAGS | BPF_F_NUMA_NODE)
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<ArrayOfMaps, Errno> {
        let template = template(spec)?;
        info.inner = Some(Box::new(template.clone()));
        let objects = Region::committed(u64::from(spec.max_entries) * 8)?;
        Ok(ArrayOfMaps { objects, max_entries: spec.max_entries, template, refs: Refs::new(cpus) })
    }
}

// SAFETY: as for `ArrayOfMaps`.
unsafe impl<K: KeyKind> MapOps for HashOfMaps<K> {
    unsafe fn lookup(&self, key: *const u8, cpu: Vcpu<'_>) -> *mut u8 {
        // SAFETY: the caller's duty, passed on.
        let value = unsafe { self.objects.lookup(key, cpu) };
        if value.is_null() {
            return value;
        }
        // SAFETY: values of the map are eight bytes, aligned, and accessed with atomics only.
        object_pointer(unsafe { AtomicU64::from_ptr(value.cast()) }.load(Ordering::Acquire))
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        let refs = self.refs.lock();
        let map = refs.maps.get(key).ok_or(Errno::ENOENT)?;
        out.copy_from_slice(&map.info().id.to_ne_bytes());
        Ok(())
    }

    fn user_update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        let map = inner_map(value, &self.template)?;
        let mut refs = self.refs.lock();
        self.objects.user_update(key, &map.addr().to_ne_bytes(), flags)?;
        let old = refs.maps.insert(key.to_vec(), map);
        self.refs.drop_later(&mut refs, old);
        Ok(())
    }

    fn user_update(&self, _: &[u8], _: &[u8], _: u64) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        let mut refs = self.refs.lock();
        self.objects.user_delete(key)?;
        let old = refs.maps.remove(key);
        self.refs.drop_later(&mut refs, old);
        Ok(())
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        self.objects.user_next_key(key, out)
    }

    fn batch_support(&self) -> BatchSupport {
        BatchSupport { lookup: true, delete: true, ..BatchSupport::default() }
    }

    fn contains_inside(&self, addr: u64, len: u64) -> Option<Access> {
        self.refs.contain(addr, len)
    }

    fn memory(&self) -> u64 {
        self.objects.memory()
    }
}

impl<K: KeyKind> MapKind for HashOfMaps<K> {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.value_size != 4 {
            return Err(Errno::EINVAL);
        }
        hash::check(spec, false, false)
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<Self, Errno> {
        let template = template(spec)?;
        info.inner = Some(Box::new(template.clone()));
        // The map itself holds addresses.
        let objects = MapSpec { value_size: 8, inner: None, ..spec.clone() };
        let objects = HashMap::create(&objects, info, cpus)?;
        Ok(HashOfMaps { objects, template, refs: Refs::new(cpus) })
    }
}

#[inline]
fn object_pointer(object: u64) -> *mut u8 {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    std::ptr::with_exposed_provenance_mut(object as usize)
}
