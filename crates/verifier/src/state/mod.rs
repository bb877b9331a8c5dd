//! What the verifier knows at one instruction, by fact.
//!
//! Owns the abstract values; it decides nothing. Invariant: every abstract value holds each concrete one that an
//! execution of the path can have. Kernel counterpart: `struct bpf_verifier_state` and below, include/linux/bpf_verifier.h, 6.18.

pub mod bounds;
pub mod branch;
pub mod frame;
pub mod reg;
pub mod scalar_alu;
pub mod stack;
pub mod tnum;

#[cfg(test)]
mod exhaustive;
