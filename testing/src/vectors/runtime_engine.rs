//! Vectors in our own engine: verified, rewritten, then interpreted or compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_abi::{AluOp, AttachType, CallTarget, Imm64, Insn, Operand, ProgType, RawInsn, Reg, Width, decode};
use skep_jit::{CpuFeatures, MapAccess, MapLayout};
use skep_runtime::ctx::{CtxType, Syscall};
use skep_runtime::kfunc::{Kfunc, kfunc};
use skep_runtime::map::{Map, MapAccessInfo, MapSpec, Slot};
use skep_runtime::test_run::{TestRunAttr, TestRunError};
use skep_runtime::{Code, EngineState, Program, ProgramParts, StatsOff};
use skep_sync::{Config, CpuSet};
use skep_text::{ArenaConfig, CodeArena, CodeImage, Relocation, SiteSpec};
use skep_verifier::{AssumeVerified, ProgFlags, ProgramSpec, RewriteOptions, Verified, Xlated};

use super::{Case, Engine, Expect, Outcome, with_verified};
use crate::kernel::possible_cpus;

/// The interpreter or the compiled path.
#[derive(Debug)]
pub struct RuntimeEngine {
    name: &'static str,
    cpus: CpuSet,
    state: Arc<EngineState>,
    arena: Option<CodeArena>,
}

impl RuntimeEngine {
    /// The checked interpreter.
    ///
    /// # Errors
    /// One sentence, when the machine refuses memory.
    pub fn interp() -> Result<Self, String> {
        Self::new("interp", false)
    }

    /// Compiled code.
    ///
    /// # Errors
    /// One sentence, when the machine refuses memory or has no back end.
    pub fn jit() -> Result<Self, String> {
        if skep_jit::Arch::host().is_none() {
            return Err("no back end for this architecture".to_owned());
        }
        Self::new("jit", true)
    }

    fn new(name: &'static str, compiled: bool) -> Result<Self, String> {
        let config = Config { n_possible: possible_cpus(), ..Config::default() };
        let cpus = CpuSet::new(config).map_err(|error| error.to_string())?;
        let arena = match compiled {
            true => Some(CodeArena::new(&cpus, ArenaConfig::default()).map_err(|error| error.to_string())?),
            false => None,
        };
        let state = EngineState::new(&cpus, arena.clone(), BTreeMap::new()).map_err(|error| error.to_string())?;
        Ok(Self { name, cpus, state, arena })
    }

    /// The vCPUs that its programs run on.
    pub(crate) fn cpus(&self) -> &CpuSet {
        &self.cpus
    }

    fn attempt(&self, case: &Case) -> Result<Outcome, String> {
        let built = with_verified(case, |spec, verified| {
            let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
            let address =
                |name: &str| kfunc(name).map(Kfunc::address).ok_or_else(|| format!("no kernel function {name}"));
            let kfuncs = spec.kfuncs.iter().map(|kfunc| address(&kfunc.name)).collect::<Result<Vec<u64>, String>>()?;
            let xlated = skep_verifier::rewrite(spec, verified, &options).map_err(|error| error.to_string())?;
            Ok::<_, String>((xlated, kfuncs))
        });
        let (xlated, kfuncs) = match built {
            Ok(rewritten) => rewritten?,
            Err(message) => return Ok(Outcome::Refused(message)),
        };
        let maps = self.create_maps(case)?;
        let (prog_type, attach_type) = case.prog_type.unwrap_or((ProgType::SocketFilter, AttachType::default()));
        let Some(ctx_type) = CtxType::of(prog_type) else {
            return Ok(Outcome::Skipped(format!("no context for {prog_type}")));
        };
        let used: Vec<Map> = xlated.used_maps.iter().filter_map(|map| maps.get(*map as usize).cloned()).collect();
        let program = self.publish((prog_type, attach_type, ctx_type), xlated, &used, kfuncs)?;
        let (r0, out) = match run(case, &program) {
            Ok(result) => result,
            Err(_) if case.expect == Expect::Accepted => (0, Vec::new()),
            Err(TestRunError::Refused(errno)) => {
                return Ok(Outcome::Skipped(format!("test_run of this type: {errno}")));
            }
            Err(error) => return Err(error.to_string()),
        };
        if case.prog_type.is_some() {
            return Ok(Outcome::Ran { r0, out });
        }
        let value = maps.first().ok_or("no result map")?.lookup(&[0; 4], 0).map_err(|errno| errno.to_string())?;
        let (r0, memory) = value.split_first_chunk::<8>().ok_or("the result map is too small")?;
        Ok(Outcome::Ran { r0: u64::from_le_bytes(*r0), out: memory[..case.input.len()].to_vec() })
    }

