//! `LD_ABS` and `LD_IND`, the packet loads of classic BPF.
//!
//! Owns where they may stand. Invariant: they may end the program, so nothing may be held where they stand. Kernel
//! counterpart: `check_ld_abs`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{ProgType, Reg as R};

use crate::env::{Check, Env, reject};
use crate::state::bounds::Bounds;
use crate::state::reg::{Base, Reg};

impl Env<'_> {
    /// `r0 = *(u16 *)skb[imm]`, with `src` `skb[src + imm]`.
    pub(crate) fn check_ld_abs(&mut self, src: Option<R>) -> Check {
        if !matches!(self.spec.prog_type, ProgType::SocketFilter | ProgType::SchedCls | ProgType::SchedAct) {
            let text = "BPF_LD_[ABS|IND] instructions not allowed for this program type";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if self.cur.frames.iter().skip(1).any(|f| f.callback.is_some()) {
            return Err(reject!(self, EINVAL, "cannot use BPF_LD_[ABS|IND] within callback"));
        }
        self.check_src(R::R6)?;
        self.check_resource_leak(false, true, "BPF_LD_[ABS|IND]")?;
        if self.reg(6).base() != Base::Ctx {
            return Err(reject!(self, EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb"));
        }
        if let Some(src) = src {
            self.check_src(src)?;
        }
        let ctx = *self.reg(6);
        self.check_unmodified(&ctx, 6)?;
        for n in 0..=5 {
            self.set_reg(n, Reg::NOT_INIT);
        }
        if self.cur.depth() > 0 {
            self.push_failed_load()?;
        }
        self.scratch_reg(0);
        let mut value = self.unknown();
        value.bounds = Bounds::UNKNOWN;
        self.set_reg(0, value);
        Ok(())
    }

    /// A load beyond the packet returns 0 from the subprogram that it stands in.
    fn push_failed_load(&mut self) -> Check {
        let callsite = self.cur.frame().callsite;
        let at = self.insn;
        let queued = self.push_branch(callsite + 1, at, false)?;
        queued.frames.pop();
        queued.frame_mut().regs[0] = Reg::constant(0);
        Ok(())
    }
}
