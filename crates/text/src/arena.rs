//! Code arenas: reserved memory for machine code, and the images in it.
//!
//! Bytes come in as data, with their relocations and the places that may change later. Dropping the last handle of an
//! image fills it with trap bytes and frees it, after a grace period of the arena's [`CpuSet`]: code may run only inside
//! runs of that set. Invariant: every byte of the arena belongs to a live image or is [`host::FILL`].
//! Kernel counterpart: `bpf_prog_pack_alloc`, `kernel/bpf/core.c` (6.18).

mod install;
mod memory;
mod ranges;

use std::fmt;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use skep_sync::CpuSet;

use crate::arch::{CodeAddr, SiteBytes, host};
use crate::error::TextError;
use crate::owners::{self, Image, Owner};
use crate::poke::{self, Entry, PokeLock, PokeReport};
use crate::{refs, trap};
pub(crate) use memory::code_file;
use memory::{DualMap, Sparse};
pub(crate) use ranges::GRANULE;
use ranges::Ranges;

/// The size of an arena, and where it should lie.
#[derive(Debug, Clone)]
pub struct ArenaConfig {
    /// Bytes of address space; memory is used as code comes in. At most 1 GiB. Default: 256 MiB, on arm64 64 MiB, so that
    /// a branch reaches all of it.
    pub size: usize,
    /// An address that the code should reach with a 32-bit displacement. Default: this crate's own code.
    pub near: Option<usize>,
}

impl Default for ArenaConfig {
    fn default() -> ArenaConfig {
        ArenaConfig { size: if cfg!(target_arch = "aarch64") { 64 << 20 } else { 256 << 20 }, near: None }
    }
}

/// Machine code to be installed.
#[derive(Debug, Clone, Copy)]
pub struct CodeImage<'a> {
    /// The code.
    pub bytes: &'a [u8],
    /// The fields in it that depend on where it lies.
    pub relocations: &'a [Relocation],
    /// The instructions in it that may change while it runs.
    pub sites: &'a [SiteSpec],
}

/// A field to fill in.
#[derive(Debug, Clone, Copy)]
pub struct Relocation {
    /// Offset of the field.
    pub at: u32,
    /// What is written there.
    pub kind: RelocKind,
    /// What it refers to.
    pub target: Target,
}

/// The shape of a relocated field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelocKind {
    /// Four bytes at the end of an instruction: the distance from there. An address out of reach gets a veneer, so that
    /// only calls and jumps may use this for addresses.
    Rel32,
    /// Eight bytes: the address.
    Abs64,
    /// The branch of an arm64 `B` or `BL`: its field for the distance. As for `Rel32`, far addresses get a veneer.
    Branch26,
}

/// What a relocation refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An address of the process.
    Addr(u64),
    /// An offset in the image.
    Image(u32),
}

/// A place that may change: five bytes, a nop or a `jmp rel32`, which is also what it does at first.
#[derive(Debug, Clone, Copy)]
pub struct SiteSpec {
    /// Offset of the instruction.
    pub offset: u32,
}

/// A site of an installed image. It may outlive the image; then it refers to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId {
    pub(crate) image: u64,
    pub(crate) at: CodeAddr,
}

impl SiteId {
    /// Where the instruction is.
    #[must_use]
    pub fn addr(self) -> CodeAddr {
        self.at
    }
}

pub(crate) struct ArenaInner {
    map: DualMap,
    shadow: Sparse,
    owner: &'static Owner,
    cpus: CpuSet,
    state: Mutex<State>,
}

struct State {
    ranges: Ranges,
    /// Bytes from the start that have been filled; the file is zero beyond.
    filled: usize,
}

/// Memory for code. Clones are handles of the same arena.
#[derive(Clone)]
pub struct CodeArena {
    inner: Arc<ArenaInner>,
}

impl fmt::Debug for CodeArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeArena")
            .field("start", &CodeAddr(self.inner.map.exec()))
            .field("len", &self.inner.map.len())
            .field("used", &self.used())
            .finish()
    }
}

impl CodeArena {
    /// Reserves an arena whose code runs inside runs of `cpus`. Where live patching is possible, threads that block
    /// SIGTRAP are refused by the set from now on.
    ///
    /// # Errors
    /// The memory cannot be mapped. That live patching is off is no error here: see [`live`](crate::live).
    pub fn new(cpus: &CpuSet, config: ArenaConfig) -> Result<CodeArena, TextError> {
        let len = config.size.clamp(64 << 10, 1 << 30).next_multiple_of(64 << 10);
        let near = config.near.unwrap_or((poke::live as fn() -> _) as usize);
        let map = DualMap::new(len, near)?;
        let shadow = Sparse::new(len / GRANULE * size_of::<AtomicPtr<Image>>())?;
        let held = poke::lock();
        if poke::prepare(&held).is_ok() {
            cpus.admit_with(trap::thread_can_trap);
        }
        let table = shadow.start().cast();
        let owner = owners::add(map.exec(), map.exec() + len as u64, table, std::ptr::null_mut());
        drop(held);
        let state = Mutex::new(State { ranges: Ranges::new(len), filled: 0 });
        Ok(CodeArena { inner: Arc::new(ArenaInner { map, shadow, owner, cpus: cpus.clone(), state }) })
    }

