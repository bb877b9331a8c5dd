//! What the hash map types do with their elements, whatever the kind of key.
//!
//! Invariant: locks are taken in the order bucket, shard; eviction locks another bucket, so it holds none before.
//! Kernel counterpart: `htab_map_update_elem`, `__htab_lru_percpu_map_update_elem`,
//! `__htab_map_lookup_and_delete_batch` (kernel/bpf/hashtab.c, 6.18; `BPF_F_CPU` is 7.0's).

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC};
use skep_abi::update_flags::{BPF_EXIST, BPF_F_CPU, BPF_F_LOCK, BPF_NOEXIST};
use skep_sync::{CpuSet, PerCpuOff};

use super::super::ops::{Access, BucketBatch, Vcpu};
use super::super::percpu::PerCpuValues;
use super::super::spec::{MapInfo, MapSpec};
use super::super::value::{ValueLayout, copy};
use super::key::Seed;
use super::pool::{ElemIdx, Pool};
use super::table::{Found, KEY, LockedBucket, Table, clear_referenced, is_linked, mark_referenced, write_key};
use crate::object::Owned;

/// Most free lists of a map.
const MAX_SHARDS: usize = 64;

/// Where user threads find free elements: each thread its own shard as far as they go.
pub(super) struct UserShards;
pub(super) const USER: UserShards = UserShards;

impl UserShards {
    pub(super) fn shard(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        MINE.with(|mine| *mine)
    }
}

