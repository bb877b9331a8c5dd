//! Verdicts of the running kernel beside ours, on programs that are made or fetched.
//!
//! What is fetched lies in a cache outside the tree (`SKEP_CACHE`, else `~/.cache/skep`): the kernel's own tests are under
//! another licence and are compiled and run here, never copied.

mod machine;
mod packages;
mod percpu;
mod profiles;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::shell::{self, cargo, command, exists, output, step};

/// The package that has the kernel's sources.
const PACKAGE: &str = "linux-source-6.12";

/// What to ask about.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Random programs from a grammar: verdicts, shadow execution, results of every engine
    Random {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        programs: u64,
        /// First seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Do not ask the kernel: shadow execution and our engines alone
        #[arg(long)]
        no_kernel: bool,
        /// Show both logs and all findings of the program with this seed
        #[arg(long)]
        show: Option<u64>,
    },
    /// The kernel's own BPF tests, each program of a type that the engine has; those that everybody may load without
    /// capabilities too (`kernel.unprivileged_bpf_disabled` is 0 for the while)
    Selftests {
        /// Say why each object that is left out is
        #[arg(long)]
        verbose: bool,
        /// Show both logs of the program with this name
        #[arg(long)]
        show: Option<String>,
        /// Only files whose name starts with this
        filter: Option<String>,
    },
    /// Per-CPU data beside Linux 7.3 in QEMU, and C skeletons beside bpftool 7.8; both are fetched
    Percpu,
    /// The profiles beside kernels of those releases in QEMU, which are fetched, on every program that the others ask about
    Profiles {
        /// Show both logs of the programs with this name
        #[arg(long)]
        show: Option<String>,
        /// These profiles (6.1, 6.12, 6.18, 7.3); unless said, 6.1 and 6.12
        profiles: Vec<String>,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    match what {
        What::Random { programs, seed, no_kernel, show } => {
            let mut oracle = testing_binary("verify_oracle");
            oracle.args(["--programs", &programs.to_string(), "--seed", &seed.to_string()]);
            if *no_kernel {
                oracle.arg("--no-kernel");
            }
            if let Some(seed) = show {
                oracle.args(["--show", &seed.to_string()]);
            }
            shell::run(&mut oracle)
        }
        What::Selftests { verbose, show, filter } => selftests(*verbose, show.as_deref(), filter.as_deref()),
        What::Percpu => percpu::run(),
        What::Profiles { show, profiles } => profiles::run(profiles, show.as_deref()),
    }
}

/// A program of the testing crate, optimised: it does the same many times.
fn testing_binary(name: &str) -> std::process::Command {
    let mut run = quick_binary(name);
    run.args(["--release", "--"]);
    run
}

/// A program of the testing crate that has little to do; its arguments follow `--`.
fn quick_binary(name: &str) -> std::process::Command {
    let mut run = cargo();
    run.args(["run", "--quiet", "--package", "skep-testing", "--bin", name]);
    run
}

fn selftests(verbose: bool, show: Option<&str>, filter: Option<&str>) -> Result<()> {
    let cache = cache()?;
    let objects = selftest_objects(&cache, filter.unwrap_or(""))?;
    step("ask both verifiers");
    let mut oracle = testing_binary("object_oracle");
    if verbose {
        oracle.arg("--verbose");
    }
    if let Some(program) = show {
        oracle.args(["--show", program]);
    }
    shell::run(oracle.args(objects))?;
    if show.is_some() || filter.is_some() {
        return Ok(());
    }
    step("ask about programs and helpers without capabilities");
    let mut tests = cargo();
    tests.env("SKEP_ORACLE_UNPRIVILEGED", "1");
    tests.args([
        "test",
        "--quiet",
        "--release",
        "--package",
        "skep-testing",
        "--test",
        "verifier",
        "--test",
        "helper_oracle",
    ]);
    shell::run(&mut tests)
}

/// The kernel's own tests, compiled; only files whose name starts with the filter.
fn selftest_objects(cache: &Path, filter: &str) -> Result<Vec<PathBuf>> {
    let sources = sources(cache)?;
    let headers = headers(cache, &sources)?;
    compile(cache, &sources, &headers, filter)
}

fn cache() -> Result<PathBuf> {
    let chosen = std::env::var_os("SKEP_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/skep"));
    let cache = chosen.or_else(home).context("neither SKEP_CACHE nor HOME is set")?;
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}

