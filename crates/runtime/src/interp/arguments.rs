//! Tests of what a program passes to helpers.
//!
//! Invariant: after [`Interp::check_arguments`] every pointer argument is what the helper's prototype says, or null where that
//! may be. Kernel counterpart: `check_func_arg`,
//! kernel/bpf/verifier.c, 6.18, which does it before the program runs.

use skep_abi::helper::{ArgKind, ArgType, TypeFlags, helper};
use skep_abi::kfunc::{KfuncArg, KfuncProto};

use super::memory::Kind;
use super::{FaultKind, Interp, Stopped};
use crate::map::{MapObject, MapRef};

/// Bytes of a dynptr.
const DYNPTR: u64 = 16;
/// The longest constant string that is looked through for its end.
const MAX_STRING: u64 = 4096;

impl<'a> Interp<'a> {
    /// Tests the arguments of helper `id` in r1 to r5.
    pub(super) fn check_arguments(&self, insn: usize, id: i32, regs: &[u64; 12]) -> Result<(), Stopped> {
        let program = self.program.get();
        let added = program.protos.iter().find(|proto| i64::from(proto.id) == i64::from(id));
        let Some(proto) = added.or_else(|| helper(u32::try_from(id).ok()?)) else { return Ok(()) };
        let mut map = None;
        for (at, arg) in proto.args.iter().enumerate() {
            let value = regs[at + 1];
            // A null pointer with a length is none that a helper expects.
            let has_len = proto.args.get(at + 1).is_some_and(|next| next.is_mem_size()) && regs[at + 2] != 0;
            if value == 0 && arg.flags.has(TypeFlags::MAYBE_NULL) && !has_len {
                continue;
            }
            match arg.kind {
                ArgKind::ConstMapPtr => {
                    map = self.map_object(value);
                    if map.is_none() {
                        let argument = u8::try_from(at + 1).unwrap_or(0);
                        self.stop(insn, FaultKind::NotAMap { helper: proto.id, argument })?;
                    }
                }
                ArgKind::PtrToMapKey => {
                    let len = map.map_or(0, |map| map.info().key_size);
                    self.check(insn, value, u64::from(len), Kind::Read)?;
                }
                ArgKind::PtrToMapValue => {
                    let len = map.map_or(0, |map| map.info().value_size);
                    let kind = if arg.flags.has(TypeFlags::UNINIT) { Kind::Write } else { Kind::Read };
                    self.check(insn, value, u64::from(len), kind)?;
                }
                ArgKind::PtrToMem => {
                    let next = proto.args.get(at + 1).map(|next| next.kind);
                    let len = match next {
                        Some(ArgKind::ConstSize | ArgKind::ConstSizeOrZero) => regs[at + 2],
                        _ => u64::from(arg.size),
                    };
                    self.check(insn, value, len, memory_kind(arg))?;
                }
                ArgKind::PtrToCtx if value != self.ctx.object() as u64 => {
                    self.stop(insn, FaultKind::Read { address: value, len: 1 })?;
                }
                ArgKind::PtrToSpinLock => self.check(insn, value, 4, Kind::Write)?,
                ArgKind::KptrXchgDest => self.check(insn, value, 8, Kind::Write)?,
                ArgKind::PtrToDynptr => self.check_dynptr(insn, arg, value)?,
                ArgKind::PtrToConstStr => self.check_string(insn, value)?,
                // What a callback gets is the program's affair: it may point beyond the stack as long as nothing is read there.
                ArgKind::PtrToRingbufMem => self.check_record(insn, value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Tests the arguments of a kernel function in r1 to r5.
    pub(super) fn check_kfunc_arguments(
        &self,
        insn: usize,
        proto: &KfuncProto,
        regs: &[u64; 12],
    ) -> Result<(), Stopped> {
        for (at, arg) in proto.args.iter().enumerate() {
            let value = regs[at + 1];
            match *arg {
                KfuncArg::Ctx if value != self.ctx.object() as u64 => {
                    self.stop(insn, FaultKind::Read { address: value, len: 1 })?;
                }
                KfuncArg::Map if self.map_object(value).is_none() => {
                    self.stop(insn, FaultKind::NotAMap { helper: 0, argument: u8::try_from(at + 1).unwrap_or(0) })?;
                }
                KfuncArg::Dynptr => self.check_made_dynptr(insn, value)?,
                KfuncArg::DynptrOrNull if value != 0 => self.check_made_dynptr(insn, value)?,
                KfuncArg::NewDynptr(_) => self.check(insn, value, DYNPTR, Kind::Write)?,
                KfuncArg::Iter(iter) => self.check(insn, value, u64::from(iter.slots) * 8, Kind::Write)?,
                KfuncArg::Mem(size, _) => self.check(insn, value, u64::from(size), Kind::Write)?,
                KfuncArg::ListHead | KfuncArg::RbRoot => self.check(insn, value, 16, Kind::Write)?,
                KfuncArg::ListNode => self.check(insn, value, 24, Kind::Write)?,
                KfuncArg::RbNode => self.check(insn, value, 32, Kind::Write)?,
                KfuncArg::ResLock => self.check(insn, value, 4, Kind::Write)?,
                KfuncArg::IrqFlag => self.check(insn, value, 8, Kind::Write)?,
                KfuncArg::Alloc | KfuncArg::Refcounted => self.check(insn, value, 1, Kind::Write)?,
                KfuncArg::MemSizedOrNull if value == 0 => {}
                KfuncArg::MemSized | KfuncArg::MemSizedOrNull => {
                    self.check(insn, value, u64::from(crate::helper::low(regs[at + 2])), Kind::Write)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The map object at `address`: one of the program's maps, or a map that a lookup in one of them found.
    fn map_object(&self, address: u64) -> Option<&'a MapObject> {
        if let Some(map) = self.map_at(address) {
            return Some(map);
        }
        let known = self.inner_maps.borrow().contains(&address);
        // SAFETY: an inner map that a lookup returned is kept to the end of the run.
        known.then(|| unsafe { MapObject::from_addr(address) })
    }

    /// Remembers what a lookup returned, if it is a map and not a value.
    pub(super) fn note_inner_map(&self, map: u64, found: u64) {
        let holds_maps = self.map_at(map).is_some_and(|map: &MapRef| map.info().map_type.is_map_of_maps());
        let mut inner = self.inner_maps.borrow_mut();
        if holds_maps && found != 0 && !inner.contains(&found) {
            inner.push(found);
        }
    }

    /// Whether a map that a lookup found has these bytes in a value.
    pub(super) fn inner_map_contains(&self, address: u64, len: u64, kind: Kind) -> bool {
        self.inner_maps.borrow().iter().any(|&map| {
            // SAFETY: as in `map_object`.
            let map = unsafe { MapObject::from_addr(map) };
            map.ops().contains(address, len).is_some_and(|a| if kind == Kind::Read { a.read } else { a.write })
        })
    }

    /// A dynptr lies on the stack; unless it is about to be made, what it leads to is the run's memory.
    fn check_dynptr(&self, insn: usize, arg: &ArgType, at: u64) -> Result<(), Stopped> {
        if arg.flags.has(TypeFlags::UNINIT) {
            return self.check(insn, at, DYNPTR, Kind::Write);
        }
        self.check_made_dynptr(insn, at)
    }

    fn check_made_dynptr(&self, insn: usize, at: u64) -> Result<(), Stopped> {
        self.check(insn, at, DYNPTR, Kind::Write)?;
        // SAFETY: the address of a dynptr, by the prototype.
        let dynptr = unsafe { crate::helper::dynptr::at(at) };
        // SAFETY: writable memory of the run (tested above).
        let dynptr = unsafe { dynptr.read_unaligned() };
        match dynptr.memory() {
            Some((start, len)) => self.check(insn, start, len, Kind::Read),
            None => Ok(()),
        }
    }

    /// A string ends within the memory that it begins in.
    fn check_string(&self, insn: usize, at: u64) -> Result<(), Stopped> {
        for address in (at..).take(usize::try_from(MAX_STRING).unwrap_or(usize::MAX)) {
            if self.load(insn, address, skep_abi::Size::B)? == 0 {
                return Ok(());
            }
        }
        self.check(insn, at, u64::MAX, Kind::Read)
    }

    /// A record was granted by the reservation that made it.
    fn check_record(&self, insn: usize, at: u64) -> Result<(), Stopped> {
        if self.granted.borrow().iter().any(|grant| grant.start == at) {
            return Ok(());
        }
        self.check(insn, at, u64::MAX, Kind::Write)
    }
}

fn memory_kind(arg: &ArgType) -> Kind {
    let writes = arg.flags.has(TypeFlags::UNINIT) || arg.flags.has(TypeFlags::WRITE);
    if writes { Kind::Write } else { Kind::Read }
}
