//! What a process can do to us: other owners of SIGTRAP, fork, a sandbox, a debugger. Each in a process of its own.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use skep_sync::{Config, CpuSet, EnterError, Mode};
use skep_text::{
    ArenaConfig, CodeArena, CodeImage, InstalledCode, SiteBytes, SiteSpec, TextError, static_branch_unlikely,
    static_key,
};

static_key!(static KEY = false);

#[inline(never)]
fn branch() -> bool {
    static_branch_unlikely!(KEY)
}

/// `site; mov eax, 1; ret; mov eax, 2; ret`.
const TWO: [u8; 17] = [0x0f, 0x1f, 0x44, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3];

fn arena() -> CodeArena {
    let cpus = CpuSet::new(Config { n_possible: 2, region: 1 << 20, ..Config::default() }).unwrap();
    CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near: None }).unwrap()
}

fn install(arena: &CodeArena) -> InstalledCode {
    arena.install(CodeImage { bytes: &TWO, relocations: &[], sites: &[SiteSpec { offset: 0 }] }).unwrap()
}

fn poke(code: &InstalledCode, form: SiteBytes) -> Result<usize, TextError> {
    // SAFETY: the tests jump to the second half of the image.
    unsafe { code.arena().poke(&[(code.site(0).unwrap(), form)]) }.map(|report| report.nr_entries)
}

fn call(code: &InstalledCode) -> u32 {
    let arena = code.arena();
    let _run = arena.cpus().enter().unwrap();
    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0).unwrap());
    // SAFETY: the image is a function of this type.
    let entry = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn() -> u32>(entry) };
    entry()
}

const CHILD: &str = "SKEP_TEXT_CHILD";

/// Runs one of the tests below in a process of its own, by its name; those do nothing otherwise.
fn child(name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn passes(name: &str) {
    let output = child(name);
    let text = String::from_utf8_lossy(&output.stdout);
    // A name that no test has would be a success too.
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
}

static FOREIGN: AtomicU32 = AtomicU32::new(0);

extern "C" fn foreign(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    FOREIGN.fetch_add(1, Ordering::SeqCst);
}

fn handle_sigtrap() {
    // SAFETY: all zero is a valid disposition.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = foreign as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler counts.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()) }, 0);
}

fn foreign_trap() {
    // SAFETY: a trap of nobody's; the handler that the test installed goes on behind it.
    unsafe { std::arch::asm!("int3") };
}

#[test]
fn traps_of_others_go_to_the_earlier_handler() {
    passes("child_earlier_handler");
}

#[test]
fn child_earlier_handler() {
    if !is_child() {
        return;
    }
    handle_sigtrap();
    let arena = arena();
    let code = install(&arena);
    foreign_trap();
    assert_eq!(FOREIGN.load(Ordering::SeqCst), 1);
    poke(&code, SiteBytes::Jump(code.addr(11))).unwrap();
    assert_eq!(call(&code), 2);
    assert_eq!(FOREIGN.load(Ordering::SeqCst), 1, "a trap of ours went to the other");
}

#[test]
fn a_trap_of_nobody_ends_the_process_as_ever() {
    assert_eq!(child("child_no_handler").status.signal(), Some(libc::SIGTRAP));
}

#[test]
fn child_no_handler() {
    if is_child() {
        let _arena = arena();
        foreign_trap();
    }
}

#[test]
fn a_replaced_handler_is_an_error_and_no_crash() {
    passes("child_replaced_handler");
}

#[test]
fn child_replaced_handler() {
    if !is_child() {
        return;
    }
    let arena = arena();
    let code = install(&arena);
    handle_sigtrap();
    assert!(matches!(poke(&code, SiteBytes::Jump(code.addr(11))), Err(TextError::HandlerReplaced)));
    assert!(matches!(KEY.enable(), Err(TextError::HandlerReplaced)));
    assert_eq!((call(&code), branch()), (1, false));
}

#[test]
fn a_forked_child_cannot_use_the_engine() {
    passes("child_fork");
}

#[test]
fn child_fork() {
    if !is_child() {
        return;
    }
    let arena = arena();
    let code = install(&arena);
    assert_eq!(call(&code), 1);
    // SAFETY: the child asks for refusals and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mut bad = i32::from(arena.cpus().enter().err() != Some(EnterError::Forked));
        bad |= i32::from(!matches!(poke(&code, SiteBytes::Jump(code.addr(11))), Err(TextError::Forked))) << 1;
        bad |= i32::from(!matches!(KEY.enable(), Err(TextError::Forked))) << 2;
        bad |= i32::from(branch()) << 3;
        drop(code);
        // SAFETY: leaves at once.
        unsafe { libc::_exit(bad) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0);
    poke(&code, SiteBytes::Jump(code.addr(11))).unwrap();
    assert_eq!(call(&code), 2);
}

/// Denies `membarrier` to this thread and those it starts.
fn deny_membarrier() {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = u32::try_from(libc::SYS_membarrier).unwrap();
    let filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is valid for the length of the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0);
}

