//! The prototypes of Linux 6.18, by id, and those that differ by program type.

mod from_1;
mod from_141;
mod from_71;
mod kinds;
mod variants;

use super::proto::HelperProto;
use crate::types::{AttachType, ProgType};

pub(super) fn base(id: u32) -> Option<&'static HelperProto> {
    let table = match id {
        1..=70 => from_1::PROTOS,
        71..=140 => from_71::PROTOS,
        _ => from_141::PROTOS,
    };
    let at = table.binary_search_by_key(&id, |proto| proto.id).ok()?;
    table.get(at)
}

pub(super) fn variant(prog: ProgType, attach: AttachType, id: u32) -> Option<&'static HelperProto> {
    variants::find(prog, attach, id)
}
