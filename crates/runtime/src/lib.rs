//! `skep-runtime`.
