//! Programs: load, run once, ask what became of them.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use skep_abi::{AttachType, Errno, ProgType, RawInsn, info};

use super::sys;
use super::{object_name, until_nul};

/// The log level that has messages and statistics, and nothing of the walk.
const STATISTICS: u32 = 4;

/// What BPF_PROG_LOAD takes. Start from [`ProgLoad::new`] and set what matters.
#[derive(Clone, Debug)]
pub struct ProgLoad<'a> {
    /// Program type.
    pub prog_type: ProgType,
    /// `expected_attach_type`.
    pub attach_type: AttachType,
    /// The program; map references hold descriptors.
    pub insns: &'a [RawInsn],
    /// Licence string, `"GPL"` unless set.
    pub license: &'a str,
    /// Object name, at most 15 bytes.
    pub name: &'a str,
    /// 0 no log, 1 the walk, 2 more states, +4 statistics. A failed load is repeated with 1 to have its message.
    pub log_level: u32,
    /// `prog_flags`, see [`skep_abi::prog_flags`].
    pub flags: u32,
    /// BTF descriptor.
    pub btf: Option<RawFd>,
    /// `bpf_func_info` records and their size (8).
    pub func_info: (&'a [u8], u32),
    /// `bpf_line_info` records and their size (16).
    pub line_info: (&'a [u8], u32),
    /// BTF id of what it attaches to (tracing, LSM, freplace, struct_ops).
    pub attach_btf_id: u32,
    /// The program that `attach_btf_id` is in.
    pub attach_prog: Option<RawFd>,
    /// Descriptors of maps and module BTFs for the indexed pseudo forms.
    pub fd_array: &'a [RawFd],
}

impl<'a> ProgLoad<'a> {
    /// A load with the licence `GPL`, without log, BTF and flags.
    #[must_use]
    pub fn new(prog_type: ProgType, insns: &'a [RawInsn]) -> Self {
        Self {
            prog_type,
            attach_type: AttachType::default(),
            insns,
            license: "GPL",
            name: "skep",
            log_level: 0,
            flags: 0,
            btf: None,
            func_info: (&[], 8),
            line_info: (&[], 16),
            attach_btf_id: 0,
            attach_prog: None,
            fd_array: &[],
        }
    }

    /// Asks the kernel to verify and load it.
    ///
    /// # Errors
    /// The errno and the verifier's log (that of level 1 where none was asked for).
    pub fn load(&self) -> Result<Loaded, LoadFailure> {
        match self.attempt(self.log_level) {
            Err(failure) if self.log_level == 0 => match self.attempt(1) {
                Err(with_log) => Err(with_log),
                Ok(_) => Err(failure),
            },
            done => done,
        }
    }

    /// As [`ProgLoad::load`], without the second attempt that collects a log: for many loads of which most fail.
    ///
    /// # Errors
    /// The errno, with the log that `log_level` asks for.
    pub fn load_once(&self) -> Result<Loaded, LoadFailure> {
        self.attempt(self.log_level)
    }

    /// As [`ProgLoad::load`], with a log of the messages alone, without the walk: one load that says both, where a program that
    /// reaches the limits would have the kernel write hundreds of megabytes.
    ///
    /// # Errors
    /// The errno, with the messages and the statistics.
    pub fn load_briefly(&self) -> Result<Loaded, LoadFailure> {
        match self.attempt_in(STATISTICS, 1 << 16, false) {
            // The messages alone are too many: the verdict is that of a load without any.
            Err(LoadFailure { errno: Errno::ENOSPC, log }) => {
                self.attempt_in(0, 0, false).map_err(|LoadFailure { errno, .. }| LoadFailure { errno, log })
            }
            done => done,
        }
    }

    fn attempt(&self, log_level: u32) -> Result<Loaded, LoadFailure> {
        self.attempt_in(log_level, if log_level == 0 { 0 } else { 1 << 16 }, true)
    }

    /// One load with a log of so many bytes, or of as many as are wanted if it may grow.
    fn attempt_in(&self, log_level: u32, log_size: usize, grow: bool) -> Result<Loaded, LoadFailure> {
        let license =
            CString::new(self.license).map_err(|_| LoadFailure { errno: Errno::EINVAL, log: String::new() })?;
        let bytes = RawInsn::program_to_bytes(self.insns);
        let mut log = vec![0u8; log_size];
        loop {
            let mut attr = sys::ProgLoadAttr {
                prog_type: self.prog_type as u32,
                insn_cnt: sys::length(self.insns),
                insns: sys::address(&bytes),
                license: license.as_ptr().addr() as u64,
                log_level,
                log_size: sys::length(&log),
                log_buf: sys::address_mut(&mut log),
                prog_flags: self.flags,
                prog_name: object_name(self.name),
                expected_attach_type: self.attach_type as u32,
                prog_btf_fd: self.btf.map_or(0, i32::cast_unsigned),
                func_info_rec_size: self.func_info.1,
                func_info: sys::address(self.func_info.0),
                func_info_cnt: records(self.func_info),
                line_info_rec_size: self.line_info.1,
                line_info: sys::address(self.line_info.0),
                line_info_cnt: records(self.line_info),
                attach_btf_id: self.attach_btf_id,
                attach_prog_fd: self.attach_prog.map_or(0, i32::cast_unsigned),
                fd_array: sys::address(self.fd_array),
                ..Default::default()
            };
            // SAFETY: every address is that of a slice or string that outlives the call, with its own length; the
            // kernel indexes `fd_array` by what the program names, and reads it with copy_from_user, which may fail.
            let result = unsafe { sys::bpf_fd(sys::PROG_LOAD, &mut attr) };
            let wanted = attr.log_true_size as usize;
            if let Err(Errno::ENOSPC) = result
                && grow
                && wanted > log.len()
            {
                log = vec![0; wanted];
                continue;
            }
            let log = until_nul(&log);
            return match result {
                Ok(fd) => Ok(Loaded { prog: Prog { fd }, log }),
                Err(errno) => Err(LoadFailure { errno, log }),
            };
        }
    }
}

fn records((bytes, size): (&[u8], u32)) -> u32 {
    sys::length(bytes).checked_div(size).unwrap_or(0)
}

/// An accepted program with its log.
#[derive(Debug)]
pub struct Loaded {
    /// The program.
    pub prog: Prog,
    /// The verifier's log, empty at level 0.
    pub log: String,
}

/// Why the kernel refused a program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{errno}: {log}")]
pub struct LoadFailure {
    /// The errno of the call.
    pub errno: Errno,
    /// The verifier's log.
    pub log: String,
}

impl LoadFailure {
    /// The last line of the log that is not statistics (`processed …`), which is the message in almost all cases.
    #[must_use]
    pub fn message(&self) -> &str {
        let is_message = |line: &&str| {
            !(line.is_empty()
                || line.starts_with("processed ")
                || line.starts_with("verification time ")
                || line.starts_with("stack depth ")
                || line.starts_with("mark_precise"))
        };
        super::before_explanation(&self.log).lines().rev().find(is_message).unwrap_or("")
    }
}

/// A loaded program; closing it unloads it.
#[derive(Debug)]
pub struct Prog {
    fd: OwnedFd,
}

impl AsFd for Prog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Prog {
    /// A program that something else loaded.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// What BPF_PROG_TEST_RUN takes.
#[derive(Clone, Debug, Default)]
pub struct TestRun<'a> {
    /// The packet.
    pub data: &'a [u8],
    /// Room for the packet afterwards; 0 asks for none.
    pub data_out: usize,
    /// The context.
    pub ctx: &'a [u8],
    /// Room for the context afterwards.
    pub ctx_out: usize,
    /// How many runs; 0 is 1.
    pub repeat: u32,
    /// On this CPU (BPF_F_TEST_RUN_ON_CPU; raw_tp only).
    pub cpu: Option<u32>,
    /// Other flags.
    pub flags: u32,
    /// Batch of BPF_F_TEST_XDP_LIVE_FRAMES.
    pub batch_size: u32,
}

/// What a test run returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRunResult {
    /// Return value of the last run.
    pub retval: u32,
    /// Mean duration of a run.
    pub duration: Duration,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context afterwards.
    pub ctx: Vec<u8>,
    /// Size of the packet afterwards, also when there was no room for it.
    pub data_size: u32,
}

