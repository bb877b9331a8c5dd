//! The handler of SIGTRAP: what a thread does that meets a trap byte.
//!
//! It does not allocate, lock, panic, touch lazily initialised thread-local storage or change errno, and it calls only
//! what does none of these either.
//!
//! A thread can sit between the trap and the first instruction of its handler for any time, so that the batch that wrote
//! the byte is over when it looks; a barrier does not wait for it. Hence the rule for *late* traps: if the address is a
//! site of a live image, then either the trap byte is gone, and the thread simply tries the instruction again; or it is
//! there, and the thread does what the site did before. Only an address that nobody owns goes to the handler that was
//! there before ours.
//!
//! Invariant: a trap byte that a poke wrote never reaches the previous handler.
//! Kernel counterpart: `smp_text_poke_int3_handler`, `arch/x86/kernel/alternative.c` (6.18).

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::arch::{CodeAddr, x64};
use crate::error::TextError;
use crate::inject::{self, Mutant, Point};
use crate::owners;
use crate::refs::{self, CpuSlot};

/// One site of a batch, as the handler sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup {
    pub(crate) at: CodeAddr,
    /// The new form as a word.
    pub(crate) new: u64,
}

/// What a raised reference protects.
pub(crate) struct Batch {
    pub(crate) sites: *const Lookup,
    pub(crate) len: usize,
    /// A number that no other batch has while this one is published, then 0. For tests.
    pub(crate) number: AtomicU64,
}

impl Batch {
    fn find(&self, at: CodeAddr) -> Option<Lookup> {
        let number = self.number.load(Ordering::Relaxed);
        inject::at(Point::HandlerHolds);
        // SAFETY: the slice is the poker's, who waits for this handler's reference before changing it.
        let sites = unsafe { std::slice::from_raw_parts(self.sites, self.len) };
        let found = sites.binary_search_by_key(&at, |site| site.at).ok().and_then(|place| sites.get(place)).copied();
        if cfg!(feature = "inject") {
            // A test build looks twice: what the search misses must not be there, and the batch must still be the batch.
            let missed = found.is_none() && sites.iter().any(|site| site.at == at);
            if missed || number == 0 || self.number.load(Ordering::SeqCst) != number {
                inject::violation();
            }
        }
        found
    }
}

static BATCH: AtomicPtr<Batch> = AtomicPtr::new(std::ptr::null_mut());

/// Publishes a batch, or none. The caller holds the poke lock and raises the references afterwards.
pub(crate) fn publish(batch: *mut Batch) {
    BATCH.store(batch, Ordering::Release);
}

/// Where a thread goes on that met the trap byte of a site of this form.
fn continuation(at: CodeAddr, word: u64) -> u64 {
    if word == 0 { at.0 + x64::SITE_LEN as u64 } else { word }
}

/// Where the thread that met a trap byte at `at` goes on; none if the byte is not ours.
fn resolve(slot: &'static CpuSlot, at: CodeAddr) -> Option<u64> {
    // The trap byte was seen; orders the look at the reference after it. Pairs with the release in `refs::raise`, which
    // precedes the store of the byte.
    fence(Ordering::Acquire);
    let word = refs::word(slot);
    if refs::get_unless_zero(word) {
        // SAFETY: a raised reference means a published batch, which stays until the reference is put.
        let batch = unsafe { BATCH.load(Ordering::Acquire).as_ref() };
        let hit = batch.and_then(|batch| batch.find(at));
        refs::put(word);
        if let Some(site) = hit {
            slot.traps.fetch_add(1, Ordering::Relaxed);
            return Some(continuation(site.at, site.new));
        }
    }
    if inject::mutant(Mutant::NoLateRule) {
        return None;
    }
    owners::with_site(slot, at, |site| {
        slot.traps.fetch_add(1, Ordering::Relaxed);
        slot.late.fetch_add(1, Ordering::Relaxed);
        let byte = std::ptr::with_exposed_provenance::<u8>(usize::try_from(at.0).unwrap_or(0));
        // SAFETY: the site is in a live image, which is mapped and readable.
        let now = unsafe { byte.read_volatile() };
        if now == x64::TRAP { continuation(at, site.current.load(Ordering::Acquire)) } else { at.0 }
    })
}

/// Where a thread is, asked by a signal.
struct Question {
    /// One question at a time.
    asking: Mutex<()>,
    answer: AtomicU64,
}

