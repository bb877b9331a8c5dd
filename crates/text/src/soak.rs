//! The proof under load: threads run code that checks itself while it changes.
//!
//! Three parts. *Hardware*: more threads than cores call images whose result tells the form of every site, while two
//! pokers flip them; signals nest, threads and images come and go, handlers are delayed until they are late. *Model*:
//! software CPUs fetch the same bytes as late and in such parts as the manuals allow, and forget them only at a
//! core-serializing barrier; real CPUs are kinder than that, so that a missing barrier shows here and not there.
//! *Books*: the code's own counts of broken promises, and per-CPU run counts that must add up.
//!
//! Invariant: with the protocol as it is, [`Outcome::problems`] is empty; with any [`Mutant`], it is not, or the process
//! dies.

mod code;
mod model;
mod readers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuSet};

use crate::inject::{self, Mutant, Point};
use crate::{ArenaConfig, CodeArena, Key, Refs, TextError, set_refs, trap_counts};
use code::Function;

/// What to do, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long in all.
    pub time: Duration,
    /// Threads that call the images.
    pub threads: usize,
    /// vCPUs.
    pub cpus: usize,
    /// Go on until there were so many flips, and traps and late traps, but no longer than ten times `time`.
    pub flips: u64,
    /// Mistakes to make.
    pub mutants: Vec<Mutant>,
    /// Share of the time for the model, in percent.
    pub model_percent: u32,
}

impl Default for Plan {
    fn default() -> Plan {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Plan {
            time: Duration::from_secs(2),
            threads: cores * 2 + 1,
            cpus: cores,
            flips: 0,
            mutants: Vec::new(),
            model_percent: 25,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Batches poked.
    pub flips: u64,
    /// Sites changed in them.
    pub sites: u64,
    /// Runs that checked themselves.
    pub runs: u64,
    /// Those of them that no flip overlapped, so that they had to see one certain form.
    pub quiet_runs: u64,
    /// Runs inside of signal handlers.
    pub nested: u64,
    /// Traps understood, and those of them that came after their batch.
    pub traps: u64,
    /// See [`TrapCounts`](crate::TrapCounts).
    pub late: u64,
    /// Images installed and dropped meanwhile.
    pub images: u64,
    /// Threads started and ended meanwhile.
    pub threads: u64,
    /// Instructions that the model's CPUs executed.
    pub modelled: u64,
    /// Everything that was wrong, each kind once, with an example.
    pub problems: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} flips of {} sites in all, {} traps, {} late", self.flips, self.sites, self.traps, self.late)?;
        writeln!(f, "{} runs, {} of them quiet, {} nested in signals", self.runs, self.quiet_runs, self.nested)?;
        writeln!(f, "{} images and {} threads came and went", self.images, self.threads)?;
        writeln!(f, "{} instructions by model CPUs", self.modelled)?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        write!(f, "{}", if self.problems.is_empty() { "nothing wrong" } else { "failed" })
    }
}

/// A set of functions that flip together, and where their flips stand.
pub(crate) struct Group {
    pub(crate) functions: Vec<Function>,
    pub(crate) key: Key,
    /// Flips begun and ended; an odd number means that the key is on, or becomes so.
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
}

/// What all threads share.
pub(crate) struct World {
    pub(crate) arena: CodeArena,
    pub(crate) groups: [Group; 2],
    pub(crate) stop: AtomicBool,
    pub(crate) runs: AtomicU64,
    pub(crate) quiet: AtomicU64,
    pub(crate) sites: AtomicU64,
    pub(crate) images: AtomicU64,
    pub(crate) threads: AtomicU64,
    /// Per-CPU count of runs.
    pub(crate) per_cpu: skep_sync::PerCpuOff,
    problems: Mutex<Vec<String>>,
    readers: Mutex<Vec<i32>>,
}

impl World {
    fn new(plan: &Plan) -> Result<World, TextError> {
        let config = Config { n_possible: plan.cpus, region: 1 << 20, ..Config::default() };
        let internal = |_| TextError::Internal("the soak's set of vCPUs");
        let cpus = CpuSet::new(config).map_err(internal)?;
        let per_cpu = cpus.percpu_alloc(8, 8).map_err(internal)?;
        let arena = CodeArena::new(&cpus, ArenaConfig { size: 16 << 20, near: None })?;
        // The first image of an arena starts on a page: its sites cross pages in every way there is.
        let crossing: Vec<usize> = (1..=4).map(|back| back * 4096 - back).collect();
        let few = Group::new(vec![Function::install(&arena, &crossing)?])?;
        // One site at every offset from a cache line, and functions with many.
        let mut many: Vec<Function> =
            (0..64).map(|at| Function::install(&arena, &[64 + at])).collect::<Result<_, _>>()?;
        for start in 2..6 {
            let sites: Vec<usize> = (0..16).map(|site| start + site * 21).collect();
            many.push(Function::install(&arena, &sites)?);
        }
        Ok(World {
            groups: [few, Group::new(many)?],
            arena,
            stop: AtomicBool::new(false),
            runs: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            sites: AtomicU64::new(0),
            images: AtomicU64::new(0),
            threads: AtomicU64::new(0),
            per_cpu,
            problems: Mutex::new(Vec::new()),
            readers: Mutex::new(Vec::new()),
        })
    }

