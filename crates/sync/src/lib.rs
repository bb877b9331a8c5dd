//! `skep-sync`.
