//! Helper functions: what programs call.
//!
//! One file per family; every helper is a plain function of the run and its five arguments, wrapped into the calling
//! convention that compiled code and the interpreter share. Invariant: a helper trusts its pointer arguments, since the
//! verifier proved them (or the interpreter tested them) against the helper's prototype, and nothing else. Kernel
//! counterpart: kernel/bpf/helpers.c, net/core/filter.c, kernel/trace/bpf_trace.c, 6.18.

mod csum;
pub(crate) mod dynptr;
mod fib;
mod format;
mod iterate;
mod kptr;
mod map;
mod output;
pub(crate) mod probe;
mod redirect;
mod ringbuf;
mod seq;
mod skb;
mod skb_room;
mod spin;
mod string;
mod syscall;
mod task;
mod time;
mod trace;
mod user;
mod xdp;

use skep_abi::Errno;

pub use self::user::{AddedHelper, Arg, Args, UserHelper};
use crate::frame::Run;
pub use crate::map::HelperFn;

/// Wraps `unsafe fn(Run, [u64; 5]) -> u64` into a [`HelperFn`].
macro_rules! entry {
    ($function:path) => {{
        unsafe extern "sysv64" fn entry(a: u64, b: u64, c: u64, d: u64, e: u64, base: *mut u8) -> u64 {
            // SAFETY: programs pass the base of the vCPU that they run on, and have set its frame.
            let run = unsafe { $crate::frame::Run::new(base) };
            // SAFETY: the arguments are as the helper's prototype says (the module's invariant).
            unsafe { $function(run, [a, b, c, d, e]) }
        }
        entry as $crate::helper::HelperFn
    }};
}

/// [`entry!`] of a function that reads where nobody has proved that it may: the run knows what program calls it.
macro_rules! probing_entry {
    ($function:path) => {{
        #[unsafe(naked)]
        unsafe extern "sysv64" fn entry(_: u64, _: u64, _: u64, _: u64, _: u64, base: *mut u8) -> u64 {
            // r9 is the vCPU's base; rax is nobody's at a function's start.
            core::arch::naked_asm!(
                "mov rax, [rsp]",
                "mov [r9 + {caller}], rax",
                "jmp {noted}",
                caller = const $crate::frame::CALLER_OFF,
                noted = sym noted,
            )
        }
        unsafe extern "sysv64" fn noted(a: u64, b: u64, c: u64, d: u64, e: u64, base: *mut u8) -> u64 {
            // SAFETY: programs pass the base of the vCPU that they run on, and have set its frame; `entry` has just stored
            // where it returns to.
            let run = unsafe { $crate::frame::Run::called_from_code(base) };
            // SAFETY: the arguments are as the helper's prototype says (the module's invariant).
            unsafe { $function(run, [a, b, c, d, e]) }
        }
        entry as $crate::helper::HelperFn
    }};
}

/// [`entry!`] of a generic function.
macro_rules! generic_entry {
    ($function:ident, $param:ident: $bound:path) => {{
        unsafe extern "sysv64" fn entry<$param: $bound>(a: u64, b: u64, c: u64, d: u64, e: u64, base: *mut u8) -> u64 {
            // SAFETY: programs pass the base of the vCPU that they run on, and have set its frame.
            let run = unsafe { $crate::frame::Run::new(base) };
            // SAFETY: the arguments are as the helper's prototype says (the module's invariant).
            unsafe { $function::<$param>(run, [a, b, c, d, e]) }
        }
        entry::<$param> as $crate::helper::HelperFn
    }};
}

/// The function behind a helper id; `None` for one that this engine does not have.
#[must_use]
pub fn helper(id: u32) -> Option<HelperFn> {
    table().iter().find(|entry| entry.0 == id).map(|entry| entry.1)
}

/// `LD_ABS` and `LD_IND` of compiled code: `(_, offset, size in bytes)`, negative when the program ends with 0.
#[must_use]
pub fn load_absolute() -> HelperFn {
    entry!(skb::load_absolute)
}

/// Every helper of this engine by id, ascending.
#[must_use]
pub fn table() -> &'static [(u32, HelperFn)] {
    static TABLE: std::sync::LazyLock<Vec<(u32, HelperFn)>> = std::sync::LazyLock::new(|| {
        let mut all = Vec::new();
        for family in [
            map::table(),
            time::table(),
            trace::table(),
            task::table(),
            csum::table(),
            skb::table(),
            skb_room::table(),
            xdp::table(),
            redirect::table(),
            output::table(),
            ringbuf::table(),
            seq::table(),
            iterate::table(),
            string::table(),
            probe::table(),
            spin::table(),
            dynptr::table(),
            fib::table(),
            syscall::table(),
            kptr::table(),
        ] {
            all.extend(family);
        }
        all.sort_by_key(|entry| entry.0);
        all
    });
    &TABLE
}

use generic_entry;
pub(crate) use {entry, probing_entry};

/// A result as a helper returns it.
fn status(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.as_return(),
    }
}

/// A memory argument.
///
/// # Safety
/// `len` bytes at `address` are readable for the length of the helper call, and no other argument writes them.
pub(crate) unsafe fn bytes(_run: &Run, address: u64, len: u64) -> &[u8] {
    if len == 0 {
        return &[];
    }
    let (at, len) = (std::ptr::with_exposed_provenance(address as usize), len as usize);
    // SAFETY: the caller's duty.
    unsafe { std::slice::from_raw_parts(at, len) }
}

/// A memory argument that the helper writes.
///
/// # Safety
/// `len` bytes at `address` are writable for the length of the helper call, and no other argument overlaps them.
#[expect(clippy::mut_from_ref, reason = "the run only gives the lifetime")]
pub(crate) unsafe fn bytes_mut(_run: &Run, address: u64, len: u64) -> &mut [u8] {
    if len == 0 {
        return &mut [];
    }
    let (at, len) = (std::ptr::with_exposed_provenance_mut(address as usize), len as usize);
    // SAFETY: the caller's duty.
    unsafe { std::slice::from_raw_parts_mut(at, len) }
}

/// The low half of an argument, for parameters of 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "a u32 parameter takes the register's low half")]
pub(crate) const fn low(argument: u64) -> u32 {
    argument as u32
}

/// The low half of an argument, for signed parameters of 32 bits.
const fn low_signed(argument: u64) -> i32 {
    low(argument).cast_signed()
}
