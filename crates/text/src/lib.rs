//! `skep-text`.
