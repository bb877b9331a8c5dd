//! Gives the shared library the name that programs record when they are linked against it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // As long as the interface may change, each minor version is another library.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libskep.so.0");
}