    /// Copies an image in and makes it executable.
    ///
    /// # Errors
    /// The image is inconsistent, a site is none, or there is no room.
    pub fn install(&self, image: CodeImage<'_>) -> Result<InstalledCode, TextError> {
        install::install(self, image)
    }

    /// Changes sites while threads run them, all in one batch: when it returns, no run that starts later sees an old
    /// form. An error before the first byte changed leaves everything as it was; a barrier that fails leaves the sites
    /// with their old meaning, more slowly, until the next poke has repaired them.
    ///
    /// # Errors
    /// A site is gone, a target is out of reach, live patching is off, or a barrier failed.
    ///
    /// # Safety
    /// At each site, threads may go to the target of the new jump: it is code of this arena that may run there, with the
    /// registers and the stack as they are at the site, and it stays for as long as the site has this form.
    pub unsafe fn poke(&self, changes: &[(SiteId, SiteBytes)]) -> Result<PokeReport, TextError> {
        let mut held = poke::lock();
        // All are found before one is queued.
        let entries: Result<Vec<Entry>, TextError> =
            changes.iter().map(|&(site, new)| self.inner.entry(&held, site, new)).collect();
        for entry in entries? {
            // SAFETY: `entry` found the site in a live image, which cannot go while the lock is held; the caller
            // answers for the targets.
            unsafe { held.queue(entry) };
        }
        held.finish()
    }

    /// Where in this arena a thread of this process is that runs without an end, by its kernel id; none if it is elsewhere or
    /// in a system call, or where there is no handler of SIGTRAP to ask it with. For reports: the thread goes on meanwhile.
    #[must_use]
    pub fn whereabouts(&self, tid: u32) -> Option<CodeAddr> {
        // A thread that sleeps would be woken, and is not in an arena's code.
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
        let (_, state) = stat.rsplit_once(") ")?;
        let running = state.starts_with('R');
        running.then(|| trap::whereabouts(tid)).flatten().filter(|&at| self.contains(at))
    }

    /// The set whose runs execute this arena's code.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.inner.cpus
    }

    /// Bytes that live images use, and those that wait for a grace period.
    #[must_use]
    pub fn used(&self) -> usize {
        self.inner.state().ranges.used(self.inner.map.len())
    }

    /// The mark of the image that an address lies in: what [`InstalledCode::set_mark`] left there, and 0 before. None outside
    /// of images. No lock, no shared line written: for code that asks who called it.
    ///
    /// # Safety
    /// If the address is in this arena, this thread is in a run of the arena's set, in which it has entered the code there.
    #[must_use]
    pub unsafe fn mark_at(&self, at: CodeAddr) -> Option<u64> {
        let image = self.inner.granule(self.inner.offset(at)?).load(Ordering::Acquire);
        // SAFETY: an image that is taken out of the table is freed after a grace period of whoever could still enter its
        // code, and the run (caller) began before.
        unsafe { image.as_ref() }.map(|image| image.mark.load(Ordering::Acquire))
    }

    /// Whether the address is in this arena.
    #[must_use]
    pub fn contains(&self, at: CodeAddr) -> bool {
        let start = self.inner.map.exec();
        (start..start + self.inner.map.len() as u64).contains(&at.0)
    }
}

