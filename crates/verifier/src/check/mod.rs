//! What one instruction may do, and what it makes of the state.
//!
//! Owns the dispatch over instructions. Invariant: an instruction without an arm here is refused. Kernel counterpart:
//! `do_check_insn`, kernel/bpf/verifier.c, 6.18.

pub(crate) mod alu;
pub(crate) mod arg;
pub(crate) mod atomic;
pub(crate) mod btf;
pub(crate) mod call;
pub(crate) mod callback;
pub(crate) mod ctx;
pub(crate) mod dynptr;
pub(crate) mod exception;
pub(crate) mod exit;
pub(crate) mod ext;
pub(crate) mod global;
pub(crate) mod graph;
pub(crate) mod helper;
pub(crate) mod iter;
pub(crate) mod jmp;
pub(crate) mod kfunc;
pub(crate) mod kfunc_arg;
pub(crate) mod kptr;
pub(crate) mod legacy;
pub(crate) mod lock;
pub(crate) mod map_helper;
pub(crate) mod mem;
pub(crate) mod packet;
pub(crate) mod refs;
pub(crate) mod sanitize;
pub(crate) mod stack;

use skep_abi::Errno;
use skep_abi::{CallTarget, Imm64, Insn, Operand, Reg as R};

use crate::env::{Check, Env, log, reject};
use crate::explore::Flow;
use crate::state::reg::{Base, Extra, Reg, RegType};
use crate::verified::RejectionKind;

