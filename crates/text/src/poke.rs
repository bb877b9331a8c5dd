//! Changing instructions that other CPUs execute: `text_poke`.
//!
//! Another CPU may fetch a site while it changes, in parts and as long ago as its last serializing instruction. So a torn
//! instruction is made impossible: trap byte, then tail, then first byte, with a core-serializing barrier after each.
//!
//! Invariant: one batch at a time, under [`POKE`], its vector sorted and its sites distinct.
//! Kernel counterpart: `smp_text_poke_batch_finish`, `arch/x86/kernel/alternative.c` (6.18).

#[cfg(target_arch = "x86_64")]
mod traps;
#[cfg(target_arch = "aarch64")]
mod words;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use skep_sync::barrier;

use crate::arch::{CodeAddr, SiteBytes, host};
use crate::error::TextError;
use crate::inject::{self, Mutant};
use crate::key::Registry;
use crate::owners::SiteRecord;
use crate::refs::{self, Refs};
use crate::trap;

/// What one poke did.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PokeReport {
    /// Sites that changed.
    pub nr_entries: usize,
    /// How long the five steps took.
    pub took: Duration,
    /// Reference words that were still held when the batch was over.
    pub waited: usize,
}

/// A site of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) at: CodeAddr,
    /// Where the five bytes can be written.
    pub(crate) alias: *mut u8,
    pub(crate) new: SiteBytes,
    /// The record in the image's table, live as long as the lock is held.
    pub(crate) record: *const SiteRecord,
}

/// What the lock guards: the one queue.
pub(crate) struct Poke {
    queue: Vec<Entry>,
    #[cfg(target_arch = "x86_64")]
    lookup: Vec<trap::Lookup>,
    /// Sites whose trap byte stayed, because a barrier failed.
    stuck: Vec<Entry>,
    registry: Registry,
    /// Batches so far.
    #[cfg(target_arch = "x86_64")]
    batches: u64,
}

// SAFETY: the pointers of an entry are used only while the lock is held, and those of `stuck` are removed when their
// image goes.
unsafe impl Send for Poke {}

static POKE: Mutex<Poke> = Mutex::new(Poke {
    queue: Vec::new(),
    #[cfg(target_arch = "x86_64")]
    lookup: Vec::new(),
    stuck: Vec::new(),
    registry: Registry::new(),
    #[cfg(target_arch = "x86_64")]
    batches: 0,
});

/// Proof that no other poke is running, and that no site goes away.
pub(crate) struct PokeLock(MutexGuard<'static, Poke>);

/// Takes the lock.
pub(crate) fn lock() -> PokeLock {
    PokeLock(match POKE.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    })
}

/// Why live patching is off; 0 is "not asked yet", 1 is "on".
static STATE: AtomicU32 = AtomicU32::new(0);
static OWNER: AtomicU64 = AtomicU64::new(0);
const REASONS: [&str; 4] = [
    "the kernel denies the core-serializing membarrier",
    "the handler of SIGTRAP cannot be installed",
    "this architecture has no patcher yet",
    "the program turned it off",
];

