//! `BPF_MAP_TYPE_BLOOM_FILTER`: a set that may say yes wrongly, never no.
//!
//! Invariant: a bit that was set stays set, so push and peek need no lock.
//! Kernel counterpart: kernel/bpf/bloom_filter.c (6.18), whose size and number of hash functions this has; the
//! functions themselves are seeded, so that which values collide differs from map to map there and here.

use std::sync::atomic::{AtomicU64, Ordering};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_NUMA_NODE, BPF_F_ZERO_SEED};
use skep_abi::update_flags::BPF_ANY;
use skep_sync::CpuSet;

use super::hash::{Seed, hash_value};
use super::ops::{MapKind, MapOps, Vcpu};
use super::region::Region;
use super::spec::{ACCESS_FLAGS, KMALLOC_MAX, MapInfo, MapSpec};

/// A Bloom filter map.
pub struct BloomFilter {
    bits: Region,
    mask: u32,
    n_hashes: u32,
    seed: Seed,
    value_size: usize,
}

impl BloomFilter {
    /// The word and the bit in it of each hash function.
    ///
    /// # Safety
    /// `value` is readable for the value's size.
    unsafe fn places(&self, value: *const u8) -> impl Iterator<Item = (&AtomicU64, u64)> {
        // SAFETY: the caller's duty, passed on.
        let (first, step) = unsafe { hash_value(value, self.value_size, &self.seed) };
        (0..self.n_hashes).map(move |n| {
            let bit = first.wrapping_add(n.wrapping_mul(step)) & self.mask;
            let word = self.bits.start().cast::<u64>().wrapping_add(bit as usize / 64);
            // SAFETY: the region has a bit for each value of the mask; it is accessed with atomics only.
            (unsafe { AtomicU64::from_ptr(word) }, 1 << (bit % 64))
        })
    }
}

// SAFETY: no addresses of values are given out.
unsafe impl MapOps for BloomFilter {
    unsafe fn update(&self, _: *const u8, _: *const u8, _: u64, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn delete(&self, _: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        for (word, bit) in unsafe { self.places(value) } {
            // A look first: values that are there already write nothing that others share.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    unsafe fn pop(&self, _: *mut u8) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        let mut places = unsafe { self.places(value) };
        if places.all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0) { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn user_update(&self, _: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: a value of the size (handle).
        unsafe { self.push(value.as_ptr(), flags) }
    }

    fn user_delete(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn user_next_key(&self, _: Option<&[u8]>, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + self.bits.len() as u64
    }
}

impl MapKind for BloomFilter {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if u64::from(spec.value_size) > KMALLOC_MAX {
            return Err(Errno::E2BIG);
        }
        if spec.key_size != 0 || spec.value_size == 0 || spec.max_entries == 0 || spec.map_extra > 15 {
            return Err(Errno::EINVAL);
        }
        spec.check_flags(BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | ACCESS_FLAGS)
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, _: &CpuSet) -> Result<BloomFilter, Errno> {
        let n_hashes = match u32::try_from(spec.map_extra).unwrap_or(0) {
            0 => 5,
            asked => asked,
        };
        // The optimal number of bits is n * k / ln 2; 7/5 is close enough to 1 / ln 2.
        let wanted = u64::from(spec.max_entries) * u64::from(n_hashes) / 5 * 7;
        let bits = wanted.max(64).checked_next_power_of_two().filter(|&bits| bits <= 1 << 31).unwrap_or(1 << 32);
        let mask = u32::try_from(bits - 1).unwrap_or(u32::MAX);
        let seed = if spec.has(BPF_F_ZERO_SEED) { Seed::zero() } else { Seed::random() };
        let bits = Region::committed(bits / 8)?;
        Ok(BloomFilter { bits, mask, n_hashes, seed, value_size: spec.value_size as usize })
    }
}
