//! Copies between program memory, user buffers and map values.
//!
//! A value is read and written by any number of programs and threads at once, without synchronization: that is what
//! the kernel promises and no more. In Rust an unsynchronized plain access would be undefined, so every access of this
//! module is a relaxed atomic of the largest aligned size: torn between words, never within one. Compiled programs are
//! outside of Rust's memory model and access the same words with single machine instructions.
//! Kernel counterpart: `copy_map_value`, `bpf_long_memcpy` (include/linux/bpf.h, 6.18).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::spec::Record;

/// Copies `len` bytes, word by word where both sides are aligned.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, and they do not overlap unless they are equal. Others may
/// access both ranges at the same time.
#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    let skew = dst.addr() | src.addr();
    if skew.is_multiple_of(8) {
        while at + 8 <= len {
            // SAFETY: in range (caller) and 8-aligned.
            let from = unsafe { AtomicU64::from_ptr(src.wrapping_add(at).cast_mut().cast()) };
            // SAFETY: as above.
            let to = unsafe { AtomicU64::from_ptr(dst.wrapping_add(at).cast()) };
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            at += 8;
        }
    }
    if skew.is_multiple_of(4) {
        while at + 4 <= len {
            // SAFETY: in range (caller) and 4-aligned.
            let from = unsafe { AtomicU32::from_ptr(src.wrapping_add(at).cast_mut().cast()) };
            // SAFETY: as above.
            let to = unsafe { AtomicU32::from_ptr(dst.wrapping_add(at).cast()) };
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            at += 4;
        }
    }
    while at < len {
        // SAFETY: in range (caller).
        let from = unsafe { AtomicU8::from_ptr(src.wrapping_add(at).cast_mut()) };
        // SAFETY: in range (caller).
        let to = unsafe { AtomicU8::from_ptr(dst.wrapping_add(at)) };
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        at += 1;
    }
}

/// Makes `len` bytes zero.
///
/// # Safety
/// `dst` is writable for `len` bytes. Others may access the range at the same time.
#[inline]
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) {
    let mut at = 0;
    if dst.addr().is_multiple_of(8) {
        while at + 8 <= len {
            // SAFETY: in range (caller) and 8-aligned.
            unsafe { AtomicU64::from_ptr(dst.wrapping_add(at).cast()) }.store(0, Ordering::Relaxed);
            at += 8;
        }
    }
    while at < len {
        // SAFETY: in range (caller).
        unsafe { AtomicU8::from_ptr(dst.wrapping_add(at)) }.store(0, Ordering::Relaxed);
        at += 1;
    }
}

/// An unaligned value that a volatile read can take.
#[repr(C, packed)]
struct Unaligned<T>(T);

// A program's key may lie in a map value that other threads write meanwhile. The volatile read keeps the compiler from
// reading twice or assuming anything; what is read then is some mix of old and new, as in the kernel.

/// # Safety
/// `key` is readable for four bytes.
#[inline]
pub(crate) unsafe fn load4(key: *const u8) -> u32 {
    // SAFETY: four readable bytes (caller); the type has no alignment.
    unsafe { key.cast::<Unaligned<u32>>().read_volatile() }.0
}

/// # Safety
/// `key` is readable for eight bytes.
#[inline]
pub(crate) unsafe fn load8(key: *const u8) -> u64 {
    // SAFETY: eight readable bytes (caller); the type has no alignment.
    unsafe { key.cast::<Unaligned<u64>>().read_volatile() }.0
}

/// Fewer than eight bytes, the rest zero.
///
/// # Safety
/// `key` is readable for `len` bytes.
#[inline]
pub(crate) unsafe fn load_tail(key: *const u8, len: usize) -> u64 {
    let mut word = [0; 8];
    for (at, byte) in word.iter_mut().enumerate().take(len) {
        // SAFETY: inside the readable bytes (caller).
        *byte = unsafe { key.wrapping_add(at).read_volatile() };
    }
    u64::from_ne_bytes(word)
}

/// Up to eight of `len` bytes, the rest zero.
///
/// # Safety
/// `key` is readable for `len` bytes.
#[inline]
pub(crate) unsafe fn load_word(key: *const u8, len: usize) -> u64 {
    match len {
        // SAFETY: the caller's duty, passed on.
        8.. => unsafe { load8(key) },
        // SAFETY: as above.
        4 => u64::from(unsafe { load4(key) }),
        // SAFETY: as above.
        _ => unsafe { load_tail(key, len) },
    }
}

/// How a map's values are laid out and copied.
#[derive(Debug, Clone)]
pub(crate) struct ValueLayout {
    /// Bytes of a value.
    pub(crate) size: usize,
    /// Bytes from a value to the next: the size rounded up to 8.
    pub(crate) stride: usize,
    /// The parts that an update copies: all but the special fields.
    spans: Vec<(usize, usize)>,
    special: bool,
    lock: Option<usize>,
}

