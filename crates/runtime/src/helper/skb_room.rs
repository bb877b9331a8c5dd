//! Socket buffers: helpers that change the packet's size.
//!
//! Invariant: a helper that fails leaves the packet as it was. Kernel counterpart: `bpf_skb_change_tail`,
//! `bpf_skb_change_head`, `bpf_skb_change_proto`, `bpf_skb_adjust_room`, net/core/filter.c, 6.18.

use skep_abi::Errno;

use super::skb::{protocol, signed, with_skb};
use super::{HelperFn, entry, low};
use crate::ctx::SkBuff;
use crate::frame::Run;

/// The largest packet that may be made (`BPF_SKB_MAX_LEN`).
const MAX_LEN: usize = (4096 << 2) - 320;
/// Difference of the IPv6 and the IPv4 header.
const HEADER_DIFFERENCE: usize = 20;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Flags of `adjust_room`.
mod room {
    pub(super) const FIXED_GSO: u64 = 1 << 0;
    pub(super) const ENCAP_L3: u64 = 1 << 1 | 1 << 2;
    pub(super) const ENCAP_L4: u64 = 1 << 3 | 1 << 4;
    pub(super) const NO_CSUM_RESET: u64 = 1 << 5;
    pub(super) const ENCAP_L2_ETH: u64 = 1 << 6;
    pub(super) const DECAP_L3_IPV4: u64 = 1 << 7;
    pub(super) const DECAP_L3_IPV6: u64 = 1 << 8;
    pub(super) const ENCAP_L2_LEN: u64 = 0xff << 56;
    pub(super) const DECAP: u64 = DECAP_L3_IPV4 | DECAP_L3_IPV6;
    pub(super) const ENCAP: u64 = ENCAP_L3 | ENCAP_L4 | ENCAP_L2_ETH | ENCAP_L2_LEN;
    pub(super) const ALL: u64 = FIXED_GSO | ENCAP | NO_CSUM_RESET | DECAP;
}

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![(31, entry!(change_proto)), (38, entry!(change_tail)), (43, entry!(change_head)), (50, entry!(adjust_room))]
}

unsafe fn change_tail(run: Run, [_, len, flags, ..]: [u64; 5]) -> u64 {
    with_skb(&run, |skb| {
        let len = low(len) as usize;
        let shortest = skb.network.saturating_sub(skb.start());
        if flags != 0 || len > MAX_LEN || len < shortest {
            return Err(Errno::EINVAL);
        }
        skb.set_len(len);
        Ok(())
    })
}

unsafe fn change_head(run: Run, [_, room, flags, ..]: [u64; 5]) -> u64 {
    with_skb(&run, |skb| {
        let room = low(room) as usize;
        if flags != 0 || skb.packet().len() + room > MAX_LEN {
            return Err(Errno::EINVAL);
        }
        skb.push(room);
        skb.mac = skb.start();
        Ok(())
    })
}

/// Makes `len` bytes of room behind the first `at` bytes; the headers before it move along.
fn grow(skb: &mut SkBuff, at: usize, len: usize) {
    skb.insert(at, len);
    skb.mac -= len;
    skb.network -= len;
}

fn shrink(skb: &mut SkBuff, at: usize, len: usize) -> Result<(), Errno> {
    if at + len > skb.packet().len() {
        return Err(Errno::ENOMEM);
    }
    skb.remove(at, len);
    skb.mac += len;
    skb.network += len;
    Ok(())
}

fn mac_len(skb: &SkBuff) -> usize {
    skb.network.saturating_sub(skb.mac)
}

unsafe fn change_proto(run: Run, [_, proto, flags, ..]: [u64; 5]) -> u64 {
    with_skb(&run, |skb| {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let to = u16::from_be((low(proto) & 0xffff) as u16);
        let at = mac_len(skb);
        match (protocol(skb), to) {
            (ETH_P_IP, ETH_P_IPV6) => grow(skb, at, HEADER_DIFFERENCE),
            (ETH_P_IPV6, ETH_P_IP) => shrink(skb, at, HEADER_DIFFERENCE)?,
            _ => return Err(Errno::ENOTSUPP),
        }
        skb.words.protocol = u32::from(to.to_be());
        skb.words.hash = 0;
        Ok(())
    })
}

unsafe fn adjust_room(run: Run, [_, difference, mode, flags, _]: [u64; 5]) -> u64 {
    with_skb(&run, |skb| {
        let difference = signed(difference);
        let (len, shrinks) = (difference.unsigned_abs() as usize, difference < 0);
        if flags & !room::ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if len > 0xfff {
            return Err(Errno::EFAULT);
        }
        let mut shortest = match protocol(skb) {
            ETH_P_IP => 20,
            ETH_P_IPV6 => 40,
            _ => return Err(Errno::ENOTSUPP),
        };
        let at = match low(mode) {
            0 => mac_len(skb) + shortest,
            1 => mac_len(skb),
            _ => return Err(Errno::ENOTSUPP),
        };
        if flags & room::DECAP != 0 {
            if !shrinks || flags & room::DECAP == room::DECAP {
                return Err(Errno::EINVAL);
            }
            shortest = if flags & room::DECAP_L3_IPV4 != 0 { 20 } else { 40 };
        }
        let current = skb.packet().len() - skb.network.saturating_sub(skb.start()).min(skb.packet().len());
        let too_short = shrinks && (len >= current || current - len < shortest);
        let too_long = !shrinks && skb.packet().len() + len > MAX_LEN;
        if too_short || too_long {
            return Err(Errno::ENOTSUPP);
        }
        if shrinks {
            if flags & !(room::FIXED_GSO | room::DECAP | room::NO_CSUM_RESET) != 0 {
                return Err(Errno::EINVAL);
            }
            shrink(skb, at, len)?;
            if flags & room::DECAP_L3_IPV4 != 0 {
                skb.words.protocol = u32::from(ETH_P_IP.to_be());
            } else if flags & room::DECAP_L3_IPV6 != 0 {
                skb.words.protocol = u32::from(ETH_P_IPV6.to_be());
            }
            return Ok(());
        }
        check_encapsulation(flags, len)?;
        grow(skb, at, len);
        if flags & 1 << 1 != 0 {
            skb.words.protocol = u32::from(ETH_P_IP.to_be());
        } else if flags & 1 << 2 != 0 {
            skb.words.protocol = u32::from(ETH_P_IPV6.to_be());
        }
        Ok(())
    })
}

/// Encapsulation must name one outer network header, one tunnel header, and leave room for the inner link header.
fn check_encapsulation(flags: u64, len: usize) -> Result<(), Errno> {
    if flags & room::ENCAP_L3 == 0 {
        return Ok(());
    }
    let l2 = (flags >> 56) as usize;
    if flags & room::ENCAP_L3 == room::ENCAP_L3 || flags & room::ENCAP_L4 == room::ENCAP_L4 {
        return Err(Errno::EINVAL);
    }
    if flags & room::ENCAP_L2_ETH != 0 && l2 < 14 || l2 > len {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