/// Turns live patching off for this process, before its first use: no handler of SIGTRAP is installed, code can be
/// installed and runs, and what would change it is an error.
///
/// # Errors
/// [`TextError::Live`]: it is in use.
pub fn turn_off() -> Result<(), TextError> {
    let _held = lock();
    match STATE.load(Ordering::Acquire) {
        1 => Err(TextError::Live),
        0 => {
            STATE.store(5, Ordering::Release);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether code can be changed while it runs; the error says what is missing. Asking prepares it.
///
/// # Errors
/// [`TextError::Off`] with the reason.
pub fn live() -> Result<(), TextError> {
    match STATE.load(Ordering::Acquire) {
        0 => prepare(&lock()),
        1 => Ok(()),
        state => Err(TextError::Off(REASONS[state as usize - 2])),
    }
}

/// As [`live`], by a caller who has the lock.
pub(crate) fn prepare(_held: &PokeLock) -> Result<(), TextError> {
    if STATE.load(Ordering::Acquire) == 0 {
        refs::init();
        OWNER.store(std::process::id().into(), Ordering::Relaxed);
        let state = if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            4
        } else if barrier::register_sync_core().is_err() {
            2
        } else if trap::install().is_err() {
            3
        } else {
            1
        };
        STATE.store(state, Ordering::Release);
    }
    match STATE.load(Ordering::Acquire) {
        1 => Ok(()),
        state => Err(TextError::Off(REASONS[state as usize - 2])),
    }
}

/// Chooses which words count the handlers of a batch, from the next poke on.
pub fn set_refs(strategy: Refs) {
    let _held = lock();
    refs::choose(strategy);
}

/// Makes all CPUs forget what they have fetched; repeats a barrier that fails for a moment.
fn sync_core(step: u8, skip: Mutant) -> Result<(), TextError> {
    if inject::mutant(skip) {
        return Ok(());
    }
    let mut attempt = 0;
    loop {
        let done =
            if inject::fails(step) { Err(io::Error::from_raw_os_error(libc::ENOMEM)) } else { barrier::sync_core() };
        match done {
            Ok(()) => {
                inject::after_sync();
                return Ok(());
            }
            Err(source) if attempt == 4 => return Err(TextError::Barrier { step, source }),
            Err(_) => std::thread::sleep(Duration::from_micros(50 << attempt)),
        }
        attempt += 1;
    }
}

impl PokeLock {
    /// Adds a site to the queue, unless it has that form already. A later entry for the same site wins.
    ///
    /// # Safety
    /// `alias` leads to the bytes of the site, which is in an image that stays while the lock is held, and `record` is
    /// the site's. Threads may run the new form: a jump's target is code that may run there.
    pub(crate) unsafe fn queue(&mut self, entry: Entry) {
        self.0.queue.push(entry);
    }

    /// Forgets the sites of an image that goes away, which lies at these addresses.
    pub(crate) fn forget(&mut self, image: u64, addresses: &std::ops::Range<u64>) {
        self.0.stuck.retain(|entry| !addresses.contains(&entry.at.0));
        self.0.registry.detach(image);
    }

    /// Takes everything out of the queue.
    pub(crate) fn clear(&mut self) {
        self.0.queue.clear();
    }

    pub(crate) fn registry(&mut self) -> &mut Registry {
        &mut self.0.registry
    }

    /// The registry, and the queue for what it finds: as for [`queue`](PokeLock::queue), the sites stay and the forms
    /// are what threads may run.
    pub(crate) fn registry_and_queue(&mut self) -> (&mut Registry, &mut Vec<Entry>) {
        let poke = &mut *self.0;
        (&mut poke.registry, &mut poke.queue)
    }

    /// Changes all sites in the queue, and empties it.
    pub(crate) fn finish(&mut self) -> Result<PokeReport, TextError> {
        let result = self.try_finish();
        self.0.queue.clear();
        result
    }

    fn try_finish(&mut self) -> Result<PokeReport, TextError> {
        prepare(self)?;
        if OWNER.load(Ordering::Relaxed) != u64::from(std::process::id()) {
            return Err(TextError::Forked);
        }
        let poke = &mut *self.0;
        poke.arrange();
        if poke.queue.is_empty() {
            return Ok(PokeReport::default());
        }
        for entry in &poke.queue {
            if host::encode(entry.at, entry.new).is_none() {
                let to = CodeAddr(entry.new.to_word());
                return Err(TextError::TooFar { at: entry.at, to });
            }
        }
        trap::check()?;
        poke.text_poke()
    }
}

impl Poke {
    /// Brings the queue into order: the sites that are stuck as well, one entry per site, none that changes nothing,
    /// sorted by address.
    fn arrange(&mut self) {
        // Stable, so that of two entries for one site the later one is the later one still.
        self.queue.sort_by_key(|entry| entry.at);
        self.queue.dedup_by(|later, kept| {
            let same = later.at == kept.at;
            if same {
                *kept = *later;
            }
            same
        });
        let stuck = &self.stuck;
        self.queue.retain(|entry| {
            let is_stuck = stuck.iter().any(|stuck| stuck.at == entry.at);
            // SAFETY: the record lives as long as the lock is held.
            is_stuck || unsafe { &*entry.record }.current.load(Ordering::Relaxed) != entry.new.to_word()
        });
        for mut entry in std::mem::take(&mut self.stuck) {
            if let Err(place) = self.queue.binary_search_by_key(&entry.at, |queued| queued.at) {
                // SAFETY: an image that goes away takes its sites out of `stuck`, so this one is live.
                let current = unsafe { &*entry.record }.current.load(Ordering::Relaxed);
                entry.new = SiteBytes::from_word(current);
                self.queue.insert(place, entry);
            }
        }
        if inject::mutant(Mutant::Unsorted) {
            self.queue.reverse();
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Poke {
    fn text_poke(&mut self) -> Result<PokeReport, TextError> {
        Err(TextError::Internal("a poke where live patching is off"))
    }
}

impl Entry {
    /// Whether the site has this form already, and not by a trap byte that stayed.
    pub(crate) fn is_in_place(&self) -> bool {
        // SAFETY: the record lives as long as the lock is held, which whoever made this entry has.
        unsafe { &*self.record }.current.load(Ordering::Relaxed) == self.new.to_word()
    }

    #[cfg(target_arch = "x86_64")]
    fn bytes(&self) -> Result<[u8; host::SITE_LEN], TextError> {
        host::encode(self.at, self.new).ok_or(TextError::Internal("a form in a batch cannot be encoded"))
    }
}
