//! What README.md shows is what runs here.

use std::path::Path;

use skep::{Engine, Object, Xdp, XdpAction};

/// The Rust code of README.md, run from the repository's root.
#[rustfmt::skip]
fn snippet() -> Result<(), Box<dyn std::error::Error>> {
let engine = Engine::new()?;
let object = Object::open("examples/xdp_firewall.bpf.o")?.set_rodata("drop_fragments", 0u8)?;
let firewall = engine.load(object)?;
let out = firewall.program("firewall")?.test_run(Xdp::packet(&[0; 64]).ingress_ifindex(3))?;
assert_eq!(out.action(), XdpAction::Pass);
assert_eq!(firewall.map::<u32, u64>("verdicts")?.sum_cpus(&0)?, 1);
Ok(())
}

#[test]
fn the_readmes_code_runs_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```rust\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    let source = include_str!("readme.rs");
    assert!(source.contains(shown), "README.md shows other code than this test runs:\n{shown}");
    std::env::set_current_dir(root).unwrap();
    snippet().unwrap();
}
