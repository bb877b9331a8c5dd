//! The examples in the running kernel: the oracle loads whole objects, so what we compare with is the real thing.

use std::path::{Path, PathBuf};

use skep_testing::kernel::{self, TestRun};
use skep_testing::kernel_object::KernelObject;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

#[test]
fn every_example_loads() {
    if !kernel::require("every_example_loads") {
        return;
    }
    // Linux before 7.3 has no per-CPU data: the verifier refuses the address of a per-CPU array's value.
    let needs_newer = ["percpu_counters.bpf.o"];
    let mut loaded = 0;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".bpf.o") || needs_newer.contains(&&*name) {
            continue;
        }
        let spec = skep_object::parse(&std::fs::read(&path).unwrap(), &name).unwrap();
        let object = KernelObject::create(&spec).unwrap();
        for (index, program) in spec.programs.iter().enumerate() {
            // An embedder's own extension point: the kernel has no such program type.
            if program.sec.is_none() {
                continue;
            }
            object.load(index, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
            loaded += 1;
        }
    }
    assert!(loaded >= 9, "only {loaded} programs");
}

#[test]
fn a_map_and_a_verdict_come_back() {
    if !kernel::require("a_map_and_a_verdict_come_back") {
        return;
    }
    let bytes = std::fs::read(examples().join("xdp_firewall.bpf.o")).unwrap();
    let spec = skep_object::parse(&bytes, "xdp_firewall.bpf.o").unwrap();
    let object = KernelObject::create(&spec).unwrap();
    let program = object.load(0, 0).unwrap().prog;
    let frame = [0u8; 64];
    let result = program.test_run(&TestRun { data: &frame, repeat: 1, ..TestRun::default() }).unwrap();
    assert_eq!(result.retval, 2, "an unknown EtherType passes");
    let verdicts = object.map("verdicts").unwrap().lookup(&0u32.to_ne_bytes(), 0).unwrap();
    let sum: u64 = verdicts.chunks(8).map(|cpu| u64::from_ne_bytes(cpu.try_into().unwrap())).sum();
    assert_eq!(sum, 1);
}
