//! Socket buffers: the packet and `struct __sk_buff`, for TC, socket filter and `cgroup_skb`.
//!
//! Owns a linear buffer with room at both ends. Invariant: `head <= data <= data_end <= buf_end`, and the mac and network
//! offsets count from `head`. Kernel counterpart: `struct sk_buff`, include/linux/skbuff.h; `bpf_prog_test_run_skb`,
//! net/bpf/test_run.c, 6.18.

use std::mem::offset_of;
use std::ptr::NonNull;

use skep_abi::{Errno, ProgType, Size};

use super::xdp::Redirect;
use super::{Context, CtxParts, CtxType, Packet};

/// Room before the packet (`NET_SKB_PAD + NET_IP_ALIGN`).
pub(crate) const HEADROOM: usize = 64;
/// Room after the packet in a fresh buffer; `skb_shared_info` follows it in the kernel.
const TAILROOM: usize = 320;
/// Length of an Ethernet header.
pub(crate) const ETH_HLEN: usize = 14;

/// `struct __sk_buff` and the words behind it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) len: u32,
    pub(crate) pkt_type: u32,
    pub(crate) mark: u32,
    pub(crate) queue_mapping: u32,
    pub(crate) protocol: u32,
    pub(crate) vlan_present: u32,
    pub(crate) vlan_tci: u32,
    pub(crate) vlan_proto: u32,
    pub(crate) priority: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) ifindex: u32,
    pub(crate) tc_index: u32,
    pub(crate) cb: [u32; 5],
    pub(crate) hash: u32,
    pub(crate) tc_classid: u32,
    uapi_data: u32,
    uapi_data_end: u32,
    pub(crate) napi_id: u32,
    pub(crate) sock: [u32; 12],
    uapi_data_meta: u32,
    flow_keys: u64,
    pub(crate) tstamp: u64,
    pub(crate) wire_len: u32,
    pub(crate) gso_segs: u32,
    uapi_sk: u64,
    pub(crate) gso_size: u32,
    pub(crate) tstamp_type: u32,
    pub(crate) hwtstamp: u64,
    // The words that packet fields are converted to.
    data: u64,
    data_end: u64,
    data_meta: u64,
    head: u64,
    buf_end: u64,
    sk: u64,
    rest: [u64; 2],
}

const _: () = assert!(offset_of!(Words, sock) == 88 && offset_of!(Words, flow_keys) == 144);
const _: () =
    assert!(offset_of!(Words, gso_size) == 176 && offset_of!(Words, data) == 192 && size_of::<Words>() == 256);

/// Describes a packet as a socket buffer; builds an [`SkBuff`].
#[derive(Clone, Debug)]
pub struct Skb {
    pub(crate) packet: Vec<u8>,
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) ifindex: u32,
    pub(crate) cb: [u32; 5],
    pub(crate) tstamp: u64,
    pub(crate) wire_len: u32,
    pub(crate) gso_segs: u32,
    pub(crate) gso_size: u32,
    pub(crate) hwtstamp: u64,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $ty:ty;)+) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: $ty) -> Self {
            self.$name = value;
            self
        })+
    };
}

impl Skb {
    /// A packet, from its Ethernet header on.
    #[must_use]
    pub fn packet(bytes: &[u8]) -> Self {
        Self {
            packet: bytes.to_vec(),
            mark: 0,
            priority: 0,
            ingress_ifindex: 0,
            ifindex: 1,
            cb: [0; 5],
            tstamp: 0,
            wire_len: 0,
            gso_segs: 0,
            gso_size: 0,
            hwtstamp: 0,
        }
    }

    setters! {
        /// `mark`; 0 unless set.
        mark: u32;
        /// `priority`; 0 unless set.
        priority: u32;
        /// The device that it came in on; 0 (none) unless set.
        ingress_ifindex: u32;
        /// The device that it is on; 1 (loopback) unless set.
        ifindex: u32;
        /// Control block; zeros unless set.
        cb: [u32; 5];
        /// `tstamp` in nanoseconds; 0 unless set.
        tstamp: u64;
        /// Length on the wire; 0 stands for the packet's length.
        wire_len: u32;
        /// Segments of a GSO packet.
        gso_segs: u32;
        /// Bytes per segment of a GSO packet.
        gso_size: u32;
        /// Hardware timestamp.
        hwtstamp: u64;
    }

