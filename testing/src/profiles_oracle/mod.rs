//! Verdicts of other releases of Linux beside those of our profiles: the same programs asked of both, an answer a line.
//!
//! A line is `SOURCE/FILE:PROGRAM => ANSWER`, where the source is `vectors`, `c`, `examples` or `selftests`; programs that everybody
//! may load are asked about twice, the second time without capabilities. Invariant: both sides are asked about the same
//! instructions, relocated against the types of that kernel; what the kernel cannot be asked as it is, is left out and counted.
//! Kernel counterpart: `BPF_PROG_LOAD`, kernel/bpf/syscall.c, each release.

mod report;
mod reviewed;
mod tables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_abi::{Errno, ProgType};
use skep_btf::Btf;
use skep_object::ObjectSpec;
use skep_verifier::{Options, Profile};

pub use report::{Kind, Report, compare};
pub use reviewed::{Entry, entries};
pub use tables::differences as table_differences;

use crate::kernel::{self, Patience, Unprivileged};
use crate::kernel_object::KernelObject;
use crate::object_verdict::{TYPES, apply_test_flags, has_record, kernel_verdict, our_verdict_with};
use crate::vectors::files;
use crate::verdict::Verdict;
use crate::verifier_case::{self, Outcome};

/// How long a kernel may take for one program: some reach its limits by work that grows with the square.
const PATIENCE: Duration = Duration::from_secs(20);
/// CPUs of the machines.
pub const CPUS: u32 = 1;

/// Folders of the tree with objects, and their names as sources.
const OBJECTS: [(&str, &str); 2] = [("testing/c", "c"), ("examples", "examples")];

/// What one side says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was asked.
    Verdict(Verdict),
    /// It was not, with the reason.
    LeftOut(String),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verdict(Verdict::Accepted) => f.write_str("accept"),
            Self::Verdict(Verdict::Rejected { errno, message }) => write!(f, "reject {} {message}", errno.0),
            Self::LeftOut(why) => write!(f, "left out: {why}"),
        }
    }
}

impl Answer {
    /// Reads what [`Display`](std::fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "accept" {
            return Some(Self::Verdict(Verdict::Accepted));
        }
        if let Some(why) = text.strip_prefix("left out: ") {
            return Some(Self::LeftOut(why.to_owned()));
        }
        let rest = text.strip_prefix("reject ")?;
        let (errno, message) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Self::Verdict(Verdict::Rejected { errno: Errno(errno.parse().ok()?), message: message.to_owned() }))
    }
}

/// Who answers.
#[derive(Debug)]
pub enum Side {
    /// The kernel that this runs on.
    Kernel(Unprivileged),
    /// Our verifier by this profile.
    Ours(Profile),
}

impl Side {
    /// The running kernel.
    ///
    /// # Errors
    /// One sentence, when it does not let programs be loaded without capabilities for the while.
    pub fn kernel() -> Result<Self, String> {
        Unprivileged::allow().map(Self::Kernel)
    }

    /// The profile of this name, in the machine's shape.
    #[must_use]
    pub fn ours(profile: &str) -> Option<Self> {
        Some(Self::Ours(Profile { nr_cpus: CPUS, ..Profile::named(profile)? }))
    }
}

/// What is asked: `vectors/**.txt` and `objects/SOURCE/*.o` in a folder.
#[derive(Clone, Debug)]
pub struct Questions<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Types of the kernel that is meant.
    pub target: &'a Btf,
    /// Only programs of this name, with both logs on the side.
    pub only: Option<&'a str>,
    /// The profile of that kernel.
    pub profile: &'a str,
}

