//! The set of vCPUs: what a user of the crate holds.
//!
//! Invariant: a [`CpuGuard`] exists only on the thread that entered, between its enter and its drop, and while any guard
//! of a vCPU exists the record of its thread is marked.
//! Kernel counterpart: `migrate_disable` and `rcu_read_lock` around a BPF run (`include/linux/bpf.h`, 6.18).

mod thread;

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::barrier::{self, Mode};
use crate::error::{EnterError, SyncError};
use crate::grace::{self, Deferred, Grace, Latch};
use crate::percpu::{Offsets, PerCpuOff, Regions};
use crate::prim::{full_fence, lock};
use crate::record::{ORPHAN, Record};
use crate::sched::{RecRef, Scheduler};
use thread::{Pool, forget_bias};

/// The number of a vCPU, from 0 to the set's count less one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run that has held up a grace period for more than a second.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Stall {
    /// The vCPU of the run.
    pub cpu: CpuId,
    /// The kernel's id of the thread.
    pub tid: u32,
    /// How long the grace period has waited for it.
    pub waited: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a run on virtual CPU {} (thread {}) has held up a grace period for {} ms",
            self.cpu,
            self.tid,
            self.waited.as_millis()
        )
    }
}

type StallHook = Arc<dyn Fn(&Stall) + Send + Sync>;

/// What a set is made of.
#[derive(Clone)]
pub struct Config {
    /// The number of vCPUs, 1 to 65,536. Default: the number of CPUs this process may use.
    pub n_possible: usize,
    /// Address space per vCPU in bytes, reserved and not committed; less where address space is limited.
    /// Default: 1 GiB.
    pub region: usize,
    /// How long a vCPU stays with its thread at least while others wait for one. Default: 200 µs.
    pub slice: Duration,
    /// Called for a run that has held up a grace period for a second, by the thread that waits.
    /// Default: one line on standard error.
    pub on_stall: StallHook,
    /// Does without `membarrier`, as if the kernel had denied it.
    pub symmetric: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            n_possible: std::thread::available_parallelism().map_or(1, usize::from),
            region: 1 << 30,
            slice: Duration::from_micros(200),
            on_stall: Arc::new(|stall| eprintln!("skep-sync: {stall}")),
            symmetric: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("n_possible", &self.n_possible)
            .field("region", &self.region)
            .field("slice", &self.slice)
            .field("symmetric", &self.symmetric)
            .finish_non_exhaustive()
    }
}

/// A check that a thread passes before it gets a vCPU.
pub type Admission = fn() -> Result<(), &'static str>;

/// Everything that the handles of a set share.
pub(crate) struct Core {
    id: u64,
    sched: Scheduler,
    regions: Regions,
    offsets: Mutex<Offsets>,
    pool: Pool,
    grace: Grace,
    admissions: Mutex<Vec<Admission>>,
    on_stall: StallHook,
}

/// Ends the reclaimer with the last handle.
struct Life(Arc<Core>);

impl Drop for Life {
    fn drop(&mut self) {
        if !self.0.pool.forked() {
            self.0.grace.stop();
        }
    }
}

/// A set of virtual CPUs. Clones are handles of the same set.
#[derive(Clone)]
pub struct CpuSet {
    /// Unique in the process for all time, so that a thread's memory of a dead set fits no other.
    id: u64,
    core: Arc<Core>,
    _life: Arc<Life>,
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuSet")
            .field("id", &self.id)
            .field("n_possible", &self.n_possible())
            .field("mode", &self.mode())
            .finish()
    }
}

