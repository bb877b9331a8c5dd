//! BTF, the type format of BPF objects and of the kernel.
//!
//! Owns parsing, checking, questions about types, writing, and text dumps. Invariant: a [`Btf`] was checked when it was
//! made, so every id in it is in range, following ids terminates, and every name is valid; nothing recurses on the
//! input's depth and memory is bounded by the input's size. Kernel counterpart: kernel/bpf/btf.c, 6.18.
#![forbid(unsafe_code)]

mod error;
mod types;

mod strings;

mod parse;

mod check;

mod graph;

mod ext;

mod core;

mod build;
mod merge;
mod write;

mod kernel_form;

pub mod dump;

pub use build::Builder;
pub use check::Rules;
pub use core::{CoreTarget, Patch, Resolution, essential_name};
pub use error::{Error, Result};
pub use ext::{BtfExt, CoreRelo, CoreReloKind, FuncInfo, LineInfo, SecInfo};
pub use graph::{Btf, FoundMember};
pub use strings::Strings;
pub use types::{
    Array, Composite, DataSec, Enum, EnumValue, FuncProto, Int, Kind, Linkage, Member, Param, SecVar, StrOff, Type,
    TypeData, TypeId,
};

/// The most types that one BTF may have (`BTF_MAX_TYPE`).
pub const MAX_TYPES: usize = 0x000f_ffff;
/// The most bytes of strings (`BTF_MAX_NAME_OFFSET`).
pub const MAX_STRINGS: usize = 0x00ff_ffff;
/// The most bytes of one BTF (`BTF_MAX_SIZE` is 16 MiB; vmlinux with every module built in comes close to it).
pub const MAX_SIZE: usize = 64 << 20;
/// How deep types may be nested (`MAX_RESOLVE_DEPTH`).
pub const MAX_DEPTH: usize = 32;
/// The length that a name must stay under (`KSYM_NAME_LEN`).
pub const MAX_NAME: usize = 512;
