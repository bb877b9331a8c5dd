//! The threads that run code while it changes, and those that make their life harder.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::code::{Function, call};
use super::{Group, World};

/// A small generator: xorshift.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
    }
}

thread_local! {
    /// The function that a signal may run: this thread is in a run.
    static NESTED: Cell<usize> = const { Cell::new(0) };
}

static NESTED_RUNS: AtomicU64 = AtomicU64::new(0);
static NESTED_WRONG: AtomicUsize = AtomicUsize::new(0);

/// Runs inside of signal handlers since the process began.
pub(super) fn nested_runs() -> u64 {
    NESTED_RUNS.load(Ordering::SeqCst)
}

extern "C" fn on_signal(_: i32) {
    let entry = NESTED.get();
    if entry != 0 {
        // SAFETY: set by this thread for the length of a run, to a function of four sites.
        let result = unsafe { call(entry) };
        NESTED_RUNS.fetch_add(1, Ordering::Relaxed);
        if (result & 0xf) ^ (result >> 16) != 0xf {
            NESTED_WRONG.store(result as usize | 1 << 63, Ordering::SeqCst);
        }
    }
}

/// A thread that runs functions and checks what they say, until the world stops.
pub(super) fn read(world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let (mut runs, mut quiet) = (0, 0);
    // SAFETY: asks for a number.
    world.readers().push(unsafe { libc::gettid() });
    while !world.stopped() {
        let group = &world.groups[usize::from(random.below(4) == 0)];
        let function = &group.functions[random.below(group.functions.len())];
        for _ in 0..8 {
            quiet += series(world, group, function);
        }
        runs += 8 * SERIES as u64;
    }
    world.runs.fetch_add(runs, Ordering::SeqCst);
    world.quiet.fetch_add(quiet, Ordering::SeqCst);
}

/// Runs in a row.
const SERIES: usize = 4;

/// Runs one function a few times. How many of the runs had to have a certain form.
fn series(world: &World, group: &Group, function: &Function) -> u64 {
    let mut seen = [0; SERIES];
    let begun = group.begun.load(Ordering::SeqCst);
    let mut quiet = 0;
    for seen in &mut seen {
        let ended = group.ended.load(Ordering::SeqCst);
        let result = one_run(world, function);
        let now = group.begun.load(Ordering::SeqCst);
        let Some(forms) = function.forms(result) else {
            world.problem("a run saw no form", format!("{result:#010x}"));
            return quiet;
        };
        // No flip began after the last one had ended, and before the run was over: its form is certain.
        if ended == now {
            quiet += 1;
            let expected = if ended % 2 == 1 { function.all() } else { 0 };
            if forms != expected {
                world.problem("an old form after a flip", format!("{forms:#x}, flip {ended}"));
            }
        }
        *seen = forms;
    }
    // Within one flip, each site goes from its old form to the new one, and not back.
    if group.begun.load(Ordering::SeqCst) == begun {
        let turn = if begun % 2 == 1 { 0 } else { function.all() };
        for pair in seen.windows(2) {
            let (before, after) = (pair[0] ^ turn, pair[1] ^ turn);
            if before & !after != 0 {
                world.problem("a site went back to its old form", format!("{:#x} then {:#x}", pair[0], pair[1]));
            }
        }
    }
    quiet
}

fn one_run(world: &World, function: &Function) -> u32 {
    let Ok(run) = world.arena.cpus().enter() else {
        world.problem("a thread was refused", "");
        return 0;
    };
    let count = run.at(world.per_cpu).cast::<u64>().as_ptr();
    // SAFETY: the vCPU is this thread's for the length of the run.
    unsafe { *count += 1 };
    NESTED.set(world.groups[0].functions[0].entry());
    // SAFETY: a function of the world's arena, in a run.
    let result = unsafe { call(function.entry()) };
    NESTED.set(0);
    result
}

/// Sends signals to the readers.
pub(super) fn signals(world: &World) {
    // SAFETY: all zero is a valid disposition.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler runs code, counts, and nothing else.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    let mut random = Random::new(99);
    while !world.stopped() {
        let readers = world.readers();
        if let Some(&tid) = readers.get(random.below(readers.len())) {
            let process = std::process::id();
            // SAFETY: sends a signal with a handler to a thread of this process; one that has ended is an error.
            unsafe { libc::syscall(libc::SYS_tgkill, process, tid, libc::SIGUSR1) };
        }
        drop(readers);
        std::thread::sleep(Duration::from_micros(200));
    }
    let wrong = NESTED_WRONG.swap(0, Ordering::SeqCst);
    if wrong != 0 {
        world.problem("a run in a signal handler saw no form", format!("{wrong:#x}"));
    }
}

/// Starts threads that run a little and end, and installs images that are attached, run and dropped.
pub(super) fn come_and_go(world: &Arc<World>) {
    let mut random = Random::new(7);
    while !world.stopped() {
        let sites: Vec<usize> = (0..4).map(|site| 2 + random.below(64) + site * 100).collect();
        let function = match Function::install(&world.arena, &sites) {
            Ok(function) => function,
            Err(error) => return world.problem("an image was refused", error),
        };
        if let Err(error) = function.attach(&world.groups[1].key) {
            return world.problem("a site was refused", error);
        }
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut runs = 0;
                    let mut quiet = 0;
                    while runs < 200 && !world.stopped() {
                        quiet += series(world, &world.groups[1], &function);
                        runs += SERIES as u64;
                    }
                    world.runs.fetch_add(runs, Ordering::SeqCst);
                    world.quiet.fetch_add(quiet, Ordering::SeqCst);
                });
            }
        });
        world.images.fetch_add(1, Ordering::Relaxed);
        world.threads.fetch_add(2, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}