impl ValueLayout {
    pub(crate) fn new(size: u32, record: &Record) -> ValueLayout {
        let size = size as usize;
        let mut spans = Vec::new();
        let mut from = 0;
        for field in record.fields() {
            let start = (field.offset as usize).min(size);
            if start > from {
                spans.push((from, start - from));
            }
            from = (start + field.size as usize).min(size).max(from);
        }
        if from < size {
            spans.push((from, size - from));
        }
        ValueLayout {
            size,
            stride: size.next_multiple_of(8),
            spans,
            special: !record.fields().is_empty(),
            lock: record.spin_lock().map(|offset| offset as usize),
        }
    }

    /// Copies a value into the map; special fields stay as they are.
    ///
    /// # Safety
    /// As for [`copy`], with the value's size.
    #[inline]
    pub(crate) unsafe fn copy_in(&self, dst: *mut u8, src: *const u8) {
        if !self.special {
            // SAFETY: the caller's duty, passed on.
            return unsafe { copy(dst, src, self.size) };
        }
        for &(from, len) in &self.spans {
            // SAFETY: a span lies inside the value.
            unsafe { copy(dst.wrapping_add(from), src.wrapping_add(from), len) };
        }
    }

    /// Copies a value out of the map; special fields read as zero.
    ///
    /// # Safety
    /// As for [`copy`], with the value's size.
    #[inline]
    pub(crate) unsafe fn copy_out(&self, dst: *mut u8, src: *const u8) {
        if self.special {
            // SAFETY: the caller's duty, passed on.
            unsafe { zero(dst, self.size) };
        }
        // SAFETY: the caller's duty, passed on.
        unsafe { self.copy_in(dst, src) };
    }

    /// Makes the special fields of a fresh value zero.
    ///
    /// # Safety
    /// `dst` is writable for the value's size.
    pub(crate) unsafe fn init_special(&self, dst: *mut u8) {
        let mut from = 0;
        if !self.special {
            return;
        }
        for &(start, len) in self.spans.iter().chain(std::iter::once(&(self.size, 0))) {
            // SAFETY: the gap before a span lies inside the value.
            unsafe { zero(dst.wrapping_add(from), start - from) };
            from = start + len;
        }
    }

    /// Runs `work` with the value's `bpf_spin_lock` held (`BPF_F_LOCK`).
    ///
    /// # Safety
    /// `value` is a value of this map.
    pub(crate) unsafe fn locked<R>(&self, value: *mut u8, work: impl FnOnce() -> R) -> R {
        let Some(offset) = self.lock else { return work() };
        // SAFETY: the lock lies inside the value, 4-aligned as the record's constructor checked.
        let lock = unsafe { AtomicU32::from_ptr(value.wrapping_add(offset).cast()) };
        super::lock::spin_acquire(lock);
        let result = work();
        super::lock::spin_release(lock);
        result
    }

    /// Whether values have a `bpf_spin_lock`.
    pub(crate) fn has_lock(&self) -> bool {
        self.lock.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{FieldKind, SpecialField};
    use super::*;

    #[repr(align(8))]
    struct Buffer([u8; 40]);

    #[test]
    fn copies_at_every_alignment_and_length() {
        let source = Buffer(std::array::from_fn(|at| at as u8 + 1));
        for from in 0..9 {
            for to in 0..9 {
                for len in 0..=24 {
                    let mut target = Buffer([0xee; 40]);
                    // SAFETY: 9 + 24 bytes are inside both buffers.
                    unsafe { copy(target.0.as_mut_ptr().wrapping_add(to), source.0.as_ptr().wrapping_add(from), len) };
                    assert_eq!(target.0[to..to + len], source.0[from..from + len]);
                    assert!(target.0[..to].iter().chain(&target.0[to + len..]).all(|&byte| byte == 0xee));
                    // SAFETY: as above.
                    unsafe { zero(target.0.as_mut_ptr().wrapping_add(to), len) };
                    assert!(target.0[to..to + len].iter().all(|&byte| byte == 0));
                }
            }
        }
    }

    #[test]
    fn special_fields_are_kept_on_the_way_in_and_zero_on_the_way_out() {
        let record = Record::new(
            vec![
                SpecialField { kind: FieldKind::SpinLock, offset: 4, size: 4 },
                SpecialField { kind: FieldKind::Timer, offset: 16, size: 16 },
            ],
            40,
        )
        .unwrap();
        let layout = ValueLayout::new(40, &record);
        let source = Buffer([7; 40]);
        let mut value = Buffer([9; 40]);
        // SAFETY: both buffers have 40 bytes.
        unsafe { layout.copy_in(value.0.as_mut_ptr(), source.0.as_ptr()) };
        let special = |at: usize| (4..8).contains(&at) || (16..32).contains(&at);
        assert!(value.0.iter().enumerate().all(|(at, &byte)| byte == if special(at) { 9 } else { 7 }));
        let mut out = Buffer([1; 40]);
        // SAFETY: both buffers have 40 bytes.
        unsafe { layout.copy_out(out.0.as_mut_ptr(), value.0.as_ptr()) };
        assert!(out.0.iter().enumerate().all(|(at, &byte)| byte == if special(at) { 0 } else { 7 }));
        // SAFETY: the buffer has 40 bytes.
        unsafe { layout.init_special(value.0.as_mut_ptr()) };
        assert_eq!(value.0, out.0);
    }
}
