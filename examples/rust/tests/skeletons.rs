//! The generated Rust skeleton of every example, used: variables set before load, programs run, maps and variables read.

use skep::{CtxField, CtxFieldKind, CtxLayout, Engine, Skb, UserContext, Xdp, XdpAction};
use skep_examples::{
    percpu_counters, request_filter, socket_dns, tc_flows, xdp_dispatch, xdp_dispatch_stages, xdp_firewall,
    xdp_load_balancer,
};

/// Ethernet, IPv4 and the first bytes of TCP or UDP.
fn packet(protocol: u8, from: u16, to: u16) -> Vec<u8> {
    let mut out = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0];
    out.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.resize(60, 0);
    // TCP's header length; UDP's length.
    if protocol == 6 {
        out[46] = 0x50
    } else {
        out[39] = 26
    }
    out
}

const TCP: u8 = 6;
const UDP: u8 = 17;

#[test]
fn every_example_has_a_skeleton_here() {
    let lib = include_str!("../src/lib.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(".bpf.o") {
            assert!(lib.contains(&format!("\"/{stem}.skel.rs\"")), "{stem} is not in src/lib.rs, nor used below");
        }
    }
}

#[test]
fn percpu_counters_counts() {
    let engine = Engine::builder().vcpus(2).build().unwrap();
    let mut open = percpu_counters::Open::new().unwrap();
    open.percpu.hits = 7;
    open.percpu_last.last.protocol = 1;
    let skeleton = open.load(&engine).unwrap();
    assert_eq!(skeleton.progs.count.test_run(Xdp::packet(&packet(TCP, 1, 2))).unwrap().action(), XdpAction::Pass);
    assert_eq!(skeleton.percpu_sum(|p| p.hits).unwrap(), 2 * 7 + 1);
    assert_eq!(skeleton.percpu_sum(|p| p.by_size[0]).unwrap(), 1);
    let last = skeleton.percpu_last().unwrap();
    assert_eq!(last.iter().map(|l| u32::from(l.last.protocol)).sum::<u32>(), 0x800 + 1);
    assert_eq!(skeleton.percpu_last_initial().last.length, u32::MAX);
}

#[repr(C)]
struct Request {
    client: u32,
    port: u16,
    is_tls: u8,
    pad: u8,
    priority: u32,
    pad2: u32,
    body: u64,
    body_end: u64,
}

// SAFETY: repr(C) without hidden padding; `priority` may be anything; the body is a static slice that programs only read.
unsafe impl UserContext for Request {
    fn layout() -> CtxLayout {
        let fields = vec![
            CtxField::word("client", 0),
            CtxField::new("port", 4, 2, CtxFieldKind::Scalar),
            CtxField::new("is_tls", 6, 1, CtxFieldKind::Scalar),
            CtxField::word("priority", 8).writable(),
            CtxField::new("body", 16, 8, CtxFieldKind::PacketData),
            CtxField::new("body_end", 24, 8, CtxFieldKind::PacketEnd),
        ];
        CtxLayout::new("request", 32, fields)
    }

    fn packet(&self) -> Option<(u64, u64)> {
        Some((self.body, self.body_end))
    }
}

#[test]
fn request_filter_filters() {
    let engine = Engine::builder().context::<Request>("request").build().unwrap();
    let mut open = request_filter::Open::new().unwrap();
    open.rodata.requests_per_client = 2;
    let skeleton = open.load(&engine).unwrap();
    let body = b"GET / HTTP/1.1".as_ptr_range();
    let address = |pointer: *const u8| pointer.expose_provenance() as u64;
    let mut request = Request {
        client: 9,
        port: 443,
        is_tls: 1,
        pad: 0,
        priority: 0,
        pad2: 0,
        body: address(body.start),
        body_end: address(body.end),
    };
    let verdicts: Vec<u64> = (0..4).map(|_| skeleton.progs.filter.run(&mut request).unwrap()).collect();
    assert_eq!((verdicts, request.priority), (vec![0, 0, 1, 1], 2));
    assert_eq!(skeleton.maps.clients.get(&9).unwrap(), 4);
    assert_eq!(skeleton.rodata().requests_per_client, 2);
}

