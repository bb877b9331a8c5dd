//! BTF as text.
//!
//! Owns the two formats of `bpftool btf dump file`: raw (one record after another) and C (a header that compiles).
//! Invariant: the same types give the same text. Kernel counterpart: tools/bpf/bpftool/btf.c, 6.18.

mod c;
mod decl;
mod layout;
mod order;
mod raw;
mod rust;

pub use c::{CDump, Style, c_dump, c_ident, is_c_keyword};
pub use raw::raw_dump;
pub use rust::{RUST_PRELUDE, RustDump, rust_ident};
