//! Hash maps: `BPF_MAP_TYPE_HASH`, `PERCPU_HASH`, `LRU_HASH`, `LRU_PERCPU_HASH`.
//!
//! Lookups take no lock; updates lock one bucket. An update of a plain map replaces the element, so that a reader sees
//! the old value or the new one; a per-CPU map overwrites this vCPU's value, without a lock if the key is there. Freed elements are used again at once (see
//! `pool`). A full LRU map evicts an element that no program looked up since the hand passed it (second chance), where
//! the kernel keeps lists; which element goes is not promised by either.
//! Invariant: the value of an element, or the offset of its per-CPU value, never moves while the map lives.
//! Kernel counterpart: kernel/bpf/hashtab.c, bpf_lru_list.c (6.18).

mod key;
mod pool;
mod store;
mod table;

use std::marker::PhantomData;

use skep_abi::map_flags::{BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_F_NUMA_NODE, BPF_F_ZERO_SEED};
use skep_abi::update_flags::{BPF_ANY, BPF_EXIST};
use skep_abi::{Errno, MapType};
use skep_sync::{CpuSet, PerCpuOff};

pub use key::{Key4, Key8, Key16, KeyAny, KeyKind, Seed};

use self::store::{Store, USER};
use self::table::KEY;
use super::object::HelperFn;
use super::ops::{Access, BatchSupport, BucketBatch, HelperAddr, MapAccessInfo, MapKind, MapOps, Vcpu};
use super::spec::{ACCESS_FLAGS, KMALLOC_MAX, MapInfo, MapSpec, PERCPU_VALUE_MAX};
pub(crate) use key::hash_value;

/// Bytes of the kernel's element head, which its limit on key and value leaves room for.
const KERNEL_ELEM: u64 = 48;

/// A hash map with keys of one kind; `PERCPU` and `LRU` make the four types.
#[repr(C)]
pub struct HashMap<K, const PERCPU: bool, const LRU: bool> {
    store: Store,
    _key: PhantomData<K>,
}

impl<K: KeyKind, const PERCPU: bool, const LRU: bool> HashMap<K, PERCPU, LRU> {
    /// Bytes from an element to its value.
    #[inline]
    fn value_offset(&self) -> usize {
        match K::PADDED {
            Some(padded) => KEY + padded,
            None => self.store.value_offset,
        }
    }

    /// The value of an element, for a program.
    #[inline]
    fn value(&self, elem: *mut u8, cpu: Vcpu<'_>) -> *mut u8 {
        let value = elem.wrapping_add(self.value_offset());
        if PERCPU {
            // SAFETY: an element of a per-CPU map has the offset of its value where others have the value; the word is
            // written before the element is linked and never changes.
            cpu.at(PerCpuOff(unsafe { value.cast::<u64>().read() }))
        } else {
            value
        }
    }
}

// SAFETY: elements and per-CPU values live as long as the map.
unsafe impl<K: KeyKind, const PERCPU: bool, const LRU: bool> MapOps for HashMap<K, PERCPU, LRU> {
    fn access(&self) -> MapAccessInfo {
        MapAccessInfo::Hash { lookup: (super::object::lookup::<Self> as HelperFn).address() }
    }

    #[inline]
    unsafe fn lookup(&self, key: *const u8, cpu: Vcpu<'_>) -> *mut u8 {
        // SAFETY: the caller's duty, passed on; the map was made with this kind of key.
        let Some(elem) = (unsafe { self.store.table.find::<K>(key) }) else { return std::ptr::null_mut() };
        if LRU {
            // SAFETY: an element of this map.
            unsafe { table::mark_referenced(elem) };
        }
        self.value(elem, cpu)
    }

    unsafe fn lookup_percpu(&self, key: *const u8, of: u32, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: the caller's duty, passed on.
        let Some(elem) = (unsafe { self.store.table.find::<K>(key) }) else { return std::ptr::null_mut() };
        if LRU {
            // SAFETY: an element of this map.
            unsafe { table::mark_referenced(elem) };
        }
        self.store.percpu_value(elem, of).unwrap_or(std::ptr::null_mut())
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64, cpu: Vcpu<'_>) -> Result<(), Errno> {
        if PERCPU && (flags == BPF_ANY || flags == BPF_EXIST) {
            // The value of this vCPU is written by nobody else, so a key that is there needs no lock: this is a lookup and
            // a store, with what they promise when another thread deletes the key meanwhile.
            // SAFETY: the caller's duty, passed on; the map was made with this kind of key.
            if let Some(elem) = unsafe { self.store.table.find::<K>(key) } {
                if LRU {
                    // SAFETY: an element of this map.
                    unsafe { table::mark_referenced(elem) };
                }
                // SAFETY: this vCPU's value, and a readable one (caller).
                unsafe { self.store.layout.copy_in(self.value(elem, cpu), value) };
                return Ok(());
            }
        }
        // SAFETY: the caller's duty, passed on.
        unsafe { self.store.update(key, store::NewValue::OfProgram(value, cpu), flags, cpu.id() as usize) }
    }