    /// Notes a kind of problem, the first time with its example.
    pub(crate) fn problem(&self, kind: &str, example: impl std::fmt::Display) {
        let mut problems = match self.problems.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        if !problems.iter().any(|known| known.starts_with(kind)) {
            problems.push(format!("{kind}: {example}"));
        }
        // The mutants stop at once; so does a real failure, whose first example is worth the most.
        self.stop.store(true, Ordering::SeqCst);
    }

    /// The kernel's ids of the reader threads.
    pub(crate) fn readers(&self) -> std::sync::MutexGuard<'_, Vec<i32>> {
        match self.readers.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Flips a group, as its counters say.
    fn flip(&self, group: &Group) {
        let on = group.begun.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        match if on { group.key.enable() } else { group.key.disable() } {
            Ok(report) => {
                self.sites.fetch_add(report.nr_entries as u64, Ordering::Relaxed);
            }
            Err(error) => self.problem("a poke failed", error),
        }
        group.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn flips(&self) -> u64 {
        self.groups.iter().map(|group| group.ended.load(Ordering::SeqCst)).sum()
    }
}

impl Group {
    fn new(functions: Vec<Function>) -> Result<Group, TextError> {
        let key = Key::new(false);
        for function in &functions {
            function.attach(&key)?;
        }
        Ok(Group { functions, key, begun: AtomicU64::new(0), ended: AtomicU64::new(0) })
    }
}

/// Does what `plan` says.
///
/// # Errors
/// The soak cannot start: live patching is off, or there is no memory.
pub fn soak(plan: &Plan) -> Result<Outcome, TextError> {
    crate::live()?;
    let before = trap_counts();
    inject::reset_violations();
    let world = Arc::new(World::new(plan)?);
    for &mutant in &plan.mutants {
        inject::set_mutant(mutant, true);
    }
    let model_time = plan.time * plan.model_percent.min(100) / 100;
    let modelled = model::run(&world, model_time);
    let nested = readers::nested_runs();
    hardware(&world, plan, plan.time - model_time);
    for &mutant in &plan.mutants {
        inject::set_mutant(mutant, false);
    }
    let after = trap_counts();
    let mut outcome = Outcome {
        flips: world.flips(),
        sites: world.sites.load(Ordering::SeqCst),
        runs: world.runs.load(Ordering::SeqCst),
        quiet_runs: world.quiet.load(Ordering::SeqCst),
        nested: readers::nested_runs() - nested,
        traps: after.traps - before.traps,
        late: after.late - before.late,
        images: world.images.load(Ordering::SeqCst),
        threads: world.threads.load(Ordering::SeqCst),
        modelled,
        problems: Vec::new(),
    };
    world.check_books(&mut outcome, plan);
    Ok(outcome)
}

impl World {
    fn check_books(&self, outcome: &mut Outcome, plan: &Plan) {
        if inject::violations() > 0 {
            self.problem("the code broke its own promises", inject::violations());
        }
        let counted: u64 = {
            let cpus = self.arena.cpus();
            // SAFETY: the offset is the set's, and all readers have ended.
            cpus.cpus().map(|cpu| unsafe { cpus.at(cpu, self.per_cpu).cast::<u64>().read() }).sum()
        };
        if counted != outcome.runs {
            self.problem("per-CPU counts do not add up", format!("{counted} counted, {} runs", outcome.runs));
        }
        let stopped_early = !plan.mutants.is_empty();
        let wanted = [(outcome.traps, "no run met a trap"), (outcome.late, "no trap was late")];
        for (count, what) in wanted {
            if count == 0 && !stopped_early {
                self.problem("nothing was tested", what);
            }
        }
        outcome.problems = match self.problems.lock() {
            Ok(guard) => guard.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
    }
}

/// Readers, pokers, signals, comings and goings, on the machine's own CPUs.
fn hardware(world: &Arc<World>, plan: &Plan, time: Duration) {
    inject::set_late(400);
    if plan.mutants.contains(&Mutant::EarlyDrop) {
        inject::set_delay(Point::HandlerHolds, 20_000);
    }
    let start = Instant::now();
    let (first, before) = (world.flips(), trap_counts());
    let enough = || {
        let (flips, now) = (world.flips() - first, trap_counts());
        // On a busy machine the pokers may have the CPUs for themselves for a while.
        let tested = flips >= plan.flips && now.traps > before.traps && now.late > before.late;
        (start.elapsed() >= time && tested) || start.elapsed() >= time * 10 || world.stopped()
    };
    std::thread::scope(|scope| {
        for seed in 0..plan.threads {
            scope.spawn(move || readers::read(world, seed as u64 + 1));
        }
        scope.spawn(|| readers::signals(world));
        scope.spawn(|| readers::come_and_go(world));
        scope.spawn(|| {
            // The second poker: the large group, and the strategy of the references.
            let mut shared = false;
            while !world.stopped() {
                for _ in 0..50 {
                    world.flip(&world.groups[1]);
                    std::thread::sleep(Duration::from_micros(300));
                }
                shared = !shared;
                set_refs(if shared { Refs::Shared } else { Refs::PerCpu });
            }
        });
        while !enough() {
            for _ in 0..100 {
                world.flip(&world.groups[0]);
            }
        }
        world.stop.store(true, Ordering::SeqCst);
    });
    set_refs(Refs::PerCpu);
    inject::set_late(0);
    inject::set_delay(Point::HandlerHolds, 0);
}