/// Part of `struct bpf_prog_info`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProgInfo {
    /// Id of the program.
    pub id: u32,
    /// First 8 bytes of the SHA-1 of its instructions.
    pub tag: [u8; 8],
    /// Name.
    pub name: String,
    /// Size of the machine code.
    pub jited_len: u32,
    /// The rewritten program, as the kernel shows it to bpftool.
    pub xlated: Vec<RawInsn>,
    /// Machine code.
    pub jited: Vec<u8>,
    /// Instructions that the verifier walked.
    pub verified_insns: u32,
    /// Runs counted while statistics were on.
    pub run_cnt: u64,
    /// Time of those runs.
    pub run_time: Duration,
}

impl Prog {
    /// Runs it in the kernel without attaching it.
    ///
    /// # Errors
    /// The errno of BPF_PROG_TEST_RUN: `ENOTSUPP` for a type without it, `EINVAL` for sizes it does not take, `ENOSPC`
    /// when `data_out` is not 0 and too small.
    pub fn test_run(&self, run: &TestRun<'_>) -> Result<TestRunResult, Errno> {
        let mut data = vec![0u8; run.data_out];
        let mut ctx = vec![0u8; run.ctx_out];
        let mut attr = sys::TestRunAttr {
            prog_fd: self.fd.as_raw_fd().cast_unsigned(),
            data_size_in: sys::length(run.data),
            data_in: sys::address(run.data),
            data_size_out: sys::length(&data),
            data_out: sys::address_mut(&mut data),
            ctx_size_in: sys::length(run.ctx),
            ctx_in: sys::address(run.ctx),
            ctx_size_out: sys::length(&ctx),
            ctx_out: sys::address_mut(&mut ctx),
            repeat: run.repeat,
            flags: run.flags | u32::from(run.cpu.is_some()),
            cpu: run.cpu.unwrap_or(0),
            batch_size: run.batch_size,
            ..Default::default()
        };
        // SAFETY: the four buffers are slices that outlive the call, each with its own length.
        unsafe { sys::bpf(sys::PROG_TEST_RUN, &mut attr) }?;
        data.truncate(attr.data_size_out as usize);
        ctx.truncate(attr.ctx_size_out as usize);
        Ok(TestRunResult {
            retval: attr.retval,
            duration: Duration::from_nanos(u64::from(attr.duration)),
            data,
            ctx,
            data_size: attr.data_size_out,
        })
    }

