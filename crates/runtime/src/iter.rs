//! Iterators: a program that is run for each element of a map and writes text or bytes.
//!
//! Owns the walk and what it is checked against. Invariant: a program reaches no further into a key or a value than the map
//! has bytes, which is checked before the first run since the verifier cannot know the map. Kernel counterpart:
//! `bpf_iter_attach_map`, kernel/bpf/map_iter.c; `bpf_seq_read`, kernel/bpf/bpf_iter.c, 6.18.

use std::sync::atomic::{AtomicU64, Ordering};

use skep_abi::{Errno, MapType, map_flags};
use skep_sync::CpuGuard;
use thiserror::Error;

use crate::ctx::CtxType;
use crate::ctx::map_elem::{MapElem, SEQ_BYTES};
use crate::map::{Map, Vcpu};
use crate::program::{Program, RunError};

/// Why a walk did not happen, or ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IterError {
    /// The program is of another kind.
    #[error("program {0} does not iterate over map elements (SEC(\"iter/bpf_map_elem\"))")]
    NotAnIterator(String),
    /// Maps of this type have no elements to walk.
    #[error("maps of type {0} cannot be iterated")]
    MapType(MapType),
    /// The map and the program belong to two engines.
    #[error("the map is another engine's")]
    OtherEngine,
    /// The program reaches beyond the map's keys or values.
    #[error("the program reaches {reached} bytes into the {what}, map {map} has {size}")]
    TooFar {
        /// `key` or `value`.
        what: &'static str,
        /// Bytes that the program may access.
        reached: u32,
        /// The map.
        map: String,
        /// Its bytes.
        size: usize,
    },
    /// The program writes values that it may not write.
    #[error("the program writes values, and those of map {map} {why}")]
    ReadOnly {
        /// The map.
        map: String,
        /// Why not.
        why: &'static str,
    },
    /// One element's output is too long.
    #[error("the output for one element has more than {} bytes", SEQ_BYTES - 1)]
    TooLong,
    /// The program returned 1 for an element, twice.
    #[error("the program asks to be run again for an element")]
    Again,
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl IterError {
    /// As the kernel fails.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NotAnIterator(_) | Self::MapType(_) | Self::OtherEngine => Errno::EINVAL,
            Self::TooFar { .. } | Self::ReadOnly { .. } => Errno::EACCES,
            Self::TooLong => Errno::E2BIG,
            Self::Again => Errno::EAGAIN,
            Self::Run(_) => Errno::EFAULT,
        }
    }
}

impl Program {
    /// Runs an iterator (`SEC("iter/bpf_map_elem")`) for each element of `map`, and once more at the end with neither key
    /// nor value; what it wrote with `bpf_seq_printf` and `bpf_seq_write`.
    ///
    /// A per-CPU map gives the values of all vCPUs one after the other, each rounded up to 8 bytes; they are a copy. The
    /// output is kept in memory until the walk ends.
    ///
    /// # Errors
    /// The program is no such iterator or reaches further than the map's keys and values; an element's output is too long;
    /// a run fails.
    pub fn iter_map(&self, map: &Map) -> Result<Vec<u8>, IterError> {
        self.check_iter(map)?;
        let engine = self.engine();
        let guard = engine.cpus().enter().map_err(RunError::from)?;
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let mut walk = Walk {
            program: self,
            guard: &guard,
            ctx: MapElem::new(map.info(), session),
            out: Vec::new(),
            seq_num: 0,
            seen: false,
        };
        let mut outcome = Ok(());
        let (key_size, value_size) = (map.info().key_size as usize, map.info().value_size as usize);
        let mut values = map.info().map_type.is_percpu().then(|| vec![0u64; map.info().user_value_size().div_ceil(8)]);
        let mut visit = |key: *mut u8, value: *mut u8| {
            // SAFETY: keys have the map's key size, and are valid for the call. Another run may write a key meanwhile only
            // when the element is freed and used again, so it is copied byte by byte.
            let key: Vec<u8> = (0..key_size).map(|at| unsafe { key.wrapping_add(at).read_volatile() }).collect();
            let place = match &mut values {
                None => (value, value_size),
                Some(values) => match copy_values(map, &key, values) {
                    Some(place) => place,
                    None => return false,
                },
            };
            outcome = walk.element(Some((&key, place)));
            outcome.is_err()
        };
        // SAFETY: the handle keeps the map, the guard holds the vCPU; the pointers are used during each call only.
        let walked = unsafe { map.object().ops().for_each(Vcpu::of(&guard), &mut visit) };
        outcome?;
        walked.map_err(|_| IterError::MapType(map.info().map_type))?;
        walk.element(None)?;
        Ok(walk.out)
    }