impl Questions<'_> {
    /// Asks everything; `say` gets each answer as it is known, with the log where one program is asked about.
    ///
    /// # Errors
    /// A vector that cannot be read.
    pub fn ask(&self, side: &Side, say: &mut dyn FnMut(&str, &Answer, &str)) -> Result<(), String> {
        self.vectors(side, &self.folder.join("vectors"), "vectors", say)?;
        for source in sorted(&self.folder.join("objects")) {
            let name = stem(&source);
            for file in sorted(&source) {
                self.object(side, &file, &format!("{name}/{}", stem(&file)), say);
            }
        }
        Ok(())
    }

    /// Whether the reviewed list says that the kernel does not survive this question.
    fn crashes(&self, place: &str) -> bool {
        let crashes = |entry: &Entry| entry.kind == Kind::Crashes && entry.profiles.contains(&self.profile);
        entries().iter().any(|entry| crashes(entry) && entry.places.contains(&place))
    }

    fn level(&self) -> u32 {
        if self.only.is_some() { 2 } else { 0 }
    }

    fn is_wanted(&self, program: &str) -> bool {
        self.only.is_none_or(|only| only == program)
    }

    fn vectors(
        &self,
        side: &Side,
        folder: &Path,
        name: &str,
        say: &mut dyn FnMut(&str, &Answer, &str),
    ) -> Result<(), String> {
        for path in sorted(folder) {
            let name = format!("{name}/{}", stem(&path));
            if path.is_dir() {
                self.vectors(side, &path, &name, say)?;
                continue;
            }
            if !self.is_wanted(&stem(&path)) {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            let case = verifier_case::parse(&text).map_err(|error| format!("{name}: {error}"))?;
            let level = self.level();
            let (answer, log) = match side {
                Side::Ours(profile) => (Answer::Verdict(verdict_of(case.by_profile(profile))), String::new()),
                Side::Kernel(nobody) => patiently(case.unprivileged.then_some(nobody), || {
                    case.kernel(level).map(|(outcome, log)| (verdict_of(outcome), log))
                }),
            };
            say(&name, &answer, &log);
        }
        Ok(())
    }

    fn object(&self, side: &Side, path: &Path, name: &str, say: &mut dyn FnMut(&str, &Answer, &str)) {
        let object = std::fs::read(path).map_err(|error| error.to_string());
        let object = object.and_then(|bytes| skep_object::parse(&bytes, name).map_err(|error| error.to_string()));
        let mut object = match object {
            Ok(object) => object,
            Err(why) => return say(name, &Answer::LeftOut(format!("it does not parse: {why}")), ""),
        };
        let _ = object.apply_core(self.target);
        apply_test_flags(&mut object);
        let in_kernel = match side {
            Side::Ours(_) => None,
            Side::Kernel(nobody) => Some((KernelObject::create(&object), nobody)),
        };
        for (index, program) in object.programs.iter().enumerate() {
            let prog_type = program.sec.as_ref().map(|sec| sec.prog_type);
            if !self.is_wanted(&program.name) || !prog_type.is_some_and(|prog_type| TYPES.contains(&prog_type)) {
                continue;
            }
            let for_all = matches!(prog_type, Some(ProgType::SocketFilter | ProgType::CgroupSkb));
            for unprivileged in [false, true].into_iter().take(1 + usize::from(for_all)) {
                let who = if unprivileged { ":nobody" } else { "" };
                let place = format!("{name}:{}{who}", program.name);
                let (answer, log) = match (side, &in_kernel) {
                    _ if self.crashes(&place) => (Answer::LeftOut("the kernel crashes".to_owned()), String::new()),
                    (Side::Kernel(_), Some((Err(why), _))) => (Answer::LeftOut(why.to_string()), String::new()),
                    (Side::Kernel(_), Some((Ok(there), nobody))) => {
                        self.in_kernel(there, &object, index, unprivileged.then_some(*nobody))
                    }
                    (Side::Ours(profile), _) => self.here(profile, &object, index, unprivileged),
                    (Side::Kernel(_), None) => continue,
                };
                say(&place, &answer, &log);
            }
        }
    }

    fn in_kernel(
        &self,
        there: &KernelObject<'_>,
        object: &ObjectSpec,
        program: usize,
        nobody: Option<&Unprivileged>,
    ) -> (Answer, String) {
        if object.btf.is_some() && !there.has_types() {
            return (Answer::LeftOut("the kernel refuses its types".to_owned()), String::new());
        }
        if let Some(map) = there.untyped_maps().iter().find(|map| has_record(object, map)) {
            let why = format!("map '{map}': the kernel does not know fields of its values");
            return (Answer::LeftOut(why), String::new());
        }
        patiently(nobody, || kernel_verdict(there, program, self.level()))
    }

    fn here(&self, profile: &Profile, object: &ObjectSpec, program: usize, unprivileged: bool) -> (Answer, String) {
        let profile = profile.clone();
        let options = Options { log_level: self.level(), profile, unprivileged, ..Options::default() };
        match our_verdict_with(object, program, &options) {
            Ok((verdict, log, _)) => (Answer::Verdict(verdict), log),
            Err(why) => (Answer::LeftOut(why), String::new()),
        }
    }
}

