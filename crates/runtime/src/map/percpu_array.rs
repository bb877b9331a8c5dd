//! `BPF_MAP_TYPE_PERCPU_ARRAY`: an array of which each vCPU has its own values.
//!
//! Invariant: element `i` of a vCPU is at its base plus `off + i * stride`: one addition reaches it, and two vCPUs never
//! share a line. A vCPU has one user at a time, so that a program's plain `x++` loses nothing. The user side
//! reads and writes all values (or, with `BPF_F_CPU` and `BPF_F_ALL_CPUS`, one of them or all alike) word by word: it
//! sees whole 8-byte words, not a snapshot. `.percpu` sections are such maps with one element.
//! Kernel counterpart: `percpu_array_map_ops` (kernel/bpf/arraymap.c, 6.18; the CPU flags are 7.0's).

use skep_abi::Errno;
use skep_abi::map_flags::BPF_F_NUMA_NODE;
use skep_abi::update_flags::{BPF_F_LOCK, BPF_NOEXIST};
use skep_sync::{CpuSet, PerCpuOff};

use super::array::{check_array, check_flags, index_at, index_of, next_index};
use super::ops::{Access, BatchSupport, MapAccessInfo, MapKind, MapOps, Vcpu};
use super::percpu::PerCpuValues;
use super::spec::{ACCESS_FLAGS, MapInfo, MapSpec, PERCPU_VALUE_MAX};
use super::value::ValueLayout;

/// A per-CPU array map.
pub struct PerCpuArray {
    values: PerCpuValues,
    max_entries: u32,
    access: Access,
}

impl PerCpuArray {
    /// Where element `index` is in each vCPU's region.
    #[must_use]
    pub fn offset(&self, index: u32) -> Option<PerCpuOff> {
        (index < self.max_entries).then(|| self.values.offset(index))
    }
}

// SAFETY: the per-CPU memory is freed after the map, and a grace period later.
unsafe impl MapOps for PerCpuArray {
    fn data(&self) -> u64 {
        self.values.offset(0).0
    }

    fn access(&self) -> MapAccessInfo {
        match u32::try_from(self.values.layout().stride) {
            Ok(stride) => MapAccessInfo::PerCpuArray { off: self.data(), stride, max_entries: self.max_entries },
            Err(_) => MapAccessInfo::Opaque,
        }
    }

    #[inline]
    unsafe fn lookup(&self, key: *const u8, cpu: Vcpu<'_>) -> *mut u8 {
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        self.offset(index).map_or(std::ptr::null_mut(), |offset| cpu.at(offset))
    }

    unsafe fn lookup_percpu(&self, key: *const u8, of: u32, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        self.offset(index).and_then(|offset| self.values.on(of, offset)).unwrap_or(std::ptr::null_mut())
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64, cpu: Vcpu<'_>) -> Result<(), Errno> {
        // The kernel knows no per-CPU value with a lock, and so no BPF_F_LOCK here.
        if flags & BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        check_flags(flags)?;
        // SAFETY: a key of four bytes (caller).
        let index = unsafe { index_at(key) };
        let offset = self.offset(index).ok_or(Errno::E2BIG)?;
        if flags & BPF_NOEXIST != 0 {
            return Err(Errno::EEXIST);
        }
        // SAFETY: this vCPU's value of the element, and a readable value (caller).
        unsafe { self.values.layout().copy_in(cpu.at(offset), value) };
        Ok(())
    }

    unsafe fn delete(&self, _: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn for_each(&self, cpu: Vcpu<'_>, visit: &mut dyn FnMut(*mut u8, *mut u8) -> bool) -> Result<u64, Errno> {
        let mut calls = 0;
        for mut index in 0..self.max_entries {
            calls += 1;
            if visit((&raw mut index).cast(), cpu.at(self.values.offset(index))) {
                break;
            }
        }
        Ok(calls)
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        let offset = self.offset(index_of(key)).ok_or(Errno::ENOENT)?;
        self.values.read(offset, out, flags);
        Ok(())
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let plain = super::percpu::plain_flags(flags)?;
        check_flags(plain)?;
        let offset = self.offset(index_of(key)).ok_or(Errno::E2BIG)?;
        if plain & BPF_NOEXIST != 0 {
            return Err(Errno::EEXIST);
        }
        self.values.write(offset, value, flags);
        Ok(())
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
        size_of::<Self>() as u64 + self.values.bytes() + u64::from(self.max_entries) * 8
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        self.values.contains(addr, len).then_some(self.access)
    }
}

impl MapKind for PerCpuArray {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        check_array(spec, ACCESS_FLAGS)?;
        if spec.has(BPF_F_NUMA_NODE) {
            return Err(Errno::EINVAL);
        }
        if spec.value_size.next_multiple_of(8) > PERCPU_VALUE_MAX { Err(Errno::E2BIG) } else { Ok(()) }
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<PerCpuArray, Errno> {
        let layout = ValueLayout::new(spec.value_size, &spec.record);
        let values = PerCpuValues::new(layout, spec.max_entries, cpus)?;
        Ok(PerCpuArray { values, max_entries: spec.max_entries, access: Access::of(info) })
    }
}
