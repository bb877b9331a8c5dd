//! The output of iterators: `bpf_seq_printf` and `bpf_seq_write`.
//!
//! Invariant: what does not fit is not half written, and the walk is told. Kernel counterpart: `bpf_seq_printf`,
//! `bpf_seq_write`, kernel/trace/bpf_trace.c, 6.18.

use skep_abi::Errno;

use super::format::format;
use super::trace::arguments;
use super::{HelperFn, bytes, entry, low, probing_entry};
use crate::frame::Run;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(126, probing_entry!(seq_printf)), (127, entry!(seq_write))]
}

fn append(run: Run, text: &[u8]) -> u64 {
    // The verifier lets only iterators have a `seq_file`.
    let fits = run.frame().ctx.seq().is_some_and(|seq| seq.push(text));
    if fits { 0 } else { Errno::EOVERFLOW.as_return() }
}

unsafe fn seq_printf(run: Run, [_, text, len, data, data_len]: [u64; 5]) -> u64 {
    // SAFETY: r2 is readable for r3 bytes (prototype).
    let text = unsafe { bytes(&run, text, u64::from(low(len))) };
    // SAFETY: r4 is readable for r5 bytes (prototype).
    match unsafe { arguments(&run, data, data_len) }.and_then(|args| format(run, text, &args)) {
        Ok(text) => append(run, &text),
        Err(errno) => errno.as_return(),
    }
}

unsafe fn seq_write(run: Run, [_, data, len, ..]: [u64; 5]) -> u64 {
    // SAFETY: r2 is readable for r3 bytes (prototype).
    append(run, unsafe { bytes(&run, data, u64::from(low(len))) })
}
