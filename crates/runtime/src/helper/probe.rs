//! Reads of addresses that nobody has proved.
//!
//! In the kernel these read any memory and survive a fault. Here they read what the run may access anyway (its context,
//! packet, stack and the values of its program's maps and of maps inside those) and answer `-EFAULT` for everything else: a program never reads the
//! memory of the process it is embedded in. Invariant: the destination is zeroed on failure. Kernel counterpart:
//! `bpf_probe_read_kernel`, kernel/trace/bpf_trace.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, bytes_mut, entry, low, probing_entry};
use crate::frame::Run;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (4, probing_entry!(probe_read)),
        (36, entry!(probe_write_user)),
        (45, probing_entry!(probe_read_str)),
        (112, probing_entry!(probe_read)),     // user
        (113, probing_entry!(probe_read)),     // kernel
        (114, probing_entry!(probe_read_str)), // user
        (115, probing_entry!(probe_read_str)), // kernel
        (148, probing_entry!(copy_from_user)),
    ]
}

/// Copies from `address`, if the run may read all of it.
pub(crate) fn read(run: Run, address: u64, to: &mut [u8]) -> Result<(), Errno> {
    if !run.may_read(address, to.len() as u64) {
        to.fill(0);
        return Err(Errno::EFAULT);
    }
    let from = std::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: readable (tested above); another run may write it meanwhile, and the destination may overlap.
    unsafe { std::ptr::copy(from, to.as_mut_ptr(), to.len()) };
    Ok(())
}

/// The string at `address`, without its NUL, cut after `max - 1` bytes.
pub(super) fn read_string(run: Run, address: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() + 1 < max {
        let mut byte = [0];
        read(run, address.wrapping_add(text.len() as u64), &mut byte)?;
        if byte[0] == 0 {
            break;
        }
        text.push(byte[0]);
    }
    Ok(text)
}

unsafe fn probe_read(run: Run, [to, len, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is writable for r2 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, u64::from(low(len))) };
    super::status(read(run, from, to))
}

unsafe fn copy_from_user(run: Run, args: [u64; 5]) -> u64 {
    // SAFETY: the caller's duty, passed on.
    unsafe { probe_read(run, args) }
}

unsafe fn probe_read_str(run: Run, [to, len, from, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is writable for r2 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, u64::from(low(len))) };
    if to.is_empty() {
        return 0;
    }
    match read_string(run, from, to.len()) {
        Ok(text) => {
            to[..text.len()].copy_from_slice(&text);
            to[text.len()..].fill(0);
            text.len() as u64 + 1
        }
        Err(errno) => {
            to.fill(0);
            errno.as_return()
        }
    }
}

/// There is no user below the process itself.
unsafe fn probe_write_user(_run: Run, _: [u64; 5]) -> u64 {
    Errno::EPERM.as_return()
}