    /// Compiles, where this engine does, and publishes a rewritten program.
    ///
    /// # Errors
    /// One sentence, when there is no memory or the code generator refuses.
    pub(crate) fn publish(
        &self,
        (prog_type, attach_type, ctx_type): (ProgType, AttachType, CtxType),
        xlated: Xlated,
        maps: &[Map],
        kfuncs: Vec<u64>,
    ) -> Result<Program, String> {
        let stats = Program::alloc_stats(&self.state).map_err(|error| error.to_string())?;
        let code = self.compile(&xlated, maps, &kfuncs, &stats)?;
        let parts = ProgramParts {
            name: "program".to_owned(),
            prog_type,
            callee_type: prog_type,
            callee_context: ctx_type,
            xdp_has_frags: false,
            attach_type,
            gpl_compatible: true,
            tag: [0; 8],
            verified_insns: 0,
            xlated: Arc::new(xlated),
            ctx_type,
            maps: maps.iter().map(Map::keep).collect(),
            kfuncs,
            code,
            stats,
            attached: Vec::new(),
        };
        Program::new(&self.state, parts).map_err(|error| error.to_string())
    }

    /// Runs a program that no verifier saw: `insns` with r1 at `memory` and r2 its size; r0 and the memory afterwards.
    ///
    /// The interpreter checks every access. Compiled code checks none, so [`run_assumed`] asks the interpreter first.
    fn run_unverified(&self, insns: &[RawInsn], memory: &[u8]) -> Result<(u64, Vec<u8>), String> {
        let starts = subprogram_starts(insns)?;
        let spec = ProgramSpec {
            name: "assumed",
            prog_type: ProgType::Syscall,
            attach_type: AttachType::default(),
            flags: ProgFlags::default(),
            insns,
            maps: &[],
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        let verified = Verified::assume(AssumeVerified::i_vouch_for_the_program(), insns.to_vec(), &starts);
        let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
        let xlated = skep_verifier::rewrite(&spec, &verified, &options).map_err(|error| error.to_string())?;
        let program =
            self.publish((ProgType::Syscall, AttachType::default(), CtxType::Syscall), xlated, &[], Vec::new())?;
        let mut ctx = Syscall::bytes(memory);
        let r0 = program.run(&mut ctx).map_err(|error| error.to_string())?;
        Ok((r0, ctx.to_bytes()))
    }

    /// The result map, where there is one, and the case's own.
    fn create_maps(&self, case: &Case) -> Result<Vec<Map>, String> {
        let mut maps = Vec::new();
        if case.prog_type.is_none() {
            let size = u32::try_from(case.input.len() + 8).map_err(|error| error.to_string())?;
            let spec = MapSpec::new(skep_abi::MapType::Array, 4, size, 1);
            let map = Map::create(&spec, &self.cpus).map_err(|errno| errno.to_string())?;
            let value: Vec<u8> = [0u8; 8].iter().chain(&case.input.bytes).copied().collect();
            map.update(&[0; 4], &value, 0).map_err(|errno| errno.to_string())?;
            maps.push(map);
        }
        for decl in &case.maps {
            let mut spec =
                MapSpec::new(decl.map_type, decl.key_size, decl.value_size, decl.max_entries).flags(decl.flags);
            let mut template = None;
            if decl.map_type.is_map_of_maps() {
                let inner = MapSpec::new(skep_abi::MapType::Array, 4, 8, 1);
                let inner = Map::create(&inner, &self.cpus).map_err(|errno| errno.to_string())?;
                template = Some(inner.clone());
                spec = spec.inner(inner);
            }
            let map = Map::create(&spec, &self.cpus).map_err(|errno| format!("map {}: {errno}", decl.name))?;
            if let Some(inner) = template {
                map.update_slot(&[0; 4], Slot::Map(inner), 0).map_err(|errno| errno.to_string())?;
            }
            if let Some(contents) = &decl.contents {
                map.update(&[0; 4], contents, 0).map_err(|errno| errno.to_string())?;
                map.freeze().map_err(|errno| errno.to_string())?;
            }
            maps.push(map);
        }
        Ok(maps)
    }

    fn compile(&self, xlated: &Xlated, maps: &[Map], kfuncs: &[u64], stats: &StatsOff) -> Result<Option<Code>, String> {
        let Some(arena) = &self.arena else { return Ok(None) };
        let base = self.state.layout_base();
        let layout = skep_jit::Layout {
            tail_calls: base.tail_calls,
            cpu_id: base.cpu_id,
            helpers: base.helpers,
            ld_abs: base.ld_abs,
            maps: maps.iter().map(map_layout).collect(),
            kfuncs: kfuncs.to_vec(),
            stats: i64::try_from(stats.offset()).ok(),
            ..skep_jit::Layout::default()
        };
        let arch = skep_jit::Arch::host().ok_or("no back end for this architecture")?;
        let options = skep_jit::Options { arch, features: CpuFeatures::detect(), optimize: true };
        let image = skep_jit::compile(xlated, &layout, &options).map_err(|error| format!("jit: {error}"))?;
        install(arena, &image).map(Some)
    }
}

impl Engine for RuntimeEngine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, case: &Case) -> Outcome {
        match self.attempt(case) {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::Refused(problem),
        }
    }
}

