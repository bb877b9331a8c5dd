//! XDP: the packet buffer and `struct xdp_md`.
//!
//! Owns a frame laid out as the kernel's test run makes it: 256 bytes of headroom, the packet, 320 bytes that the kernel
//! keeps for its `skb_shared_info`. Invariant: `hard_start <= data_meta <= data <= data_end <= buf_end`. Kernel counterpart:
//! `struct xdp_buff`, include/net/xdp.h; `bpf_prog_test_run_xdp`, net/bpf/test_run.c, 6.18.

use std::mem::offset_of;
use std::ptr::NonNull;

use skep_abi::Errno;

use super::{Context, CtxParts, CtxType, Packet};

/// Bytes before the packet (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// Bytes after the largest packet that are not the program's (`SKB_DATA_ALIGN(sizeof(struct skb_shared_info))`).
const TAILROOM: usize = 320;
/// Bytes of a frame (`PAGE_SIZE`).
const FRAME: usize = 4096;
/// What the kernel keeps at the start of a frame (`sizeof(struct xdp_frame)`).
const FRAME_HEADER: usize = 40;
/// The shortest packet that an adjustment may leave (`ETH_HLEN`).
const MIN_PACKET: i64 = 14;
/// Metadata at most, for the kernel: 252 and a multiple of 4.
const MAX_META: usize = 252;

/// `struct xdp_md` and the words behind it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Words {
    uapi_data: u32,
    uapi_data_end: u32,
    uapi_data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
    data: u64,
    data_end: u64,
    data_meta: u64,
    hard_start: u64,
    buf_end: u64,
}

const _: () = assert!(offset_of!(Words, data) == 24 && offset_of!(Words, buf_end) == 56 && size_of::<Words>() == 64);

/// Where a program sent its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// `bpf_redirect`: to a device.
    Device {
        /// Its index.
        ifindex: u32,
        /// As given.
        flags: u64,
    },
    /// `bpf_redirect_map`: to an entry of a map.
    Map {
        /// The map's id.
        map_id: u32,
        /// The key.
        key: u64,
        /// As given.
        flags: u64,
    },
}

/// What an XDP program returned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum XdpAction {
    /// 0: error in the program.
    Aborted,
    /// 1.
    Drop,
    /// 2.
    Pass,
    /// 3: back out of the same device.
    Tx,
    /// 4: see [`XdpBuff::redirect`].
    Redirect,
    /// Anything else; the kernel treats it as `Aborted`.
    Invalid(u32),
}

impl From<u32> for XdpAction {
    fn from(retval: u32) -> Self {
        match retval {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => Self::Invalid(other),
        }
    }
}

/// Describes a packet at XDP; builds an [`XdpBuff`].
#[derive(Clone, Debug)]
pub struct Xdp {
    pub(crate) packet: Vec<u8>,
    pub(crate) meta_len: usize,
    pub(crate) ingress_ifindex: u32,
    pub(crate) rx_queue_index: u32,
    pub(crate) egress_ifindex: u32,
}

impl Xdp {
    /// A packet, from its Ethernet header on.
    #[must_use]
    pub fn packet(bytes: &[u8]) -> Self {
        Self { packet: bytes.to_vec(), meta_len: 0, ingress_ifindex: 1, rx_queue_index: 0, egress_ifindex: 0 }
    }

    /// The first `len` bytes of the packet are metadata, as `data_meta` shows them (a multiple of 4).
    #[must_use]
    pub fn meta(mut self, len: usize) -> Self {
        self.meta_len = len;
        self
    }

    /// The device that it came in on; 1 (loopback) unless set.
    #[must_use]
    pub fn ingress_ifindex(mut self, ifindex: u32) -> Self {
        self.ingress_ifindex = ifindex;
        self
    }

    /// The receive queue; 0 unless set.
    #[must_use]
    pub fn rx_queue_index(mut self, queue: u32) -> Self {
        self.rx_queue_index = queue;
        self
    }

    /// The device that it goes out of, for programs in a devmap; 0 unless set.
    #[must_use]
    pub fn egress_ifindex(mut self, ifindex: u32) -> Self {
        self.egress_ifindex = ifindex;
        self
    }

    /// The buffer that programs run on.
    ///
    /// # Errors
    /// `EINVAL` if the metadata is longer than the packet, unaligned or above 252 bytes.
    pub fn build(&self) -> Result<XdpBuff, Errno> {
        if !self.meta_len.is_multiple_of(4) || self.meta_len > MAX_META || self.meta_len > self.packet.len() {
            return Err(Errno::EINVAL);
        }
        let mut buff = XdpBuff::with_capacity(self.packet.len());
        buff.words.ingress_ifindex = self.ingress_ifindex;
        buff.words.rx_queue_index = self.rx_queue_index;
        buff.words.egress_ifindex = self.egress_ifindex;
        buff.fill(&self.packet, self.meta_len);
        Ok(buff)
    }
}