#[test]
fn socket_dns_keeps_dns() {
    let skeleton = socket_dns::Open::new().unwrap().load(&Engine::new().unwrap()).unwrap();
    let keep = |packet: &[u8]| skeleton.progs.dns_only.test_run(Skb::packet(packet)).unwrap().retval;
    assert_eq!(
        (keep(&packet(UDP, 1000, 53)), keep(&packet(UDP, 1000, 54)), keep(&packet(TCP, 1, 2))),
        (u32::MAX, 0, 0)
    );
    assert_eq!(skeleton.maps.packets_per_protocol.sum_cpus(&UDP).unwrap(), 2);
}

#[test]
fn tc_flows_marks_heavy_flows() {
    let mut open = tc_flows::Open::new().unwrap();
    (open.rodata.heavy_packets, open.rodata.heavy_mark) = (2, 77);
    let skeleton = open.load(&Engine::new().unwrap()).unwrap();
    let mark = || skeleton.progs.count_flows.test_run(Skb::packet(&packet(TCP, 1, 2))).unwrap().mark;
    let marks: Vec<u32> = (0..4).map(|_| mark()).collect();
    assert_eq!((marks[0], marks[3]), (0, 77), "{marks:?}");
    assert_eq!(skeleton.maps.flows.keys().count(), 1);
    let skipped = skeleton.bss().unwrap().skipped;
    skeleton.progs.count_flows.test_run(Skb::packet(&[0; 64])).unwrap();
    assert_eq!(skeleton.bss().unwrap().skipped, skipped + 1);
}

#[test]
fn xdp_dispatch_dispatches() {
    let skeleton = xdp_dispatch::Open::new().unwrap().load(&Engine::new().unwrap()).unwrap();
    let run = |packet: &[u8]| skeleton.progs.dispatch.test_run(Xdp::packet(packet)).unwrap().action();
    assert_eq!(run(&packet(TCP, 1, 2)), XdpAction::Pass);
    assert_eq!(run(&packet(1, 1, 2)), XdpAction::Pass, "nothing is in the slot of ICMP");
    let seen: u64 = skeleton.maps.seen.keys().map(|key| skeleton.maps.seen.sum_cpus(&key).unwrap()).sum();
    assert_eq!(seen, 3, "two stages, and one");
    assert_eq!(skeleton.progs.drop_icmp.name(), "drop_icmp");
}

#[test]
fn xdp_dispatch_stages_are_programs() {
    let skeleton = xdp_dispatch_stages::Open::new().unwrap().load(&Engine::new().unwrap()).unwrap();
    let out = skeleton.progs.refuse_connections.test_run(Xdp::packet(&packet(TCP, 1, 2))).unwrap();
    assert_eq!(out.action(), XdpAction::Pass, "no SYN");
}

#[test]
fn xdp_firewall_blocks_a_port() {
    let mut open = xdp_firewall::Open::new().unwrap();
    open.rodata.blocked_ports[0] = 4711;
    let skeleton = open.load(&Engine::new().unwrap()).unwrap();
    let run =
        |packet: &[u8]| skeleton.progs.firewall.test_run(Xdp::packet(packet).ingress_ifindex(1)).unwrap().action();
    assert_eq!((run(&packet(TCP, 1, 2)), run(&packet(TCP, 1, 4711))), (XdpAction::Pass, XdpAction::Drop));
    let all: u64 = skeleton.maps.verdicts.keys().map(|key| skeleton.maps.verdicts.sum_cpus(&key).unwrap()).sum();
    assert_eq!(all, 2);
    assert_eq!(skeleton.rodata().blocked_ports[0], 4711);
}

#[test]
fn xdp_load_balancer_keeps_connections() {
    let mut open = xdp_load_balancer::Open::new().unwrap();
    // 10.0.0.2, as the packet has it.
    open.rodata.virtual_address = u32::from_ne_bytes([10, 0, 0, 2]);
    let backends = open.rodata.n_backends;
    assert!(backends >= 1);
    let skeleton = open.load(&Engine::new().unwrap()).unwrap();
    for from in 0..20 {
        skeleton.progs.balance.test_run(Xdp::packet(&packet(TCP, 1000 + from, 80))).unwrap();
    }
    assert_eq!(skeleton.maps.connections.keys().count(), 20);
    let per_backend = &skeleton.maps.packets_per_backend;
    assert_eq!(per_backend.keys().map(|key| per_backend.sum_cpus(&key).unwrap()).sum::<u64>(), 20);
    assert_eq!(skeleton.rodata().n_backends, backends);
}