static QUESTION: Question = Question { asking: Mutex::new(()), answer: AtomicU64::new(0) };

impl Question {
    /// Whether the signal is a question of this process.
    fn is(info: *const libc::siginfo_t) -> bool {
        // SAFETY: the kernel passes a valid description to a handler installed with SA_SIGINFO.
        let info = unsafe { &*info };
        // SAFETY: the field is there for signals that were queued with a value, and zero or another's otherwise.
        let value = unsafe { info.si_value() };
        info.si_code == libc::SI_QUEUE && value.sival_ptr == (&raw const QUESTION).cast_mut().cast()
    }
}

/// The instruction that a running thread of this process is at; none if it does not answer within some milliseconds.
///
/// For threads that run and are in no system call: one that sleeps would be woken.
pub(crate) fn whereabouts(tid: u32) -> Option<CodeAddr> {
    const PATIENCE: Duration = Duration::from_millis(20);
    if !INSTALLED.load(Ordering::Relaxed) || check().is_err() {
        return None;
    }
    let _asking = QUESTION.asking.lock().unwrap_or_else(PoisonError::into_inner);
    QUESTION.answer.store(0, Ordering::SeqCst);
    let process = libc::pid_t::try_from(std::process::id()).ok()?;
    let thread = libc::pid_t::try_from(tid).ok()?;
    // What the kernel takes as a signal's description: number, errno, code, and from byte 16 sender, user and value.
    let mut info = [0_u64; 16];
    info[0] = u64::from(libc::SIGTRAP.unsigned_abs());
    info[1] = u64::from(libc::SI_QUEUE.cast_unsigned());
    info[2] = u64::from(process.unsigned_abs());
    info[3] = (&raw const QUESTION).expose_provenance() as u64;
    // SAFETY: queues a signal that our own handler answers; the description is as long as the kernel's.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, libc::SIGTRAP, info.as_ptr()) };
    let asked = Instant::now();
    while sent == 0 && asked.elapsed() < PATIENCE {
        match QUESTION.answer.load(Ordering::SeqCst) {
            0 => std::thread::sleep(Duration::from_micros(50)),
            at => return Some(CodeAddr(at)),
        }
    }
    None
}

unsafe extern "C" fn on_trap(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of this thread's errno, which exists before any code of the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { errno.read() };
    inject::at(Point::HandlerEntry);
    let machine = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid context to a handler installed with SA_SIGINFO.
    let rip = unsafe { &mut (*machine).uc_mcontext.gregs[libc::REG_RIP as usize] };
    let at = CodeAddr(rip.cast_unsigned().wrapping_sub(1));
    // Whatever sent the signal: no instruction starts one byte into a site, so that a thread which is there has met the
    // trap. A debugger that passes a trap on may have changed the description of the signal.
    let next = resolve(refs::current_slot(), at);
    let question = Question::is(info);
    if question {
        QUESTION.answer.store(next.unwrap_or(rip.cast_unsigned()), Ordering::SeqCst);
    }
    match next {
        Some(next) => *rip = next.cast_signed(),
        None if question => {}
        // SAFETY: the arguments are the kernel's.
        None => unsafe { chain(signal, info, context) },
    }
    // SAFETY: as above.
    unsafe { errno.write(saved) };
}

/// What the kernel calls. It begins with a nop of eight bytes that says whose it is: a library that is loaded later has
/// its own copy of this crate, whose handler calls ours, and must be told from a stranger's.
#[unsafe(naked)]
unsafe extern "C" fn entry(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    std::arch::naked_asm!(".quad {mark}", "jmp {handler}", mark = const MARK, handler = sym on_trap)
}

/// `nopl disp32(%rax,%rax,1)` with a displacement of our own.
const MARK: u64 = 0x5045_4b53_0084_1f0f;

static INSTALLED: AtomicBool = AtomicBool::new(false);
static mut PREVIOUS: MaybeUninit<libc::sigaction> = MaybeUninit::zeroed();

