//! Per-CPU data beside Linux 7.3, and C skeletons beside bpftool 7.8.
//!
//! The kernel boots in QEMU with an initramfs of one static program, ours, which asks it the questions of
//! `skep_testing::percpu_oracle` and prints its answers; here the same program asks this engine. Invariant: a difference
//! that `testing/vectors/percpu/differences` does not explain is an error, and so is an explanation without a difference.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::packages::Packages;
use super::{cache, quick_binary};
use crate::objects::target_folder;
use crate::shell::{self, cargo, command, exists, output, root, step};

/// How long the machine may take, in emulation.
const PATIENCE: Duration = Duration::from_secs(300);
/// CPUs of the machine, as many as `skep_testing::percpu_oracle::CPUS`.
const CPUS: &str = "4";
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(super) fn run() -> Result<()> {
    let cache = cache()?;
    let packages = match Packages::open(&cache) {
        Ok(packages) => packages,
        Err(error) => {
            println!("skipped: everything: {error:#}");
            return Ok(());
        }
    };
    let (mut ran, mut skipped, mut problems) = (0, 0, Vec::new());
    for (what, result) in [
        ("C skeletons beside bpftool's", skeletons(&packages)),
        ("per-CPU data beside Linux 7.3", kernel(&packages, &cache)),
    ] {
        match result {
            Ok(None) => ran += 1,
            Ok(Some(why)) => {
                println!("skipped: {what}: {why}");
                skipped += 1;
            }
            Err(error) => problems.push(format!("{what}: {error:#}")),
        }
    }
    println!("oracle percpu: {ran} parts agree, {} do not, {skipped} skipped", problems.len());
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Compares with the kernel; why it could not be asked, if so.
fn kernel(packages: &Packages, cache: &Path) -> Result<Option<String>> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Some("the program inside the machine is built for x86-64".to_owned()));
    }
    if !exists("qemu-system-x86_64")
        && let Err(error) = crate::tools::install(&["qemu-system-x86"])
    {
        return Ok(Some(format!("qemu-system-x86_64 is missing: {error:#}")));
    }
    let unpacked = packages
        .newest("linux-binary-7.3", "-cloud-amd64")
        .and_then(|name| Ok((packages.unpacked("linux-7.3", &[&name])?, name)));
    let (kernel, name) = match unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => return Ok(Some(format!("{error:#}"))),
    };
    let image = find(&kernel, "vmlinuz")?.context("the package has no kernel image")?;
    step("build the program that runs in the machine");
    let folder = cache.join("guest");
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "skep-testing", "--bin", "percpu_oracle", "--target", TARGET]);
    // Static, since nothing else is in the machine; for a target of its own, so that build scripts stay as they are.
    shell::run(build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let init = folder.join(TARGET).join("debug/percpu_oracle");
    let questions = cache.join("questions");
    if questions.exists() {
        std::fs::remove_dir_all(&questions)?;
    }
    shell::run(command(&init).arg("questions").arg(&questions).stdout(Stdio::null()))?;
    let initramfs = cache.join("percpu.cpio");
    std::fs::write(&initramfs, archive(&init, &questions)?)?;
    step(&format!("boot {name} in QEMU"));
    let console = boot(&image, &initramfs)?;
    let theirs = answers(&console)?;
    step("ask this engine");
    let ours = answers(&output(quick_binary("percpu_oracle").args(["--", "ours"]))?)?;
    compare(&name, &ours, &theirs)?;
    Ok(None)
}

