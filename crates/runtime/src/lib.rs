//! What runs: maps, helpers, programs.

pub mod map;
