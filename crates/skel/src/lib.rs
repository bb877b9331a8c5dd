//! Skeletons: code that opens an object and names its maps, programs and variables.
//!
//! Owns the generators for C and Rust, and the builder for build scripts. Invariant: the same object gives the same text. Kernel counterpart:
//! tools/bpf/bpftool/gen.c, 6.18.
#![forbid(unsafe_code)]

mod builder;
mod c;
mod c_sub;
mod error;
mod light;
mod loader;
mod names;
mod rust;
mod rust_sub;
mod section;

pub use builder::{BuildError, Builder};
pub use c::{COptions, c_skeleton};
pub use c_sub::c_subskeleton;
pub use error::{Error, Result};
pub use light::{c_light_skeleton, rust_light_skeleton};
pub use loader::{LoaderProgram, loader};
pub use names::object_ident;
pub use rust::rust_skeleton;
pub use rust_sub::rust_subskeleton;
