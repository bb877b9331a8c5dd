//! The interpreter's form of a program: decoded once, references resolved.
//!
//! Invariant: `ops` has one entry per slot, and the second slot of an `ld_imm64` is not executable. Kernel counterpart:
//! `bpf_patch_call_args` and the fix-ups of `bpf_prog_select_runtime`, kernel/bpf/core.c, 6.18.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use skep_abi::helper::HelperProto;
use skep_abi::{CallTarget, Errno, Imm64, Insn, RawInsn, decode_xlated};
use skep_verifier::{MemKind, Xlated};
use thiserror::Error;

use crate::map::arena::Arena;
use crate::map::{MapAccessInfo, MapRef};
use crate::program::ProgInner;

/// Why a program cannot be interpreted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InterpError {
    /// A slot that is no instruction: the rewrite made it, so it is a bug of ours.
    #[error("slot {slot} of the rewritten program cannot be decoded")]
    Internal {
        /// The slot.
        slot: usize,
        /// The decoder's reason.
        #[source]
        source: skep_abi::DecodeError,
    },
    /// A reference that is not resolved.
    #[error("slot {slot}: {what} is not known to the engine")]
    Unresolved {
        /// The slot.
        slot: usize,
        /// What is referred to.
        what: String,
    },
}

impl InterpError {
    /// As `BPF_PROG_LOAD` fails.
    #[must_use]
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Addresses of what a program refers to.
pub struct Resolve<'a> {
    /// By index in the program's used maps.
    pub maps: &'a [MapRef],
    /// Address of a helper.
    pub helper: &'a dyn Fn(u32) -> Option<u64>,
    /// Addresses of kfuncs by index.
    pub kfuncs: &'a [u64],
    /// Prototypes of helpers that are not the kernel's.
    pub protos: Vec<HelperProto>,
}

/// One slot: the instruction and the value or address that it needs.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub(super) insn: Insn,
    /// The value of an `ld_imm64`, the address of a helper, the target slot of a call.
    pub(super) value: u64,
    /// The second slot of an `ld_imm64`.
    pub(super) filler: bool,
    /// It accesses the arena.
    pub(super) arena: bool,
}

/// Callback tokens: a tag no pointer of user space has, and the slot.
const TOKEN: u64 = 0xcb00_0000_0000_0000;

/// A program that the interpreter runs.
pub struct InterpProgram {
    pub(super) name: String,
    pub(super) ops: Vec<Op>,
    /// First slot and stack bytes of each subprogram, ascending.
    pub(super) subprogs: Vec<(usize, u32)>,
    /// What takes the place of each subprogram; null for none.
    replaced: Vec<AtomicPtr<ProgInner>>,
    pub(super) maps: Vec<MapRef>,
    /// Prototypes of helpers that are not the kernel's.
    pub(super) protos: Vec<HelperProto>,
}

impl InterpProgram {
    /// Decodes `xlated`.
    ///
    /// # Errors
    /// A slot that does not decode, or a reference that `resolve` does not know.
    pub fn new(name: &str, xlated: &Xlated, resolve: &Resolve<'_>) -> Result<Self, InterpError> {
        let mut ops = Vec::with_capacity(xlated.insns.len());
        let mut slot = 0;
        while slot < xlated.insns.len() {
            let insn = decode_xlated(&xlated.insns, slot).map_err(|source| InterpError::Internal { slot, source })?;
            let value = value_of(&xlated.insns, slot, insn, resolve)?;
            for filler in (0..insn.slots()).map(|n| n > 0) {
                let arena = xlated.facts.get(slot).is_some_and(|facts| facts.mem == MemKind::Arena);
                ops.push(Op { insn, value, filler, arena });
            }
            slot += insn.slots();
        }
        let subprogs = xlated.subprogs.iter().map(|s| (s.start as usize, s.stack_depth)).collect();
        let replaced = xlated.subprogs.iter().map(|_| AtomicPtr::default()).collect();
        let (maps, protos) = (resolve.maps.to_vec(), resolve.protos.clone());
        Ok(Self { name: name.to_owned(), ops, subprogs, replaced, maps, protos })
    }

    /// Puts another program in the place of subprogram `number`, or takes it away again; false without such a subprogram.
    /// The caller keeps it until a grace period after it was taken away.
    pub(crate) fn replace(&self, number: usize, with: Option<&Arc<ProgInner>>) -> bool {
        let with = with.map_or(std::ptr::null_mut(), |with| Arc::as_ptr(with).cast_mut());
        self.replaced.get(number).map(|place| place.store(with, Ordering::Release)).is_some()
    }