/// The unpacked sources, fetched by package name.
fn sources(cache: &Path) -> Result<PathBuf> {
    let tree = cache.join(PACKAGE);
    if tree.join("tools/testing/selftests/bpf").exists() {
        return Ok(tree);
    }
    step(&format!("fetch the package {PACKAGE} into {}", cache.display()));
    shell::run(command("apt-get").args(["download", PACKAGE]).current_dir(cache))?;
    let start = format!("{PACKAGE}_");
    let package = entries(cache)?.into_iter().find(|path| {
        file_name(path).starts_with(&start) && path.extension().is_some_and(|extension| extension == "deb")
    });
    let package = package.context("apt-get left no package")?;
    let unpacked = cache.join("package");
    shell::run(command("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    let archive = unpacked.join(format!("usr/src/{PACKAGE}.tar.xz"));
    let mut tar = command("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(cache);
    for part in ["tools/testing/selftests/bpf", "tools/lib/bpf", "tools/include"] {
        tar.arg(format!("{PACKAGE}/{part}"));
    }
    shell::run(&mut tar)?;
    std::fs::remove_dir_all(unpacked)?;
    std::fs::remove_file(package)?;
    Ok(tree)
}

/// The headers that the tests include beside their own.
fn headers(cache: &Path, sources: &Path) -> Result<PathBuf> {
    let headers = cache.join("include");
    std::fs::create_dir_all(headers.join("bpf"))?;
    if !headers.join("vmlinux.h").exists() {
        if !exists("bpftool") {
            bail!("bpftool is missing: apt-get install bpftool");
        }
        let types = output(command("bpftool").args(["btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"]))?;
        std::fs::write(headers.join("vmlinux.h"), types)?;
    }
    for header in ["bpf_helpers.h", "bpf_tracing.h", "bpf_core_read.h", "bpf_endian.h", "usdt.bpf.h"] {
        std::fs::copy(sources.join("tools/lib/bpf").join(header), headers.join("bpf").join(header))?;
    }
    let definitions = Path::new("/usr/include/bpf/bpf_helper_defs.h");
    if !definitions.exists() {
        bail!("{} is missing: apt-get install libbpf-dev", definitions.display());
    }
    std::fs::copy(definitions, headers.join("bpf/bpf_helper_defs.h"))?;
    Ok(headers)
}

/// Compiles what compiles alone; the objects.
fn compile(cache: &Path, sources: &Path, headers: &Path, filter: &str) -> Result<Vec<PathBuf>> {
    let objects = cache.join("objects");
    std::fs::create_dir_all(&objects)?;
    let tests = sources.join("tools/testing/selftests/bpf");
    let mut wanted: Vec<PathBuf> = entries(&tests.join("progs"))?;
    wanted.retain(|path| path.extension().is_some_and(|kind| kind == "c") && file_name(path).starts_with(filter));
    wanted.sort();
    step(&format!("compile {} files with clang-19", wanted.len()));
    let queue = Mutex::new(wanted.clone());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(source) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
                    compile_one(&source, &object_of(&objects, &source), &tests, headers, sources);
                }
            });
        }
    });
    let compiled: Vec<PathBuf> =
        wanted.iter().map(|source| object_of(&objects, source)).filter(|object| object.exists()).collect();
    println!("{} of {} compile alone", compiled.len(), wanted.len());
    Ok(compiled)
}

fn compile_one(source: &Path, object: &Path, tests: &Path, headers: &Path, sources: &Path) {
    if object.exists() {
        return;
    }
    let mut clang = command("clang-19");
    clang.args(["-g", "-O2", "--target=bpf", "-mcpu=v3", "-std=gnu11", "-fno-strict-aliasing", "-Wno-everything"]);
    clang.args(["-D__TARGET_ARCH_x86", "-DENABLE_ATOMICS_TESTS"]);
    for include in [headers, tests, &sources.join("tools/include/uapi"), &sources.join("tools/include")] {
        clang.arg("-I").arg(include);
    }
    clang.args(["-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include"]);
    // A file that needs more than this is left out; its messages would only bury the result.
    let _ = clang.arg("-c").arg(source).arg("-o").arg(object).stderr(std::process::Stdio::null()).status();
}

fn object_of(objects: &Path, source: &Path) -> PathBuf {
    objects.join(file_name(source)).with_extension("o")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(read.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
