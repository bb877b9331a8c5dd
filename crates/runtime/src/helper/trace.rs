//! Text from programs: `bpf_printk` and `bpf_snprintf`.
//!
//! Lines go to the engine's trace sink. Invariant: the sink is called outside of every lock of the runtime. Kernel
//! counterpart: `bpf_trace_printk`, kernel/trace/bpf_trace.c; `bpf_snprintf`, kernel/bpf/helpers.c, 6.18.

use skep_abi::Errno;

use super::format::format;
use super::{HelperFn, bytes, bytes_mut, low, probing_entry};
use crate::engine::TraceLine;
use crate::frame::Run;

/// Arguments of `bpf_trace_vprintk` and `bpf_snprintf` at most (`MAX_BPRINTF_VARARGS`).
const MAX_ARGS: u32 = 12;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(6, probing_entry!(trace_printk)), (165, probing_entry!(snprintf)), (177, probing_entry!(trace_vprintk))]
}

fn print(run: Run, format_bytes: &[u8], args: &[u64]) -> u64 {
    match format(run, format_bytes, args) {
        Ok(text) => {
            let len = text.len() as u64;
            let text = String::from_utf8_lossy(&text);
            let program = run.program();
            run.engine().trace(&TraceLine { cpu: run.cpu(), program: program.name(), text: &text });
            len
        }
        Err(errno) => errno.as_return(),
    }
}

unsafe fn trace_printk(run: Run, [text, len, a, b, c]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let text = unsafe { bytes(&run, text, u64::from(low(len))) };
    print(run, text, &[a, b, c])
}

/// The arguments, one word each.
///
/// # Safety
/// `len` bytes at `data` are readable.
pub(super) unsafe fn arguments(run: &Run, data: u64, len: u64) -> Result<Vec<u64>, Errno> {
    let len = low(len);
    if !len.is_multiple_of(8) || len > MAX_ARGS * 8 || (len > 0 && data == 0) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty.
    let data = unsafe { bytes(run, data, u64::from(len)) };
    Ok(data.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

unsafe fn trace_vprintk(run: Run, [text, len, data, data_len, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is readable for r2 bytes (prototype).
    let text = unsafe { bytes(&run, text, u64::from(low(len))) };
    // SAFETY: r3 is readable for r4 bytes (prototype).
    match unsafe { arguments(&run, data, data_len) } {
        Ok(args) => print(run, text, &args),
        Err(errno) => errno.as_return(),
    }
}

unsafe fn snprintf(run: Run, [to, size, text, data, data_len]: [u64; 5]) -> u64 {
    // SAFETY: r4 is readable for r5 bytes (prototype).
    let args = match unsafe { arguments(&run, data, data_len) } {
        Ok(args) => args,
        Err(errno) => return errno.as_return(),
    };
    // SAFETY: r1 is writable for r2 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, u64::from(low(size))) };
    let text = std::ptr::with_exposed_provenance(text as usize);
    // SAFETY: r3 is a string in a read-only map, with its NUL (prototype).
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    match format(run, text.to_bytes_with_nul(), &args) {
        Ok(text) => {
            let copied = text.len().min(to.len().saturating_sub(1));
            to[..copied].copy_from_slice(&text[..copied]);
            if let Some(end) = to.get_mut(copied) {
                *end = 0;
            }
            text.len() as u64 + 1
        }
        Err(errno) => errno.as_return(),
    }
}