/// Runs a program that no verifier saw, as the ISA conformance plugin must: r1 points to `memory`, r2 is its size.
///
/// Every access is checked: compiled code runs only after the interpreter has gone through the same program, on the same
/// memory, without a fault.
///
/// # Errors
/// An encoding that does not exist, a jump to nowhere, a fault, or an engine that cannot be had.
pub fn run_assumed(insns: &[RawInsn], memory: &[u8], compiled: bool) -> Result<u64, String> {
    let size = i32::try_from(memory.len()).map_err(|_| "too much memory".to_owned())?;
    let prologue = [Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg::R2, src: Operand::Imm(size) }];
    let mut program: Vec<RawInsn> = prologue.iter().map(|insn| insn.encode().0).collect();
    program.extend_from_slice(insns);
    let (interpreted, _) = RuntimeEngine::interp()?.run_unverified(&program, memory)?;
    if !compiled {
        return Ok(interpreted);
    }
    RuntimeEngine::jit()?.run_unverified(&program, memory).map(|(r0, _)| r0)
}

/// First slots of the functions of a program, whose every encoding and target is checked on the way.
fn subprogram_starts(insns: &[RawInsn]) -> Result<Vec<u32>, String> {
    let mut starts = BTreeSet::from([0u32]);
    let mut heads = BTreeSet::new();
    let mut targets = Vec::new();
    let mut at = 0;
    let mut last = None;
    while at < insns.len() {
        let insn = decode(insns, at).map_err(|error| format!("slot {at}: {error}"))?;
        heads.insert(at);
        let (distance, is_function) = match insn {
            Insn::Ja { off, .. } => (Some(off), false),
            Insn::Jcond { off, .. } | Insn::MayGoto { off } => (Some(i32::from(off)), false),
            Insn::Call { target: CallTarget::Subprog(off) } => (Some(off), true),
            Insn::LdImm64 { imm: Imm64::Func(off), .. } => (Some(off), true),
            _ => (None, false),
        };
        if let Some(distance) = distance {
            let to = i64::try_from(at).unwrap_or(i64::MAX).saturating_add(i64::from(distance)).saturating_add(1);
            let to = u32::try_from(to).map_err(|_| format!("slot {at}: jump out of range"))?;
            targets.push((at, to));
            if is_function {
                starts.insert(to);
            }
        }
        at += insn.slots();
        last = Some(insn);
    }
    if !matches!(last, Some(Insn::Exit | Insn::Ja { .. })) {
        return Err("last insn is not an exit or jmp".to_owned());
    }
    match targets.iter().find(|(_, to)| !heads.contains(&(*to as usize))) {
        Some((at, to)) => Err(format!("slot {at}: jump out of range to {to}")),
        None => Ok(starts.into_iter().collect()),
    }
}

