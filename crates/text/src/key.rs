//! Static keys: branches that cost a nop while they are off, in compiled Rust and in installed code alike.
//!
//! A key is a counted switch. Its sites are the branches that [`static_branch_unlikely!`](crate::static_branch_unlikely)
//! and [`static_branch_likely!`](crate::static_branch_likely) compile to a five-byte nop or a jump, in every crate of the
//! program and in libraries when they are loaded, and the sites of installed code that were attached to it. Switching
//! changes all of them in one batch, while any number of threads run.
//!
//! Invariant: outside of a flip, under the poke lock, every site of a key has the form that the key's count says.
//! Kernel counterpart: `kernel/jump_label.c`, `include/linux/jump_label.h` (6.18).

mod module;
mod remap;
mod sites;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::arch::{CodeAddr, SiteBytes};
use crate::arena::{InstalledCode, SiteId};
use crate::error::TextError;
use crate::poke::{self, Entry, PokeLock, PokeReport};
use module::Module;
#[doc(hidden)]
pub use sites::{RawSite, initial_jump, register};

/// The part of a key that its sites know: its address is its name.
#[derive(Debug)]
struct Switch {
    count: AtomicU32,
}

/// A key that lives in a `static`, made by [`static_key!`](crate::static_key).
///
/// `INITIAL` is what it is before anybody changes it, and what its sites are compiled as.
#[repr(transparent)]
pub struct StaticKey<const INITIAL: bool> {
    switch: Switch,
}

/// A key made at run time, for the sites of installed code. Clones are handles of the same key.
#[derive(Clone)]
pub struct Key {
    owned: Arc<Owned>,
}

struct Owned {
    switch: Switch,
}

/// A key of either kind, for [`flip`].
pub trait AnyKey: sealed::Sealed {}

mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        fn switch(&self) -> KeyRef<'_>;
    }

    /// Names a key's switch without making its type public.
    #[derive(Clone, Copy)]
    pub struct KeyRef<'a>(pub(super) &'a super::Switch);
}
use sealed::{KeyRef, Sealed};

impl<const INITIAL: bool> Sealed for StaticKey<INITIAL> {
    fn switch(&self) -> KeyRef<'_> {
        KeyRef(&self.switch)
    }
}

impl Sealed for Key {
    fn switch(&self) -> KeyRef<'_> {
        KeyRef(&self.owned.switch)
    }
}

impl<const INITIAL: bool> AnyKey for StaticKey<INITIAL> {}
impl AnyKey for Key {}

impl Switch {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn is_enabled(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Sets the count to what `next` makes of it, and the sites to what the count says. An error changes nothing.
    fn update(&self, next: impl FnOnce(u32) -> Result<u32, TextError>) -> Result<PokeReport, TextError> {
        let mut held = poke::lock();
        let before = self.count.load(Ordering::Relaxed);
        let after = next(before)?;
        let report = if (before == 0) == (after == 0) {
            PokeReport::default()
        } else {
            queue_sites(&mut held, self.id(), after != 0).inspect_err(|_| held.clear())?;
            held.finish()?
        };
        self.count.store(after, Ordering::Release);
        Ok(report)
    }
}

macro_rules! key_methods {
    ($this:ident => $($switch:tt)*) => {
        /// Whether the key is on: what its branches do, as a load.
        #[must_use]
        pub fn is_enabled(&$this) -> bool {
            $($switch)*.is_enabled()
        }

        /// Turns the key on, however often it was turned off. When it returns, no branch that starts later is off.
        ///
        /// # Errors
        /// Live patching is off, or a barrier failed; the key is as it was.
        pub fn enable(&$this) -> Result<PokeReport, TextError> {
            $($switch)*.update(|count| Ok(count.max(1)))
        }

        /// Turns the key off, however often it was turned on. When it returns, no branch that starts later is on.
        ///
        /// # Errors
        /// As for [`enable`](Self::enable).
        pub fn disable(&$this) -> Result<PokeReport, TextError> {
            $($switch)*.update(|_| Ok(0))
        }

        /// Counts one user more; the first turns the key on.
        ///
        /// # Errors
        /// As for [`enable`](Self::enable).
        pub fn inc(&$this) -> Result<PokeReport, TextError> {
            $($switch)*.update(|count| count.checked_add(1).ok_or(TextError::Internal("a key's count overflowed")))
        }

        /// Counts one user less; the last turns the key off.
        ///
        /// # Errors
        /// As for [`enable`](Self::enable), and [`TextError::NotEnabled`] without a user.
        pub fn dec(&$this) -> Result<PokeReport, TextError> {
            $($switch)*.update(|count| count.checked_sub(1).ok_or(TextError::NotEnabled))
        }

        /// Adds a site of installed code, which has the form `on` while the key is on, and `off` while it is off. The
        /// site gets the form of the moment before this returns, and is forgotten with its image.
        ///
        /// # Errors
        /// There is no such site, it has a key, a target is out of reach, or it would have to change and cannot.
        ///
        /// # Safety
        /// Both forms are what threads may run at the site, for as long as the image exists.
        pub unsafe fn attach(
            &$this,
            code: &InstalledCode,
            site: usize,
            on: SiteBytes,
            off: SiteBytes,
        ) -> Result<(), TextError> {
            // SAFETY: the caller answers for the forms.
            unsafe { attach(&$($switch)*, code, site, on, off) }
        }
    };
}

impl<const INITIAL: bool> StaticKey<INITIAL> {
    /// For [`static_key!`](crate::static_key): only a key in a `static` has sites.
    #[doc(hidden)]
    #[must_use]
    pub const fn new() -> StaticKey<INITIAL> {
        StaticKey { switch: Switch { count: AtomicU32::new(INITIAL as u32) } }
    }

