//! BPF object files: ELF bytes to [`ObjectSpec`].
//!
//! Owns sections, symbols, relocations, map definitions, data images and linking. Invariant: no input or output, no
//! state: the same bytes give the same spec, and memory is bounded by the input's size.
//! Kernel counterpart: tools/lib/bpf/libbpf.c, 6.18.
#![forbid(unsafe_code)]

pub mod spec;

mod parse;

mod elf;

mod code;
mod data;
mod externs;
mod maps;
mod sec;
mod types;

mod link;
mod relocate;

mod static_link;

mod core;
mod edit;
mod error;
mod ksyms;

pub use core::{POISON_CALL, Poisoned};
pub use error::{Error, Result};
pub use ksyms::POISON_KFUNC;
pub use parse::parse;
pub use sec::Sec;
pub use spec::{
    ExternKind, ExternSpec, InitialSlot, KsymRef, MapKind, MapSpec, ObjectSpec, ProgramSpec, SlotTarget, SubprogSpec,
    VariableSpec,
};
pub use static_link::{LinkError, LinkInput, link_objects};
