//! The context of programs that iterate over the elements of a map (`SEC("iter/bpf_map_elem")`), and the kernel objects
//! that it leads to.
//!
//! The offsets inside `struct bpf_map` are those of Linux 6.18 on x86-64; an object with CO-RE relocations does not depend
//! on them. Kernel counterpart: `struct bpf_iter__bpf_map_elem`, kernel/bpf/map_iter.c, 6.18.

use super::{CtxField as F, CtxFieldKind as K, CtxLayout};

/// `struct bpf_iter__bpf_map_elem`: after the last element, `key` and `value` are null.
pub static BPF_MAP_ELEM: CtxLayout = CtxLayout::fixed(
    "bpf_iter__bpf_map_elem",
    32,
    32,
    &[
        F::new("meta", 0, 8, K::Btf("bpf_iter_meta")),
        F::new("map", 8, 8, K::Btf("bpf_map")),
        F::new("key", 16, 8, K::RdonlyBufOrNull),
        F::new("value", 24, 8, K::BufOrNull),
    ],
);

/// A structure of the kernel that programs may read.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelStruct {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: u32,
    /// The fields that this engine keeps.
    pub fields: &'static [KernelField],
}

/// A field of a [`KernelStruct`].
#[derive(Debug, PartialEq, Eq)]
pub struct KernelField {
    /// Its name.
    pub name: &'static str,
    /// Where it starts, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
    /// What it holds.
    pub kind: KernelFieldKind,
}

/// What a [`KernelField`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFieldKind {
    /// A number.
    Unsigned,
    /// A value of the enumeration of this name.
    Enum(&'static str),
    /// Characters.
    Text,
    /// A trusted pointer to the structure of this name.
    Pointer(&'static str),
}

const fn number(name: &'static str, offset: u32, size: u32) -> KernelField {
    KernelField { name, offset, size, kind: KernelFieldKind::Unsigned }
}

/// Every structure that a program can reach.
pub static KERNEL_STRUCTS: &[KernelStruct] = &[
    KernelStruct {
        name: "bpf_iter_meta",
        size: 24,
        fields: &[
            KernelField { name: "seq", offset: 0, size: 8, kind: KernelFieldKind::Pointer("seq_file") },
            number("session_id", 8, 8),
            number("seq_num", 16, 8),
        ],
    },
    KernelStruct {
        name: "bpf_map",
        size: 296,
        fields: &[
            KernelField { name: "map_type", offset: 64, size: 4, kind: KernelFieldKind::Enum("bpf_map_type") },
            number("key_size", 68, 4),
            number("value_size", 72, 4),
            number("max_entries", 76, 4),
            number("map_extra", 80, 8),
            number("map_flags", 88, 4),
            number("id", 92, 4),
            KernelField { name: "name", offset: 136, size: 16, kind: KernelFieldKind::Text },
        ],
    },
    KernelStruct { name: "seq_file", size: 120, fields: &[] },
];

/// The structure of this name, with its place in [`KERNEL_STRUCTS`].
#[must_use]
pub fn kernel_struct(name: &str) -> Option<(u32, &'static KernelStruct)> {
    (0u32..).zip(KERNEL_STRUCTS).find(|(_, known)| known.name == name)
}
