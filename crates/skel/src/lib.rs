//! Skeletons: code that opens an object and names its maps, programs and variables.
//!
//! Owns the generators for C and Rust, and the builder for build scripts. Invariant: the same object gives the same text. Kernel counterpart:
//! tools/bpf/bpftool/gen.c, 6.18.
#![forbid(unsafe_code)]

mod builder;
mod c;
mod error;
mod names;
mod rust;
mod section;

pub use builder::{BuildError, Builder};
pub use c::{COptions, c_skeleton};
pub use error::{Error, Result};
pub use names::object_ident;
pub use rust::rust_skeleton;
