//! Atomic operations.
//!
//! Owns which memory they may touch. Invariant: what an atomic reads and writes was checked as a load and as a store.
//! Kernel counterpart: `check_atomic`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{AtomicOp, Reg as R, Size};

use crate::check::Access;
use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::print::type_name;
use crate::state::reg::{Base, RegType};

impl Env<'_> {
    fn check_atomic_pointer(&mut self, base: R, what: &str, is_loop: bool) -> Check {
        let reg = *self.reg(base.number());
        let refused = match reg.base() {
            Base::Ctx
            | Base::Packet
            | Base::PacketMeta
            | Base::FlowKeys
            | Base::Socket
            | Base::SockCommon
            | Base::TcpSock
            | Base::XdpSock => true,
            // What x86 does by a loop cannot fault half-way there.
            Base::Arena => is_loop,
            _ => false,
        };
        if refused {
            let name = type_name(reg.ty);
            return Err(reject!(self, EACCES, "BPF_ATOMIC {what} R{} {name} is not allowed", base.number()));
        }
        Ok(())
    }

    fn check_value_leak(&mut self, reg: R) -> Check {
        if self.leaks(reg.number()) {
            return Err(reject!(self, EACCES, "R{} leaks addr into mem", reg.number()));
        }
        Ok(())
    }

    /// `lock *(u64 *)(base + off) op= src`, with or without fetch.
    pub(crate) fn check_atomic(&mut self, op: AtomicOp, fetch: bool, size: Size, base: R, off: i16, src: R) -> Check {
        let off = i32::from(off);
        self.check_src(src)?;
        self.check_src(base)?;
        if op == AtomicOp::Cmpxchg {
            self.check_src(R::R0)?;
            self.check_value_leak(R::R0)?;
        }
        self.check_value_leak(src)?;
        let is_loop = fetch && matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
        self.check_atomic_pointer(base, "stores into", is_loop)?;
        let fetches =
            (fetch || matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg)) && !mutant::active(Mutant::StaleFetch);
        let load = fetches.then_some(if op == AtomicOp::Cmpxchg { R::R0 } else { src });
        let arena = self.reg(base.number()).base() == Base::Arena;
        if let Some(load) = load {
            // A base that is loaded itself is no pointer any more.
            self.check_dst(load)?;
        }
        self.check_mem_strict(base, off, size.bytes(), Access::Read, None, false, true)?;
        let mut loaded = None;
        if let Some(load) = load {
            self.check_mem_strict(base, off, size.bytes(), Access::Read, Some(load), false, true)?;
            loaded = Some((load, *self.reg(load.number())));
        }
        if arena {
            self.keep_ptr_type(RegType::of(Base::Arena))?;
        }
        self.check_mem_strict(base, off, size.bytes(), Access::Write, None, false, true)?;
        if let Some((load, value)) = loaded {
            self.set_reg(load.number(), value);
        }
        Ok(())
    }

    /// `dst = load_acquire((u32 *)(base + off))`.
    pub(crate) fn check_load_acquire(&mut self, size: Size, dst: R, base: R, off: i16) -> Check {
        self.check_src(base)?;
        self.check_dst_no_mark(dst)?;
        let ty = self.reg(base.number()).ty;
        self.check_atomic_pointer(base, "loads from", false)?;
        self.check_mem_strict(base, i32::from(off), size.bytes(), Access::Read, Some(dst), false, true)?;
        self.keep_ptr_type(ty)
    }

    /// `store_release((u32 *)(base + off), src)`.
    pub(crate) fn check_store_release(&mut self, size: Size, base: R, off: i16, src: R) -> Check {
        self.check_src(src)?;
        self.check_src(base)?;
        let ty = self.reg(base.number()).ty;
        self.check_atomic_pointer(base, "stores into", false)?;
        self.check_mem_strict(base, i32::from(off), size.bytes(), Access::Write, Some(src), false, true)?;
        self.keep_ptr_type(ty)
    }
}
