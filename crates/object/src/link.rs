//! Programs: each with the functions that it reaches.
//!
//! Owns the order of functions in a program and the final form of references. Invariant: a function stands once in a
//! program, after the one that first refers to it, as libbpf places it, so that dumps agree; the sum of all programs is
//! capped, since one function can be in many. Kernel counterpart: `bpf_object__reloc_code`,
//! tools/lib/bpf/libbpf.c, 6.18.

use std::collections::HashMap;

use skep_abi::RawInsn;
use skep_btf::{Btf, BtfExt, CoreRelo, FuncInfo, LineInfo};

use crate::code::{Function, Functions, MAX_INSNS};
use crate::elf::Elf;
use crate::error::{Error, Result};
use crate::relocate::{Reference, Target};
use crate::sec::{Sec, parse_legacy_tail};
use crate::spec::{
    KsymRef, NO_MAP, PSEUDO_BTF_ID, PSEUDO_CALL, PSEUDO_FUNC, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE,
    ProgramSpec, SubprogSpec,
};

/// The most slots of all programs together.
const MAX_TOTAL: usize = 8 << 20;

/// Everything a program is linked from.
pub(crate) struct Linker<'a> {
    pub(crate) elf: &'a Elf<'a>,
    pub(crate) functions: &'a Functions,
    pub(crate) references: &'a [Vec<Reference>],
    pub(crate) infos: Infos<'a>,
    pub(crate) btf: Option<&'a Btf>,
}

/// `.BTF.ext` by section.
#[derive(Default)]
pub(crate) struct Infos<'a> {
    funcs: HashMap<&'a str, &'a [FuncInfo]>,
    lines: HashMap<&'a str, &'a [LineInfo]>,
    core_relos: HashMap<&'a str, Vec<CoreRelo>>,
}

impl<'a> Infos<'a> {
    pub(crate) fn new(ext: &'a BtfExt) -> Result<Self> {
        let mut out = Self::default();
        for info in &ext.funcs {
            once(out.funcs.insert(&info.section, &info.records), &info.section)?;
        }
        for info in &ext.lines {
            once(out.lines.insert(&info.section, &info.records), &info.section)?;
        }
        for info in &ext.core_relos {
            let mut records = info.records.clone();
            records.sort_by_key(|r| r.insn_off);
            once(out.core_relos.insert(&info.section, records), &info.section)?;
        }
        Ok(out)
    }
}

fn once<T>(before: Option<T>, section: &str) -> Result<()> {
    match before {
        None => Ok(()),
        Some(_) => Err(Error::Section {
            section: ".BTF.ext".into(),
            offset: 0,
            why: format!("two lists of records for section {}", crate::error::escaped(section)),
        }),
    }
}

/// The records of one function, moved to where it stands in a program: offsets become slots.
fn moved<T: Copy>(
    records: &[T],
    function: &Function,
    start: u32,
    insn_off: impl Fn(&mut T) -> &mut u32,
) -> impl Iterator<Item = T> {
    let offset_of = |record: &T| u64::from(*insn_off(&mut record.clone()));
    let first = records.partition_point(|r| offset_of(r) < function.offset);
    let last = records.partition_point(|r| offset_of(r) < function.end());
    let base = u32::try_from(function.offset / 8).unwrap_or(u32::MAX);
    records.get(first..last).unwrap_or_default().iter().map(move |record| {
        let mut record = *record;
        let off = insn_off(&mut record);
        *off = (*off / 8).saturating_sub(base).saturating_add(start);
        record
    })
}

