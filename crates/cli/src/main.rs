//! The `skep` command.
#![forbid(unsafe_code)]

mod capture;
mod input;

fn main() {}
