//! `BPF_MAP_TYPE_ARRAY`: values in one piece of memory, found by index.
//!
//! Invariant: element `i` is at `start + i * stride`, `stride` being the value's size rounded up to 8. Elements are
//! never created or deleted. An update overwrites in place, word by word, as in the kernel: a reader may see some words
//! old and some new, unless both sides use `BPF_F_LOCK`. Internal data maps (`.rodata`, `.data`, `.bss`) are arrays of
//! one element. Kernel counterpart: `array_map_ops` (kernel/bpf/arraymap.c, 6.18).

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NUMA_NODE};
use skep_abi::update_flags::{BPF_EXIST, BPF_F_LOCK, BPF_NOEXIST};
use skep_sync::CpuSet;

use super::ops::{Access, BatchSupport, MapAccessInfo, MapKind, MapOps, Vcpu};
use super::region::{PAGE, Region};
use super::spec::{ACCESS_FLAGS, MapInfo, MapSpec};
use super::value::ValueLayout;
use crate::object::Owned;

/// An array map.
pub struct Array {
    values: Region,
    owned: Option<Owned>,
    layout: ValueLayout,
    max_entries: u32,
    access: Access,
    bytes: u64,
    /// The file that the values are in, until somebody takes it.
    file: Mutex<Option<OwnedFd>>,
}

impl Array {
    /// The file in memory that the values of a [shared](MapSpec::shared) array are in, element 0 at its start; the first
    /// caller gets it. Mappings of it see the map's values, and outlive it.
    #[must_use]
    pub fn take_file(&self) -> Option<OwnedFd> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The values in one piece, for users that map them into their memory (`BPF_F_MMAPABLE`, skeletons): the address of
    /// element 0 and the length in bytes. Programs may write them at any time.
    #[must_use]
    pub fn values(&self) -> (*mut u8, usize) {
        (self.values.start(), self.layout.stride * self.max_entries as usize)
    }

    #[inline]
    fn value(&self, index: u32) -> Option<*mut u8> {
        (index < self.max_entries).then(|| self.values.start().wrapping_add(index as usize * self.layout.stride))
    }

    /// # Safety
    /// `value` is readable for the value's size.
    unsafe fn store(&self, index: u32, value: *const u8, flags: u64) -> Result<(), Errno> {
        check_flags(flags)?;
        let slot = self.value(index).ok_or(Errno::E2BIG)?;
        if flags & BPF_NOEXIST != 0 {
            return Err(Errno::EEXIST);
        }
        if flags & BPF_F_LOCK != 0 {
            if !self.layout.has_lock() {
                return Err(Errno::EINVAL);
            }
            // SAFETY: `slot` is a value of this map; `value` is readable (caller).
            let copy = || unsafe { self.layout.copy_in(slot, value) };
            // SAFETY: `slot` is a value of this map.
            unsafe { self.layout.locked(slot, copy) };
        } else {
            // SAFETY: `slot` is a value of this map; `value` is readable (caller).
            unsafe { self.layout.copy_in(slot, value) };
        }
        self.release(slot);
        Ok(())
    }

