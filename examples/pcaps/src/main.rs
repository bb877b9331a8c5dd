//! Writes the captures of this folder: `cargo run -p skep-pcaps`, or to another folder given as the argument.
//!
//! Every byte is a function of this source, so a test compares the files in the repository with what it makes.
#![forbid(unsafe_code)]

mod packets;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Magic of a little-endian capture with microseconds.
const PCAP_MAGIC: u32 = 0xa1b2_c3d4;
const SNAP_LENGTH: u32 = 65535;
const LINK_TYPE_ETHERNET: u32 = 1;
/// 2026-01-01 00:00:00 UTC.
const FIRST_SECOND: u32 = 1_767_225_600;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    for (name, bytes) in captures()? {
        write(&folder, name, &bytes)?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// File names and contents.
fn captures() -> Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("icmp.pcap", pcap(&packets::icmp()?)?),
        ("tcp_handshake.pcap", pcap(&packets::tcp_connection(40100, 80)?)?),
        ("udp_dns.pcap", pcap(&packets::udp()?)?),
        ("vlan.pcap", pcap(&packets::vlan()?)?),
        ("ipv6_extensions.pcap", pcap(&packets::ipv6_extensions()?)?),
        ("vxlan.pcap", pcap(&packets::vxlan()?)?),
        ("fragments.pcap", pcap(&packets::fragments()?)?),
        ("mixed.pcap", pcap(&packets::mixed()?)?),
    ])
}

/// The capture file of `packets`, one each millisecond.
fn pcap(packets: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
    word(&mut out, PCAP_MAGIC);
    out.extend_from_slice(&[2, 0, 4, 0]);
    for value in [0, 0, SNAP_LENGTH, LINK_TYPE_ETHERNET] {
        word(&mut out, value);
    }
    for (i, packet) in (0..).zip(packets) {
        let length = u32::try_from(packet.len())?;
        for value in [FIRST_SECOND, i * 1000, length, length] {
            word(&mut out, value);
        }
        out.extend_from_slice(packet);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_the_source_makes() {
        for (name, bytes) in captures().unwrap() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            let on_disk = std::fs::read(&path).unwrap();
            assert_eq!(on_disk, bytes, "{name} is stale: run `cargo run -p skep-pcaps`");
        }
    }
}
