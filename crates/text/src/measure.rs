//! What flipping costs, and whom: the experiment that made the kernel's references per-CPU, for any program.
//!
//! Threads do a piece of work again and again, as fast as they can, while a key is flipped again and again. Measured are
//! the flips, the work before, between and after them in CPU time, and the time of single pieces around one flip.
//! Invariant: a thread's samples are its own until it has ended; measuring adds one look at the clock per sample.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{PokeReport, TextError, TrapCounts, trap_counts};

/// What is measured.
pub trait Subject: Sync {
    /// Does `count` pieces of work, on thread number `thread`.
    fn work(&self, thread: usize, count: u32);

    /// Turns what is to be turned on or off.
    ///
    /// # Errors
    /// What the flip says.
    fn flip(&self, on: bool) -> Result<PokeReport, TextError>;
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that work.
    pub threads: usize,
    /// Flips, on and off counted apart.
    pub flips: usize,
    /// Time between two flips.
    pub pause: Duration,
    /// Time to measure before the first flip, while on, and after the last.
    pub steady: Duration,
    /// Pieces of work per sample of the steady phases.
    pub batch: u32,
    /// Flips during which the slow pieces of work are noted.
    pub watched: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            flips: 200,
            pause: Duration::from_millis(2),
            steady: Duration::from_millis(200),
            batch: 1024,
            watched: 200,
        }
    }
}

/// One piece of work that was timed alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it ended, in microseconds from the beginning of the flip that was traced.
    pub at_us: f64,
    /// How long it took, in nanoseconds.
    pub ns: f64,
    /// The thread.
    pub thread: usize,
}

/// What came out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Sites in each batch.
    pub nr_entries: usize,
    /// The time of each flip as its caller saw it, sorted.
    pub flips: Vec<Duration>,
    /// The time of the five steps alone, sorted: what the kernel's trace prints.
    pub pokes: Vec<Duration>,
    /// Nanoseconds of CPU time per piece of work: before the first flip, while flips go on, while on, and after the last.
    pub before_ns: f64,
    /// See `before_ns`.
    pub during_ns: f64,
    /// See `before_ns`.
    pub on_ns: f64,
    /// See `before_ns`.
    pub after_ns: f64,
    /// Traps that the flips caused, and the late ones among them.
    pub traps: TrapCounts,
    /// For each watched flip the longest piece of work that it overlapped, sorted; a piece during which its thread lost the
    /// CPU tells nothing of the flip and is left out.
    pub stalls: Vec<Duration>,
    /// The same in as many moments without a flip, as long as the flips: what the machine does by itself.
    pub undisturbed: Vec<Duration>,
    /// How many pieces were left out.
    pub lost_cpu: usize,
    /// Single pieces of work around one flip.
    pub trace: Vec<Sample>,
    /// How long the traced flip took.
    pub traced: Duration,
}

impl Report {
    /// The time of a flip at `share` of the sorted list: 0.5 is the median.
    #[must_use]
    pub fn flip_at(&self, share: f64) -> Duration {
        at(&self.flips, share)
    }

    /// The stall at `share` of the sorted list, and the one of moments without a flip.
    #[must_use]
    pub fn stall_at(&self, share: f64) -> (Duration, Duration) {
        (at(&self.stalls, share), at(&self.undisturbed, share))
    }
}

fn at(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list of thousands"
    )]
    let place = ((sorted.len().saturating_sub(1)) as f64 * share.clamp(0.0, 1.0)).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}

/// What the workers are to do.
const STEADY: u32 = 0;
const TRACE: u32 = 1;
const STOP: u32 = 2;
const WATCH: u32 = 3;

/// Pieces of work that take less are no stalls.
const SLOW: Duration = Duration::from_micros(1);

struct Shared {
    mode: AtomicU32,
    /// Counts up when a phase ends, so that workers start a new sum.
    phase: AtomicU32,
}

#[derive(Default)]
struct Worker {
    /// Time and pieces per phase.
    phases: Vec<(f64, f64)>,
    /// Ends and lengths of single pieces.
    singles: Vec<(Instant, Duration)>,
    /// Slow pieces while flips are watched: begin, end, whether the thread had its CPU all the time.
    slow: Vec<(Instant, Instant, bool)>,
}

/// Measures.
///
/// # Errors
/// The first flip that failed.
pub fn measure(subject: &dyn Subject, options: &Options) -> Result<Report, TextError> {
    let shared = Shared { mode: AtomicU32::new(STEADY), phase: AtomicU32::new(0) };
    let mut report = Report::default();
    let workers: Vec<Worker> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..options.threads)
            .map(|thread| {
                let shared = &shared;
                scope.spawn(move || work(subject, options, shared, thread))
            })
            .collect();
        let result = direct(subject, options, &shared, &mut report);
        shared.mode.store(STOP, Ordering::SeqCst);
        let workers: Vec<Worker> = handles.into_iter().filter_map(|handle| handle.join().ok()).collect();
        result.map(|(watched, start)| {
            report.stalls = longest(&workers, &watched, &mut report.lost_cpu);
            let before =
                |&(from, to): &Flip| Some((from.checked_sub(options.pause / 2)?, to.checked_sub(options.pause / 2)?));
            let undisturbed: Vec<Flip> = watched.iter().filter_map(before).collect();
            report.undisturbed = longest(&workers, &undisturbed, &mut 0);
            collect_trace(&workers, start, &mut report);
            workers
        })
    })?;
    let average = |phase: usize| {
        let (time, pieces) = workers
            .iter()
            .filter_map(|worker| worker.phases.get(phase))
            .fold((0.0, 0.0), |sum, &(time, pieces)| (sum.0 + time, sum.1 + pieces));
        if pieces > 0.0 { time / pieces * 1e9 } else { 0.0 }
    };
    [report.before_ns, report.during_ns, report.on_ns, report.after_ns] = std::array::from_fn(average);
    report.flips.sort();
    report.pokes.sort();
    Ok(report)
}