/// Test-runs the program on the case's packet as the kernel does; r0 and the packet afterwards.
fn run(case: &Case, program: &Program) -> Result<(u64, Vec<u8>), TestRunError> {
    let frame = [0u8; 14];
    let wrapped = case.prog_type.is_none();
    let data_in: &[u8] = if wrapped || case.input.len() < frame.len() { &frame } else { &case.input.bytes };
    let attr = TestRunAttr { data_in, data_size_out: Some(data_in.len() + 4096), ..TestRunAttr::default() };
    let result = program.test_run_raw(&attr)?;
    Ok((u64::from(result.retval), result.data_out))
}

/// Puts an image into the arena.
fn install(arena: &CodeArena, image: &skep_jit::Image) -> Result<Code, String> {
    let relocation = |reloc: &skep_jit::Reloc| {
        let kind = match reloc.kind {
            skep_jit::RelocKind::Rel32 => skep_text::RelocKind::Rel32,
            skep_jit::RelocKind::Abs64 => skep_text::RelocKind::Abs64,
            _ => return Err("relocation of another architecture".to_owned()),
        };
        let target = match reloc.target {
            skep_jit::RelocTarget::Addr(address) => skep_text::Target::Addr(address),
            skep_jit::RelocTarget::Image(offset) => skep_text::Target::Image(offset),
        };
        Ok(Relocation { at: reloc.at, kind, target })
    };
    let relocations: Vec<Relocation> = image.relocations.iter().map(relocation).collect::<Result<_, _>>()?;
    let sites: Vec<SiteSpec> = image.sites.iter().map(|site| SiteSpec { offset: site.offset }).collect();
    let code = CodeImage { bytes: &image.bytes, relocations: &relocations, sites: &sites };
    let installed = arena.install(code).map_err(|error| error.to_string())?;
    let stats = image.sites.iter().enumerate().find_map(|(index, site)| match site.kind {
        skep_jit::SiteKind::Stats { stub } => Some((index, stub)),
        _ => None,
    });
    let (entry, tail_entry) = (image.entry, image.tail_entry);
    Ok(Code { installed, entry, tail_entry, function_entry: None, functions: Vec::new(), stats })
}

fn map_layout(map: &Map) -> MapLayout {
    let access = match map.layout() {
        MapAccessInfo::Array { values, stride, max_entries } => MapAccess::Array { values, stride, max_entries },
        MapAccessInfo::PerCpuArray { off, stride, max_entries } => MapAccess::PerCpuArray { off, stride, max_entries },
        MapAccessInfo::ProgArray { targets, max_entries } => MapAccess::ProgArray { targets, max_entries },
        MapAccessInfo::Hash { lookup } => MapAccess::Hash { lookup },
        MapAccessInfo::Arena { base, start } => MapAccess::Arena { base, start },
        _ => MapAccess::Opaque,
    };
    MapLayout { object: map.object_addr(), access }
}
