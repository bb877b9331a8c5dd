//! Who holds which vCPU: the slow paths of entering and leaving, behind one lock.
//!
//! A vCPU is *free*, or *held* by one thread, and a held one may be *revoked*: its holder's `base` is null, so that the
//! holder starts no further run on it, and once the holder is out of its run the vCPU passes on. Waiting threads stand
//! in one queue, first come, first served; a thread that comes back for its own vCPU while others wait for it goes to
//! the end. A vCPU is revoked only after its holder's slice, so a handover costs a barrier per slice and not per run.
//!
//! A vCPU that is given to a thread is given *in a run*: the mark is set for the thread, which waits or is the caller.
//!
//! Invariant: `holder` of a vCPU changes only under the lock, and only when the former holder's `base` is null and its
//! mark was seen zero after a heavy barrier, or by the former holder itself outside of a run.
//! Kernel counterpart: none; the kernel pins a run by disabling preemption (`migrate_disable`, `kernel/sched/core.c`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::barrier::{Mode, heavy_in};
use crate::error::EnterError;
use crate::prim::{Clock, Mutex, MutexGuard, Ordering, full_fence, lock, wait, wake};
use crate::record::{GRACE, ORPHAN, REVOKED, Record, SYMMETRIC};

/// A record. It lives as long as the scheduler's owner, which outlives every use.
pub(crate) type RecRef = &'static Record;

/// How long a thread sleeps at most before it looks whether a holder has left without telling.
const RECHECK: Duration = Duration::from_millis(5);

struct Vcpu {
    base: *mut u8,
    holder: Option<RecRef>,
    /// Since when the holder has it.
    since: Clock,
    /// The holder's `base` is null because of this vCPU.
    revoked: bool,
    /// A heavy barrier has run since the revocation.
    fenced: bool,
}

struct State {
    vcpus: Vec<Vcpu>,
    free: Vec<u32>,
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    record: RecRef,
    /// Only this vCPU will do.
    only: Option<u32>,
}

/// The vCPUs of one set and the threads that hold or want them.
pub(crate) struct Scheduler {
    state: Mutex<State>,
    pub(crate) mode: Mode,
    slice: Duration,
}

// SAFETY: the base addresses in the state are numbers to the scheduler; it never goes through them.
unsafe impl Send for Scheduler {}
// SAFETY: as for `Send`; everything that changes is atomic or behind the lock.
unsafe impl Sync for Scheduler {}

impl Scheduler {
    /// A scheduler of the vCPUs with these bases, all free.
    pub(crate) fn new(bases: impl Iterator<Item = *mut u8>, mode: Mode, slice: Duration) -> Scheduler {
        let vcpus: Vec<Vcpu> =
            bases.map(|base| Vcpu { base, holder: None, since: Clock::now(), revoked: false, fenced: false }).collect();
        // Popped from the end: the first thread gets vCPU 0.
        let free = (0..u32::try_from(vcpus.len()).unwrap_or(u32::MAX)).rev().collect();
        Scheduler { state: Mutex::new(State { vcpus, free, waiters: VecDeque::new() }), mode, slice }
    }

    /// Gives `record`, whose thread calls this outside of a run, a vCPU (this one, or any), and starts a run on it. Waits.
    pub(crate) fn acquire(&self, record: RecRef, only: Option<u32>) -> Result<(), EnterError> {
        let mut state = lock(&self.state);
        if let Some(cpu) = only
            && state.vcpus.len() <= cpu as usize
        {
            return Err(EnterError::NoSuchCpu(cpu));
        }
        if let Some(cpu) = record.cpu() {
            let fits = only.is_none_or(|only| only == cpu);
            let wanted = state.vcpus[cpu as usize].revoked
                && state.waiters.iter().any(|waiter| waiter.only.is_none_or(|only| only == cpu));
            if fits && !wanted {
                state.assign(cpu, record);
                return Ok(());
            }
            state.release(cpu, record);
        }
        record.granted.store(0, Ordering::Relaxed);
        state.waiters.push_back(Waiter { record, only });
        loop {
            let patience = self.rebalance(&mut state);
            if record.granted.load(Ordering::Acquire) != 0 {
                return Ok(());
            }
            drop(state);
            wait(&record.granted, 0, patience);
            if record.granted.load(Ordering::Acquire) != 0 {
                return Ok(());
            }
            state = lock(&self.state);
        }
    }