impl Linker<'_> {
    /// Links every function that is a program.
    pub(crate) fn link(&self) -> Result<Vec<ProgramSpec>> {
        let mut out: Vec<ProgramSpec> = Vec::new();
        let mut total = 0usize;
        for (index, function) in self.functions.all.iter().enumerate() {
            if !self.is_program(function) {
                continue;
            }
            let program = self.link_one(index, function)?;
            total = total.saturating_add(program.insns.len());
            if total > MAX_TOTAL {
                let what = "instructions in all programs together";
                return Err(Error::TooLarge { what, have: total as u64, max: MAX_TOTAL as u64 });
            }
            out.push(program);
        }
        give_legacy_tails_a_type(&mut out);
        Ok(out)
    }

    /// Functions in `.text` are subprograms, unless the only function of the object is there.
    fn is_program(&self, function: &Function) -> bool {
        let in_text = self.elf.sections.get(function.section).is_some_and(|s| s.name == ".text");
        !function.is_local && (!in_text || self.functions.all.len() == 1)
    }

    fn link_one(&self, index: usize, function: &Function) -> Result<ProgramSpec> {
        let section = self.elf.sections.get(function.section).map_or("", |s| s.name);
        let plain = section.strip_prefix('?').unwrap_or(section);
        let mut program = ProgramSpec {
            name: function.name.clone(),
            section: plain.to_owned(),
            sec: Sec::parse(plain),
            legacy_tail: parse_legacy_tail(plain),
            autoload: !section.starts_with('?'),
            insns: Vec::new(),
            subprogs: Vec::new(),
            func_info: Vec::new(),
            line_info: Vec::new(),
            core_relos: Vec::new(),
            kfuncs: Vec::new(),
            ksyms: Vec::new(),
        };
        let mut starts: HashMap<usize, usize> = HashMap::new();
        self.link_from(&mut program, &mut starts, index)?;
        // No call leads to the handler of exceptions; a program that calls it all the same is refused by the verifier.
        if let Some(handler) = self.exception_callback(&program).filter(|handler| !starts.contains_key(handler)) {
            self.link_from(&mut program, &mut starts, handler)?;
        }
        Ok(program)
    }

    /// The function that a declaration tag of the program's own function names (`__exception_cb`).
    fn exception_callback(&self, program: &ProgramSpec) -> Option<usize> {
        let main = program.subprogs.first()?.type_id?;
        let name = self.btf?.decl_tags(main, -1).find_map(|tag| tag.strip_prefix("exception_callback:"))?;
        self.functions.all.iter().position(|function| !function.is_local && function.name == name)
    }

    /// Appends the function `root` and what it reaches.
    fn link_from(&self, program: &mut ProgramSpec, starts: &mut HashMap<usize, usize>, root: usize) -> Result<()> {
        // Depth first with a stack of its own: a function, where it starts, and its next reference.
        let mut stack = vec![(root, self.append(program, starts, root)?, 0usize)];
        while let Some((at, start, next)) = stack.last_mut() {
            let (at, start) = (*at, *start);
            let Some(reference) = self.references.get(at).and_then(|refs| refs.get(*next)) else {
                stack.pop();
                continue;
            };
            *next = next.saturating_add(1);
            let slot = start.saturating_add(reference.slot);
            if let Target::Call(to) | Target::FuncAddress(to) = reference.target {
                let to_start = match starts.get(&to) {
                    Some(&to_start) => to_start,
                    None => {
                        let to_start = self.append(program, starts, to)?;
                        stack.push((to, to_start, 0));
                        to_start
                    }
                };
                point(&mut program.insns, slot, to_start, matches!(reference.target, Target::Call(_)))?;
            } else {
                fix(program, slot, &reference.target)?;
            }
        }
        Ok(())
    }

    /// Appends a function and its records; where it starts.
    fn append(&self, program: &mut ProgramSpec, starts: &mut HashMap<usize, usize>, index: usize) -> Result<usize> {
        let function = self.functions.get(index).ok_or(Error::Internal("a function is missing"))?;
        let start = program.insns.len();
        let have = start.saturating_add(function.insns.len());
        if have > MAX_INSNS {
            let what = "instructions in one program";
            return Err(Error::TooLarge { what, have: have as u64, max: MAX_INSNS as u64 });
        }
        program.insns.extend_from_slice(&function.insns);
        starts.insert(index, start);
        let section = self.elf.sections.get(function.section).map_or("", |s| s.name);
        let narrow = |n: usize| u32::try_from(n).map_err(|_| Error::Internal("a program is over its limit"));
        let at = narrow(start)?;
        let funcs = self.infos.funcs.get(section).copied().unwrap_or_default();
        let funcs: Vec<FuncInfo> = moved(funcs, function, at, |r| &mut r.insn_off).collect();
        program.subprogs.push(SubprogSpec {
            name: function.name.clone(),
            section: section.strip_prefix('?').unwrap_or(section).to_owned(),
            section_offset: u32::try_from(function.offset).unwrap_or(u32::MAX),
            start: at,
            len: narrow(function.insns.len())?,
            type_id: funcs.first().filter(|f| f.insn_off == at).map(|f| f.type_id),
            is_global: function.is_global,
        });
        program.func_info.extend(funcs);
        let lines = self.infos.lines.get(section).copied().unwrap_or_default();
        program.line_info.extend(moved(lines, function, at, |r| &mut r.insn_off));
        let relos = self.infos.core_relos.get(section).map(Vec::as_slice).unwrap_or_default();
        program.core_relos.extend(moved(relos, function, at, |r| &mut r.insn_off));
        Ok(start)
    }
}