    unsafe fn delete(&self, key: *const u8, cpu: Vcpu<'_>) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.store.delete(key, cpu.id() as usize) }
    }

    unsafe fn for_each(&self, cpu: Vcpu<'_>, visit: &mut dyn FnMut(*mut u8, *mut u8) -> bool) -> Result<u64, Errno> {
        let mut calls = 0;
        for index in 0..self.store.table.n_buckets() {
            let ended = self.store.table.walk(index, &mut |elem| {
                calls += 1;
                visit(elem.wrapping_add(KEY), self.value(elem, cpu))
            });
            if ended {
                break;
            }
        }
        Ok(calls)
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        self.store.read(key, out, flags)
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: the key has its size (handle).
        unsafe { self.store.update(key.as_ptr(), store::NewValue::OfUser(value), flags, USER.shard()) }
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        // SAFETY: the key has its size (handle).
        unsafe { self.store.delete(key.as_ptr(), USER.shard()) }
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        self.store.next_key(key, out)
    }

    fn user_lookup_and_delete(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        self.store.take(key, out, flags)
    }

    fn batch_support(&self) -> BatchSupport {
        BatchSupport { lookup: true, lookup_and_delete: true, update: true, delete: true, by_bucket: true }
    }

    fn user_batch(&self, request: &mut BucketBatch<'_>) -> Result<(), Errno> {
        self.store.batch(request)
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + self.store.bytes()
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        self.store.contains(addr, len)
    }
}

impl<K: KeyKind, const PERCPU: bool, const LRU: bool> MapKind for HashMap<K, PERCPU, LRU> {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        check(spec, PERCPU, LRU)
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<Self, Errno> {
        let seed = if spec.has(BPF_F_ZERO_SEED) { Seed::zero() } else { Seed::random() };
        Ok(HashMap { store: Store::new(spec, info, cpus, (PERCPU, LRU), seed)?, _key: PhantomData })
    }
}

impl HashMap<Key4, false, false> {
    /// A map whose buckets are the low bits of the key, as devmap_hash has them.
    pub(super) fn by_identity(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<Self, Errno> {
        let store = Store::new(spec, info, cpus, (false, false), Seed::identity())?;
        Ok(HashMap { store, _key: PhantomData })
    }
}

/// `htab_map_alloc_check`.
pub(super) fn check(spec: &MapSpec, percpu: bool, lru: bool) -> Result<(), Errno> {
    let private = spec.has(BPF_F_NO_COMMON_LRU);
    spec.check_flags(ACCESS_FLAGS | BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | BPF_F_ZERO_SEED)?;
    if !lru && private {
        return Err(Errno::EINVAL);
    }
    if lru && spec.has(BPF_F_NO_PREALLOC) {
        return Err(Errno::ENOTSUPP);
    }
    if spec.has(BPF_F_NUMA_NODE) && (percpu || private) {
        return Err(Errno::EINVAL);
    }
    if spec.max_entries == 0 || spec.key_size == 0 || spec.value_size == 0 {
        return Err(Errno::EINVAL);
    }
    if u64::from(spec.key_size) + u64::from(spec.value_size) >= KMALLOC_MAX - KERNEL_ELEM {
        return Err(Errno::E2BIG);
    }
    if percpu && spec.value_size.next_multiple_of(8) > PERCPU_VALUE_MAX {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// What kind of key a map of this spec has.
#[derive(Clone, Copy)]
pub(super) enum KeyChoice {
    Four,
    Eight,
    Sixteen,
    Any,
}

impl KeyChoice {
    pub(super) fn of(spec: &MapSpec) -> KeyChoice {
        match spec.key_size {
            _ if spec.has(BPF_F_ZERO_SEED) => KeyChoice::Any,
            4 => KeyChoice::Four,
            8 => KeyChoice::Eight,
            16 => KeyChoice::Sixteen,
            _ => KeyChoice::Any,
        }
    }
}

/// Whether a map type is one of this file's, and then whether it is per-CPU and LRU.
pub(super) fn variant(map_type: MapType) -> Option<(bool, bool)> {
    match map_type {
        MapType::Hash => Some((false, false)),
        MapType::PercpuHash => Some((true, false)),
        MapType::LruHash => Some((false, true)),
        MapType::LruPercpuHash => Some((true, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
