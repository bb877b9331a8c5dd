//! `BPF_MAP_TYPE_PERF_EVENT_ARRAY`: a ring of samples for each vCPU.
//!
//! A user makes a [`PerfRing`] for a vCPU and puts it into a slot, as perf events are opened for a CPU and put into the
//! map. Invariant: a ring is written by runs on its vCPU only, of which there is one at a time, and read by one consumer;
//! so neither takes a lock against the other. A sample that does not fit is counted, and the count precedes the next
//! one that fits. Kernel counterpart: `perf_event_array_map_ops`, `bpf_perf_event_output` (kernel/trace/bpf_trace.c, 6.18).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_NUMA_NODE, BPF_F_PRESERVE_ELEMS, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
use skep_abi::update_flags::BPF_ANY;
use skep_sync::CpuSet;

use super::array::{check_array, index_of, next_index};
use super::ops::{MapKind, MapOps, Slot, Vcpu};
use super::region::Region;
use super::spec::{ACCESS_FLAGS, MapInfo, MapSpec};
use super::value::copy;

/// In the index of `bpf_perf_event_output`: this CPU's slot.
pub const BPF_F_CURRENT_CPU: u64 = 0xffff_ffff;
/// The part of the flags that is the index.
const INDEX_MASK: u64 = 0xffff_ffff;
/// Other flags that `bpf_perf_event_output` may have: the length of packet data to append.
const CTX_LEN_MASK: u64 = 0xf_ffff << 32;
/// The longest sample, as perf's 16-bit record size has it.
const SAMPLE_MAX: usize = u16::MAX as usize - 24;

/// A perf event array map.
pub struct PerfEventArray {
    slots: Region,
    max_entries: u32,
    rings: Mutex<BTreeMap<u32, Arc<PerfRing>>>,
    cpus: CpuSet,
}

/// A ring of samples that runs on one vCPU write.
pub struct PerfRing {
    id: u32,
    cpu: u32,
    data: Region,
    size: u64,
    head: AtomicU64,
    tail: AtomicU64,
    lost: AtomicU64,
    reader: Mutex<u64>,
    /// Written at the first sample after the reader found nothing, once somebody asked for it.
    event: OnceLock<OwnedFd>,
    /// The reader found nothing since.
    armed: AtomicBool,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PerfRecord {
    /// A sample's raw data, padded as perf pads it.
    Sample(Vec<u8>),
    /// This many samples were lost.
    Lost(u64),
}

impl PerfRing {
    /// A ring of `size` bytes for samples of a vCPU; `size` is a power of two of at least 64.
    ///
    /// # Errors
    /// `EINVAL` for another size, `ENOMEM`.
    pub fn new(cpu: u32, size: usize) -> Result<Arc<PerfRing>, Errno> {
        static NEXT_ID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        if !size.is_power_of_two() || size < 64 {
            return Err(Errno::EINVAL);
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(PerfRing {
            id,
            cpu,
            data: Region::committed(size as u64)?,
            size: size as u64,
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            reader: Mutex::new(0),
            event: OnceLock::new(),
            armed: AtomicBool::new(true),
        }))
    }

    /// The vCPU whose runs write it.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    fn transfer(&self, position: u64, len: usize, mut piece: impl FnMut(*mut u8, usize, usize)) {
        #[expect(clippy::cast_possible_truncation, reason = "below the size, which is a usize")]
        let (at, size) = ((position & (self.size - 1)) as usize, self.size as usize);
        let first = len.min(size - at);
        piece(self.data.start().wrapping_add(at), 0, first);
        if first < len {
            piece(self.data.start(), first, len - first);
        }
    }

    /// Appends a sample that consists of two parts.
    ///
    /// # Safety
    /// The caller is in a run on the ring's vCPU, and both parts are readable.
    unsafe fn write(&self, parts: [(*const u8, usize); 2]) -> Result<(), Errno> {
        let len = parts[0].1 + parts[1].1;
        if len > SAMPLE_MAX {
            return Err(Errno::E2BIG);
        }
        // A sample's size word and data together are a multiple of 8, and so its data is padded.
        let padded = (len + 4).next_multiple_of(8) - 4;
        let total = (padded + 4) as u64;
        let head = self.head.load(Ordering::Relaxed);
        if head + total - self.tail.load(Ordering::Acquire) > self.size {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        let size = u32::try_from(padded).map_err(|_| Errno::E2BIG)?.to_ne_bytes();
        let zeroes = [0_u8; 8];
        let mut at = head;
        for (part, len) in [(size.as_ptr(), 4), parts[0], parts[1], (zeroes.as_ptr(), padded - len)] {
            self.transfer(at, len, |target, from, len| {
                // SAFETY: inside the ring, beyond what the reader may read; the part is readable (caller).
                unsafe { copy(target, part.wrapping_add(from), len) };
            });
            at += len as u64;
        }
        self.head.store(head + total, Ordering::Release);
        if let Some(event) = self.event.get() {
            // Either this sees that the reader found nothing, or the reader sees the sample.
            fence(Ordering::SeqCst);
            if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::Relaxed) {
                // A full counter is readable, which is all that matters.
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
            }
        }
        Ok(())
    }

