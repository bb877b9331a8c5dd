//! Kernel functions, by table.
//!
//! Owns which there are and what each checks. Invariant: a function that is not in the table is refused. Kernel counterpart:
//! `check_kfunc_call`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Reg as R;

use crate::check::helper::CallTraits;
use crate::check::iter::KINDS;
use crate::env::{Check, Env, reject};
use crate::explore::Flow;
use crate::state::reg::Reg;

/// What a kernel function does to the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kfunc {
    IterNew(u8),
    IterNext(u8),
    IterDestroy(u8),
    RcuLock,
    RcuUnlock,
    PreemptDisable,
    PreemptEnable,
}

/// Name, effect, number of arguments.
const TABLE: &[(&str, Kfunc, u32)] = &[
    ("bpf_iter_num_new", Kfunc::IterNew(0), 3),
    ("bpf_iter_num_next", Kfunc::IterNext(0), 1),
    ("bpf_iter_num_destroy", Kfunc::IterDestroy(0), 1),
    ("bpf_rcu_read_lock", Kfunc::RcuLock, 0),
    ("bpf_rcu_read_unlock", Kfunc::RcuUnlock, 0),
    ("bpf_preempt_disable", Kfunc::PreemptDisable, 0),
    ("bpf_preempt_enable", Kfunc::PreemptEnable, 0),
];

/// Whether programs can call a kernel function of this name.
#[must_use]
pub fn has_kfunc(name: &str) -> bool {
    TABLE.iter().any(|(known, ..)| *known == name)
}

/// Name of an iterator kind in the log.
pub(crate) fn iter_name(kind: u8) -> &'static str {
    KINDS.get(kind as usize).map_or("?", |k| k.name)
}

impl Env<'_> {
    fn kfunc(&self, id: i32) -> Option<(&'static str, Kfunc, u32)> {
        let name = self.kfunc_name(id)?;
        TABLE.iter().copied().find(|(n, ..)| *n == name)
    }

    /// Name of a kernel function by its index in the program's list.
    pub(crate) fn kfunc_name(&self, id: i32) -> Option<&str> {
        self.spec.kfuncs.get(usize::try_from(id).ok()?).map(|k| k.name.as_ref())
    }

    /// Properties of a kernel function that decide the shape of the walk.
    pub(crate) fn kfunc_traits(&self, id: i32) -> CallTraits {
        let iter_next = matches!(self.kfunc(id), Some((_, Kfunc::IterNext(_), _)));
        CallTraits { iter_next, ..CallTraits::default() }
    }

    /// Number of its arguments.
    pub(crate) fn kfunc_arg_count(&self, id: i32) -> Option<u32> {
        self.kfunc(id).map(|(.., n)| n)
    }

    /// Whether it may be called while a lock is held.
    pub(crate) fn kfunc_allowed_under_lock(&self, id: i32) -> bool {
        matches!(self.kfunc(id), Some((_, Kfunc::IterNew(_) | Kfunc::IterNext(_) | Kfunc::IterDestroy(_), _)))
    }

    /// `call kernel-function`.
    pub(crate) fn check_kfunc_call(&mut self, id: i32) -> Check<Flow> {
        let Some((_, kfunc, args)) = self.kfunc(id) else {
            let name = self.kfunc_name(id).unwrap_or("?").to_owned();
            return Err(reject!(self, EACCES, "calling kernel function {name} is not allowed"));
        };
        for n in 1..=args {
            if let Some(r) = u8::try_from(n).ok().and_then(R::new) {
                self.check_src(r)?;
            }
        }
        match kfunc {
            Kfunc::IterNew(kind) => {
                for n in 2..=3 {
                    if !self.reg(n).is_scalar() {
                        return Err(reject!(self, EINVAL, "R{n} is not a scalar"));
                    }
                }
                self.iter_new(kind)?;
                self.clear_caller_saved();
                self.set_unknown(0);
                let reg = self.reg_mut(0);
                reg.bounds.sync();
            }
            Kfunc::IterNext(kind) => self.iter_next(kind)?,
            Kfunc::IterDestroy(kind) => {
                self.iter_destroy(kind)?;
                self.clear_caller_saved();
                self.set_reg(0, Reg::NOT_INIT);
            }
            Kfunc::RcuLock => {
                self.cur.res_mut().rcu += 1;
                self.clear_caller_saved();
            }
            Kfunc::RcuUnlock => {
                if self.cur.res.rcu == 0 {
                    return Err(reject!(
                        self,
                        EINVAL,
                        "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)"
                    ));
                }
                self.cur.res_mut().rcu -= 1;
                self.clear_caller_saved();
            }
            Kfunc::PreemptDisable => {
                self.cur.res_mut().preempt += 1;
                self.clear_caller_saved();
            }
            Kfunc::PreemptEnable => {
                if self.cur.res.preempt == 0 {
                    let text = "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)";
                    return Err(reject!(self, EINVAL, "{text}"));
                }
                self.cur.res_mut().preempt -= 1;
                self.clear_caller_saved();
            }
        }
        Ok(Flow::Continue)
    }
}