/// A packet buffer at XDP, reusable for one packet after the other.
#[repr(C)]
pub struct XdpBuff {
    words: Words,
    buffer: Box<[u8]>,
    /// What did not fit into the frame (the fragments of a multi-buffer packet).
    fragments: Vec<u8>,
    redirect: Option<Redirect>,
}

// SAFETY: the words point into the buffer, which the value owns.
unsafe impl Send for XdpBuff {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for XdpBuff {}

impl XdpBuff {
    /// An empty buffer for packets of up to `len` bytes; a page, or more for longer packets.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        let size = FRAME.max(HEADROOM + len + TAILROOM);
        let mut buff = Self {
            words: Words::default(),
            buffer: vec![0; size].into_boxed_slice(),
            fragments: Vec::new(),
            redirect: None,
        };
        buff.fill(&[], 0);
        buff
    }

    /// The buffer of a test run: one page, with what does not fit, or lies beyond `linear`, in fragments.
    pub(crate) fn with_fragments(xdp: &Xdp, linear: usize) -> Result<Self, Errno> {
        let room = FRAME - (HEADROOM - xdp.meta_len.min(HEADROOM)) - TAILROOM;
        let linear = linear.min(room).min(xdp.packet.len());
        let (first, rest) = xdp.packet.split_at(linear);
        let mut buff = Xdp { packet: first.to_vec(), ..xdp.clone() }.build()?;
        buff.fragments = rest.to_vec();
        Ok(buff)
    }

    /// Length of the packet, fragments included.
    pub(crate) fn total_len(&self) -> usize {
        self.packet().len() + self.fragments.len()
    }

    /// Metadata and packet, fragments included.
    pub(crate) fn meta_and_all(&self) -> Vec<u8> {
        [self.meta_and_packet(), &self.fragments].concat()
    }

