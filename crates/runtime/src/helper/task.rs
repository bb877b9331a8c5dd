//! Who runs: the thread that called the program.
//!
//! Invariant: the ids are those of the calling thread, as tracing programs of the kernel see the current task. Kernel
//! counterpart: kernel/bpf/helpers.c, 6.18.

use rustix::process::{getgid, getpid, getuid};
use rustix::thread::gettid;

use skep_abi::Errno;

use super::{HelperFn, bytes_mut, entry, low};
use crate::frame::Run;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (14, entry!(get_current_pid_tgid)),
        (15, entry!(get_current_uid_gid)),
        (16, entry!(get_current_comm)),
        (80, entry!(zero)),  // get_current_cgroup_id: no cgroup is looked at
        (174, entry!(zero)), // get_attach_cookie: nothing is attached
    ]
}

unsafe fn zero(_run: Run, _: [u64; 5]) -> u64 {
    0
}

unsafe fn get_current_pid_tgid(_run: Run, _: [u64; 5]) -> u64 {
    let tgid = getpid().as_raw_nonzero().get().unsigned_abs();
    let pid = gettid().as_raw_nonzero().get().unsigned_abs();
    u64::from(tgid) << 32 | u64::from(pid)
}

unsafe fn get_current_uid_gid(_run: Run, _: [u64; 5]) -> u64 {
    u64::from(getgid().as_raw()) << 32 | u64::from(getuid().as_raw())
}

unsafe fn get_current_comm(run: Run, [buffer, size, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is writable for r2 bytes (prototype).
    let buffer = unsafe { bytes_mut(&run, buffer, u64::from(low(size))) };
    buffer.fill(0);
    let Ok(name) = rustix::thread::name() else { return Errno::EINVAL.as_return() };
    let name = name.to_bytes();
    // The last byte stays NUL.
    let len = name.len().min(buffer.len().saturating_sub(1));
    buffer[..len].copy_from_slice(&name[..len]);
    0
}