/// Where an update's value comes from.
#[derive(Clone, Copy)]
pub(super) enum NewValue<'a> {
    /// A program's memory; a per-CPU map takes it for this vCPU.
    OfProgram(*const u8, Vcpu<'a>),
    /// A user's buffer, of the size that the flags imply.
    OfUser(&'a [u8]),
}

/// Buckets, elements and values.
#[repr(C)]
pub(super) struct Store {
    pub(super) table: Table,
    /// Bytes from an element to its value.
    pub(super) value_offset: usize,
    pool: Pool,
    pub(super) layout: ValueLayout,
    percpu: Option<PerCpuValues>,
    owned: Option<Owned>,
    lru: bool,
    lazily: bool,
    key_size: usize,
    /// Where eviction looks next: one hand, or one for each shard.
    hands: Box<[Hand]>,
    access: Access,
}

#[repr(align(128))]
struct Hand(AtomicU32);

impl Drop for Store {
    fn drop(&mut self) {
        if self.owned.is_some() {
            (0..self.pool.total()).for_each(|elem| self.release(self.pool.addr(ElemIdx(elem))));
        }
    }
}

impl Store {
    pub(super) fn new(
        spec: &MapSpec,
        info: &mut MapInfo,
        cpus: &CpuSet,
        (percpu, lru): (bool, bool),
        seed: Seed,
    ) -> Result<Store, Errno> {
        let n_cpus = info.n_cpus;
        let private = spec.has(BPF_F_NO_COMMON_LRU);
        if private {
            // Each CPU has the same number of elements.
            let rounded = spec.max_entries.checked_next_multiple_of(n_cpus);
            info.max_entries = rounded.unwrap_or(spec.max_entries / n_cpus * n_cpus);
        }
        if info.max_entries > 1 << 31 {
            return Err(Errno::E2BIG);
        }
        let lazily = spec.has(BPF_F_NO_PREALLOC);
        let table = Table::new(info.max_entries, spec.key_size, seed)?;
        let layout = ValueLayout::new(spec.value_size, &spec.record);
        let value_offset = KEY + (spec.key_size as usize).next_multiple_of(8);
        let elem_size = value_offset + if percpu { 8 } else { layout.stride };
        let n_shards = if private { cpus.n_possible() } else { cpus.n_possible().min(MAX_SHARDS) };
        let pool = Pool::new(elem_size, info.max_entries, n_shards, lazily, private)?;
        let values = match percpu {
            true => Some(PerCpuValues::new(layout.clone(), pool.total(), cpus)?),
            false => None,
        };
        let hands = (0..if private { n_shards } else { 1 }).map(|_| Hand(AtomicU32::new(0))).collect();
        let access = Access::of(info);
        let key_size = spec.key_size as usize;
        // The verifier lets no program put an object into other types of hash map.
        let owning = if percpu || lru { Vec::new() } else { spec.record.owning() };
        let owned = Owned::new(owning, cpus);
        Ok(Store { table, value_offset, pool, layout, percpu: values, owned, lru, lazily, key_size, hands, access })
    }

    fn value(&self, elem: *mut u8) -> *mut u8 {
        elem.wrapping_add(self.value_offset)
    }

    /// Drops the objects that an element's value owns.
    #[inline]
    fn release(&self, elem: *mut u8) {
        if let Some(owned) = &self.owned {
            // SAFETY: a value of this map; it has no lists and trees that a program may use.
            unsafe { owned.release(self.value(elem)) };
        }
    }

    fn percpu_off(&self, elem: *mut u8) -> PerCpuOff {
        // SAFETY: an element of a per-CPU map has a word there, which is written before the element is linked.
        PerCpuOff(unsafe { AtomicU64::from_ptr(self.value(elem).cast()) }.load(Ordering::Relaxed))
    }

    /// The address of an element's value on one vCPU.
    pub(super) fn percpu_value(&self, elem: *mut u8, cpu: u32) -> Option<*mut u8> {
        self.percpu.as_ref()?.on(cpu, self.percpu_off(elem))
    }

    /// Sets a key's value.
    ///
    /// # Safety
    /// `key` is readable for the key's size, a program's value for the value's size.
    pub(super) unsafe fn update(
        &self,
        key: *const u8,
        value: NewValue<'_>,
        flags: u64,
        shard: usize,
    ) -> Result<(), Errno> {
        let mut plain = flags & u64::from(u32::MAX);
        if matches!(value, NewValue::OfUser(_)) {
            plain = super::super::percpu::plain_flags(flags)?;
        } else if flags > u64::from(u32::MAX) {
            return Err(Errno::EINVAL);
        }
        let lockable = !self.lru && self.percpu.is_none();
        if plain & !(if lockable { BPF_F_LOCK } else { 0 }) > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let locked = plain & BPF_F_LOCK != 0;
        if locked && !self.layout.has_lock() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the key is readable (caller).
        let hash = unsafe { self.table.hash(key) };
        let bucket = self.table.lock(hash);
        // SAFETY: as above.
        let old = unsafe { bucket.find(key, hash) };
        check_presence(old.is_some(), plain)?;
        if let Some(old) = old {
            // SAFETY: key and value are readable (caller).
            return unsafe { self.overwrite(&bucket, old, hash, value, flags, shard) };
        }
        if let Some(elem) = self.pool.alloc(shard) {
            // SAFETY: as above, and the element is fresh.
            unsafe { self.fill(elem, key, value, flags) };
            // SAFETY: as above.
            unsafe { bucket.insert(self.pool.addr(elem), hash) };
            return Ok(());
        }
        if !self.lru {
            return Err(Errno::E2BIG);
        }
        drop(bucket);
        // SAFETY: as above.
        unsafe { self.update_full(key, hash, value, flags, shard) }
    }

    /// The rest of an update of a full LRU map: the bucket was unlocked, so anything may have happened.
    ///
    /// # Safety
    /// As for [`Store::update`].
    unsafe fn update_full(
        &self,
        key: *const u8,
        hash: u32,
        value: NewValue<'_>,
        flags: u64,
        shard: usize,
    ) -> Result<(), Errno> {
        let elem = self.evict(shard).or_else(|| self.pool.alloc(shard)).ok_or(Errno::ENOMEM)?;
        let bucket = self.table.lock(hash);
        // SAFETY: the key is readable (caller).
        let old = unsafe { bucket.find(key, hash) };
        let result = check_presence(old.is_some(), flags);
        match old {
            None if result.is_ok() => {
                // SAFETY: the caller's duty; the element is ours.
                unsafe { self.fill(elem, key, value, flags) };
                // SAFETY: as above.
                unsafe { bucket.insert(self.pool.addr(elem), hash) };
                result
            }
            found => {
                self.pool.free(elem, shard);
                result?;
                let Some(old) = found else { return Ok(()) };
                // SAFETY: the caller's duty.
                unsafe { self.overwrite(&bucket, old, hash, value, flags, shard) }
            }
        }
    }

    /// Gives a key that is there a new value.
    ///
    /// # Safety
    /// As for [`Store::update`]; `old` is in the locked bucket and has the key.
    unsafe fn overwrite(
        &self,
        bucket: &LockedBucket<'_>,
        old: Found,
        hash: u32,
        value: NewValue<'_>,
        flags: u64,
        shard: usize,
    ) -> Result<(), Errno> {
        if self.lru {
            // SAFETY: an element of this map.
            unsafe { mark_referenced(old.elem) };
        }
        if let Some(percpu) = &self.percpu {
            let offset = self.percpu_off(old.elem);
            match value {
                // SAFETY: this vCPU's value; the new one is readable (caller).
                NewValue::OfProgram(value, cpu) => unsafe { self.layout.copy_in(cpu.at(offset), value) },
                NewValue::OfUser(value) => percpu.write(offset, value, flags),
            }
            return Ok(());
        }
        if flags & BPF_F_LOCK != 0 {
            let target = self.value(old.elem);
            // SAFETY: a value of this map, and a readable one (caller).
            let store = || unsafe { self.layout.copy_in(target, value.bytes()) };
            // SAFETY: a value of this map.
            unsafe { self.layout.locked(target, store) };
            return Ok(());
        }
        let spare = self.pool.spare(shard);
        let elem = self.pool.addr(spare.elem);
        // SAFETY: the spare element is ours; the old element's key is the key.
        unsafe { self.fill(spare.elem, old.elem.wrapping_add(KEY), value, flags) };
        if self.lru {
            // SAFETY: an element of this map.
            unsafe { mark_referenced(elem) };
        }
        // SAFETY: the spare element is ours and filled.
        unsafe { bucket.replace(old, elem, hash) };
        self.release(old.elem);
        spare.swap(self.pool.index(old.elem));
        Ok(())
    }

    /// Fills an element that is not linked.
    ///
    /// # Safety
    /// As for [`Store::update`]; the element is the caller's.
    unsafe fn fill(&self, elem: ElemIdx, key: *const u8, value: NewValue<'_>, flags: u64) {
        let addr = self.pool.addr(elem);
        // SAFETY: the element is the caller's.
        unsafe { write_key(addr, key, self.key_size) };
        // SAFETY: as above.
        let _ = unsafe { clear_referenced(addr) };
        match &self.percpu {
            Some(percpu) => {
                let offset = percpu.offset(elem.0);
                // SAFETY: the element has a word there.
                unsafe { AtomicU64::from_ptr(self.value(addr).cast()) }.store(offset.0, Ordering::Relaxed);
                match value {
                    NewValue::OfProgram(value, cpu) => {
                        percpu.clear(offset);
                        // SAFETY: this vCPU's value; the new one is readable (caller).
                        unsafe { self.layout.copy_in(cpu.at(offset), value) };
                    }
                    NewValue::OfUser(value) => {
                        if flags & BPF_F_CPU != 0 {
                            percpu.clear(offset);
                        }
                        percpu.write(offset, value, flags);
                    }
                }
            }
            None => {
                let target = self.value(addr);
                // A run that saw the element's last value may have put something into it since.
                self.release(addr);
                // SAFETY: the element's value.
                unsafe { self.layout.init_special(target) };
                // SAFETY: the element's value, and a readable one (caller).
                unsafe { self.layout.copy_in(target, value.bytes()) };
            }
        }
    }

    /// Takes an element out that was not used lately, for another key. `None` if others took all.
    fn evict(&self, shard: usize) -> Option<ElemIdx> {
        let private = self.hands.len() > 1;
        let hand = &self.hands[shard % self.hands.len()].0;
        // The spares go round as updates replace elements, so the common hand passes over them too.
        let range = if private { self.pool.share(shard) } else { 0..self.pool.total() };
        let len = range.end - range.start;
        // Once round clears all marks, the second time finds one, unless others mark or take faster.
        for _ in 0..u64::from(len) * 3 + 64 {
            let at = hand.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some((at + 1) % len)).unwrap_or(0);
            let elem = self.pool.addr(ElemIdx(range.start + at % len));
            // SAFETY: an element of this map.
            if !unsafe { is_linked(elem) } {
                continue;
            }
            // SAFETY: as above.
            if unsafe { clear_referenced(elem) } {
                continue;
            }
            // SAFETY: as above.
            let bucket = self.table.lock(unsafe { super::key::hash_of(elem) });
            if let Some(found) = bucket.find_elem(elem) {
                bucket.remove(found);
                return Some(self.pool.index(elem));
            }
        }
        None
    }

    /// Removes a key.
    ///
    /// # Safety
    /// `key` is readable for the key's size.
    pub(super) unsafe fn delete(&self, key: *const u8, shard: usize) -> Result<(), Errno> {
        // SAFETY: the caller's duty.
        let hash = unsafe { self.table.hash(key) };
        let bucket = self.table.lock(hash);
        // SAFETY: as above.
        let found = unsafe { bucket.find(key, hash) }.ok_or(Errno::ENOENT)?;
        bucket.remove(found);
        drop(bucket);
        self.release(found.elem);
        self.pool.free(self.pool.index(found.elem), shard);
        Ok(())
    }

    /// Copies a value out, by a user.
    fn copy_out(&self, elem: *mut u8, out: &mut [u8], flags: u64) {
        if let Some(percpu) = &self.percpu {
            return percpu.read(self.percpu_off(elem), out, flags);
        }
        let value = self.value(elem);
        let mut read = || {
            // SAFETY: a value of this map, and a buffer of its size (handle).
            unsafe { self.layout.copy_out(out.as_mut_ptr(), value) };
        };
        if flags & BPF_F_LOCK != 0 {
            // SAFETY: a value of this map.
            unsafe { self.layout.locked(value, read) };
        } else {
            read();
        }
    }

    /// Reads a value, by a user: under the bucket's lock, so that the element is this key's throughout.
    pub(super) fn read(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: a key of the key's size (handle).
        let hash = unsafe { self.table.hash(key.as_ptr()) };
        let bucket = self.table.lock(hash);
        // SAFETY: as above.
        let found = unsafe { bucket.find(key.as_ptr(), hash) }.ok_or(Errno::ENOENT)?;
        self.copy_out(found.elem, out, flags);
        Ok(())
    }

    /// Reads a value and removes its key.
    pub(super) fn take(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: a key of the key's size (handle).
        let hash = unsafe { self.table.hash(key.as_ptr()) };
        let bucket = self.table.lock(hash);
        // SAFETY: as above.
        let found = unsafe { bucket.find(key.as_ptr(), hash) }.ok_or(Errno::ENOENT)?;
        self.copy_out(found.elem, out, flags);
        bucket.remove(found);
        drop(bucket);
        self.release(found.elem);
        self.pool.free(self.pool.index(found.elem), USER.shard());
        Ok(())
    }

    /// The key after `key` in the order of buckets and chains; the first one if `key` is not there.
    pub(super) fn next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        let mut start = 0;
        if let Some(key) = key {
            // SAFETY: a key of the key's size (handle).
            let hash = unsafe { self.table.hash(key.as_ptr()) };
            let bucket = self.table.lock(hash);
            // SAFETY: as above.
            if let Some(found) = unsafe { bucket.find(key.as_ptr(), hash) } {
                if let Some(next) = bucket.after(found.elem) {
                    self.copy_key(next, out);
                    return Ok(());
                }
                start = (hash & (self.table.n_buckets() - 1)) + 1;
            }
        }
        for index in start..self.table.n_buckets() {
            if self.table.is_empty(index) {
                continue;
            }
            let bucket = self.table.lock(index);
            if let Some(first) = bucket.first() {
                self.copy_key(first, out);
                return Ok(());
            }
        }
        Err(Errno::ENOENT)
    }

    fn copy_key(&self, elem: *mut u8, out: &mut [u8]) {
        // SAFETY: an element's key, and a buffer of its size.
        unsafe { copy(out.as_mut_ptr(), elem.wrapping_add(KEY), self.key_size) };
    }

    /// A batch of lookups: whole buckets, as many as fit.
    pub(super) fn batch(&self, request: &mut BucketBatch<'_>) -> Result<(), Errno> {
        let size = match &self.percpu {
            Some(_) if request.flags & BPF_F_CPU != 0 => self.layout.size,
            Some(percpu) => percpu.user_size(),
            None => self.layout.size,
        };
        let mut total = 0;
        while request.bucket < self.table.n_buckets() {
            if self.table.is_empty(request.bucket) {
                request.bucket += 1;
                continue;
            }
            let bucket = self.table.lock(request.bucket);
            let chain: Vec<*mut u8> = std::iter::successors(bucket.first(), |elem| bucket.after(*elem)).collect();
            if chain.len() > request.max - total {
                return if total == 0 { Err(Errno::ENOSPC) } else { Ok(()) };
            }
            total += chain.len();
            for &elem in &chain {
                let key = request.keys.len();
                request.keys.resize(key + self.key_size, 0);
                self.copy_key(elem, &mut request.keys[key..]);
                let value = request.values.len();
                request.values.resize(value + size, 0);
                self.copy_out(elem, &mut request.values[value..], request.flags);
            }
            if request.delete {
                for &elem in &chain {
                    if let Some(found) = bucket.find_elem(elem) {
                        bucket.remove(found);
                        self.release(elem);
                        self.pool.free(self.pool.index(elem), USER.shard());
                    }
                }
            }
            request.bucket += 1;
        }
        Err(Errno::ENOENT)
    }

    /// Bytes of buckets, elements and per-CPU values.
    pub(super) fn bytes(&self) -> u64 {
        let percpu = self.percpu.as_ref().map_or(0, PerCpuValues::bytes);
        self.table.bytes() + self.pool.bytes(self.lazily) + percpu
    }

    /// What a program may do with memory of a key or a value.
    pub(super) fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        if let Some(percpu) = &self.percpu
            && percpu.contains(addr, len)
        {
            return Some(self.access);
        }
        let offset = self.pool.offset_in_elem(addr, len)?;
        let value = self.value_offset as u64;
        if self.percpu.is_none() && offset >= value && offset - value + len <= self.layout.size as u64 {
            return Some(self.access);
        }
        // Callbacks of bpf_for_each_map_elem read the key.
        let key = KEY as u64;
        let in_key = offset >= key && offset - key + len <= self.key_size as u64;
        in_key.then_some(Access { read: true, write: false })
    }
}

impl NewValue<'_> {
    fn bytes(self) -> *const u8 {
        match self {
            NewValue::OfProgram(value, _) => value,
            NewValue::OfUser(value) => value.as_ptr(),
        }
    }
}

/// `BPF_NOEXIST` and `BPF_EXIST`, which an update for one CPU does not heed.
fn check_presence(present: bool, flags: u64) -> Result<(), Errno> {
    match flags & (BPF_NOEXIST | BPF_EXIST | BPF_F_CPU) {
        BPF_NOEXIST if present => Err(Errno::EEXIST),
        BPF_EXIST if !present => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}
