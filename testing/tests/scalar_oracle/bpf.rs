//! The one bpf(2) command that the test needs.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};

use skep_abi::RawInsn;

#[derive(Debug)]
pub(crate) enum LoadError {
    Rejected { errno: i32, log: String },
    Refused { errno: i32 },
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rejected { errno, log } => write!(f, "errno {errno}: {}", log.lines().last().unwrap_or_default()),
            Self::Refused { errno } => write!(f, "errno {errno}"),
        }
    }
}

/// `union bpf_attr` as BPF_PROG_LOAD reads it, up to `prog_flags`.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const SOCKET_FILTER: u32 = 1;

/// Loads a socket filter and gives the kernel's log of level 2.
pub(crate) fn load(insns: &[RawInsn]) -> Result<String, LoadError> {
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| to_bytes(*insn)).collect();
    let license: &CStr = c"GPL";
    let mut log = vec![0u8; 1 << 20];
    let attr = LoadAttr {
        prog_type: SOCKET_FILTER,
        insn_cnt: u32::try_from(insns.len()).expect("a short program"),
        insns: bytes.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 2,
        log_size: 1 << 20,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` and the three buffers that it names outlive the call, with the sizes that it states.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let length = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..length]).into_owned();
    if fd < 0 {
        return Err(if log.is_empty() { LoadError::Refused { errno } } else { LoadError::Rejected { errno, log } });
    }
    let fd = i32::try_from(fd).expect("descriptors are small");
    // SAFETY: the call returned this descriptor just now, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(log)
}

fn to_bytes(insn: RawInsn) -> [u8; 8] {
    let mut bytes = [insn.code, insn.src << 4 | insn.dst, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&insn.off.to_le_bytes());
    bytes[4..].copy_from_slice(&insn.imm.to_le_bytes());
    bytes
}
