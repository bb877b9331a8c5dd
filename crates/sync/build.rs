//! Declares `cfg(loom)`, which swaps the primitives for loom's models.
fn main() {
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rerun-if-changed=build.rs");
}
