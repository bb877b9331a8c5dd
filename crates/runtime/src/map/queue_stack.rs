//! `BPF_MAP_TYPE_QUEUE` and `BPF_MAP_TYPE_STACK`: values without keys.
//!
//! A ring of one element more than the map holds, under one lock, as in the kernel: every operation changes the ends.
//! Invariant: `head` is where the next value goes, `tail` the oldest; equal means empty.
//! Kernel counterpart: kernel/bpf/queue_stack_maps.c (6.18).

use std::sync::atomic::{AtomicU32, Ordering};

use skep_abi::Errno;
use skep_abi::map_flags::BPF_F_NUMA_NODE;
use skep_abi::update_flags::{BPF_EXIST, BPF_NOEXIST};
use skep_sync::CpuSet;

use super::lock::Lock;
use super::ops::{MapKind, MapOps, Vcpu};
use super::region::Region;
use super::spec::{ACCESS_FLAGS, KMALLOC_MAX, MapInfo, MapSpec};
use super::value::{ValueLayout, zero};

/// A queue, or with `STACK` a stack.
pub struct QueueStack<const STACK: bool> {
    values: Region,
    layout: ValueLayout,
    size: u32,
    lock: Lock,
    // Changed under the lock only; atomics so that they can be.
    head: AtomicU32,
    tail: AtomicU32,
}

impl<const STACK: bool> QueueStack<STACK> {
    fn slot(&self, at: u32) -> *mut u8 {
        self.values.start().wrapping_add(at as usize * self.layout.stride)
    }

    fn after(&self, at: u32) -> u32 {
        if at + 1 == self.size { 0 } else { at + 1 }
    }

    fn before(&self, at: u32) -> u32 {
        at.checked_sub(1).unwrap_or(self.size - 1)
    }

    /// # Safety
    /// `value` is writable for the value's size.
    unsafe fn read(&self, value: *mut u8, remove: bool) -> Result<(), Errno> {
        let _held = self.lock.acquire();
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        if head == tail {
            // SAFETY: the caller's duty.
            unsafe { zero(value, self.layout.size) };
            return Err(Errno::ENOENT);
        }
        let at = if STACK { self.before(head) } else { tail };
        // SAFETY: a value of this map, and a writable one (caller).
        unsafe { self.layout.copy_out(value, self.slot(at)) };
        if remove && STACK {
            self.head.store(at, Ordering::Relaxed);
        } else if remove {
            self.tail.store(self.after(at), Ordering::Relaxed);
        }
        Ok(())
    }
}

// SAFETY: no addresses of values are given out.
unsafe impl<const STACK: bool> MapOps for QueueStack<STACK> {
    unsafe fn update(&self, _: *const u8, _: *const u8, _: u64, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn delete(&self, _: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        // BPF_EXIST makes room by dropping the oldest value.
        if flags & BPF_NOEXIST != 0 || flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let _held = self.lock.acquire();
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        let next = self.after(head);
        if next == tail {
            if flags & BPF_EXIST == 0 {
                return Err(Errno::E2BIG);
            }
            self.tail.store(self.after(tail), Ordering::Relaxed);
        }
        // SAFETY: a value of this map, and a readable one (caller).
        unsafe { self.layout.copy_in(self.slot(head), value) };
        self.head.store(next, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.read(value, true) }
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.read(value, false) }
    }

    fn user_lookup(&self, _: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        // SAFETY: a buffer of the value's size (handle).
        unsafe { self.read(out.as_mut_ptr(), false) }
    }

    fn user_update(&self, _: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: a value of the size (handle).
        unsafe { self.push(value.as_ptr(), flags) }
    }

    fn user_delete(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn user_next_key(&self, _: Option<&[u8]>, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn user_lookup_and_delete(&self, _: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        // SAFETY: a buffer of the value's size (handle).
        unsafe { self.read(out.as_mut_ptr(), true) }
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + self.layout.stride as u64 * u64::from(self.size)
    }
}

impl<const STACK: bool> MapKind for QueueStack<STACK> {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.max_entries == 0 || spec.value_size == 0 || spec.key_size != 0 {
            return Err(Errno::EINVAL);
        }
        spec.check_flags(BPF_F_NUMA_NODE | ACCESS_FLAGS)?;
        if u64::from(spec.value_size) > KMALLOC_MAX { Err(Errno::E2BIG) } else { Ok(()) }
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, _: &CpuSet) -> Result<Self, Errno> {
        let layout = ValueLayout::new(spec.value_size, &spec.record);
        let size = spec.max_entries.checked_add(1).ok_or(Errno::ENOMEM)?;
        let bytes = u64::from(size).checked_mul(layout.stride as u64).ok_or(Errno::ENOMEM)?;
        let values = Region::committed(bytes)?;
        let (head, tail) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(QueueStack { values, layout, size, lock: Lock::default(), head, tail })
    }
}
