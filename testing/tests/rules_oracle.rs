//! Tables that the verifier has in code: what programs of each type return, whether they may read and write their packets, and
//! which helpers take which types of map; and the fields of sockets.
//!
//! `vectors/rules/*.txt` hold what the running kernel says; `BLESS=1` rewrites them from it. Without a kernel ours is held
//! against the files alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep_abi::ctx::{CtxFieldKind, CtxLayout, ctx_layout_for};
use skep_abi::{AttachType, MapType, ProgType, prog_flags};
use skep_testing::kernel;
use skep_testing::probe::kinds;
use skep_testing::verifier_case::{Case, Outcome, parse};

/// Whose answer.
#[derive(Clone, Copy)]
enum Of {
    Ours,
    Kernel,
}

fn ask(of: Of, case: &Case) -> Outcome {
    match of {
        Of::Ours => case.ours(0).0,
        Of::Kernel => case.kernel(1).unwrap().0,
    }
}

/// Holds both answers against a file, or writes the kernel's into it.
fn hold(name: &str, table: impl Fn(Of) -> String) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/rules").join(name);
    let with_kernel = kernel::require(name);
    let theirs = with_kernel.then(|| table(Of::Kernel));
    if let (true, Some(theirs)) = (std::env::var_os("BLESS").is_some(), &theirs) {
        std::fs::write(&path, theirs).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(table(Of::Ours), expected, "ours, {name}");
    if let Some(theirs) = theirs {
        assert_eq!(theirs, expected, "the kernel's, {name}");
    }
}

/// Every program type that has a context of its own, at every attach type that changes what it may do.
fn programs() -> Vec<(Case, &'static CtxLayout)> {
    // What is asked must not depend on the machine, so the types are those of this engine.
    let mut programs = Vec::new();
    for &prog in ProgType::ALL {
        for &attach in AttachType::ALL {
            let Some(layout) = ctx_layout_for(prog, attach) else { continue };
            let mut case = parse("type: xdp\n---\nr0 = 0\nexit\n---\n").unwrap();
            (case.prog_type, case.attach_type) = (prog, attach);
            if prog == ProgType::Syscall {
                case.flags = prog_flags::BPF_F_SLEEPABLE;
            }
            if attach_matters(prog, attach) {
                programs.push((case, layout));
            }
        }
    }
    programs
}

/// Whether the kernel lets a program of the type be loaded for it.
fn attach_matters(prog: ProgType, attach: AttachType) -> bool {
    use AttachType as A;
    let name = format!("{attach:?}");
    match prog {
        ProgType::CgroupSkb => matches!(attach, A::CgroupInetIngress | A::CgroupInetEgress),
        ProgType::CgroupSock => matches!(
            attach,
            A::CgroupInetSockCreate | A::CgroupInetSockRelease | A::CgroupInet4PostBind | A::CgroupInet6PostBind
        ),
        ProgType::CgroupSockAddr => {
            let verbs = ["Bind", "Connect", "Sendmsg", "Recvmsg", "Getpeername", "Getsockname"];
            let families = ["CgroupInet4", "CgroupInet6", "CgroupUdp4", "CgroupUdp6", "CgroupUnix"];
            families.iter().any(|family| name.strip_prefix(family).is_some_and(|verb| verbs.contains(&verb)))
        }
        ProgType::CgroupSockopt => matches!(attach, A::CgroupGetsockopt | A::CgroupSetsockopt),
        ProgType::SkLookup => attach == A::SkLookup,
        ProgType::SkReuseport => attach == A::SkReuseportSelect,
        ProgType::Netfilter => attach == A::Netfilter,
        ProgType::Xdp => attach == A::Xdp,
        // Kernels are built without it.
        ProgType::LircMode2 => false,
        _ => attach == A::default(),
    }
}

fn with_text(case: &Case, text: &str) -> Case {
    let mut case = case.clone();
    case.insns = skep_abi::asm::assemble(text).unwrap();
    case
}

#[test]
fn what_programs_return() {
    hold("results.txt", |of| {
        let mut table = String::new();
        for (case, _) in programs() {
            let accepted = |text: &str| ask(of, &with_text(&case, text)) == Outcome::Accept;
            let results: Vec<String> = (-2..6)
                .filter(|result| accepted(&format!("r0 = {result}\nexit")))
                .map(|result| result.to_string())
                .chain(accepted("call bpf_get_prandom_u32#7\nexit").then(|| "any".to_owned()))
                .collect();
            let _ = writeln!(table, "{:?} {:?}: {}", case.prog_type, case.attach_type, results.join(" "));
        }
        table
    });
}