    /// Runs a syscall program once on `ctx`, which holds afterwards what the program left there; its result.
    ///
    /// # Errors
    /// As for [`Prog::test_run`].
    pub fn run_syscall(&self, ctx: &mut [u8]) -> Result<u32, Errno> {
        let mut attr = sys::TestRunAttr {
            prog_fd: self.fd.as_raw_fd().cast_unsigned(),
            ctx_size_in: sys::length(ctx),
            ctx_in: sys::address_mut(ctx),
            ..Default::default()
        };
        // SAFETY: the context has its length, and the kernel writes it back to where it read it.
        unsafe { sys::bpf(sys::PROG_TEST_RUN, &mut attr) }?;
        Ok(attr.retval)
    }

    /// Puts this extension program in the place of a function (its `FUNC` in the target's types) until the link is closed.
    ///
    /// It changes a program of the running kernel: done in throwaway machines alone ([`super::may_attach`]).
    ///
    /// # Errors
    /// The errno of BPF_LINK_CREATE.
    pub fn attach_extension(&self, target: &Self, function: u32) -> Result<OwnedFd, Errno> {
        let mut attr = sys::LinkCreateAttr {
            prog_fd: self.fd.as_raw_fd().cast_unsigned(),
            target_fd: target.fd.as_raw_fd().cast_unsigned(),
            target_btf_id: function,
            ..Default::default()
        };
        // SAFETY: the attribute has no addresses, and the command returns a descriptor.
        unsafe { sys::bpf_fd(sys::LINK_CREATE, &mut attr) }
    }

