//! The list of maps that a program uses.
//!
//! Invariant: after [`number`], map references and facts hold positions in that list, in order of first use.
//! Kernel counterpart: `add_used_map`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{Imm64, Insn};

use super::{Item, RewriteError};
use crate::verified::{MapArg, MemKind};

/// `MAX_USED_MAPS`.
pub(super) const MAX_USED_MAPS: usize = 64;

/// Renumbers the maps of all items; the list gives the index in the program's map list of each used map.
pub(super) fn number(items: &mut [Item]) -> Result<Vec<u32>, RewriteError> {
    let mut used = Vec::new();
    for item in &mut *items {
        let Insn::LdImm64 { imm, .. } = &mut item.insn else { continue };
        let map = match imm {
            Imm64::MapFd(map) | Imm64::MapIdx(map) => map,
            Imm64::MapValue { fd: map, .. } | Imm64::MapIdxValue { idx: map, .. } => map,
            Imm64::Const(_) | Imm64::BtfId { .. } | Imm64::Func(_) => continue,
        };
        let index = u32::try_from(*map)
            .map_err(|_| RewriteError::Internal { insn: item.at, what: "a map reference is negative" })?;
        let position = used.iter().position(|known| *known == index).unwrap_or_else(|| {
            used.push(index);
            used.len() - 1
        });
        let number = i32::try_from(position)
            .map_err(|_| RewriteError::Internal { insn: item.at, what: "a map number is too large" })?;
        *imm = match *imm {
            Imm64::MapValue { off, .. } | Imm64::MapIdxValue { off, .. } => Imm64::MapValue { fd: number, off },
            _ => Imm64::MapFd(number),
        };
    }
    if used.len() > MAX_USED_MAPS {
        return Err(RewriteError::TooManyMaps { count: used.len() });
    }
    for item in items {
        renumber_facts(item, &used);
    }
    Ok(used)
}

/// A map that the program does not name itself, as the inner map of another, has no number.
fn renumber_facts(item: &mut Item, used: &[u32]) {
    let number = |map: u32| used.iter().position(|known| *known == map).and_then(|at| u32::try_from(at).ok());
    item.facts.mem = match item.facts.mem {
        MemKind::MapValue(map) => number(map).map_or(MemKind::Mixed, MemKind::MapValue),
        MemKind::MapObject(map) => number(map).map_or(MemKind::Mixed, MemKind::MapObject),
        other => other,
    };
    if let MapArg::Known(map) = item.facts.helper_map {
        item.facts.helper_map = number(map).map_or(MapArg::Unknown, MapArg::Known);
    }
}
