//! Attributes of bpf(2) as bytes, and where their members lie.
//!
//! Owns the offsets that the loader program stores to. Invariant: they are those of `union bpf_attr`,
//! include/uapi/linux/bpf.h, 7.3, so that one loader runs on every kernel that has light skeletons and on this engine.

pub(super) const MAP_CREATE: i32 = 0;
pub(super) const MAP_UPDATE_ELEM: i32 = 2;
pub(super) const PROG_LOAD: i32 = 5;
pub(super) const BTF_LOAD: i32 = 18;
pub(super) const MAP_FREEZE: i32 = 22;

/// BPF_MAP_CREATE.
pub(super) mod map {
    pub(in super::super) const LEN: usize = 72;
    pub(in super::super) const MAX_ENTRIES: u32 = 12;
    pub(in super::super) const INNER_MAP_FD: u32 = 20;
    pub(in super::super) const NAME: u32 = 28;
    pub(in super::super) const BTF_FD: u32 = 48;
    pub(in super::super) const BTF_KEY_TYPE: u32 = 52;
    pub(in super::super) const BTF_VALUE_TYPE: u32 = 56;
    pub(in super::super) const MAP_EXTRA: u32 = 64;
}

/// The element commands, and (its first member alone) BPF_MAP_FREEZE.
pub(super) mod elem {
    pub(in super::super) const LEN: usize = 32;
    pub(in super::super) const FREEZE_LEN: usize = 4;
    pub(in super::super) const MAP_FD: u32 = 0;
    pub(in super::super) const KEY: u32 = 8;
    pub(in super::super) const VALUE: u32 = 16;
    pub(in super::super) const FLAGS: u32 = 24;
}

/// BPF_PROG_LOAD.
pub(super) mod prog {
    pub(in super::super) const LEN: usize = 140;
    pub(in super::super) const TYPE: u32 = 0;
    pub(in super::super) const INSN_CNT: u32 = 4;
    pub(in super::super) const INSNS: u32 = 8;
    pub(in super::super) const LICENSE: u32 = 16;
    pub(in super::super) const LOG_LEVEL: u32 = 24;
    pub(in super::super) const LOG_SIZE: u32 = 28;
    pub(in super::super) const LOG_BUF: u32 = 32;
    pub(in super::super) const KERN_VERSION: u32 = 40;
    pub(in super::super) const FLAGS: u32 = 44;
    pub(in super::super) const NAME: u32 = 48;
    pub(in super::super) const ATTACH_TYPE: u32 = 68;
    pub(in super::super) const BTF_FD: u32 = 72;
    pub(in super::super) const FUNC_INFO_SIZE: u32 = 76;
    pub(in super::super) const FUNC_INFO: u32 = 80;
    pub(in super::super) const FUNC_INFO_CNT: u32 = 88;
    pub(in super::super) const LINE_INFO_SIZE: u32 = 92;
    pub(in super::super) const LINE_INFO: u32 = 96;
    pub(in super::super) const LINE_INFO_CNT: u32 = 104;
    pub(in super::super) const ATTACH_BTF_ID: u32 = 108;
    pub(in super::super) const ATTACH_BTF_FD: u32 = 112;
    pub(in super::super) const CORE_RELO_CNT: u32 = 116;
    pub(in super::super) const FD_ARRAY: u32 = 120;
    pub(in super::super) const CORE_RELOS: u32 = 128;
    pub(in super::super) const CORE_RELO_SIZE: u32 = 136;
}

/// BPF_BTF_LOAD.
pub(super) mod btf {
    pub(in super::super) const LEN: usize = 28;
    pub(in super::super) const BTF: u32 = 0;
    pub(in super::super) const LOG_BUF: u32 = 8;
    pub(in super::super) const SIZE: u32 = 16;
    pub(in super::super) const LOG_SIZE: u32 = 20;
    pub(in super::super) const LOG_LEVEL: u32 = 24;
}

/// `struct bpf_loader_ctx`, then a `struct bpf_map_desc` for each map, then a `struct bpf_prog_desc` for each program.
pub(super) mod ctx {
    pub(in super::super) const FLAGS: i16 = 4;
    pub(in super::super) const LOG_LEVEL: i16 = 8;
    pub(in super::super) const LOG_SIZE: i16 = 12;
    pub(in super::super) const LOG_BUF: i16 = 16;
    pub(in super::super) const LEN: u32 = 24;
    pub(in super::super) const MAP_LEN: u32 = 16;
    pub(in super::super) const MAX_ENTRIES: u32 = 4;
    pub(in super::super) const INITIAL_VALUE: u32 = 8;
    pub(in super::super) const PROG_LEN: u32 = 4;
    /// `BPF_SKEL_KERNEL`: initial values lie in kernel memory.
    pub(in super::super) const KERNEL: i32 = 1;
}

/// An attribute that is being filled.
pub(super) struct Attr(pub(super) Vec<u8>);

impl Attr {
    pub(super) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    pub(super) fn word(mut self, at: u32, value: u32) -> Self {
        self.put(at, &value.to_le_bytes());
        self
    }

    pub(super) fn long(mut self, at: u32, value: u64) -> Self {
        self.put(at, &value.to_le_bytes());
        self
    }

    /// An object's name: 15 bytes and a NUL; the kernel takes letters, digits, `_` and `.`.
    pub(super) fn name(mut self, at: u32, name: &str) -> Self {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
        let bytes: Vec<u8> = name.bytes().take(15).map(|b| if allowed(b) { b } else { b'_' }).collect();
        self.put(at, &bytes);
        self
    }

    fn put(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        if let Some(place) = self.0.get_mut(at..at.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }
}
