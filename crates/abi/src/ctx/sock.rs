//! Contexts of sockets: cgroup hooks, `sock_ops`, `sk_msg`, `sk_lookup`, `sk_reuseport`, sysctl, device.

use super::{CtxField as F, CtxFieldKind as K, CtxLayout};
use crate::types::AttachType as A;

const BOUND_DEV_IF: F = F::word("bound_dev_if", 0).whole().writable();
const SOCK_FAMILY: F = F::word("family", 4).start();
const SOCK_TYPE: F = F::word("type", 8).start();
const SOCK_PROTOCOL: F = F::word("protocol", 12).start();
const SOCK_MARK: F = F::word("mark", 16).whole().writable();
const SOCK_PRIORITY: F = F::word("priority", 20).whole().writable();
const SRC_IP4: F = F::word("src_ip4", 24);
const SRC_IP6: [F; 4] =
    [F::word("src_ip6[0]", 28), F::word("src_ip6[1]", 32), F::word("src_ip6[2]", 36), F::word("src_ip6[3]", 40)];
const SRC_PORT: F = F::word("src_port", 44).start();
/// Two bytes; a load of four gives the port and zeroes.
const DST_PORT: [F; 2] = [F::word("dst_port", 48).sized(2), F::word("dst_port", 48).whole()];
const DST_IP4: F = F::word("dst_ip4", 52);
const DST_IP6: [F; 4] =
    [F::word("dst_ip6[0]", 56), F::word("dst_ip6[1]", 60), F::word("dst_ip6[2]", 64), F::word("dst_ip6[3]", 68)];
const STATE: F = F::word("state", 72).start();
const RX_QUEUE: F = F::word("rx_queue_mapping", 76).start();

static SOCK_CREATE: CtxLayout = CtxLayout::fixed(
    "bpf_sock",
    80,
    80,
    &[
        BOUND_DEV_IF,
        SOCK_FAMILY,
        SOCK_TYPE,
        SOCK_PROTOCOL,
        SOCK_MARK,
        SOCK_PRIORITY,
        DST_PORT[0],
        DST_PORT[1],
        DST_IP4,
        DST_IP6[0],
        DST_IP6[1],
        DST_IP6[2],
        DST_IP6[3],
        STATE,
        RX_QUEUE,
    ],
);

static SOCK_POST_BIND4: CtxLayout = CtxLayout::fixed(
    "bpf_sock",
    80,
    80,
    &[
        SOCK_FAMILY,
        SOCK_TYPE,
        SOCK_PROTOCOL,
        SRC_IP4,
        SRC_PORT,
        DST_PORT[0],
        DST_PORT[1],
        DST_IP4,
        DST_IP6[0],
        DST_IP6[1],
        DST_IP6[2],
        DST_IP6[3],
        STATE,
        RX_QUEUE,
    ],
);

static SOCK_POST_BIND6: CtxLayout = CtxLayout::fixed(
    "bpf_sock",
    80,
    80,
    &[
        SOCK_FAMILY,
        SOCK_TYPE,
        SOCK_PROTOCOL,
        SRC_IP6[0],
        SRC_IP6[1],
        SRC_IP6[2],
        SRC_IP6[3],
        SRC_PORT,
        DST_PORT[0],
        DST_PORT[1],
        DST_IP4,
        DST_IP6[0],
        DST_IP6[1],
        DST_IP6[2],
        DST_IP6[3],
        STATE,
        RX_QUEUE,
    ],
);

/// `struct bpf_sock`.
pub(super) fn cgroup_sock(attach: A) -> &'static CtxLayout {
    match attach {
        A::CgroupInet4PostBind => &SOCK_POST_BIND4,
        A::CgroupInet6PostBind => &SOCK_POST_BIND6,
        _ => &SOCK_CREATE,
    }
}

const USER_FAMILY: F = F::word("user_family", 0).whole();
const USER_IP4: F = F::word("user_ip4", 4).writable();
const USER_IP6: [F; 4] = [
    F::word("user_ip6[0]", 8).wide().writable(),
    F::word("user_ip6[1]", 12).writable(),
    F::word("user_ip6[2]", 16).wide().writable(),
    F::word("user_ip6[3]", 20).writable(),
];
const USER_PORT: F = F::word("user_port", 24).writable();
const FAMILY: F = F::word("family", 28).whole();
const TYPE: F = F::word("type", 32).whole();
const PROTOCOL: F = F::word("protocol", 36).whole();
const MSG_SRC_IP4: F = F::word("msg_src_ip4", 40).writable();
const MSG_SRC_IP6: [F; 4] = [
    F::word("msg_src_ip6[0]", 44).writable(),
    F::word("msg_src_ip6[1]", 48).wide().writable(),
    F::word("msg_src_ip6[2]", 52).writable(),
    F::word("msg_src_ip6[3]", 56).writable(),
];
const ADDR_SK: F = F::new("sk", 64, 8, K::Sock);