    key_methods!(self => self.switch);
}

impl Key {
    /// A key without sites.
    #[must_use]
    pub fn new(enabled: bool) -> Key {
        Key { owned: Arc::new(Owned { switch: Switch { count: AtomicU32::new(enabled.into()) } }) }
    }

    key_methods!(self => self.owned.switch);

    /// Counts one user more, until the hold drops.
    ///
    /// # Errors
    /// As for [`enable`](Self::enable).
    pub fn hold(&self) -> Result<KeyHold, TextError> {
        self.inc()?;
        Ok(KeyHold { key: self.clone() })
    }

    /// How many sites of installed code are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        poke::lock().registry().attached.get(&self.owned.switch.id()).map_or(0, BTreeMap::len)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        poke::lock().registry().attached.remove(&self.switch.id());
    }
}

impl<const INITIAL: bool> fmt::Debug for StaticKey<INITIAL> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("initial", &INITIAL).field("enabled", &self.is_enabled()).finish()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("enabled", &self.is_enabled()).finish()
    }
}

/// One user of a [`Key`]: dropping it counts one less.
///
/// If the last drop cannot change the code, because the kernel refuses the barrier again and again, the key stays on.
#[derive(Debug)]
pub struct KeyHold {
    key: Key,
}

impl Drop for KeyHold {
    fn drop(&mut self) {
        // The poke has repeated the barrier already; a key that stays on costs time and nothing else.
        let _ = self.key.dec();
    }
}

/// Turns several keys on or off in one batch.
///
/// # Errors
/// Live patching is off, or a barrier failed; all keys are as they were.
pub fn flip(changes: &[(&dyn AnyKey, bool)]) -> Result<PokeReport, TextError> {
    let mut held = poke::lock();
    for (key, on) in changes {
        queue_sites(&mut held, key.switch().0.id(), *on).inspect_err(|_| held.clear())?;
    }
    let report = held.finish()?;
    for (key, on) in changes {
        let count = &key.switch().0.count;
        let before = count.load(Ordering::Relaxed);
        count.store(if *on { before.max(1) } else { 0 }, Ordering::Release);
    }
    Ok(report)
}

/// What the poke lock guards on behalf of keys.
pub(crate) struct Registry {
    /// Per key, the sites of installed code.
    attached: BTreeMap<usize, BTreeMap<SiteId, Attached>>,
    modules: Vec<Module>,
}

/// A site of installed code in both forms, found once and for all: an image that goes away is detached first.
struct Attached {
    off: Entry,
    on: Entry,
}

impl Registry {
    pub(crate) const fn new() -> Registry {
        Registry { attached: BTreeMap::new(), modules: Vec::new() }
    }

    /// Forgets the sites of an image that goes away.
    pub(crate) fn detach(&mut self, image: u64) {
        let first = SiteId { image, at: CodeAddr(0) };
        let last = SiteId { image, at: CodeAddr(u64::MAX) };
        for sites in self.attached.values_mut() {
            while let Some((&site, _)) = sites.range(first..=last).next() {
                sites.remove(&site);
            }
        }
    }
}

/// Queues every site of key `id` with the form that it has while the key is `on`.
fn queue_sites(held: &mut PokeLock, id: usize, on: bool) -> Result<(), TextError> {
    let (registry, queue) = held.registry_and_queue();
    let attached = registry.attached.get(&id).into_iter().flat_map(BTreeMap::values);
    // Both sources of entries found the site in a live image or a loaded module, neither of which goes while the lock is
    // held; the forms are those that the compiler, or the caller of `attach`, laid out for the site.
    queue.extend(attached.map(|attached| if on { attached.on } else { attached.off }));
    registry.modules.iter_mut().try_for_each(|module| module.entries(id, on, queue))
}

/// See [`Key::attach`].
///
/// # Safety
/// As for `attach`.
unsafe fn attach(
    switch: &Switch,
    code: &InstalledCode,
    site: usize,
    on: SiteBytes,
    off: SiteBytes,
) -> Result<(), TextError> {
    let site = code.site(site).ok_or(TextError::NoSuchSite { at: code.addr(0) })?;
    let arena = code.arena_inner();
    let mut held = poke::lock();
    // Both are tried, so that a later flip does not find one that cannot be encoded.
    if held.registry().attached.values().any(|sites| sites.contains_key(&site)) {
        return Err(TextError::HasKey { at: site.at });
    }
    let attached = Attached { off: arena.entry(&held, site, off)?, on: arena.entry(&held, site, on)? };
    let now = if switch.is_enabled() { attached.on } else { attached.off };
    if !now.is_in_place() {
        // SAFETY: `entry` found the site; the caller answers for the form.
        unsafe { held.queue(now) };
        held.finish()?;
    }
    held.registry().attached.entry(switch.id()).or_default().insert(site, attached);
    Ok(())
}
