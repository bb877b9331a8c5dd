//! The verifier's log of level 2, line by line against the running kernel's, on the examples.
//!
//! Equal up to addresses (the kernel prints where a map lies, we print its name) and the lines with which 6.18 traces its
//! own analyses of stack liveness and of loops.

use std::path::Path;

use skep_object::ObjectSpec;
use skep_testing::kernel;
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::{kernel_verdict, our_verdict};

const EXAMPLES: [&str; 5] = ["socket_dns", "tc_flows", "xdp_dispatch", "xdp_firewall", "xdp_load_balancer"];

fn is_trace(line: &str) -> bool {
    line.is_empty() || line.starts_with('(') || line.starts_with("SCC ")
}

/// One address for every address and every name of a map, and single spaces before the state.
fn normal(line: &str) -> String {
    let mut out = line.to_owned();
    if let Some(start) = out.find("= 0xffff") {
        let digits =
            out[start + 2..].find(|c: char| !c.is_ascii_hexdigit() && c != 'x').map_or(out.len(), |n| start + 2 + n);
        out.replace_range(start..digits, "= ADDRESS");
    }
    for name in ["= map[", "= map_value["] {
        let Some(start) = out.find(name) else { continue };
        let end = out[start..].find([' ', '\t']).map_or(start, |_| start);
        let tail = out[end + 2..].find(' ').map_or(out.len(), |n| end + 2 + n);
        out.replace_range(start..tail, "= ADDRESS");
    }
    match out.find(" ;") {
        Some(at) if !out.starts_with(';') => format!("{} {}", out[..at].trim_end(), out[at..].trim_start()),
        _ => out.trim_end().to_owned(),
    }
}

fn lines(log: &str) -> Vec<String> {
    log.lines().filter(|l| !is_trace(l)).map(normal).collect()
}

#[test]
fn logs_are_the_kernels() {
    if !kernel::require("verifier logs") {
        return;
    }
    let mut compared = 0;
    for example in EXAMPLES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{example}.bpf.o"));
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let object: ObjectSpec = skep_object::parse(&bytes, example).unwrap_or_else(|e| panic!("{example}: {e}"));
        let Ok(loaded) = KernelObject::create(&object) else { continue };
        for program in 0..object.programs.len() {
            let name = &object.programs[program].name;
            let Ok((verdict, theirs)) = kernel_verdict(&loaded, program, 2) else { continue };
            let (our, ours, _) = our_verdict(&object, program, 2).unwrap_or_else(|e| panic!("{example}:{name}: {e}"));
            assert_eq!(our, verdict, "{example}:{name}");
            let (ours, theirs) = (lines(&ours), lines(&theirs));
            for (i, (o, t)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(o, t, "{example}:{name}, line {i} (left ours, right the kernel's)");
            }
            assert_eq!(ours.len(), theirs.len(), "{example}:{name}: number of lines");
            compared += ours.len();
        }
    }
    assert!(compared > 1000, "only {compared} lines compared");
    println!("{compared} log lines compared");
}
