//! A parser in stages, whose stages are replaced while threads run a capture through it.
//!
//! The C side is examples/xdp_dispatch. Run with `cargo run -p skep --example dispatch [CAPTURE]`.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pcap_parser::{PcapBlockOwned, PcapError, create_reader};
use skep::{Engine, LoadOptions, Object, Program, Xdp, XdpAction};

/// Slots of the prog array, as `enum stage` of the C source numbers them.
const STAGE_TCP: u32 = 2;
const STAGE_UDP: u32 = 3;
const STAGE_ICMP: u32 = 4;

/// What became of the packets of one pass over the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) dropped: u32,
    pub(crate) aborted: u32,
}

/// What the demonstration saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was changed, and a pass over the capture after that.
    pub(crate) steps: Vec<(&'static str, Tally)>,
    /// Passes that the threads made meanwhile.
    pub(crate) passes: u64,
    /// Packets that the stages counted, over all vCPUs, by stage.
    pub(crate) seen: [u64; 5],
}

/// The Ethernet frames of a pcap file.
pub(crate) fn packets(capture: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut reader = create_reader(1 << 20, std::fs::File::open(capture)?)?;
    let mut packets = Vec::new();
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                if let PcapBlockOwned::Legacy(packet) = block {
                    packets.push(packet.data.to_vec());
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(packets),
            Err(PcapError::Incomplete(_)) => drop(reader.refill()),
            Err(error) => return Err(format!("{}: {error}", capture.display()).into()),
        }
    }
}

/// One pass over the capture.
fn pass(parser: &Program, packets: &[Vec<u8>]) -> Result<Tally, Box<dyn Error>> {
    let mut tally = Tally::default();
    for packet in packets {
        let mut packet = Xdp::packet(packet).build()?;
        match XdpAction::from(u32::try_from(parser.run(&mut packet)?)?) {
            XdpAction::Pass => tally.passed += 1,
            XdpAction::Drop => tally.dropped += 1,
            _ => tally.aborted += 1,
        }
    }
    Ok(tally)
}

/// Replaces stages one after the other while `threads` threads run the capture again and again.
pub(crate) fn replace_stages(examples: &Path, packets: &[Vec<u8>], threads: usize) -> Result<Report, Box<dyn Error>> {
    let engine = Engine::new()?;
    let parser = engine.load(Object::open(examples.join("xdp_dispatch.bpf.o"))?)?;
    // The other stages are an object of their own, which counts in the same map.
    let options = LoadOptions::default().reuse_map("seen", &parser.raw_map("seen")?);
    let others = engine.load_with(Object::open(examples.join("xdp_dispatch_stages.bpf.o"))?, &options)?;
    let (entry, stages) = (parser.program("dispatch")?, parser.prog_array("stages")?);

    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    let steps = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A packet goes through the old or through the new stage, never through none.
                    if let Err(error) = pass(&entry, packets) {
                        eprintln!("a pass ended early: {error}");
                    }
                    passes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let steps = (|| {
            let mut steps = vec![("the stages that the object fills in", pass(&entry, packets)?)];
            let mut step = |what, changed: Result<(), _>| -> Result<(), Box<dyn Error>> {
                changed.map_err(|errno: skep_abi::Errno| format!("{what}: {errno}"))?;
                // A run that starts now sees the change.
                steps.push((what, pass(&entry, packets)?));
                let before = passes.load(Ordering::Relaxed);
                while threads > 0 && passes.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
                Ok(())
            };
            step("ICMP is dropped", stages.set(STAGE_ICMP, &parser.program("drop_icmp")?))?;
            step("no new TCP connections", stages.set(STAGE_TCP, &others.program("refuse_connections")?))?;
            step("UDP is dropped", stages.set(STAGE_UDP, &others.program("drop_udp")?))?;
            step("ICMP passes unseen", stages.clear(STAGE_ICMP))?;
            step("TCP as before", stages.set(STAGE_TCP, &parser.program("parse_tcp")?))?;
            step("UDP as before", stages.set(STAGE_UDP, &parser.program("parse_udp")?))?;
            Ok::<_, Box<dyn Error>>(steps)
        })();
        stop.store(true, Ordering::Relaxed);
        steps
    })?;
    let mut seen = [0; 5];
    for (stage, count) in (0u32..).zip(&mut seen) {
        *count = parser.map::<u32, u64>("seen")?.sum_cpus(&stage)?;
    }
    Ok(Report { steps, passes: passes.into_inner(), seen })
}

fn main() -> Result<(), Box<dyn Error>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let capture = std::env::args_os().nth(1).map_or_else(|| examples.join("pcaps/mixed.pcap"), Into::into);
    let packets = packets(&capture)?;
    let report = replace_stages(&examples, &packets, 2)?;
    println!("{:<36}{:>8}{:>8}{:>8}", "", "pass", "drop", "abort");
    for (what, tally) in &report.steps {
        println!("{what:<36}{:>8}{:>8}{:>8}", tally.passed, tally.dropped, tally.aborted);
    }
    let [ipv4, ipv6, tcp, udp, icmp] = report.seen;
    println!("meanwhile two threads ran the capture of {} packets {} times", packets.len(), report.passes);
    println!("stages counted: {ipv4} IPv4, {ipv6} IPv6, {tcp} TCP, {udp} UDP, {icmp} ICMP");
    Ok(())
}
