//! The example `dispatch`: stages of a parser are replaced while threads run a capture, and every step shows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "its main is what a user runs")]
#[path = "../examples/dispatch.rs"]
mod dispatch;

use std::path::Path;

use dispatch::Tally;

/// Packets whose verdict a stage decides, told apart without any program: transport behind IPv4 or IPv6 headers.
fn count(packets: &[Vec<u8>], matches: impl Fn(u8, &[u8], bool) -> bool) -> u32 {
    let is_one = |packet: &Vec<u8>| match packet.get(12..14)? {
        [8, 0] if u16::from_be_bytes([*packet.get(20)?, *packet.get(21)?]) & 0x1fff == 0 => {
            packet.get(33)?;
            let transport = 14 + usize::from(packet[14] & 15) * 4;
            Some(matches(packet[23], packet.get(transport..).unwrap_or_default(), true))
        }
        [0x86, 0xdd] => Some(matches(*packet.get(20)?, packet.get(54..)?, false)),
        _ => None,
    };
    u32::try_from(packets.iter().filter(|packet| is_one(packet) == Some(true)).count()).unwrap()
}

#[test]
fn every_replaced_stage_shows() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let packets = dispatch::packets(&examples.join("pcaps/mixed.pcap")).unwrap();
    let report = dispatch::replace_stages(&examples, &packets, 3).unwrap();
    let icmp = count(&packets, |protocol, _, _| protocol == 1 || protocol == 58);
    let syn = count(&packets, |protocol, tcp, is_v4| {
        is_v4 && protocol == 6 && tcp.len() >= 20 && tcp[13] & 2 != 0 && tcp[13] & 16 == 0
    });
    let udp = count(&packets, |protocol, _, _| protocol == 17);
    assert!(icmp > 0 && syn > 0 && udp > 0, "the capture has {icmp} ICMP, {syn} SYN and {udp} UDP packets");

    let total = u32::try_from(packets.len()).unwrap();
    let dropped: Vec<u32> = report.steps.iter().map(|(_, tally)| tally.dropped).collect();
    assert_eq!(dropped, [0, icmp, icmp + syn, icmp + syn + udp, syn + udp, udp, 0]);
    for (what, Tally { passed, dropped, aborted }) in &report.steps {
        // Headers that are cut off, whatever the stages are.
        assert_eq!((passed + dropped + aborted, *aborted), (total, report.steps[0].1.aborted), "{what}");
    }
    assert!(report.passes > 0, "no thread ran meanwhile");
    // Every stage counted, and UDP as often as its packets passed in the main thread alone.
    assert!(report.seen.iter().all(|&count| count > 0) && report.seen[3] >= u64::from(udp) * 7, "{:?}", report.seen);
}
