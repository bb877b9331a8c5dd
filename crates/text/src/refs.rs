//! The references that keep a batch alive while a handler looks at it.
//!
//! Zero means that there is no batch. The poker raises each CPU's count to one before the first trap byte can be met; a
//! handler adds one unless it finds zero; at the end the poker takes its one away and waits for zero. With one count for
//! all CPUs ([`Refs::Shared`]) every trap of every CPU writes the same line; with one each ([`Refs::PerCpu`]) none does.
//! Both are here so that the difference can be measured.
//!
//! A handler uses the count of the CPU it runs on, not of its vCPU: it cannot ask which vCPU that is without touching
//! thread-local storage, which in a library loaded at run time may allocate. It remembers the word that it raised, so a
//! migration in between does no harm.
//!
//! Invariant: a count is non-zero only while a batch is published or a handler holds on to it.
//! Kernel counterpart: `text_poke_array_refs`, `arch/x86/kernel/alternative.c` (6.18).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Which words count the handlers of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refs {
    /// One word for all CPUs, as the kernel had it before 6.16.
    Shared,
    /// One word per CPU.
    #[default]
    PerCpu,
}

/// What one CPU's handlers write: a pair of cache lines of its own.
#[repr(align(128))]
pub(crate) struct CpuSlot {
    pub(crate) refs: AtomicU32,
    /// Handlers that look at the tables of installed sites.
    pub(crate) active: AtomicU32,
    pub(crate) traps: AtomicU64,
    pub(crate) late: AtomicU64,
}

impl CpuSlot {
    const fn new() -> CpuSlot {
        CpuSlot {
            refs: AtomicU32::new(0),
            active: AtomicU32::new(0),
            traps: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }
}

/// More CPUs than this share slots, which is slower and no less right.
const MAX_SLOTS: usize = 1024;

static SLOTS: [CpuSlot; MAX_SLOTS] = [const { CpuSlot::new() }; MAX_SLOTS];
static SHARED: CpuSlot = CpuSlot::new();
/// How many slots are in use; the number of CPUs that the machine may have.
static USED: AtomicUsize = AtomicUsize::new(1);
static STRATEGY: AtomicU8 = AtomicU8::new(0);

/// How many traps the handler has understood since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrapCounts {
    /// Traps at sites.
    pub traps: u64,
    /// Those of them that found no batch: the thread had met the trap byte and came to the handler after the poke.
    pub late: u64,
}

/// Counts of all CPUs.
#[must_use]
pub fn trap_counts() -> TrapCounts {
    slots().iter().fold(TrapCounts::default(), |sum, slot| TrapCounts {
        traps: sum.traps + slot.traps.load(Ordering::Relaxed),
        late: sum.late + slot.late.load(Ordering::Relaxed),
    })
}

/// Learns the number of CPUs; before the handler is installed.
pub(crate) fn init() {
    // SAFETY: asks for a number.
    let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    let used = usize::try_from(configured).unwrap_or(1).clamp(1, MAX_SLOTS);
    USED.store(used, Ordering::SeqCst);
}

pub(crate) fn slots() -> &'static [CpuSlot] {
    &SLOTS[..USED.load(Ordering::Relaxed).min(MAX_SLOTS)]
}

/// The slot of the CPU that this thread runs on now. For the handler.
pub(crate) fn current_slot() -> &'static CpuSlot {
    // SAFETY: reads the number from the thread's rseq area or the vDSO; neither allocates, locks nor sets errno.
    let cpu = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    &SLOTS[cpu % USED.load(Ordering::Relaxed).clamp(1, MAX_SLOTS)]
}

/// The word that a handler on `slot` counts in.
pub(crate) fn word(slot: &'static CpuSlot) -> &'static AtomicU32 {
    if STRATEGY.load(Ordering::Relaxed) == 0 { &slot.refs } else { &SHARED.refs }
}

/// All words of the strategy in force.
fn words() -> impl Iterator<Item = &'static AtomicU32> {
    let shared = STRATEGY.load(Ordering::Relaxed) != 0;
    let per_cpu = if shared { &[] } else { slots() };
    shared.then_some(&SHARED.refs).into_iter().chain(per_cpu.iter().map(|slot| &slot.refs))
}

/// Chooses the words; no batch is published, as the caller's lock shows. A handler that still reads the old choice
/// finds zero there and goes on as a late one.
pub(crate) fn choose(refs: Refs) {
    STRATEGY.store(u8::from(refs == Refs::Shared), Ordering::SeqCst);
}

/// Step 1: lets handlers in.
pub(crate) fn raise() {
    for word in words() {
        // Release: who finds the count raised finds the batch.
        word.store(1, Ordering::Release);
    }
}

/// Step 5: lets no handler in any more, and waits for those inside. How many words had to be waited for.
pub(crate) fn drop_and_wait(wait: bool) -> usize {
    let mut waited = 0;
    for word in words() {
        if word.fetch_sub(1, Ordering::AcqRel) == 1 || !wait {
            continue;
        }
        waited += 1;
        wait_for_zero(word);
    }
    waited
}

/// Waits until no handler looks at the tables of installed sites that were unpublished before the call.
pub(crate) fn wait_for_table_readers() {
    std::sync::atomic::fence(Ordering::SeqCst);
    for slot in slots() {
        wait_for_zero(&slot.active);
    }
}

fn wait_for_zero(word: &AtomicU32) {
    let mut spins = 0_u32;
    while word.load(Ordering::Acquire) != 0 {
        spins += 1;
        if spins < 200 {
            std::hint::spin_loop();
        } else {
            // The handler's thread has been preempted: let it run.
            std::thread::yield_now();
        }
    }
}

/// Adds one unless the word is zero.
pub(crate) fn get_unless_zero(word: &AtomicU32) -> bool {
    let mut seen = word.load(Ordering::Acquire);
    while seen != 0 {
        match word.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

/// Takes away what [`get_unless_zero`] added.
pub(crate) fn put(word: &AtomicU32) {
    word.fetch_sub(1, Ordering::Release);
}
