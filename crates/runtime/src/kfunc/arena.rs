//! Pages of arenas.
//!
//! Invariant: pages that a program gets are zeroed, and nobody else has got them. The functions are for programs that may sleep,
//! and take a lock of the map. Kernel counterpart: `bpf_arena_alloc_pages` and its siblings, kernel/bpf/arena.c, 6.18.

use skep_abi::Errno;

use super::{int, status};
use crate::frame::Run;
use crate::helper::{entry, low};
use crate::map::arena::Arena;
use crate::map::{HelperFn, MapObject};

/// `NUMA_NO_NODE`, and the one node that there is here.
const NODES: [i32; 2] = [-1, 0];

pub(super) fn table() -> Vec<(&'static str, HelperFn)> {
    vec![
        ("bpf_arena_alloc_pages", entry!(alloc_pages)),
        ("bpf_arena_free_pages", entry!(free_pages)),
        ("bpf_arena_reserve_pages", entry!(reserve_pages)),
    ]
}

/// The arena behind a map argument, if that is what the map is.
///
/// # Safety
/// `map` is the address of a map object that is alive for `'a`.
unsafe fn arena<'a>(map: u64) -> Option<&'a Arena> {
    // SAFETY: the caller's duty.
    unsafe { MapObject::from_addr(map) }.downcast()
}

unsafe fn alloc_pages(_run: Run, [map, at, pages, node, flags]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a map of the program (prototype), which the program keeps.
    let arena = unsafe { arena(map) };
    match arena {
        Some(arena) if flags == 0 && NODES.contains(&low(node).cast_signed()) => arena.alloc_pages(at, low(pages)),
        _ => 0,
    }
}

unsafe fn free_pages(_run: Run, [map, at, pages, ..]: [u64; 5]) -> u64 {
    // SAFETY: as in `alloc_pages`.
    let arena = unsafe { arena(map) };
    if let Some(arena) = arena.filter(|_| at != 0 && low(pages) != 0) {
        arena.free_pages(at, low(pages));
    }
    0
}

unsafe fn reserve_pages(_run: Run, [map, at, pages, ..]: [u64; 5]) -> u64 {
    // SAFETY: as in `alloc_pages`.
    let arena = unsafe { arena(map) };
    match arena {
        Some(arena) => status(arena.reserve_pages(at, low(pages))),
        None => int(Errno::EINVAL),
    }
}
