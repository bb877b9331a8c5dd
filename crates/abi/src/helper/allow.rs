//! Which helpers a program may call, by its type, its attach type and its loader's capabilities.

use super::allow_table::{COMMON, ROWS};
use super::names::NAMES;
use crate::types::{AttachType, ProgType};

/// Helpers of one program type (and, where it matters, of these attach types).
pub(super) struct Row {
    pub(super) prog: ProgType,
    pub(super) attach: &'static [AttachType],
    pub(super) ids: &'static [u32],
}

/// Capabilities of the loader that helpers depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// CAP_BPF.
    pub bpf: bool,
    /// CAP_PERFMON.
    pub perfmon: bool,
}

impl Caps {
    /// Root.
    pub const ALL: Self = Self { bpf: true, perfmon: true };
    /// An unprivileged user.
    pub const NONE: Self = Self { bpf: false, perfmon: false };
}

/// Whether a call is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// It is.
    Yes,
    /// `program of this type cannot use helper bpf_x#N`, also when a capability is missing.
    NotForType,
    /// `invalid func unknown#N`.
    Unknown,
}

/// Helpers that need CAP_PERFMON.
const NEEDS_PERFMON: &[u32] = &[
    6, 16, 22, 35, 55, 109, 112, 113, 114, 115, 117, 136, 137, 138, 139, 140, 141, 148, 149, 158, 165, 175, 176, 177,
    178, 180, 191, 196,
];
/// Helpers that need CAP_BPF; only socket filters and cgroup_skb programs load without it.
const NEEDS_BPF: &[u32] = &[
    17, 37, 80, 93, 94, 118, 123, 153, 154, 156, 157, 164, 169, 170, 171, 172, 181, 194, 197, 198, 199, 200, 201, 202,
    203, 209, 210, 211,
];

/// Helpers of infrared decoders, which the probed kernel was built without.
const LIRC: &[u32] = &[77, 78, 92];

/// Helpers of programs around a kernel function, which the probed kernel does not load.
const TRAMPOLINE: &[u32] = &[173, 174, 183, 184, 185];

/// Whether a program of this type may call helper `id`.
#[must_use]
pub fn helper_allowed(prog: ProgType, attach: AttachType, id: u32, caps: Caps) -> Allowed {
    let known = usize::try_from(id).is_ok_and(|id| id < NAMES.len());
    if !known || id == 0 {
        return Allowed::Unknown;
    }
    let lacks = |list: &[u32], has: bool| !has && list.binary_search(&id).is_ok();
    let common = COMMON.binary_search(&id).is_ok();
    if lacks(NEEDS_PERFMON, caps.perfmon) || lacks(NEEDS_BPF, caps.bpf) {
        return Allowed::NotForType;
    }
    let of_type = || {
        let row = ROWS.iter().find(|row| row.prog == prog && (row.attach.is_empty() || row.attach.contains(&attach)));
        row.or_else(|| ROWS.iter().find(|row| row.prog == prog))
    };
    let unprobed = match (prog, attach) {
        (ProgType::LircMode2, _) => LIRC.contains(&id),
        (ProgType::Tracing, AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn) => {
            TRAMPOLINE.contains(&id) && (id != 184 || attach != AttachType::TraceFentry)
        }
        _ => false,
    };
    if common || unprobed || of_type().is_some_and(|row| row.ids.binary_search(&id).is_ok()) {
        Allowed::Yes
    } else {
        Allowed::NotForType
    }
}
