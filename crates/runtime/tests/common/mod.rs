//! One program on three engines: interpreter, compiled code and the running kernel.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    clippy::cast_possible_truncation,
    reason = "a test's helper: what fails, fails the test"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_abi::{AttachType, Errno, MapType, ProgType, RawInsn};
use skep_runtime::ctx::CtxType;
use skep_runtime::map::{Map, MapAccessInfo, MapSpec};
use skep_runtime::test_run::TestOptions;
use skep_runtime::{Code, EngineState, Program, ProgramParts, TestRunAttr};
use skep_sync::{Config, CpuSet};
use skep_testing::kernel::{self, MapCreate, ProgLoad, TestRun};
use skep_text::{ArenaConfig, CodeArena, CodeImage, Relocation, SiteSpec};
use skep_verifier::{Log, MapShape, Options, ProgFlags, ProgramSpec, RewriteOptions, Verified};

/// A map of a test program.
#[derive(Clone, Copy)]
pub struct MapDef {
    pub name: &'static str,
    pub map_type: MapType,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

pub struct Engine {
    pub cpus: CpuSet,
    pub state: Arc<EngineState>,
}

impl Engine {
    pub fn new() -> Self {
        let cpus = CpuSet::new(Config { n_possible: kernel::possible_cpus(), ..Config::default() }).unwrap();
        let arena = CodeArena::new(&cpus, ArenaConfig::default()).unwrap();
        let state = EngineState::new(&cpus, Some(arena), BTreeMap::new()).unwrap();
        Self { cpus, state }
    }

    pub fn map(&self, def: &MapDef) -> Map {
        let spec = MapSpec::new(def.map_type, def.key_size, def.value_size, def.max_entries);
        Map::create(&spec.name(def.name).flags(def.flags), &self.cpus).unwrap()
    }

    /// The program in either mode, with these maps.
    pub fn load(&self, prog_type: ProgType, insns: &[RawInsn], defs: &[MapDef], maps: &[Map], jit: bool) -> Program {
        self.try_load(prog_type, insns, defs, maps, jit).unwrap_or_else(|text| panic!("{text}"))
    }

