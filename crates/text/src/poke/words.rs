//! One store, for an architecture that says which instructions may be replaced by another while CPUs execute them.
//!
//! There is no trap, no batch for a handler and no reference: each CPU runs the old form or the new one, and after its next
//! context synchronization, which the barrier brings about, the new. Invariant: a site changes by one aligned store.
//! Kernel counterpart: `aarch64_insn_patch_text_nosync`, `arch/arm64/kernel/patching.c` (6.18).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::{Entry, Poke, PokeReport, sync_core};
use crate::arch::{SiteBytes, arm64};
use crate::error::TextError;
use crate::inject::{self, Mutant, Point};

impl Poke {
    /// Stores the new forms, and waits until all CPUs fetch them. After an error the old ones are back.
    pub(super) fn text_poke(&mut self) -> Result<PokeReport, TextError> {
        let start = Instant::now();
        for entry in &self.queue {
            store(entry, entry.new)?;
            inject::at(Point::BetweenSites);
        }
        if let Err(error) = sync_core(4, Mutant::NoThirdSync) {
            for entry in &self.queue {
                // SAFETY: the record lives as long as the lock is held.
                let old = unsafe { &*entry.record }.current.load(Ordering::Relaxed);
                store(entry, SiteBytes::from_word(old))?;
            }
            return Err(error);
        }
        for entry in &self.queue {
            // SAFETY: as above.
            unsafe { &*entry.record }.current.store(entry.new.to_word(), Ordering::Release);
        }
        Ok(PokeReport { nr_entries: self.queue.len(), took: start.elapsed(), waited: 0 })
    }
}

/// Stores one form and makes it visible to fetches.
fn store(entry: &Entry, form: SiteBytes) -> Result<(), TextError> {
    let word = arm64::encode_word(entry.at, form).ok_or(TextError::Internal("a form in a batch cannot be encoded"))?;
    // SAFETY: `queue` promised that the alias leads to the site, which is an aligned word.
    let site = unsafe { &*entry.alias.cast::<AtomicU32>() };
    site.store(word.to_le(), Ordering::Release);
    let code = std::ptr::with_exposed_provenance(usize::try_from(entry.at.0).unwrap_or(0));
    // SAFETY: the site, in the executable view.
    unsafe { arm64::clean_and_invalidate(code, arm64::SITE_LEN) };
    Ok(())
}