#[test]
fn without_membarrier_patching_is_off_and_says_so() {
    passes("child_no_membarrier");
}

#[test]
fn child_no_membarrier() {
    if !is_child() {
        return;
    }
    deny_membarrier();
    let arena = arena();
    assert_eq!(arena.cpus().mode(), Mode::Symmetric);
    assert!(matches!(skep_text::live(), Err(TextError::Off(_))));
    let code = install(&arena);
    assert_eq!(call(&code), 1);
    assert!(matches!(poke(&code, SiteBytes::Jump(code.addr(11))), Err(TextError::Off(_))));
    assert!(matches!(KEY.enable(), Err(TextError::Off(_))));
    assert!(!KEY.is_enabled() && !branch());
    arena.cpus().synchronize().unwrap();
    drop(code);
    arena.cpus().barrier().unwrap();
    assert_eq!(arena.used(), 0);
}

#[test]
fn turned_off_it_leaves_sigtrap_alone() {
    passes("child_turned_off");
}

#[test]
fn child_turned_off() {
    if !is_child() {
        return;
    }
    skep_text::turn_off().unwrap();
    handle_sigtrap();
    let arena = arena();
    let code = install(&arena);
    assert_eq!(call(&code), 1);
    assert!(matches!(poke(&code, SiteBytes::Jump(code.addr(11))), Err(TextError::Off(_))));
    foreign_trap();
    assert_eq!(FOREIGN.load(Ordering::SeqCst), 1);
}

#[test]
fn in_use_it_cannot_be_turned_off() {
    let _arena = arena();
    assert!(matches!(skep_text::turn_off(), Err(TextError::Live)));
}

#[test]
fn membarrier_denied_later_is_an_error_and_the_code_goes_on() {
    passes("child_membarrier_denied_later");
}

#[test]
fn child_membarrier_denied_later() {
    if !is_child() {
        return;
    }
    let arena = arena();
    let code = install(&arena);
    deny_membarrier();
    assert!(matches!(poke(&code, SiteBytes::Jump(code.addr(11))), Err(TextError::Barrier { step: 2, .. })));
    assert_eq!(call(&code), 1, "the old meaning, by a trap");
    assert_eq!(code.bytes()[0], 0xcc);
    assert!(matches!(KEY.enable(), Err(TextError::Barrier { step: 2, .. })));
    assert!(!branch());
    assert!(matches!(arena.cpus().synchronize(), Err(skep_sync::SyncError::Barrier(_))));
}

