//! Per-CPU values: the same run of elements in every vCPU's region.
//!
//! Invariant: element `i` is at `off + i * stride` of each region. A user's buffer holds the value of every vCPU in
//! order, each `round_up(value_size, 8)` bytes; with `BPF_F_CPU` or `BPF_F_ALL_CPUS` one value of `value_size` bytes.
//! Kernel counterpart: `bpf_percpu_array_copy`, `pcpu_copy_value` (kernel/bpf, 7.0).

use skep_abi::Errno;
use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU};
use skep_sync::{CpuId, CpuSet, PerCpuOff};

use super::value::{ValueLayout, copy, zero};

/// The flags of a user's update that say whether the key must be there. One value for all CPUs takes none of them, and for
/// one CPU's value they are not heeded: the kernel compares the flags as a whole.
pub(crate) fn plain_flags(flags: u64) -> Result<u64, Errno> {
    let low = flags & u64::from(u32::MAX);
    if low & BPF_F_ALL_CPUS != 0 {
        return if low == BPF_F_ALL_CPUS { Ok(0) } else { Err(Errno::EINVAL) };
    }
    Ok(if low & BPF_F_CPU != 0 { 0 } else { low })
}

/// Elements in per-CPU memory.
pub(crate) struct PerCpuValues {
    cpus: CpuSet,
    off: PerCpuOff,
    layout: ValueLayout,
    count: u32,
}

impl PerCpuValues {
    /// `count` zeroed elements on every vCPU.
    pub(crate) fn new(layout: ValueLayout, count: u32, cpus: &CpuSet) -> Result<PerCpuValues, Errno> {
        let bytes = layout.stride.checked_mul(count as usize).ok_or(Errno::ENOMEM)?;
        // A value of a cache line's size or more starts at one.
        let align = if layout.stride.is_multiple_of(64) { 64 } else { 8 };
        let off = cpus.percpu_alloc(bytes, align).map_err(|_| Errno::ENOMEM)?;
        Ok(PerCpuValues { cpus: cpus.clone(), off, layout, count })
    }

    /// The size, the stride and the special fields.
    pub(crate) fn layout(&self) -> &ValueLayout {
        &self.layout
    }

    /// Where element `index` is in each region.
    #[inline]
    pub(crate) fn offset(&self, index: u32) -> PerCpuOff {
        debug_assert!(index < self.count, "an element of the map");
        PerCpuOff(self.off.0 + u64::from(index) * self.layout.stride as u64)
    }

    /// The address of an element's value on one vCPU, if there is such a vCPU.
    pub(crate) fn on(&self, cpu: u32, offset: PerCpuOff) -> Option<*mut u8> {
        ((cpu as usize) < self.cpus.n_possible()).then(|| self.cpus.at(CpuId(cpu), offset).as_ptr())
    }

    /// The values of all vCPUs, or of the one that `flags` name.
    pub(crate) fn read(&self, offset: PerCpuOff, out: &mut [u8], flags: u64) {
        let one = |cpu: CpuId, out: &mut [u8]| {
            let len = out.len().min(self.layout.size);
            let value = self.cpus.at(cpu, offset).as_ptr();
            // SAFETY: the element's value on that vCPU, at most its size.
            unsafe { copy(out.as_mut_ptr(), value, len) };
            out[len..].fill(0);
        };
        match cpu_of(flags) {
            Some(cpu) => one(cpu, out),
            None => self.cpus.cpus().zip(out.chunks_mut(self.layout.stride)).for_each(|(cpu, out)| one(cpu, out)),
        }
    }

    /// Sets the values of all vCPUs, each its own or all alike, or of the one that `flags` name.
    pub(crate) fn write(&self, offset: PerCpuOff, value: &[u8], flags: u64) {
        let one = |cpu: CpuId, value: &[u8]| {
            if value.len() >= self.layout.size {
                // SAFETY: the element's value on that vCPU, and a value of the size.
                unsafe { self.layout.copy_in(self.cpus.at(cpu, offset).as_ptr(), value.as_ptr()) };
            }
        };
        if let Some(cpu) = cpu_of(flags) {
            one(cpu, value);
        } else if flags & BPF_F_ALL_CPUS != 0 {
            self.cpus.cpus().for_each(|cpu| one(cpu, value));
        } else {
            self.cpus.cpus().zip(value.chunks(self.layout.stride)).for_each(|(cpu, value)| one(cpu, value));
        }
    }

    /// Makes the values of all vCPUs zero.
    pub(crate) fn clear(&self, offset: PerCpuOff) {
        for cpu in self.cpus.cpus() {
            // SAFETY: the element's value on that vCPU.
            unsafe { zero(self.cpus.at(cpu, offset).as_ptr(), self.layout.size) };
        }
    }

    /// Whether `len` bytes at `addr` are inside one value of one vCPU.
    pub(crate) fn contains(&self, addr: u64, len: u64) -> bool {
        let stride = self.layout.stride as u64;
        let total = stride * u64::from(self.count);
        self.cpus.cpus().any(|cpu| {
            let start = self.cpus.at(cpu, self.off).addr().get() as u64;
            let Some(offset) = addr.checked_sub(start) else { return false };
            offset < total && (offset % stride).checked_add(len).is_some_and(|end| end <= self.layout.size as u64)
        })
    }

    /// Bytes of a user's buffer with the values of all vCPUs.
    pub(crate) fn user_size(&self) -> usize {
        self.layout.stride * self.cpus.n_possible()
    }

    /// Bytes on all vCPUs together.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.stride as u64 * u64::from(self.count) * self.cpus.n_possible() as u64
    }
}

impl Drop for PerCpuValues {
    fn drop(&mut self) {
        self.cpus.percpu_free(self.off);
    }
}

/// The CPU that the flags name.
fn cpu_of(flags: u64) -> Option<CpuId> {
    (flags & BPF_F_CPU != 0).then_some(CpuId((flags >> 32) as u32))
}
