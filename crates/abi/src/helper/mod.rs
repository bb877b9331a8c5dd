//! The helper functions: names, prototypes, and which program types may call them.
//!
//! Invariant: the tables are those of Linux 6.18; `testing` compares them with the running kernel's. Kernel
//! counterpart: `struct bpf_func_proto` and the `get_func_proto` callback of each program type.

mod allow;
mod allow_table;
mod names;
mod proto;
mod table;

pub use allow::{Allowed, Caps, helper_allowed};
pub use names::{helper_id, helper_name};
pub use proto::{ArgKind, ArgType, HelperProto, ProtoFlags, RetKind, RetType, TypeFlags};

use crate::types::{AttachType, ProgType};

/// The prototype of a helper as most program types have it; `None` above 211.
#[must_use]
pub fn helper(id: u32) -> Option<&'static HelperProto> {
    table::base(id)
}

/// The prototype of a helper for programs of this type, whether or not they may call it.
#[must_use]
pub fn helper_for(prog: ProgType, attach: AttachType, id: u32) -> Option<&'static HelperProto> {
    table::variant(prog, attach, id).or_else(|| helper(id))
}
