//! Keys of hash maps: how each size is loaded, hashed and compared.
//!
//! Lookups are compiled for keys of 4, 8 and 16 bytes and once for every other size. The hash multiplies the
//! key with a secret of the map and folds the 128-bit product, so that a peer who does not know the secret cannot aim
//! at one bucket. Invariant: [`hash_bytes`] gives for a key what the specialised type gives.
//! With `BPF_F_ZERO_SEED` the hash is Bob Jenkins' lookup3 with seed 0, which makes the order of iteration the kernel's.
//! Kernel counterpart: `htab_map_hash` (kernel/bpf/hashtab.c), include/linux/jhash.h (6.18).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::super::value::{load_tail, load4, load8};
use super::table::{HASH, KEY};

/// The secrets of one map.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    mix: u64,
    mul: u64,
    /// lookup3 with seed 0.
    jenkins: bool,
}

impl Seed {
    /// Fresh secrets.
    pub(crate) fn random() -> Seed {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new();
        Seed { mix: random.hash_one(1), mul: random.hash_one(2) | 1, jenkins: false }
    }

    /// Keys of four bytes are their own hash.
    pub(crate) fn identity() -> Seed {
        Seed { mix: 0, mul: 1, jenkins: false }
    }

    /// `BPF_F_ZERO_SEED`.
    pub(crate) fn zero() -> Seed {
        Seed { mix: 0, mul: 1, jenkins: true }
    }
}

/// A size of keys.
pub trait KeyKind: Send + Sync + 'static {
    /// A key in registers, or the pointer to it.
    type Loaded: Copy;
    /// Bytes of the key with padding, if they are known at compile time.
    const PADDED: Option<usize>;

    /// Loads a program's key.
    ///
    /// # Safety
    /// `key` is readable for `size` bytes, and for as long as the result is used.
    unsafe fn load(key: *const u8, size: usize) -> Self::Loaded;

    /// # Safety
    /// What [`KeyKind::load`] asks for still holds.
    unsafe fn hash(key: Self::Loaded, size: usize, seed: &Seed) -> u32;

    /// Whether the element has this key.
    ///
    /// # Safety
    /// `elem` is an element with keys of `size` bytes; what [`KeyKind::load`] asks for still holds.
    unsafe fn matches(elem: *mut u8, key: Self::Loaded, hash: u32, size: usize) -> bool;
}

/// Keys of four bytes.
pub struct Key4;
/// Keys of eight bytes.
pub struct Key8;
/// Keys of sixteen bytes.
pub struct Key16;
/// Keys of any other size, and of maps with `BPF_F_ZERO_SEED`.
pub struct KeyAny;

impl KeyKind for Key4 {
    type Loaded = u32;
    const PADDED: Option<usize> = Some(8);

    #[inline]
    unsafe fn load(key: *const u8, _: usize) -> u32 {
        // SAFETY: four readable bytes (caller).
        unsafe { load4(key) }
    }

    #[inline]
    unsafe fn hash(key: u32, _: usize, seed: &Seed) -> u32 {
        hash1(u64::from(key), seed)
    }

    #[inline]
    unsafe fn matches(elem: *mut u8, key: u32, _: u32, _: usize) -> bool {
        // SAFETY: the key of an element is 8-aligned and at least as long as this one (caller).
        unsafe { AtomicU32::from_ptr(elem.wrapping_add(KEY).cast()) }.load(Ordering::Relaxed) == key
    }
}

impl KeyKind for Key8 {
    type Loaded = u64;
    const PADDED: Option<usize> = Some(8);

    #[inline]
    unsafe fn load(key: *const u8, _: usize) -> u64 {
        // SAFETY: eight readable bytes (caller).
        unsafe { load8(key) }
    }

    #[inline]
    unsafe fn hash(key: u64, _: usize, seed: &Seed) -> u32 {
        hash1(key, seed)
    }

    #[inline]
    unsafe fn matches(elem: *mut u8, key: u64, _: u32, _: usize) -> bool {
        // SAFETY: the key of an element is 8-aligned (caller).
        unsafe { word(elem, 0) == key }
    }
}

impl KeyKind for Key16 {
    type Loaded = (u64, u64);
    const PADDED: Option<usize> = Some(16);

