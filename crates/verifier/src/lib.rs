//! `skep-verifier`.
#![forbid(unsafe_code)]

pub mod state;
