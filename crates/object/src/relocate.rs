//! What the instructions of a function refer to.
//!
//! Owns the meaning of relocations, and of calls that the compiler resolved itself. Invariant: every reference leads to
//! a map, a function or an extern that exists; an instruction that needs a relocation and has none is refused.
//! Kernel counterpart: `bpf_program__record_reloc`, tools/lib/bpf/libbpf.c, 6.18.

use std::collections::HashMap;

use object::elf::{R_BPF_64_32, R_BPF_64_64};
use skep_abi::RawInsn;

use crate::code::{Function, Functions};
use crate::elf::{Elf, Relocation, Symbol};
use crate::error::{Error, Result, escaped};
use crate::externs::{Extern, Externs};
use crate::maps::Defined;
use crate::spec::{KsymRef, PSEUDO_CALL, PSEUDO_FUNC, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE};

const CALL: u8 = 0x85;

/// What one instruction refers to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A map itself.
    Map(usize),
    /// A place in a map's value.
    MapValue { map: usize, offset: i32 },
    /// A function that is called.
    Call(usize),
    /// A function whose address is taken.
    FuncAddress(usize),
    /// A kernel function that is called.
    Kfunc(KsymRef),
    /// A kernel symbol whose address is taken.
    Ksym(KsymRef),
    /// A weak extern that nobody defines.
    Zero,
    /// A map by file descriptor, which means nothing in a file: the verifier refuses it if it is reached.
    NoMap,
}

/// A reference: the slot in the function, and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub(crate) slot: usize,
    pub(crate) target: Target,
}

/// Where things are, for the lookup of symbols.
pub(crate) struct Context<'a> {
    pub(crate) elf: &'a Elf<'a>,
    pub(crate) functions: &'a Functions,
    pub(crate) defined: &'a [Defined],
    /// Index of `.maps`.
    pub(crate) maps_section: Option<usize>,
    pub(crate) data: &'a HashMap<usize, usize>,
    pub(crate) externs: &'a Externs,
}

/// The references of every function, each in order of slot.
pub(crate) fn collect(cx: &Context<'_>) -> Result<Vec<Vec<Reference>>> {
    let mut all: Vec<Vec<Reference>> = vec![Vec::new(); cx.functions.all.len()];
    for (index, section) in cx.elf.sections.iter().enumerate().filter(|(_, s)| s.is_exec) {
        for rel in cx.elf.relocations(index)? {
            let bad = |why: String| Error::Relocation { section: escaped(section.name), offset: rel.offset, why };
            if rel.offset % 8 != 0 {
                return Err(bad("the offset is not that of an instruction".into()));
            }
            if rel.offset >= section.size {
                return Err(bad(format!("it lies outside the section of {} bytes", section.size)));
            }
            // What lies between functions is never loaded.
            let Some(holder) = cx.functions.holding(index, rel.offset) else { continue };
            let (Some(function), Some(refs)) = (cx.functions.get(holder), all.get_mut(holder)) else {
                return Err(Error::Internal("a function is missing"));
            };
            let slot = usize::try_from(rel.offset.saturating_sub(function.offset) / 8).unwrap_or(usize::MAX);
            let insn = function.insns.get(slot).ok_or(Error::Internal("a slot is missing"))?;
            let target = cx.resolve(&rel, insn).map_err(bad)?;
            refs.push(Reference { slot, target });
        }
    }
    for (function, refs) in cx.functions.all.iter().zip(&mut all) {
        add_local_calls(cx, function, refs)?;
    }
    Ok(all)
}

