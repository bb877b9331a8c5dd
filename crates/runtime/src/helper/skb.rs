//! Socket buffers: bytes, metadata, VLAN tags.
//!
//! Invariant: every access is tested against the packet's bounds, whatever the verifier proved. Kernel counterpart:
//! net/core/filter.c, 6.18.

use skep_abi::{Errno, Size};

use super::{HelperFn, bytes, bytes_mut, entry, low, low_signed, status};
use crate::ctx::{PacketRef, SkBuff};
use crate::frame::Run;

/// `BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH`.
const STORE_FLAGS: u64 = 3;
/// `BPF_F_INVALIDATE_HASH`.
const INVALIDATE_HASH: u64 = 2;
/// Ethernet types in the order of the wire.
const VLAN: [u16; 2] = [0x8100u16.to_be(), 0x88a8u16.to_be()];
const IP: u16 = 0x0800u16.to_be();
const IPV6: u16 = 0x86ddu16.to_be();

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (9, entry!(store_bytes)),
        (17, entry!(zero)), // get_cgroup_classid
        (18, entry!(vlan_push)),
        (19, entry!(vlan_pop)),
        (24, entry!(zero)), // get_route_realm
        (26, entry!(load_bytes)),
        (32, entry!(change_type)),
        (34, entry!(get_hash_recalc)),
        (39, entry!(pull_data)),
        (41, entry!(set_hash_invalid)),
        (46, entry!(zero)), // get_socket_cookie: packets here have no socket
        (47, entry!(get_socket_uid)),
        (48, entry!(set_hash)),
        (68, entry!(load_bytes_relative)),
        (97, entry!(ecn_set_ce)),
        (192, entry!(set_tstamp)),
    ]
}

/// The packet of the run. A program that calls these helpers has one: the verifier ties them to its type.
fn with<R>(run: &Run, none: R, f: impl FnOnce(&mut SkBuff) -> R) -> R {
    match run.packet() {
        PacketRef::Skb(skb) => f(skb),
        PacketRef::None | PacketRef::Xdp(_) => none,
    }
}

unsafe fn zero(_run: Run, _: [u64; 5]) -> u64 {
    0
}

#[expect(clippy::cast_possible_wrap, reason = "a size of 1, 2 or 4, and an offset that compiled code sign-extended")]
pub(super) unsafe fn load_absolute(run: Run, [_, offset, size, ..]: [u64; 5]) -> u64 {
    let size = match size {
        1 => Size::B,
        2 => Size::H,
        _ => Size::W,
    };
    with(&run, -14, |skb| skb.load_absolute(offset as i64, size)).cast_unsigned()
}

/// Copies out of `from`, or zeroes the destination.
fn copy_out(to: &mut [u8], from: Option<&[u8]>) -> u64 {
    if let Some(from) = from {
        to.copy_from_slice(from);
        0
    } else {
        to.fill(0);
        Errno::EFAULT.as_return()
    }
}

unsafe fn load_bytes(run: Run, [_, offset, to, len, _]: [u64; 5]) -> u64 {
    // SAFETY: r3 is writable for r4 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, u64::from(low(len))) };
    let at = low(offset) as usize;
    with(&run, Errno::EFAULT.as_return(), |skb| {
        let end = at + to.len();
        copy_out(to, skb.packet().get(at..end))
    })
}

unsafe fn load_bytes_relative(run: Run, [_, offset, to, len, start]: [u64; 5]) -> u64 {
    // SAFETY: r3 is writable for r4 bytes (prototype).
    let to = unsafe { bytes_mut(&run, to, u64::from(low(len))) };
    let at = low(offset) as usize;
    with(&run, Errno::EFAULT.as_return(), |skb| {
        let header = match low(start) {
            0 => skb.mac,
            1 => skb.network,
            _ => usize::MAX,
        };
        let from = header.checked_add(at).and_then(|from| skb.head_to_end().get(from..)?.get(..to.len()));
        copy_out(to, from.filter(|_| at <= 0xffff))
    })
}

