//! `struct perf_buffer`: a consumer of a perf event array, one ring of samples for each virtual CPU.
//!
//! Owns the rings, which are in the map from open to free. Invariant: a sample is C's from the call of its callback to the
//! return. Counterpart: `perf_buffer__new`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use skep::RawMap;
use skep_abi::{Errno, MapType};
use skep_runtime::map::Slot;
use skep_runtime::map::perf_event_array::{PerfRecord, PerfRing};

use crate::boundary::{call, free, given, options, status};
use crate::handle::{self, errno, wait};

/// `perf_buffer_sample_fn`.
type SampleFn = unsafe extern "C" fn(ctx: *mut c_void, cpu: c_int, data: *mut c_void, size: u32);
/// `perf_buffer_lost_fn`.
type LostFn = unsafe extern "C" fn(ctx: *mut c_void, cpu: c_int, count: u64);

/// `struct perf_buffer_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PerfBufferOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// After how many samples to wake up; every first one wakes here.
    pub sample_period: u32,
}

/// `struct perf_buffer`.
#[derive(Debug)]
pub struct PerfBuffer {
    epoll: OwnedFd,
    map: RawMap,
    rings: Vec<Arc<PerfRing>>,
    sample: Option<SampleFn>,
    lost: Option<LostFn>,
    ctx: *mut c_void,
}

impl PerfBuffer {
    fn new(
        map_fd: c_int,
        pages: usize,
        sample: Option<SampleFn>,
        lost: Option<LostFn>,
        ctx: *mut c_void,
    ) -> Result<Self, Errno> {
        let size = pages.checked_mul(4096).filter(|_| pages.is_power_of_two()).ok_or(Errno::EINVAL)?;
        let map = handle::map(map_fd)?;
        let info = map.info();
        if info.map_type != MapType::PerfEventArray {
            return Err(Errno::EINVAL);
        }
        let count = info.n_cpus.min(info.max_entries);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno)?;
        // A ring that is in the map is taken out again when the buffer drops, an error's included.
        let mut buffer = Self { epoll, map: map.clone(), rings: Vec::new(), sample, lost, ctx };
        for cpu in 0..count {
            let ring = PerfRing::new(cpu, size)?;
            let data = epoll::EventData::new_u64(u64::from(cpu));
            epoll::add(&buffer.epoll, ring.event()?, data, epoll::EventFlags::IN).map_err(errno)?;
            map.update_slot(&cpu.to_ne_bytes(), Slot::PerfRing(Arc::clone(&ring)), 0)?;
            buffer.rings.push(ring);
        }
        Ok(buffer)
    }

    /// Hands out what one ring holds; whether that was anything.
    fn consume(&self, ring: &PerfRing) -> bool {
        let cpu = c_int::try_from(ring.cpu()).unwrap_or(c_int::MAX);
        let mut any = false;
        loop {
            while let Some(record) = ring.read() {
                any = true;
                match (record, self.sample, self.lost) {
                    (PerfRecord::Sample(mut data), Some(sample), _) => {
                        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
                        // SAFETY: the callback that was given, with its context; the sample is C's meanwhile.
                        unsafe { sample(self.ctx, cpu, data.as_mut_ptr().cast(), size) };
                    }
                    (PerfRecord::Lost(count), _, Some(lost)) => {
                        // SAFETY: as above.
                        unsafe { lost(self.ctx, cpu, count) };
                    }
                    _ => {}
                }
            }
            if ring.drained() {
                return any;
            }
        }
    }

    fn consume_all(&self) -> c_int {
        let ready = self.rings.iter().filter(|ring| self.consume(ring)).count();
        c_int::try_from(ready).unwrap_or(c_int::MAX)
    }

    fn poll(&self, timeout_ms: c_int) -> Result<c_int, Errno> {
        if wait(&self.epoll, timeout_ms)? { Ok(self.consume_all()) } else { Ok(0) }
    }
}

impl Drop for PerfBuffer {
    fn drop(&mut self) {
        for ring in &self.rings {
            // Somebody else may have emptied the slot.
            let _ = self.map.delete(&ring.cpu().to_ne_bytes());
        }
    }
}

/// A consumer of the perf event array of `map_fd`, with a ring of `page_cnt` pages, a power of two, for each CPU.
///
/// # Safety
/// The callbacks are NULL or functions that `ctx` may be given to; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__new(
    map_fd: c_int,
    page_cnt: usize,
    sample: Option<SampleFn>,
    lost: Option<LostFn>,
    ctx: *mut c_void,
    opts: *const PerfBufferOpts,
) -> *mut PerfBuffer {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { options(opts) }?;
        Ok(Box::into_raw(Box::new(PerfBuffer::new(map_fd, page_cnt, sample, lost, ctx)?)))
    })
}

/// Ends a consumer; NULL is nothing to do.
///
/// # Safety
/// `buffer` is NULL or a consumer that is not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__free(buffer: *mut PerfBuffer) {
    // SAFETY: `perf_buffer__new` gave it away; the rest is the caller's duty.
    unsafe { free(buffer) };
}

/// Waits for samples, at most `timeout_ms` milliseconds (-1 for ever), and consumes them; how many rings had some.
///
/// # Safety
/// `buffer` is NULL or a consumer, which one thread at a time uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__poll(buffer: *mut PerfBuffer, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| unsafe { given(buffer.cast_const()) }?.poll(timeout_ms))
}

/// Consumes what there is, without waiting; 0.
///
/// # Safety
/// As for `perf_buffer__poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__consume(buffer: *mut PerfBuffer) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { given(buffer.cast_const()) }?.consume_all();
        Ok(())
    })
}

/// Consumes what there is in one ring; `-EINVAL` without such a ring.
///
/// # Safety
/// As for `perf_buffer__poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__consume_buffer(buffer: *mut PerfBuffer, index: usize) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let buffer = unsafe { given(buffer.cast_const()) }?;
        buffer.consume(buffer.rings.get(index).ok_or(Errno::EINVAL)?);
        Ok(())
    })
}

/// A descriptor for `poll` and `epoll`, readable while there is something to consume.
///
/// # Safety
/// `buffer` is NULL or a consumer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__epoll_fd(buffer: *const PerfBuffer) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(buffer) }?.epoll.as_raw_fd()))
}

/// How many rings there are.
///
/// # Safety
/// `buffer` is NULL or a consumer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__buffer_cnt(buffer: *const PerfBuffer) -> usize {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(buffer) }?.rings.len()))
}

/// A descriptor that is readable while one ring has something; `-EINVAL` without such a ring.
///
/// # Safety
/// `buffer` is NULL or a consumer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perf_buffer__buffer_fd(buffer: *const PerfBuffer, index: usize) -> c_int {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let ring = unsafe { given(buffer) }?.rings.get(index).ok_or(Errno::EINVAL)?;
        Ok(ring.event()?.as_raw_fd())
    })
}
