//! `skep-skep`.