const fn addr(fields: &'static [F]) -> CtxLayout {
    CtxLayout::fixed("bpf_sock_addr", 72, 72, fields)
}

static ADDR4: CtxLayout = addr(&[USER_FAMILY, USER_IP4, USER_PORT, FAMILY, TYPE, PROTOCOL, ADDR_SK]);
static ADDR4_SENDMSG: CtxLayout =
    addr(&[USER_FAMILY, USER_IP4, USER_PORT, FAMILY, TYPE, PROTOCOL, MSG_SRC_IP4, ADDR_SK]);
static ADDR6: CtxLayout = addr(&[
    USER_FAMILY,
    USER_IP6[0],
    USER_IP6[1],
    USER_IP6[2],
    USER_IP6[3],
    USER_PORT,
    FAMILY,
    TYPE,
    PROTOCOL,
    ADDR_SK,
]);
static ADDR6_SENDMSG: CtxLayout = addr(&[
    USER_FAMILY,
    USER_IP6[0],
    USER_IP6[1],
    USER_IP6[2],
    USER_IP6[3],
    USER_PORT,
    FAMILY,
    TYPE,
    PROTOCOL,
    MSG_SRC_IP6[0],
    MSG_SRC_IP6[1],
    MSG_SRC_IP6[2],
    MSG_SRC_IP6[3],
    ADDR_SK,
]);
static ADDR_UNIX: CtxLayout = addr(&[USER_FAMILY, USER_PORT, FAMILY, TYPE, PROTOCOL, ADDR_SK]);

/// `struct bpf_sock_addr`.
pub(super) fn sock_addr(attach: A) -> &'static CtxLayout {
    match attach {
        A::CgroupUdp4Sendmsg => &ADDR4_SENDMSG,
        A::CgroupUdp6Sendmsg => &ADDR6_SENDMSG,
        A::CgroupInet6Bind
        | A::CgroupInet6Connect
        | A::CgroupUdp6Recvmsg
        | A::CgroupInet6Getpeername
        | A::CgroupInet6Getsockname => &ADDR6,
        A::CgroupUnixConnect
        | A::CgroupUnixSendmsg
        | A::CgroupUnixRecvmsg
        | A::CgroupUnixGetpeername
        | A::CgroupUnixGetsockname => &ADDR_UNIX,
        _ => &ADDR4,
    }
}

const fn whole(name: &'static str, offset: u16) -> F {
    F::word(name, offset).whole()
}

pub(super) static SOCK_OPS: CtxLayout = CtxLayout::fixed(
    "bpf_sock_ops",
    224,
    224,
    &[
        whole("op", 0),
        whole("reply", 4).writable(),
        whole("args[1]", 8),
        whole("args[2]", 12),
        whole("args[3]", 16),
        whole("family", 20),
        whole("remote_ip4", 24),
        whole("local_ip4", 28),
        whole("remote_ip6[0]", 32),
        whole("remote_ip6[1]", 36),
        whole("remote_ip6[2]", 40),
        whole("remote_ip6[3]", 44),
        whole("local_ip6[0]", 48),
        whole("local_ip6[1]", 52),
        whole("local_ip6[2]", 56),
        whole("local_ip6[3]", 60),
        whole("remote_port", 64),
        whole("local_port", 68),
        whole("is_fullsock", 72),
        whole("snd_cwnd", 76),
        whole("srtt_us", 80),
        whole("bpf_sock_ops_cb_flags", 84),
        whole("state", 88),
        whole("rtt_min", 92),
        whole("snd_ssthresh", 96),
        whole("rcv_nxt", 100),
        whole("snd_nxt", 104),
        whole("snd_una", 108),
        whole("mss_cache", 112),
        whole("ecn_flags", 116),
        whole("rate_delivered", 120),
        whole("rate_interval_us", 124),
        whole("packets_out", 128),
        whole("retrans_out", 132),
        whole("total_retrans", 136),
        whole("segs_in", 140),
        whole("data_segs_in", 144),
        whole("segs_out", 148),
        whole("data_segs_out", 152),
        whole("lost_out", 156),
        whole("sacked_out", 160),
        whole("sk_txhash", 164).writable(),
        whole("bytes_received", 168).sized(8),
        whole("bytes_acked", 176).sized(8),
        F::new("sk", 184, 8, K::SockOrNull),
        F::new("skb_data", 192, 8, K::PacketData),
        F::new("skb_data_end", 200, 8, K::PacketEnd),
        whole("skb_len", 208),
        F::word("skb_tcp_flags", 212).start(),
        whole("skb_hwtstamp", 216).sized(8),
    ],
);