    /// The buffer that programs of this type run on: TC programs see the Ethernet header, the others start behind it.
    ///
    /// # Errors
    /// `EINVAL` for a packet without a whole Ethernet header or above 65,535 bytes, a `wire_len` that is shorter than the
    /// packet or above 65,536, more than 65,535 segments.
    pub fn build(&self, prog_type: ProgType) -> Result<SkBuff, Errno> {
        let len = self.packet.len();
        let wire_ok = self.wire_len == 0 || (self.wire_len as usize >= len && self.wire_len <= 65536);
        if !(ETH_HLEN..=65535).contains(&len) || !wire_ok || self.gso_segs > 65535 {
            return Err(Errno::EINVAL);
        }
        let mut skb = SkBuff::new(&self.packet);
        if !has_mac_header(prog_type) {
            skb.pull_mac_header();
        }
        let words = &mut skb.words;
        words.mark = self.mark;
        words.priority = self.priority;
        words.ingress_ifindex = self.ingress_ifindex;
        words.ifindex = self.ifindex;
        words.cb = self.cb;
        words.tstamp = self.tstamp;
        words.wire_len = if self.wire_len == 0 { words.len } else { self.wire_len };
        words.gso_segs = self.gso_segs;
        words.gso_size = self.gso_size;
        words.hwtstamp = self.hwtstamp;
        Ok(skb)
    }
}

/// Whether a program of this type sees the Ethernet header at `data`.
#[must_use]
pub(crate) fn has_mac_header(prog_type: ProgType) -> bool {
    matches!(prog_type, ProgType::SchedCls | ProgType::SchedAct)
}

/// A socket buffer, reusable for one packet after the other.
#[repr(C)]
pub struct SkBuff {
    pub(crate) words: Words,
    buffer: Vec<u8>,
    /// Offset of the Ethernet header from the buffer's start.
    pub(crate) mac: usize,
    /// Offset of the network header from the buffer's start.
    pub(crate) network: usize,
    pub(crate) redirect: Option<Redirect>,
    /// Copies of the packet that programs sent elsewhere (`bpf_clone_redirect`).
    pub(crate) clones: Vec<(Redirect, Vec<u8>)>,
}

// SAFETY: the words point into the buffer, which the value owns.
unsafe impl Send for SkBuff {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for SkBuff {}

impl SkBuff {
    /// A buffer with a packet of at least an Ethernet header, which `data` points to.
    pub(crate) fn new(packet: &[u8]) -> Self {
        // SAFETY: all fields are integers.
        let words: Words = unsafe { std::mem::zeroed() };
        let mut skb = Self { words, buffer: Vec::new(), mac: 0, network: 0, redirect: None, clones: Vec::new() };
        skb.set_packet(packet);
        skb
    }

    /// Puts in another packet; every field is as for a fresh one. `data` points to the Ethernet header.
    pub(crate) fn set_packet(&mut self, packet: &[u8]) {
        self.buffer.clear();
        self.buffer.resize(HEADROOM, 0);
        self.buffer.extend_from_slice(packet);
        self.buffer.resize(HEADROOM + packet.len() + TAILROOM, 0);
        // SAFETY: all fields are integers.
        self.words = unsafe { std::mem::zeroed() };
        self.words.ifindex = 1;
        self.mac = HEADROOM;
        self.network = HEADROOM + ETH_HLEN;
        self.redirect = None;
        self.clones.clear();
        self.place(HEADROOM, HEADROOM + packet.len());
        self.words.wire_len = self.words.len;
        if let Some(&[high, low]) = packet.get(12..14).and_then(|b| b.first_chunk::<2>()) {
            // As `eth_type_trans`: below 1536 the field is a length, and the packet is 802.2 (`ETH_P_802_2`), or of an old
            // Novell network (`ETH_P_802_3`) if it begins with all ones.
            let protocol = match u16::from_be_bytes([high, low]) {
                protocol if protocol >= 0x600 => protocol,
                _ if packet.get(14..16) == Some(&[0xff; 2]) => 1,
                _ => 4,
            };
            self.words.protocol = u32::from(protocol.to_be());
        }
        let destination = packet.get(..6).unwrap_or(&[0; 6]);
        self.words.pkt_type = match destination {
            // As on the loopback device, whose address and broadcast address are all zeros.
            [first, ..] if first & 1 != 0 => 2,
            [0, 0, 0, 0, 0, 0] => 0,
            _ => 3,
        };
    }

    /// Removes the Ethernet header from the data (`skb_pull`), for program types that start at the network header.
    pub(crate) fn pull_mac_header(&mut self) {
        let (start, end) = (self.start(), self.end());
        self.place((start + ETH_HLEN).min(end), end);
        self.words.wire_len = self.words.len;
    }

    /// Sets `data` and `data_end` by offset in the buffer, and `len`.
    fn place(&mut self, start: usize, end: usize) {
        let base = self.buffer.as_mut_ptr() as u64;
        self.words.head = base;
        self.words.data = base + start as u64;
        self.words.data_end = base + end as u64;
        self.words.data_meta = self.words.data;
        self.words.buf_end = base + self.buffer.len() as u64;
        self.words.len = u32::try_from(end - start).unwrap_or(u32::MAX);
    }

    /// Offset of `data` in the buffer.
    pub(crate) fn start(&self) -> usize {
        usize::try_from(self.words.data - self.words.head).unwrap_or(0).min(self.buffer.len())
    }

