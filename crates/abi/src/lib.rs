//! `skep-abi`.
#![forbid(unsafe_code)]
