//! Contexts without a packet: raw tracepoint arguments and the bytes of a syscall program.
//!
//! Invariant: the object is 8-byte aligned. Kernel counterpart: `bpf_prog_test_run_raw_tp`, `bpf_prog_test_run_syscall`,
//! net/bpf/test_run.c, 6.18.

use std::ptr::NonNull;

use super::{Context, CtxParts, CtxType, Packet};

/// Arguments of a raw tracepoint program: `u64 args[]`, 12 at most; missing ones are 0.
#[derive(Clone, Debug)]
pub struct RawTp {
    args: [u64; Self::MAX],
}

impl RawTp {
    /// How many arguments there are at most (`MAX_BPF_FUNC_ARGS`).
    pub const MAX: usize = 12;

    /// These arguments; those beyond the twelfth are dropped.
    #[must_use]
    pub fn args(args: &[u64]) -> Self {
        let mut all = [0; Self::MAX];
        for (to, from) in all.iter_mut().zip(args) {
            *to = *from;
        }
        Self { args: all }
    }
}

// SAFETY: the array is owned, initialised and borrowed exclusively.
unsafe impl Context for RawTp {
    const TYPE: CtxType = CtxType::RawTp;

    #[inline]
    fn parts(&mut self) -> CtxParts {
        CtxParts::plain(NonNull::from(&mut self.args).cast(), 8 * 12, 0)
    }
}

/// The context of a syscall program: bytes that it may read and write, 64 KiB at most.
#[derive(Clone, Debug)]
pub struct Syscall {
    words: Vec<u64>,
    len: usize,
    user: Vec<u8>,
}

impl Syscall {
    /// How many bytes there are at most (`U16_MAX`).
    pub const MAX: usize = 65535;

    /// A copy of `bytes`.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        let words = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        Self { words, len: bytes.len(), user: Vec::new() }
    }

    /// Lends the run memory, which its program reaches by address: with `bpf_copy_from_user`, and as memory of `bpf_sys_bpf`.
    #[must_use]
    pub fn with_user_memory(mut self, memory: Vec<u8>) -> Self {
        self.user = memory;
        self
    }

    /// Where the lent memory begins, the same until the context is dropped.
    #[must_use]
    pub fn user_address(&self) -> u64 {
        self.user.as_ptr().expose_provenance() as u64
    }

    /// The lent memory as it is now.
    #[must_use]
    pub fn user_memory(&self) -> &[u8] {
        &self.user
    }

    /// Puts a number into the context, where a program expects it; nothing happens beyond its end.
    pub fn set_u64(&mut self, at: usize, value: u64) {
        if at.saturating_add(8) <= self.len && at.is_multiple_of(8) {
            self.words[at / 8] = value;
        }
    }

    /// The bytes as they are now.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(self.len);
        bytes
    }
}

// SAFETY: the vector is owned, initialised and borrowed exclusively.
unsafe impl Context for Syscall {
    const TYPE: CtxType = CtxType::Syscall;

    #[inline]
    fn parts(&mut self) -> CtxParts {
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        let object = NonNull::new(self.words.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let user = self.user.as_mut_ptr().expose_provenance() as u64;
        let lent = Packet::Bytes(user, user + self.user.len() as u64);
        CtxParts::plain(object.cast(), len, len).with_packet(lent)
    }
}
