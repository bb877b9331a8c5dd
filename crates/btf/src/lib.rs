//! `skep-btf`.
#![forbid(unsafe_code)]