    /// Offset of `data_end` in the buffer.
    pub(crate) fn end(&self) -> usize {
        usize::try_from(self.words.data_end - self.words.head).unwrap_or(0).min(self.buffer.len())
    }

    /// The packet from `data` on.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        &self.buffer[self.start()..self.end()]
    }

    pub(crate) fn packet_mut(&mut self) -> &mut [u8] {
        let range = self.start()..self.end();
        &mut self.buffer[range]
    }

    /// The packet from the Ethernet header on, whatever `data` points to.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.buffer[self.mac.min(self.start())..self.end()]
    }

    /// Everything from the buffer's start to `data_end`.
    pub(crate) fn head_to_end(&self) -> &[u8] {
        &self.buffer[..self.end()]
    }

    /// `mark` as the program left it.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.words.mark
    }

    /// `priority` as the program left it.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.words.priority
    }

    /// The control block as the program left it.
    #[must_use]
    pub fn cb(&self) -> [u32; 5] {
        self.words.cb
    }

    /// Where the last program sent the packet, if it returned `TC_ACT_REDIRECT`.
    #[must_use]
    pub fn redirect(&self) -> Option<Redirect> {
        self.redirect
    }

    /// Copies that programs sent elsewhere.
    #[must_use]
    pub fn clones(&self) -> &[(Redirect, Vec<u8>)] {
        &self.clones
    }

    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.words.data_meta, self.words.data_end)
    }

    /// Changes the length; new bytes at the end are zero.
    pub(crate) fn set_len(&mut self, len: usize) {
        let (start, end) = (self.start(), self.end());
        let new_end = start + len;
        if new_end > end {
            self.make_tailroom(new_end - end);
            self.buffer[end..new_end].fill(0);
        }
        self.place(start, new_end);
    }

    /// Inserts `len` zero bytes at `at` (an offset from `data`); what is before moves towards the head.
    pub(crate) fn insert(&mut self, at: usize, len: usize) {
        self.make_headroom(len);
        let (start, end) = (self.start(), self.end());
        let (at, new) = (start + at.min(end - start), start - len);
        self.buffer.copy_within(start..at, new);
        self.buffer[at - len..at].fill(0);
        self.place(new, end);
    }

    /// Removes `len` bytes at `at` (an offset from `data`); what is before moves towards the end. The range is in the packet.
    pub(crate) fn remove(&mut self, at: usize, len: usize) {
        let (start, end) = (self.start(), self.end());
        self.buffer.copy_within(start..start + at, start + len);
        self.place(start + len, end);
    }

    /// Moves `data` by `by` bytes towards the head over zero bytes.
    pub(crate) fn push(&mut self, by: usize) {
        self.make_headroom(by);
        let (start, end) = (self.start(), self.end());
        self.buffer[start - by..start].fill(0);
        self.place(start - by, end);
    }

    fn make_headroom(&mut self, need: usize) {
        let (start, end) = (self.start(), self.end());
        if start >= need {
            return;
        }
        let more = (need - start).next_multiple_of(HEADROOM);
        self.buffer.splice(0..0, std::iter::repeat_n(0, more));
        self.mac += more;
        self.network += more;
        self.place(start + more, end + more);
    }

    fn make_tailroom(&mut self, need: usize) {
        let (start, end) = (self.start(), self.end());
        if self.buffer.len() - end < need {
            self.buffer.resize(end + need + TAILROOM, 0);
            self.place(start, end);
        }
    }

    /// A big-endian load for `LD_ABS`; `-EFAULT` outside of the packet.
    pub(crate) fn load_absolute(&self, offset: i64, size: Size) -> i64 {
        /// Offsets relative to the network header (`SKF_NET_OFF`) and to the Ethernet header (`SKF_LL_OFF`).
        const NET: i64 = -0x10_0000;
        const LINK: i64 = -0x20_0000;
        let bytes = self.head_to_end();
        let at = match offset {
            0.. => Some((self.start(), offset)),
            NET..0 => Some((self.network, offset - NET)),
            LINK..NET => Some((self.mac, offset - LINK)),
            _ => None,
        };
        let load = || {
            let (from, offset) = at?;
            let bytes = bytes.get(from..)?.get(usize::try_from(offset).ok()?..)?;
            Some(match size {
                Size::B => i64::from(*bytes.first()?),
                Size::H => i64::from(u16::from_be_bytes(*bytes.first_chunk()?)),
                Size::W | Size::Dw => i64::from(u32::from_be_bytes(*bytes.first_chunk()?)),
            })
        };
        load().unwrap_or(-14)
    }
}

// SAFETY: the object is the value's first field, and its pointers delimit the owned, initialised buffer.
unsafe impl Context for SkBuff {
    const TYPE: CtxType = CtxType::Skb;

    #[inline]
    fn parts(&mut self) -> CtxParts {
        self.redirect = None;
        let this = NonNull::from(self);
        CtxParts::plain(this.cast(), 256, 192).with_packet(Packet::Skb(this))
    }
}
