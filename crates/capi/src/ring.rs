//! `struct ring_buffer`: a consumer of one or several ring buffer maps.
//!
//! Owns the callbacks and the descriptor to wait with, which is readable while one of the maps has something. Invariant:
//! a record is C's from the call of its callback to the return. Counterpart: tools/lib/bpf/ringbuf.c, 6.18.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock};

use rustix::event::epoll;
use skep::RawMap;
use skep_abi::Errno;
use skep_runtime::map::ringbuf::{Query, RingBuf};

use crate::boundary::{call, free, getters, given, options, status};
use crate::handle::{self, errno, wait};

/// `ring_buffer_sample_fn`.
type SampleFn = unsafe extern "C" fn(ctx: *mut c_void, data: *mut c_void, size: usize) -> c_int;

/// `struct ring_buffer_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RingBufferOpts {
    /// Bytes of this struct.
    pub sz: usize,
}

/// `struct ring_buffer`.
#[derive(Debug)]
pub struct RingBuffer {
    epoll: OwnedFd,
    #[expect(clippy::vec_box, reason = "C holds pointers to rings while others are added")]
    rings: RwLock<Vec<Box<Ring>>>,
}

/// `struct ring`.
#[derive(Debug)]
pub struct Ring {
    map: RawMap,
    fd: c_int,
    callback: SampleFn,
    ctx: *mut c_void,
}

// SAFETY: C's context pointer is only handed back to C's callback, on the thread that asks for records.
unsafe impl Send for Ring {}
// SAFETY: as for `Send`.
unsafe impl Sync for Ring {}

impl Ring {
    fn buffer(&self) -> Result<&RingBuf, Errno> {
        self.map.downcast().ok_or(Errno::EINVAL)
    }

    /// Calls back with up to `most` records; how many there were, or the negative result that a callback stopped with.
    fn consume(&self, most: usize) -> Result<usize, Errno> {
        let mut stopped = Ok(());
        let mut left = most;
        if most == 0 {
            return Ok(0);
        }
        let count = self.buffer()?.consume_in_place(|data, size| {
            // SAFETY: the callback that was given for this ring, with its context; the record is C's meanwhile.
            let result = unsafe { (self.callback)(self.ctx, data.cast(), size) };
            left -= 1;
            if result < 0 {
                stopped = Err(Errno(result.saturating_neg()));
            }
            result >= 0 && left > 0
        });
        stopped.map(|()| count)
    }
}

impl RingBuffer {
    fn add(&self, fd: c_int, callback: Option<SampleFn>, ctx: *mut c_void) -> Result<(), Errno> {
        let callback = callback.ok_or(Errno::EINVAL)?;
        let map = handle::map(fd)?;
        let ring = Box::new(Ring { map, fd, callback, ctx });
        let event = ring.buffer()?.event()?;
        let mut rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        let data = epoll::EventData::new_u64(rings.len() as u64);
        epoll::add(&self.epoll, event, data, epoll::EventFlags::IN).map_err(errno)?;
        rings.push(ring);
        Ok(())
    }

    fn consume(&self, most: usize) -> Result<c_int, Errno> {
        let rings = self.rings.read().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0_usize;
        for ring in &*rings {
            count += ring.consume(most - count)?;
        }
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
    }

    fn poll(&self, timeout_ms: c_int) -> Result<c_int, Errno> {
        let ready = {
            let rings = self.rings.read().unwrap_or_else(PoisonError::into_inner);
            rings.iter().any(|ring| ring.buffer().is_ok_and(RingBuf::is_ready))
        };
        if !ready && !wait(&self.epoll, timeout_ms)? {
            return Ok(0);
        }
        self.consume(usize::MAX)
    }
}

