//! `exit`: returning to the caller, and what a program may return.
//!
//! Owns the ranges of return values. Invariant: a path ends only with nothing held. Kernel counterpart:
//! `process_bpf_exit_full`, `check_return_code`, `prepare_func_exit`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{AttachType, ProgType, Reg as R};

use crate::env::{Check, Env, log, reject};
use crate::explore::Flow;
use crate::print::type_name;
use crate::state::bounds::Interval;
use crate::state::reg::{Base, Extra, Reg};

/// The text of a scalar outside its range.
pub(crate) fn out_of_range(reg: &Reg, range: Interval<i64>, context: &str, name: &str) -> String {
    let b = reg.bounds.s64;
    let mut text = format!("{context} the register {name} has");
    if b.min > i64::MIN {
        text += &format!(" smin={}", b.min);
    }
    if b.max < i64::MAX {
        text += &format!(" smax={}", b.max);
    }
    if b.min == i64::MIN && b.max == i64::MAX {
        text += " unknown scalar value";
    }
    text + &format!(" should have been in [{}, {}]", range.min, range.max)
}

impl Env<'_> {
    /// The end of a function, or of the program.
    pub(crate) fn check_exit(&mut self, print_state: &mut bool) -> Check<Flow> {
        let main = self.cur.depth() == 0;
        let locks = main || (!self.options.profile.calls_under_lock && self.cur.res.locks > 0);
        self.check_resource_leak(false, locks, "BPF_EXIT instruction in main prog")?;
        if !main {
            self.return_to_caller()?;
            *print_state = true;
            return Ok(Flow::Continue);
        }
        self.check_return_code(0)?;
        Ok(Flow::End)
    }

    pub(crate) fn return_to_caller(&mut self) -> Check {
        let depth = self.cur.depth();
        let r0 = *self.reg(0);
        if r0.base() == Base::Stack {
            return Err(reject!(self, EINVAL, "cannot return stack pointer to the caller"));
        }
        let callee = self.cur.frame();
        let (callback, range, callsite) = (callee.callback, callee.callback_ret, callee.callsite);
        if callback.is_some() {
            if !r0.is_scalar() {
                return Err(reject!(self, EACCES, "R0 not a scalar value"));
            }
            self.mark_precise(0)?;
            let b = r0.bounds.s64;
            if b.min < range.min || b.max > range.max {
                let text = out_of_range(&r0, range, "At callback return", "R0");
                return Err(reject!(self, EINVAL, "{text}"));
            }
        } else {
            self.cur.frame_at_mut(depth - 1).regs[0] = r0;
        }
        self.insn = if callback.is_some() { callsite } else { callsite + 1 };
        if self.options.log_level & 3 != 0 {
            log!(self, "returning from callee:\n");
            self.print_frame(depth);
            let at = self.insn;
            log!(self, "to caller at {at}:\n");
            self.print_frame(depth - 1);
        }
        self.live_stack.commit();
        // What this function read of its callers' stacks is known before a path ends in one of them.
        let extents = self.extents();
        let start_of = |sub: u32| extents.get(sub as usize).copied().unwrap_or((0, 0));
        self.live_stack.update(self.spec.insns, &self.cur, &start_of);
        self.cur.frames.pop();
        self.forget_slices_of(depth);
        self.live_stack_moved_after_commit();
        if callback.is_some()
            && let Some(previous) = self.previous_entry_from(self.cur.dfs_depth, self.insn)
        {
            self.widen_cur(previous);
        }
        Ok(())
    }

    /// A slice may be a copy in a buffer on the frame that is gone. The kernel does not look at this.
    fn forget_slices_of(&mut self, frame: usize) {
        let dead = if self.caps.perfmon { Reg::UNKNOWN } else { Reg::NOT_INIT };
        self.cur.for_each_reg(
            |r| matches!(r.extra, Extra::Slice { frame: of, .. } if usize::from(of) == frame),
            |r| *r = dead,
        );
    }

    /// A frame of the current state, whole, in a line of its own.
    pub(crate) fn print_frame(&mut self, number: usize) {
        let cur = std::mem::replace(&mut self.cur, crate::state::frame::State::hollow());
        self.print_state(&cur, number, true);
        self.cur = cur;
    }

    /// The program's result, in register `n`: r0 at its exit, r1 where it throws.
    pub(crate) fn check_return_code(&mut self, n: u8) -> Check {
        let Some(r) = R::new(n) else { return Ok(()) };
        self.check_src(r)?;
        if self.leaks(n) {
            return Err(reject!(self, EACCES, "R{n} leaks addr as return value"));
        }
        let reg = *self.reg(n);
        let frame = &self.cur.frames[0];
        let (range, context) = if frame.in_async {
            (frame.callback_ret, "At async callback return")
        } else if frame.subprog > 0 && !frame.in_exception {
            if !reg.is_scalar() {
                let name = type_name(reg.ty);
                let text = format!("At subprogram exit the register R{n} is not a scalar value ({name})");
                return Err(reject!(self, EINVAL, "{text}"));
            }
            return Ok(());
        } else {
            let Some(range) = return_range(self.spec.prog_type, self.spec.attach_type) else { return Ok(()) };
            (range, "At program exit")
        };
        if !reg.is_scalar() {
            let name = type_name(reg.ty);
            return Err(reject!(self, EINVAL, "{context} the register R{n} is not a known value ({name})"));
        }
        self.mark_precise(n)?;
        let b = reg.bounds.s64;
        if b.min < range.min || b.max > range.max {
            let text = out_of_range(&reg, range, context, &format!("R{n}"));
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(())
    }
}

/// What programs of a type may return; `None` for anything.
fn return_range(prog: ProgType, attach: AttachType) -> Option<Interval<i64>> {
    let range = |min, max| Some(Interval { min, max });
    match prog {
        ProgType::CgroupSockAddr => match attach {
            AttachType::CgroupUdp4Recvmsg
            | AttachType::CgroupUdp6Recvmsg
            | AttachType::CgroupUnixRecvmsg
            | AttachType::CgroupInet4Getpeername
            | AttachType::CgroupInet6Getpeername
            | AttachType::CgroupUnixGetpeername
            | AttachType::CgroupInet4Getsockname
            | AttachType::CgroupInet6Getsockname
            | AttachType::CgroupUnixGetsockname => range(1, 1),
            AttachType::CgroupInet4Bind | AttachType::CgroupInet6Bind => range(0, 3),
            _ => range(0, 1),
        },
        ProgType::CgroupSkb if attach == AttachType::CgroupInetEgress => range(0, 3),
        ProgType::CgroupSkb
        | ProgType::CgroupSock
        | ProgType::SockOps
        | ProgType::CgroupDevice
        | ProgType::CgroupSysctl
        | ProgType::CgroupSockopt
        | ProgType::SkLookup
        | ProgType::Netfilter => range(0, 1),
        ProgType::Tracing if attach == AttachType::TraceIter => range(0, 1),
        _ => None,
    }
}
