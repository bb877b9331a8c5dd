//! `skep-jit`.
#![forbid(unsafe_code)]
