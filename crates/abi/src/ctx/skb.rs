//! `struct __sk_buff`, whose fields differ between the program types that share it.

use super::{CtxField as F, CtxFieldKind as K, CtxLayout};

/// Bytes of `struct __sk_buff`.
const SIZE: u32 = 192;
/// Bytes of the run-time object.
const RT_SIZE: u32 = 256;

const LEN: F = F::word("len", 0);
const PKT_TYPE: F = F::word("pkt_type", 4);
const MARK: F = F::word("mark", 8);
const QUEUE_MAPPING: F = F::word("queue_mapping", 12);
const PROTOCOL: F = F::word("protocol", 16);
const VLAN_PRESENT: F = F::word("vlan_present", 20);
const VLAN_TCI: F = F::word("vlan_tci", 24);
const VLAN_PROTO: F = F::word("vlan_proto", 28);
const PRIORITY: F = F::word("priority", 32);
const INGRESS: F = F::word("ingress_ifindex", 36);
const IFINDEX: F = F::word("ifindex", 40);
const TC_INDEX: F = F::word("tc_index", 44);
const CB: [F; 5] = [
    F::word("cb[0]", 48).wide(),
    F::word("cb[1]", 52),
    F::word("cb[2]", 56).wide(),
    F::word("cb[3]", 60),
    F::word("cb[4]", 64),
];
const CB_WRITE: [F; 5] = [
    F::word("cb[0]", 48).wide().writable_parts(),
    F::word("cb[1]", 52).writable_parts(),
    F::word("cb[2]", 56).wide().writable_parts(),
    F::word("cb[3]", 60).writable_parts(),
    F::word("cb[4]", 64).writable_parts(),
];
const HASH: F = F::word("hash", 68);
const TC_CLASSID: F = F::word("tc_classid", 72);
const DATA: F = F::new("data", 76, 4, K::PacketData).at_rt(192);
const DATA_END: F = F::new("data_end", 80, 4, K::PacketEnd).at_rt(200);
const NAPI_ID: F = F::word("napi_id", 84);
const FAMILY: F = F::word("family", 88);
const REMOTE_IP4: F = F::word("remote_ip4", 92).whole();
const LOCAL_IP4: F = F::word("local_ip4", 96).whole();
const REMOTE_IP6: [F; 4] = [
    F::word("remote_ip6[0]", 100).whole(),
    F::word("remote_ip6[1]", 104).whole(),
    F::word("remote_ip6[2]", 108).whole(),
    F::word("remote_ip6[3]", 112).whole(),
];
const LOCAL_IP6: [F; 4] = [
    F::word("local_ip6[0]", 116).whole(),
    F::word("local_ip6[1]", 120).whole(),
    F::word("local_ip6[2]", 124).whole(),
    F::word("local_ip6[3]", 128).whole(),
];
const REMOTE_PORT: F = F::word("remote_port", 132);
const LOCAL_PORT: F = F::word("local_port", 136);
const DATA_META: F = F::new("data_meta", 140, 4, K::PacketMeta).at_rt(208);
const FLOW_KEYS: F = F::new("flow_keys", 144, 8, K::FlowKeys).at_rt(240);
const TSTAMP: F = F::word("tstamp", 152).sized(8).whole().writable();
const WIRE_LEN: F = F::word("wire_len", 160);
const GSO_SEGS: F = F::word("gso_segs", 164);
const SK: F = F::new("sk", 168, 8, K::SockCommonOrNull).at_rt(232);
const GSO_SIZE: F = F::word("gso_size", 176);
const TSTAMP_TYPE: F = F::word("tstamp_type", 180).sized(1);
const HWTSTAMP: F = F::word("hwtstamp", 184).sized(8).whole();

pub(super) static SOCKET_FILTER: CtxLayout = CtxLayout::fixed(
    "__sk_buff",
    SIZE,
    RT_SIZE,
    &[
        LEN,
        PKT_TYPE,
        MARK,
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY,
        INGRESS,
        IFINDEX,
        TC_INDEX,
        CB_WRITE[0],
        CB_WRITE[1],
        CB_WRITE[2],
        CB_WRITE[3],
        CB_WRITE[4],
        HASH,
        NAPI_ID,
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
);

pub(super) static SCHED: CtxLayout = CtxLayout::fixed(
    "__sk_buff",
    SIZE,
    RT_SIZE,
    &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING.writable(),
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS,
        IFINDEX,
        TC_INDEX.writable(),
        CB_WRITE[0],
        CB_WRITE[1],
        CB_WRITE[2],
        CB_WRITE[3],
        CB_WRITE[4],
        HASH,
        TC_CLASSID.writable(),
        DATA,
        DATA_END,
        NAPI_ID,
        DATA_META,
        TSTAMP,
        WIRE_LEN,
        GSO_SEGS,
        SK,
        GSO_SIZE,
        TSTAMP_TYPE,
        HWTSTAMP,
    ],
);

pub(super) static CGROUP_SKB: CtxLayout = CtxLayout::fixed(
    "__sk_buff",
    SIZE,
    RT_SIZE,
    &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS,
        IFINDEX,
        TC_INDEX,
        CB_WRITE[0],
        CB_WRITE[1],
        CB_WRITE[2],
        CB_WRITE[3],
        CB_WRITE[4],
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        FAMILY,
        REMOTE_IP4,
        LOCAL_IP4,
        REMOTE_IP6[0],
        REMOTE_IP6[1],
        REMOTE_IP6[2],
        REMOTE_IP6[3],
        LOCAL_IP6[0],
        LOCAL_IP6[1],
        LOCAL_IP6[2],
        LOCAL_IP6[3],
        REMOTE_PORT,
        LOCAL_PORT,
        TSTAMP,
        GSO_SEGS,
        SK,
        GSO_SIZE,
        HWTSTAMP,
    ],
);

pub(super) static LWT: CtxLayout = CtxLayout::fixed(
    "__sk_buff",
    SIZE,
    RT_SIZE,
    &[
        LEN,
        PKT_TYPE,
        MARK.writable(),
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS,
        IFINDEX,
        TC_INDEX,
        CB_WRITE[0],
        CB_WRITE[1],
        CB_WRITE[2],
        CB_WRITE[3],
        CB_WRITE[4],
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
);

pub(super) static SK_SKB: CtxLayout = CtxLayout::fixed(
    "__sk_buff",
    SIZE,
    RT_SIZE,
    &[
        LEN,
        PKT_TYPE,
        QUEUE_MAPPING,
        PROTOCOL,
        VLAN_PRESENT,
        VLAN_TCI,
        VLAN_PROTO,
        PRIORITY.writable(),
        INGRESS,
        IFINDEX,
        TC_INDEX.writable(),
        CB[0],
        CB[1],
        CB[2],
        CB[3],
        CB[4],
        HASH,
        DATA,
        DATA_END,
        NAPI_ID,
        FAMILY,
        REMOTE_IP4,
        LOCAL_IP4,
        REMOTE_IP6[0],
        REMOTE_IP6[1],
        REMOTE_IP6[2],
        REMOTE_IP6[3],
        LOCAL_IP6[0],
        LOCAL_IP6[1],
        LOCAL_IP6[2],
        LOCAL_IP6[3],
        REMOTE_PORT,
        LOCAL_PORT,
        GSO_SEGS,
        SK,
        GSO_SIZE,
    ],
);

pub(super) static FLOW_DISSECTOR: CtxLayout =
    CtxLayout::fixed("__sk_buff", SIZE, RT_SIZE, &[DATA, DATA_END, FLOW_KEYS]);
