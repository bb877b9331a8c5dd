//! `struct xdp_md`.

use super::{CtxField, CtxFieldKind as K, CtxLayout};

const DATA: CtxField = CtxField::new("data", 0, 4, K::PacketData).at_rt(24);
const DATA_END: CtxField = CtxField::new("data_end", 4, 4, K::PacketEnd).at_rt(32);
const DATA_META: CtxField = CtxField::new("data_meta", 8, 4, K::PacketMeta).at_rt(40);
const INGRESS: CtxField = CtxField::word("ingress_ifindex", 12).whole();
const QUEUE: CtxField = CtxField::word("rx_queue_index", 16).whole();

pub(super) static XDP: CtxLayout = CtxLayout::fixed("xdp_md", 24, 64, &[DATA, DATA_END, DATA_META, INGRESS, QUEUE]);

/// Programs in a device map see where the packet goes.
pub(super) static XDP_DEVMAP: CtxLayout = CtxLayout::fixed(
    "xdp_md",
    24,
    64,
    &[DATA, DATA_END, DATA_META, INGRESS, QUEUE, CtxField::word("egress_ifindex", 20).whole()],
);
