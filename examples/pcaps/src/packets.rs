//! The packets, built layer by layer. Checksums are right, except that UDP behind IPv6 extension headers has none.

use anyhow::Result;
use etherparse::{Icmpv6Type, PacketBuilder, TcpOptionElement, VlanId};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 100];
const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Destination options, hop-by-hop options, routing and fragment header numbers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const UDP: u8 = 17;

/// An echo request and its reply.
pub(crate) fn icmp() -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    for sequence in 1..=2 {
        let mut request = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
            .ipv4(CLIENT, SERVER, 64)
            .icmpv4_echo_request(7, sequence)
            .write(&mut request, &[0x55; 48])?;
        out.push(request);
        let mut reply = Vec::new();
        PacketBuilder::ethernet2(SERVER_MAC, CLIENT_MAC)
            .ipv4(SERVER, CLIENT, 64)
            .icmpv4_echo_reply(7, sequence)
            .write(&mut reply, &[0x55; 48])?;
        out.push(reply);
    }
    Ok(out)
}

/// One TCP segment of the client or the server.
fn tcp(from_client: bool, ports: (u16, u16), flags: &str, numbers: (u32, u32), payload: &[u8]) -> Result<Vec<u8>> {
    let builder = if from_client {
        PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC).ipv4(CLIENT, SERVER, 64)
    } else {
        PacketBuilder::ethernet2(SERVER_MAC, CLIENT_MAC).ipv4(SERVER, CLIENT, 64)
    };
    let mut step = builder.tcp(ports.0, ports.1, numbers.0, 64240);
    if flags.contains('S') {
        step = step.syn().options(&[TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)])?;
    }
    if flags.contains('A') {
        step = step.ack(numbers.1);
    }
    if flags.contains('P') {
        step = step.psh();
    }
    if flags.contains('F') {
        step = step.fin();
    }
    let mut out = Vec::new();
    step.write(&mut out, payload)?;
    Ok(out)
}

/// A whole connection: handshake, one request, one answer, both ends closed.
pub(crate) fn tcp_connection(client_port: u16, server_port: u16) -> Result<Vec<Vec<u8>>> {
    let request = b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n";
    let answer = [b'.'; 1200];
    let to = (client_port, server_port);
    let back = (server_port, client_port);
    Ok(vec![
        tcp(true, to, "S", (1000, 0), &[])?,
        tcp(false, back, "SA", (5000, 1001), &[])?,
        tcp(true, to, "A", (1001, 5001), &[])?,
        tcp(true, to, "PA", (1001, 5001), request)?,
        tcp(false, back, "PA", (5001, 1039), &answer)?,
        tcp(true, to, "FA", (1039, 6201), &[])?,
        tcp(false, back, "FA", (6201, 1040), &[])?,
        tcp(true, to, "A", (1040, 6202), &[])?,
    ])
}

/// UDP datagrams: DNS queries and answers, and one to an unusual port.
pub(crate) fn udp() -> Result<Vec<Vec<u8>>> {
    // Header of a query for one name, recursion desired; then `example.test`, type A, class IN.
    let dns = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x04test\x00\x00\x01\x00\x01";
    let mut out = Vec::new();
    for (from, to, ports) in [
        ((CLIENT_MAC, CLIENT), (SERVER_MAC, SERVER), (40000, 53)),
        ((SERVER_MAC, SERVER), (CLIENT_MAC, CLIENT), (53, 40000)),
        ((CLIENT_MAC, CLIENT), (SERVER_MAC, SERVER), (40001, 9999)),
    ] {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(from.0, to.0).ipv4(from.1, to.1, 64).udp(ports.0, ports.1).write(&mut packet, dns)?;
        out.push(packet);
    }
    Ok(out)
}

/// One tag, and two tags (802.1ad around 802.1Q).
pub(crate) fn vlan() -> Result<Vec<Vec<u8>>> {
    let mut single = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .single_vlan(VlanId::try_new(100)?)
        .ipv4(CLIENT, SERVER, 64)
        .udp(4000, 5000)
        .write(&mut single, b"one tag")?;
    let mut double = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .double_vlan(VlanId::try_new(200)?, VlanId::try_new(300)?)
        .ipv6(CLIENT6, SERVER6, 64)
        .udp(4000, 5000)
        .write(&mut double, b"two tags")?;
    // A tag around an EtherType for local experiments.
    let mut unknown = [[0xff; 6], CLIENT_MAC].concat();
    unknown.extend_from_slice(&[0x81, 0, 0, 1, 0x88, 0xb5]);
    unknown.extend_from_slice(&[0; 46]);
    Ok(vec![single, double, unknown])
}

/// The first header's number, the extension headers, and what follows them.
type Chain<'a> = (u8, Vec<Vec<u8>>, &'a [u8]);