    /// Whether [`Program::iter_map`] would walk this map: what the kernel checks when an iterator is attached to a map.
    ///
    /// # Errors
    /// As for [`Program::iter_map`], of what is known before the first run.
    pub fn check_iter(&self, map: &Map) -> Result<(), IterError> {
        let info = map.info();
        if self.ctx_type() != CtxType::MapElem {
            return Err(IterError::NotAnIterator(self.name().to_owned()));
        }
        if !map.object().cpus().is_same(self.engine().cpus()) {
            return Err(IterError::OtherEngine);
        }
        let known = matches!(info.map_type, MapType::Array | MapType::Hash | MapType::LruHash);
        if !known && !info.map_type.is_percpu() {
            return Err(IterError::MapType(info.map_type));
        }
        let reached = self.xlated().buffers;
        let name = || map.name().to_owned();
        let sizes = [("key", reached.rdonly, info.key_size as usize), ("value", reached.rdwr, info.user_value_size())];
        for (what, reached, size) in sizes {
            if reached as usize > size {
                return Err(IterError::TooFar { what, reached, map: name(), size });
            }
        }
        if reached.is_written && info.flags & map_flags::BPF_F_RDONLY_PROG != 0 {
            return Err(IterError::ReadOnly { map: name(), why: "are read-only for programs" });
        }
        // The verifier keeps other programs away from these fields; of this one it did not know the map.
        if reached.is_written && !info.record.fields().is_empty() {
            return Err(IterError::ReadOnly { map: name(), why: "have fields that only helpers may touch" });
        }
        Ok(())
    }
}

/// The values of all vCPUs; `None` if the element is gone.
fn copy_values(map: &Map, key: &[u8], values: &mut [u64]) -> Option<(*mut u8, usize)> {
    let mut bytes = vec![0; map.info().user_value_size()];
    map.object().ops().user_lookup(key, &mut bytes, 0).ok()?;
    for (word, chunk) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Some((values.as_mut_ptr().cast(), bytes.len()))
}

/// A walk under way.
struct Walk<'a> {
    program: &'a Program,
    guard: &'a CpuGuard<'a>,
    ctx: MapElem,
    out: Vec<u8>,
    seq_num: u64,
    /// Whether an element was shown.
    seen: bool,
}

impl Walk<'_> {
    /// Shows an element, or the end. As the kernel's reader does, an element whose output does not fit behind what is there,
    /// or that the program wants again, gets a second try with an empty buffer.
    fn element(&mut self, element: Option<(&[u8], (*mut u8, usize))>) -> Result<(), IterError> {
        if self.seen && element.is_some() {
            self.seq_num += 1;
        }
        self.seen = true;
        // SAFETY: the caller's element is valid until this returns.
        unsafe { self.ctx.set(element, self.seq_num) };
        loop {
            let before = self.ctx.seq.bytes.len();
            let again = self.program.run_on(self.guard, &mut self.ctx)? != 0 && element.is_some();
            if !again && !self.ctx.seq.overflowed {
                break;
            }
            self.ctx.seq.bytes.truncate(before);
            if before == 0 {
                return Err(if again { IterError::Again } else { IterError::TooLong });
            }
            self.flush();
        }
        if element.is_none() {
            self.flush();
        }
        Ok(())
    }

    /// Hands on what is in the buffer.
    fn flush(&mut self) {
        self.out.append(&mut self.ctx.seq.bytes);
        self.ctx.seq.overflowed = false;
    }
}
