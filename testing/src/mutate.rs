//! Damaged copies of real input: the generator that fuzz targets and the one-second tests share.
//!
//! Invariant: a seed gives the same bytes everywhere, and what comes out is at most twice as long as what went in.

/// A small generator of numbers (xorshift64*): the same seed, the same sequence.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts the sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from((self.next_u64() >> 11).checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }
}

/// Numbers at which size checks go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0xff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fff8,
    u64::MAX,
];

/// A copy of `base` with one to four things done to it, most often one; `other` is what pieces are taken from.
#[must_use]
pub fn mutate(rng: &mut Rng, base: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = base.to_vec();
    for _ in 0..=rng.below(4).min(rng.below(4)) {
        mutate_once(rng, &mut out, other);
        out.truncate(base.len().saturating_mul(2).max(64));
    }
    out
}

fn mutate_once(rng: &mut Rng, out: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(out.len());
    match rng.below(10) {
        0 | 1 => {
            let bit = rng.below(8);
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        2 => {
            let random = rng.next_u64().to_le_bytes();
            overwrite(out, at, &random[..1]);
        }
        // Fields are aligned words: an edge in one of them reaches deeper than a random byte.
        3 | 4 => {
            let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
            let size = [2, 4, 4, 8][rng.below(4)];
            overwrite(out, at - at % size, &edge[..size]);
        }
        5 => {
            // A small step: off by one, by an instruction, by an entry.
            let step = [1i32, -1, 8, -8, 12, 24, 64, -64][rng.below(8)];
            let at = at - at % 4;
            if let Some(word) = out.get_mut(at..at + 4) {
                let old = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                word.copy_from_slice(&old.wrapping_add_signed(step).to_le_bytes());
            }
        }
        6 => out.truncate(at),
        7 => {
            // A piece of another input, or of this one, over or into it.
            let source = if rng.below(2) == 0 { other.to_vec() } else { out.clone() };
            let piece = piece(rng, &source);
            overwrite(out, at, &piece);
        }
        8 => {
            let source = out.clone();
            let piece = piece(rng, &source);
            out.splice(at..at, piece);
        }
        _ => {
            let end = (at + rng.below(64)).min(out.len());
            out.drain(at..end);
        }
    }
}

fn piece(rng: &mut Rng, source: &[u8]) -> Vec<u8> {
    let start = rng.below(source.len());
    let len = [4, 8, 12, 16, 24, 64, 256][rng.below(7)];
    source[start..(start + len).min(source.len())].to_vec()
}

fn overwrite(out: &mut [u8], at: usize, new: &[u8]) {
    for (place, byte) in out.iter_mut().skip(at).zip(new) {
        *place = *byte;
    }
}

/// The objects that the project commits: the examples and those that the tests of `skep-object` were made for.
///
/// # Panics
/// A folder of the source tree cannot be read.
#[must_use]
pub fn committed_objects() -> Vec<(String, Vec<u8>)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut out = Vec::new();
    for folder in ["examples", "crates/object/tests/c"] {
        let path = format!("{root}/{folder}");
        for entry in std::fs::read_dir(&path).expect(&path) {
            let path = entry.expect(&path).path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(".bpf.o") {
                out.push((name, std::fs::read(&path).expect("an object that was listed")));
            }
        }
    }
    out.sort();
    out
}
