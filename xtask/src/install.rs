//! `cargo xtask install`: libskep with its headers, for C programs.
//!
//! Headers go into a folder of their own, because a `bpf/libbpf.h` beside libbpf's own would take its place.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::objects::target_folder;
use crate::shell::{cargo, root, run, step};

/// Headers, as they lie in the crate.
const HEADERS: [&str; 4] = ["skep.h", "bpf/bpf.h", "bpf/libbpf.h", "bpf/skel_internal.h"];

/// Builds the library and puts it, its headers and a pkg-config file below `prefix`; below `destdir` first, if given.
pub(crate) fn run_for(prefix: &Path, destdir: Option<&Path>, debug: bool) -> Result<()> {
    let prefix = std::path::absolute(prefix).with_context(|| format!("no folder {}", prefix.display()))?;
    step("build");
    let mut build = cargo();
    build.args(["build", "--package", "skep-capi"]);
    if !debug {
        build.arg("--release");
    }
    run(&mut build)?;
    step("install");
    let built = target_folder().join(if debug { "debug" } else { "release" });
    let place = |path: &str| match destdir {
        Some(destdir) => destdir.join(prefix.strip_prefix("/").unwrap_or(&prefix)).join(path),
        None => prefix.join(path),
    };
    let version = env!("CARGO_PKG_VERSION");
    let full = format!("libskep.so.{version}");
    copy(&built.join("libskep_capi.so"), &place(&format!("lib/{full}")), 0o755)?;
    copy(&built.join("libskep_capi.a"), &place("lib/libskep.a"), 0o644)?;
    link(&full, &place("lib/libskep.so.0"))?;
    link("libskep.so.0", &place("lib/libskep.so"))?;
    for header in HEADERS {
        let from = root().join("crates/capi/include").join(header);
        copy(&from, &place(&format!("include/skep/{header}")), 0o644)?;
    }
    let template = std::fs::read_to_string(root().join("crates/capi/libskep.pc.in")).context("no template")?;
    let text = template.replace("@PREFIX@", &prefix.to_string_lossy()).replace("@VERSION@", version);
    write(&place("lib/pkgconfig/libskep.pc"), text.as_bytes(), 0o644)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, &bytes, mode)
}

/// Replaces a file as a whole: a program that runs with the old one keeps it.
fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = || format!("cannot write {}", to.display());
    let folder = to.parent().with_context(failed)?;
    std::fs::create_dir_all(folder).with_context(failed)?;
    let mut beside = PathBuf::from(to).into_os_string();
    beside.push(".new");
    std::fs::write(&beside, bytes).with_context(failed)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).with_context(failed)?;
    std::fs::rename(&beside, to).with_context(failed)?;
    eprintln!("{}", to.display());
    Ok(())
}

fn link(target: &str, at: &Path) -> Result<()> {
    drop(std::fs::remove_file(at));
    std::os::unix::fs::symlink(target, at).with_context(|| format!("cannot link {}", at.display()))?;
    eprintln!("{} -> {target}", at.display());
    Ok(())
}
