//! Copying an image in: relocations, veneers, sites.
//!
//! Invariant: nothing of an image can be found by a handler or a poke before all of it is in place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skep_sync::barrier;

use super::{CodeArena, CodeImage, GRANULE, Installed, InstalledCode, RelocKind, Target};
use crate::arch::{CodeAddr, arm64, host, x64};
use crate::error::TextError;
use crate::owners::{self, Image, SiteRecord};
use crate::poke;

/// The largest image.
const MAX_IMAGE: usize = 64 << 20;

/// How far the memory is filled ahead of need.
const FILL_AHEAD: usize = 64 << 10;

pub(super) fn install(arena: &CodeArena, image: CodeImage<'_>) -> Result<InstalledCode, TextError> {
    let inner = &arena.inner;
    let code = image.bytes.len();
    if code == 0 || code > MAX_IMAGE {
        return Err(TextError::BadImage { size: code });
    }
    let veneers = veneers(arena, &image);
    let first_veneer = code.next_multiple_of(host::VENEER_LEN);
    let total = if veneers.is_empty() { code } else { first_veneer + veneers.len() * host::VENEER_LEN };
    let len = total.next_multiple_of(GRANULE);
    let full = TextError::ArenaFull { size: len };
    let offset = {
        let mut state = inner.state();
        let offset = state.ranges.take(len).ok_or(full)?;
        if offset + len > state.filled {
            let end = (offset + len).next_multiple_of(FILL_AHEAD).min(inner.map.len());
            inner.fill(state.filled, end - state.filled);
            state.filled = end;
        }
        offset
    };
    let start = inner.map.exec() + offset as u64;
    let veneer_at: BTreeMap<u64, u64> = veneers
        .iter()
        .enumerate()
        .map(|(place, &target)| (target, start + (first_veneer + place * host::VENEER_LEN) as u64))
        .collect();
    let prepared = relocate(&image, start, &veneer_at).and_then(|bytes| {
        let sites = find_sites(&image, &bytes, start)?;
        Ok((bytes, sites))
    });
    let (bytes, (records, sites)) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            inner.state().ranges.give(offset, len);
            return Err(error);
        }
    };
    let alias = inner.map.alias(offset);
    // SAFETY: the range was just taken, so that nobody else writes or runs it, and is as long as the bytes at least.
    unsafe { alias.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    for (place, &target) in veneers.iter().enumerate() {
        let veneer = host::veneer(target);
        let alias = alias.wrapping_add(first_veneer + place * host::VENEER_LEN);
        // SAFETY: as above; the range has room for the veneers.
        unsafe { alias.copy_from_nonoverlapping(veneer.as_ptr(), veneer.len()) };
    }
    publish_to_fetch(start, len);
    let id = owners::next_image_id();
    let image = Box::into_raw(Box::new(Image { id, sites: records, mark: AtomicU64::new(0) }));
    {
        let _held = poke::lock();
        for granule in (offset..offset + len).step_by(GRANULE) {
            inner.granule(granule).store(image, Ordering::Release);
        }
    }
    Ok(InstalledCode {
        inner: Arc::new(Installed { arena: Arc::clone(inner), image, id, offset, range: len, len: code, sites }),
    })
}

/// The distinct addresses that some place of the arena could not reach.
fn veneers(arena: &CodeArena, image: &CodeImage<'_>) -> Vec<u64> {
    let low = arena.inner.map.exec();
    let high = low + arena.inner.map.len() as u64;
    let near = |to: u64| host::reaches(low, to) && host::reaches(high, to);
    let mut far: Vec<u64> = image
        .relocations
        .iter()
        .filter(|relocation| relocation.kind != RelocKind::Abs64)
        .filter_map(|relocation| match relocation.target {
            Target::Addr(to) if !near(to) => Some(to),
            _ => None,
        })
        .collect();
    far.sort_unstable();
    far.dedup();
    far
}

/// The bytes with all fields filled in.
fn relocate(image: &CodeImage<'_>, start: u64, veneers: &BTreeMap<u64, u64>) -> Result<Vec<u8>, TextError> {
    let mut bytes = image.bytes.to_vec();
    for relocation in image.relocations {
        let outside = |offset| TextError::OutOfImage { offset };
        let target = match relocation.target {
            Target::Addr(to) => to,
            Target::Image(offset) if (offset as usize) < bytes.len() => start + u64::from(offset),
            Target::Image(offset) => return Err(outside(offset)),
        };
        let at = relocation.at as usize;
        match relocation.kind {
            RelocKind::Abs64 => {
                let field = bytes.get_mut(at..at + 8).ok_or(outside(relocation.at))?;
                field.copy_from_slice(&target.to_le_bytes());
            }
            RelocKind::Branch26 => {
                let target = veneers.get(&target).copied().unwrap_or(target);
                let (at, to) = (CodeAddr(start + at as u64), CodeAddr(target));
                let place = relocation.at as usize;
                let field = bytes.get_mut(place..place + 4).ok_or(outside(relocation.at))?;
                let word = field.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
                let word = arm64::with_target(at, word, to).ok_or(TextError::TooFar { at, to })?;
                field.copy_from_slice(&word.to_le_bytes());
            }
            RelocKind::Rel32 => {
                let target = veneers.get(&target).copied().unwrap_or(target);
                let end = start + at as u64 + 4;
                let distance =
                    x64::rel32(end, target).ok_or(TextError::TooFar { at: CodeAddr(end - 4), to: CodeAddr(target) })?;
                let field = bytes.get_mut(at..at + 4).ok_or(outside(relocation.at))?;
                field.copy_from_slice(&distance.to_le_bytes());
            }
        }
    }
    Ok(bytes)
}

/// The sites' records, sorted, and their addresses in the order given.
#[expect(clippy::type_complexity, reason = "a pair of lists, taken apart at once")]
fn find_sites(
    image: &CodeImage<'_>,
    bytes: &[u8],
    start: u64,
) -> Result<(Box<[SiteRecord]>, Box<[CodeAddr]>), TextError> {
    let mut records = Vec::with_capacity(image.sites.len());
    let mut order = Vec::with_capacity(image.sites.len());
    for site in image.sites {
        let at = CodeAddr(start + u64::from(site.offset));
        let place = site.offset as usize;
        let field = bytes.get(place..place + host::SITE_LEN).and_then(|field| field.try_into().ok());
        let field = field.ok_or(TextError::OutOfImage { offset: site.offset })?;
        let form = host::decode(at, field).ok_or(TextError::NotASite { at })?;
        records.push(SiteRecord { at, current: AtomicU64::new(form.to_word()) });
        order.push(at);
    }
    records.sort_by_key(|record| record.at);
    for pair in records.windows(2) {
        if pair[1].at.0 < pair[0].at.0 + host::SITE_LEN as u64 {
            return Err(TextError::Overlap { at: pair[1].at });
        }
    }
    Ok((records.into(), order.into()))
}

/// Makes new code visible to instruction fetch before its address is: a CPU may have fetched what was there before.
fn publish_to_fetch(start: u64, len: usize) {
    #[cfg(target_arch = "aarch64")]
    {
        let start = std::ptr::with_exposed_provenance(usize::try_from(start).unwrap_or(0));
        // SAFETY: the range of the image, in the executable view.
        unsafe { crate::arch::arm64::clean_and_invalidate(start, len) };
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = (start, len);
    // Where the barrier is denied nothing is ever changed, so that what was fetched before was trap bytes or nothing,
    // and a CPU of this architecture snoops the store.
    let _ = barrier::sync_core();
}
