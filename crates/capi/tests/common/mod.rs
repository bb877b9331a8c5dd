//! C programs built against the header and the library that this test run built, and run.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Folder of this crate.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Root of the repository.
pub(crate) fn root() -> PathBuf {
    here().join("../..").canonicalize().unwrap()
}

/// A folder with `libskep.so`, `libskep.so.0` and `libskep.a`, as an installation has them.
///
/// Cargo builds all kinds of this crate's library in one step, before its tests, beside the test binary.
pub(crate) fn lib_dir(scratch: &Path) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let find = |file: &str| {
        let places = exe.ancestors().skip(1).take(2).map(|dir| dir.join(file));
        places
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{file} is not beside {}", exe.display()))
    };
    let dir = scratch.join("lib");
    if !dir.exists() {
        std::fs::create_dir(&dir).unwrap();
        for (file, name) in
            [("libskep_capi.so", "libskep.so"), ("libskep_capi.so", "libskep.so.0"), ("libskep_capi.a", "libskep.a")]
        {
            std::os::unix::fs::symlink(find(file), dir.join(name)).unwrap();
        }
    }
    dir
}

/// A compiler and the language that it is to take a source for.
pub(crate) type Compiler = (&'static str, &'static str);

/// All of them.
pub(crate) const COMPILERS: [Compiler; 4] = [("gcc", "c"), ("clang-19", "c"), ("g++", "c++"), ("clang++-19", "c++")];

/// Whether a program can be started.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Those that are installed.
pub(crate) fn compilers() -> Vec<Compiler> {
    let found: Vec<_> = COMPILERS.into_iter().filter(|(program, _)| exists(program)).collect();
    assert!(!found.is_empty(), "no C compiler");
    found
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Shared,
    Static,
    /// The installed libbpf, with its own headers.
    Libbpf,
}

/// Whether the headers and the library of libbpf are installed; says so once if not.
pub(crate) fn has_libbpf() -> bool {
    let there = Path::new("/usr/include/bpf/libbpf.h").exists() && {
        let program = "int main(void) { return 0; }";
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("probe.c");
        std::fs::write(&source, program).unwrap();
        let out = Command::new("cc").arg(&source).arg("-o").arg(scratch.path().join("probe")).arg("-lbpf").output();
        out.is_ok_and(|out| out.status.success())
    };
    if !there {
        skep_testing::summary::say("libbpf: not installed, comparisons with it skipped");
    }
    there
}

/// Builds a C source into a program in `scratch`.
pub(crate) fn build(scratch: &Path, source: &Path, compiler: Compiler, link: Link, more: &[&str]) -> PathBuf {
    let (program, language) = compiler;
    let stem = source.file_stem().unwrap().to_string_lossy();
    let out = scratch.join(format!("{stem}-{program}-{link:?}"));
    let mut command = Command::new(program);
    command.args(["-g", "-Wall", "-Wextra", "-Werror", "-x", language]);
    if link != Link::Libbpf {
        command.arg("-I").arg(here().join("include"));
    }
    command.arg("-I").arg(scratch).args(more).arg(source).arg("-o").arg(&out);
    match link {
        Link::Shared => {
            let lib = lib_dir(scratch);
            let mut rpath = OsString::from("-Wl,-rpath,");
            rpath.push(&lib);
            command.arg("-L").arg(lib).arg(rpath).args(["-lskep", "-lpthread"]);
        }
        Link::Static => {
            command.args(["-x", "none"]).arg(lib_dir(scratch).join("libskep.a")).args([
                "-lpthread",
                "-ldl",
                "-lm",
                "-lgcc_s",
            ]);
        }
        Link::Libbpf => {
            command.arg("-lbpf");
        }
    }
    let built = command.output().unwrap();
    assert!(built.status.success(), "{}: {program}: {}", source.display(), String::from_utf8_lossy(&built.stderr));
    out
}

/// Runs a program in the repository's root; it succeeds.
pub(crate) fn run(program: &Path, args: &[&str]) -> String {
    let out = output(program, args, &[]);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}: {}\n{stdout}{stderr}", program.display(), out.status);
    stdout.into_owned()
}

/// Runs a program in the repository's root, with the machine's environment but for what is given.
pub(crate) fn output(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(root()).args(args).env_remove("SKEP_MODE").env_remove("SKEP_VCPUS");
    command.envs(env.iter().copied()).output().unwrap()
}
