//! Stack use of the whole program.
//!
//! Owns the sum over call chains. Invariant: no chain of frames that can be active at once uses more than 512 bytes, as far as
//! they share one stack; no chain has more than 8 frames. Kernel counterpart: `check_max_stack_depth`, `bpf_enable_priv_stack`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_abi::{AttachType, CallTarget, Imm64, Insn, ProgType};

use crate::env::{Check, Env, reject};
use crate::verified::RejectionKind;

const MAX_STACK: u32 = 512;
const MAX_FRAMES: usize = 8;
/// Stack of earlier frames above which a tail call is not allowed.
const MAX_TAIL_CALL_STACK: u32 = 256;
/// Least stack of a function that is worth a stack of its own (`BPF_PRIV_STACK_MIN_SIZE`).
const MIN_PRIVATE_STACK: u32 = 64;

/// A function on the chain being summed.
struct Level {
    sub: usize,
    /// Next slot to look at.
    at: u32,
    /// Bytes of the shared stack that the chain with this function takes.
    depth: u32,
}

/// Which functions may have a stack of their own, where the kernel gives any: those that run in one place at a time.
struct Private {
    enabled: bool,
    /// Functions that an asynchronous callback reaches, which may run while the program that calls them too is interrupted.
    shared: Vec<bool>,
}

impl Env<'_> {
    /// Sums every call chain, and finds which functions are reached with a tail call below them.
    pub(crate) fn check_stack_depth(&mut self) -> Check {
        let mut private = Private { enabled: false, shared: vec![false; self.subprogs.len()] };
        for sub in (1..self.subprogs.len()).rev() {
            if self.subprogs[sub].is_async_cb {
                self.sum_from(sub, &mut private)?;
            }
        }
        private.enabled = self.has_private_stacks();
        self.sum_from(0, &mut private)
    }

    /// Whether the kernel gives functions of this program stacks of their own: it does where it takes care that a program does
    /// not interrupt itself, as no tail call goes round that.
    fn has_private_stacks(&self) -> bool {
        let guarded = match self.spec.prog_type {
            ProgType::Kprobe | ProgType::Tracepoint | ProgType::PerfEvent | ProgType::RawTracepoint => true,
            ProgType::Tracing => self.spec.attach_type != AttachType::TraceIter,
            _ => false,
        };
        let replaces = self.spec.target.is_some();
        let tail_calls = self.subprogs.iter().any(|sub| sub.has_tail_call);
        self.options.profile.private_stacks && guarded && !replaces && !tail_calls
    }

    fn rounded(&self, depth: u32) -> u32 {
        // A frame that is not used counts where the interpreter's stacks are counted.
        let granularity = self.options.profile.stack_granularity;
        let least = u32::from(granularity > 16);
        depth.max(least).next_multiple_of(granularity)
    }

    /// Bytes that a function adds to the shared stack. One with a stack of its own has 512 bytes there, which is more than any
    /// instruction can use.
    fn shared_stack(&self, sub: usize, private: &mut Private) -> u32 {
        let own = self.rounded(self.subprogs[sub].stack_depth);
        private.shared[sub] |= !private.enabled;
        if own >= MIN_PRIVATE_STACK && !private.shared[sub] { 0 } else { own }
    }

    fn sum_from(&mut self, root: usize, private: &mut Private) -> Check {
        let depth = self.shared_stack(root, private);
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
            let own = self.shared_stack(callee, private);
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