pub(super) static SK_MSG: CtxLayout = CtxLayout::fixed(
    "sk_msg_md",
    80,
    80,
    &[
        F::new("data", 0, 8, K::PacketData),
        F::new("data_end", 8, 8, K::PacketEnd),
        whole("family", 16),
        whole("remote_ip4", 20),
        whole("local_ip4", 24),
        whole("remote_ip6[0]", 28),
        whole("remote_ip6[1]", 32),
        whole("remote_ip6[2]", 36),
        whole("remote_ip6[3]", 40),
        whole("local_ip6[0]", 44),
        whole("local_ip6[1]", 48),
        whole("local_ip6[2]", 52),
        whole("local_ip6[3]", 56),
        whole("remote_port", 60),
        whole("local_port", 64),
        whole("size", 68),
        F::new("sk", 72, 8, K::Sock),
    ],
);

pub(super) static SK_LOOKUP: CtxLayout = CtxLayout::fixed(
    "bpf_sk_lookup",
    72,
    72,
    &[
        F::new("sk", 0, 8, K::SockOrNull),
        F::word("family", 8),
        F::word("protocol", 12),
        F::word("remote_ip4", 16),
        F::word("remote_ip6[0]", 20),
        F::word("remote_ip6[1]", 24),
        F::word("remote_ip6[2]", 28),
        F::word("remote_ip6[3]", 32),
        F::word("remote_port", 36),
        F::word("local_ip4", 40),
        F::word("local_ip6[0]", 44),
        F::word("local_ip6[1]", 48),
        F::word("local_ip6[2]", 52),
        F::word("local_ip6[3]", 56),
        F::word("local_port", 60),
        F::word("ingress_ifindex", 64),
    ],
);

pub(super) static SK_REUSEPORT: CtxLayout = CtxLayout::fixed(
    "sk_reuseport_md",
    56,
    56,
    &[
        F::new("data", 0, 8, K::PacketData),
        F::new("data_end", 8, 8, K::PacketEnd),
        F::word("len", 16),
        whole("eth_protocol", 20),
        whole("eth_protocol", 20).sized(2),
        whole("eth_protocol", 22).sized(2),
        F::word("ip_protocol", 24),
        F::word("bind_inany", 28),
        whole("hash", 32),
        F::new("sk", 40, 8, K::Sock),
        F::new("migrating_sk", 48, 8, K::SockCommonOrNull),
    ],
);

pub(super) static CGROUP_DEVICE: CtxLayout =
    CtxLayout::fixed("bpf_cgroup_dev_ctx", 12, 12, &[F::word("access_type", 0), whole("major", 4), whole("minor", 8)]);

pub(super) static CGROUP_SYSCTL: CtxLayout =
    CtxLayout::fixed("bpf_sysctl", 8, 8, &[F::word("write", 0), F::word("file_pos", 4).writable()]);

const OPT_SK: F = F::new("sk", 0, 8, K::Sock);
const OPTVAL: F = F::new("optval", 8, 8, K::PacketData);
const OPTVAL_END: F = F::new("optval_end", 16, 8, K::PacketEnd);

pub(super) static GETSOCKOPT: CtxLayout = CtxLayout::fixed(
    "bpf_sockopt",
    40,
    40,
    &[
        OPT_SK,
        OPTVAL,
        OPTVAL_END,
        whole("level", 24),
        whole("optname", 28),
        whole("optlen", 32).writable(),
        whole("retval", 36).writable(),
    ],
);

pub(super) static SETSOCKOPT: CtxLayout = CtxLayout::fixed(
    "bpf_sockopt",
    40,
    40,
    &[
        OPT_SK,
        OPTVAL,
        OPTVAL_END,
        whole("level", 24).writable(),
        whole("optname", 28).writable(),
        whole("optlen", 32).writable(),
    ],
);
