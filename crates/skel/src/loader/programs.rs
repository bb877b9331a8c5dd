//! The programs of a loader: their instructions and records as data, and what only the kernel knows as calls.
//!
//! Invariant: instructions name maps by their place in the array of descriptors, so that nothing in them depends on the
//! numbers that a run gets. Kernel counterpart: `bpf_gen__prog_load`, tools/lib/bpf/gen_loader.c, 6.18.

use skep_abi::{AttachType, ProgType, RawInsn};
use skep_object::spec::{
    PSEUDO_BTF_ID, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE,
};
use skep_object::{KsymRef, ProgramSpec, Sec};

use super::attr::{self, Attr, ctx, prog};
use super::code::Forward;
use super::{Loader, Slots};
use crate::error::{Error, Result};

const CALL: u8 = 0x85;
const KIND_FUNC: i32 = 12;
const KIND_VAR: i32 = 14;
const KIND_TYPEDEF: i32 = 8;
const LD_IMM64: u8 = 0x18;
/// Bytes of an instruction's slot, and where its `off` and `imm` are.
const SLOT: u32 = 8;
const OFF: u32 = 2;
const IMM: u32 = 4;

impl Loader<'_> {
    pub(super) fn program(&mut self, index: usize) -> Result<()> {
        let object = self.object;
        let Some(program) = object.programs.get(index).filter(|program| program.autoload) else { return Ok(()) };
        let refused = |why: &str| Error::Loader { program: program.name.clone(), why: why.to_owned() };
        let sec = program.sec.as_ref().ok_or_else(|| refused("its section names no program type"))?;
        if sec.prog_type == ProgType::Ext {
            return Err(refused("what it replaces is only known at load time"));
        }
        if program.ksyms.iter().any(|ksym| ksym.type_id.is_none()) {
            return Err(refused("it refers to a kernel symbol without a type"));
        }
        let with_types = self.has_types;
        if !with_types && !program.core_relos.is_empty() {
            return Err(refused("its relocations need types, and the kernel does not take the object's"));
        }
        let insns = self.code.put(&RawInsn::program_to_bytes(&by_place(&program.insns)?))?;
        let mut license = object.license.clone().into_bytes();
        license.push(0);
        let license = self.code.put(&license)?;
        let count = |len: usize| u32::try_from(len).map_err(|_| Error::LoaderTooLarge);
        let mut attr = Attr::new(prog::LEN)
            .word(prog::TYPE, sec.prog_type as u32)
            .word(prog::INSN_CNT, count(program.insns.len())?)
            .word(prog::KERN_VERSION, object.kern_version)
            .word(prog::FLAGS, sec.prog_flags)
            .name(prog::NAME, &program.name)
            .word(prog::ATTACH_TYPE, sec.attach_type as u32);
        let mut records = Vec::new();
        if with_types {
            for (place, size, cnt, len, bytes) in [
                (prog::FUNC_INFO, prog::FUNC_INFO_SIZE, prog::FUNC_INFO_CNT, 8, func_info(program)),
                (prog::LINE_INFO, prog::LINE_INFO_SIZE, prog::LINE_INFO_CNT, 16, line_info(program)),
                (prog::CORE_RELOS, prog::CORE_RELO_SIZE, prog::CORE_RELO_CNT, 16, core_relos(program)),
            ] {
                if !bytes.is_empty() {
                    attr = attr.word(size, len).word(cnt, count(bytes.len() / len as usize)?);
                    records.push((place, self.code.put(&bytes)?));
                }
            }
        }
        let attr = self.code.put(&attr.0)?;
        self.code.store_address(attr + prog::INSNS, insns);
        self.code.store_address(attr + prog::LICENSE, license);
        let fds = self.code.fd_array();
        self.code.store_address(attr + prog::FD_ARRAY, fds);
        for (place, bytes) in records {
            self.code.store_address(attr + place, bytes);
        }
        if with_types {
            self.code.store_fd(attr + prog::BTF_FD, Slots::BTF);
        }
        self.code.copy_word(attr + prog::LOG_LEVEL, ctx::LOG_LEVEL);
        self.code.copy_word(attr + prog::LOG_SIZE, ctx::LOG_SIZE);
        self.code.copy_long(attr + prog::LOG_BUF, ctx::LOG_BUF);
        self.attach_target(sec, attr)?;
        self.symbols(index, program, insns)?;
        self.code.bpf(attr::PROG_LOAD, attr, prog::LEN);
        let slot = self.slots.program(index)?;
        self.code.keep_fd(slot);
        Ok(())
    }

    /// The kernel's name of what the program attaches to.
    fn attach_target(&mut self, sec: &Sec, attr: u32) -> Result<()> {
        let Some(target) = &sec.target else { return Ok(()) };
        if !matches!(sec.prog_type, ProgType::Tracing | ProgType::Lsm) {
            return Ok(());
        }
        let (prefix, kind) = match sec.attach_type {
            AttachType::TraceRawTp => ("btf_trace_", KIND_TYPEDEF),
            AttachType::LsmMac | AttachType::LsmCgroup => ("bpf_lsm_", KIND_FUNC),
            AttachType::TraceIter => ("bpf_iter_", KIND_FUNC),
            _ => ("", KIND_FUNC),
        };
        self.code.find(&format!("{prefix}{target}"), kind)?;
        self.code.failing_returns();
        self.code.store_low(attr + prog::ATTACH_BTF_ID);
        self.code.store_high(attr + prog::ATTACH_BTF_FD);
        Ok(())
    }

    /// Kernel functions and variables that the program refers to.
    fn symbols(&mut self, index: usize, program: &ProgramSpec, insns: u32) -> Result<()> {
        let mut slot = self.slots.modules.get(index).copied().unwrap_or(0);
        for (at, function) in program.kfuncs.iter().enumerate() {
            let calls = places(program, at, |insn| insn.code == CALL && insn.src == PSEUDO_KFUNC_CALL)?;
            let offs: Vec<u32> = calls.iter().map(|(call, _)| insns + call + OFF).collect();
            let missing = self.symbol(function, KIND_FUNC)?;
            for (call, _) in &calls {
                self.code.store_low(insns + call + IMM);
            }
            self.code.keep_high(slot, &offs)?;
            if let Some(missing) = missing {
                self.code.land(missing)?;
            }
            slot = slot.saturating_add(1);
        }
        for (at, ksym) in program.ksyms.iter().enumerate() {
            let loads = places(program, at, |insn| insn.is_ld_imm64() && insn.src == PSEUDO_BTF_ID)?;
            let missing = self.symbol(ksym, if ksym.is_func { KIND_FUNC } else { KIND_VAR })?;
            for (load, dst) in loads {
                // What is missing is the address 0, as the data has it; what is there is a reference.
                self.code.store_constant(insns + load, i32::from_le_bytes([LD_IMM64, PSEUDO_BTF_ID << 4 | dst, 0, 0]));
                self.code.store_low(insns + load + IMM);
                self.code.store_high(insns + load + SLOT + IMM);
            }
            self.code.keep_high(slot, &[])?;
            if let Some(missing) = missing {
                self.code.land(missing)?;
            }
            slot = slot.saturating_add(1);
        }
        Ok(())
    }

    /// Looks a symbol up; for a weak one, the jump that is taken if it is missing.
    fn symbol(&mut self, symbol: &KsymRef, kind: i32) -> Result<Option<Forward>> {
        self.code.find(&symbol.name, kind)?;
        if symbol.is_weak {
            return Ok(Some(self.code.if_failed()));
        }
        self.code.failing_returns();
        Ok(None)
    }
}