    #[inline]
    unsafe fn load(key: *const u8, _: usize) -> (u64, u64) {
        // SAFETY: the first half of sixteen readable bytes (caller).
        let low = unsafe { load8(key) };
        // SAFETY: the second half.
        let high = unsafe { load8(key.wrapping_add(8)) };
        (low, high)
    }

    #[inline]
    unsafe fn hash(key: (u64, u64), _: usize, seed: &Seed) -> u32 {
        low32(fold(key.0 ^ seed.mix, key.1 ^ seed.mul))
    }

    #[inline]
    unsafe fn matches(elem: *mut u8, key: (u64, u64), hash: u32, _: usize) -> bool {
        // A key of two words can be half rewritten under a reader's eyes: the hash must match too.
        // SAFETY: an element has a hash (caller).
        let same = unsafe { hash_of(elem) } == hash;
        // SAFETY: the key of an element is 8-aligned (caller).
        let low = unsafe { word(elem, 0) };
        // SAFETY: as above.
        let high = unsafe { word(elem, 1) };
        same && low == key.0 && high == key.1
    }
}

impl KeyKind for KeyAny {
    type Loaded = *const u8;
    const PADDED: Option<usize> = None;

    #[inline]
    unsafe fn load(key: *const u8, _: usize) -> *const u8 {
        key
    }

    #[inline]
    unsafe fn hash(key: *const u8, size: usize, seed: &Seed) -> u32 {
        // SAFETY: the caller's duty, passed on.
        unsafe { hash_any(key, size, seed) }
    }

    #[inline]
    unsafe fn matches(elem: *mut u8, key: *const u8, hash: u32, size: usize) -> bool {
        // SAFETY: an element has a hash (caller).
        if unsafe { hash_of(elem) } != hash {
            return false;
        }
        let mut at = 0;
        while at + 8 <= size {
            // SAFETY: the word lies in the element's key (caller).
            let have = unsafe { word(elem, at / 8) };
            // SAFETY: the word lies in the key (caller).
            if have != unsafe { load8(key.wrapping_add(at)) } {
                return false;
            }
            at += 8;
        }
        if at < size {
            // The padding of an element's key is zero.
            // SAFETY: the last, padded word of the element's key (caller).
            let have = unsafe { word(elem, at / 8) };
            // SAFETY: the last bytes of the key (caller).
            return have == unsafe { load_tail(key.wrapping_add(at), size - at) };
        }
        true
    }
}

/// The hash of a key in a buffer, by its size: equal to what the specialised type computes.
///
/// # Safety
/// `key` is readable for `size` bytes.
pub(crate) unsafe fn hash_bytes(key: *const u8, size: usize, seed: &Seed) -> u32 {
    match size {
        // SAFETY: the caller's duty, passed on.
        _ if seed.jenkins => unsafe { hash_any(key, size, seed) },
        // SAFETY: as above.
        4 => hash1(u64::from(unsafe { load4(key) }), seed),
        // SAFETY: as above.
        8 => hash1(unsafe { load8(key) }, seed),
        16 => {
            // SAFETY: as above.
            let loaded = unsafe { Key16::load(key, size) };
            // SAFETY: as above.
            unsafe { Key16::hash(loaded, size, seed) }
        }
        // SAFETY: as above.
        _ => unsafe { hash_any(key, size, seed) },
    }
}

#[inline]
fn hash1(key: u64, seed: &Seed) -> u32 {
    low32(fold(key ^ seed.mix, seed.mul))
}

/// # Safety
/// `key` is readable for `size` bytes.
unsafe fn hash_any(key: *const u8, size: usize, seed: &Seed) -> u32 {
    if seed.jenkins {
        // SAFETY: the caller's duty, passed on.
        return unsafe { lookup3(key, size) };
    }
    let mut state = seed.mix ^ size as u64;
    let mut at = 0;
    while size - at >= 16 {
        // SAFETY: sixteen bytes are left (condition).
        let low = unsafe { load8(key.wrapping_add(at)) };
        // SAFETY: as above.
        let high = unsafe { load8(key.wrapping_add(at + 8)) };
        state = fold(state ^ low, high ^ seed.mul);
        at += 16;
    }
    if size - at >= 8 {
        // SAFETY: eight bytes are left (condition).
        state = fold(state ^ unsafe { load8(key.wrapping_add(at)) }, seed.mul);
        at += 8;
    }
    if at < size {
        // SAFETY: fewer than eight bytes are left.
        state = fold(state ^ unsafe { load_tail(key.wrapping_add(at), size - at) }, seed.mul.rotate_left(32));
    }
    low32(fold(state, seed.mul))
}

