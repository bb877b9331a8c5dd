//! A way to write compiled code: its pages, moved into memory that is mapped twice.
//!
//! The text of a program is mapped from its file, readable and executable. A page with a site that is to change is copied
//! into a file in memory, which is then mapped over it, read-execute again; the same file is mapped read-write somewhere
//! else. The contents are equal before and after, and the kernel replaces the mapping as one step under its lock, so
//! that a thread which runs there meanwhile waits in a page fault at most. No page is ever writable and executable.
//!
//! A forked child would share those pages with its parent and see the parent's pokes, without the barriers. So no fork
//! happens during a poke, and the child, before it does anything else, turns them into pages of its own.
//!
//! Invariant: a page in `moved` is mapped from `file` at its own offset, and has the same bytes in both views.
//! Kernel counterpart: `text_poke` writes through a temporary mapping of the page (`arch/x86/kernel/alternative.c`).

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use rustix::mm::{madvise, mmap, mmap_anonymous, mprotect, mremap_fixed};

use crate::arch::{CodeAddr, host};
use crate::arena::code_file;
use crate::error::TextError;
use crate::poke::{self, PokeLock};

const PAGE: u64 = 4096;

/// The pages between the first and the last site of a module.
pub(crate) struct Remap {
    /// The first page's address, and where the last ends.
    pages: Range<u64>,
    file: OwnedFd,
    /// The read-write view of all of them; a page is a hole until it is moved.
    write: *mut u8,
    moved: Vec<bool>,
}

fn failed(step: &'static str) -> impl Fn(rustix::io::Errno) -> TextError {
    move |source| TextError::Map { step, source: source.into() }
}

impl Remap {
    /// Prepares for sites in `range`; moves nothing yet.
    pub(super) fn new(range: Range<u64>) -> Result<Remap, TextError> {
        let pages = range.start & !(PAGE - 1)..range.end.next_multiple_of(PAGE);
        let count = usize::try_from((pages.end - pages.start) / PAGE).unwrap_or(0);
        let len = count * 4096;
        let file = code_file(len)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at an address of the kernel's choice takes the place of nothing.
        let write = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0) }
            .map_err(failed("the writable view of compiled code"))?;
        // SAFETY: the mapping just made.
        unsafe { madvise(write, len, Advice::LinuxDontFork) }.map_err(failed("keeping it from children"))?;
        watch_forks();
        Ok(Remap { pages, file, write: write.cast(), moved: vec![false; count] })
    }

    /// Where the bytes of a site can be written, if its pages have been moved.
    pub(super) fn alias(&self, at: CodeAddr) -> *mut u8 {
        self.write.wrapping_add(usize::try_from(at.0 - self.pages.start).unwrap_or(0))
    }

    /// Moves the pages of these sites, those that are not moved yet.
    pub(super) fn make_writable(&mut self, sites: impl Iterator<Item = CodeAddr>) -> Result<(), TextError> {
        let mut wanted = vec![false; self.moved.len()];
        for at in sites {
            for byte in [at.0, at.0 + host::SITE_LEN as u64 - 1] {
                let page = usize::try_from((byte - self.pages.start) / PAGE).unwrap_or(0);
                wanted[page] = !self.moved[page];
            }
        }
        let mut page = 0;
        while page < wanted.len() {
            let run = wanted[page..].iter().take_while(|&&wanted| wanted).count();
            if run > 0 {
                self.move_pages(page, run)?;
            }
            page += run.max(1);
        }
        Ok(())
    }

    fn move_pages(&mut self, first: usize, count: usize) -> Result<(), TextError> {
        let start = self.pages.start + first as u64 * PAGE;
        let len = count * 4096;
        let code = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(start).unwrap_or(0));
        let copy = self.write.wrapping_add(first * 4096);
        // SAFETY: pages of loaded code, readable, into as many pages of our own; only this crate writes either, under
        // the lock.
        unsafe { copy.copy_from_nonoverlapping(code, len) };
        let prot = ProtFlags::READ | ProtFlags::EXEC;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let offset = first as u64 * PAGE;
        // SAFETY: replaces the pages by others with the same contents and rights, as one step for every other thread.
        unsafe { mmap(code.cast(), len, prot, flags, &self.file, offset) }
            .map_err(failed("the executable view of compiled code"))?;
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the pages just mapped.
        unsafe {
            crate::arch::arm64::clean_and_invalidate(code, len);
        }
        self.moved[first..first + count].fill(true);
        lock_moved().push(start..start + len as u64);
        Ok(())
    }
}

/// What a child has to turn into pages of its own. Changed under the poke lock only.
static MOVED: Mutex<Vec<Range<u64>>> = Mutex::new(Vec::new());

/// What the thread that forks holds from before until after; the child's only thread is its copy.
struct Forking {
    _lock: PokeLock,
    /// The moved pages as they were, before the parent can poke them again.
    pages: Vec<(u64, Vec<u8>)>,
}

thread_local! {
    static FORKING: RefCell<Option<Forking>> = const { RefCell::new(None) };
}

fn lock_moved() -> std::sync::MutexGuard<'static, Vec<Range<u64>>> {
    match MOVED.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Registers the handlers around `fork`, once. Called with the poke lock.
fn watch_forks() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    unsafe extern "C" fn before() {
        // A thread that forks while its thread-locals are being destroyed forks without the lock.
        let _ = FORKING.try_with(|slot| {
            let lock = poke::lock();
            let pages = lock_moved().iter().map(snapshot).collect();
            *slot.borrow_mut() = Some(Forking { _lock: lock, pages });
        });
    }
    unsafe extern "C" fn in_parent() {
        let _ = FORKING.try_with(|slot| slot.borrow_mut().take());
    }
    unsafe extern "C" fn in_child() {
        let forking = FORKING.try_with(|slot| slot.borrow_mut().take()).ok().flatten();
        for (start, bytes) in forking.iter().flat_map(|forking| &forking.pages) {
            make_private(*start, bytes);
        }
    }
    // SAFETY: the handlers stay: a module with sites is never unloaded.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child));
    });
}

fn code_pointer(start: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(usize::try_from(start).unwrap_or(0))
}

/// Copies a range of code out.
fn snapshot(range: &Range<u64>) -> (u64, Vec<u8>) {
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    // SAFETY: pages of loaded code, readable; nobody writes them while the caller has the poke lock.
    let bytes = unsafe { std::slice::from_raw_parts(code_pointer(range.start), len) };
    (range.start, bytes.to_vec())
}

/// Replaces shared pages of code by private ones with these bytes. In a new child, which has one thread.
fn make_private(start: u64, bytes: &[u8]) {
    let len = bytes.len();
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping at an address of the kernel's choice takes the place of nothing.
    let Ok(copy) = (unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE) }) else {
        // Without memory the child goes on with the shared pages, which is right until the parent pokes them.
        return;
    };
    // SAFETY: the mapping just made is as long as the bytes.
    unsafe { copy.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), len) };
    // SAFETY: the mapping just made, which is never executed while it is writable.
    let sealed = unsafe { mprotect(copy, len, MprotectFlags::READ | MprotectFlags::EXEC) };
    if sealed.is_ok() {
        // SAFETY: replaces the pages by others with the contents and rights that they had when the process forked.
        let _ = unsafe { mremap_fixed(copy, len, len, MremapFlags::MAYMOVE, code_pointer(start).cast()) };
    }
}
