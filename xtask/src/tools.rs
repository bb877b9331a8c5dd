//! The programs that the tests need beyond Rust and a C compiler, and how to have them.

use anyhow::{Result, bail};

use crate::shell::{command, exists, run};

/// What provides each tool on Debian and Ubuntu.
const PACKAGES: [(&str, &str); 2] = [("clang-19", "clang-19"), ("llvm-strip-19", "llvm-19")];
const HEADERS: [(&str, &str); 2] = [("bpf/bpf_helpers.h", "libbpf-dev"), ("linux/bpf.h", "linux-libc-dev")];

/// Names of the packages that are missing.
fn missing() -> Vec<&'static str> {
    let tools = PACKAGES.iter().filter(|(tool, _)| !exists(tool)).map(|(_, package)| *package);
    let headers = HEADERS
        .iter()
        .filter(|(header, _)| !std::path::Path::new("/usr/include").join(header).exists())
        .map(|(_, package)| *package);
    tools.chain(headers).collect()
}

/// Makes sure that clang-19, llvm-19 and libbpf's headers are here, through apt where `install` allows it.
pub(crate) fn ensure(install: bool) -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        eprintln!("tools: clang-19, llvm-19, libbpf headers: all here");
        return Ok(());
    }
    let list = packages.join(" ");
    if !install {
        bail!("missing: {list}; install them with `apt-get install {list}`");
    }
    if !exists("apt-get") {
        bail!("missing: {list}; this system has no apt-get, install them with its own package manager");
    }
    apt(&["update", "-q"])?;
    self::install(&packages)
}

/// Installs packages through apt.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if !exists("apt-get") {
        bail!("this system has no apt-get, install {} with its own package manager", packages.join(" "));
    }
    eprintln!("tools: installing through apt: {}", packages.join(" "));
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(packages);
    apt(&words)
}

/// Runs apt-get, through sudo when this user is not root.
fn apt(arguments: &[&str]) -> Result<()> {
    let is_root = crate::shell::output(command("id").arg("-u"))?.trim() == "0";
    let mut apt = if is_root {
        command("apt-get")
    } else {
        let mut sudo = command("sudo");
        sudo.arg("apt-get");
        sudo
    };
    run(apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
}
