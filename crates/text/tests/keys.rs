//! Static keys in compiled code and in installed code.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuSet};
use skep_text::{
    ArenaConfig, CodeArena, CodeImage, InstalledCode, Key, SiteBytes, SiteSpec, TextError, static_branch_likely,
    static_branch_unlikely, static_key,
};

static_key!(static OFF = false);
static_key!(static ON = true);
static_key!(static COUNTED = false);
static_key!(static FIRST = false);
static_key!(static SECOND = false);
static_key!(static BUSY = false);

#[inline(never)]
fn off() -> (bool, bool) {
    (static_branch_unlikely!(OFF), static_branch_likely!(OFF))
}

#[inline(never)]
fn on() -> (bool, bool) {
    (static_branch_unlikely!(ON), static_branch_likely!(ON))
}

#[test]
fn branches_start_as_declared_and_follow_their_key() {
    assert_eq!((off(), on()), ((false, false), (true, true)));
    let report = OFF.enable().unwrap();
    assert_eq!(report.nr_entries, 2);
    assert_eq!((off(), on()), ((true, true), (true, true)));
    assert_eq!(OFF.enable().unwrap().nr_entries, 0);
    ON.disable().unwrap();
    assert_eq!((off(), on()), ((true, true), (false, false)));
    OFF.disable().unwrap();
    ON.enable().unwrap();
    assert_eq!((off(), on()), ((false, false), (true, true)));
}

#[inline(never)]
fn counted() -> bool {
    static_branch_unlikely!(COUNTED)
}

#[test]
fn a_counted_key_is_on_while_somebody_uses_it() {
    assert!(matches!(COUNTED.dec(), Err(TextError::NotEnabled)));
    COUNTED.inc().unwrap();
    COUNTED.inc().unwrap();
    COUNTED.dec().unwrap();
    assert!(counted() && COUNTED.is_enabled());
    COUNTED.dec().unwrap();
    assert!(!counted() && !COUNTED.is_enabled());
}

#[inline(never)]
fn both() -> (bool, bool) {
    (static_branch_unlikely!(FIRST), static_branch_unlikely!(SECOND))
}

#[test]
fn several_keys_flip_in_one_batch() {
    assert_eq!(skep_text::flip(&[(&FIRST, true), (&SECOND, true)]).unwrap().nr_entries, 2);
    assert_eq!(both(), (true, true));
    assert_eq!(skep_text::flip(&[(&FIRST, false), (&SECOND, true)]).unwrap().nr_entries, 1);
    assert_eq!(both(), (false, true));
    SECOND.disable().unwrap();
}

/// Many branches on one key, each at another offset in its cache line.
macro_rules! spread {
    ($($pad:literal)*) => {
        fn spread() -> usize {
            let mut taken = 0;
            $(
                // SAFETY: one-byte nops.
                unsafe { std::arch::asm!(concat!(".skip ", $pad, ", 0x90"), options(nomem, nostack, preserves_flags)) };
                if static_branch_unlikely!(BUSY) {
                    taken += 1;
                }
            )*
            taken
        }
        const BRANCHES: usize = [$($pad),*].len();
    };
}
spread!(1 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 2 4 8 16 32 6 10 14 18 22 26 30 34 38 42 46 50 54 58 62);