/// Under a debugger that stops at a breakpoint of its own, and passes on the traps that are not its own.
#[test]
fn under_a_debugger_pokes_and_breakpoints_both_work() {
    if Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("no gdb here");
        return;
    }
    let output = Command::new("gdb")
        // Only after the start: the signal that a debugger gets from `execve` is not for the program.
        .args(["-batch", "-nx", "-ex", "break landmark", "-ex", "run", "-ex", "handle SIGTRAP nostop noprint pass"])
        // And a stop at the debugger's own breakpoint must not be passed on when the program continues.
        .args(["-ex", "signal 0", "-ex", "signal 0", "--args"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_debugged", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("Breakpoint 1, ").count(), 2, "{text}");
    assert!(text.contains("debugged: 60000 right"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn landmark(at: u32) -> u32 {
    std::hint::black_box(at)
}

#[test]
fn child_debugged() {
    if !is_child() {
        return;
    }
    let arena = arena();
    let code = install(&arena);
    landmark(1);
    let mut right = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (0..60000).filter(|_| matches!(call(&code), 1 | 2)).count());
        let mut on = false;
        while !reader.is_finished() {
            on = !on;
            poke(&code, if on { SiteBytes::Jump(code.addr(11)) } else { SiteBytes::Nop }).unwrap();
        }
        right = reader.join().unwrap();
    });
    landmark(2);
    println!("debugged: {right} right");
}

/// Runs `child_debugged_sites` under gdb with a breakpoint on one of its sites, and continues often enough. What it printed.
fn debug_sites(breakpoint: &str, then: &[&str]) -> Option<String> {
    if Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("no gdb here");
        return None;
    }
    let mut gdb = Command::new("gdb");
    // What it says of threads would come between what the test says.
    gdb.args(["-batch", "-nx", "-ex", "set print thread-events off", "-ex", "break landmark_sites", "-ex", "run"]);
    gdb.args(["-ex", "handle SIGTRAP nostop noprint pass", "-ex", breakpoint]);
    for command in then.iter().copied().chain(std::iter::repeat_n("signal 0", 16)) {
        gdb.args(["-ex", command]);
    }
    gdb.arg("--args").arg(std::env::current_exe().unwrap());
    let output =
        gdb.args(["--exact", "child_debugged_sites", "--nocapture", "--test-threads=1"]).env(CHILD, "1").output();
    let output = output.unwrap();
    let all = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // Whatever the debugger does, no run takes a wrong branch, and the program comes to its end.
    assert!(
        all.contains("sites: ") && all.contains("test result: ok. 1 passed") && !all.contains("Ok(false)"),
        "{all}"
    );
    Some(all)
}

#[test]
fn a_debuggers_breakpoint_in_installed_code_is_one_of_the_hardware() {
    let Some(refused) = debug_sites("break *$rdi", &["signal 0", "delete 2"]) else { return };
    assert!(refused.contains("Cannot insert breakpoint 2"), "{refused}");
    assert_eq!(refused.matches("Ok(true)").count(), 12, "{refused}");
    let text = debug_sites("hbreak *$rdi", &[]).unwrap();
    if text.contains("hardware breakpoints") || text.contains("Could not insert") {
        eprintln!("no hardware breakpoints here");
        return;
    }
    assert!(text.matches(" hit Breakpoint 2, ").count() >= 6, "{text}");
    assert_eq!(text.matches("Ok(true)").count(), 12, "{text}");
}

#[test]
fn a_debuggers_breakpoint_on_a_branch_keeps_its_key_from_flipping() {
    let Some(text) = debug_sites("break *$rsi", &[]) else { return };
    assert!(text.contains(" hit Breakpoint 2, "), "{text}");
    assert_eq!(text.matches("Err(NotASite { ").count(), 3, "{text}");
    assert_eq!(text.matches("Ok(true)").count(), 9, "{text}");
}

/// Tells a debugger the addresses of a site of installed code and of one of compiled code.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn landmark_sites(installed: u64, compiled: u64) -> u64 {
    std::hint::black_box(installed ^ compiled)
}

/// The five-byte nop at the beginning of [`branch`].
fn compiled_site() -> u64 {
    let function = branch as fn() -> bool as usize;
    let code = std::ptr::with_exposed_provenance::<[u8; 32]>(function);
    // SAFETY: the beginning of a function and what follows it in the text.
    let code = unsafe { code.read_volatile() };
    let at = code.windows(5).position(|bytes| bytes == [0x0f, 0x1f, 0x44, 0, 0]).unwrap();
    (function + at) as u64
}

#[test]
fn child_debugged_sites() {
    if !is_child() {
        return;
    }
    let arena = arena();
    let code = install(&arena);
    landmark_sites(code.addr(0).0, compiled_site());
    let mut seen = String::new();
    for round in 0..6 {
        let on = round % 2 == 0;
        let form = if on { SiteBytes::Jump(code.addr(11)) } else { SiteBytes::Nop };
        let poked = poke(&code, form).map(|_| call(&code) == if on { 2 } else { 1 });
        let flipped = if on { KEY.enable() } else { KEY.disable() }.map(|_| branch() == on);
        seen.push_str(&format!(" {poked:?} {flipped:?}"));
    }
    landmark(3);
    println!("sites:{seen}");
}
