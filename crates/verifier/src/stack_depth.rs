//! Stack use of the whole program.
//!
//! Owns the sum over call chains. Invariant: no chain of frames that can be active at once uses more than 512 bytes, as far as
//! they share one stack. Kernel counterpart: `check_max_stack_depth`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_abi::{CallTarget, Imm64, Insn};

use crate::env::{Check, Env, reject};
use crate::verified::RejectionKind;

const MAX_STACK: u32 = 512;
const MAX_FRAMES: usize = 8;
/// Stack of earlier frames above which a tail call is not allowed.
const MAX_TAIL_CALL_STACK: u32 = 256;

/// A function on the chain being summed.
struct Level {
    sub: usize,
    /// Next slot to look at.
    at: u32,
    /// Bytes of the chain with this function.
    depth: u32,
}

impl Env<'_> {
    /// Sums every call chain, and finds which functions are reached with a tail call below them.
    pub(crate) fn check_stack_depth(&mut self) -> Check {
        self.sum_from(0)?;
        for sub in 1..self.subprogs.len() {
            if self.subprogs[sub].is_async_cb {
                self.sum_from(sub)?;
            }
        }
        Ok(())
    }

    fn rounded(depth: u32) -> u32 {
        depth.next_multiple_of(16)
    }

    fn sum_from(&mut self, root: usize) -> Check {
        let depth = Self::rounded(self.subprogs[root].stack_depth);
        let mut chain = vec![Level { sub: root, at: self.subprogs[root].start, depth }];
        self.check_depth(&chain)?;
        while let Some(top) = chain.last_mut() {
            let (sub, at, depth) = (top.sub, top.at, top.depth);
            if at >= self.subprogs[sub].end {
                chain.pop();
                continue;
            }
            top.at += 1;
            if self.is_throw(at) {
                self.check_throwing_chain(&chain, at)?;
                continue;
            }
            let Some(callee) = self.called_at(at) else { continue };
            if self.subprogs[callee].is_async_cb {
                if self.subprogs[callee].has_tail_call {
                    return Err(crate::env::internal!(self, "insn {at}: subprog has tail_call and async cb"));
                }
                if matches!(self.insn_at(at), Some(Insn::LdImm64 { .. })) {
                    continue;
                }
                if self.subprogs[callee].is_exception_cb {
                    return Err(reject!(self, EINVAL, "insn {at} cannot call exception cb directly"));
                }
            }
            let own = Self::rounded(self.subprogs[callee].stack_depth);
            chain.push(Level { sub: callee, at: self.subprogs[callee].start, depth: depth.saturating_add(own) });
            if chain.len() > MAX_FRAMES {
                let message = format!("the call stack of {} frames is too deep !", chain.len() - 1);
                return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, message));
            }
            if self.subprogs[callee].has_tail_call {
                if depth >= MAX_TAIL_CALL_STACK {
                    return Err(self.tail_call_depth(depth));
                }
                for level in &chain {
                    self.subprogs[level.sub].tail_call_reachable = true;
                }
            }
            self.check_depth(&chain)?;
        }
        Ok(())
    }

    /// A callback runs inside a helper, whose frame throwing would skip.
    fn check_throwing_chain(&mut self, chain: &[Level], at: u32) -> Check {
        let in_callback = chain.iter().any(|level| self.subprogs[level.sub].is_cb);
        let Some(top) = chain.last().filter(|_| in_callback) else { return Ok(()) };
        let sub = top.sub;
        Err(reject!(self, EINVAL, "bpf_throw kfunc (insn {at}) cannot be called from callback subprog {sub}"))
    }

    fn tail_call_depth(&mut self, depth: u32) -> Box<crate::env::Reject> {
        let text = "tail_calls are not allowed when call stack of previous frames is";
        reject!(self, EACCES, "{text} {depth} bytes. Too large")
    }

    fn check_depth(&mut self, chain: &[Level]) -> Check {
        let Some(top) = chain.last() else { return Ok(()) };
        if top.depth > MAX_STACK {
            let (frames, depth) = (chain.len(), top.depth);
            return Err(reject!(self, EACCES, "combined stack size of {frames} calls is {depth}. Too large"));
        }
        Ok(())
    }

    /// The subprogram that the instruction at `at` calls, or passes as a callback, whether any path comes there or not.
    fn called_at(&self, at: u32) -> Option<usize> {
        match self.insn_at(at)? {
            Insn::Call { target: CallTarget::Subprog(off) } | Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
                self.subprog_starting(i64::from(Self::relative(at, off)))
            }
            _ => None,
        }
    }
}
