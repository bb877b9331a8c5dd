//! Runs that hold up a grace period, reported with their program.
//!
//! Owns the report. Invariant: a report is made by the thread that waits, while it waits; the run itself pays nothing for it.
//! Kernel counterpart: the RCU stall warnings, kernel/rcu/tree_stall.h, 6.18.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use skep_runtime::{EngineState, RunningProgram};

/// A run that has held up a grace period for more than a second: what was replaced or dropped stays until it ends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stall {
    /// The program: of nested runs the innermost, of a chain of tail calls the one that was run. None if the vCPU is held
    /// outside of a program, or if its thread cannot be asked.
    pub program: Option<RunningProgram>,
    /// The vCPU of the run.
    pub cpu: u32,
    /// The kernel's id of the thread.
    pub tid: u32,
    /// How long the grace period has waited for it.
    pub waited: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => program.fmt(f)?,
            None => f.write_str("a thread outside of programs")?,
        }
        let millis = self.waited.as_millis();
        write!(f, " on virtual CPU {} (thread {}) has held up a grace period for {millis} ms", self.cpu, self.tid)
    }
}

/// Who is told.
pub(crate) type StallHook = Arc<dyn Fn(&Stall) + Send + Sync>;

/// The engine of a set of vCPUs, which is made before it.
#[derive(Clone, Default)]
pub(crate) struct Home(Arc<OnceLock<Weak<EngineState>>>);

impl Home {
    pub(crate) fn set(&self, state: &Arc<EngineState>) {
        let _ = self.0.set(Arc::downgrade(state));
    }

    /// What the set of vCPUs calls.
    pub(crate) fn reporter(&self, hook: Option<StallHook>) -> Arc<dyn Fn(&skep_sync::Stall) + Send + Sync> {
        let home = self.clone();
        let hook = hook.unwrap_or_else(|| Arc::new(|stall| eprintln!("skep: {stall}")));
        Arc::new(move |stall| {
            let state = home.0.get().and_then(Weak::upgrade);
            let program = state.and_then(|state| state.running(stall.cpu, stall.tid));
            hook(&Stall { program, cpu: stall.cpu.0, tid: stall.tid, waited: stall.waited });
        })
    }
}
