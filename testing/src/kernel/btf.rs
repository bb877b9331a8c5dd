//! BTF objects: load only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use skep_abi::Errno;

use super::{sys, until_nul};

/// A loaded BTF object.
#[derive(Debug)]
pub struct BtfFd {
    fd: OwnedFd,
}

impl AsFd for BtfFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What BPF_BTF_LOAD said.
pub type BtfLoad = Result<BtfFd, super::LoadFailure>;

/// Loads the bytes of a `.BTF` section.
///
/// # Errors
/// The errno and the kernel's log of level 1.
pub fn btf_load(btf: &[u8]) -> BtfLoad {
    let mut log = vec![0u8; 1 << 18];
    let mut attr = sys::BtfLoadAttr {
        btf: sys::address(btf),
        btf_size: sys::length(btf),
        btf_log_buf: sys::address_mut(&mut log),
        btf_log_size: sys::length(&log),
        btf_log_level: 1,
        ..Default::default()
    };
    // SAFETY: both buffers outlive the call and their lengths are set beside their addresses.
    match unsafe { sys::bpf_fd(sys::BTF_LOAD, &mut attr) } {
        Ok(fd) => Ok(BtfFd { fd }),
        // A log that does not fit is no error of the BTF: load it again without one.
        Err(Errno::ENOSPC) => {
            let mut attr =
                sys::BtfLoadAttr { btf: sys::address(btf), btf_size: sys::length(btf), ..Default::default() };
            // SAFETY: `btf` outlives the call and its length is set.
            unsafe { sys::bpf_fd(sys::BTF_LOAD, &mut attr) }
                .map(|fd| BtfFd { fd })
                .map_err(|errno| super::LoadFailure { errno, log: until_nul(&log) })
        }
        Err(errno) => Err(super::LoadFailure { errno, log: until_nul(&log) }),
    }
}