/// How many flips: more in a soak (`SKEP_FLIPS=100000`).
fn flips_wanted() -> u64 {
    std::env::var("SKEP_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000)
}

/// After a flip has returned, no run that starts later sees the old form: each run is stamped with the flips that had ended when
/// it began and those that had begun when it was over.
#[test]
fn a_key_flips_while_threads_run_its_branches() {
    let (stop, runs, certain) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // Even: off. Odd: on. In between: both.
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let before = skep_text::trap_counts();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (mut mine, mut stamped) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let done = ended.load(Ordering::SeqCst);
                    let taken = spread();
                    let now = begun.load(Ordering::SeqCst);
                    if done == now {
                        let expected = if done % 2 == 0 { 0 } else { BRANCHES };
                        assert_eq!(taken, expected, "an old form after flip {done}");
                        stamped += 1;
                    }
                    mine += 1;
                }
                runs.fetch_add(mine, Ordering::Relaxed);
                certain.fetch_add(stamped, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        let mut flips = 0;
        while flips < flips_wanted()
            || (skep_text::trap_counts().traps == before.traps && start.elapsed() < Duration::from_secs(20))
        {
            begun.fetch_add(1, Ordering::SeqCst);
            let report = if flips % 2 == 0 { BUSY.enable() } else { BUSY.disable() }.unwrap();
            assert_eq!(report.nr_entries, BRANCHES);
            ended.fetch_add(1, Ordering::SeqCst);
            flips += 1;
            if flips % 8 == 0 {
                // Time for runs between two flips, whose form is certain.
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let traps = skep_text::trap_counts().traps - before.traps;
    println!("{} flips, {runs:?} runs, {certain:?} of a certain form, {traps} traps", ended.into_inner());
    assert!(certain.into_inner() > 0 && traps > 0);
    BUSY.disable().unwrap();
    assert_eq!(spread(), 0);
}

#[test]
fn compiled_code_is_never_writable() {
    OFF.enable().unwrap();
    OFF.disable().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_page = |at: usize| {
        maps.lines()
            .find(|line| {
                let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
                (usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()).contains(&at)
            })
            .unwrap()
    };
    let line = of_page(off as fn() -> (bool, bool) as usize);
    assert!(line.contains(" r-xs ") && line.contains("skep-text"), "{line}");
    assert!(maps.lines().all(|line| !line.split(' ').nth(1).unwrap().starts_with("rwx")), "{maps}");
}

/// `site; mov eax, 1; ret; mov eax, 2; ret`.
const TWO: [u8; 17] = [0x0f, 0x1f, 0x44, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3];

fn install(arena: &CodeArena) -> InstalledCode {
    arena.install(CodeImage { bytes: &TWO, relocations: &[], sites: &[SiteSpec { offset: 0 }] }).unwrap()
}

fn call(code: &InstalledCode) -> u32 {
    let arena = code.arena();
    let _run = arena.cpus().enter().unwrap();
    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0).unwrap());
    // SAFETY: the image is a function of this type.
    let entry = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn() -> u32>(entry) };
    entry()
}

#[test]
fn installed_code_follows_a_key_and_is_forgotten_with_its_image() {
    let cpus = CpuSet::new(Config { n_possible: 2, region: 1 << 20, ..Config::default() }).unwrap();
    let arena = CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near: None }).unwrap();
    let key = Key::new(false);
    let attach = |code: &InstalledCode| {
        // SAFETY: the second half of the image returns 2.
        unsafe { key.attach(code, 0, SiteBytes::Jump(code.addr(11)), SiteBytes::Nop) }.unwrap();
    };
    let codes: Vec<InstalledCode> = (0..100).map(|_| install(&arena)).collect();
    codes.iter().for_each(attach);
    // SAFETY: both forms are the same and harmless.
    let again = unsafe { Key::new(true).attach(&codes[0], 0, SiteBytes::Nop, SiteBytes::Nop) };
    assert!(matches!(again, Err(TextError::HasKey { .. })));
    let hold = key.hold().unwrap();
    let second = key.hold().unwrap();
    drop(hold);
    assert!(codes.iter().all(|code| call(code) == 2));
    // What comes while the key is on is on at once.
    let late = install(&arena);
    attach(&late);
    assert_eq!(call(&late), 2);
    assert_eq!(key.attached(), 101);
    drop(codes);
    cpus.barrier().unwrap();
    assert_eq!(key.attached(), 1);
    drop(second);
    assert_eq!(call(&late), 1);
    assert!(!key.is_enabled());
}

#[test]
fn a_child_keeps_the_code_of_the_moment() {
    static_key!(static FORKED = false);
    static LOCK: Mutex<()> = Mutex::new(());
    #[inline(never)]
    fn branch() -> bool {
        static_branch_unlikely!(FORKED)
    }
    let _one = LOCK.lock().unwrap();
    FORKED.enable().unwrap();
    let mut ends = [0; 2];
    // SAFETY: makes a pipe; the array has room for two.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child runs its branch, refuses a flip and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut byte = 0_u8;
        // Until the parent has flipped.
        // SAFETY: reads one byte.
        unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
        let mut bad = i32::from(!branch());
        bad |= i32::from(!matches!(FORKED.disable(), Err(TextError::Forked))) << 1;
        bad |= i32::from(!branch()) << 2;
        // SAFETY: leaves at once.
        unsafe { libc::_exit(bad) };
    }
    FORKED.disable().unwrap();
    assert!(!branch());
    // SAFETY: writes one byte.
    assert_eq!(unsafe { libc::write(ends[1], [1_u8].as_ptr().cast(), 1) }, 1);
    let mut status = 0;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0);
}