    pub fn try_load(
        &self,
        prog_type: ProgType,
        insns: &[RawInsn],
        defs: &[MapDef],
        maps: &[Map],
        jit: bool,
    ) -> Result<Program, String> {
        let shapes: Vec<MapShape<'_>> = defs
            .iter()
            .map(|d| MapShape { flags: d.flags, ..MapShape::new(d.map_type, d.key_size, d.value_size, d.max_entries) })
            .collect();
        let spec = ProgramSpec {
            name: "test",
            prog_type,
            attach_type: AttachType::CgroupInetIngress,
            flags: ProgFlags(if prog_type == ProgType::Syscall { ProgFlags::SLEEPABLE } else { 0 }),
            insns,
            maps: &shapes,
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        let mut log = Log::new();
        let verified = skep_verifier::verify(&spec, &Options::default(), &mut log)
            .map_err(|refused| format!("{refused}\n{}", log.into_text()))?;
        Ok(self.finish(&spec, &verified, maps, jit))
    }

    /// An interpreted program that nobody verified; `None` if its references do not resolve.
    pub fn try_finish(&self, spec: &ProgramSpec<'_>, verified: &Verified, maps: &[Map]) -> Option<Program> {
        let options = RewriteOptions { pokes: false, remove_dead: false, thrown: None, objects: &[] };
        let xlated = skep_verifier::rewrite(spec, verified, &options).ok()?;
        let used: Vec<&Map> = xlated.used_maps.iter().map(|&i| &maps[i as usize]).collect();
        let stats = Program::alloc_stats(&self.state).unwrap();
        Program::new(&self.state, self.parts(spec, xlated, &used, stats, None)).ok()
    }

    pub fn finish(&self, spec: &ProgramSpec<'_>, verified: &Verified, maps: &[Map], jit: bool) -> Program {
        let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
        let xlated = skep_verifier::rewrite(spec, verified, &options).unwrap();
        let used: Vec<&Map> = xlated.used_maps.iter().map(|&i| &maps[i as usize]).collect();
        let stats = Program::alloc_stats(&self.state).unwrap();
        let code = jit.then(|| self.compile(&xlated, &used, stats.offset()));
        let parts = self.parts(spec, xlated, &used, stats, code);
        Program::new(&self.state, parts).unwrap()
    }

    fn parts(
        &self,
        spec: &ProgramSpec<'_>,
        xlated: skep_verifier::Xlated,
        used: &[&Map],
        stats: skep_runtime::StatsOff,
        code: Option<Code>,
    ) -> ProgramParts {
        ProgramParts {
            name: "test".into(),
            prog_type: spec.prog_type,
            callee_type: spec.prog_type,
            callee_context: CtxType::of(spec.prog_type).unwrap(),
            xdp_has_frags: false,
            attach_type: spec.attach_type,
            gpl_compatible: true,
            tag: [0; 8],
            verified_insns: 0,
            maps: used.iter().map(|map| map.keep()).collect(),
            xlated: Arc::new(xlated),
            ctx_type: CtxType::of(spec.prog_type).unwrap(),
            kfuncs: Vec::new(),
            code,
            stats,
            attached: Vec::new(),
        }
    }

    fn compile(&self, xlated: &skep_verifier::Xlated, maps: &[&Map], stats: u64) -> Code {
        use skep_jit::{MapAccess, MapLayout, RelocKind, RelocTarget, SiteKind};
        let base = self.state.layout_base();
        let access = |map: &Map| match map.layout() {
            MapAccessInfo::Array { values, stride, max_entries } => MapAccess::Array { values, stride, max_entries },
            MapAccessInfo::PerCpuArray { off, stride, max_entries } => {
                MapAccess::PerCpuArray { off, stride, max_entries }
            }
            MapAccessInfo::ProgArray { targets, max_entries } => MapAccess::ProgArray { targets, max_entries },
            MapAccessInfo::Arena { base, start } => MapAccess::Arena { base, start },
            MapAccessInfo::Hash { lookup } => MapAccess::Hash { lookup },
            _ => MapAccess::Opaque,
        };
        let layout = skep_jit::Layout {
            tail_calls: base.tail_calls,
            cpu_id: base.cpu_id,
            helpers: base.helpers,
            kfuncs: Vec::new(),
            ld_abs: base.ld_abs,
            maps: maps.iter().map(|map| MapLayout { object: map.object_addr(), access: access(map) }).collect(),
            stats: Some(i64::try_from(stats).unwrap()),
            role: skep_jit::Role::Program,
            tsc: None,
        };
        let options = skep_jit::Options::new(skep_jit::Arch::host().unwrap());
        let image = skep_jit::compile(xlated, &layout, &options).unwrap();
        let relocations: Vec<Relocation> = image
            .relocations
            .iter()
            .map(|r| Relocation {
                at: r.at,
                kind: match r.kind {
                    RelocKind::Rel32 => skep_text::RelocKind::Rel32,
                    RelocKind::Abs64 => skep_text::RelocKind::Abs64,
                    RelocKind::Branch26 => unreachable!(),
                },
                target: match r.target {
                    RelocTarget::Addr(address) => skep_text::Target::Addr(address),
                    RelocTarget::Image(offset) => skep_text::Target::Image(offset),
                },
            })
            .collect();
        let sites: Vec<SiteSpec> = image.sites.iter().map(|s| SiteSpec { offset: s.offset }).collect();
        let arena = self.state.arena().unwrap();
        let installed =
            arena.install(CodeImage { bytes: &image.bytes, relocations: &relocations, sites: &sites }).unwrap();
        let stats = image.sites.iter().enumerate().find_map(|(at, site)| match site.kind {
            SiteKind::Stats { stub } => Some((at, stub)),
            _ => None,
        });
        let (entry, tail_entry) = (image.entry, image.tail_entry);
        Code { installed, entry, tail_entry, function_entry: None, functions: Vec::new(), stats }
    }
}

/// What all engines are asked for.
#[derive(Clone, Default)]
pub struct Input {
    pub data: Vec<u8>,
    pub ctx: Option<Vec<u8>>,
    pub repeat: u32,
}

/// What comes back: value, packet, context, and each map's entries.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub result: Result<(u32, Vec<u8>, Vec<u8>), Errno>,
    pub maps: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
}

fn ctx_size(prog_type: ProgType) -> Option<usize> {
    match prog_type {
        ProgType::Xdp => Some(24),
        ProgType::RawTracepoint | ProgType::Syscall => None,
        _ => Some(192),
    }
}

fn ours(engine: &Engine, prog_type: ProgType, insns: &[RawInsn], defs: &[MapDef], input: &Input, jit: bool) -> Seen {
    let maps: Vec<Map> = defs.iter().map(|def| engine.map(def)).collect();
    let program = engine.load(prog_type, insns, defs, &maps, jit);
    let wants = ctx_size(prog_type).filter(|_| input.ctx.is_some());
    let attr = TestRunAttr {
        data_in: &input.data,
        data_size_out: ctx_size(prog_type).map(|_| 70_000),
        ctx_in: input.ctx.as_deref(),
        ctx_size_out: wants,
        options: TestOptions { repeat: input.repeat, cpu: None },
        flags: 0,
    };
    let result = program.test_run_raw(&attr).map(|r| (r.retval, r.data_out, r.ctx_out));
    let result = result.map_err(|error| match error {
        skep_runtime::TestRunError::Refused(errno) => errno,
        other => panic!("{other}"),
    });
    let maps = maps
        .iter()
        .map(|map| {
            let mut entries = Vec::new();
            let mut key = map.next_key(None).ok();
            while let Some(k) = key {
                entries.push((k.clone(), map.lookup(&k, 0).unwrap_or_default()));
                key = map.next_key(Some(&k)).ok();
            }
            entries.sort();
            entries
        })
        .collect();
    Seen { result, maps }
}

fn theirs(prog_type: ProgType, insns: &[RawInsn], defs: &[MapDef], input: &Input) -> Seen {
    let maps: Vec<kernel::Map> = defs
        .iter()
        .map(|d| {
            let create =
                MapCreate { flags: d.flags, ..MapCreate::new(d.map_type, d.key_size, d.value_size, d.max_entries) };
            create.create().unwrap()
        })
        .collect();
    let fds: Vec<_> = maps.iter().map(kernel::Map::raw_fd).collect();
    let insns = skep_testing::verdict::bind_maps(insns, &fds);
    let flags = if prog_type == ProgType::Syscall { 1 << 4 } else { 0 };
    let load = ProgLoad { flags, license: "GPL", ..ProgLoad::new(prog_type, &insns) };
    let prog = load.load().unwrap_or_else(|e| panic!("the kernel refuses: {} {}", e.errno, e.log)).prog;
    let wants = ctx_size(prog_type).filter(|_| input.ctx.is_some());
    let run = TestRun {
        data: &input.data,
        data_out: if ctx_size(prog_type).is_some() { 70_000 } else { 0 },
        ctx: input.ctx.as_deref().unwrap_or_default(),
        ctx_out: wants.unwrap_or(0),
        repeat: input.repeat,
        ..TestRun::default()
    };
    let result = prog.test_run(&run).map(|r| (r.retval, r.data, r.ctx));
    let maps = maps
        .iter()
        .map(|map| {
            let keys = map.keys().unwrap_or_default();
            let mut entries: Vec<_> =
                keys.into_iter().map(|k| (k.clone(), map.lookup(&k, 0).unwrap_or_default())).collect();
            entries.sort();
            entries
        })
        .collect();
    Seen { result, maps }
}

/// Assembles `text` (maps by name) and expects the same from all three engines; what they saw.
pub fn compare(prog_type: ProgType, text: &str, defs: &[MapDef], inputs: &[Input]) -> Vec<Seen> {
    let mut resolve = |name: &str| defs.iter().position(|d| d.name == name).and_then(|i| i32::try_from(i).ok());
    let insns = skep_abi::asm::assemble_with(text, &mut resolve).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let engine = Engine::new();
    let with_kernel = kernel::require("test runs");
    inputs
        .iter()
        .enumerate()
        .map(|(at, input)| {
            let interp = ours(&engine, prog_type, &insns, defs, input, false);
            let jit = ours(&engine, prog_type, &insns, defs, input, true);
            assert_eq!(interp, jit, "input {at}: interpreter (left) and compiled code (right)\n{text}");
            if with_kernel {
                let kernel = theirs(prog_type, &insns, defs, input);
                assert_eq!(interp, kernel, "input {at}: ours (left) and the kernel (right)\n{text}");
            }
            interp
        })
        .collect()
}

/// A packet of `len` bytes with this Ethernet type; the rest counts up.
pub fn packet(len: usize, protocol: u16) -> Vec<u8> {
    let mut data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    if let Some(at) = data.get_mut(12..14) {
        at.copy_from_slice(&protocol.to_be_bytes());
    }
    data
}