    /// Copies the bytes from `offset` on; the range is in the packet.
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let linear = self.packet();
        for (at, to) in (offset..).zip(to) {
            *to = linear.get(at).or_else(|| self.fragments.get(at - linear.len())).copied().unwrap_or(0);
        }
    }

    /// Writes the bytes from `offset` on; the range is in the packet.
    pub(crate) fn copy_in(&mut self, offset: usize, from: &[u8]) {
        let len = self.packet().len();
        for (at, from) in (offset..).zip(from) {
            let to = if at < len { self.packet_mut().get_mut(at) } else { self.fragments.get_mut(at - len) };
            if let Some(to) = to {
                *to = *from;
            }
        }
    }

    /// Puts in another packet. Device indices stay.
    ///
    /// A longer one than the buffer holds gets a larger buffer.
    pub fn set_packet(&mut self, bytes: &[u8]) {
        if HEADROOM + bytes.len() + TAILROOM > self.buffer.len() {
            self.buffer = vec![0; HEADROOM + bytes.len() + TAILROOM].into_boxed_slice();
        }
        self.fill(bytes, 0);
    }

    /// The buffer holds `HEADROOM + bytes.len() + TAILROOM`, and `meta_len` is at most the length.
    fn fill(&mut self, bytes: &[u8], meta_len: usize) {
        // As in the kernel, metadata takes its place from the headroom.
        let meta = HEADROOM - meta_len;
        self.buffer[meta..meta + bytes.len()].copy_from_slice(bytes);
        let start = self.buffer.as_mut_ptr() as u64;
        self.words.hard_start = start;
        self.words.buf_end = start + (self.buffer.len() - TAILROOM) as u64;
        self.words.data_meta = start + meta as u64;
        self.words.data = start + HEADROOM as u64;
        self.words.data_end = start + (meta + bytes.len()) as u64;
        self.fragments.clear();
        self.redirect = None;
    }

    /// Sets the device indices and the queue.
    pub fn set_device(&mut self, ingress_ifindex: u32, rx_queue_index: u32) {
        self.words.ingress_ifindex = ingress_ifindex;
        self.words.rx_queue_index = rx_queue_index;
    }

    /// The device that the packet came in on.
    #[must_use]
    pub fn ingress_ifindex(&self) -> u32 {
        self.words.ingress_ifindex
    }

    /// The receive queue.
    #[must_use]
    pub fn rx_queue_index(&self) -> u32 {
        self.words.rx_queue_index
    }

    /// The packet as it is now, without metadata.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        &self.buffer[self.index(self.words.data)..self.index(self.words.data_end)]
    }

    /// Metadata and packet as they are now.
    #[must_use]
    pub fn meta_and_packet(&self) -> &[u8] {
        &self.buffer[self.index(self.words.data_meta)..self.index(self.words.data_end)]
    }

    /// How many bytes of metadata there are.
    #[must_use]
    pub fn meta_len(&self) -> usize {
        self.index(self.words.data).saturating_sub(self.index(self.words.data_meta))
    }

    /// Where the last program sent the packet, if it returned `Redirect`.
    #[must_use]
    pub fn redirect(&self) -> Option<Redirect> {
        self.redirect
    }

    pub(crate) fn set_redirect(&mut self, redirect: Redirect) {
        self.redirect = Some(redirect);
    }

    pub(crate) fn packet_mut(&mut self) -> &mut [u8] {
        let range = self.index(self.words.data)..self.index(self.words.data_end);
        &mut self.buffer[range]
    }

    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.words.data_meta, self.words.data_end)
    }

    fn index(&self, address: u64) -> usize {
        usize::try_from(address.saturating_sub(self.words.hard_start)).unwrap_or(0).min(self.buffer.len())
    }

    /// `bpf_xdp_adjust_head`.
    pub(crate) fn adjust_head(&mut self, offset: i32) -> Result<(), Errno> {
        let meta_len = self.meta_len();
        let lowest = FRAME_HEADER + meta_len;
        let data = signed(self.index(self.words.data)) + i64::from(offset);
        let end = signed(self.index(self.words.data_end));
        if data < signed(lowest) || data > end - MIN_PACKET {
            return Err(Errno::EINVAL);
        }
        let meta = self.index(self.words.data_meta);
        if meta_len > 0 {
            let to = meta.wrapping_add_signed(offset as isize);
            self.buffer.copy_within(meta..meta + meta_len, to);
        }
        self.words.data_meta = self.words.data_meta.wrapping_add_signed(i64::from(offset));
        self.words.data = self.words.data.wrapping_add_signed(i64::from(offset));
        Ok(())
    }

    /// `bpf_xdp_adjust_tail`.
    pub(crate) fn adjust_tail(&mut self, offset: i32) -> Result<(), Errno> {
        if !self.fragments.is_empty() {
            return self.adjust_fragments(offset);
        }
        let old = self.index(self.words.data_end);
        let end = signed(old) + i64::from(offset);
        if end > signed(self.index(self.words.buf_end)) || end < signed(self.index(self.words.data)) + MIN_PACKET {
            return Err(Errno::EINVAL);
        }
        if let Ok(grown) = usize::try_from(offset) {
            self.buffer[old..old + grown].fill(0);
        }
        self.words.data_end = self.words.data_end.wrapping_add_signed(i64::from(offset));
        Ok(())
    }

    /// `bpf_xdp_adjust_tail` of a packet in several buffers, which can only shrink: no driver says how far they may grow.
    fn adjust_fragments(&mut self, offset: i32) -> Result<(), Errno> {
        if offset >= 0 {
            return if offset == 0 { Ok(()) } else { Err(Errno::ENOTSUP) };
        }
        let cut = offset.unsigned_abs() as usize;
        if signed(self.total_len()) - signed(cut) < MIN_PACKET {
            return Err(Errno::EINVAL);
        }
        let from_fragments = cut.min(self.fragments.len());
        self.fragments.truncate(self.fragments.len() - from_fragments);
        self.words.data_end -= (cut - from_fragments) as u64;
        Ok(())
    }

    /// `bpf_xdp_adjust_meta`.
    pub(crate) fn adjust_meta(&mut self, offset: i32) -> Result<(), Errno> {
        let data = signed(self.index(self.words.data));
        let meta = signed(self.index(self.words.data_meta)) + i64::from(offset);
        if meta < signed(FRAME_HEADER) || meta > data {
            return Err(Errno::EINVAL);
        }
        if (data - meta) % 4 != 0 || data - meta > signed(MAX_META) {
            return Err(Errno::EACCES);
        }
        self.words.data_meta = self.words.data_meta.wrapping_add_signed(i64::from(offset));
        Ok(())
    }
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

// SAFETY: the object is the value's first field, and its pointers delimit the owned, initialised buffer.
unsafe impl Context for XdpBuff {
    const TYPE: CtxType = CtxType::Xdp;

    #[inline]
    fn parts(&mut self) -> CtxParts {
        self.redirect = None;
        let this = NonNull::from(self);
        CtxParts::plain(this.cast(), 64, 24).with_packet(Packet::Xdp(this))
    }
}
