//! `skep-object`.
#![forbid(unsafe_code)]
