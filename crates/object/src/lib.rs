//! BPF object files: ELF bytes to [`ObjectSpec`].
//!
//! Owns sections, symbols, relocations, map definitions, data images and linking. Invariant: no input or output, no
//! state: the same bytes give the same spec, and memory is bounded by the input's size.
//! Kernel counterpart: tools/lib/bpf/libbpf.c, 6.18.
#![forbid(unsafe_code)]

mod error;
mod sec;

pub mod spec;

pub use error::{Error, Result};
pub use sec::{PROG_SLEEPABLE, PROG_XDP_HAS_FRAGS, Sec};
pub use spec::{
    ExternKind, ExternSpec, InitialSlot, KsymRef, MapKind, MapSpec, ObjectSpec, ProgramSpec, SlotTarget, SubprogSpec,
    VariableSpec,
};