unsafe fn store_bytes(run: Run, [_, offset, from, len, flags]: [u64; 5]) -> u64 {
    if flags & !STORE_FLAGS != 0 {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: r3 is readable for r4 bytes (prototype).
    let from = unsafe { bytes(&run, from, u64::from(low(len))) };
    let at = low(offset) as usize;
    with(&run, Errno::EFAULT.as_return(), |skb| {
        let end = at + from.len();
        let Some(to) = skb.packet_mut().get_mut(at..end) else { return Errno::EFAULT.as_return() };
        to.copy_from_slice(from);
        if flags & INVALIDATE_HASH != 0 {
            skb.words.hash = 0;
        }
        0
    })
}

/// Every packet here is linear: only the length is tested.
unsafe fn pull_data(run: Run, [_, len, ..]: [u64; 5]) -> u64 {
    let fits = with(&run, false, |skb| low(len) as usize <= skb.packet().len());
    status(if fits { Ok(()) } else { Err(Errno::ENOMEM) })
}

unsafe fn change_type(run: Run, [_, kind, ..]: [u64; 5]) -> u64 {
    with(&run, Errno::EINVAL.as_return(), |skb| {
        if skb.words.pkt_type > 3 || low(kind) > 3 {
            return Errno::EINVAL.as_return();
        }
        skb.words.pkt_type = low(kind);
        0
    })
}

unsafe fn set_hash(run: Run, [_, hash, ..]: [u64; 5]) -> u64 {
    with(&run, 0, |skb| {
        skb.words.hash = low(hash);
        0
    })
}

unsafe fn set_hash_invalid(run: Run, _: [u64; 5]) -> u64 {
    with(&run, 0, |skb| {
        skb.words.hash = 0;
        0
    })
}

/// The hash of the flow: equal for equal addresses, protocol and ports, never 0, and not the kernel's (which is keyed).
unsafe fn get_hash_recalc(run: Run, _: [u64; 5]) -> u64 {
    with(&run, 0, |skb| {
        if skb.words.hash == 0 {
            skb.words.hash = flow_hash(skb);
        }
        u64::from(skb.words.hash)
    })
}

fn flow_hash(skb: &SkBuff) -> u32 {
    let network = skb.head_to_end().get(skb.network..).unwrap_or(&[]);
    // Addresses, protocol, offset of the ports; a fragment has none.
    let (addresses, protocol, ports) = match (skb.words.protocol, network) {
        (p, [first, ..]) if p == u32::from(IP) && network.len() >= 20 => {
            let fragment = network[6] & 0x3f != 0 || network[7] != 0;
            (12..20, network[9], if fragment { usize::MAX } else { usize::from(first & 15) * 4 })
        }
        (p, _) if p == u32::from(IPV6) && network.len() >= 40 => (8..40, network[6], 40),
        _ => (0..0, 0, usize::MAX),
    };
    let ports = network.get(ports..).and_then(|rest| rest.get(..4)).unwrap_or(&[]);
    let ports = if matches!(protocol, 6 | 17 | 132) { ports } else { &[] };
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in network[addresses].iter().chain([&protocol]).chain(ports) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    low(hash ^ hash >> 32).max(1)
}

/// `overflowuid`: the packet has no socket.
unsafe fn get_socket_uid(_run: Run, _: [u64; 5]) -> u64 {
    65534
}

unsafe fn set_tstamp(run: Run, [_, tstamp, kind, ..]: [u64; 5]) -> u64 {
    with(&run, Errno::ENOTSUP.as_return(), |skb| {
        if ![u32::from(IP), u32::from(IPV6)].contains(&skb.words.protocol) {
            return Errno::ENOTSUP.as_return();
        }
        if low(kind) > 2 || (low(kind) != 0 && tstamp == 0) {
            return Errno::EINVAL.as_return();
        }
        skb.words.tstamp = tstamp;
        skb.words.tstamp_type = low(kind);
        0
    })
}

/// Marks the packet as having met congestion; 0 if it cannot carry the mark.
unsafe fn ecn_set_ce(run: Run, _: [u64; 5]) -> u64 {
    with(&run, 0, |skb| {
        let (protocol, at) = (skb.words.protocol, skb.network.saturating_sub(skb.start()));
        let Some(header) = skb.packet_mut().get_mut(at..) else { return 0 };
        if protocol == u32::from(IP) && header.len() >= 20 {
            let old = header[1];
            if old & 3 == 0 {
                return 0;
            }
            header[1] |= 3;
            // One's complement: the header's sum grows by what the field did.
            let sum = u32::from(u16::from_be_bytes([header[10], header[11]]))
                + u32::from(old)
                + (0xffff - u32::from(old | 3));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            header[10..12].copy_from_slice(&low(u64::from(sum)).to_be_bytes()[2..]);
            1
        } else if protocol == u32::from(IPV6) && header.len() >= 40 {
            if header[1] >> 4 & 3 == 0 {
                return 0;
            }
            header[1] |= 0x30;
            1
        } else {
            0
        }
    })
}

unsafe fn vlan_push(run: Run, [_, protocol, tci, ..]: [u64; 5]) -> u64 {
    with(&run, Errno::EINVAL.as_return(), |skb| {
        let protocol = low(protocol & 0xffff);
        let protocol = if protocol == u32::from(VLAN[1]) { protocol } else { u32::from(VLAN[0]) };
        if skb.words.vlan_present != 0 {
            insert_tag(skb);
        }
        skb.words.vlan_present = 1;
        skb.words.vlan_proto = protocol;
        skb.words.vlan_tci = low(tci & 0xffff);
        0
    })
}

/// Moves the tag from the metadata into the packet, behind the addresses.
fn insert_tag(skb: &mut SkBuff) {
    let tag = (skb.words.vlan_proto, skb.words.vlan_tci);
    skb.insert(12, 4);
    skb.mac -= 4;
    let packet = skb.packet_mut();
    packet[12..14].copy_from_slice(&tag.0.to_ne_bytes()[..2]);
    packet[14..16].copy_from_slice(&tag.1.to_be_bytes()[2..]);
    skb.words.protocol = tag.0;
}

/// Takes the tag behind the addresses out of the packet; its control information.
fn remove_tag(skb: &mut SkBuff) -> Option<u32> {
    let tci = skb.packet().get(14..18)?;
    let (tci, inner) = (u32::from(u16::from_be_bytes([tci[0], tci[1]])), u16::from_ne_bytes([tci[2], tci[3]]));
    skb.remove(12, 4);
    skb.mac += 4;
    skb.words.protocol = u32::from(inner);
    Some(tci)
}

unsafe fn vlan_pop(run: Run, _: [u64; 5]) -> u64 {
    let tagged = |skb: &SkBuff| VLAN.iter().any(|proto| u32::from(*proto) == skb.words.protocol);
    with(&run, Errno::EINVAL.as_return(), |skb| {
        if skb.words.vlan_present != 0 {
            skb.words.vlan_present = 0;
            skb.words.vlan_tci = 0;
            skb.words.vlan_proto = 0;
        } else if !tagged(skb) {
            return 0;
        } else if remove_tag(skb).is_none() {
            return Errno::ENOMEM.as_return();
        }
        // The next tag in the packet becomes the one in the metadata.
        if tagged(skb) {
            let protocol = skb.words.protocol;
            match remove_tag(skb) {
                Some(tci) => (skb.words.vlan_present, skb.words.vlan_proto, skb.words.vlan_tci) = (1, protocol, tci),
                None => return Errno::ENOMEM.as_return(),
            }
        }
        0
    })
}

/// For the helpers that change the packet's size.
pub(super) fn with_skb(run: &Run, f: impl FnOnce(&mut SkBuff) -> Result<(), Errno>) -> u64 {
    status(with(run, Err(Errno::EINVAL), f))
}

/// A signed 32-bit argument.
pub(super) fn signed(argument: u64) -> i32 {
    low_signed(argument)
}

/// The protocol of the packet, in host byte order.
pub(super) fn protocol(skb: &SkBuff) -> u16 {
    u16::from_be((skb.words.protocol & 0xffff) as u16)
}
