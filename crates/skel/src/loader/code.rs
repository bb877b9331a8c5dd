//! The instructions of a loader program, and the bytes that they work on.
//!
//! Owns the two sequences that are everywhere in it: an address inside the data, and a call that may fail. Invariant: r6
//! is the context, r7 the result of the last call, and nothing else lives across a call. Kernel counterpart: none.

use skep_abi::RawInsn;
use skep_object::spec::PSEUDO_MAP_IDX_VALUE;

use crate::error::{Error, Result};

const R0: u8 = 0;
pub(super) const R1: u8 = 1;
pub(super) const R2: u8 = 2;
pub(super) const R3: u8 = 3;
pub(super) const R4: u8 = 4;
pub(super) const CTX: u8 = 6;
pub(super) const RESULT: u8 = 7;

const LD_IMM64: u8 = 0x18;
const LDX_W: u8 = 0x61;
const LDX_DW: u8 = 0x79;
const STX_H: u8 = 0x6b;
const STX_W: u8 = 0x63;
const STX_DW: u8 = 0x7b;
const ST_W: u8 = 0x62;
const MOV64_K: u8 = 0xb7;
const MOV64_X: u8 = 0xbf;
const RSH64_K: u8 = 0x77;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JA: u8 = 0x05;
const JA32: u8 = 0x06;
const JEQ_K: u8 = 0x15;
const JSET_K: u8 = 0x45;
const JSGE_K: u8 = 0x75;
const JSLT_K: u8 = 0xc5;
const JSLE32_K: u8 = 0xd6;

const COPY_FROM_USER: i32 = 148;
const PROBE_READ_KERNEL: i32 = 113;
const SYS_BPF: i32 = 166;
const FIND_BY_NAME_KIND: i32 = 167;
const SYS_CLOSE: i32 = 168;

/// A jump whose distance is not known yet.
#[must_use]
pub(super) struct Forward(usize);

/// Code and data under construction.
pub(super) struct Code {
    pub(super) insns: Vec<RawInsn>,
    pub(super) data: Vec<u8>,
    /// Where the descriptors lie in the data.
    fds: u32,
    fd_count: u32,
    /// First instruction of the path that closes everything and returns r7.
    cleanup: usize,
}

impl Code {
    /// The beginning: the path for errors, then where the loader starts. `fd_count` descriptors are kept.
    pub(super) fn new(fd_count: u32) -> Result<Self> {
        let mut code = Self { insns: Vec::new(), data: Vec::new(), fds: 0, fd_count, cleanup: 0 };
        code.fds = code.reserve(fd_count as usize * 4)?;
        code.op(MOV64_X, CTX, R1, 0, 0);
        let start = code.jump(JA, R0, 0);
        code.cleanup = code.insns.len();
        for slot in 0..fd_count {
            code.close(slot);
        }
        code.op(MOV64_X, R0, RESULT, 0, 0);
        code.op(EXIT, 0, 0, 0, 0);
        code.land(start)?;
        Ok(code)
    }

