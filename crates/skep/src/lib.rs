//! A home for eBPF outside the kernel: open an object, verify it, compile it, run it.
//!
//! Owns the pipeline from file to running program, and the IO. Everything else is in the crates underneath.
//! Invariant: public handles are owned, `Clone + Send + Sync`, without lifetimes.

mod object;

pub use object::{Object, ObjectError};
pub use zerocopy;