impl Context<'_> {
    /// What one relocation says; the error is only the reason.
    fn resolve(&self, rel: &Relocation, insn: &RawInsn) -> Result<Target, String> {
        let Some(symbol) = self.elf.symbols.get(rel.symbol) else { return Err("its symbol is missing".into()) };
        let is_call = rel.kind == R_BPF_64_32.0;
        if !is_call && rel.kind != R_BPF_64_64.0 {
            return Err(format!("unknown type {} on an instruction", rel.kind));
        }
        match (is_call, insn.code) {
            (true, CALL) if insn.src == PSEUDO_CALL => self.resolve_call(symbol, insn),
            (true, CALL) => Err(format!("a call of kind {} takes none", insn.src)),
            (false, _) if insn.is_ld_imm64() => self.resolve_address(symbol, insn),
            _ => {
                Err(format!("invalid relocation of type {} for an instruction with code {:#04x}", rel.kind, insn.code))
            }
        }
    }

    fn resolve_call(&self, symbol: &Symbol<'_>, insn: &RawInsn) -> Result<Target, String> {
        let name = escaped(symbol.name);
        if symbol.is_undefined {
            return match self.externs.get(symbol.name) {
                Some(Extern::Func(ksym)) => Ok(Target::Kfunc(ksym.clone())),
                Some(_) => Err(format!("extern {name} is called and is no function")),
                None => Err(format!("undefined extern {name}")),
            };
        }
        let distance = i64::from(insn.imm).saturating_add(1).saturating_mul(8);
        let offset = symbol.value.checked_add_signed(distance);
        let found = symbol.section.zip(offset).and_then(|(section, offset)| self.functions.at(section, offset));
        found.map(Target::Call).ok_or_else(|| format!("call of {name}, where no function starts"))
    }

    fn resolve_address(&self, symbol: &Symbol<'_>, insn: &RawInsn) -> Result<Target, String> {
        let name = escaped(symbol.name);
        if symbol.is_undefined {
            return match self.externs.get(symbol.name) {
                Some(&Extern::Kconfig { map, offset }) => {
                    Ok(Target::MapValue { map, offset: i32::try_from(offset).map_err(|_| "offset too large")? })
                }
                Some(Extern::Var(ksym)) if ksym.is_weak => Ok(Target::Zero),
                Some(Extern::Var(ksym) | Extern::Func(ksym)) => Ok(Target::Ksym(ksym.clone())),
                None if symbol.is_weak => Ok(Target::Zero),
                None => Err(format!("undefined extern {name}")),
            };
        }
        let Some(section) = symbol.section else { return Err(format!("{name} is in no section")) };
        let offset = symbol.value.checked_add_signed(i64::from(insn.imm));
        let Some(offset) = offset else { return Err(format!("offset {} before the start of {name}", insn.imm)) };
        if Some(section) == self.maps_section {
            let found = self.defined.binary_search_by_key(&offset, |d| u64::from(d.offset)).ok();
            return found.map(Target::Map).ok_or_else(|| format!("no map is defined at {offset:#x} of .maps"));
        }
        if let Some(&map) = self.data.get(&section) {
            let offset = i32::try_from(offset).map_err(|_| format!("offset {offset:#x} is too large"))?;
            return Ok(Target::MapValue { map, offset });
        }
        if self.elf.sections.get(section).is_some_and(|s| s.is_exec) {
            let found = self.functions.at(section, offset);
            return found.map(Target::FuncAddress).ok_or_else(|| format!("{name}+{} is no function", insn.imm));
        }
        Err(format!("{name} is in section {}, which is not loaded", self.elf.section_name(section)))
    }
}

/// Adds the calls inside a section, which need no relocation, and refuses what would need one.
fn add_local_calls(cx: &Context<'_>, function: &Function, refs: &mut Vec<Reference>) -> Result<()> {
    let bad = |slot: usize, why: String| Error::Relocation {
        section: cx.elf.section_name(function.section),
        offset: function.offset.saturating_add((slot as u64).saturating_mul(8)),
        why,
    };
    refs.sort_by_key(|r| r.slot);
    if let Some(pair) = refs.windows(2).find(|pair| matches!(pair, [a, b] if a.slot == b.slot)) {
        return Err(bad(pair.first().map_or(0, |r| r.slot), "two relocations of one instruction".into()));
    }
    let mut local = Vec::new();
    let mut slot = 0;
    while let Some(insn) = function.insns.get(slot) {
        let wide = insn.is_ld_imm64();
        let takes = (insn.code == CALL || wide) && insn.src != 0;
        if takes && refs.binary_search_by_key(&slot, |r| r.slot).is_err() {
            let distance = i64::from(insn.imm).saturating_add(1).saturating_mul(8);
            let here = function.offset.saturating_add((slot as u64).saturating_mul(8));
            let target = here.checked_add_signed(distance).and_then(|to| cx.functions.at(function.section, to));
            let target = match (insn.code, insn.src, target) {
                (CALL, PSEUDO_CALL, Some(to)) => Target::Call(to),
                (CALL, PSEUDO_CALL, None) => return Err(bad(slot, "call of what is no function".into())),
                (CALL, ..) => return Err(bad(slot, "a kernel function is called without a relocation".into())),
                (_, PSEUDO_FUNC, Some(to)) => Target::FuncAddress(to),
                (_, PSEUDO_FUNC, None) => return Err(bad(slot, "address of what is no function".into())),
                (_, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE, _) => Target::NoMap,
                (_, src, _) => return Err(bad(slot, format!("ld_imm64 of kind {src} without a relocation"))),
            };
            local.push(Reference { slot, target });
        }
        slot = slot.saturating_add(if wide { 2 } else { 1 });
    }
    if !local.is_empty() {
        refs.append(&mut local);
        refs.sort_by_key(|r| r.slot);
    }
    Ok(())
}
