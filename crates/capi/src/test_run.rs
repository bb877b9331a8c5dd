//! `bpf_prog_test_run_opts`: a program over one input.
//!
//! Owns the buffers of C's and what is written where. Invariant: as the kernel, a buffer that is too small gets what fits,
//! the size says how much there was, and the result is `-ENOSPC`. One thing is added: `BPF_F_TEST_RUN_ON_CPU` names a
//! virtual CPU for every type of program. Counterpart: `bpf_test_finish`, net/bpf/test_run.c, 6.18.

use std::ffi::{c_int, c_void};

use skep::{TestOptions, TestRunAttr, TestRunError, TestRunResult};
use skep_abi::{Errno, ProgType};
use skep_sync::CpuId;

use crate::boundary::{bytes, options, put_bytes, status};
use crate::{handle, print};

/// `BPF_F_TEST_RUN_ON_CPU`.
const ON_CPU: u32 = 1;

/// `struct bpf_test_run_opts`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TestRunOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// Packet.
    pub data_in: *const c_void,
    /// Room for the packet afterwards.
    pub data_out: *mut c_void,
    /// Bytes of the packet.
    pub data_size_in: u32,
    /// Bytes of the room; afterwards, of the packet.
    pub data_size_out: u32,
    /// Context.
    pub ctx_in: *const c_void,
    /// Room for the context afterwards.
    pub ctx_out: *mut c_void,
    /// Bytes of the context.
    pub ctx_size_in: u32,
    /// Bytes of the room; afterwards, of the context.
    pub ctx_size_out: u32,
    /// What the program returned.
    pub retval: u32,
    /// How often to run; 0 is 1.
    pub repeat: c_int,
    /// Nanoseconds of a run.
    pub duration: u32,
    /// `BPF_F_TEST_RUN_ON_CPU` or 0.
    pub flags: u32,
    /// The virtual CPU.
    pub cpu: u32,
    /// Of live frames, which there are none of here.
    pub batch_size: u32,
}

/// # Safety
/// The pointers in `opts` are as the header says.
unsafe fn run(fd: c_int, opts: &mut TestRunOpts) -> Result<(), Errno> {
    // What a failed run says of its result.
    (opts.retval, opts.duration) = (0, 0);
    let one_sided = |size: u32, null: bool| (size != 0) == null;
    if one_sided(opts.ctx_size_in, opts.ctx_in.is_null()) || one_sided(opts.ctx_size_out, opts.ctx_out.is_null()) {
        return Err(Errno::EINVAL);
    }
    let program = handle::program(fd)?;
    let has_packet = !matches!(program.prog_type(), ProgType::RawTracepoint | ProgType::Syscall);
    let on_cpu = opts.flags & ON_CPU != 0;
    if opts.batch_size != 0 || (has_packet && opts.cpu != 0 && !on_cpu) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's duty, passed on.
    let data_in = unsafe { bytes(opts.data_in, opts.data_size_in as usize) }?;
    // SAFETY: the caller's duty, passed on.
    let ctx_in = unsafe { bytes(opts.ctx_in, opts.ctx_size_in as usize) }?;
    let wants_data = has_packet || !opts.data_out.is_null();
    let attr = TestRunAttr {
        data_in,
        data_size_out: wants_data.then_some(usize::MAX),
        ctx_in: (!opts.ctx_in.is_null()).then_some(ctx_in),
        ctx_size_out: (!opts.ctx_out.is_null()).then_some(usize::MAX),
        options: TestOptions { repeat: opts.repeat.cast_unsigned(), cpu: on_cpu.then_some(CpuId(opts.cpu)) },
        flags: if program.prog_type() == ProgType::RawTracepoint { opts.flags } else { opts.flags & !ON_CPU },
    };
    let result = program.test_run_raw(&attr).map_err(|error| {
        if let TestRunError::Run(error) = &error {
            print::warn(format_args!("program '{}': {error}", program.name()));
        }
        error.errno()
    })?;
    // SAFETY: the caller's duty, passed on.
    unsafe { store(opts, &result, program.prog_type()) }
}

/// # Safety
/// As for [`run`].
unsafe fn store(opts: &mut TestRunOpts, result: &TestRunResult, prog_type: ProgType) -> Result<(), Errno> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG);
    (opts.retval, opts.duration) = (result.retval, result.duration_ns);
    if prog_type == ProgType::Syscall {
        // The context comes back where it came from.
        // SAFETY: as long as the context that was read there (caller).
        return unsafe { put_bytes(opts.ctx_in.cast_mut(), &result.ctx_out) };
    }
    let data = result.data_out.as_slice();
    // A room of 0 bytes stands for one that is large enough.
    let room = if opts.data_size_out == 0 { data.len() } else { opts.data_size_out as usize };
    if !opts.data_out.is_null() {
        // SAFETY: no more than the room (caller).
        unsafe { put_bytes(opts.data_out, data.get(..room).unwrap_or(data)) }?;
    }
    opts.data_size_out = length(data)?;
    if data.len() > room {
        return Err(Errno::ENOSPC);
    }
    if !opts.ctx_out.is_null() {
        let (ctx, room) = (result.ctx_out.as_slice(), opts.ctx_size_out as usize);
        // SAFETY: no more than the room (caller).
        unsafe { put_bytes(opts.ctx_out, ctx.get(..room).unwrap_or(ctx)) }?;
        opts.ctx_size_out = length(ctx)?;
        if ctx.len() > room {
            return Err(Errno::ENOSPC);
        }
    }
    Ok(())
}

/// Runs a program over a packet or a context.
///
/// # Safety
/// `opts` begins with its size; its pointers are NULL or have the sizes beside them, and `data_out` with a size of 0 has
/// room for whatever comes. The context of a syscall program is written back to `ctx_in`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_prog_test_run_opts(fd: c_int, opts: *mut TestRunOpts) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let mut known = unsafe { options(opts.cast_const()) }?.ok_or(Errno::EINVAL)?;
        // SAFETY: the caller's duty, passed on.
        let result = unsafe { run(fd, &mut known) };
        let size = known.sz.min(size_of::<TestRunOpts>());
        // SAFETY: the caller's struct has at least as many bytes, and is not this function's.
        unsafe { opts.cast::<u8>().copy_from_nonoverlapping((&raw const known).cast(), size) };
        result
    })
}