    /// What takes the place of the subprogram that starts at `slot`.
    pub(super) fn replacement(&self, slot: usize) -> Option<&InterpProgram> {
        let number = self.subprogs.binary_search_by_key(&slot, |s| s.0).ok()?;
        let with = self.replaced.get(number)?.load(Ordering::Acquire);
        // SAFETY: whoever put the program here keeps it until a grace period after it was taken away, and the run that asks
        // holds grace periods up.
        unsafe { with.as_ref() }?.interpreted()
    }

    /// The arena, where the program has one.
    pub(super) fn arena(&self) -> Option<&Arena> {
        self.maps.iter().find_map(|map| map.downcast())
    }

    /// The first slot of the callback with this token.
    pub(super) fn callback(&self, token: u64) -> Option<usize> {
        let slot = usize::try_from(token.checked_sub(TOKEN)?).ok()?;
        self.subprogs.binary_search_by_key(&slot, |s| s.0).ok().map(|_| slot)
    }

    /// Stack bytes of the subprogram that starts at `slot`, a multiple of 8.
    pub(super) fn stack_depth(&self, slot: usize) -> u64 {
        let depth = self.subprogs.binary_search_by_key(&slot, |s| s.0).map_or(512, |i| self.subprogs[i].1);
        u64::from(depth).next_multiple_of(8)
    }
}

/// What `ld_imm64` of byte `off` of the map's first value loads: an address, or an offset in per-CPU memory that
/// `mov64_percpu_reg` follows.
fn direct_value(map: &MapRef, off: u32) -> Option<u64> {
    match map.ops().access() {
        MapAccessInfo::Arena { start, .. } => Some(start + u64::from(off)),
        MapAccessInfo::Array { values, stride, max_entries }
        | MapAccessInfo::PerCpuArray { off: values, stride, max_entries } => {
            (u64::from(off) < u64::from(stride) * u64::from(max_entries)).then(|| values + u64::from(off))
        }
        _ => None,
    }
}

/// The upper half of addresses in the arena.
fn arena_base(maps: &[MapRef]) -> Option<u64> {
    maps.iter().find_map(|map| match map.ops().access() {
        MapAccessInfo::Arena { base, .. } => Some(base),
        _ => None,
    })
}

fn value_of(program: &[RawInsn], slot: usize, insn: Insn, resolve: &Resolve<'_>) -> Result<u64, InterpError> {
    let unresolved = |what: String| InterpError::Unresolved { slot, what };
    let map = |index: i32| {
        usize::try_from(index).ok().and_then(|i| resolve.maps.get(i)).ok_or_else(|| unresolved(format!("map {index}")))
    };
    let target = |distance: i32, next: usize| i64::try_from(next).unwrap_or(i64::MAX) + i64::from(distance);
    Ok(match insn {
        Insn::AddrSpaceCast { .. } => arena_base(resolve.maps).ok_or_else(|| unresolved("the arena".to_owned()))?,
        Insn::LdImm64 { imm, .. } => match imm {
            Imm64::Const(value) => value,
            Imm64::MapFd(index) | Imm64::MapIdx(index) => map(index)?.addr(),
            Imm64::MapValue { fd: index, off } | Imm64::MapIdxValue { idx: index, off } => {
                direct_value(map(index)?, off)
                    .ok_or_else(|| unresolved(format!("value of map {index} at offset {off}")))?
            }
            // Subprogram distances count from the next *slot* of the two-slot instruction, as the kernel's imm does.
            Imm64::Func(distance) => {
                let slot_of_target = u64::try_from(target(distance, slot + 1))
                    .map_err(|_| unresolved(format!("callback at distance {distance}")))?;
                TOKEN + slot_of_target
            }
            Imm64::BtfId { id, .. } => return Err(unresolved(format!("kernel variable {id}"))),
        },
        Insn::Call { target: CallTarget::Helper(id) } => {
            u32::try_from(id).ok().and_then(resolve.helper).ok_or_else(|| unresolved(format!("helper {id}")))?
        }
        Insn::Call { target: CallTarget::Kfunc { id, .. } } => usize::try_from(id)
            .ok()
            .and_then(|i| resolve.kfuncs.get(i).copied())
            .ok_or_else(|| unresolved(format!("kfunc {id}")))?,
        Insn::Call { target: CallTarget::Subprog(distance) } => {
            let to = target(distance, slot + 1);
            u64::try_from(to)
                .ok()
                .filter(|&to| to < program.len() as u64)
                .ok_or_else(|| unresolved(format!("subprogram at slot {to}")))?
        }
        _ => 0,
    })
}