/// Where instructions that refer to symbol `symbol` lie, in bytes, with their register.
fn places(program: &ProgramSpec, symbol: usize, is_reference: impl Fn(&RawInsn) -> bool) -> Result<Vec<(u32, u8)>> {
    let mut found = Vec::new();
    let mut at = 0usize;
    while let Some(insn) = program.insns.get(at) {
        if is_reference(insn) && usize::try_from(insn.imm) == Ok(symbol) {
            found.push((bytes(at)?, insn.dst));
        }
        at = at.saturating_add(if insn.is_ld_imm64() { 2 } else { 1 });
    }
    Ok(found)
}

fn bytes(slot: usize) -> Result<u32> {
    u32::try_from(slot).ok().and_then(|slot| slot.checked_mul(SLOT)).ok_or(Error::LoaderTooLarge)
}

/// The instructions with places in the array of descriptors instead of the object's maps, and without symbols.
fn by_place(insns: &[RawInsn]) -> Result<Vec<RawInsn>> {
    let mut out = insns.to_vec();
    let mut at = 0usize;
    while let Some(insn) = out.get_mut(at) {
        let wide = insn.is_ld_imm64();
        match (wide, insn.src) {
            (true, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE) => {
                let map = usize::try_from(insn.imm).map_err(|_| Error::LoaderMap)?;
                insn.src = if insn.src == PSEUDO_MAP_FD { PSEUDO_MAP_IDX } else { PSEUDO_MAP_IDX_VALUE };
                insn.imm = Slots::map(map)?.cast_signed();
            }
            (true, PSEUDO_BTF_ID) => (insn.src, insn.imm) = (0, 0),
            (false, PSEUDO_KFUNC_CALL) if insn.code == CALL => insn.imm = 0,
            _ => {}
        }
        at = at.saturating_add(if wide { 2 } else { 1 });
    }
    Ok(out)
}

fn words<'a>(records: impl Iterator<Item = [u32; 4]> + 'a, used: usize) -> Vec<u8> {
    records.flat_map(|record| record.into_iter().take(used)).flat_map(u32::to_le_bytes).collect()
}

/// `struct bpf_func_info` of each function.
fn func_info(program: &ProgramSpec) -> Vec<u8> {
    words(program.func_info.iter().map(|info| [info.insn_off, info.type_id.0, 0, 0]), 2)
}

/// `struct bpf_line_info` of each line.
fn line_info(program: &ProgramSpec) -> Vec<u8> {
    let place = |info: &skep_btf::LineInfo| info.line_num << 10 | info.column & 0x3ff;
    words(program.line_info.iter().map(|info| [info.insn_off, info.file.0, info.line.0, place(info)]), 4)
}

/// `struct bpf_core_relo` of each relocation, which counts in bytes.
fn core_relos(program: &ProgramSpec) -> Vec<u8> {
    let record = |relo: &skep_btf::CoreRelo| {
        [relo.insn_off.saturating_mul(SLOT), relo.type_id.0, relo.access.0, relo.kind.number()]
    };
    words(program.core_relos.iter().map(record), 4)
}
