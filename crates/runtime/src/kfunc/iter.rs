//! Open-coded iterators: numbers, and the bits that are set.
//!
//! Invariant: an iterator's state lies on the program's stack, where the program cannot write it. Kernel counterpart:
//! `bpf_iter_num_new`, kernel/bpf/bpf_iter.c; `bpf_iter_bits_new`, kernel/bpf/helpers.c, 6.18.
#![expect(clippy::cast_possible_truncation, reason = "bounds of iterators are the low halves of registers")]

use skep_abi::Errno;

use super::int;
use crate::frame::Run;
use crate::helper::{entry, probing_entry};
use crate::map::HelperFn;

/// The most iterations of a number iterator (`BPF_MAX_LOOPS`).
const MAX_LOOPS: i64 = 8 << 20;
/// The most words of a bit iterator.
const MAX_WORDS: u32 = 511;

pub(super) fn table() -> Vec<(&'static str, HelperFn)> {
    vec![
        ("bpf_iter_num_new", entry!(num_new)),
        ("bpf_iter_num_next", entry!(num_next)),
        ("bpf_iter_num_destroy", entry!(num_destroy)),
        ("bpf_iter_bits_new", probing_entry!(bits_new)),
        ("bpf_iter_bits_next", entry!(bits_next)),
        ("bpf_iter_bits_destroy", entry!(bits_destroy)),
    ]
}

/// A number iterator (`struct bpf_iter_num_kern`).
#[repr(C)]
struct IterNum {
    /// The number of the last step.
    cur: i32,
    /// The number after the last one.
    end: i32,
}

/// # Safety
/// `at` points to the 8 bytes of an iterator, aligned to 8, that only this run uses.
unsafe fn num<'a>(at: u64) -> &'a mut IterNum {
    let iter: *mut IterNum = std::ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: the caller's duty.
    unsafe { &mut *iter }
}

unsafe fn num_new(_run: Run, [it, start, end, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator's place on the stack (prototype).
    let iter = unsafe { num(it) };
    let (start, end) = ((start as u32).cast_signed(), (end as u32).cast_signed());
    *iter = IterNum { cur: 0, end: 0 };
    if start > end {
        return int(Errno::EINVAL);
    }
    if i64::from(end) - i64::from(start) > MAX_LOOPS {
        return int(Errno::E2BIG);
    }
    // The first step comes to `start`, also where there is no smaller number.
    *iter = IterNum { cur: start.wrapping_sub(1), end };
    0
}

unsafe fn num_next(run: Run, [it, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator that was made and not destroyed (prototype).
    let iter = unsafe { num(it) };
    let next = iter.cur.wrapping_add(1);
    if next >= iter.end {
        *iter = IterNum { cur: 0, end: 0 };
        return 0;
    }
    iter.cur = next;
    element(&run, &raw const iter.cur)
}

/// The address of the element that a step came to.
fn element(_run: &Run, at: *const i32) -> u64 {
    at.expose_provenance() as u64
}

unsafe fn num_destroy(_run: Run, [it, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator that was made (prototype).
    let iter = unsafe { num(it) };
    *iter = IterNum { cur: 0, end: 0 };
    0
}

/// A bit iterator.
#[repr(C)]
struct IterBits {
    /// The word itself, or the address of a copy of the words.
    words: u64,
    /// How many words.
    count: u32,
    /// The bit of the last step; -1 before the first.
    bit: i32,
}

impl IterBits {
    const DONE: Self = Self { words: 0, count: 0, bit: 0 };

    /// Whether the words are a copy that is to be freed.
    fn is_copied(&self) -> bool {
        self.count > 1
    }

    /// The words, from number `first` on.
    ///
    /// # Safety
    /// `words` is what `bits_new` left, and was not freed.
    unsafe fn word(&self, number: u32) -> u64 {
        if !self.is_copied() {
            return self.words;
        }
        let words: *const u64 = std::ptr::with_exposed_provenance(self.words as usize);
        // SAFETY: `number` is below `count` (every caller), the length of the copy (caller).
        let word = unsafe { words.add(number as usize) };
        // SAFETY: as above.
        unsafe { word.read() }
    }

    /// The first set bit from `from` on.
    ///
    /// # Safety
    /// As for [`Self::word`].
    unsafe fn next_set(&self, from: u32) -> Option<u32> {
        let mut number = from / 64;
        let mut skip = from % 64;
        while number < self.count {
            // SAFETY: the caller's duty, and `number` is below the count.
            let word = unsafe { self.word(number) } >> skip;
            if word != 0 {
                return Some(number * 64 + skip + word.trailing_zeros());
            }
            (number, skip) = (number + 1, 0);
        }
        None
    }
}

/// # Safety
/// `at` points to the 16 bytes of an iterator, aligned to 8, that only this run uses.
unsafe fn bits<'a>(at: u64) -> &'a mut IterBits {
    let iter: *mut IterBits = std::ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: the caller's duty.
    unsafe { &mut *iter }
}

unsafe fn bits_new(run: Run, [it, from, count, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator's place on the stack (prototype).
    let iter = unsafe { bits(it) };
    *iter = IterBits::DONE;
    let count = count as u32;
    if from == 0 || count == 0 {
        return int(Errno::EINVAL);
    }
    if count > MAX_WORDS {
        return int(Errno::E2BIG);
    }
    // Nothing is proved of r2: it is read where the program itself could have read.
    if !run.may_read(from, u64::from(count) * 8) {
        return int(Errno::EFAULT);
    }
    let source: *const u8 = std::ptr::with_exposed_provenance(from as usize);
    let mut words = vec![0u64; count as usize];
    // SAFETY: the source is readable for the length (tested above); the copy is as long.
    unsafe { crate::map::copy_bytes(words.as_mut_ptr().cast(), source, words.len() * 8) };
    let words = match words.as_slice() {
        [one] => *one,
        _ => Box::into_raw(words.into_boxed_slice()).cast::<u64>().expose_provenance() as u64,
    };
    *iter = IterBits { words, count, bit: -1 };
    0
}

unsafe fn bits_next(run: Run, [it, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator that was made and not destroyed (prototype).
    let iter = unsafe { bits(it) };
    let from = iter.bit.wrapping_add(1).cast_unsigned();
    // SAFETY: the words are as `bits_new` left them.
    match unsafe { iter.next_set(from) } {
        Some(bit) => {
            iter.bit = bit.cast_signed();
            element(&run, &raw const iter.bit)
        }
        None => {
            // SAFETY: as above; afterwards there are no words.
            unsafe { free(iter) };
            0
        }
    }
}

unsafe fn bits_destroy(_run: Run, [it, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an iterator that was made (prototype).
    let iter = unsafe { bits(it) };
    // SAFETY: the words are as `bits_new` left them, or gone.
    unsafe { free(iter) };
    0
}

/// Frees the copy of the words.
///
/// # Safety
/// As for [`IterBits::word`].
unsafe fn free(iter: &mut IterBits) {
    if iter.is_copied() {
        let words: *mut u64 = std::ptr::with_exposed_provenance_mut(iter.words as usize);
        let words = std::ptr::slice_from_raw_parts_mut(words, iter.count as usize);
        // SAFETY: made by `Box::into_raw` in `bits_new`, with this length, and freed once: the iterator forgets it below.
        drop(unsafe { Box::from_raw(words) });
    }
    *iter = IterBits::DONE;
}