    /// Runs this iterator over the elements of a map; what it writes.
    ///
    /// It is attached to the map meanwhile: done in throwaway machines alone ([`super::may_attach`]). The kernel stops after
    /// the element with which a read is served, so reads are as long as the kernel's own buffer, eight pages.
    ///
    /// # Errors
    /// The errno of BPF_LINK_CREATE, of BPF_ITER_CREATE, or of read(2).
    pub fn iterate(&self, map: &super::Map) -> Result<Vec<u8>, Errno> {
        // `union bpf_iter_link_info`: the map's descriptor, and nothing else.
        let info = [map.raw_fd(), 0, 0, 0];
        let mut attr = sys::IterLinkAttr {
            prog_fd: self.fd.as_raw_fd().cast_unsigned(),
            attach_type: AttachType::TraceIter as u32,
            iter_info: sys::address(&info),
            iter_info_len: u32::try_from(size_of_val(&info)).unwrap_or(0),
            ..Default::default()
        };
        // SAFETY: `info` has the length that is set beside its address, and the command returns a descriptor.
        let link = unsafe { sys::bpf_fd(sys::LINK_CREATE, &mut attr) }?;
        let mut attr = sys::IterCreateAttr { link_fd: link.as_raw_fd().cast_unsigned(), flags: 0 };
        // SAFETY: the attribute has no addresses, and the command returns a descriptor.
        let fd = unsafe { sys::bpf_fd(sys::ITER_CREATE, &mut attr) }?;
        let mut file = std::fs::File::from(fd);
        let (mut out, mut buffer) = (Vec::new(), vec![0; 8 * 4096]);
        loop {
            let read = std::io::Read::read(&mut file, &mut buffer);
            let read = read.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))?;
            if read == 0 {
                return Ok(out);
            }
            out.extend_from_slice(&buffer[..read]);
        }
    }

    /// What the kernel tells about it, with its rewritten and its machine code.
    ///
    /// # Errors
    /// The errno of BPF_OBJ_GET_INFO_BY_FD.
    pub fn info(&self) -> Result<ProgInfo, Errno> {
        let mut raw = info::ProgInfo::default();
        // SAFETY: `raw` has no addresses and no room beyond itself.
        unsafe { self.fill_info(&mut raw) }?;
        let mut xlated = vec![0u8; raw.xlated_prog_len as usize];
        let mut jited = vec![0u8; raw.jited_prog_len as usize];
        let mut raw = info::ProgInfo {
            xlated_prog_len: raw.xlated_prog_len,
            xlated_prog_insns: sys::address_mut(&mut xlated),
            jited_prog_len: raw.jited_prog_len,
            jited_prog_insns: sys::address_mut(&mut jited),
            ..Default::default()
        };
        // SAFETY: the two buffers have the lengths that are set beside their addresses.
        unsafe { self.fill_info(&mut raw) }?;
        Ok(ProgInfo {
            id: raw.id,
            tag: raw.tag,
            name: until_nul(&raw.name),
            jited_len: raw.jited_prog_len,
            xlated: RawInsn::program_from_bytes(&xlated).unwrap_or_default(),
            jited,
            verified_insns: raw.verified_insns,
            run_cnt: raw.run_cnt,
            run_time: Duration::from_nanos(raw.run_time_ns),
        })
    }

    /// # Safety
    /// Each address in `raw` points to the room that the length beside it says.
    unsafe fn fill_info(&self, raw: &mut info::ProgInfo) -> Result<(), Errno> {
        let mut attr = sys::InfoAttr {
            bpf_fd: self.fd.as_raw_fd().cast_unsigned(),
            info_len: u32::try_from(size_of::<info::ProgInfo>()).unwrap_or(u32::MAX),
            info: std::ptr::from_mut(raw).addr() as u64,
        };
        // SAFETY: `info` is `raw` with its size; what `raw` points to is the caller's duty.
        unsafe { sys::bpf(sys::OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
    }
}
