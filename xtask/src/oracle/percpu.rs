//! Per-CPU data beside Linux 7.3, and C skeletons beside bpftool 7.8.
//!
//! The kernel boots in QEMU with an initramfs of one static program, ours, which asks it the questions of
//! `skep_testing::percpu_oracle` and prints its answers; here the same program asks this engine. Invariant: a difference
//! that `testing/vectors/percpu/differences` does not explain is an error, and so is an explanation without a difference.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::machine::{self, Machine, find};
use super::packages::Packages;
use super::{cache, quick_binary};
use crate::objects::target_folder;
use crate::shell::{self, cargo, command, output, root, step};

/// How long the machine may take, in emulation.
const PATIENCE: Duration = Duration::from_secs(300);
/// CPUs of the machine, as many as `skep_testing::percpu_oracle::CPUS`.
const CPUS: u32 = 4;

pub(super) fn run() -> Result<()> {
    let cache = cache()?;
    let Some(packages) = Packages::open_or_skip(&cache) else { return Ok(()) };
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
    if let Some(why) = machine::missing() {
        return Ok(Some(why));
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
    let init = machine::program(cache, "percpu_oracle", false)?;
    let questions = cache.join("questions");
    if questions.exists() {
        std::fs::remove_dir_all(&questions)?;
    }
    shell::run(command(&init).arg("questions").arg(&questions).stdout(Stdio::null()))?;
    let initramfs = cache.join("percpu.cpio");
    std::fs::write(&initramfs, machine::archive(&init, &questions)?)?;
    step(&format!("boot {name} in QEMU"));
    // Iterators may be attached there.
    let words = "SKEP_ORACLE_ATTACH=1 -- kernel /questions";
    let machine = Machine {
        kernel: &image,
        initramfs: &initramfs,
        cpus: CPUS,
        memory: 1024,
        words,
        console: &cache.join("percpu.console"),
        patience: PATIENCE,
    };
    let console = machine.run()?;
    let theirs = answers(&console)?;
    step("ask this engine");
    let ours = answers(&output(quick_binary("percpu_oracle").args(["--", "ours"]))?)?;
    compare(&name, &ours, &theirs)?;
    Ok(None)
}

/// Question and answer, in order.
fn answers(console: &str) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for line in machine::complete(console)? {
        // The first line may have the console's own characters before it.
        let Some((_, line)) = line.split_once("skep| ") else { continue };
        let (question, answer) = line.split_once(" => ").or_else(|| line.split_once(" =>")).unwrap_or((line, ""));
        all.push((question.to_owned(), answer.to_owned()));
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