/// A consumer of the ring buffer of `map_fd`, whose records go to `callback`. A negative result of the callback stops the
/// consuming and is what the consuming call returns.
///
/// # Safety
/// `callback` is NULL or a function that `ctx` may be given to; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__new(
    map_fd: c_int,
    callback: Option<SampleFn>,
    ctx: *mut c_void,
    opts: *const RingBufferOpts,
) -> *mut RingBuffer {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        unsafe { options(opts) }?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno)?;
        let buffer = Box::new(RingBuffer { epoll, rings: RwLock::default() });
        buffer.add(map_fd, callback, ctx)?;
        Ok(Box::into_raw(buffer))
    })
}

/// Ends a consumer; NULL is nothing to do.
///
/// # Safety
/// `buffer` is NULL or a consumer that is not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__free(buffer: *mut RingBuffer) {
    // SAFETY: `ring_buffer__new` gave it away; the rest is the caller's duty.
    unsafe { free(buffer) };
}

/// Adds another map.
///
/// # Safety
/// `buffer` is NULL or a consumer; the rest is as for `ring_buffer__new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__add(
    buffer: *mut RingBuffer,
    map_fd: c_int,
    callback: Option<SampleFn>,
    ctx: *mut c_void,
) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { given(buffer.cast_const()) }?.add(map_fd, callback, ctx))
}

/// Waits for records, at most `timeout_ms` milliseconds (-1 for ever), and consumes them; how many.
///
/// # Safety
/// `buffer` is NULL or a consumer. Not from inside of a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__poll(buffer: *mut RingBuffer, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| unsafe { given(buffer.cast_const()) }?.poll(timeout_ms))
}

/// Consumes what there is, without waiting; how many records.
///
/// # Safety
/// As for `ring_buffer__poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__consume(buffer: *mut RingBuffer) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| unsafe { given(buffer.cast_const()) }?.consume(usize::MAX))
}

/// As `ring_buffer__consume`, `n` records at most.
///
/// # Safety
/// As for `ring_buffer__poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__consume_n(buffer: *mut RingBuffer, n: usize) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| unsafe { given(buffer.cast_const()) }?.consume(n))
}

/// A descriptor for `poll` and `epoll`, readable while there is something to consume.
///
/// # Safety
/// `buffer` is NULL or a consumer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__epoll_fd(buffer: *const RingBuffer) -> c_int {
    // SAFETY: the caller's duty, passed on.
    call(|| Ok(unsafe { given(buffer) }?.epoll.as_raw_fd()))
}

/// The consumer's ring of this index, by order of adding; `ERANGE` without.
///
/// # Safety
/// `buffer` is NULL or a consumer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring_buffer__ring(buffer: *mut RingBuffer, index: c_uint) -> *mut Ring {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let rings = unsafe { given(buffer.cast_const()) }?.rings.read().unwrap_or_else(PoisonError::into_inner);
        let ring = usize::try_from(index).ok().and_then(|index| rings.get(index)).ok_or(Errno(34))?;
        Ok(std::ptr::from_ref(&**ring).cast_mut())
    })
}

fn position(ring: &Ring, what: Query) -> Result<usize, Errno> {
    usize::try_from(ring.buffer()?.query(what)).map_err(|_| Errno::E2BIG)
}

getters! {
    /// How many bytes were consumed since the map was made.
    ring__consumer_pos(ring: *const Ring) -> usize = position(ring, Query::ConsumerPosition);
    /// How many bytes were reserved since the map was made.
    ring__producer_pos(ring: *const Ring) -> usize = position(ring, Query::ProducerPosition);
    /// How many bytes are reserved and not consumed.
    ring__avail_data_size(ring: *const Ring) -> usize = position(ring, Query::Available);
    /// Bytes of the buffer.
    ring__size(ring: *const Ring) -> usize = position(ring, Query::Size);
    /// The descriptor that the ring was added with.
    ring__map_fd(ring: *const Ring) -> c_int = Ok(ring.fd);
    /// Consumes what there is in this ring; how many records.
    ring__consume(ring: *mut Ring) -> c_int =
        ring.consume(usize::MAX).map(|count| c_int::try_from(count).unwrap_or(c_int::MAX));
}
