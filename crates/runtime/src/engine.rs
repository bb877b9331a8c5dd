//! What the programs of one engine share: vCPUs, code memory, the statistics switch, the trace sink, added helpers.
//!
//! Invariant: the runtime's block is the first allocation of the engine's vCPU memory, so that its offset is a constant.
//! Kernel counterpart: `bpf_stats_enabled_key`, kernel/bpf/core.c; `bpf_enable_stats`, kernel/bpf/syscall.c, 6.18.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use skep_sync::{CpuSet, SyncError};
use skep_text::{CodeArena, Key, KeyHold, TextError};
use thiserror::Error;

use crate::frame::{BLOCK_OFF, CpuBlock, TAIL_CALLS_OFF};
use crate::helper::{self, AddedHelper, HelperFn};
use crate::running::Versions;
use crate::syscall::Syscalls;

/// Why an engine's state cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Per-CPU memory is not to be had.
    #[error("no memory for the runtime's words of a vCPU")]
    Memory(#[source] SyncError),
    /// The set was used before: a bug of ours.
    #[error("per-CPU memory begins at offset {0}, not at {BLOCK_OFF}")]
    Internal(u64),
}

/// One line that a program printed.
#[derive(Clone, Copy, Debug)]
pub struct TraceLine<'a> {
    /// The vCPU.
    pub cpu: u32,
    /// The program.
    pub program: &'a str,
    /// What it printed.
    pub text: &'a str,
}

/// Where printed lines go.
pub type TraceSink = Arc<dyn Fn(&TraceLine<'_>) + Send + Sync>;

/// Numbers that compiled code needs to know of the runtime.
#[derive(Clone, Debug)]
pub struct LayoutBase {
    /// Offset of the tail-call counter from the vCPU's base.
    pub tail_calls: i32,
    /// Offset of the vCPU's number from its base.
    pub cpu_id: i32,
    /// Addresses of the helpers by id.
    pub helpers: BTreeMap<u32, u64>,
    /// Address of the function behind `LD_ABS` and `LD_IND`.
    pub ld_abs: u64,
}

/// State shared by the programs of an engine.
pub struct EngineState {
    pub(crate) cpus: CpuSet,
    arena: Option<CodeArena>,
    stats: Key,
    trace: RwLock<Option<TraceSink>>,
    /// Helpers of the embedder, by id.
    helpers: BTreeMap<u32, AddedHelper>,
    next_program: AtomicU32,
    pub(crate) versions: Versions,
    /// Who loads programs and keeps their descriptors: the engine, which keeps this state.
    syscalls: OnceLock<Weak<dyn Syscalls>>,
}

impl fmt::Debug for EngineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineState").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

impl EngineState {
    /// State for programs on `cpus`, a set that nothing was allocated in yet. Without an arena, programs are interpreted.
    /// `helpers` are the embedder's own, which go before the built-in ones.
    ///
    /// # Errors
    /// The first allocation fails or is not where compiled code expects it.
    pub fn new(
        cpus: &CpuSet,
        arena: Option<CodeArena>,
        helpers: BTreeMap<u32, AddedHelper>,
    ) -> Result<Arc<Self>, EngineError> {
        let block = cpus.percpu_alloc(size_of::<CpuBlock>(), align_of::<CpuBlock>()).map_err(EngineError::Memory)?;
        if block.0 != BLOCK_OFF {
            return Err(EngineError::Internal(block.0));
        }
        Ok(Arc::new(Self {
            cpus: cpus.clone(),
            arena,
            stats: Key::new(false),
            trace: RwLock::new(None),
            helpers,
            next_program: AtomicU32::new(1),
            versions: Versions::default(),
            syscalls: OnceLock::new(),
        }))
    }

    /// The vCPUs.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.cpus
    }

    /// Code memory, if programs are compiled.
    #[must_use]
    pub fn arena(&self) -> Option<&CodeArena> {
        self.arena.as_ref()
    }

    /// The switch of the statistics; on while a [`StatsGuard`] lives.
    #[must_use]
    pub fn stats_key(&self) -> &Key {
        &self.stats
    }

    /// Counts runs and their time in every program of the engine until the last guard drops.
    ///
    /// # Errors
    /// Code could not be patched; then nothing has changed.
    pub fn enable_stats(&self) -> Result<StatsGuard, TextError> {
        self.stats.hold().map(StatsGuard)
    }

    /// Sends what programs print to `sink` from now on; `None` drops it.
    pub fn set_trace(&self, sink: Option<TraceSink>) {
        *self.trace.write().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    pub(crate) fn trace(&self, line: &TraceLine<'_>) {
        let sink = self.trace.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink {
            sink(line);
        }
    }

    /// The function behind a helper id.
    #[must_use]
    pub fn helper(&self, id: u32) -> Option<HelperFn> {
        self.helpers.get(&id).map(|added| added.function).or_else(|| helper::helper(id))
    }

    /// The embedder's own helpers.
    pub fn added_helpers(&self) -> impl Iterator<Item = &AddedHelper> {
        self.helpers.values()
    }

    /// What compiled code needs to know.
    #[must_use]
    pub fn layout_base(&self) -> LayoutBase {
        let address = |function: HelperFn| function as *const () as u64;
        let mut helpers: BTreeMap<u32, u64> = helper::table().iter().map(|&(id, f)| (id, address(f))).collect();
        helpers.extend(self.helpers.iter().map(|(&id, added)| (id, address(added.function))));
        LayoutBase {
            tail_calls: i32::try_from(TAIL_CALLS_OFF).unwrap_or(i32::MAX),
            cpu_id: 0,
            helpers,
            ld_abs: address(helper::load_absolute()),
        }
    }

    /// Says who answers bpf(2) of programs; the first to say so stays.
    pub fn set_syscalls(&self, calls: Weak<dyn Syscalls>) {
        let _ = self.syscalls.set(calls);
    }

    /// Who answers bpf(2) of programs, while it is there.
    pub(crate) fn syscalls(&self) -> Option<Arc<dyn Syscalls>> {
        self.syscalls.get()?.upgrade()
    }

    /// A number that no other program of the engine has.
    pub(crate) fn new_program_id(&self) -> u32 {
        self.next_program.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for EngineState {
    fn drop(&mut self) {
        for cpu in self.cpus.cpus() {
            // SAFETY: the block lies at this offset of every region of the set (engine creation checks that).
            let block = unsafe { self.cpus.base(cpu).byte_add(BLOCK_OFF as usize) }.cast::<CpuBlock>();
            // SAFETY: aligned and initialised; programs keep the engine, so no run is left that uses it.
            let first = unsafe { block.as_ref() }.garbage.replace(0);
            // SAFETY: nothing owns what a vCPU keeps to be freed, and no run is left.
            unsafe { crate::object::free_chain(first) };
        }
    }
}

/// Keeps the statistics on.
#[must_use = "statistics go off when the guard drops"]
#[derive(Debug)]
pub struct StatsGuard(#[expect(dead_code, reason = "held for its drop")] KeyHold);
