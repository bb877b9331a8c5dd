//! Every example over every capture: interpreter, compiled code and the kernel's test run agree on each packet's verdict and
//! bytes, and on what the maps hold afterwards.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a panic is the failure")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep::{Engine, Loaded, Mode, Object, Skb, Xdp};
use skep_abi::{MapType, ProgType};
use skep_testing::kernel::{self, Prog, TestRun};
use skep_testing::kernel_object::KernelObject;

/// Objects with the program that packets enter.
const EXAMPLES: [(&str, &str); 5] = [
    ("xdp_firewall", "firewall"),
    ("xdp_load_balancer", "balance"),
    ("xdp_dispatch", "dispatch"),
    ("tc_flows", "count_flows"),
    ("socket_dns", "dns_only"),
];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// The compiled examples: those that `cargo xtask test` has just built from their sources, else the committed ones.
fn objects() -> PathBuf {
    std::env::var_os("SKEP_OBJECTS").map_or_else(examples, |built| PathBuf::from(built).join("examples"))
}

/// The packets of a little-endian pcap file.
fn packets(path: &Path) -> Vec<Vec<u8>> {
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
type Verdict = (u32, Vec<u8>);
/// Entries by key; of per-CPU maps the sums of the values' words.
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn run(loaded: &Loaded, program: &str, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let program = loaded.program(program).unwrap();
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

fn contents(loaded: &Loaded) -> Contents {
    let mut all = Contents::new();
    for (name, map) in loaded.maps() {
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

fn kernel_contents(object: &Object, kernel: &KernelObject<'_>) -> Contents {
    let mut all = Contents::new();
    for spec in object.maps() {
        let map_type = MapType::from_u32(spec.map_type).unwrap();
        if !is_compared(map_type) {
            continue;
        }
        let map = kernel.map(&spec.name).unwrap();
        let entries = all.entry(spec.name.clone()).or_default();
        for key in map.keys().unwrap() {
            let value = map.lookup(&key, 0).unwrap();
            let percpu = is_percpu(map_type);
            entries.insert(key, if percpu { summed(&value, spec.value_size as usize) } else { value });
        }
    }
    all
}

fn run_in_kernel(program: &Prog, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let one = |packet: &Vec<u8>| {
        let run = TestRun { data: packet, data_out: packet.len() + 256, repeat: 1, ..TestRun::default() };
        let result = program.test_run(&run).unwrap_or_else(|errno| panic!("{errno}: {packet:02x?}"));
        (result.retval, result.data)
    };
    packets.iter().map(one).collect()
}

fn load(object: &Object, mode: Mode) -> Loaded {
    Engine::builder().mode(mode).build().unwrap().load(object.clone()).unwrap()
}

#[test]
fn examples_do_what_the_kernel_does() {
    let with_kernel = kernel::require("examples_do_what_the_kernel_does");
    let mut captures: Vec<PathBuf> = std::fs::read_dir(examples().join("pcaps"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap"))
        .collect();
    captures.sort();
    assert_eq!(captures.len(), 8);
    for (file, program) in EXAMPLES {
        let object = Object::open(objects().join(format!("{file}.bpf.o"))).unwrap();
        for capture in &captures {
            let what = format!("{file} over {}", capture.file_name().unwrap().to_string_lossy());
            let mut packets = packets(capture);
            if object.programs().iter().all(|p| p.sec.as_ref().is_some_and(|sec| sec.prog_type != ProgType::Xdp)) {
                // The kernel makes no socket buffer of an IPv4 packet without a whole header.
                packets.retain(|packet| packet[12..14] != [8, 0] || packet.len() >= 34);
            }
            let (jit, interp) = (load(&object, Mode::Jit), load(&object, Mode::Interp));
            let verdicts = run(&jit, program, &packets);
            assert_eq!(verdicts, run(&interp, program, &packets), "{what}: interpreter");
            assert_eq!(contents(&jit), contents(&interp), "{what}: interpreter's maps");
            if !with_kernel {
                continue;
            }
            let kernel = KernelObject::create(object.spec()).unwrap();
            let programs: Vec<Option<Prog>> =
                (0..object.programs().len()).map(|i| Some(kernel.load(i, 0).unwrap().prog)).collect();
            kernel.fill_prog_arrays(&programs).unwrap();
            let index = object.programs().iter().position(|p| p.name == program).unwrap();
            let entered = programs[index].as_ref().unwrap();
            assert_eq!(verdicts, run_in_kernel(entered, &packets), "{what}: kernel");
            assert_eq!(contents(&jit), kernel_contents(&object, &kernel), "{what}: kernel's maps");
        }
    }
}

#[test]
fn tags_are_the_kernels() {
    if !kernel::require("tags_are_the_kernels") {
        return;
    }
    for (file, program) in EXAMPLES {
        let object = Object::open(objects().join(format!("{file}.bpf.o"))).unwrap();
        let kernel = KernelObject::create(object.spec()).unwrap();
        let index = object.programs().iter().position(|p| p.name == program).unwrap();
        let info = kernel.load(index, 0).unwrap().prog.info().unwrap();
        let tag: String = info.tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(load(&object, Mode::Interp).program(program).unwrap().tag(), tag, "{file}");
    }
}