    /// What a leaver does whose record asks for attention, after it has cleared its mark. Called by the record's thread.
    ///
    /// True: the record's thread is gone or had no lasting record, and nothing refers to the record any more.
    pub(crate) fn leave_slow(&self, record: RecRef) -> bool {
        if self.mode == Mode::Symmetric {
            full_fence();
        }
        let attention = record.attention.load(Ordering::Acquire);
        if attention & GRACE != 0 {
            record.acknowledge();
        }
        if attention & (REVOKED | ORPHAN) == 0 {
            return false;
        }
        let mut state = lock(&self.state);
        record.attention.fetch_and(!REVOKED, Ordering::Relaxed);
        if let Some(cpu) = record.cpu()
            && (attention & ORPHAN != 0 || state.vcpus[cpu as usize].revoked)
        {
            state.release(cpu, record);
        }
        attention & ORPHAN != 0
    }

    /// The record's thread ends. True: nothing refers to the record any more; false: a guard still does, and its drop
    /// will give everything back.
    pub(crate) fn thread_exit(&self, record: RecRef) -> bool {
        let mut state = lock(&self.state);
        if record.mark.load(Ordering::Relaxed) != 0 {
            record.attention.fetch_or(ORPHAN, Ordering::Relaxed);
            return false;
        }
        if let Some(cpu) = record.cpu() {
            state.release(cpu, record);
        }
        true
    }

    /// Takes every vCPU back from its thread, so that the next enter of each goes through the slow path.
    pub(crate) fn revoke_all(&self) {
        let mut state = lock(&self.state);
        for cpu in 0..state.vcpus.len() {
            if state.vcpus[cpu].holder.is_some() {
                state.revoke(cpu);
            }
        }
        self.reclaim(&mut state);
    }

    /// Appends the records of all threads that hold a vCPU, with `bits` set in their `attention`.
    ///
    /// A thread that is given a vCPU later takes the lock after this call and sees what its caller wrote before.
    pub(crate) fn holders(&self, bits: u32, into: &mut Vec<RecRef>) {
        let state = lock(&self.state);
        for vcpu in &state.vcpus {
            if let Some(holder) = vcpu.holder {
                holder.attention.fetch_or(bits, Ordering::SeqCst);
                into.push(holder);
            }
        }
    }

    /// Serves the queue as far as possible; says how long a waiter that was not served should sleep before it asks again.
    fn rebalance(&self, state: &mut MutexGuard<'_, State>) -> Duration {
        state.serve();
        let mut patience = RECHECK;
        let mut any = 0_usize;
        let mut must_fence = false;
        for at in 0..state.waiters.len() {
            match state.waiters[at].only {
                None => any += 1,
                Some(cpu) if !state.vcpus[cpu as usize].revoked => {
                    state.revoke(cpu as usize);
                    must_fence = true;
                }
                Some(_) => {}
            }
        }
        let pending = state.vcpus.iter().filter(|vcpu| vcpu.revoked).count();
        let mut oldest: Vec<usize> = (0..state.vcpus.len()).filter(|&cpu| !state.vcpus[cpu].revoked).collect();
        oldest.sort_by_key(|&cpu| state.vcpus[cpu].since);
        for &cpu in oldest.iter().take(any.saturating_sub(pending)) {
            let held = state.vcpus[cpu].since.elapsed();
            if held >= self.slice {
                state.revoke(cpu);
                must_fence = true;
            } else {
                patience = patience.min(self.slice.saturating_sub(held));
            }
        }
        if must_fence || pending > 0 {
            self.reclaim(state);
        }
        patience.max(Duration::from_micros(20))
    }

