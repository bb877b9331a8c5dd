//! The system call and its argument structures.
//!
//! Invariant: every structure is `repr(C)`, has no padding that the kernel would find non-zero, and lays its fields out
//! as the members of `union bpf_attr` (include/uapi/linux/bpf.h) that it names.

use std::os::fd::{FromRawFd, OwnedFd};

use skep_abi::Errno;

pub(super) const MAP_CREATE: i64 = 0;
pub(super) const MAP_LOOKUP_ELEM: i64 = 1;
pub(super) const MAP_UPDATE_ELEM: i64 = 2;
pub(super) const MAP_DELETE_ELEM: i64 = 3;
pub(super) const MAP_GET_NEXT_KEY: i64 = 4;
pub(super) const PROG_LOAD: i64 = 5;
pub(super) const PROG_TEST_RUN: i64 = 10;
pub(super) const OBJ_GET_INFO_BY_FD: i64 = 15;
pub(super) const BTF_LOAD: i64 = 18;
pub(super) const LINK_CREATE: i64 = 28;
pub(super) const ITER_CREATE: i64 = 33;
pub(super) const MAP_LOOKUP_AND_DELETE_ELEM: i64 = 21;
pub(super) const MAP_FREEZE: i64 = 22;
pub(super) const MAP_LOOKUP_BATCH: i64 = 24;
pub(super) const MAP_LOOKUP_AND_DELETE_BATCH: i64 = 25;
pub(super) const MAP_UPDATE_BATCH: i64 = 26;
pub(super) const MAP_DELETE_BATCH: i64 = 27;

/// A member of `union bpf_attr`.
///
/// # Safety
/// The type is `repr(C)`, without padding bytes.
pub(super) unsafe trait Attr {}

macro_rules! attrs {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $ty:ty,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Debug)]
        #[repr(C)]
        pub(super) struct $name { $(pub(super) $field: $ty,)+ }

        // The sizes of the fields sum up to the size of the structure: there is no padding.
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())+);

        // SAFETY: `repr(C)` above, and the assertion above says that there is no padding.
        unsafe impl Attr for $name {}
    )+ };
}

attrs! {
    /// BPF_MAP_CREATE.
    struct MapCreateAttr {
        map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32, inner_map_fd: u32,
        numa_node: u32, map_name: [u8; 16], map_ifindex: u32, btf_fd: u32, btf_key_type_id: u32,
        btf_value_type_id: u32, btf_vmlinux_value_type_id: u32, map_extra: u64, value_type_btf_obj_fd: i32,
        map_token_fd: i32,
    }
    /// The element commands.
    struct ElemAttr { map_fd: u32, pad: u32, key: u64, value: u64, flags: u64, }
    /// BPF_MAP_*_BATCH.
    struct BatchAttr {
        in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, elem_flags: u64, flags: u64,
    }
    /// BPF_PROG_LOAD.
    struct ProgLoadAttr {
        prog_type: u32, insn_cnt: u32, insns: u64, license: u64, log_level: u32, log_size: u32, log_buf: u64,
        kern_version: u32, prog_flags: u32, prog_name: [u8; 16], prog_ifindex: u32, expected_attach_type: u32,
        prog_btf_fd: u32, func_info_rec_size: u32, func_info: u64, func_info_cnt: u32, line_info_rec_size: u32,
        line_info: u64, line_info_cnt: u32, attach_btf_id: u32, attach_prog_fd: u32, core_relo_cnt: u32,
        fd_array: u64, core_relos: u64, core_relo_rec_size: u32, log_true_size: u32, prog_token_fd: i32,
        fd_array_cnt: u32,
    }
    /// BPF_PROG_TEST_RUN.
    struct TestRunAttr {
        prog_fd: u32, retval: u32, data_size_in: u32, data_size_out: u32, data_in: u64, data_out: u64, repeat: u32,
        duration: u32, ctx_size_in: u32, ctx_size_out: u32, ctx_in: u64, ctx_out: u64, flags: u32, cpu: u32,
        batch_size: u32, pad: u32,
    }
    /// BPF_OBJ_GET_INFO_BY_FD.
    struct InfoAttr { bpf_fd: u32, info_len: u32, info: u64, }
    /// BPF_LINK_CREATE of a tracing or extension program.
    struct LinkCreateAttr { prog_fd: u32, target_fd: u32, attach_type: u32, flags: u32, target_btf_id: u32, pad: u32, }
    /// BPF_LINK_CREATE of an iterator.
    struct IterLinkAttr {
        prog_fd: u32, target_fd: u32, attach_type: u32, flags: u32, iter_info: u64, iter_info_len: u32, pad: u32,
    }
    /// BPF_ITER_CREATE.
    struct IterCreateAttr { link_fd: u32, flags: u32, }
    /// BPF_BTF_LOAD.
    struct BtfLoadAttr {
        btf: u64, btf_log_buf: u64, btf_size: u32, btf_log_size: u32, btf_log_level: u32, btf_log_true_size: u32,
    }
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` is the member of `union bpf_attr` that `cmd` takes, and every address in it points to memory of the length
/// that the kernel reads or writes there, alive for the call.
pub(super) unsafe fn bpf<T: Attr>(cmd: i64, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: the pointer and the length describe `attr`; what it points to is the caller's duty.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno(errno));
    }
    Ok(i32::try_from(result).unwrap_or(i32::MAX))
}

/// Calls bpf(2) for a command that returns a new descriptor.
///
/// # Safety
/// As [`bpf`], and `cmd` returns a descriptor.
pub(super) unsafe fn bpf_fd<T: Attr>(cmd: i64, attr: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller's duties are the same.
    let fd = unsafe { bpf(cmd, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The address of a slice for an attribute, 0 for an empty one.
pub(super) fn address<T>(slice: &[T]) -> u64 {
    if slice.is_empty() { 0 } else { slice.as_ptr().addr() as u64 }
}

/// As [`address`] for memory that the kernel writes.
pub(super) fn address_mut<T>(slice: &mut [T]) -> u64 {
    if slice.is_empty() { 0 } else { slice.as_mut_ptr().addr() as u64 }
}

/// A length as the kernel counts it; a longer buffer is used up to 4 GiB.
pub(super) fn length<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}