impl CpuSet {
    /// Makes a set and its memory.
    ///
    /// # Errors
    /// The number of vCPUs is out of range, or the memory is not to be had. A `membarrier` that is denied is no error
    /// but [`Mode::Symmetric`].
    pub fn new(config: Config) -> Result<CpuSet, SyncError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let count = u32::try_from(config.n_possible)
            .ok()
            .filter(|count| (1..=65536).contains(count))
            .ok_or(SyncError::BadCpuCount(config.n_possible))?;
        let mode = match barrier::register() {
            Ok(()) if !config.symmetric => Mode::Asymmetric,
            _ => Mode::Symmetric,
        };
        let regions = Regions::new(count, config.region)?;
        let offsets = Mutex::new(Offsets::new(regions.stride()));
        let bases = (0..count).map(|cpu| regions.base(cpu).as_ptr());
        let core = Arc::new(Core {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            sched: Scheduler::new(bases, mode, config.slice),
            pool: Pool::new().map_err(|source| SyncError::Reserve { cpus: count as usize, source })?,
            regions,
            offsets,
            grace: Grace::new(),
            admissions: Mutex::new(Vec::new()),
            on_stall: config.on_stall,
        });
        Ok(CpuSet { id: core.id, _life: Arc::new(Life(core.clone())), core })
    }

    /// Whether `other` is a handle of this set.
    #[inline]
    #[must_use]
    pub fn is_same(&self, other: &CpuSet) -> bool {
        self.id == other.id
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn n_possible(&self) -> usize {
        self.core.regions.count() as usize
    }

    /// All vCPUs, in order.
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.core.regions.count()).map(CpuId)
    }

    /// How the fences between runs and waiters are paid for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.core.sched.mode
    }

    /// Starts a run: takes a vCPU for this thread, the one it had if possible, until the guard drops. Inside a run, the
    /// vCPU of that run. Waits while every vCPU is in a run of another thread.
    ///
    /// A signal handler may call this only if it knows that the thread it interrupted is in a run of this set: then it
    /// shares that run's vCPU. Otherwise it could interrupt the very code that hands vCPUs out.
    ///
    /// # Errors
    /// After a fork, or if an admission check refuses the thread.
    #[inline]
    pub fn enter(&self) -> Result<CpuGuard<'_>, EnterError> {
        if let Some(guard) = self.enter_again() {
            return Ok(guard);
        }
        if let Some(record) = thread::biased(self.id) {
            // SAFETY: the record belongs to the set of this id, whose memory this handle keeps.
            let record = unsafe { record.as_ref() };
            if let Some(base) = record.try_nest() {
                return Ok(CpuGuard { set: self, record, base, _thread: PhantomData });
            }
        }
        self.enter_slow(None)
    }

    /// Starts a run on the vCPU that this thread had, if it is in no run and the vCPU is its own still: what
    /// [`enter`](CpuSet::enter) tries first, for callers that do the rest elsewhere, so that the guard stays in registers.
    #[inline(always)]
    pub fn enter_again(&self) -> Option<CpuGuard<'_>> {
        let record = thread::biased(self.id)?;
        // SAFETY: the record belongs to the set of this id, whose memory this handle keeps.
        let record = unsafe { record.as_ref() };
        let base = record.try_enter()?;
        Some(CpuGuard { set: self, record, base, _thread: PhantomData })
    }

    /// As [`enter`](CpuSet::enter), on one particular vCPU; waits while another thread is in a run on it.
    ///
    /// # Errors
    /// As for `enter`; there is no such vCPU; or this thread is inside a run on another one.
    pub fn enter_on(&self, cpu: CpuId) -> Result<CpuGuard<'_>, EnterError> {
        self.enter_slow(Some(cpu.0))
    }

    #[cold]
    #[inline(never)]
    fn enter_slow(&self, only: Option<u32>) -> Result<CpuGuard<'_>, EnterError> {
        if self.core.pool.forked() {
            return Err(EnterError::Forked);
        }
        let record = thread::record(&self.core)?;
        let depth = record.mark.load(Ordering::Relaxed);
        if depth != 0 {
            if let (Some(only), Some(held)) = (only, record.cpu())
                && only != held
            {
                return Err(EnterError::OtherCpu { held });
            }
            record.mark.store(depth + 1, Ordering::Relaxed);
        } else {
            let admitted = self.admit().and_then(|()| self.core.sched.acquire(record, only));
            if let Err(error) = admitted {
                if record.attention.load(Ordering::Relaxed) & ORPHAN != 0 {
                    self.retire(record);
                }
                return Err(error);
            }
            if self.mode() == Mode::Asymmetric {
                thread::bias(self.id, record);
            } else {
                full_fence();
            }
        }
        let base = NonNull::new(record.held.load(Ordering::Relaxed));
        let base = base.expect("a record that is marked holds a vCPU");
        Ok(CpuGuard { set: self, record, base, _thread: PhantomData })
    }

    fn admit(&self) -> Result<(), EnterError> {
        let admissions = lock(&self.core.admissions);
        admissions.iter().try_for_each(|admission| admission().map_err(EnterError::Refused))
    }

    #[cold]
    #[inline(never)]
    fn leave_slow(&self, record: RecRef) {
        if self.core.sched.leave_slow(record) {
            self.retire(record);
        }
    }

    fn retire(&self, record: RecRef) {
        forget_bias(self.id);
        self.core.pool.put(record, self.mode());
    }

    /// The vCPU of the run that this thread is in, if it is in one.
    #[must_use]
    pub fn current(&self) -> Option<CpuId> {
        thread::existing(self.id).filter(|record| record.in_run())?.cpu().map(CpuId)
    }

    /// Adds a check that every thread passes before it gets a vCPU, and takes all vCPUs back, so that threads that had
    /// one pass it as well before their next run.
    pub fn admit_with(&self, admission: Admission) {
        let mut admissions = lock(&self.core.admissions);
        if !admissions.iter().any(|&known| std::ptr::fn_addr_eq(known, admission)) {
            admissions.push(admission);
            drop(admissions);
            self.core.sched.revoke_all();
        }
    }

    /// The first byte of the vCPU's region. Offset 0 holds the vCPU's number as a `u32`, and the first 64 bytes are
    /// the set's; the rest is for [`percpu_alloc`](CpuSet::percpu_alloc).
    ///
    /// # Panics
    /// There is no such vCPU.
    #[must_use]
    pub fn base(&self, cpu: CpuId) -> NonNull<u8> {
        self.core.regions.base(cpu.0)
    }

    /// The address of an allocation in one vCPU's region.
    ///
    /// # Panics
    /// There is no such vCPU.
    #[must_use]
    pub fn at(&self, cpu: CpuId, offset: PerCpuOff) -> NonNull<u8> {
        offset.after(self.base(cpu))
    }

    /// Allocates `size` bytes in every region, at one offset, zeroed. `align` is a power of two up to 4096.
    ///
    /// # Errors
    /// The layout is impossible, or the regions are full.
    pub fn percpu_alloc(&self, size: usize, align: usize) -> Result<PerCpuOff, SyncError> {
        lock(&self.core.offsets).alloc(size, align)
    }

    /// Bytes of each region that are allocated, those that wait for a grace period included.
    #[must_use]
    pub fn percpu_used(&self) -> usize {
        lock(&self.core.offsets).used(self.core.regions.stride())
    }

    /// Frees an allocation, after a grace period: runs in progress may use it to their end. What was never allocated, or
    /// is freed already, is left alone.
    pub fn percpu_free(&self, offset: PerCpuOff) {
        let Some(len) = lock(&self.core.offsets).retire(offset) else {
            return;
        };
        let core = Arc::downgrade(&self.core);
        let start = usize::try_from(offset.0).unwrap_or(usize::MAX);
        self.defer(Box::new(move || {
            let Some(core) = core.upgrade() else { return };
            // SAFETY: the range was allocated, and no run that could know it is left.
            unsafe { core.regions.clear(start, len) };
            lock(&core.offsets).release(start, len);
        }));
    }

    /// Waits until every run that was in progress has ended.
    ///
    /// # Errors
    /// [`SyncError::InsideRun`] inside a run of this set, and after a fork; [`SyncError::Barrier`] if the kernel
    /// refuses a barrier again and again, in which case no grace period has passed.
    pub fn synchronize(&self) -> Result<(), SyncError> {
        self.may_wait()?;
        self.core.synchronize()
    }

    fn may_wait(&self) -> Result<(), SyncError> {
        if self.core.pool.forked() {
            return Err(SyncError::Forked);
        }
        match self.current() {
            Some(_) => Err(SyncError::InsideRun),
            None => Ok(()),
        }
    }

    /// Does `work` after a grace period, on the reclaimer thread. Never waits. If the reclaimer cannot be started the
    /// work stays queued, and the next call tries again.
    pub fn defer(&self, work: Deferred) {
        if self.core.pool.forked() || self.core.grace.defer(work) {
            return;
        }
        let core = self.core.clone();
        // An error leaves the set without a reclaimer: late is safe, early is not.
        let _ = std::thread::Builder::new().name("skep-reclaimer".to_owned()).spawn(move || {
            if core.grace.adopt(std::thread::current().id()) {
                grace::reclaim(&core.grace, &|| core.synchronize());
            }
        });
    }

    /// Waits until everything that was deferred before has been done.
    ///
    /// # Errors
    /// As for [`synchronize`](CpuSet::synchronize); and on the reclaimer thread itself.
    pub fn barrier(&self) -> Result<(), SyncError> {
        self.may_wait()?;
        if self.core.grace.on_reclaimer() {
            return Err(SyncError::OnReclaimer);
        }
        let latch = Latch::new();
        let opener = latch.clone();
        self.defer(Box::new(move || opener.open()));
        latch.wait();
        Ok(())
    }
}

