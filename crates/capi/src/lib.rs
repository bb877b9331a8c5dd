//! `libskep`: the engine for C programs, with libbpf's names where their meaning is libbpf's.
//!
//! Owns the functions that `include/skep.h` declares, so that a program written against `bpf/libbpf.h`, `bpf/bpf.h` and a
//! skeleton of `bpftool gen skeleton` builds and runs unchanged. Invariant: no panic and no exception crosses the border,
//! NULL is an error and not a crash, and what cannot be done here is refused by name ([`refused`]). Counterpart: libbpf 1.x.
//!
//! This crate is for C; Rust programs use crate `skep`. Its library is installed as `libskep` (`cargo xtask install`).

#[cfg(not(target_os = "linux"))]
compile_error!("descriptors and data sections of libskep are Linux's");

pub mod object;
pub mod program;

pub mod map;

pub mod skeleton;

pub mod batch;
pub mod elem;
pub mod test_run;

pub mod perf;
pub mod ring;

pub mod info;

pub mod engine;
pub mod light;
pub mod link;
pub mod names;
pub mod print;
pub mod refused;

mod boundary;
mod handle;
mod image;
mod kconfig;
