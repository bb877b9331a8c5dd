//! Capture files: read (pcap in both byte orders and resolutions, pcapng) and written (pcap, nanoseconds).
//!
//! A capture with a cut tail gives its whole packets and says how many they are; damage before the first packet is an
//! error. Only Ethernet links are read, since that is what packet programs see.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use pcap_parser::pcapng::Block;
use pcap_parser::{Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader};

use crate::input;

/// Largest capture file that is read, in bytes.
const MAX_FILE: u64 = 4 << 30;
/// Largest packet that a program is run over, in bytes; the kernel's packets end below this too.
const MAX_PACKET: usize = 65535;
const NANOS: u64 = 1_000_000_000;

/// One captured frame.
pub(crate) struct Packet {
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// The captured bytes, from the Ethernet header on.
    pub(crate) data: Vec<u8>,
}

/// The packets of a capture file.
pub(crate) struct Capture {
    /// In file order.
    pub(crate) packets: Vec<Packet>,
    /// What was wrong after the last whole packet, in one sentence.
    pub(crate) damage: Option<String>,
}

/// Where the reader stands: the byte-order and clock facts of the current section.
#[derive(Default)]
struct Section {
    legacy: Option<PcapHeader>,
    /// Link type, ticks per second and offset in seconds of each pcapng interface.
    interfaces: Vec<(Linktype, u64, i64)>,
}

/// Reads all packets of the file.
pub(crate) fn read(path: &Path) -> Result<Capture> {
    let (file, length) = input::open_regular(path, MAX_FILE)?;
    let shown = path.display();
    let capacity = usize::try_from(length)?.max(64) + 64;
    let mut reader = match create_reader(capacity, file) {
        Ok(reader) => reader,
        Err(PcapError::Eof) => bail!("{shown}: the file is empty, not a capture"),
        Err(PcapError::Incomplete(_)) => bail!("{shown}: cut inside the file header, {length} bytes"),
        Err(_) => bail!("{shown}: neither pcap nor pcapng (unknown magic number at byte 0)"),
    };
    let mut section = Section::default();
    let mut packets = Vec::new();
    let mut at = 0;
    let damage = loop {
        if u64::try_from(at)? >= length {
            break None;
        }
        let (size, packet) = match reader.next() {
            Ok((size, block)) => (size, section.take(block)),
            Err(PcapError::Eof) => break None,
            // The buffer holds the whole file: a block that does not fit is longer than the file.
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof | PcapError::BufferTooSmall) => {
                let held = reader.data().len();
                if reader.refill().is_err() || reader.data().len() == held {
                    break Some(format!("the file ends inside a block at byte {at}"));
                }
                continue;
            }
            Err(_) => break Some(format!("damaged block at byte {at}")),
        };
        match packet {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => {}
            Err(error) if packets.is_empty() => return Err(error.context(format!("{shown}, block at byte {at}"))),
            Err(error) => break Some(format!("block at byte {at}: {error}")),
        }
        at += size;
        reader.consume(size);
    };
    if packets.is_empty()
        && let Some(damage) = &damage
    {
        bail!("{shown}: {damage}, before the first whole packet");
    }
    Ok(Capture { packets, damage })
}

impl Section {
    /// The packet of a block, if it is a packet.
    fn take(&mut self, block: PcapBlockOwned<'_>) -> Result<Option<Packet>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                if header.is_modified_format() {
                    bail!("the modified pcap format of old Linux patches is not supported");
                }
                check_link(header.network)?;
                self.legacy = Some(header);
                Ok(None)
            }
            PcapBlockOwned::Legacy(frame) => {
                let Some(header) = &self.legacy else { bail!("packet before the file header") };
                let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
                let time = u64::from(frame.ts_sec) * NANOS + u64::from(frame.ts_usec) * unit;
                packet(time, frame.data, frame.caplen, frame.origlen, header.snaplen).map(Some)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                Ok(None)
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let Some(ticks) = interface.ts_resolution() else { bail!("time resolution out of range") };
                self.interfaces.push((interface.linktype, ticks, interface.ts_offset()));
                Ok(None)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                let index = usize::try_from(frame.if_id)?;
                let Some(&(link, ticks, offset)) = self.interfaces.get(index) else {
                    bail!("packet of interface {index}, which no block describes");
                };
                check_link(link)?;
                let stamp = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                let nanos = u128::from(stamp) * u128::from(NANOS) / u128::from(ticks.max(1));
                let time = i128::try_from(nanos)? + i128::from(offset) * i128::from(NANOS);
                let captured = usize::try_from(frame.caplen)?;
                let Some(data) = frame.data.get(..captured) else { bail!("captured length beyond the block's end") };
                packet(u64::try_from(time).unwrap_or(0), data, frame.caplen, frame.origlen, 0).map(Some)
            }
            PcapBlockOwned::NG(Block::SimplePacket(frame)) => {
                let Some(&(link, ..)) = self.interfaces.first() else { bail!("packet before any interface") };
                check_link(link)?;
                let length = usize::try_from(frame.origlen)?.min(frame.data.len());
                packet(0, &frame.data[..length], frame.origlen, frame.origlen, 0).map(Some)
            }
            PcapBlockOwned::NG(_) => Ok(None),
        }
    }
}

fn check_link(link: Linktype) -> Result<()> {
    if link != Linktype::ETHERNET {
        bail!("link type {} ({link}) is not Ethernet (1), which packet programs see", link.0);
    }
    Ok(())
}

