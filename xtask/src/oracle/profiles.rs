//! Our profiles beside booted kernels of those releases.
//!
//! Each kernel boots in QEMU, where a static program of ours loads every program of the vectors, the tree's objects and the kernel's
//! own tests, and prints the verdicts (`skep_testing::profiles_oracle`); ours are asked for here. Invariant: a difference that
//! `testing/reviewed/profiles.txt` does not explain is an error, and so is an explanation without a difference.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::machine::{self, Machine, find};
use super::packages::Packages;
use super::{cache, file_name, testing_binary};
use crate::shell::{self, command, exists, step};

/// Profiles whose kernel Debian has, with the start of the package's name; it ends with [`FLAVOUR`].
const KERNELS: [(&str, &str); 4] = [
    ("6.1", "linux-image-6.1."),
    ("6.12", "linux-image-6.12."),
    ("6.18", "linux-image-6.18."),
    ("7.3", "linux-binary-7.3"),
];
const FLAVOUR: &str = "-cloud-amd64";
/// The profiles that are older than the one that every other test holds against the running kernel.
const OLDER: [&str; 2] = ["6.1", "6.12"];
/// How long a machine may take, in emulation.
const PATIENCE: Duration = Duration::from_secs(900);
/// The machine's CPUs, as many as `skep_testing::profiles_oracle::CPUS`.
const CPUS: u32 = 1;
const MEMORY: u32 = 3072;

/// A kernel that can be asked.
struct Kernel {
    profile: &'static str,
    package: String,
    image: PathBuf,
    /// Its types, raw.
    types: PathBuf,
    /// Where its answers go.
    answers: PathBuf,
}

/// Compares the profiles of these names, or the older ones; or shows both logs of one program.
pub(super) fn run(wanted: &[String], show: Option<&str>) -> Result<()> {
    let known = || KERNELS.map(|(profile, _)| profile).join(", ");
    if let Some(unknown) = wanted.iter().find(|name| KERNELS.iter().all(|(profile, _)| profile != name)) {
        bail!("there is no kernel package for {unknown}; there is one for {}", known());
    }
    if let Some(why) = machine::missing() {
        println!("skipped: everything: {why}");
        return Ok(());
    }
    let cache = cache()?;
    let Some(packages) = Packages::open_or_skip(&cache) else { return Ok(()) };
    let mut kernels = Vec::new();
    let mut skipped = 0;
    for (profile, start) in KERNELS {
        let is_wanted = if wanted.is_empty() { OLDER.contains(&profile) } else { wanted.iter().any(|w| w == profile) };
        if !is_wanted {
            continue;
        }
        match kernel(&packages, &cache, profile, start) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => {
                println!("skipped: {profile}: {error:#}");
                skipped += 1;
            }
        }
    }
    let selftests = super::selftest_objects(&cache, "")?;
    step("build the program that runs in the machines");
    let init = machine::program(&cache, "profiles_oracle", true)?;
    let questions = cache.join("profiles/questions");
    if questions.exists() {
        std::fs::remove_dir_all(&questions)?;
    }
    shell::run(command(&init).arg("questions").arg(&questions).args(stripped(&cache, &selftests)?))?;
    let initramfs = cache.join("profiles/initramfs.cpio");
    std::fs::write(&initramfs, machine::archive(&init, &questions)?)?;
    ask(&kernels, &initramfs, show)?;
    let mut problems = Vec::new();
    for kernel in &kernels {
        let mut oracle = testing_binary("profiles_oracle");
        oracle.arg(if show.is_some() { "show" } else { "compare" }).arg(kernel.profile).arg(&kernel.types);
        if let Some(program) = show {
            step(&format!("profile {}", kernel.profile));
            shell::run(oracle.arg(&questions).arg(program))?;
            step(&kernel.package);
            print!("{}", std::fs::read_to_string(&kernel.answers)?);
            continue;
        }
        step(&format!("profile {} beside {}", kernel.profile, kernel.package));
        if shell::run(oracle.arg(&kernel.answers).arg(&questions)).is_err() {
            problems.push(kernel.profile);
        }
    }
    println!("oracle profiles: {} kernels, {} differ, {skipped} skipped", kernels.len(), problems.len());
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("differences without a reason, or reasons without a difference: {}", problems.join(", "))
    }
}

