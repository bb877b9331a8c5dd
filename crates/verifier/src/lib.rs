//! `skep-verifier`.
#![forbid(unsafe_code)]
