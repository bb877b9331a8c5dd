//! `BPF_MAP_TYPE_RINGBUF`: records from programs to one consumer, in the order of reservation.
//!
//! The layout is the kernel's: a page with the consumer's position, a page with the producers', then the data, mapped
//! twice in a row so that a record is always in one piece. A record is an 8-byte header (length with a busy and a
//! discard bit, and how many pages the header is from the buffer's first page), then the data padded to 8. In front is
//! a page of this engine's own, where `submit`, which gets nothing but a record, finds lock and waiters.
//! Invariant: consumer position ≤ pending position ≤ producer position ≤ consumer position + size - 1; only the consumer
//! moves the first, and a record's data belongs to whoever reserved it while its busy bit is set.
//! Kernel counterpart: kernel/bpf/ringbuf.c (6.18; no overwrite mode, which came later).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::thread::futex;
use skep_abi::Errno;
use skep_abi::map_flags::BPF_F_NUMA_NODE;
use skep_sync::CpuSet;

use super::lock::Lock;
use super::ops::{Access, MapKind, MapOps};
use super::region::PAGE;
use super::spec::{MapInfo, MapSpec};
use super::value::copy;

/// Bytes before a record's data.
const HEADER: u64 = 8;
/// The record is reserved and not submitted yet.
const BUSY: u32 = 1 << 31;
/// The record is to be skipped.
const DISCARD: u32 = 1 << 30;
/// The longest record.
const RECORD_MAX: u64 = (u32::MAX / 4) as u64;
/// Pages before the data: ours, the consumer's, the producers'.
const HEAD_PAGES: usize = 3;

/// `flags` of submit, discard and output.
pub mod wakeup {
    /// Wake nobody.
    pub const BPF_RB_NO_WAKEUP: u64 = 1;
    /// Wake the consumer whatever it has read.
    pub const BPF_RB_FORCE_WAKEUP: u64 = 2;
}

/// A ring buffer map.
pub struct RingBuf {
    memory: Memory,
    consumer: Mutex<()>,
    /// Written at each wakeup, once somebody asked for it. It lives as long as the buffer, for who commits.
    event: OnceLock<OwnedFd>,
}

/// The mapping: head pages, then the data twice.
struct Memory {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: an address range; what is done through it is atomic or by the owner of a record.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

/// The first page.
#[repr(C)]
struct Control {
    mask: u64,
    lock: Lock,
    /// Goes up with each wakeup.
    wakeups: AtomicU32,
    sleepers: AtomicU32,
    /// The number of [`RingBuf::event`]; -1 without.
    event: AtomicI32,
    /// Records before this position are committed.
    pending: AtomicU64,
}

/// A buffer as programs and the consumer see it.
#[derive(Clone, Copy)]
struct Ring<'a> {
    control: &'a Control,
    consumer: &'a AtomicU64,
    producer: &'a AtomicU64,
    data: *mut u8,
}

impl Memory {
    fn new(size: usize) -> Result<Memory, Errno> {
        let head = HEAD_PAGES * PAGE;
        let total = size.checked_mul(2).and_then(|twice| twice.checked_add(head)).ok_or(Errno::ENOMEM)?;
        let file = memfd_create("skep-ringbuf", MemfdFlags::CLOEXEC).map_err(|_| Errno::ENOMEM)?;
        ftruncate(&file, (head + size) as u64).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        let start = start.ok().and_then(|start| NonNull::new(start.cast::<u8>())).ok_or(Errno::ENOMEM)?;
        let memory = Memory { start, size };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        for (at, len, offset) in [(0, head + size, 0), (head + size, size, head)] {
            let target = memory.start.as_ptr().wrapping_add(at);
            // SAFETY: the target is inside the range that was just reserved, which nobody else knows.
            let mapped = unsafe {
                mmap(target.cast(), len, protection, MapFlags::SHARED | MapFlags::FIXED, &file, offset as u64)
            };
            mapped.map_err(|_| Errno::ENOMEM)?;
        }
        let control = memory.start.cast::<Control>();
        let fresh = Control {
            mask: size as u64 - 1,
            lock: Lock::default(),
            wakeups: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            event: AtomicI32::new(-1),
            pending: AtomicU64::new(0),
        };
        // SAFETY: the first page, writable and not known to anybody yet.
        unsafe { control.write(fresh) };
        Ok(memory)
    }

