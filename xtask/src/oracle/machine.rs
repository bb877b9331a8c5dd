//! Another kernel in a machine of its own: QEMU with an initramfs of one static program, ours, and what it reads.
//!
//! Invariant: nothing of this machine is in that one but the program and its files, and what it prints comes back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo, exists};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A machine to be.
pub(super) struct Machine<'a> {
    /// The kernel's image.
    pub(super) kernel: &'a Path,
    /// What it unpacks into its root.
    pub(super) initramfs: &'a Path,
    /// CPUs.
    pub(super) cpus: u32,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// Words of the kernel's command line; those that it does not know go into the program's environment, those after `--` are
    /// the program's arguments.
    pub(super) words: &'a str,
    /// The file for what it prints.
    pub(super) console: &'a Path,
    /// How long it may take, in emulation.
    pub(super) patience: Duration,
}

/// Why no machine can be had here, if so; QEMU is installed if need be.
pub(super) fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the program inside the machine is built for x86-64".to_owned());
    }
    if exists("qemu-system-x86_64") {
        return None;
    }
    let installed = crate::tools::install(&["qemu-system-x86"]);
    installed.err().map(|error| format!("qemu-system-x86_64 is missing: {error:#}"))
}

/// A program of the testing crate, static, since nothing else is in the machine; optimised if it has much to do there.
pub(super) fn program(cache: &Path, name: &str, optimised: bool) -> Result<PathBuf> {
    let folder = cache.join("guest");
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "skep-testing", "--bin", name, "--target", TARGET]);
    if optimised {
        build.arg("--release");
    }
    // For a target of its own, so that build scripts stay as they are.
    shell::run(build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(folder.join(TARGET).join(if optimised { "release" } else { "debug" }).join(name))
}

impl Machine<'_> {
    /// Runs it to its end; its console.
    pub(super) fn run(&self) -> Result<String> {
        let mut qemu = Command::new("qemu-system-x86_64");
        // One thread for all CPUs: with one for each, a CPU may run code that another is just changing, which the kernel does
        // with its own and which QEMU gets wrong now and then.
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max"]);
        qemu.args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        qemu.args(["-nographic", "-no-reboot", "-nic", "none"]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 {}", self.words)]);
        let console = std::fs::File::create(self.console).with_context(|| self.console.display().to_string())?;
        let mut machine = qemu.stdin(Stdio::null()).stdout(console).spawn().context("cannot start QEMU")?;
        let started = Instant::now();
        let ended = loop {
            if machine.try_wait()?.is_some() {
                break true;
            }
            if started.elapsed() > self.patience {
                machine.kill()?;
                machine.wait()?;
                break false;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let console = String::from_utf8_lossy(&std::fs::read(self.console)?).into_owned();
        if !ended {
            bail!("the machine did not end in {} s; its console ends:\n{}", self.patience.as_secs(), end(&console));
        }
        println!("the machine ran {:.1} s", started.elapsed().as_secs_f64());
        Ok(console)
    }
}

/// The console's lines, once its last words say that so many answers are all.
pub(super) fn complete(console: &str) -> Result<Vec<&str>> {
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let answers = lines.iter().filter(|line| line.contains("skep| ")).count();
    let said = format!("skep: {answers} answers");
    if !lines.iter().any(|line| line.ends_with(&said)) {
        bail!("{answers} answers, but no such end; the last lines:\n{}", end(console));
    }
    Ok(lines)
}

fn end(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// An initramfs in the kernel's format: the program as `init`, a console, and a folder of files.
pub(super) fn archive(init: &Path, files: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let folder = |name: &str, out: &mut Vec<u8>| entry(out, name, 0o040_755, &[], (0, 0));
    for name in ["dev", "sys", "proc", "questions"] {
        folder(name, &mut out);
    }
    entry(&mut out, "dev/console", 0o020_600, &[], (5, 1));
    entry(&mut out, "init", 0o100_755, &std::fs::read(init)?, (0, 0));
    let mut open = vec![(files.to_path_buf(), "questions".to_owned())];
    while let Some((from, name)) = open.pop() {
        for path in super::entries(&from)? {
            let name = format!("{name}/{}", super::file_name(&path));
            if path.is_dir() {
                folder(&name, &mut out);
                open.push((path, name));
            } else {
                entry(&mut out, &name, 0o100_644, &std::fs::read(&path)?, (0, 0));
            }
        }
    }
    entry(&mut out, "TRAILER!!!", 0, &[], (0, 0));
    Ok(out)
}

/// One entry of a cpio archive, "newc".
fn entry(out: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8], device: (u32, u32)) {
    let number = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let fields =
        [number, mode, 0, 0, 1, 0, length(contents.len()), 0, 0, device.0, device.1, length(name.len() + 1), 0];
    out.extend_from_slice(b"070701");
    out.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A file by the start of its name, somewhere in a folder; not a link.
pub(super) fn find(folder: &Path, start: &str) -> Result<Option<PathBuf>> {
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for path in super::entries(&folder)? {
            let kind = std::fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file()
                && super::file_name(&path).starts_with(start)
                && path.extension().is_none_or(|e| e != "gz")
            {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}