/// IPv6 with each kind of extension header, a later fragment, a chain that is cut short, and an echo request.
pub(crate) fn ipv6_extensions() -> Result<Vec<Vec<u8>>> {
    let mut echo = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ipv6(CLIENT6, SERVER6, 64)
        .icmpv6(Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 7, seq: 1 }))
        .write(&mut echo, &[0x66; 32])?;

    let udp = [0x0f, 0xa0, 0, 53, 0, 12, 0, 0, b'p', b'i', b'n', b'g'];
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let long_options = |next: u8| {
        let mut header = vec![next, 1, 1, 12];
        header.resize(16, 0);
        header
    };
    let routing = |next: u8| vec![next, 0, 4, 0, 0, 0, 0, 0];
    let fragment = |next: u8, offset: u8| vec![next, 0, 0, offset << 3 | 1, 0, 0, 0, 9];

    let chains: [Chain<'_>; 5] = [
        (HOP_BY_HOP, vec![options(UDP)], &udp),
        (HOP_BY_HOP, vec![options(ROUTING), routing(DESTINATION), long_options(UDP)], &udp),
        (FRAGMENT, vec![fragment(UDP, 0)], &udp),
        (FRAGMENT, vec![fragment(UDP, 3)], &udp),
        (DESTINATION, vec![vec![UDP, 9, 1, 4, 0, 0, 0, 0]], &[]),
    ];
    let mut out = vec![echo];
    for (first, headers, payload) in chains {
        let mut body: Vec<u8> = headers.concat();
        body.extend_from_slice(payload);
        out.push(ipv6_raw(first, &body)?);
    }
    Ok(out)
}

/// An IPv6 packet with `body` after the fixed header.
fn ipv6_raw(next: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    packet.extend_from_slice(&SERVER_MAC);
    packet.extend_from_slice(&CLIENT_MAC);
    packet.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    packet.extend_from_slice(&u16::try_from(body.len())?.to_be_bytes());
    packet.extend_from_slice(&[next, 64]);
    packet.extend_from_slice(&CLIENT6);
    packet.extend_from_slice(&SERVER6);
    packet.extend_from_slice(body);
    Ok(packet)
}

/// An inner TCP SYN and an inner echo request in VXLAN, network 42.
pub(crate) fn vxlan() -> Result<Vec<Vec<u8>>> {
    let inner = [tcp(true, (50000, 80), "S", (1, 0), &[])?, icmp()?.remove(0)];
    let mut out = Vec::new();
    for (i, frame) in (0..).zip(inner) {
        let mut payload = vec![8, 0, 0, 0, 0, 0, 42, 0];
        payload.extend_from_slice(&frame);
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2])
            .ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64)
            .udp(49152 + i, 4789)
            .write(&mut packet, &payload)?;
        out.push(packet);
    }
    Ok(out)
}

/// One UDP datagram in three IPv4 fragments.
pub(crate) fn fragments() -> Result<Vec<Vec<u8>>> {
    let mut whole = Vec::new();
    let payload: Vec<u8> = (0..=255).cycle().take(1800).collect();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ipv4(CLIENT, SERVER, 64)
        .udp(6000, 7000)
        .write(&mut whole, &payload)?;
    let (head, data) = whole.split_at(34);
    let mut out = Vec::new();
    let chunks: Vec<&[u8]> = data.chunks(728).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        let mut packet = head.to_vec();
        let more = u16::from(i + 1 < chunks.len()) << 13;
        let offset = more | u16::try_from(i * 728 / 8)?;
        packet[16..18].copy_from_slice(&u16::try_from(20 + chunk.len())?.to_be_bytes());
        packet[18..20].copy_from_slice(&0x1234u16.to_be_bytes());
        packet[20..22].copy_from_slice(&offset.to_be_bytes());
        packet[24..26].fill(0);
        let sum = ipv4_checksum(&packet[14..34]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(chunk);
        out.push(packet);
    }
    Ok(out)
}

/// The checksum of an IPv4 header whose checksum field is zero.
fn ipv4_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    // Two foldings leave at most 16 bits.
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

/// Packets that end inside a header, and one with a header length below the minimum.
pub(crate) fn malformed() -> Result<Vec<Vec<u8>>> {
    let syn = tcp(true, (50001, 80), "S", (1, 0), &[])?;
    let mut short_header = syn.clone();
    short_header[14] = 0x43;
    Ok(vec![syn[..30].to_vec(), syn[..40].to_vec(), short_header])
}

/// Everything, with several clients, blocked ports and repeated flows.
pub(crate) fn mixed() -> Result<Vec<Vec<u8>>> {
    let mut out = icmp()?;
    out.extend(tcp_connection(40100, 80)?);
    out.extend(tcp_connection(40101, 443)?);
    // Telnet and SMB, which the firewall example blocks.
    out.extend(tcp_connection(40102, 23)?.into_iter().take(3));
    out.extend(tcp_connection(40103, 445)?.into_iter().take(1));
    out.extend(udp()?);
    out.extend(vlan()?);
    out.extend(ipv6_extensions()?);
    out.extend(vxlan()?);
    out.extend(fragments()?);
    out.extend(malformed()?);
    Ok(out)
}