    /// Makes revocations visible to their holders and passes on the vCPUs whose holders are in no run.
    fn reclaim(&self, state: &mut MutexGuard<'_, State>) {
        if state.vcpus.iter().any(|vcpu| vcpu.revoked && !vcpu.fenced) {
            // Pairs with the light barriers of `try_enter` and `try_leave`. On an error the vCPUs stay with their
            // holders, who give them back when they leave or come again; the next waiter to look repeats the barrier.
            if heavy_in(self.mode).is_err() {
                return;
            }
            for vcpu in state.vcpus.iter_mut().filter(|vcpu| vcpu.revoked) {
                vcpu.fenced = true;
            }
        }
        for cpu in 0..state.vcpus.len() {
            let vcpu = &state.vcpus[cpu];
            if let (true, true, Some(holder)) = (vcpu.revoked, vcpu.fenced, vcpu.holder)
                && !holder.in_run()
            {
                state.release(u32::try_from(cpu).unwrap_or(u32::MAX), holder);
            }
        }
        state.serve();
    }
}

impl State {
    /// Gives vCPU `cpu` to `record`; its thread waits for it or is the caller.
    fn assign(&mut self, cpu: u32, record: RecRef) {
        let vcpu = &mut self.vcpus[cpu as usize];
        vcpu.holder = Some(record);
        vcpu.since = Clock::now();
        vcpu.revoked = false;
        vcpu.fenced = false;
        record.cpu_plus_one.store(cpu + 1, Ordering::Relaxed);
        record.held.store(vcpu.base, Ordering::Relaxed);
        record.attention.fetch_and(!REVOKED, Ordering::Relaxed);
        // The run starts here, under the lock, so that a vCPU that was waited for cannot be revoked before its use, and
        // whoever takes the lock later to look for runs finds this one.
        record.mark.store(1, Ordering::Relaxed);
        record.base.store(vcpu.base, Ordering::Release);
    }

    /// Makes a held vCPU free and serves the queue. The caller knows that `record` is in no run, or is its thread.
    fn release(&mut self, cpu: u32, record: RecRef) {
        record.base.store(std::ptr::null_mut(), Ordering::Relaxed);
        record.held.store(std::ptr::null_mut(), Ordering::Relaxed);
        record.cpu_plus_one.store(0, Ordering::Relaxed);
        let vcpu = &mut self.vcpus[cpu as usize];
        vcpu.holder = None;
        vcpu.revoked = false;
        self.free.push(cpu);
        self.serve();
    }

    /// Forbids the holder of vCPU `cpu` to start another run on it.
    fn revoke(&mut self, cpu: usize) {
        let vcpu = &mut self.vcpus[cpu];
        let Some(holder) = vcpu.holder else { return };
        vcpu.revoked = true;
        vcpu.fenced = false;
        holder.base.store(std::ptr::null_mut(), Ordering::Relaxed);
        holder.attention.fetch_or(REVOKED, Ordering::Relaxed);
    }

    /// Gives free vCPUs to the threads that have waited longest.
    fn serve(&mut self) {
        let mut at = 0;
        while !self.free.is_empty() && at < self.waiters.len() {
            let found = match self.waiters[at].only {
                None => Some(self.free.len() - 1),
                Some(cpu) => self.free.iter().position(|&free| free == cpu),
            };
            match found.zip(self.waiters.get(at).map(|waiter| waiter.record)) {
                Some((place, record)) => {
                    let cpu = self.free.remove(place);
                    self.waiters.remove(at);
                    self.assign(cpu, record);
                    record.granted.store(1, Ordering::Release);
                    wake(&record.granted);
                }
                None => at += 1,
            }
        }
    }
}

/// The bits that a new record of this mode starts with.
pub(crate) fn initial_attention(mode: Mode) -> u32 {
    match mode {
        Mode::Asymmetric => 0,
        Mode::Symmetric => SYMMETRIC,
    }
}