#[test]
fn who_reads_and_writes_packets() {
    hold("packets.txt", |of| {
        let mut table = String::new();
        for (case, layout) in programs() {
            let field = |kind| layout.fields.iter().find(|field| field.kind == kind);
            let (Some(data), Some(end)) = (field(CtxFieldKind::PacketData), field(CtxFieldKind::PacketEnd)) else {
                continue;
            };
            let size = if data.size == 8 { "u64" } else { "u32" };
            let bounded = format!(
                "r6 = r1\nr2 = *({size} *)(r1 +{})\nr3 = *({size} *)(r1 +{})\nr4 = r2\nr4 += 16\nif r4 > r3 goto o\n",
                data.offset, end.offset
            );
            let accepted = |access: &str| {
                let text = format!("{bounded}{access}\no: r0 = 1\nexit");
                ask(of, &with_text(&case, &text)) == Outcome::Accept
            };
            let mut rights = String::new();
            for (right, access) in [
                ("read", "r0 = *(u8 *)(r2 +0)"),
                ("write", "*(u8 *)(r2 +0) = 1"),
                // The format is in the packet, which the helper takes only where it may touch packets.
                ("helper", "r1 = r2\nr2 = 8\nr3 = 0\ncall bpf_trace_printk#6"),
                ("sum", "r1 = 0\nr3 = r2\nr2 = 0\nr4 = 8\nr5 = 0\ncall bpf_csum_diff#28"),
            ] {
                if accepted(access) {
                    let _ = write!(rights, " {right}");
                }
            }
            let _ = writeln!(table, "{:?} {:?}:{rights}", case.prog_type, case.attach_type);
        }
        table
    });
}

/// A helper with a map: its program type, and the arguments beside the map in `M`. The key and the value are at fp-64.
const HELPERS: &[(u32, &str, &str)] = &[
    (1, "sched_cls", "r1 = M\nr2 = P"),
    (2, "sched_cls", "r1 = M\nr2 = P\nr3 = P\nr4 = 0"),
    (3, "sched_cls", "r1 = M\nr2 = P"),
    (12, "sched_cls", "r1 = r6\nr2 = M\nr3 = 0"),
    (22, "kprobe", "r1 = M\nr2 = 0"),
    (25, "sched_cls", "r1 = r6\nr2 = M\nr3 = 0\nr4 = P\nr5 = 8"),
    (27, "kprobe", "r1 = r6\nr2 = M\nr3 = 0"),
    (33, "sched_cls", "r1 = r6\nr2 = M\nr3 = 0"),
    (37, "kprobe", "r1 = M\nr2 = 0"),
    (51, "xdp", "r1 = M\nr2 = 0\nr3 = 0"),
    (52, "sk_skb", "r1 = r6\nr2 = M\nr3 = 0\nr4 = 0"),
    (53, "sock_ops", "r1 = r6\nr2 = M\nr3 = P\nr4 = 0"),
    (55, "kprobe", "r1 = M\nr2 = 0\nr3 = P\nr4 = 24"),
    (60, "sk_msg", "r1 = r6\nr2 = M\nr3 = 0\nr4 = 0"),
    (70, "sock_ops", "r1 = r6\nr2 = M\nr3 = P\nr4 = 0"),
    (71, "sk_msg", "r1 = r6\nr2 = M\nr3 = P\nr4 = 0"),
    (72, "sk_skb", "r1 = r6\nr2 = M\nr3 = P\nr4 = 0"),
    (81, "cgroup_skb", "r1 = M\nr2 = 0"),
    (82, "sk_reuseport", "r1 = r6\nr2 = M\nr3 = P\nr4 = 0"),
    (87, "sched_cls", "r1 = M\nr2 = P\nr3 = 0"),
    (88, "sched_cls", "r1 = M\nr2 = P"),
    (89, "sched_cls", "r1 = M\nr2 = P"),
    (130, "sched_cls", "r1 = M\nr2 = P\nr3 = 8\nr4 = 0"),
    (131, "sched_cls", "r1 = M\nr2 = 8\nr3 = 0"),
    (134, "sched_cls", "r1 = M\nr2 = 0"),
    (195, "sched_cls", "r1 = M\nr2 = P\nr3 = 0"),
    (198, "sched_cls", "r1 = M\nr2 = 8\nr3 = 0\nr4 = P"),
];