impl ArenaInner {
    fn state(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn offset(&self, at: CodeAddr) -> Option<usize> {
        let offset = usize::try_from(at.0.checked_sub(self.map.exec())?).ok()?;
        (offset < self.map.len()).then_some(offset)
    }

    /// The granule's word in the table of images.
    fn granule(&self, offset: usize) -> &AtomicPtr<Image> {
        debug_assert!(offset < self.map.len());
        let entry = self.shadow.start().cast::<AtomicPtr<Image>>().wrapping_add(offset / GRANULE);
        // SAFETY: the table has a word per granule of the arena, and zero is a null pointer.
        unsafe { &*entry }
    }

    /// What a batch needs to know of a site.
    pub(crate) fn entry(&self, _held: &PokeLock, site: SiteId, new: SiteBytes) -> Result<Entry, TextError> {
        let gone = TextError::NoSuchSite { at: site.at };
        let Some(offset) = self.offset(site.at) else { return Err(gone) };
        let image = self.granule(offset).load(Ordering::Acquire);
        // SAFETY: an image is taken out of the table under the lock, before it is freed.
        let image = unsafe { image.as_ref() }.filter(|image| image.id == site.image);
        let record = image.and_then(|image| image.find(site.at)).ok_or(gone)?;
        if host::encode(site.at, new).is_none() {
            return Err(TextError::TooFar { at: site.at, to: CodeAddr(new.to_word()) });
        }
        Ok(Entry { at: site.at, alias: self.map.alias(offset), new, record })
    }

    /// Frees an image that nothing runs any more.
    fn uninstall(&self, image: *mut Image, offset: usize, len: usize) {
        let mut held = poke::lock();
        let start = self.map.exec() + offset as u64;
        // SAFETY: made by `Box::into_raw` at installation, and freed below.
        let id = unsafe { &*image }.id;
        held.forget(id, &(start..start + len as u64));
        for granule in (offset..offset + len).step_by(GRANULE) {
            self.granule(granule).store(std::ptr::null_mut(), Ordering::SeqCst);
        }
        self.fill(offset, len);
        refs::wait_for_table_readers();
        drop(held);
        // SAFETY: made by `Box::into_raw` at installation, out of the table, and its readers are gone.
        drop(unsafe { Box::from_raw(image) });
        self.state().ranges.give(offset, len);
    }

    fn fill(&self, offset: usize, len: usize) {
        let alias = self.map.alias(offset);
        for at in (0..len).step_by(host::FILL.len()) {
            let word = alias.wrapping_add(at).cast::<[u8; 4]>();
            // SAFETY: a word of a range of the arena that no live image owns; ranges are whole granules.
            unsafe { word.write(host::FILL) };
        }
    }
}

impl Drop for ArenaInner {
    fn drop(&mut self) {
        let _held = poke::lock();
        owners::remove(self.owner);
    }
}

/// An installed image. Clones are handles of the same one; with the last, it goes, after a grace period.
#[derive(Clone)]
pub struct InstalledCode {
    inner: Arc<Installed>,
}

struct Installed {
    arena: Arc<ArenaInner>,
    image: *mut Image,
    id: u64,
    /// Offset in the arena, and the length of the range there.
    offset: usize,
    range: usize,
    /// Bytes of code, without veneers.
    len: usize,
    /// In the order in which they were given.
    sites: Box<[CodeAddr]>,
}

// SAFETY: the image is only handed to the reclaimer, which frees it.
unsafe impl Send for Installed {}
// SAFETY: as for `Send`; nothing is changed through a shared reference.
unsafe impl Sync for Installed {}

impl fmt::Debug for InstalledCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstalledCode").field("start", &self.addr(0)).field("len", &self.inner.len).finish()
    }
}

impl InstalledCode {
    /// The address of an offset in the image.
    #[must_use]
    pub fn addr(&self, offset: u32) -> CodeAddr {
        CodeAddr(self.inner.arena.map.exec() + self.inner.offset as u64 + u64::from(offset))
    }

    /// Bytes of code.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an image is never empty")]
    pub fn len(&self) -> usize {
        self.inner.len
    }

    /// Bytes of the arena that the image occupies, with veneers and rounding.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.inner.range
    }

    /// The sites, in the order of the image's list.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = SiteId> + '_ {
        self.inner.sites.iter().map(|&at| SiteId { image: self.inner.id, at })
    }

    /// The site at `index` of the image's list.
    #[must_use]
    pub fn site(&self, index: usize) -> Option<SiteId> {
        self.inner.sites.get(index).map(|&at| SiteId { image: self.inner.id, at })
    }

    /// Marks the image with a word, which [`CodeArena::mark_at`] finds by any address in it.
    ///
    /// # Safety
    /// The mark is what those who ask this arena for marks take it for, as long as it is there.
    pub unsafe fn set_mark(&self, mark: u64) {
        // SAFETY: the image is freed after the last handle.
        unsafe { &*self.inner.image }.mark.store(mark, Ordering::Release);
    }

    /// The bytes as they are now, for a listing.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let alias = self.inner.arena.map.alias(self.inner.offset);
        (0..self.inner.len)
            // SAFETY: a byte of the image, which this handle keeps; a poke may write it meanwhile, hence volatile.
            .map(|at| unsafe { alias.wrapping_add(at).read_volatile() })
            .collect()
    }

    pub(crate) fn arena_inner(&self) -> &Arc<ArenaInner> {
        &self.inner.arena
    }

    /// The arena that the image is in.
    #[must_use]
    pub fn arena(&self) -> CodeArena {
        CodeArena { inner: self.inner.arena.clone() }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        struct Garbage(*mut Image);
        // SAFETY: the last handle is gone: the image is the closure's alone.
        unsafe impl Send for Garbage {}
        impl Garbage {
            fn into_inner(self) -> *mut Image {
                self.0
            }
        }
        let (arena, garbage) = (self.arena.clone(), Garbage(self.image));
        let (offset, len) = (self.offset, self.range);
        self.arena.cpus.defer(Box::new(move || arena.uninstall(garbage.into_inner(), offset, len)));
    }
}
