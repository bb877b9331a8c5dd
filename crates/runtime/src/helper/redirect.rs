//! Redirects: recorded in the packet for whoever runs the program.
//!
//! Nothing is sent from here. Invariant: a redirect is recorded exactly when the returned action says so. Kernel
//! counterpart: `bpf_redirect`, `bpf_xdp_redirect`, `bpf_xdp_redirect_map`, net/core/filter.c, 6.18.

use skep_abi::{Errno, MapType};

use super::{HelperFn, entry, low};
use crate::ctx::{PacketRef, Redirect};
use crate::frame::Run;
use crate::map::MapObject;

/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;
/// `BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS`.
const BROADCAST: u64 = 1 << 3;
const EXCLUDE_INGRESS: u64 = 1 << 4;
/// The action to return when there is no target.
const ACTION: u64 = 3;
const XDP_ABORTED: u64 = 0;
const XDP_REDIRECT: u64 = 4;
const TC_ACT_SHOT: u64 = 2;
const TC_ACT_REDIRECT: u64 = 7;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (13, entry!(clone_redirect)),
        (23, entry!(redirect)),
        (51, entry!(redirect_map)),
        (152, entry!(redirect_neigh)),
        (155, entry!(redirect_peer)),
    ]
}

unsafe fn redirect(run: Run, [ifindex, flags, ..]: [u64; 5]) -> u64 {
    let target = Redirect::Device { ifindex: low(ifindex), flags };
    match run.packet() {
        PacketRef::Xdp(_) if flags != 0 => XDP_ABORTED,
        PacketRef::Xdp(xdp) => {
            xdp.set_redirect(target);
            XDP_REDIRECT
        }
        PacketRef::Skb(_) if flags & !INGRESS != 0 => TC_ACT_SHOT,
        PacketRef::Skb(skb) => {
            skb.redirect = Some(target);
            TC_ACT_REDIRECT
        }
        PacketRef::None => XDP_ABORTED,
    }
}

/// A redirect of an skb without flags.
fn plain(run: Run, ifindex: u64, refused: bool, flags: u64) -> u64 {
    match run.packet() {
        PacketRef::Skb(skb) if !refused => {
            skb.redirect = Some(Redirect::Device { ifindex: low(ifindex), flags });
            TC_ACT_REDIRECT
        }
        _ => TC_ACT_SHOT,
    }
}

unsafe fn redirect_peer(run: Run, [ifindex, flags, ..]: [u64; 5]) -> u64 {
    plain(run, ifindex, flags != 0, flags)
}

unsafe fn redirect_neigh(run: Run, [ifindex, params, len, flags, _]: [u64; 5]) -> u64 {
    // `struct bpf_redir_neigh` has 20 bytes, or is absent.
    let refused = flags != 0 || (low(len) != 0 && low(len) < 20) || (params == 0 && low(len) != 0);
    plain(run, ifindex, refused, flags)
}

unsafe fn clone_redirect(run: Run, [_, ifindex, flags, ..]: [u64; 5]) -> u64 {
    match run.packet() {
        PacketRef::Skb(skb) if flags & !INGRESS == 0 => {
            let copy = skb.packet().to_vec();
            skb.clones.push((Redirect::Device { ifindex: low(ifindex), flags }, copy));
            0
        }
        _ => Errno::EINVAL.as_return(),
    }
}

unsafe fn redirect_map(run: Run, [map, key, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (prototype).
    let map = unsafe { MapObject::from_addr(map) };
    let devices = matches!(map.info().map_type, MapType::Devmap | MapType::DevmapHash);
    let known = ACTION | if devices { BROADCAST | EXCLUDE_INGRESS } else { 0 };
    if flags & !known != 0 {
        return XDP_ABORTED;
    }
    if map.ops().redirect(key).is_none() && flags & BROADCAST == 0 {
        return flags & ACTION;
    }
    if let PacketRef::Xdp(xdp) = run.packet() {
        xdp.set_redirect(Redirect::Map { map_id: map.info().id, key, flags });
    }
    XDP_REDIRECT
}