    fn ring(&self) -> Ring<'_> {
        // SAFETY: a buffer was made at `start` and lives as long as `self`.
        unsafe { Ring::at(self.start.as_ptr()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the owner is gone, and with it everything that points into the mapping.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), HEAD_PAGES * PAGE + 2 * self.size) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

impl<'a> Ring<'a> {
    /// The buffer whose first page is at `start`.
    ///
    /// # Safety
    /// There is one, and it lives for `'a`.
    unsafe fn at(start: *mut u8) -> Ring<'a> {
        // SAFETY: the caller's duty; the page was written when the buffer was made.
        let control = unsafe { &*start.cast::<Control>() };
        // SAFETY: the second page begins with the consumer's position.
        let consumer = unsafe { AtomicU64::from_ptr(start.wrapping_add(PAGE).cast()) };
        // SAFETY: the third page begins with the producers' position.
        let producer = unsafe { AtomicU64::from_ptr(start.wrapping_add(2 * PAGE).cast()) };
        Ring { control, consumer, producer, data: start.wrapping_add(HEAD_PAGES * PAGE) }
    }

    /// The buffer that a record belongs to.
    ///
    /// # Safety
    /// `record` was returned by [`RingBuf::reserve`] and not submitted yet.
    unsafe fn of_record(record: *mut u8) -> (Ring<'a>, *mut u8) {
        let header = record.wrapping_sub(HEADER as usize);
        // SAFETY: the second word of a record's header.
        let pages = unsafe { AtomicU32::from_ptr(header.wrapping_add(4).cast()) }.load(Ordering::Relaxed);
        let page = header.map_addr(|addr| addr & !(PAGE - 1));
        // SAFETY: that many pages before the header's is the buffer's first one.
        (unsafe { Ring::at(page.wrapping_sub(pages as usize * PAGE)) }, header)
    }

    fn header(self, position: u64) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "below the size, which is a u32")]
        self.data.wrapping_add((position & self.control.mask) as usize)
    }

    fn length(self, position: u64) -> &'a AtomicU32 {
        // SAFETY: a position is 8-aligned, and headers lie inside the data.
        unsafe { AtomicU32::from_ptr(self.header(position).cast()) }
    }

    fn reserve(self, size: u64) -> *mut u8 {
        if size > RECORD_MAX {
            return std::ptr::null_mut();
        }
        let total = (size + HEADER).next_multiple_of(8);
        if total > self.control.mask + 1 {
            return std::ptr::null_mut();
        }
        let consumed = self.consumer.load(Ordering::Acquire);
        let _held = self.control.lock.acquire();
        let produced = self.producer.load(Ordering::Relaxed);
        let mut pending = self.control.pending.load(Ordering::Relaxed);
        while pending < produced {
            let length = self.length(pending).load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            pending += record_bytes(length);
        }
        self.control.pending.store(pending, Ordering::Relaxed);
        let next = produced + total;
        // A record that is not committed keeps its place, whatever the consumer's position says.
        if next.wrapping_sub(consumed) > self.control.mask || next - pending > self.control.mask {
            return std::ptr::null_mut();
        }
        let header = self.header(produced);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked against the longest record; pages of 6 GiB at most"
        )]
        let (length, pages) = (size as u32, ((header.addr() - self.first_page()) / PAGE) as u32);
        self.length(produced).store(length | BUSY, Ordering::Relaxed);
        // SAFETY: the second word of the header.
        unsafe { AtomicU32::from_ptr(header.wrapping_add(4).cast()) }.store(pages, Ordering::Relaxed);
        self.producer.store(next, Ordering::Release);
        header.wrapping_add(HEADER as usize)
    }

    fn first_page(self) -> usize {
        std::ptr::from_ref(self.control).addr()
    }

    fn commit(self, header: *mut u8, flags: u64, discard: bool) {
        // SAFETY: the first word of a record's header.
        let length = unsafe { AtomicU32::from_ptr(header.cast()) };
        let done = length.load(Ordering::Relaxed) & !BUSY | if discard { DISCARD } else { 0 };
        // Sequentially consistent, and so are the consumer's position and its look at this word: either it sees the
        // record, or it is seen to wait for it.
        length.swap(done, Ordering::SeqCst);
        let position = (header.addr() - self.data.addr()) as u64;
        let waited_for = self.consumer.load(Ordering::SeqCst) & self.control.mask == position;
        let wake = flags & wakeup::BPF_RB_FORCE_WAKEUP != 0 || waited_for && flags & wakeup::BPF_RB_NO_WAKEUP == 0;
        if wake {
            self.control.wakeups.fetch_add(1, Ordering::SeqCst);
            if self.control.sleepers.load(Ordering::SeqCst) != 0 {
                // Nobody to wake is no error.
                let _ = futex::wake(&self.control.wakeups, futex::Flags::PRIVATE, i32::MAX.cast_unsigned());
            }
            self.signal();
        }
    }

    /// Makes the event readable, if there is one.
    fn signal(self) {
        let event = self.control.event.load(Ordering::SeqCst);
        if event >= 0 {
            // SAFETY: the buffer owns the descriptor for as long as it lives, and whoever commits keeps the buffer.
            let event = unsafe { BorrowedFd::borrow_raw(event) };
            // A full counter is readable, which is all that matters.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// Whether the next record is committed.
    fn ready(self, position: u64) -> bool {
        position < self.producer.load(Ordering::SeqCst) && self.length(position).load(Ordering::SeqCst) & BUSY == 0
    }
}

fn record_bytes(length: u32) -> u64 {
    (u64::from(length & !(BUSY | DISCARD)) + HEADER).next_multiple_of(8)
}

/// What `bpf_ringbuf_query` can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// `BPF_RB_AVAIL_DATA`: bytes that are not consumed.
    Available,
    /// `BPF_RB_RING_SIZE`.
    Size,
    /// `BPF_RB_CONS_POS`.
    ConsumerPosition,
    /// `BPF_RB_PROD_POS`.
    ProducerPosition,
}