/// Asks the kernel, as nobody or as who we are, for as long as that is worth it.
fn patiently(
    nobody: Option<&Unprivileged>,
    ask: impl FnOnce() -> Result<(Verdict, String), String>,
) -> (Answer, String) {
    let within = || {
        let _patience = Patience::new(PATIENCE).map_err(|errno| errno.to_string())?;
        ask()
    };
    let asked = match nobody {
        Some(nobody) => nobody.run(within).and_then(|answer| answer),
        None => within(),
    };
    match asked {
        Ok((Verdict::Rejected { errno: Errno::EAGAIN, .. }, log)) => {
            (Answer::LeftOut(format!("the kernel takes longer than {} s", PATIENCE.as_secs())), log)
        }
        Ok((verdict, log)) => (Answer::Verdict(verdict), log),
        Err(why) => (Answer::LeftOut(why), String::new()),
    }
}

fn verdict_of(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Accept => Verdict::Accepted,
        Outcome::Reject(errno, message) => Verdict::Rejected { errno, message },
    }
}

/// Lays out the questions: the vectors, the tree's objects, and `selftests`.
///
/// # Errors
/// A file that cannot be copied.
pub fn lay_out(folder: &Path, selftests: &[PathBuf]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let vectors = root.join("testing/vectors/verifier");
    let mut open = vec![(vectors, folder.join("vectors"))];
    while let Some((from, to)) = open.pop() {
        for file in files(&from) {
            copy(&file, &to)?;
        }
        let folders = sorted(&from).into_iter().filter(|path| path.is_dir());
        open.extend(folders.map(|from| (from.clone(), to.join(from.file_name().unwrap_or_default()))));
    }
    for (from, source) in OBJECTS {
        let objects = sorted(&root.join(from)).into_iter().filter(|path| path.extension().is_some_and(|e| e == "o"));
        objects.into_iter().try_for_each(|object| copy(&object, &folder.join("objects").join(source)))?;
    }
    selftests.iter().try_for_each(|object| copy(object, &folder.join("objects/selftests")))
}

/// The types of the running kernel.
///
/// # Errors
/// It shows none.
pub fn running_types() -> Result<Btf, String> {
    types(Path::new("/sys/kernel/btf/vmlinux"))
}

/// A kernel's types in a file.
///
/// # Errors
/// The file has none.
pub fn types(path: &Path) -> Result<Btf, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Btf::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Refuses to ask a kernel that has other than [`CPUS`] CPUs: bounds depend on them.
///
/// # Errors
/// How many it has.
pub fn check_cpus() -> Result<(), String> {
    let have = kernel::possible_cpus();
    if have == CPUS as usize { Ok(()) } else { Err(format!("the machine has {have} CPUs, not {CPUS}")) }
}

fn copy(file: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    std::fs::create_dir_all(to).map_err(failed)?;
    std::fs::copy(file, to.join(file.file_name().unwrap_or_default())).map_err(failed).map(drop)
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    [".txt", ".bpf.o", ".o"].iter().find_map(|end| name.strip_suffix(end).map(str::to_owned)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_are_written() {
        let refused = Verdict::Rejected { errno: Errno::EINVAL, message: "R1 !read_ok".to_owned() };
        let silent = Verdict::Rejected { errno: Errno::E2BIG, message: String::new() };
        for answer in [
            Answer::Verdict(Verdict::Accepted),
            Answer::Verdict(refused),
            Answer::Verdict(silent),
            Answer::LeftOut("kernel symbols".to_owned()),
        ] {
            assert_eq!(Answer::parse(&answer.to_string()), Some(answer));
        }
        assert_eq!(Answer::parse("perhaps"), None);
    }
}