    /// Drops the objects that a value owns.
    #[inline]
    fn release(&self, slot: *mut u8) {
        if let Some(owned) = &self.owned {
            // SAFETY: a value of this map, and its lock is held.
            let release = || unsafe { owned.release(slot) };
            // SAFETY: as above.
            unsafe { self.layout.locked(slot, release) };
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.owned.is_some() {
            (0..self.max_entries).filter_map(|index| self.value(index)).for_each(|slot| self.release(slot));
        }
    }
}

/// The flags of an update of an array element.
pub(super) fn check_flags(flags: u64) -> Result<(), Errno> {
    if flags & !BPF_F_LOCK > BPF_EXIST { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The checks that all arrays share (`array_map_alloc_check`).
pub(super) fn check_array(spec: &MapSpec, known: u32) -> Result<(), Errno> {
    if spec.max_entries == 0 || spec.key_size != 4 || spec.value_size == 0 {
        return Err(Errno::EINVAL);
    }
    spec.check_flags(known)?;
    if spec.value_size > i32::MAX.cast_unsigned() { Err(Errno::E2BIG) } else { Ok(()) }
}

/// The key after `key` in a map whose keys are 0 to `max_entries - 1`.
pub(super) fn next_index(key: Option<&[u8]>, out: &mut [u8], max_entries: u32) -> Result<(), Errno> {
    let next = match key.map(index_of) {
        Some(index) if index < max_entries => index + 1,
        _ => 0,
    };
    if next == max_entries {
        return Err(Errno::ENOENT);
    }
    out.copy_from_slice(&next.to_ne_bytes());
    Ok(())
}

/// A key of four bytes; the handle has checked the length.
pub(super) fn index_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(u32::MAX, |bytes| u32::from_ne_bytes(*bytes))
}

/// A key of four bytes in a program's memory.
///
/// # Safety
/// `key` is readable for four bytes.
#[inline]
pub(super) unsafe fn index_at(key: *const u8) -> u32 {
    // SAFETY: the caller's duty, passed on.
    unsafe { key.cast::<u32>().read_unaligned() }
}

// SAFETY: the region lives as long as the map.
unsafe impl MapOps for Array {
    fn data(&self) -> u64 {
        self.values.start().expose_provenance() as u64
    }

    fn access(&self) -> MapAccessInfo {
        match u32::try_from(self.layout.stride) {
            Ok(stride) => MapAccessInfo::Array { values: self.data(), stride, max_entries: self.max_entries },
            Err(_) => MapAccessInfo::Opaque,
        }
    }

    #[inline]
    unsafe fn lookup(&self, key: *const u8, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        self.value(index).unwrap_or(std::ptr::null_mut())
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64, _: Vcpu<'_>) -> Result<(), Errno> {
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        // SAFETY: the value is readable (caller).
        unsafe { self.store(index, value, flags) }
    }

    unsafe fn delete(&self, _: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn for_each(&self, _: Vcpu<'_>, visit: &mut dyn FnMut(*mut u8, *mut u8) -> bool) -> Result<u64, Errno> {
        let mut calls = 0;
        for mut index in 0..self.max_entries {
            let Some(value) = self.value(index) else { break };
            calls += 1;
            if visit((&raw mut index).cast(), value) {
                break;
            }
        }
        Ok(calls)
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        let value = self.value(index_of(key)).ok_or(Errno::ENOENT)?;
        let mut copy = || {
            // SAFETY: `value` is a value of this map and `out` has its size (handle).
            unsafe { self.layout.copy_out(out.as_mut_ptr(), value) };
        };
        if flags & BPF_F_LOCK != 0 {
            // SAFETY: `value` is a value of this map.
            unsafe { self.layout.locked(value, copy) };
        } else {
            copy();
        }
        Ok(())
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: the value has the value's size (handle).
        unsafe { self.store(index_of(key), value.as_ptr(), flags) }
    }

    fn user_delete(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        next_index(key, out, self.max_entries)
    }

    fn batch_support(&self) -> BatchSupport {
        BatchSupport { lookup: true, update: true, ..BatchSupport::default() }
    }

    fn memory(&self) -> u64 {
        self.bytes
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        let offset = self.values.offset_of(addr, len)?;
        let stride = self.layout.stride as u64;
        let inside = offset / stride < u64::from(self.max_entries) && offset % stride + len <= self.layout.size as u64;
        inside.then_some(self.access)
    }
}

impl MapKind for Array {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        check_array(spec, ACCESS_FLAGS | BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_INNER_MAP)
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<Array, Errno> {
        let layout = ValueLayout::new(spec.value_size, &spec.record);
        let bytes = (layout.stride as u64).checked_mul(u64::from(spec.max_entries)).ok_or(Errno::ENOMEM)?;
        let (values, file) = if spec.shared && info.is_mmapable() {
            let (values, file) = Region::shared(bytes, &format!("skep-map:{}", spec.name))?;
            (values, Some(file))
        } else {
            (Region::committed(bytes)?, None)
        };
        let owned = Owned::new(spec.record.owning(), cpus);
        if owned.is_some() && info.is_mmapable() {
            // Whoever maps the values could write addresses into them.
            return Err(Errno::EINVAL);
        }
        let page = PAGE as u64;
        let bytes = size_of::<Self>() as u64 + if info.is_mmapable() { bytes.next_multiple_of(page) } else { bytes };
        Ok(Array {
            values,
            owned,
            layout,
            max_entries: spec.max_entries,
            access: Access::of(info),
            bytes,
            file: Mutex::new(file),
        })
    }
}
