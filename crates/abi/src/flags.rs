//! Flags of maps and of map updates (include/uapi/linux/bpf.h of Linux 6.18; the per-CPU update flags are 7.0's).

/// `map_flags` of BPF_MAP_CREATE.
pub mod map_flags {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const BPF_F_NO_PREALLOC: u32 = 1 << 0;
    pub const BPF_F_NO_COMMON_LRU: u32 = 1 << 1;
    pub const BPF_F_NUMA_NODE: u32 = 1 << 2;
    pub const BPF_F_RDONLY: u32 = 1 << 3;
    pub const BPF_F_WRONLY: u32 = 1 << 4;
    pub const BPF_F_STACK_BUILD_ID: u32 = 1 << 5;
    pub const BPF_F_ZERO_SEED: u32 = 1 << 6;
    pub const BPF_F_RDONLY_PROG: u32 = 1 << 7;
    pub const BPF_F_WRONLY_PROG: u32 = 1 << 8;
    pub const BPF_F_CLONE: u32 = 1 << 9;
    pub const BPF_F_MMAPABLE: u32 = 1 << 10;
    pub const BPF_F_PRESERVE_ELEMS: u32 = 1 << 11;
    pub const BPF_F_INNER_MAP: u32 = 1 << 12;
    pub const BPF_F_LINK: u32 = 1 << 13;
    pub const BPF_F_PATH_FD: u32 = 1 << 14;
    pub const BPF_F_VTYPE_BTF_OBJ_FD: u32 = 1 << 15;
    pub const BPF_F_TOKEN_FD: u32 = 1 << 16;
    pub const BPF_F_SEGV_ON_FAULT: u32 = 1 << 17;
    pub const BPF_F_NO_USER_CONV: u32 = 1 << 18;
}

/// `flags` of an element update or lookup.
pub mod update_flags {
    /// Create or replace.
    pub const BPF_ANY: u64 = 0;
    /// Create only: `EEXIST` when it is there.
    pub const BPF_NOEXIST: u64 = 1;
    /// Replace only: `ENOENT` when it is not there.
    pub const BPF_EXIST: u64 = 2;
    /// Hold the value's spin lock while copying.
    pub const BPF_F_LOCK: u64 = 4;
    /// Per-CPU maps: the CPU number is in the upper 32 bits.
    pub const BPF_F_CPU: u64 = 8;
    /// Per-CPU maps: the one value goes to every CPU.
    pub const BPF_F_ALL_CPUS: u64 = 16;
}

/// `prog_flags` of BPF_PROG_LOAD.
pub mod prog_flags {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const BPF_F_STRICT_ALIGNMENT: u32 = 1 << 0;
    pub const BPF_F_ANY_ALIGNMENT: u32 = 1 << 1;
    pub const BPF_F_TEST_RND_HI32: u32 = 1 << 2;
    pub const BPF_F_TEST_STATE_FREQ: u32 = 1 << 3;
    pub const BPF_F_SLEEPABLE: u32 = 1 << 4;
    pub const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
    pub const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
    pub const BPF_F_TEST_REG_INVARIANTS: u32 = 1 << 7;
    pub const BPF_F_TOKEN_FD: u32 = 1 << 16;
}