impl Core {
    fn synchronize(&self) -> Result<(), SyncError> {
        if self.pool.forked() {
            return Err(SyncError::Forked);
        }
        self.grace.wait(&self.sched, &|held| {
            (self.on_stall)(&Stall { cpu: CpuId(held.cpu), tid: held.tid, waited: held.waited });
        })
    }
}

impl PerCpuOff {
    /// The address of this allocation in the region that begins at `base`.
    #[inline]
    fn after(self, base: NonNull<u8>) -> NonNull<u8> {
        let address = base.as_ptr().map_addr(|base| base.wrapping_add(usize::try_from(self.0).unwrap_or(0)));
        NonNull::new(address).unwrap_or(base)
    }
}

/// A run: this thread has a vCPU to itself, and grace periods wait, until the guard drops.
///
/// A guard stays on its thread. One that is forgotten holds its vCPU, and every grace period, for ever.
pub struct CpuGuard<'a> {
    set: &'a CpuSet,
    record: &'a Record,
    base: NonNull<u8>,
    _thread: PhantomData<*mut ()>,
}

impl fmt::Debug for CpuGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuGuard").field("cpu", &self.cpu()).finish_non_exhaustive()
    }
}

impl<'a> CpuGuard<'a> {
    /// The number of the vCPU.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        // SAFETY: the header of the region holds the number; it is written before the set exists and never again.
        CpuId(unsafe { self.base.cast::<AtomicU32>().as_ref() }.load(Ordering::Relaxed))
    }

    /// The first byte of the vCPU's region, as [`CpuSet::base`].
    #[inline]
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of an allocation in this vCPU's region.
    #[inline]
    #[must_use]
    pub fn at(&self, offset: PerCpuOff) -> NonNull<u8> {
        offset.after(self.base)
    }

    /// Says that this thread holds on to nothing that it found in the run so far: a grace period that waits for the run
    /// need not wait any longer. For a thread that keeps its vCPU over many pieces of work; costs a load. Inside a
    /// nested run it does nothing.
    #[inline]
    pub fn quiescent(&mut self) {
        if self.record.attention.load(Ordering::Relaxed) != 0 {
            self.quiescent_slow();
        }
    }

    #[cold]
    #[inline(never)]
    fn quiescent_slow(&mut self) {
        if self.record.mark.load(Ordering::Relaxed) == 1 {
            self.record.acknowledge();
        }
    }

    /// The set that this run is in.
    #[inline]
    #[must_use]
    pub fn set(&self) -> &'a CpuSet {
        self.set
    }
}

impl Drop for CpuGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.record.try_leave() && !self.record.try_unnest() {
            // SAFETY: a record lives as long as its set, which this guard borrows; the scheduler keeps no record longer.
            self.set.leave_slow(unsafe { thread::extend(self.record) });
        }
    }
}