/// Two independent hashes of a value, for a Bloom filter.
///
/// # Safety
/// `value` is readable for `size` bytes.
pub(crate) unsafe fn hash_value(value: *const u8, size: usize, seed: &Seed) -> (u32, u32) {
    // SAFETY: the caller's duty, passed on.
    let first = unsafe { hash_any(value, size, seed) };
    let other = Seed { mix: !seed.mix, mul: seed.mul.rotate_left(29) | 1, jenkins: false };
    // SAFETY: as above.
    (first, unsafe { hash_any(value, size, &other) } | 1)
}

/// The 128-bit product, its halves joined.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let halves = (product as u64, (product >> 64) as u64);
    halves.0 ^ halves.1
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the hash is the low half")]
fn low32(hash: u64) -> u32 {
    hash as u32
}

/// lookup3 (Bob Jenkins, 2006, public domain) with seed 0, little-endian.
///
/// # Safety
/// `key` is readable for `size` bytes.
unsafe fn lookup3(key: *const u8, size: usize) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the length is mixed in modulo 2^32")]
    let start = 0xdead_beef_u32.wrapping_add(size as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut at = 0;
    // SAFETY: called below with ranges inside the key only.
    let word = |at: usize, len: usize| low32(unsafe { load_tail(key.wrapping_add(at), len) });
    while size - at > 12 {
        a = a.wrapping_add(word(at, 4));
        b = b.wrapping_add(word(at + 4, 4));
        c = c.wrapping_add(word(at + 8, 4));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        at += 12;
    }
    let left = size - at;
    if left == 0 {
        return c;
    }
    a = a.wrapping_add(word(at, left.min(4)));
    if left > 4 {
        b = b.wrapping_add(word(at + 4, (left - 4).min(4)));
    }
    if left > 8 {
        c = c.wrapping_add(word(at + 8, left - 8));
    }
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// The hash that an element carries.
///
/// # Safety
/// `elem` is an element.
#[inline]
pub(super) unsafe fn hash_of(elem: *mut u8) -> u32 {
    // SAFETY: the caller's duty: an element is 8-aligned and longer than its head.
    unsafe { AtomicU32::from_ptr(elem.wrapping_add(HASH).cast()) }.load(Ordering::Relaxed)
}

/// Word `at` of an element's key.
///
/// # Safety
/// `elem` is an element whose padded key has this word.
#[inline]
unsafe fn word(elem: *mut u8, at: usize) -> u64 {
    // SAFETY: the caller's duty.
    unsafe { AtomicU64::from_ptr(elem.wrapping_add(KEY + at * 8).cast()) }.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &[u8], seed: &Seed) -> u32 {
        // SAFETY: a buffer of its length.
        unsafe { hash_bytes(key.as_ptr(), key.len(), seed) }
    }

    #[test]
    fn lookup3_gives_its_published_values() {
        // From the driver of lookup3.c: hashlittle("Four score and seven years ago", 30, 0).
        let text = b"Four score and seven years ago";
        assert_eq!(of(text, &Seed::zero()), 0x1777_0551);
        assert_eq!(of(b"", &Seed::zero()), 0xdead_beef);
    }

    #[test]
    fn every_byte_counts_at_every_size() {
        let seed = Seed::random();
        for size in 1..=70 {
            let key = vec![0x5a_u8; size];
            let hash = of(&key, &seed);
            for at in 0..size {
                let mut other = key.clone();
                other[at] ^= 1;
                assert_ne!(of(&other, &seed), hash, "byte {at} of {size}");
            }
        }
    }

    #[test]
    fn sequential_keys_spread_over_buckets() {
        let seed = Seed::random();
        let mut counts = vec![0_u32; 1024];
        for key in 0..4096_u64 {
            counts[(of(&key.to_ne_bytes(), &seed) & 1023) as usize] += 1;
        }
        // Expected 4 a bucket, and 11 in the fullest for half of all seeds; the worst seeds have some 30.
        assert!(counts.iter().all(|&count| count < 64), "{:?}", counts.iter().max());
    }
}
