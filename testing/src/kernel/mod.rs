//! The running kernel as an oracle, through bpf(2).
//!
//! Owns the system call; everything it returns is plain data or an owned descriptor that closes on drop, and nothing is
//! ever attached. A test that needs the oracle asks [`require`] first: where the kernel cannot be asked, the test skips,
//! and what ran and what was skipped is counted and printed when the process ends.
//! Kernel counterpart: kernel/bpf/syscall.c, net/bpf/test_run.c, 6.18.

mod btf;
mod caps;
mod map;
mod memory;
mod patience;
mod prog;
mod setting;
mod sys;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub use btf::{BtfFd, BtfLoad, btf_load};
pub use caps::{Unprivileged, without_perfmon};
pub use map::{Batch, Map, MapCreate, MapInfo};
pub use memory::{KernelMemory, symbols};
pub use patience::Patience;
pub use prog::{LoadFailure, Loaded, Prog, ProgInfo, ProgLoad, TestRun, TestRunResult};

use skep_abi::{Errno, ProgType, RawInsn};

/// Size of a BPF object name in the kernel, with its final zero.
const NAME_LEN: usize = 16;

static RAN: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// Whether this process can load programs into a Linux 6.18 kernel; else the reason.
///
/// Probed once, by loading `r0 = 0; exit` as a socket filter.
///
/// # Errors
/// One sentence for the person who reads the test's output.
pub fn available() -> Result<(), &'static str> {
    static PROBE: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *PROBE.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // A machine of one's own may run another kernel; what differs from 6.18 is then to be read, not believed.
        let any = std::env::var_os("SKEP_ORACLE_KERNEL").is_some_and(|kernel| kernel == "any");
        if !any && !release.starts_with("6.18.") {
            return Err("the running kernel is not Linux 6.18");
        }
        let program = [
            RawInsn { code: 0xb7, dst: 0, src: 0, off: 0, imm: 0 },
            RawInsn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 },
        ];
        match ProgLoad::new(ProgType::SocketFilter, &program).load() {
            Ok(_) => Ok(()),
            Err(_) => Err("bpf(2) refuses to load a program here (not root?)"),
        }
    })
}

/// Whether the oracle can be asked; counts `what` as run or skipped and says so when it is skipped.
pub fn require(what: &str) -> bool {
    register_summary();
    match available() {
        Ok(()) => {
            RAN.fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(why) => {
            SKIPPED.fetch_add(1, Ordering::Relaxed);
            eprintln!("kernel oracle: {what} skipped: {why}");
            false
        }
    }
}

/// Whether programs may be attached: only in a throwaway machine, which says so (`SKEP_ORACLE_ATTACH=1`).
#[must_use]
pub fn may_attach() -> bool {
    std::env::var_os("SKEP_ORACLE_ATTACH").is_some_and(|may| may == "1")
}

/// As [`require`], for extension programs: some machines let root load every type of program but those that change others.
pub fn require_extensions(what: &str) -> bool {
    static DENIED: OnceLock<bool> = OnceLock::new();
    if !require(what) {
        return false;
    }
    let program = [RawInsn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 }];
    // Without a target it is invalid, if it may be loaded at all.
    let denied = || ProgLoad::new(ProgType::Ext, &program).load_once().err().map(|failure| failure.errno);
    if !*DENIED.get_or_init(|| denied() == Some(Errno::EPERM)) {
        return true;
    }
    RAN.fetch_sub(1, Ordering::Relaxed);
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    eprintln!("kernel oracle: {what} skipped: the machine denies extension programs");
    false
}

/// How many suites asked the kernel so far and how many could not.
#[must_use]
pub fn counts() -> (u32, u32) {
    (RAN.load(Ordering::Relaxed), SKIPPED.load(Ordering::Relaxed))
}

/// `kernel oracle: N ran, M skipped`.
#[must_use]
pub fn summary() -> String {
    let (ran, skipped) = counts();
    format!("kernel oracle: {ran} ran, {skipped} skipped")
}

/// Prints [`summary`] once, when the process exits.
fn register_summary() {
    extern "C" fn print() {
        crate::summary::say(&summary());
    }
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: `print` is an `extern "C"` function without arguments, which does not unwind or call `exit`.
        unsafe { libc::atexit(print) };
    });
}

/// How many CPUs the kernel counts as possible: the number of values of a per-CPU map element.
#[must_use]
pub fn possible_cpus() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
        last.map_or(1, |last| last + 1)
    })
}

/// A verifier's log up to where it begins to explain itself, as Linux does since 7.3.
#[must_use]
pub fn before_explanation(log: &str) -> &str {
    log.split("\nVerification failed: ").next().unwrap_or(log)
}

/// Keeps this thread on one CPU from now on.
///
/// # Errors
/// The errno of sched_setaffinity(2).
pub fn pin_to_cpu(cpu: usize) -> Result<(), Errno> {
    let mut set = [0u64; 16];
    let word = set.get_mut(cpu / 64).ok_or(Errno::EINVAL)?;
    *word = 1 << (cpu % 64);
    // SAFETY: the call reads as many bytes of the set as its size says, and changes nothing but this thread's affinity.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&set), set.as_ptr()) };
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    if result < 0 { Err(Errno(errno())) } else { Ok(()) }
}

/// A kernel object name: at most 15 bytes, zero-filled.
fn object_name(name: &str) -> [u8; NAME_LEN] {
    let mut out = [0; NAME_LEN];
    for (to, from) in out.iter_mut().zip(name.bytes().take(NAME_LEN - 1)) {
        *to = from;
    }
    out
}

/// The text of a zero-filled name or log.
fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
