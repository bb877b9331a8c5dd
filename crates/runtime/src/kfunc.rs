//! Kernel functions that programs call by name.
//!
//! Owns the functions that this engine has. Invariant: each trusts what the verifier proved of its arguments, or what the
//! interpreter tested by [`Kfunc::memory`]. Kernel counterpart: `bpf_iter_num_new`, kernel/bpf/bpf_iter.c;
//! `bpf_rcu_read_lock`, `bpf_preempt_disable`, kernel/bpf/helpers.c, 6.18.
#![expect(clippy::cast_possible_truncation, reason = "bounds of a number iterator are the low halves of registers")]

use skep_abi::Errno;

use crate::map::HelperFn;

/// The most iterations of a number iterator (`BPF_MAX_LOOPS`).
const MAX_LOOPS: i64 = 8 << 20;

/// A kernel function of this engine.
#[derive(Clone, Copy, Debug)]
pub struct Kfunc {
    /// Its name.
    pub name: &'static str,
    /// The function, in the helpers' calling convention.
    pub function: HelperFn,
    /// Bytes that it reads and writes at its first argument.
    pub memory: u32,
}

impl Kfunc {
    /// Its address, as compiled code and the interpreter call it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.function as *const () as u64
    }
}

/// Every kernel function of this engine.
pub static KFUNCS: &[Kfunc] = &[
    Kfunc { name: "bpf_iter_num_new", function: iter_num_new, memory: 8 },
    Kfunc { name: "bpf_iter_num_next", function: iter_num_next, memory: 8 },
    Kfunc { name: "bpf_iter_num_destroy", function: iter_num_destroy, memory: 8 },
    Kfunc { name: "bpf_rcu_read_lock", function: nothing, memory: 0 },
    Kfunc { name: "bpf_rcu_read_unlock", function: nothing, memory: 0 },
    Kfunc { name: "bpf_preempt_disable", function: nothing, memory: 0 },
    Kfunc { name: "bpf_preempt_enable", function: nothing, memory: 0 },
];

/// The kernel function with this name; `None` for one that this engine does not have.
#[must_use]
pub fn kfunc(name: &str) -> Option<&'static Kfunc> {
    KFUNCS.iter().find(|kfunc| kfunc.name == name)
}

/// The kernel function at this address. Functions that do the same may share one; their memory is the same too.
pub(crate) fn at(address: u64) -> Option<&'static Kfunc> {
    KFUNCS.iter().find(|kfunc| kfunc.address() == address)
}

/// The result of a function that returns `int`: unlike helpers, these leave the upper half of r0 zero.
fn int(errno: Errno) -> u64 {
    u64::from(errno.0.wrapping_neg().cast_unsigned())
}

/// A number iterator on the program's stack (`struct bpf_iter_num_kern`).
#[repr(C)]
struct IterNum {
    /// The number of the last step.
    cur: i32,
    /// The number after the last one.
    end: i32,
}

/// # Safety
/// `at` points to the 8 bytes of an iterator, aligned to 8, that only this run uses.
unsafe fn iter<'a>(at: u64) -> &'a mut IterNum {
    let iter: *mut IterNum = std::ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: the caller's duty.
    unsafe { &mut *iter }
}

unsafe extern "sysv64" fn iter_num_new(it: u64, start: u64, end: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    // SAFETY: r1 is an iterator's place on the stack.
    let iter = unsafe { iter(it) };
    let (start, end) = ((start as u32).cast_signed(), (end as u32).cast_signed());
    *iter = IterNum { cur: 0, end: 0 };
    if start > end {
        return int(Errno::EINVAL);
    }
    if i64::from(end) - i64::from(start) > MAX_LOOPS {
        return int(Errno::E2BIG);
    }
    // The first step comes to `start`, also where there is no smaller number.
    *iter = IterNum { cur: start.wrapping_sub(1), end };
    0
}

unsafe extern "sysv64" fn iter_num_next(it: u64, _: u64, _: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    // SAFETY: r1 is an iterator that was made and not destroyed.
    let iter = unsafe { iter(it) };
    let next = iter.cur.wrapping_add(1);
    if next >= iter.end {
        *iter = IterNum { cur: 0, end: 0 };
        return 0;
    }
    iter.cur = next;
    (&raw const iter.cur).expose_provenance() as u64
}

unsafe extern "sysv64" fn iter_num_destroy(it: u64, _: u64, _: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    // SAFETY: r1 is an iterator that was made.
    let iter = unsafe { iter(it) };
    *iter = IterNum { cur: 0, end: 0 };
    0
}

/// Locks of the kernel that a run does not need: it holds its vCPU, and holds up grace periods, from its start to its end.
unsafe extern "sysv64" fn nothing(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut u8) -> u64 {
    0
}
