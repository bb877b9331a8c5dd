//! The five steps, for an architecture whose instructions may be fetched in parts.
//!
//! Invariant: between two barriers, what any CPU can have fetched of a site is one of: the old form, the trap, the new form.
//! Kernel counterpart: `smp_text_poke_batch_finish`, `arch/x86/kernel/alternative.c` (6.18).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Poke, PokeReport, sync_core};
use crate::arch::x64;
use crate::error::TextError;
use crate::inject::{self, Mutant, Point};
use crate::refs;
use crate::trap::{self, Batch, Lookup};

impl Poke {
    /// The five steps.
    pub(super) fn text_poke(&mut self) -> Result<PokeReport, TextError> {
        let start = Instant::now();
        self.lookup.clear();
        self.lookup.extend(self.queue.iter().map(|entry| Lookup { at: entry.at, new: entry.new.to_word() }));
        self.batches += 1;
        let number = AtomicU64::new(self.batches);
        let mut batch = Batch { sites: self.lookup.as_ptr(), len: self.lookup.len(), number };
        // 1. The batch, then the references: who finds a reference raised finds the batch, and who meets a trap byte
        //    finds a reference raised.
        trap::publish(&raw mut batch);
        refs::raise();
        inject::at(Point::Published);
        let done = self.write_steps();
        // 5. No handler comes in any more; those inside are waited for.
        inject::at(Point::BeforeDrop);
        let early = inject::mutant(Mutant::EarlyDrop);
        let waited = if early { 0 } else { refs::drop_and_wait(true) };
        trap::publish(std::ptr::null_mut());
        batch.number.store(0, Ordering::SeqCst);
        match done {
            Ok(()) => Ok(PokeReport { nr_entries: self.queue.len(), took: start.elapsed(), waited }),
            Err(error) => {
                self.stuck = std::mem::take(&mut self.queue);
                Err(error)
            }
        }
    }

    /// Steps 2 to 4. After an error every site has its trap byte, and means what it meant before.
    fn write_steps(&self) -> Result<(), TextError> {
        // 2. The trap bytes: from here on each site is a trap or, for who has fetched it before, the old instruction.
        for entry in &self.queue {
            // SAFETY: `queue` promised that the alias leads to the site's bytes.
            unsafe { entry.alias.write_volatile(x64::TRAP) };
            inject::at(Point::BetweenSites);
        }
        inject::at(Point::TrapsWritten);
        sync_core(2, Mutant::NoFirstSync)?;
        if inject::mutant(Mutant::EarlyDrop) {
            refs::drop_and_wait(false);
        }
        // 3. The tails: nobody executes them, since nobody gets past the trap byte, and nobody has the old head.
        for entry in &self.queue {
            let bytes = entry.bytes()?;
            for (at, &byte) in bytes.iter().enumerate().skip(1) {
                let alias = entry.alias.wrapping_add(at);
                // SAFETY: as above; a site has five bytes.
                unsafe { alias.write_volatile(byte) };
            }
            inject::at(Point::BetweenSites);
        }
        inject::at(Point::TailsWritten);
        sync_core(3, Mutant::NoSecondSync)?;
        // 4. The heads: from here on each site is a trap or the new instruction, whole.
        for entry in &self.queue {
            let bytes = entry.bytes()?;
            // SAFETY: as above.
            unsafe { entry.alias.write_volatile(bytes[0]) };
            inject::at(Point::BetweenSites);
        }
        inject::at(Point::HeadsWritten);
        if let Err(error) = sync_core(4, Mutant::NoThirdSync) {
            for entry in &self.queue {
                // SAFETY: as above.
                unsafe { entry.alias.write_volatile(x64::TRAP) };
            }
            return Err(error);
        }
        for entry in &self.queue {
            // SAFETY: the record lives as long as the lock is held. Release: before the reference is dropped.
            unsafe { &*entry.record }.current.store(entry.new.to_word(), Ordering::Release);
        }
        Ok(())
    }
}
