//! The code generator: a rewritten program and a layout in, machine code as data out.
//!
//! [`compile`] decodes and simplifies the program once, for all architectures, and hands it to a back end; `x64/` and
//! `arm64/` hold the same file names. Invariant: no memory is mapped and no address is followed here; equal inputs give
//! equal bytes on every host. Kernel counterpart: `bpf_int_jit_compile`, arch/x86/net/bpf_jit_comp.c, 6.18.
#![forbid(unsafe_code)]

mod arm64;
mod error;
mod flow;
mod image;
mod layout;
mod options;
mod x64;

pub use error::JitError;
pub use image::{Image, ImageSubprog, PatchSite, Reloc, RelocKind, RelocTarget, SiteKind};
pub use layout::{ArenaTable, Layout, MapAccess, MapLayout, ProgArrayObject, Role, StatsLayout, TscScale};
pub use options::{Arch, CpuFeatures, Options};

use skep_verifier::Xlated;

/// Compiles a program.
///
/// # Errors
/// When the program is not one that [`skep_verifier::rewrite`] makes, when the layout lacks an address that it needs, or
/// when the back end has no code for an instruction.
pub fn compile(xlated: &Xlated, layout: &Layout, options: &Options) -> Result<Image, JitError> {
    let flow = flow::Flow::build(xlated, layout, options.optimize)?;
    match options.arch {
        Arch::X64 => x64::compile(&flow, xlated, layout, options),
        Arch::Arm64 => arm64::compile(&flow, xlated, layout, options),
    }
}
