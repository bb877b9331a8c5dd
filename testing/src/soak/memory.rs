//! What a soak holds in memory, by kind, once nothing is in flight.
//!
//! The books say what is in use: bytes of the heap, of machine code, of per-CPU memory. The kernel says what is resident, and
//! of which kind. Both are compared, since memory that is mapped by itself is in no book, and books say nothing of room
//! that an allocator does not find again. Invariant: what is resident is looked at after the allocator has given back what it
//! can, and [`again_in_one_heap`] sees to it that its memory is told from mappings of our own.

use std::process::{Command, ExitStatus};
use std::time::Duration;
use std::{fmt, io};

use skep::Engine;

/// What is in use when nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the heap, if [`Counting`](crate::counting::Counting) counts them.
    pub heap: usize,
    /// Bytes of machine code.
    pub code: usize,
    /// Bytes of per-CPU memory.
    pub per_cpu: usize,
    /// Pages of the process.
    pub resident: Resident,
}

/// Resident pages, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Of files: the program itself and its libraries, as far as they were executed or read.
    pub files: usize,
    /// Of the allocator.
    pub heap: usize,
    /// Of code memory, in both views.
    pub code: usize,
    /// Of all other mappings: vCPUs, maps, tables of the code memory, stacks of threads.
    pub mapped: usize,
    /// How many mappings there are.
    pub mappings: usize,
}

/// The allocator's settings for a soak: one heap for all threads and blocks of all sizes, and no freed blocks kept by each
/// thread for itself. Those caches are bounded, but they fill for hours, and each block in one keeps a page resident.
const SETTINGS: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.tcache_count=0");

/// Runs this program again, with its arguments, where the allocator has one heap; none if it has already.
///
/// # Errors
/// The program cannot be started.
pub fn again_in_one_heap() -> io::Result<Option<ExitStatus>> {
    let (name, value) = SETTINGS;
    if std::env::var_os(name).is_some_and(|set| set == value) {
        return Ok(None);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(name, value).status().map(Some)
}

impl Memory {
    /// Waits until everything that was deferred is done, and what that deferred, and looks.
    pub(super) fn settled(engine: &Engine) -> Self {
        for _ in 0..8 {
            if engine.cpus().barrier().is_err() {
                break;
            }
        }
        // The reclaimer lets go of a batch's own queue and latch just after it has let this thread go on: what is there at
        // every one of several looks is what stays.
        let looks = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            crate::counting::bytes_in_use()
        });
        let heap = looks.min().unwrap_or(0);
        let used = engine.memory_use();
        Self { heap, code: used.code, per_cpu: used.per_cpu, resident: Resident::now() }
    }

    /// What grew from here to `later` by more than noise.
    pub(super) fn grown(&self, later: &Self) -> Vec<String> {
        let (a, b) = (&self.resident, &later.resident);
        let grew = [
            ("bytes of machine code", self.code, later.code, 0),
            ("bytes of per-CPU memory", self.per_cpu, later.per_cpu, 0),
            // A hundredth, and what a few vectors that doubled their room may have taken.
            ("bytes of the heap", self.heap, later.heap, self.heap / 100 + 4096),
            ("resident pages of the heap", a.heap, b.heap, a.heap / 100 + HOLES),
            ("resident pages of code", a.code, b.code, AHEAD),
            ("resident pages of other mappings", a.mapped, b.mapped, STACKS),
            ("mappings", a.mappings, b.mappings, STACKS),
        ];
        let grew = grew.iter().filter(|(_, before, after, slack)| *after > before + slack);
        grew.map(|(what, before, after, _)| format!("{what} grew from {before} to {after}")).collect()
    }
}

/// Pages of the heap that lie between blocks in use, by chance, at one look and not at another.
const HOLES: usize = 256;

/// Pages of code memory that moments with much to be freed may take, in both views: it is filled 64 kB at a time.
const AHEAD: usize = 4 * 32;

/// Mappings, and pages of them, that stacks of threads may take or leave: they are used again in any order.
const STACKS: usize = 24;

impl Resident {
    fn now() -> Self {
        // SAFETY: gives memory that is not in use back to the kernel.
        unsafe { libc::malloc_trim(0) };
        Self::parse(&std::fs::read_to_string("/proc/self/smaps").unwrap_or_default())
    }

    /// Reads `/proc/PID/smaps`.
    fn parse(text: &str) -> Self {
        let mut sum = Self::default();
        let mut kind: fn(&mut Self) -> &mut usize = |sum| &mut sum.mapped;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
            if first == "Rss:" {
                *kind(&mut sum) += second.parse::<usize>().unwrap_or(0) / 4;
            } else if !first.ends_with(':') {
                sum.mappings += 1;
                kind = match words.nth(3) {
                    Some("[heap]") => |sum| &mut sum.heap,
                    Some(path) if path.starts_with("/memfd:skep-text") => |sum| &mut sum.code,
                    Some(path) if path.starts_with('/') => |sum| &mut sum.files,
                    _ => |sum| &mut sum.mapped,
                };
            }
        }
        sum
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heap, code, per_cpu, resident } = self;
        let Resident { files, heap: heap_pages, code: code_pages, mapped, mappings } = resident;
        write!(f, "in use: heap {heap}, code {code}, per CPU {per_cpu} bytes; resident pages: heap {heap_pages}, ")?;
        write!(f, "code {code_pages}, {mapped} in other mappings, {files} of files; {mappings} mappings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d000000000-55d000002000 r-xp 00001000 fe:00 77 /usr/bin/soak
Rss:                   8 kB
VmFlags: rd ex mr mw me
55d000010000-55d000020000 rw-p 00000000 00:00 0                          [heap]
Rss:                  40 kB
7f0000000000-7f0000100000 r-xs 00000000 00:01 9 /memfd:skep-text (deleted)
Rss:                  16 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0 
Rss:                  12 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                   4 kB
";

    #[test]
    fn pages_are_told_by_kind() {
        let wanted = Resident { files: 2, heap: 10, code: 4, mapped: 4, mappings: 5 };
        assert_eq!(Resident::parse(SMAPS), wanted);
    }

    #[test]
    fn whatever_grows_is_named() {
        let resident = Resident { files: 100, heap: 1000, code: 32, mapped: 200, mappings: 60 };
        let first = Memory { heap: 100_000, code: 1024, per_cpu: 128, resident };
        let more = Resident { files: 900, heap: 1266, code: 160, mapped: 224, mappings: 84 };
        assert_eq!(first.grown(&Memory { heap: 105_000, resident: more, ..first }), Vec::<String>::new());
        let cases = [
            Memory { heap: 105_200, ..first },
            Memory { code: 1088, ..first },
            Memory { per_cpu: 144, ..first },
            Memory { resident: Resident { heap: 1267, ..resident }, ..first },
            Memory { resident: Resident { code: 161, ..resident }, ..first },
            Memory { resident: Resident { mapped: 225, ..resident }, ..first },
            Memory { resident: Resident { mappings: 85, ..resident }, ..first },
        ];
        for later in cases {
            assert_eq!(first.grown(&later).len(), 1, "{later}");
        }
    }
}