/// Maps of every type that needs no types of its own: how a vector makes them.
const MAPS: &[&str] = &[
    "hash 4 8 4",
    "array 4 8 4",
    "prog_array 4 4 4",
    "perf_event_array 4 4 4",
    "percpu_hash 4 8 4",
    "percpu_array 4 8 4",
    "stack_trace 4 8 4",
    "cgroup_array 4 4 4",
    "lru_hash 4 8 4",
    "lru_percpu_hash 4 8 4",
    "lpm_trie 8 8 4 flags=1",
    "array_of_maps 4 4 4 inner=i",
    "hash_of_maps 4 4 4 inner=i",
    "devmap 4 4 4",
    "sockmap 4 4 4",
    "cpumap 4 4 4",
    "xskmap 4 4 4",
    "sockhash 4 4 4",
    "cgroup_storage 16 8 0",
    "reuseport_sockarray 4 8 4",
    "percpu_cgroup_storage 16 8 0",
    "queue 0 8 4",
    "stack 0 8 4",
    "devmap_hash 4 4 4",
    "ringbuf 0 0 4096",
    "bloom_filter 0 8 4",
    "user_ringbuf 0 0 4096",
];

#[test]
fn which_helpers_take_which_maps() {
    hold("maps.txt", |of| {
        let mut table = String::new();
        for map in MAPS {
            let fits = |helper: &&(u32, &str, &str)| {
                let (id, prog, args) = **helper;
                let mut text = "r6 = r1\n".to_owned();
                for slot in 1..=8 {
                    let _ = writeln!(text, "*(u64 *)(r10 -{}) = 0", slot * 8);
                }
                let args: Vec<String> = args
                    .lines()
                    .map(|line| match line.strip_suffix("= P") {
                        Some(reg) => format!("{reg}= r10\n{reg}+= -64"),
                        None => line.replace('M', "map[m]"),
                    })
                    .collect();
                let attach = if prog == "cgroup_skb" { "\nattach: cgroup_inet_ingress" } else { "" };
                let head = format!("type: {prog}{attach}\nmap i: array 4 8 4\nmap m: {map}");
                let case = parse(&format!("{head}\n---\n{text}{}\ncall {id}\nr0 = 1\nexit\n---\n", args.join("\n")));
                !matches!(ask(of, &case.unwrap()), Outcome::Reject(_, message) if message.starts_with("cannot pass map_type"))
            };
            let ids: Vec<String> = HELPERS.iter().filter(fits).map(|(id, ..)| id.to_string()).collect();
            let name = map.split(' ').next().unwrap_or_default();
            assert!(MapType::from_name(name).is_some(), "{name}");
            let _ = writeln!(table, "{name}: {}", ids.join(" "));
        }
        table
    });
}

/// How a socket of each kind is had.
const SOCKETS: &[(&str, &str)] = &[
    ("sock_common", ""),
    ("sock", "r1 = r0\ncall bpf_sk_fullsock#95\nif r0 == 0 goto o\n"),
    ("tcp_sock", "r1 = r0\ncall bpf_tcp_sock#96\nif r0 == 0 goto o\n"),
];

#[test]
fn which_fields_sockets_have() {
    hold("sockets.txt", |of| {
        let mut table = String::new();
        for (name, cast) in SOCKETS {
            for size in [1, 2, 4, 8] {
                let readable = |off: &i32| {
                    let load = format!("r1 = *(u{} *)(r0 {off:+})", size * 8);
                    let text = format!("r0 = *(u64 *)(r1 +168)\nif r0 == 0 goto o\n{cast}{load}\no: r0 = 0\nexit");
                    let case = parse(&format!("type: sched_cls\n---\n{text}\n---\n")).unwrap();
                    // The kernel reads beside its field what stands in the middle of a counter.
                    let in_counter = *name == "tcp_sock" && matches!((off, size), (84 | 92, 4));
                    !in_counter && ask(of, &case) == Outcome::Accept
                };
                let offsets: Vec<String> = (-8..128).filter(readable).map(|off| off.to_string()).collect();
                let _ = writeln!(table, "{name} {size}: {}", offsets.join(" "));
            }
        }
        table
    });
}

#[test]
fn the_types_asked_about_are_those_that_load() {
    if !kernel::require("program types of the rules") {
        return;
    }
    let asked: BTreeSet<u32> = programs().iter().map(|(case, _)| case.prog_type as u32).collect();
    for kind in kinds().iter().filter(|kind| ctx_layout_for(kind.prog, kind.attach).is_some()) {
        assert!(asked.contains(&(kind.prog as u32)), "{:?}", kind.prog);
    }
}