/// Direction of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Env<'_> {
    /// A register is read.
    pub(crate) fn check_src(&mut self, reg: R) -> Check {
        self.scratch_reg(reg.number());
        if self.reg(reg.number()).base() == Base::NotInit {
            return Err(reject!(self, EACCES, "R{} !read_ok", reg.number()));
        }
        Ok(())
    }

    /// A register is written; its old value stays for now.
    pub(crate) fn check_dst_no_mark(&mut self, reg: R) -> Check {
        self.scratch_reg(reg.number());
        if reg == R::R10 {
            return Err(reject!(self, EACCES, "frame pointer is read only"));
        }
        Ok(())
    }

    /// A register is written and forgotten.
    pub(crate) fn check_dst(&mut self, reg: R) -> Check {
        self.check_dst_no_mark(reg)?;
        self.set_unknown(reg.number());
        Ok(())
    }

    /// Makes a register an unknown number.
    pub(crate) fn set_unknown(&mut self, reg: u8) {
        let unknown = self.unknown();
        self.set_reg(reg, unknown);
    }

    /// An unknown number; without `CAP_BPF` every scalar is precise, as nothing is tracked back.
    pub(crate) fn unknown(&self) -> Reg {
        Reg { precise: !self.caps.bpf, ..Reg::UNKNOWN }
    }

    /// Whether showing the register's value would tell an address to a user who must not know it.
    pub(crate) fn leaks(&self, reg: u8) -> bool {
        !self.caps.perfmon && self.reg(reg).is_pointer()
    }

    /// Checks the current instruction and steps to the next.
    pub(crate) fn check_insn(&mut self, print_state: &mut bool) -> Check<Flow> {
        let at = self.insn;
        let Some(insn) = self.insn_at(at) else { return Err(self.undefined_encoding()) };
        let mut next = at + 1;
        match insn {
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::End { .. } => self.check_alu(insn)?,
            Insn::LdImm64 { dst, imm } => {
                self.check_ld_imm64(dst, imm)?;
                next = at + 2;
            }
            Insn::Load { size, sign_extend, dst, base, off } => {
                self.check_src(base)?;
                self.check_dst_no_mark(dst)?;
                let ty = self.reg(base.number()).ty;
                self.check_mem(base, i32::from(off), size.bytes(), Access::Read, Some(dst), sign_extend)?;
                self.keep_ptr_type(ty)?;
            }
            Insn::LoadAcquire { size, dst, base, off } => self.check_load_acquire(size, dst, base, off)?,
            Insn::StoreRelease { size, base, off, src } => self.check_store_release(size, base, off, src)?,
            Insn::Atomic { op, fetch, size, base, off, src } => self.check_atomic(op, fetch, size, base, off, src)?,
            Insn::Store { size, base, off, src } => {
                if let Operand::Reg(src) = src {
                    self.check_src(src)?;
                }
                self.check_src(base)?;
                let ty = self.reg(base.number()).ty;
                let value = match src {
                    Operand::Reg(src) => Some(src),
                    Operand::Imm(_) => None,
                };
                self.check_mem(base, i32::from(off), size.bytes(), Access::Write, value, false)?;
                self.keep_ptr_type(ty)?;
            }
            Insn::LdAbs { .. } => self.check_ld_abs(None)?,
            Insn::LdInd { src, .. } => self.check_ld_abs(Some(src))?,
            Insn::Ja { off, .. } => {
                self.jmps_processed += 1;
                next = Self::relative(at, off);
            }
            Insn::Jcond { width, op, dst, src, off } => {
                self.jmps_processed += 1;
                next = self.check_jcond(width, op, dst, src, off)?;
            }
            Insn::MayGoto { off } => {
                self.jmps_processed += 1;
                next = self.check_may_goto(off)?;
            }
            Insn::Exit => {
                self.jmps_processed += 1;
                return self.check_exit(print_state);
            }
            Insn::Call { target } => return self.check_call(target),
            Insn::AddrSpaceCast { dst, src, imm } => self.check_addr_space_cast(dst, src, imm)?,
            Insn::MovPercpu { .. } | Insn::TailCall { .. } => return Err(self.undefined_encoding()),
        }
        self.insn = next;
        Ok(Flow::Continue)
    }

    fn check_call(&mut self, target: CallTarget) -> Check<Flow> {
        let at = self.insn;
        self.jmps_processed += 1;
        if self.cur.res.locks > 0 {
            self.check_call_under_lock(target)?;
        }
        match target {
            CallTarget::Subprog(off) => self.check_subprog_call(off)?,
            CallTarget::Helper(id) => {
                self.check_helper_call(id)?;
                if self.insn == at {
                    self.insn = at + 1;
                }
            }
            CallTarget::Kfunc { id, .. } => {
                if self.check_kfunc_call(id)? == Flow::End {
                    return Ok(Flow::End);
                }
                if self.insn == at {
                    self.insn = at + 1;
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// The memory behind an instruction must be of one kind on all paths, where loads are rewritten by kind.
    pub(crate) fn keep_ptr_type(&mut self, ty: RegType) -> Check {
        let at = self.insn as usize;
        let odd = |t: RegType| {
            matches!(
                t.base,
                Base::Ctx | Base::Socket | Base::SockCommon | Base::TcpSock | Base::XdpSock | Base::BtfId | Base::Arena
            )
        };
        match self.aux[at].ptr_type {
            None => self.aux[at].ptr_type = Some(ty),
            Some(prev) if prev != ty && (odd(prev) || odd(ty)) => {
                return Err(reject!(self, EINVAL, "same insn cannot be used with different pointers"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// What the decoder refused.
    fn undefined_encoding(&mut self) -> Box<crate::env::Reject> {
        let at = self.insn as usize;
        let message = match skep_abi::decode(self.spec.insns, at) {
            Err(e) => e.to_string(),
            Ok(_) => "invalid instruction".to_owned(),
        };
        self.reject(Errno::EINVAL, RejectionKind::Malformed, message)
    }

    fn check_ld_imm64(&mut self, dst: R, imm: Imm64) -> Check {
        self.check_dst(dst)?;
        let d = dst.number();
        match imm {
            Imm64::Const(v) => {
                let reg = Reg { precise: !self.caps.bpf, ..Reg::constant(v) };
                self.set_reg(d, reg);
            }
            Imm64::MapFd(map) | Imm64::MapIdx(map) => {
                let map = map.cast_unsigned();
                let extra = Extra::Map { map, inner: false, uid: 0 };
                self.set_reg(d, Reg::pointer(RegType::of(Base::ConstMap), extra));
            }
            // The address at which user space has it: a number, which was set above.
            Imm64::MapValue { fd: map, .. } | Imm64::MapIdxValue { idx: map, .. }
                if self.arena == Some(map.cast_unsigned()) => {}
            Imm64::MapValue { fd, off } | Imm64::MapIdxValue { idx: fd, off } => {
                let extra = Extra::Map { map: fd.cast_unsigned(), inner: false, uid: 0 };
                let mut reg = Reg::pointer(RegType::of(Base::MapValue), extra);
                reg.off = off.cast_signed();
                // There is one such value: its identity is the map's, and it has no id of its own.
                self.set_reg(d, reg);
            }
            Imm64::Func(off) => {
                let target = Self::relative(self.insn, off);
                let Some(sub) = self.subprog_starting(i64::from(target)) else {
                    return Err(reject!(self, EINVAL, "verifier bug. No program starts at insn {target}"));
                };
                if self.spec.func_info.is_empty() {
                    return Err(reject!(self, EINVAL, "missing btf func_info"));
                }
                if self.subprogs[sub].is_global {
                    return Err(reject!(self, EINVAL, "callback function not static"));
                }
                let sub = u32::try_from(sub).unwrap_or(u32::MAX);
                self.set_reg(d, Reg::pointer(RegType::of(Base::Func), Extra::Func(sub)));
            }
            Imm64::BtfId { .. } => {
                let text = "ld_imm64 of a kernel variable is not supported".to_owned();
                return Err(self.reject(Errno::ENOTSUPP, RejectionKind::Unsupported, text));
            }
        }
        Ok(())
    }

    /// While a spin lock is held only its release, list and tree operations, and small helpers may be called.
    fn check_call_under_lock(&mut self, target: CallTarget) -> Check {
        let allowed = match target {
            CallTarget::Helper(id) => matches!(id, helper::SPIN_UNLOCK | helper::KPTR_XCHG),
            CallTarget::Kfunc { id, .. } => self.kfunc_allowed_under_lock(id),
            CallTarget::Subprog(_) => self.options.profile.calls_under_lock,
        };
        if allowed {
            return Ok(());
        }
        Err(reject!(self, EINVAL, "function calls are not allowed while holding a lock"))
    }

    /// May-goto: falls through in one state, jumps in the other.
    fn check_may_goto(&mut self, off: i16) -> Check<u32> {
        let at = self.insn;
        let previous = self.previous_entry(at);
        let queued = self.push_branch(at + 1, at, false)?;
        queued.may_goto_depth += 1;
        if let Some(previous) = previous {
            self.widen_pending(previous);
        }
        Ok(Self::relative(at, i32::from(off)))
    }

    /// A line of its own for `text`, where the log is on.
    pub(crate) fn note(&mut self, text: &str) {
        log!(self, "{text}\n");
    }
}
