//! The context of an iterator over the elements of a map: `struct bpf_iter__bpf_map_elem` and what it points to.
//!
//! One block of words holds the four pointers, then the kernel objects behind them, then the key, so that all of it is
//! read-only context memory. Invariant: the value's address is null or valid for the value's size while the context is run.
//! Kernel counterpart: kernel/bpf/map_iter.c, `struct bpf_iter_meta`, 6.18.

use std::ptr::NonNull;

use skep_abi::ctx::{BPF_MAP_ELEM, kernel_struct};

use super::{Context, CtxParts, CtxType, Packet};
use crate::map::MapInfo;

/// Bytes that one element's text may have: eight pages, as the kernel's reader has them.
pub(crate) const SEQ_BYTES: usize = 8 * 4096;

/// What `bpf_seq_write` and `bpf_seq_printf` append to (`struct seq_file`).
#[derive(Debug, Default)]
pub(crate) struct Seq {
    pub(crate) bytes: Vec<u8>,
    pub(crate) overflowed: bool,
}

impl Seq {
    /// Appends `bytes`, or remembers that they did not fit; the kernel keeps the last byte of its buffer free.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = !self.overflowed && self.bytes.len() + bytes.len() < SEQ_BYTES;
        if fits {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.overflowed = true;
        }
        fits
    }
}

/// Where the parts are, in words.
#[derive(Clone, Copy, Debug)]
struct Places {
    meta: usize,
    map: usize,
    seq: usize,
    key: usize,
}

fn words_of(name: &str) -> usize {
    kernel_struct(name).map_or(0, |(_, known)| known.size as usize / 8)
}

/// One element, as a program sees it.
#[derive(Debug)]
pub(crate) struct MapElem {
    words: Vec<u64>,
    places: Places,
    /// First byte and end.
    value: (u64, u64),
    pub(crate) seq: Seq,
}

impl MapElem {
    /// The context of a walk over the map with this description.
    pub(crate) fn new(info: &MapInfo, session: u64) -> Self {
        let meta = BPF_MAP_ELEM.size as usize / 8;
        let map = meta + words_of("bpf_iter_meta");
        let seq = map + words_of("bpf_map");
        let key = seq + 1;
        let words = vec![0; key + (info.key_size as usize).div_ceil(8)];
        let mut out = Self { words, places: Places { meta, map, seq, key }, value: (0, 0), seq: Seq::default() };
        out.words[meta + 1] = session;
        let number = |name: &str| match name {
            "map_type" => u64::from(info.map_type as u32),
            "key_size" => u64::from(info.key_size),
            "value_size" => u64::from(info.value_size),
            "max_entries" => u64::from(info.max_entries),
            "map_flags" => u64::from(info.flags | info.user_flags),
            "map_extra" => info.map_extra,
            "id" => u64::from(info.id),
            _ => 0,
        };
        for field in kernel_struct("bpf_map").map_or(&[][..], |(_, known)| known.fields) {
            let bytes = number(field.name).to_ne_bytes();
            let text = info.name.as_bytes();
            let from = if field.name == "name" { &text[..text.len().min(15)] } else { &bytes[..field.size as usize] };
            out.write(map * 8 + field.offset as usize, from);
        }
        out
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mut word = self.words[at / 8].to_ne_bytes();
            word[at % 8] = *byte;
            self.words[at / 8] = u64::from_ne_bytes(word);
        }
    }

    /// Points to an element, or past the last one.
    ///
    /// `value` is its value's first byte and its size in bytes.
    ///
    /// # Safety
    /// The value stays valid, and may be written if the program writes it, until the context has been run.
    pub(crate) unsafe fn set(&mut self, element: Option<(&[u8], (*mut u8, usize))>, seq_num: u64) {
        let Places { meta, map, seq, key } = self.places;
        self.words[meta + 2] = seq_num;
        if let Some((bytes, _)) = element {
            self.write(key * 8, bytes);
        }
        let base = self.words.as_mut_ptr();
        let address = |word: usize| base.wrapping_add(word).expose_provenance() as u64;
        let (to_meta, to_map, to_seq, to_key) = (address(meta), address(map), address(seq), address(key));
        self.words[meta] = to_seq;
        self.value = element.map_or((0, 0), |(_, (value, len))| {
            let start = value.expose_provenance() as u64;
            (start, start + len as u64)
        });
        let key = if element.is_some() { to_key } else { 0 };
        self.words[..4].copy_from_slice(&[to_meta, to_map, key, self.value.0]);
    }
}

// SAFETY: the words are owned, initialised and borrowed exclusively; the value is valid (`set`).
unsafe impl Context for MapElem {
    const TYPE: CtxType = CtxType::MapElem;

    fn parts(&mut self) -> CtxParts {
        let len = u32::try_from(self.words.len() * 8).unwrap_or(u32::MAX);
        let object = NonNull::new(self.words.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let packet = Packet::MapElem(NonNull::from(&mut self.seq), self.value);
        CtxParts::plain(object.cast(), len, 0).with_packet(packet)
    }
}
