//! Helpers of syscall programs: bpf(2), close(2), and the kernel's types by name.
//!
//! Invariant: what they do happens outside of the run's own memory, in the engine, which may refuse. Kernel counterpart:
//! `bpf_sys_bpf`, `bpf_sys_close`, kernel/bpf/syscall.c; `bpf_btf_find_by_name_kind`, kernel/bpf/btf.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, bytes, entry, low, probing_entry};
use crate::frame::Run;
use crate::syscall::RunMemory;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(166, probing_entry!(sys_bpf)), (167, entry!(find_by_name_kind)), (168, entry!(sys_close))]
}

unsafe fn sys_bpf(run: Run, [cmd, attr, len, ..]: [u64; 5]) -> u64 {
    // A copy, since the command may change the map that the attribute lies in.
    // SAFETY: r2 is readable for r3 bytes (prototype).
    let attr = unsafe { bytes(&run, attr, u64::from(low(len))) }.to_vec();
    let call = |calls: &dyn crate::syscall::Syscalls| calls.bpf(&RunMemory(run), low(cmd), &attr).map(u64::from);
    answer(run, call)
}

unsafe fn find_by_name_kind(run: Run, [name, len, kind, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let name = unsafe { bytes(&run, name, u64::from(low(len))) };
    let Some((0, name)) = name.split_last().filter(|(_, name)| low(flags) == 0 && !name.is_empty()) else {
        return Errno::EINVAL.as_return();
    };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let Ok(name) = std::str::from_utf8(name) else { return Errno::ENOENT.as_return() };
    answer(run, |calls| calls.find_type(name, low(kind)))
}

unsafe fn sys_close(run: Run, [fd, ..]: [u64; 5]) -> u64 {
    answer(run, |calls| calls.close(low(fd)).map(|()| 0))
}

fn answer(run: Run, call: impl FnOnce(&dyn crate::syscall::Syscalls) -> Result<u64, Errno>) -> u64 {
    // An engine that nobody holds any more loads nothing.
    let Some(calls) = run.engine().syscalls() else { return Errno::ENODEV.as_return() };
    call(&*calls).unwrap_or_else(Errno::as_return)
}
