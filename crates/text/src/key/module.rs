//! The branches of one program or library.
//!
//! Records are read when a key is flipped for the first time: a program that never does so pays for a pointer. A library
//! with records stays loaded once it is, even after `dlclose`: its branches, the handler and the keys in it may be in
//! use by any thread.
//! Invariant: after the first reading, `sites` is sorted by key and the image, which lives for ever, knows every site.
//! Kernel counterpart: `jump_label_add_module`, `kernel/jump_label.c` (6.18).

use std::sync::atomic::AtomicU64;

use super::remap::Remap;
use super::sites::RawSite;
use crate::arch::{CodeAddr, SiteBytes, host};
use crate::error::TextError;
use crate::owners::{self, Image, SiteRecord};
use crate::poke::Entry;

/// A program or library with branches.
pub(crate) struct Module {
    start: *const RawSite,
    end: *const RawSite,
    /// None: not read yet; `Some(None)`: there is nothing but the empty record.
    known: Option<Option<Known>>,
}

struct Known {
    sites: Vec<Site>,
    image: &'static Image,
    remap: Remap,
}

struct Site {
    key: usize,
    at: CodeAddr,
    to: CodeAddr,
    likely: bool,
}

impl Module {
    /// # Safety
    /// The addresses are the ends of a section of records, of a program or library that is loaded.
    pub(super) unsafe fn new(start: *const RawSite, end: *const RawSite) -> Module {
        keep_loaded(start);
        Module { start, end, known: None }
    }

    /// Whether this module's records begin there.
    pub(super) fn is(&self, start: *const RawSite) -> bool {
        self.start == start
    }

    /// Appends the sites of key `id`, with the form that they have while the key is `on`.
    pub(super) fn entries(&mut self, id: usize, on: bool, into: &mut Vec<Entry>) -> Result<(), TextError> {
        let known = match &mut self.known {
            Some(known) => known,
            unread => unread.insert(read(self.start, self.end)?),
        };
        let Some(known) = known else { return Ok(()) };
        let first = known.sites.partition_point(|site| site.key < id);
        let mine = known.sites[first..].iter().take_while(|site| site.key == id);
        known.remap.make_writable(mine.clone().map(|site| site.at))?;
        for site in mine {
            let record = known.image.find(site.at).ok_or(TextError::Internal("a branch without a record"))?;
            let new = if on == site.likely { SiteBytes::Nop } else { SiteBytes::Jump(site.to) };
            into.push(Entry { at: site.at, alias: known.remap.alias(site.at), new, record });
        }
        Ok(())
    }
}

/// Reads the records and publishes the sites to the handler.
fn read(start: *const RawSite, end: *const RawSite) -> Result<Option<Known>, TextError> {
    let count = (end.addr() - start.addr()) / size_of::<RawSite>();
    let mut sites = Vec::with_capacity(count);
    let mut records = Vec::with_capacity(count);
    for place in 0..count {
        let raw = start.wrapping_add(place);
        // SAFETY: a record of the section, which is loaded and read-only.
        let raw = unsafe { &*raw };
        if raw.at == 0 {
            continue;
        }
        let at = CodeAddr(relative(&raw.at, raw.at.into()));
        let code = std::ptr::with_exposed_provenance::<[u8; host::SITE_LEN]>(address(at));
        // SAFETY: the record names an instruction of five bytes in loaded code, which only this crate changes, under
        // the lock.
        let bytes = unsafe { code.read_volatile() };
        let form = host::decode(at, bytes).ok_or(TextError::NotASite { at })?;
        records.push(SiteRecord { at, current: AtomicU64::new(form.to_word()) });
        sites.push(Site {
            key: address(CodeAddr(relative(&raw.key, raw.key))),
            at,
            to: CodeAddr(relative(&raw.to, raw.to.into())),
            likely: raw.likely & 1 != 0,
        });
    }
    sites.sort_by_key(|site| (site.key, site.at));
    records.sort_by_key(|record| record.at);
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Ok(None);
    };
    let range = first.at.0..last.at.0 + host::SITE_LEN as u64;
    let remap = Remap::new(range.clone())?;
    let image =
        Box::leak(Box::new(Image { id: owners::next_image_id(), sites: records.into(), mark: AtomicU64::new(0) }));
    owners::add(range.start, range.end, std::ptr::null_mut(), image);
    Ok(Some(Known { sites, image, remap }))
}

/// The address that lies `distance` from a field.
fn relative<T>(field: &T, distance: i64) -> u64 {
    (std::ptr::from_ref(field).addr() as u64).wrapping_add_signed(distance)
}

fn address(at: CodeAddr) -> usize {
    usize::try_from(at.0).unwrap_or(0)
}

/// Keeps the library that `within` points into from being unloaded.
fn keep_loaded(within: *const RawSite) {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: asks about an address; the pointer is valid.
    let known = unsafe { libc::dladdr(within.cast(), info.as_mut_ptr()) };
    // SAFETY: all zero is valid, and the call may have filled it.
    let info = unsafe { info.assume_init() };
    if known != 0 && !info.dli_fname.is_null() {
        // The handle stays open on purpose. For the program itself the name may not be found, which does no harm.
        // SAFETY: the name is a string that the loader keeps.
        unsafe { libc::dlopen(info.dli_fname, libc::RTLD_NOLOAD | libc::RTLD_NODELETE | libc::RTLD_LAZY) };
    }
}