fn kernel(packages: &Packages, cache: &Path, profile: &'static str, start: &str) -> Result<Kernel> {
    let package = packages.newest(start, FLAVOUR)?;
    let unpacked = packages.unpacked(&format!("linux-{profile}"), &[&package])?;
    let image = find(&unpacked, "vmlinuz")?.context("the package has no kernel image")?;
    let folder = cache.join("profiles").join(&package);
    std::fs::create_dir_all(&folder)?;
    let types = folder.join("types");
    if !types.exists() {
        extract_types(&image, &folder, &types)?;
    }
    Ok(Kernel { profile, package, image, types, answers: folder.join("answers") })
}

/// Boots every kernel, as many at once as there are CPUs.
fn ask(kernels: &[Kernel], initramfs: &Path, show: Option<&str>) -> Result<()> {
    step(&format!("boot {} kernels in QEMU", kernels.len()));
    let show = show.unwrap_or_default();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    for some in kernels.chunks(at_once) {
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let machines: Vec<_> = some.iter().map(|kernel| scope.spawn(|| boot(kernel, initramfs, show))).collect();
            let lost = || Err(anyhow::anyhow!("a machine's thread panicked"));
            machines.into_iter().map(|machine| machine.join().unwrap_or_else(|_| lost())).collect()
        });
        for (kernel, result) in some.iter().zip(results) {
            result.with_context(|| kernel.package.clone())?;
        }
    }
    Ok(())
}

fn boot(kernel: &Kernel, initramfs: &Path, show: &str) -> Result<()> {
    let machine = Machine {
        kernel: &kernel.image,
        initramfs,
        cpus: CPUS,
        memory: MEMORY,
        words: &format!("-- kernel {} /questions {show}", kernel.profile),
        console: &kernel.answers,
        patience: PATIENCE,
    };
    machine::complete(&machine.run()?).map(drop)
}

/// Objects without what a debugger wants of them, which is most of their size.
fn stripped(cache: &Path, objects: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let folder = cache.join("profiles/objects");
    std::fs::create_dir_all(&folder)?;
    let mut out = Vec::new();
    for object in objects {
        let to = folder.join(file_name(object));
        let age = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if age(&to).is_none_or(|stripped| age(object).is_none_or(|made| made > stripped)) {
            shell::run(command("llvm-strip-19").arg("-g").arg(object).arg("-o").arg(&to))?;
        }
        out.push(to);
    }
    Ok(out)
}

/// The types in a kernel's image, which is compressed in one of several ways.
fn extract_types(image: &Path, folder: &Path, types: &Path) -> Result<()> {
    let bytes = std::fs::read(image)?;
    let payload = payload(&bytes).context("the kernel's image has no payload where its header says")?;
    let tools: [(&[u8], &str); 4] = [
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x1f, 0x8b], "gzip"),
    ];
    let (_, tool) = tools.iter().find(|(magic, _)| payload.starts_with(magic)).context("an unknown compression")?;
    if !exists(tool) {
        crate::tools::install(&[if *tool == "xz" { "xz-utils" } else { tool }])?;
    }
    let (packed, kernel) = (folder.join("packed"), folder.join("vmlinux"));
    std::fs::write(&packed, payload)?;
    // Behind the stream lies its length, which is not of its format.
    let out = std::fs::File::create(&kernel)?;
    let packed_in = std::fs::File::open(&packed)?;
    let _ = command(tool).arg("-dc").stdin(packed_in).stdout(out).stderr(Stdio::null()).status()?;
    let mut dump = command("llvm-objcopy-19");
    dump.arg("--dump-section").arg(format!(".BTF={}", types.display())).arg(&kernel).arg("/dev/null");
    shell::run(&mut dump)?;
    std::fs::remove_file(packed)?;
    std::fs::remove_file(kernel)?;
    Ok(())
}

/// The compressed kernel in an image, by the header of the x86 boot protocol.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?)
}