/// Runs the machine to its end; its console.
fn boot(kernel: &Path, initramfs: &Path) -> Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    // One thread for all CPUs: with one for each, a CPU may run code that another is just changing, which the kernel does
    // with its own and which QEMU gets wrong now and then.
    let machine = ["-accel", "tcg,thread=single", "-cpu", "max", "-smp", CPUS, "-m", "1024"];
    qemu.args(machine).args(["-nographic", "-no-reboot", "-nic", "none"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    // What the kernel does not know goes into the program's environment: iterators may be attached there.
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 SKEP_ORACLE_ATTACH=1 -- kernel /questions"]);
    let mut machine = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let mut stdout = machine.stdout.take().context("QEMU has no console")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is the console.
        let _ = stdout.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let started = Instant::now();
    while machine.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            machine.kill()?;
            machine.wait()?;
            let console = reader.join().unwrap_or_default();
            bail!("the machine did not end in {} s; its console:\n{console}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("the machine ran {:.1} s", started.elapsed().as_secs_f64());
    Ok(reader.join().unwrap_or_default())
}

/// Question and answer, in order.
fn answers(console: &str) -> Result<Vec<(String, String)>> {
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let mut all = Vec::new();
    for line in &lines {
        // The first line may have the console's own characters before it.
        let Some((_, line)) = line.split_once("skep| ") else { continue };
        let (question, answer) = line.split_once(" => ").or_else(|| line.split_once(" =>")).unwrap_or((line, ""));
        all.push((question.to_owned(), answer.to_owned()));
    }
    let said = format!("skep: {} answers", all.len());
    if !lines.iter().any(|line| line.ends_with(&said)) {
        let end = lines.len().saturating_sub(30);
        bail!("{} answers, but no such end; the last lines:\n{}", all.len(), lines[end..].join("\n"));
    }
    Ok(all)
}

fn compare(kernel: &str, ours: &[(String, String)], theirs: &[(String, String)]) -> Result<()> {
    let text = std::fs::read_to_string(root().join("testing/vectors/percpu/differences"))?;
    let explained: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_once(" :: ").with_context(|| format!("no ' :: ' in '{line}'")))
        .collect::<Result<_>>()?;
    let mut used = vec![false; explained.len()];
    let (mut problems, mut known) = (Vec::new(), 0);
    if ours.len() != theirs.len() {
        problems.push(format!("{} answers of ours, {} of {kernel}", ours.len(), theirs.len()));
    }
    for ((question, ours), (other, theirs)) in ours.iter().zip(theirs) {
        if question != other {
            problems.push(format!("'{question}' beside '{other}'"));
            break;
        }
        if ours == theirs {
            continue;
        }
        match explained.iter().position(|(known, _)| known == question) {
            Some(at) => {
                used[at] = true;
                known += 1;
                println!("differs: {question}\n  ours {ours}, theirs {theirs}\n  because {}", explained[at].1);
            }
            None => problems.push(format!("{question}\n  ours   {ours}\n  theirs {theirs}")),
        }
    }
    let stale = explained.iter().zip(&used).filter(|(_, used)| !**used);
    problems.extend(stale.map(|((question, _), _)| format!("'{question}' is explained and does not differ")));
    println!("{}: {} answers, {known} differ for a known reason, {} problems", kernel, theirs.len(), problems.len());
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// An initramfs in the kernel's format: the program as `init`, a console, and the questions.
fn archive(init: &Path, questions: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let folder = |name: &str, out: &mut Vec<u8>| entry(out, name, 0o040_755, &[], (0, 0));
    for name in ["dev", "sys", "questions"] {
        folder(name, &mut out);
    }
    entry(&mut out, "dev/console", 0o020_600, &[], (5, 1));
    entry(&mut out, "init", 0o100_755, &std::fs::read(init)?, (0, 0));
    let mut open = vec![(questions.to_path_buf(), "questions".to_owned())];
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

/// Compares what C sees of our skeletons and of bpftool's, and what its light skeletons load on libskep; why bpftool could not be asked, if so.
fn skeletons(packages: &Packages) -> Result<Option<String>> {
    let names = [
        "bpftool/trixie-backports",
        "libc6/trixie",
        "libelf1t64/trixie",
        "zlib1g/trixie",
        "libzstd1/trixie",
        "libcap2/trixie",
        "libssl3t64/trixie",
    ];
    let unpacked = match packages.unpacked("bpftool-7.8", &names) {
        Ok(unpacked) => unpacked,
        Err(error) => return Ok(Some(format!("{error:#}"))),
    };
    // It wants a newer C library than this machine may have, so it runs with its own.
    let loader = find(&unpacked, "ld-linux-x86-64.so.2")?.context("the package has no dynamic linker")?;
    let bpftool = find(&unpacked, "bpftool")?.context("the package has no bpftool")?;
    let libraries = loader.parent().context("the dynamic linker is in no folder")?;
    let shown = output(Command::new(&loader).arg("--library-path").arg(libraries).arg(&bpftool).arg("version"));
    let Ok(version) = shown else { return Ok(Some("bpftool does not start here".to_owned())) };
    step(&format!("C skeletons beside {}", version.lines().next().unwrap_or_default()));
    shell::run(cargo().args(["build", "--quiet", "--package", "skep-capi"]))?;
    let mut oracle = quick_binary("skeleton_oracle");
    oracle.arg("--").arg(target_folder().join("debug")).arg(&loader).arg("--library-path").arg(libraries).arg(&bpftool);
    shell::run(&mut oracle)?;
    Ok(None)
}

/// A file by the start of its name, somewhere in a folder; not a link.
fn find(folder: &Path, start: &str) -> Result<Option<PathBuf>> {
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
