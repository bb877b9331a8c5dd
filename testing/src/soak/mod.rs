//! Proofs under load of what tail calls promise: `cargo xtask soak tailcall` and `cargo xtask soak generations`.
//!
//! Threads run chains of programs that write down, in the packet, which programs they were, while others change prog arrays,
//! load, unload and replace programs. Invariant: each run's notes are compared with what was possible while it ran; an
//! [`Outcome`] without problems says that all were, and that memory in use did not grow.

mod generations;
mod history;
mod memory;
mod program;
mod tailcall;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use skep_runtime::inject::Mistake;

pub use generations::generations;
pub use memory::{Memory, Resident, again_in_one_heap};
pub use tailcall::tailcall;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Changes of slots, loads and unloads; or swaps.
    pub changes: u64,
    /// Threads that run programs.
    pub runners: usize,
    /// Where the random numbers begin.
    pub seed: u64,
    /// A mistake to make, which has to be noticed.
    pub mistake: Option<Mistake>,
}

impl Plan {
    /// Makes its mistake.
    ///
    /// # Errors
    /// The engine was built without mistakes.
    fn make_mistake(&self) -> Result<(), &'static str> {
        #[cfg(feature = "inject")]
        if let Some(mistake) = self.mistake {
            skep_runtime::inject::make(mistake);
        }
        if self.mistake.is_some() && cfg!(not(feature = "inject")) {
            Err("built without the feature inject")
        } else {
            Ok(())
        }
    }
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Changes of slots.
    pub updates: u64,
    /// Slots that were emptied.
    pub deletions: u64,
    /// Programs that were loaded.
    pub loads: u64,
    /// Programs that were let go, some of them still in slots.
    pub unloads: u64,
    /// Objects that were exchanged as a whole.
    pub swaps: u64,
    /// Runs that were checked, and the tail calls that they made.
    pub runs: u64,
    /// See `runs`.
    pub hops: u64,
    /// Patch sites whose bytes were compared with the model.
    pub sites: u64,
    /// Memory in use after each part of the soak.
    pub memory: Vec<Memory>,
    /// What was wrong, at most a few examples.
    pub problems: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { updates, deletions, loads, unloads, swaps, runs, hops, sites, .. } = self;
        writeln!(f, "{updates} updates, {deletions} deletions, {loads} loads, {unloads} unloads, {swaps} swaps")?;
        writeln!(f, "{runs} runs with {hops} tail calls, {sites} patch sites compared")?;
        for memory in &self.memory {
            writeln!(f, "{memory}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        f.write_str(if self.problems.is_empty() { "nothing wrong" } else { "failed" })
    }
}

/// What all threads of a soak share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    updates: AtomicU64,
    deletions: AtomicU64,
    loads: AtomicU64,
    unloads: AtomicU64,
    runs: AtomicU64,
    hops: AtomicU64,
    sites: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Shared {
    /// Notes a problem and ends the soak: the first examples are worth the most.
    fn problem(&self, text: String) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < 5 {
            problems.push(text);
        }
        self.stop.store(true, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn outcome(&self, memory: Vec<Memory>) -> Outcome {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let mut outcome = Outcome {
            updates: read(&self.updates),
            deletions: read(&self.deletions),
            loads: read(&self.loads),
            unloads: read(&self.unloads),
            runs: read(&self.runs),
            hops: read(&self.hops),
            sites: read(&self.sites),
            problems: self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            memory,
            ..Outcome::default()
        };
        outcome.check_memory();
        outcome
    }
}

impl Outcome {
    /// Nothing but noise may have been added between the first look and the last.
    fn check_memory(&mut self) {
        let (Some(first), Some(last)) = (self.memory.first().copied(), self.memory.last()) else { return };
        self.problems.extend(first.grown(last));
    }
}