impl RingBuf {
    /// `bpf_ringbuf_reserve`: the data of a new record, or null. The program must submit or discard it.
    #[must_use]
    pub fn reserve(&self, size: u64, flags: u64) -> *mut u8 {
        if flags != 0 { std::ptr::null_mut() } else { self.memory.ring().reserve(size) }
    }

    /// `bpf_ringbuf_submit`, or with `discard` `bpf_ringbuf_discard`.
    ///
    /// # Safety
    /// `record` came from [`RingBuf::reserve`] of a live map, and was neither submitted nor discarded.
    pub unsafe fn commit(record: *mut u8, flags: u64, discard: bool) {
        // SAFETY: the caller's duty.
        let (ring, header) = unsafe { Ring::of_record(record) };
        ring.commit(header, flags, discard);
    }

    /// `bpf_ringbuf_output`.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `EAGAIN` for a full buffer.
    ///
    /// # Safety
    /// `data` is readable for `size` bytes.
    pub unsafe fn output(&self, data: *const u8, size: u64, flags: u64) -> Result<(), Errno> {
        if flags & !(wakeup::BPF_RB_NO_WAKEUP | wakeup::BPF_RB_FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        let record = self.memory.ring().reserve(size);
        if record.is_null() {
            return Err(Errno::EAGAIN);
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked against the longest record")]
        // SAFETY: the record is this call's; the data is readable (caller).
        unsafe {
            copy(record, data, size as usize);
        }
        // SAFETY: reserved above.
        unsafe { RingBuf::commit(record, flags, false) };
        Ok(())
    }

    /// `bpf_ringbuf_query`.
    #[must_use]
    pub fn query(&self, what: Query) -> u64 {
        let ring = self.memory.ring();
        let consumed = ring.consumer.load(Ordering::Acquire);
        let produced = ring.producer.load(Ordering::Acquire);
        match what {
            Query::Available => produced - consumed.min(produced),
            Query::Size => ring.control.mask + 1,
            Query::ConsumerPosition => consumed,
            Query::ProducerPosition => produced,
        }
    }

    /// Calls `record` with each record that is there, oldest first, until it returns `false`; how many it got. One
    /// consumer at a time: a second thread waits.
    pub fn consume(&self, mut record: impl FnMut(&[u8]) -> bool) -> usize {
        let mut bytes = Vec::new();
        self.consume_in_place(|data, len| {
            bytes.resize(len, 0);
            // SAFETY: a committed record that the consumer's position has not passed; the copy is the caller's.
            unsafe { copy(bytes.as_mut_ptr(), data, len) };
            record(&bytes)
        })
    }

    /// As [`RingBuf::consume`], without a copy: `record` gets the address and the length of each record. The memory is the
    /// consumer's, to read and to write, until `record` returns.
    pub fn consume_in_place(&self, mut record: impl FnMut(*mut u8, usize) -> bool) -> usize {
        let _alone = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.memory.ring();
        if let Some(event) = self.event.get() {
            // Whatever is committed from here on makes it readable again. An error is that it was not readable.
            let _ = rustix::io::read(event, &mut [0_u8; 8]);
        }
        let mut position = ring.consumer.load(Ordering::Relaxed);
        let mut count = 0;
        while position < ring.producer.load(Ordering::Acquire) {
            let length = ring.length(position).load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let mut go_on = true;
            if length & DISCARD == 0 {
                count += 1;
                go_on = record(ring.header(position).wrapping_add(HEADER as usize), length as usize);
            }
            position += record_bytes(length);
            ring.consumer.store(position, Ordering::SeqCst);
            if !go_on {
                break;
            }
        }
        if ring.ready(position) {
            ring.signal();
        }
        count
    }

    /// Whether the next record is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ring = self.memory.ring();
        ring.ready(ring.consumer.load(Ordering::SeqCst))
    }

    /// A descriptor for `poll` and `epoll`, readable from a wakeup to the next [`RingBuf::consume`], and after it if records
    /// are left. Records that were committed with `BPF_RB_NO_WAKEUP` do not make it readable.
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
        let event = self.event.get().ok_or(Errno::ENOMEM)?.as_fd();
        let ring = self.memory.ring();
        ring.control.event.store(event.as_raw_fd(), Ordering::SeqCst);
        if ring.ready(ring.consumer.load(Ordering::SeqCst)) {
            ring.signal();
        }
        Ok(event)
    }