fn slot_mut(insns: &mut [RawInsn], slot: usize) -> Result<&mut RawInsn> {
    insns.get_mut(slot).ok_or(Error::Internal("a reference is outside its program"))
}

fn narrow(index: usize) -> Result<i32> {
    i32::try_from(index).map_err(|_| Error::Internal("an index is over its limit"))
}

/// Makes the instruction at `slot` lead to the function at `target`.
fn point(insns: &mut [RawInsn], slot: usize, target: usize, is_call: bool) -> Result<()> {
    let distance = narrow(target)?.checked_sub(narrow(slot)?).and_then(|d| d.checked_sub(1));
    let insn = slot_mut(insns, slot)?;
    insn.imm = distance.ok_or(Error::Internal("a program is over its limit"))?;
    insn.src = if is_call { PSEUDO_CALL } else { PSEUDO_FUNC };
    if !is_call {
        slot_mut(insns, slot.saturating_add(1))?.imm = 0;
    }
    Ok(())
}

/// Writes a reference to something outside the program.
fn fix(program: &mut ProgramSpec, slot: usize, target: &Target) -> Result<()> {
    let (src, imm, second) = match target {
        Target::Map(map) => (PSEUDO_MAP_FD, narrow(*map)?, Some(0)),
        Target::MapValue { map, offset } => (PSEUDO_MAP_VALUE, narrow(*map)?, Some(*offset)),
        Target::Kfunc(ksym) => (PSEUDO_KFUNC_CALL, narrow(index_of(&mut program.kfuncs, ksym))?, None),
        Target::Ksym(ksym) => (PSEUDO_BTF_ID, narrow(index_of(&mut program.ksyms, ksym))?, Some(0)),
        Target::Zero => (0, 0, Some(0)),
        Target::NoMap => (PSEUDO_MAP_FD, NO_MAP, Some(0)),
        Target::Call(_) | Target::FuncAddress(_) => return Err(Error::Internal("a function is no outside reference")),
    };
    let insn = slot_mut(&mut program.insns, slot)?;
    (insn.src, insn.imm) = (src, imm);
    if let Some(second) = second {
        slot_mut(&mut program.insns, slot.saturating_add(1))?.imm = second;
    }
    Ok(())
}

fn index_of(list: &mut Vec<KsymRef>, ksym: &KsymRef) -> usize {
    match list.iter().position(|known| known == ksym) {
        Some(index) => index,
        None => {
            list.push(ksym.clone());
            list.len().saturating_sub(1)
        }
    }
}

/// Sections `N/M` name no type; iproute2 loads them with that of the other programs.
fn give_legacy_tails_a_type(programs: &mut [ProgramSpec]) {
    let mut secs = programs.iter().filter_map(|p| p.sec.clone());
    let Some(first) = secs.next() else { return };
    if secs.all(|sec| sec.prog_type == first.prog_type) {
        for program in programs.iter_mut().filter(|p| p.sec.is_none() && p.legacy_tail.is_some()) {
            program.sec = Some(first.clone());
        }
    }
}