/// Calls the handler that was there before ours.
///
/// # Safety
/// The arguments are those of our own call.
unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = (&raw const PREVIOUS).cast::<libc::sigaction>();
    // SAFETY: written before our handler was installed, and never since.
    let previous = unsafe { previous.read() };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: `info` is valid.
            let from_a_process = unsafe { (*info).si_code } <= 0;
            // A debugger that passes traps on passes on those of its own breakpoints as well, and has dealt with them.
            if (previous.sa_sigaction == libc::SIG_IGN && from_a_process) || traced() {
                return;
            }
            // As if we had never been there: the signal, blocked until this handler returns, ends the process. The
            // kernel does the same for a trap that is ignored.
            // SAFETY: all zero is a valid disposition, the default one.
            let mut default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            default.sa_sigaction = libc::SIG_DFL;
            // SAFETY: a valid disposition; the old one is not asked for.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
            // SAFETY: raises a signal at this thread.
            unsafe { libc::raise(signal) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO the word is the address of such a function.
            let handler: Handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            // SAFETY: the arguments are those that the kernel would have passed.
            unsafe { handler(signal, info, context) };
        }
        handler => {
            type Handler = unsafe extern "C" fn(i32);
            // SAFETY: without SA_SIGINFO the word is the address of such a function.
            let handler: Handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            // SAFETY: the argument is the one that the kernel would have passed.
            unsafe { handler(signal) };
        }
    }
}

/// Whether a debugger is attached. For the handler: system calls and the stack only.
fn traced() -> bool {
    const KEY: &[u8] = b"\nTracerPid:\t";
    let mut text = [0_u8; 1024];
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    // SAFETY: as many bytes as the buffer has.
    let len = unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above.
    unsafe { libc::close(file) };
    let text = text.get(..usize::try_from(len).unwrap_or(0)).unwrap_or(&[]);
    let value = text.windows(KEY.len()).position(|window| window == KEY).and_then(|at| text.get(at + KEY.len()));
    value.is_some_and(|&digit| digit != b'0')
}

/// The disposition of SIGTRAP now.
fn disposition() -> io::Result<libc::sigaction> {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the disposition; the pointer is valid.
    if unsafe { libc::sigaction(libc::SIGTRAP, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled it, and all zero was valid before.
    Ok(unsafe { now.assume_init() })
}

fn ours() -> usize {
    (entry as unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)) as usize
}

/// Installs the handler, once. The caller holds the poke lock.
pub(crate) fn install() -> io::Result<()> {
    if INSTALLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let previous = disposition()?;
    let slot = (&raw mut PREVIOUS).cast::<libc::sigaction>();
    // SAFETY: our handler, the only reader, is not installed yet, and the lock keeps other writers away.
    unsafe { slot.write(previous) };
    // SAFETY: all zero is a valid disposition.
    let mut ours_now: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    ours_now.sa_sigaction = ours();
    // On the thread's own stack: an alternate one is small, and another signal may be using it. Every other signal waits
    // until the handler is done, so that none of them keeps a reference raised.
    ours_now.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the set is valid.
    unsafe { libc::sigfillset(&raw mut ours_now.sa_mask) };
    // SAFETY: the handler keeps the rules of signal handlers, as the module says.
    if unsafe { libc::sigaction(libc::SIGTRAP, &raw const ours_now, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    INSTALLED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether traps still come to our handler, or to that of another copy of this crate, which passes ours on.
pub(crate) fn check() -> Result<(), TextError> {
    match disposition() {
        Ok(now) if now.sa_sigaction == ours() => Ok(()),
        Ok(now) if matches!(now.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) => Err(TextError::HandlerReplaced),
        Ok(now) => {
            let code = std::ptr::with_exposed_provenance::<u64>(now.sa_sigaction);
            // SAFETY: the first bytes of a handler that the kernel would call; ours are eight at least, and a shorter
            // one is followed by padding or by other code.
            let mark = unsafe { code.read_unaligned() };
            if mark == MARK { Ok(()) } else { Err(TextError::HandlerReplaced) }
        }
        Err(error) => Err(TextError::Handler(error)),
    }
}

/// Whether this thread would survive a trap: the check that a [`CpuSet`](skep_sync::CpuSet) makes before it lets a
/// thread in.
pub(crate) fn thread_can_trap() -> Result<(), &'static str> {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: asks for the mask; the pointer is valid.
    let asked = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), mask.as_mut_ptr()) };
    // SAFETY: all zero is an empty set, and the call may have filled it.
    let blocked = unsafe { libc::sigismember(mask.as_ptr(), libc::SIGTRAP) };
    if asked == 0 && blocked == 1 { Err("it blocks SIGTRAP, which live patching needs") } else { Ok(()) }
}