    /// Waits until there is a record, at most for `timeout`; whether there is one.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let ring = self.memory.ring();
        let deadline = Instant::now().checked_add(timeout);
        ring.control.sleepers.fetch_add(1, Ordering::SeqCst);
        let ready = loop {
            let wakeups = ring.control.wakeups.load(Ordering::SeqCst);
            if ring.ready(ring.consumer.load(Ordering::SeqCst)) {
                break true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break false;
            }
            let left = left.and_then(|left| futex::Timespec::try_from(left).ok());
            // An error is a wakeup, a changed word or the end of the time: all mean to look again.
            let _ = futex::wait(&ring.control.wakeups, futex::Flags::PRIVATE, wakeups, left.as_ref());
        };
        ring.control.sleepers.fetch_sub(1, Ordering::SeqCst);
        ready
    }
}

// SAFETY: the mapping lives as long as the map.
unsafe impl MapOps for RingBuf {
    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + (HEAD_PAGES * PAGE + self.memory.size) as u64
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        let start = self.memory.ring().data.addr() as u64;
        let offset = addr.checked_sub(start)?;
        let inside = offset.checked_add(len)? <= 2 * self.memory.size as u64;
        inside.then_some(Access { read: true, write: true })
    }
}

impl MapKind for RingBuf {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        spec.check_flags(BPF_F_NUMA_NODE)?;
        let sizes = spec.key_size == 0 && spec.value_size == 0;
        let pages = spec.max_entries.is_power_of_two() && (spec.max_entries as usize).is_multiple_of(PAGE);
        if sizes && pages { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, _: &CpuSet) -> Result<RingBuf, Errno> {
        let memory = Memory::new(spec.max_entries as usize)?;
        Ok(RingBuf { memory, consumer: Mutex::new(()), event: OnceLock::new() })
    }
}