    /// A descriptor for `poll` and `epoll`, readable from the first sample after [`PerfRing::drained`] to the next such call.
    /// Ask for it before the ring is put into a map.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn event(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.event.get().is_none() {
            let fresh = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| Errno(error.raw_os_error()))?;
            // Another thread may have been faster; then its event is the one.
            let _ = self.event.set(fresh);
        }
        self.event.get().map(AsFd::as_fd).ok_or(Errno::ENOMEM)
    }

    /// Whether nothing is to be read. If so, the next sample makes the event readable.
    #[must_use]
    pub fn drained(&self) -> bool {
        if let Some(event) = self.event.get() {
            // An error is that it was not readable.
            let _ = rustix::io::read(event, &mut [0_u8; 8]);
        }
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.tail.load(Ordering::Relaxed) == self.head.load(Ordering::Acquire)
    }

    /// The next record, if there is one.
    pub fn read(&self) -> Option<PerfRecord> {
        let mut lost_seen = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > *lost_seen {
            let count = lost - *lost_seen;
            *lost_seen = lost;
            return Some(PerfRecord::Lost(count));
        }
        let tail = self.tail.load(Ordering::Relaxed);
        if tail == self.head.load(Ordering::Acquire) {
            return None;
        }
        let fetch = |position: u64, out: &mut [u8]| {
            let target = out.as_mut_ptr();
            self.transfer(position, out.len(), |source, from, len| {
                // SAFETY: between tail and head, which the writer leaves alone; the buffer has the length.
                unsafe { copy(target.wrapping_add(from), source, len) };
            });
        };
        let mut size = [0; 4];
        fetch(tail, &mut size);
        let mut sample = vec![0; u32::from_ne_bytes(size) as usize];
        fetch(tail + 4, &mut sample);
        self.tail.store(tail + 4 + sample.len() as u64, Ordering::Release);
        Some(PerfRecord::Sample(sample))
    }
}

impl PerfEventArray {
    fn rings(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<PerfRing>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, index: u32) -> Option<&AtomicPtr<PerfRing>> {
        let slot = self.slots.start().cast::<*mut PerfRing>().wrapping_add(index as usize);
        // SAFETY: the region has a word for each slot, and is accessed with atomics only.
        (index < self.max_entries).then(|| unsafe { AtomicPtr::from_ptr(slot) })
    }

    /// `bpf_perf_event_output`: a sample of `data` and what follows it (packet data), into the ring that `flags` name.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `E2BIG` for an index out of range, `ENOENT` for an empty slot, `EOPNOTSUPP` for the
    /// ring of another vCPU, `ENOSPC` for a full ring.
    ///
    /// # Safety
    /// Both parts are readable.
    pub unsafe fn output(
        &self,
        flags: u64,
        data: (*const u8, usize),
        then: (*const u8, usize),
        cpu: Vcpu<'_>,
    ) -> Result<(), Errno> {
        if flags & !(INDEX_MASK | CTX_LEN_MASK) != 0 {
            return Err(Errno::EINVAL);
        }
        let index = match flags & INDEX_MASK {
            BPF_F_CURRENT_CPU => cpu.id(),
            index => u32::try_from(index).map_err(|_| Errno::E2BIG)?,
        };
        let ring = self.slot(index).ok_or(Errno::E2BIG)?.load(Ordering::Acquire);
        // SAFETY: a published ring lives until a grace period after it was replaced, and the caller is in a run.
        let ring = unsafe { ring.as_ref() }.ok_or(Errno::ENOENT)?;
        if ring.cpu != cpu.id() {
            return Err(Errno::ENOTSUP);
        }
        // SAFETY: the run is on the ring's vCPU; the caller's duty.
        unsafe { ring.write([data, then]) }
    }

    fn set(&self, index: u32, ring: Option<Arc<PerfRing>>) -> Result<bool, Errno> {
        let slot = self.slot(index).ok_or(Errno::E2BIG)?;
        let mut rings = self.rings();
        let published = ring.as_ref().map_or(std::ptr::null_mut(), |ring| Arc::as_ptr(ring).cast_mut());
        slot.store(published, Ordering::Release);
        let old = match ring {
            Some(ring) => rings.insert(index, ring),
            None => rings.remove(&index),
        };
        let was_there = old.is_some();
        if let Some(old) = old {
            self.cpus.defer(Box::new(move || drop(old)));
        }
        Ok(was_there)
    }
}

// SAFETY: no addresses of values are given out.
unsafe impl MapOps for PerfEventArray {
    fn user_update(&self, key: &[u8], _: &[u8], flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        // A number names no ring here: the caller resolves descriptors.
        if index_of(key) >= self.max_entries { Err(Errno::E2BIG) } else { Err(Errno::EBADF) }
    }

    fn user_update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        let Slot::PerfRing(ring) = value else { return Err(Errno::EINVAL) };
        self.set(index_of(key), Some(ring)).map(drop)
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        if self.set(index_of(key), None)? { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        next_index(key, out, self.max_entries)
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + u64::from(self.max_entries) * 8
    }
}

impl MapKind for PerfEventArray {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.value_size != 4 || spec.has(BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) {
            return Err(Errno::EINVAL);
        }
        check_array(spec, ACCESS_FLAGS | BPF_F_NUMA_NODE | BPF_F_PRESERVE_ELEMS)
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, cpus: &CpuSet) -> Result<PerfEventArray, Errno> {
        let slots = Region::committed(u64::from(spec.max_entries) * 8)?;
        let rings = Mutex::new(BTreeMap::new());
        Ok(PerfEventArray { slots, max_entries: spec.max_entries, rings, cpus: cpus.clone() })
    }
}

impl std::fmt::Debug for PerfRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfRing").field("id", &self.id).field("cpu", &self.cpu).finish_non_exhaustive()
    }
}
