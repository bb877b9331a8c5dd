//! The functions of an object, before linking.
//!
//! Owns cutting executable sections into functions and the checks that need no verifier. Invariant: functions do not
//! overlap, hold whole instructions, and no jump in them leads into the second half of an `ld_imm64`.
//! Kernel counterpart: `bpf_object__add_programs`, tools/lib/bpf/libbpf.c, 6.18.

use skep_abi::RawInsn;

use crate::elf::{Elf, Section};
use crate::error::{Error, Result, escaped};

/// The most slots of one function or program: the kernel's `BPF_COMPLEXITY_LIMIT_INSNS`.
pub(crate) const MAX_INSNS: usize = 1_000_000;

/// A function as it stands in its section.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Index of its section.
    pub(crate) section: usize,
    /// Where it starts, in bytes.
    pub(crate) offset: u64,
    pub(crate) insns: Vec<RawInsn>,
    /// Visible to other objects: the verifier checks it by itself.
    pub(crate) is_global: bool,
    /// Its symbol is global, hidden or not: a static function is no program.
    pub(crate) is_local: bool,
    pub(crate) is_hidden: bool,
}

impl Function {
    pub(crate) fn size(&self) -> u64 {
        (self.insns.len() as u64).saturating_mul(8)
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size())
    }
}

/// All functions, by section and offset.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    pub(crate) all: Vec<Function>,
}

impl Functions {
    pub(crate) fn parse(elf: &Elf<'_>) -> Result<Self> {
        let mut all = Vec::new();
        for (index, section) in elf.sections.iter().enumerate().filter(|(_, s)| s.is_exec) {
            if section.data.len() % 8 != 0 {
                let why = format!("{} bytes of code are no multiple of 8", section.data.len());
                return Err(in_section(section, section.data.len() as u64, why));
            }
            let mut ranges: Vec<_> = elf.symbols_in(index).filter(|s| s.is_func).collect();
            ranges.sort_by_key(|s| (s.value, s.size));
            check_ranges(section, &ranges)?;
            for symbol in ranges {
                all.push(parse_function(index, section, symbol)?);
            }
        }
        Ok(Self { all })
    }

    /// The function that starts at `offset` of `section`.
    pub(crate) fn at(&self, section: usize, offset: u64) -> Option<usize> {
        self.all.binary_search_by_key(&(section, offset), |f| (f.section, f.offset)).ok()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Function> {
        self.all.get(index)
    }

    /// The function that holds `offset` of `section`.
    pub(crate) fn holding(&self, section: usize, offset: u64) -> Option<usize> {
        let after = self.all.partition_point(|f| (f.section, f.offset) <= (section, offset));
        let index = after.checked_sub(1)?;
        let found = self.all.get(index)?;
        (found.section == section && offset < found.end()).then_some(index)
    }
}

fn in_section(section: &Section<'_>, offset: u64, why: impl Into<String>) -> Error {
    Error::Section { section: escaped(section.name), offset, why: why.into() }
}

fn check_ranges(section: &Section<'_>, ranges: &[&crate::elf::Symbol<'_>]) -> Result<()> {
    let mut end = 0u64;
    let mut last = "";
    for symbol in ranges {
        let name = escaped(symbol.name);
        if symbol.name.is_empty() {
            return Err(in_section(section, symbol.value, "a function has no name"));
        }
        if symbol.size == 0 {
            return Err(in_section(section, symbol.value, format!("function {name} has size 0")));
        }
        if symbol.value % 8 != 0 || symbol.size % 8 != 0 {
            let why = format!("function {name} of {} bytes holds no whole instructions", symbol.size);
            return Err(in_section(section, symbol.value, why));
        }
        let Some(stop) = symbol.value.checked_add(symbol.size).filter(|&stop| stop <= section.data.len() as u64) else {
            let why = format!("function {name} of {} bytes ends outside the section", symbol.size);
            return Err(in_section(section, symbol.value, why));
        };
        if symbol.value < end {
            let why = format!("function {name} overlaps function {}", escaped(last));
            return Err(in_section(section, symbol.value, why));
        }
        if symbol.size / 8 > MAX_INSNS as u64 {
            return Err(Error::TooLarge {
                what: "instructions in one function",
                have: symbol.size / 8,
                max: MAX_INSNS as u64,
            });
        }
        (end, last) = (stop, symbol.name);
    }
    Ok(())
}

fn parse_function(index: usize, section: &Section<'_>, symbol: &crate::elf::Symbol<'_>) -> Result<Function> {
    let range = usize::try_from(symbol.value).ok().zip(usize::try_from(symbol.value.saturating_add(symbol.size)).ok());
    let bytes = range.and_then(|(start, end)| section.data.get(start..end));
    let Some(bytes) = bytes else { return Err(Error::Internal("a function's range was not checked")) };
    let insns = RawInsn::program_from_bytes(bytes).map_err(|_| Error::Internal("a function's size was not checked"))?;
    check_code(section, symbol.value, &insns)?;
    Ok(Function {
        name: symbol.name.to_owned(),
        section: index,
        offset: symbol.value,
        insns,
        is_global: !symbol.is_local && !symbol.is_hidden,
        is_local: symbol.is_local,
        is_hidden: symbol.is_hidden,
    })
}

/// Refuses a cut `ld_imm64` and jumps into one.
fn check_code(section: &Section<'_>, start: u64, insns: &[RawInsn]) -> Result<()> {
    let offset = |at: usize| start.saturating_add((at as u64).saturating_mul(8));
    let mut is_second = vec![false; insns.len()];
    let mut at = 0;
    while let Some(insn) = insns.get(at) {
        if insn.is_ld_imm64() {
            at = at.saturating_add(1);
            match (insns.get(at), is_second.get_mut(at)) {
                (Some(RawInsn { code: 0, .. }), Some(slot)) => *slot = true,
                _ => return Err(in_section(section, offset(at.saturating_sub(1)), "ld_imm64 is cut in half")),
            }
        }
        at = at.saturating_add(1);
    }
    for (at, insn) in insns.iter().enumerate() {
        if is_second.get(at) == Some(&true) {
            continue;
        }
        let Some(distance) = jump_distance(insn) else { continue };
        let target = i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1).saturating_add(distance);
        if usize::try_from(target).is_ok_and(|target| is_second.get(target) == Some(&true)) {
            return Err(in_section(section, offset(at), "jump into the middle of an ld_imm64"));
        }
    }
    Ok(())
}

/// How far a jump goes, in slots from the next one; `None` for what is no jump.
fn jump_distance(insn: &RawInsn) -> Option<i64> {
    const JMP: u8 = 5;
    const JMP32: u8 = 6;
    match (insn.code & 7, insn.code & 0xf0) {
        (JMP, 0x80 | 0x90) => None,
        (JMP32, 0x00) => Some(i64::from(insn.imm)),
        (JMP | JMP32, _) => Some(i64::from(insn.off)),
        _ => None,
    }
}
