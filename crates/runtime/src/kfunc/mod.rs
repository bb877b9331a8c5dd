//! Kernel functions that programs call by name.
//!
//! Owns the functions that this engine has, one file per family. Invariant: each trusts what the verifier proved of its
//! arguments, or what the interpreter tested by their prototype ([`skep_abi::kfunc`]). Kernel counterpart:
//! kernel/bpf/helpers.c, kernel/bpf/bpf_iter.c, 6.18.

mod arena;
mod dynptr;
mod iter;
mod lock;
mod objects;

use skep_abi::Errno;
use skep_abi::kfunc::KfuncProto;

use crate::map::HelperFn;

/// A kernel function of this engine.
#[derive(Clone, Copy, Debug)]
pub struct Kfunc {
    /// Its name.
    pub name: &'static str,
    /// The function, in the helpers' calling convention.
    pub function: HelperFn,
}

impl Kfunc {
    /// Its address, as compiled code and the interpreter call it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.function as *const () as u64
    }

    /// What its arguments are.
    pub(crate) fn proto(&self) -> Option<&'static KfuncProto> {
        skep_abi::kfunc::kfunc(self.name)
    }
}

/// Every kernel function of this engine.
#[must_use]
pub fn table() -> &'static [Kfunc] {
    static TABLE: std::sync::LazyLock<Vec<Kfunc>> = std::sync::LazyLock::new(|| {
        let mut all: Vec<Kfunc> =
            ["bpf_rcu_read_lock", "bpf_rcu_read_unlock", "bpf_preempt_disable", "bpf_preempt_enable"]
                .map(|name| Kfunc { name, function: nothing })
                .to_vec();
        for family in [arena::table(), iter::table(), dynptr::table(), objects::table(), lock::table()] {
            all.extend(family.into_iter().map(|(name, function)| Kfunc { name, function }));
        }
        all
    });
    &TABLE
}

/// The kernel function with this name; `None` for one that this engine does not have.
#[must_use]
pub fn kfunc(name: &str) -> Option<&'static Kfunc> {
    table().iter().find(|kfunc| kfunc.name == name)
}

/// The kernel function at this address. Functions that do the same may share one; they take no arguments.
pub(crate) fn at(address: u64) -> Option<&'static Kfunc> {
    table().iter().find(|kfunc| kfunc.address() == address)
}

/// The result of a function that returns `int`: unlike helpers, these leave the upper half of r0 zero.
fn int(errno: Errno) -> u64 {
    u64::from(errno.0.wrapping_neg().cast_unsigned())
}

/// A result as a function that returns `int` gives it.
fn status(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => int(errno),
    }
}

/// Locks of the kernel that a run does not need: it holds its vCPU, and holds up grace periods, from its start to its end.
unsafe extern "sysv64" fn nothing(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    0
}