fn packet(time: u64, data: &[u8], captured: u32, original: u32, snap: u32) -> Result<Packet> {
    if captured > original {
        bail!("captured length {captured} is more than the packet's own {original}");
    }
    // 0 means unlimited, as tcpdump takes it.
    if snap != 0 && captured > snap {
        bail!("captured length {captured} is more than the file's limit {snap}");
    }
    if data.len() > MAX_PACKET {
        bail!("packet of {} bytes, more than {MAX_PACKET}", data.len());
    }
    Ok(Packet { time, data: data.to_vec() })
}

/// Writes a pcap file with nanosecond stamps.
pub(crate) struct Writer {
    out: BufWriter<File>,
}

impl Writer {
    /// Creates or truncates the file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Appends one packet.
    pub(crate) fn write(&mut self, time: u64, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len())?;
        let seconds = u32::try_from(time / NANOS).unwrap_or(u32::MAX);
        let nanos = u32::try_from(time % NANOS)?;
        for word in [seconds, nanos, length, length] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(data)?;
        Ok(())
    }

    /// Flushes to the file.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    /// A capture of one byte order and resolution with these (caplen, len, data).
    fn pcap(magic: u32, big: bool, link: u32, snap: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let word = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let half = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut out = word(magic).to_vec();
        out.extend([half(2), half(4)].concat());
        for v in [0, 0, snap, link] {
            out.extend(word(v));
        }
        for (i, (captured, length, data)) in (0..).zip(packets) {
            for v in [10 + i, 7, *captured, *length] {
                out.extend(word(v));
            }
            out.extend(*data);
        }
        out
    }

    fn error(bytes: &[u8]) -> String {
        let file = file(bytes);
        format!("{:#}", read(file.path()).err().expect("must be refused"))
    }

    #[test]
    fn both_byte_orders_and_resolutions() {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            for big in [false, true] {
                let file = file(&pcap(magic, big, 1, 0, &[(3, 3, b"abc"), (0, 0, b""), (2, 9, b"xy")]));
                let capture = read(file.path()).unwrap();
                let data: Vec<&[u8]> = capture.packets.iter().map(|p| &p.data[..]).collect();
                assert_eq!(data, [&b"abc"[..], b"", b"xy"]);
                assert_eq!(capture.packets[1].time, 11 * NANOS + 7 * unit);
                assert!(capture.damage.is_none());
            }
        }
    }

    #[test]
    fn bad_magic_and_cut_header() {
        assert!(error(b"not a capture, but long enough for a header").contains("neither pcap nor pcapng"));
        assert!(error(&[]).contains("empty"));
        assert!(error(&pcap(0xa1b2_c3d4, false, 1, 0, &[])[..10]).contains("cut inside the file header"));
    }

    #[test]
    fn cut_tail_keeps_whole_packets() {
        let whole = pcap(0xa1b2_c3d4, false, 1, 0, &[(3, 3, b"abc"), (3, 3, b"def")]);
        let file = file(&whole[..whole.len() - 1]);
        let capture = read(file.path()).unwrap();
        assert_eq!(capture.packets.len(), 1);
        assert!(capture.damage.unwrap().contains("ends inside a block at byte 43"));
    }

    #[test]
    fn lengths_are_checked() {
        assert!(error(&pcap(0xa1b2_c3d4, false, 1, 0, &[(3, 2, b"abc")])).contains("captured length 3 is more than"));
        assert!(error(&pcap(0xa1b2_c3d4, false, 1, 2, &[(3, 3, b"abc")])).contains("file's limit 2"));
        let long = vec![0; 65536];
        assert!(error(&pcap(0xa1b2_c3d4, false, 1, 0, &[(65536, 65536, &long)])).contains("65536 bytes"));
        let huge = pcap(0xa1b2_c3d4, false, 1, 0, &[(u32::MAX, u32::MAX, b"abc")]);
        assert!(error(&huge).contains("ends inside a block"));
    }

    #[test]
    fn other_links_are_refused() {
        assert!(error(&pcap(0xa1b2_c3d4, false, 113, 0, &[(3, 3, b"abc")])).contains("113"));
    }

    #[test]
    fn pcapng_packets_and_interfaces() {
        let block = |kind: u32, body: &[u8]| {
            let length = u32::try_from(12 + body.len()).unwrap();
            [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &length.to_le_bytes()].concat()
        };
        let words = |ws: &[u32]| ws.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let mut bytes = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
        bytes.extend(block(1, &words(&[1, 0])));
        bytes.extend(block(6, &[words(&[0, 0, 5_000_000, 3, 3]), b"abc\0".to_vec()].concat()));
        let ok = file(&bytes);
        let capture = read(ok.path()).unwrap();
        assert_eq!(capture.packets[0].data, b"abc");
        assert_eq!(capture.packets[0].time, 5 * NANOS);

        let mut unknown = bytes[..48].to_vec();
        unknown.extend(block(6, &[words(&[9, 0, 0, 3, 3]), b"abc\0".to_vec()].concat()));
        assert!(error(&unknown).contains("interface 9"));
    }

    #[test]
    fn written_captures_read_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::create(file.path()).unwrap();
        writer.write(1_700_000_000_123_456_789, b"first").unwrap();
        writer.write(1_700_000_000_123_456_790, b"").unwrap();
        writer.finish().unwrap();
        let capture = read(file.path()).unwrap();
        assert_eq!(capture.packets[0].time, 1_700_000_000_123_456_789);
        assert_eq!(capture.packets[0].data, b"first");
        assert_eq!(capture.packets.len(), 2);
    }
}
