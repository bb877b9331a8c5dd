//! The helper functions: names, prototypes, and which program types may call them.

mod names;

pub use names::{helper_id, helper_name};