/// When a flip began and ended.
type Flip = (Instant, Instant);

/// Flips, and tells the workers where we are. The watched flips, and when the traced one began.
fn direct(
    subject: &dyn Subject,
    options: &Options,
    shared: &Shared,
    report: &mut Report,
) -> Result<(Vec<Flip>, Instant), TextError> {
    let next_phase = || shared.phase.fetch_add(1, Ordering::SeqCst);
    subject.flip(false)?;
    std::thread::sleep(options.steady);
    next_phase();
    let before = trap_counts();
    for flip in 0..options.flips {
        let start = Instant::now();
        let done = subject.flip(flip % 2 == 0)?;
        report.flips.push(start.elapsed());
        report.pokes.push(done.took);
        report.nr_entries = report.nr_entries.max(done.nr_entries);
        std::thread::sleep(options.pause);
    }
    let after = trap_counts();
    report.traps = TrapCounts { traps: after.traps - before.traps, late: after.late - before.late };
    subject.flip(true)?;
    next_phase();
    std::thread::sleep(options.steady);
    subject.flip(false)?;
    next_phase();
    std::thread::sleep(options.steady);
    // Flips with every slow piece of work noted.
    shared.mode.store(WATCH, Ordering::SeqCst);
    let mut watched = Vec::with_capacity(options.watched);
    for flip in 0..options.watched.next_multiple_of(2) {
        std::thread::sleep(options.pause);
        let start = Instant::now();
        subject.flip(flip % 2 == 0)?;
        watched.push((start, Instant::now()));
    }
    // One flip with every piece of work timed.
    shared.mode.store(TRACE, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(2));
    let start = Instant::now();
    subject.flip(true)?;
    report.traced = start.elapsed();
    std::thread::sleep(Duration::from_millis(2));
    subject.flip(false)?;
    Ok((watched, start))
}

/// How often this thread has lost its CPU, to others or by itself.
fn lost_cpu() -> i64 {
    // SAFETY: all zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes the value above.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw + usage.ru_nvcsw
}

/// Seconds that this thread has had a CPU: what others do on the machine does not count.
fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "differences of milliseconds are taken")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

fn work(subject: &dyn Subject, options: &Options, shared: &Shared, thread: usize) -> Worker {
    let mut worker = Worker { phases: vec![(0.0, 0.0); 5], singles: Vec::with_capacity(1 << 18), slow: Vec::new() };
    // One piece begins where another ended, so that a CPU that is lost is lost in one of them.
    let mut watched: Option<(Instant, i64)> = None;
    loop {
        match shared.mode.load(Ordering::Relaxed) {
            STEADY => {
                let phase = shared.phase.load(Ordering::Relaxed);
                let start = cpu_time();
                subject.work(thread, options.batch);
                let took = cpu_time() - start;
                if shared.phase.load(Ordering::Relaxed) == phase
                    && let Some(sum) = worker.phases.get_mut(phase as usize)
                {
                    sum.0 += took;
                    sum.1 += f64::from(options.batch);
                }
            }
            TRACE if worker.singles.len() < worker.singles.capacity() => {
                let start = Instant::now();
                subject.work(thread, 1);
                let end = Instant::now();
                worker.singles.push((end, end - start));
            }
            TRACE => subject.work(thread, 1),
            WATCH => {
                let (start, lost) = watched.unwrap_or_else(|| (Instant::now(), lost_cpu()));
                subject.work(thread, 1);
                let mut end = Instant::now();
                let mut lost_now = lost;
                if watched.is_some() && end - start >= SLOW {
                    lost_now = lost_cpu();
                    worker.slow.push((start, end, lost_now == lost));
                    end = Instant::now();
                }
                watched = Some((end, lost_now));
            }
            _ => return worker,
        }
    }
}

/// The longest piece that overlaps each of these moments, sorted; and how many more do, in which a thread lost its CPU.
fn longest(workers: &[Worker], moments: &[Flip], lost_cpu: &mut usize) -> Vec<Duration> {
    let slow = || workers.iter().flat_map(|worker| &worker.slow);
    let mut all: Vec<Duration> = Vec::with_capacity(moments.len());
    for &(from, to) in moments {
        let over = slow().filter(|&&(start, end, _)| start <= to && end >= from);
        *lost_cpu += over.clone().filter(|&&(_, _, had_cpu)| !had_cpu).count();
        all.push(
            over.filter(|&&(_, _, had_cpu)| had_cpu).map(|&(start, end, _)| end - start).max().unwrap_or_default(),
        );
    }
    all.sort();
    all
}

/// Keeps the samples from shortly before to shortly after the flip.
fn collect_trace(workers: &[Worker], start: Instant, report: &mut Report) {
    let window = (report.traced.as_secs_f64() * 1e6).max(20.0) * 3.0;
    for (thread, worker) in workers.iter().enumerate() {
        for &(end, took) in &worker.singles {
            let at_us = match end.checked_duration_since(start) {
                Some(after) => after.as_secs_f64() * 1e6,
                None => -(start - end).as_secs_f64() * 1e6,
            };
            if (-window..window * 1.5).contains(&at_us) {
                report.trace.push(Sample { at_us, ns: took.as_secs_f64() * 1e9, thread });
            }
        }
    }
    report.trace.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
}