    /// Adds bytes to the data; where they are.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = self.data.len().next_multiple_of(8);
        self.data.resize(at, 0);
        self.data.extend_from_slice(bytes);
        // An instruction addresses less than 512 MiB of a value.
        u32::try_from(at).ok().filter(|_| self.data.len() < 1 << 29).ok_or(Error::LoaderTooLarge)
    }

    /// Adds zeroes to the data.
    pub(super) fn reserve(&mut self, len: usize) -> Result<u32> {
        self.put(&vec![0; len])
    }

    /// Where the array of descriptors is.
    pub(super) fn fd_array(&self) -> u32 {
        self.fds
    }

    fn op(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(RawInsn { code, dst, src, off, imm });
    }

    fn jump(&mut self, code: u8, dst: u8, imm: i32) -> Forward {
        self.op(code, dst, 0, 0, imm);
        Forward(self.insns.len().saturating_sub(1))
    }

    /// Ends a forward jump here.
    pub(super) fn land(&mut self, jump: Forward) -> Result<()> {
        let distance = self.insns.len().saturating_sub(jump.0).saturating_sub(1);
        let insn = self.insns.get_mut(jump.0).ok_or(Error::LoaderTooLarge)?;
        if let Ok(off) = i16::try_from(distance) {
            insn.off = off;
        } else if insn.code == JA {
            insn.code = JA32;
            insn.imm = i32::try_from(distance).map_err(|_| Error::LoaderTooLarge)?;
        } else {
            return Err(Error::LoaderTooLarge);
        }
        Ok(())
    }

    /// `reg = &data[at]`.
    pub(super) fn address(&mut self, reg: u8, at: u32) {
        self.op(LD_IMM64, reg, PSEUDO_MAP_IDX_VALUE, 0, 0);
        self.op(0, 0, 0, 0, at.cast_signed());
    }

    /// `reg = value`.
    pub(super) fn constant(&mut self, reg: u8, value: i32) {
        self.op(MOV64_K, reg, 0, 0, value);
    }

    /// `*(u64 *)&data[at] = &data[target]`.
    pub(super) fn store_address(&mut self, at: u32, target: u32) {
        self.address(R1, target);
        self.address(R2, at);
        self.op(STX_DW, R2, R1, 0, 0);
    }

    /// `*(u32 *)&data[at] = value`.
    pub(super) fn store_constant(&mut self, at: u32, value: i32) {
        self.address(R1, at);
        self.op(ST_W, R1, 0, 0, value);
    }

    /// `*(u32 *)&data[at] = fd`.
    pub(super) fn store_fd(&mut self, at: u32, slot: u32) {
        self.load_fd(slot);
        self.address(R2, at);
        self.op(STX_W, R2, R1, 0, 0);
    }

    /// `fd = r7`.
    pub(super) fn keep_fd(&mut self, slot: u32) {
        self.address(R1, self.fd_at(slot));
        self.op(STX_W, R1, RESULT, 0, 0);
    }

    /// The context's `u32` at `to = fd`.
    pub(super) fn give_fd(&mut self, to: i16, slot: u32) {
        self.load_fd(slot);
        self.op(STX_W, CTX, R1, to, 0);
    }

    /// `*(u32 *)&data[at] =` the context's `u32` at `from`.
    pub(super) fn copy_word(&mut self, at: u32, from: i16) {
        self.op(LDX_W, R1, CTX, from, 0);
        self.address(R2, at);
        self.op(STX_W, R2, R1, 0, 0);
    }

    /// As [`Code::copy_word`], unless it is 0.
    pub(super) fn copy_word_if_set(&mut self, at: u32, from: i16) -> Result<()> {
        self.op(LDX_W, R1, CTX, from, 0);
        let unset = self.jump(JEQ_K, R1, 0);
        self.address(R2, at);
        self.op(STX_W, R2, R1, 0, 0);
        self.land(unset)
    }

    /// `*(u64 *)&data[at] =` the context's `u64` at `from`.
    pub(super) fn copy_long(&mut self, at: u32, from: i16) {
        self.op(LDX_DW, R1, CTX, from, 0);
        self.address(R2, at);
        self.op(STX_DW, R2, R1, 0, 0);
    }

    /// Copies `len` bytes from the address in the context's `u64` at `from` to `data[at..]`, unless it is 0.
    pub(super) fn copy_memory(&mut self, at: u32, len: u32, from: i16, flags: i16, kernel: i32) -> Result<()> {
        self.op(LDX_DW, R3, CTX, from, 0);
        let unset = self.jump(JEQ_K, R3, 0);
        self.address(R1, at);
        self.constant(R2, len.cast_signed());
        self.op(LDX_W, R0, CTX, flags, 0);
        let in_kernel = self.jump(JSET_K, R0, kernel);
        self.op(CALL, 0, 0, 0, COPY_FROM_USER);
        let done = self.jump(JA, R0, 0);
        self.land(in_kernel)?;
        self.op(CALL, 0, 0, 0, PROBE_READ_KERNEL);
        self.land(done)?;
        self.checked();
        self.land(unset)
    }

    /// bpf(2) with the attribute at `data[attr..]`; on failure, everything is closed and the errno returned.
    pub(super) fn bpf(&mut self, cmd: i32, attr: u32, len: usize) {
        self.bpf_unchecked(cmd, attr, len);
        self.failing_returns();
    }

    /// bpf(2); the result is in r7.
    pub(super) fn bpf_unchecked(&mut self, cmd: i32, attr: u32, len: usize) {
        self.constant(R1, cmd);
        self.address(R2, attr);
        self.constant(R3, i32::try_from(len).unwrap_or(i32::MAX));
        self.op(CALL, 0, 0, 0, SYS_BPF);
        self.op(MOV64_X, RESULT, R0, 0, 0);
    }

    /// A jump that is taken if r7 is no error.
    pub(super) fn if_succeeded(&mut self) -> Forward {
        self.jump(JSGE_K, RESULT, 0)
    }

    /// A jump that is taken if r7 is an error.
    pub(super) fn if_failed(&mut self) -> Forward {
        self.jump(JSLT_K, RESULT, 0)
    }

    /// If r7 is an error, everything is closed and it is returned.
    pub(super) fn failing_returns(&mut self) {
        let distance = |to: usize, from: usize| i64::try_from(to).unwrap_or(0) - i64::try_from(from).unwrap_or(0) - 1;
        let here = self.insns.len();
        if let Ok(off) = i16::try_from(distance(self.cleanup, here)) {
            self.op(JSLT_K, RESULT, 0, off, 0);
            return;
        }
        self.op(JSGE_K, RESULT, 0, 1, 0);
        let off = i32::try_from(distance(self.cleanup, here.saturating_add(1))).unwrap_or(i32::MIN);
        self.op(JA32, 0, 0, 0, off);
    }

    fn checked(&mut self) {
        self.op(MOV64_X, RESULT, R0, 0, 0);
        self.failing_returns();
    }

    /// Looks a name up among the kernel's types; r7 is the id, with the descriptor of a module's types above it.
    pub(super) fn find(&mut self, name: &str, kind: i32) -> Result<()> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        let len = i32::try_from(bytes.len()).map_err(|_| Error::LoaderTooLarge)?;
        let at = self.put(&bytes)?;
        self.address(R1, at);
        self.constant(R2, len);
        self.constant(R3, kind);
        self.constant(R4, 0);
        self.op(CALL, 0, 0, 0, FIND_BY_NAME_KIND);
        self.op(MOV64_X, RESULT, R0, 0, 0);
        Ok(())
    }

    /// `*(u32 *)&data[at] =` the low half of r7.
    pub(super) fn store_low(&mut self, at: u32) {
        self.address(R1, at);
        self.op(STX_W, R1, RESULT, 0, 0);
    }

    /// `*(u32 *)&data[at] =` the high half of r7.
    pub(super) fn store_high(&mut self, at: u32) {
        self.high();
        self.address(R1, at);
        self.op(STX_W, R1, R2, 0, 0);
    }

    /// If the high half of r7 is a descriptor: keeps it in `slot`, and the slot's number in the `u16` at each of `offs`.
    pub(super) fn keep_high(&mut self, slot: u32, offs: &[u32]) -> Result<()> {
        let number = i32::try_from(slot).ok().filter(|n| *n <= 0x7fff).ok_or(Error::LoaderTooLarge)?;
        self.high();
        let none = self.jump(JEQ_K, R2, 0);
        self.address(R1, self.fd_at(slot));
        self.op(STX_W, R1, R2, 0, 0);
        self.constant(R2, number);
        for &at in offs {
            self.address(R1, at);
            self.op(STX_H, R1, R2, 0, 0);
        }
        self.land(none)
    }

    /// r2 = the high half of r7.
    fn high(&mut self) {
        self.op(MOV64_X, R2, RESULT, 0, 0);
        self.op(RSH64_K, R2, 0, 0, 32);
    }

    /// Closes a descriptor, if there is one in the slot.
    pub(super) fn close(&mut self, slot: u32) {
        self.load_fd(slot);
        self.op(JSLE32_K, R1, 0, 1, 0);
        self.op(CALL, 0, 0, 0, SYS_CLOSE);
    }

    /// Returns 0.
    pub(super) fn succeed(&mut self) {
        self.constant(R0, 0);
        self.op(EXIT, 0, 0, 0, 0);
    }

    /// r1 = the descriptor in a slot.
    fn load_fd(&mut self, slot: u32) {
        self.address(R1, self.fd_at(slot));
        self.op(LDX_W, R1, R1, 0, 0);
    }

    /// Where a slot is in the data.
    pub(super) fn fd_at(&self, slot: u32) -> u32 {
        debug_assert!(slot < self.fd_count, "a slot that was not counted");
        self.fds.saturating_add(slot.saturating_mul(4))
    }
}
