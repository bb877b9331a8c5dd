//! The examples over the captures: packets, verdicts and what maps hold afterwards, here and in the kernel.
//!
//! Invariant: what depends on the CPU that a packet met (the values of per-CPU maps) is compared as sums, and what only the
//! order of events decides (ring buffers) not at all.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a panic is the failure")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep::{Engine, Loaded, Mode, Object, RawMap, Skb, Xdp};
use skep_abi::{MapType, ProgType};

use crate::kernel::{Map, Prog, TestRun};

/// Objects with the program that packets enter.
pub const EXAMPLES: [(&str, &str); 5] = [
    ("xdp_firewall", "firewall"),
    ("xdp_load_balancer", "balance"),
    ("xdp_dispatch", "dispatch"),
    ("tc_flows", "count_flows"),
    ("socket_dns", "dns_only"),
];

/// The folder of examples.
#[must_use]
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// The compiled examples: those that `cargo xtask test` has just built from their sources, else the committed ones.
#[must_use]
pub fn objects() -> PathBuf {
    std::env::var_os("SKEP_OBJECTS").map_or_else(examples, |built| PathBuf::from(built).join("examples"))
}

/// The packets of a little-endian pcap file.
#[must_use]
pub fn packets(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        packets.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    packets
}

/// What a program said of a packet, and what it left of it.
pub type Verdict = (u32, Vec<u8>);
/// Entries by key; of per-CPU maps the sums of the values' words.
pub type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Every packet through a program, on any vCPU.
#[must_use]
pub fn run(program: &skep::RawProgram, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for packet in packets {
        if program.prog_type() == ProgType::Xdp {
            let mut xdp = Xdp::packet(packet).build().unwrap();
            let value = program.run(&mut xdp).unwrap();
            verdicts.push((u32::try_from(value & 0xffff_ffff).unwrap(), xdp.packet().to_vec()));
        } else {
            let mut skb = Skb::packet(packet).build(program.prog_type()).unwrap();
            let value = program.run(&mut skb).unwrap();
            // A test run of a program that does not see the link header gives zeros in its place.
            let hidden = if program.prog_type() == ProgType::SchedCls { 0 } else { 14 };
            let left = [&[0; 14][..hidden], skb.packet()].concat();
            verdicts.push((u32::try_from(value & 0xffff_ffff).unwrap(), left));
        }
    }
    verdicts
}

fn is_compared(map_type: MapType) -> bool {
    !matches!(map_type, MapType::Ringbuf | MapType::ProgArray)
}

fn is_percpu(map_type: MapType) -> bool {
    matches!(map_type, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash)
}

/// Word by word sums over the CPUs' values, each of `size` bytes rounded up to words.
fn summed(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut sums = vec![0u64; size.div_ceil(8)];
    for cpu in bytes.chunks(size.next_multiple_of(8)) {
        for (sum, word) in sums.iter_mut().zip(cpu.chunks(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap()));
        }
    }
    sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
}

/// What maps hold, by name.
#[must_use]
pub fn contents<'a>(maps: impl Iterator<Item = (&'a str, &'a RawMap)>) -> Contents {
    let mut all = Contents::new();
    for (name, map) in maps {
        let info = map.info();
        if !is_compared(info.map_type) {
            continue;
        }
        let entries = all.entry(name.to_owned()).or_default();
        for key in map.keys() {
            let value = map.lookup(&key, 0).unwrap();
            let percpu = is_percpu(info.map_type);
            entries.insert(key, if percpu { summed(&value, info.value_size as usize) } else { value });
        }
    }
    all
}

/// What the kernel's maps of an object hold, by name.
#[must_use]
pub fn kernel_contents<'a>(object: &Object, map: impl Fn(&str) -> &'a Map) -> Contents {
    let mut all = Contents::new();
    for spec in object.maps() {
        let map_type = MapType::from_u32(spec.map_type).unwrap();
        if !is_compared(map_type) {
            continue;
        }
        let map = map(&spec.name);
        let entries = all.entry(spec.name.clone()).or_default();
        for key in map.keys().unwrap() {
            let value = map.lookup(&key, 0).unwrap();
            let percpu = is_percpu(map_type);
            entries.insert(key, if percpu { summed(&value, spec.value_size as usize) } else { value });
        }
    }
    all
}

/// Every packet through a program in the kernel.
#[must_use]
pub fn run_in_kernel(program: &Prog, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let one = |packet: &Vec<u8>| {
        let run = TestRun { data: packet, data_out: packet.len() + 256, repeat: 1, ..TestRun::default() };
        let result = program.test_run(&run).unwrap_or_else(|errno| panic!("{errno}: {packet:02x?}"));
        (result.retval, result.data)
    };
    packets.iter().map(one).collect()
}

/// An object in an engine of its own.
#[must_use]
pub fn load(object: &Object, mode: Mode) -> Loaded {
    Engine::builder().mode(mode).build().unwrap().load(object.clone()).unwrap()
}

/// The captures, by name.
#[must_use]
pub fn captures() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(examples().join("pcaps")).unwrap();
    let mut captures: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    captures.retain(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    captures.sort();
    assert_eq!(captures.len(), 8);
    captures
}

/// The packets of a capture that every engine takes: the kernel makes no socket buffer of an IPv4 packet without a whole
/// header.
#[must_use]
pub fn packets_for(object: &Object, capture: &Path) -> Vec<Vec<u8>> {
    let mut packets = packets(capture);
    if object.programs().iter().all(|p| p.sec.as_ref().is_some_and(|sec| sec.prog_type != ProgType::Xdp)) {
        packets.retain(|packet| packet[12..14] != [8, 0] || packet.len() >= 34);
    }
    packets
}
