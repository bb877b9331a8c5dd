//! The pipeline: an object's maps, then each program verified, rewritten, compiled, installed.
//!
//! Invariant: all or nothing. Programs become reachable from outside only after every one of them is built; an error
//! drops what was made. Kernel counterpart: `bpf_object__load`, tools/lib/bpf/libbpf.c, 6.18.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use skep_abi::{ProgType, RawInsn, opcode as op};
use skep_jit::Role;
use skep_object::spec::{PSEUDO_MAP_FD, PSEUDO_MAP_VALUE};
use skep_object::{MapKind, Poisoned, ProgramSpec, SlotTarget};
use skep_runtime::ctx::CtxType;
use skep_runtime::map::prog_array::{ProgArray, SlotWatcher};
use skep_runtime::map::{Map, Slot};
use skep_runtime::object::{ObjectType, OwningField, Owns};
use skep_runtime::{Program, ProgramParts};
use skep_verifier::{
    FieldKind, FieldTarget, InsnIdx, MapShape, Need, ObjectLayout, Options, ProgFlags, RecordField, RewriteError,
    RewriteOptions, Verified, Xlated,
};

use crate::code::{self, Code};
use crate::engine::{Context, Engine, Mode};
use crate::error::LoadError;
use crate::extension::Target;
use crate::loaded::Loaded;
use crate::maps;
use crate::object::Object;
use crate::pokes::PokeWatcher;
use crate::program::Source;
use crate::verify::{explained, is_map_iterator};

/// Choices for one load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Maps that are used instead of new ones, by name.
    pub(crate) maps: Vec<(String, Map)>,
    /// Whether arrays that may be mapped are in files.
    pub(crate) share_data: bool,
}

impl LoadOptions {
    /// Uses `map` where the object defines a map of this name. It must have the shape that the object defines and, for
    /// constants (`.rodata`), the same frozen contents, because programs are verified against them.
    #[must_use]
    pub fn reuse_map(mut self, name: &str, map: &Map) -> Self {
        self.maps.push((name.to_owned(), map.clone()));
        self
    }

    /// Puts arrays with `BPF_F_MMAPABLE`, data sections among them, into files in memory, which others may map too:
    /// [`Array::take_file`](skep_runtime::map::array::Array::take_file).
    #[must_use]
    pub fn share_data(mut self) -> Self {
        self.share_data = true;
        self
    }

    fn reused(&self, name: &str) -> Option<Map> {
        self.maps.iter().find(|(known, _)| known == name).map(|(_, map)| map.clone())
    }
}

/// Loads an object into an engine.
pub(crate) fn load(engine: &Engine, object: Object, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let unloadable = |source| LoadError::Object { object: object.file().to_owned(), source };
    object
        .spec()
        .check_loadable()
        .or_else(|error| {
            if object.programs().iter().any(|p| p.autoload && p.sec.is_none() && engine.context_of(p).is_some()) {
                Ok(())
            } else {
                Err(error)
            }
        })
        .map_err(unloadable)?;
    let shapes = object.shapes()?;
    let reused = |name: &str| options.reused(name);
    let maps = maps::create(&object, &shapes, engine.cpus(), &reused, options.share_data)?;
    let views = object.map_shapes(&shapes);
    let mut programs = Vec::new();
    for (index, spec) in object.programs().iter().enumerate() {
        let built = if spec.autoload { Some(build(engine, &object, index, spec, &views, &maps)?) } else { None };
        programs.push(built);
    }
    fill_prog_arrays(&object, &maps, &programs, &reused)?;
    Ok(Loaded::new(engine.clone(), object, maps, programs))
}

/// One program, from instructions to something that runs.
pub(crate) fn build(
    engine: &Engine,
    object: &Object,
    index: usize,
    spec: &ProgramSpec,
    views: &[MapShape<'_>],
    maps: &[Option<Map>],
) -> Result<Program, LoadError> {
    let failed = |step, source: Box<dyn std::error::Error + Send + Sync>| LoadError::Build {
        program: spec.name.clone(),
        step,
        source,
    };
    let target = object.replaces(&spec.name);
    let is_extension = spec.sec.as_ref().is_some_and(|sec| sec.prog_type == ProgType::Ext);
    if is_extension && target.is_none() {
        return Err(LoadError::NoTarget { program: spec.name.clone() });
    }
    let of_target = target.map(Target::source);
    let context = match &of_target {
        Some(source) => source.context.as_ref(),
        None => engine.context_of(spec),
    };
    let helpers = engine.helpers();
    let built = object.with_program_spec(index, views, context.map(Context::table), |view, poisoned| {
        let view = &skep_verifier::ProgramSpec { helpers: Some(&helpers), ..view.clone() };
        let verified = verify(engine, view, poisoned)?;
        let (xlated, types) = rewrite(engine, view, &verified)?;
        let xdp_has_frags = view.flags.has(ProgFlags::XDP_HAS_FRAGS);
        Ok::<_, LoadError>((view.prog_type, view.attach_type, xdp_has_frags, verified.stats().processed, xlated, types))
    })?;
    let (callee_type, attach_type, xdp_has_frags, verified_insns, xlated, types) = built?;
    let iterates = spec.sec.as_ref().is_some_and(is_map_iterator).then_some(CtxType::MapElem);
    let callee_context = context.map(|context| context.ctx_type).or(iterates).or_else(|| CtxType::of(callee_type));
    let callee_context =
        callee_context.ok_or_else(|| LoadError::NotRunnable { program: spec.name.clone(), prog_type: callee_type })?;
    let (prog_type, ctx_type) =
        if is_extension { (ProgType::Ext, CtxType::Function) } else { (callee_type, callee_context) };

    let used: Vec<Map> = xlated.used_maps.iter().filter_map(|&map| maps.get(map as usize)?.clone()).collect();
    maps::check_types(object, &used)?;
    let address = |name: &str| skep_runtime::kfunc::kfunc(name).map(skep_runtime::kfunc::Kfunc::address);
    // What the verifier let through is there, except a weak function that is not and that no path calls.
    let kfuncs: Vec<u64> = spec.kfuncs.iter().map(|kfunc| address(&kfunc.name).unwrap_or(0)).collect();
    let stats =
        Program::alloc_stats(engine.state()).map_err(|error| failed("has no room for statistics", Box::new(error)))?;
    let code = match engine.arena() {
        Some(arena) => {
            let layout = skep_jit::Layout {
                kfuncs: kfuncs.clone(),
                maps: used.iter().map(code::map_layout).collect(),
                stats: i64::try_from(stats.offset()).ok().filter(|_| engine.is_live() && !is_extension),
                role: match (is_extension, engine.is_live()) {
                    (true, _) => Role::Extension,
                    (false, true) => Role::Replaceable,
                    (false, false) => Role::Program,
                },
                ..engine.layout().clone()
            };
            let image = skep_jit::compile(&xlated, &layout, &engine.jit_options())
                .map_err(|error| failed("cannot be compiled", Box::new(error)))?;
            Some(Code::install(arena, image).map_err(|error| failed("cannot be installed", Box::new(error)))?)
        }
        None => None,
    };
    let mut attached = code.as_ref().map_or_else(Vec::new, |code| watch_arrays(code, &xlated.pokes, &used));
    attached.push(Box::new(types));
    let parts = code.as_ref().map(Code::parts);
    if let Some(code) = code {
        attached.push(Box::new(code));
    }
    let source = Source { btf: object.spec().btf.clone(), context: context.cloned(), target: target.cloned() };
    attached.push(Box::new(Arc::new(source)));
    let program = Program::new(
        engine.state(),
        ProgramParts {
            name: spec.name.clone(),
            prog_type,
            callee_type,
            callee_context,
            xdp_has_frags,
            attach_type,
            gpl_compatible: object.is_gpl_compatible(),
            tag: tag(&spec.insns),
            verified_insns,
            xlated: Arc::new(xlated),
            ctx_type,
            maps: used.iter().map(Map::keep).collect(),
            kfuncs,
            code: parts,
            stats,
            attached,
        },
    )
    .map_err(|error| failed("cannot be published", Box::new(error)))?;
    program.check_prog_arrays().map_err(|(index, errno)| LoadError::Owner {
        program: spec.name.clone(),
        map: used.get(index).map_or_else(String::new, |map| map.info().name.clone()),
        errno,
    })?;
    Ok(program)
}

/// Tells prog arrays which jumps of this code follow their slots; what keeps them told.
fn watch_arrays(code: &Code, pokes: &[skep_verifier::Poke], used: &[Map]) -> Vec<Box<dyn std::any::Any + Send + Sync>> {
    let mut attached: Vec<Box<dyn std::any::Any + Send + Sync>> = Vec::new();
    for (map, watcher) in PokeWatcher::of(code.installed(), code.image(), pokes) {
        let Some(array) = used.get(map as usize).and_then(|map| map.downcast::<ProgArray>()) else { continue };
        let watcher: Arc<dyn SlotWatcher> = Arc::new(watcher);
        array.watch(&watcher);
        attached.push(Box::new(watcher));
    }
    attached
}

/// The form of a verified program that runs, and the types of the objects that it makes.
fn rewrite(
    engine: &Engine,
    view: &skep_verifier::ProgramSpec<'_>,
    verified: &Verified,
) -> Result<(Xlated, ObjectTypes), LoadError> {
    let program = || view.name.to_owned();
    if let Some(need) = verified.needs().first() {
        return Err(LoadError::Needs { program: program(), need: need.clone() });
    }
    let types = object_types(verified);
    let addresses: Vec<(u32, u64)> = types.iter().map(|(id, ty)| (*id, ty.address())).collect();
    let options = RewriteOptions {
        pokes: engine.mode() == Mode::Jit && engine.is_live(),
        thrown: Some(skep_runtime::EXCEPTION_WORDS),
        objects: &addresses,
        ..RewriteOptions::default()
    };
    match skep_verifier::rewrite(view, verified, &options) {
        Ok(xlated) => match missing_helper(engine, &xlated) {
            Some(need) => Err(LoadError::Needs { program: program(), need }),
            None => Ok((xlated, types)),
        },
        Err(RewriteError::NotRunnable(need)) => Err(LoadError::Needs { program: program(), need }),
        Err(error) => {
            Err(LoadError::Build { program: program(), step: "cannot be rewritten", source: Box::new(error) })
        }
    }
}

/// The first call of a helper that this engine has no body for.
fn missing_helper(engine: &Engine, xlated: &Xlated) -> Option<Need> {
    let missing = |insn: &RawInsn| {
        let called = insn.code == op::JMP | op::CALL && insn.src == 0;
        called && u32::try_from(insn.imm).map_or(true, |id| engine.state().helper(id).is_none())
    };
    let at = xlated.insns.iter().position(missing)?;
    let id = xlated.insns[at].imm;
    let what =
        skep_abi::helper::helper_name(id).map_or_else(|| format!("helper {id}"), |name| format!("helper {name}"));
    Some(Need { insn: InsnIdx(*xlated.source.get(at)?), what })
}

/// By id in the program's BTF; kept as long as the program, or an object of it.
type ObjectTypes = Vec<(u32, Arc<ObjectType>)>;

/// The types of objects that a program makes, as the runtime wants them.
fn object_types(verified: &Verified) -> ObjectTypes {
    let describe = |layout: &ObjectLayout| {
        let owned =
            layout.record.iter().filter_map(|field| Some(OwningField { offset: field.offset, owns: owns(field)? }));
        let refcount = layout.record.iter().find(|field| field.kind == FieldKind::Refcount).map(|field| field.offset);
        (layout.id, Arc::new(ObjectType { size: layout.size, refcount, owned: owned.collect() }))
    };
    verified.objects().iter().map(describe).collect()
}

/// What a field of an object owns.
fn owns(field: &RecordField) -> Option<Owns> {
    match (field.kind, field.target) {
        (FieldKind::KptrRef, _) => Some(Owns::One),
        (FieldKind::ListHead, FieldTarget::Nodes { node, .. }) => Some(Owns::List(node)),
        (FieldKind::RbRoot, FieldTarget::Nodes { node, .. }) => Some(Owns::Tree(node)),
        _ => None,
    }
}

/// Verifies with as little log as a rejection needs: none at first, then the failing path.
fn verify(
    engine: &Engine,
    spec: &skep_verifier::ProgramSpec<'_>,
    poisoned: &[Poisoned],
) -> Result<Verified, LoadError> {
    let options = Options { log_level: 0, ..engine.options().clone() };
    let mut log = skep_verifier::Log::new();
    skep_verifier::verify_explained(spec, &options, &mut log).map_err(|refusal| {
        let (rejection, explanation) = explained(*refusal, poisoned);
        LoadError::Rejected {
            program: spec.name.to_owned(),
            rejection: Box::new(rejection),
            explanation: Box::new(explanation),
            log: log.into_text(),
        }
    })
}

/// Puts programs where the object wants them.
fn fill_prog_arrays(
    object: &Object,
    maps: &[Option<Map>],
    programs: &[Option<Program>],
    reused: &dyn Fn(&str) -> Option<Map>,
) -> Result<(), LoadError> {
    for (spec, map) in object.maps().iter().zip(maps) {
        let Some(map) = map.as_ref().filter(|_| spec.kind == MapKind::User && reused(&spec.name).is_none()) else {
            continue;
        };
        for slot in &spec.initial_slots {
            let SlotTarget::Program(index) = slot.target else { continue };
            let Some(Some(program)) = programs.get(index) else { continue };
            map.update_slot(&slot.slot.to_ne_bytes(), Slot::Program(program.to_callee()), 0).map_err(|errno| {
                LoadError::Slot { map: spec.name.clone(), slot: slot.slot, program: program.name().to_owned(), errno }
            })?;
        }
    }
    Ok(())
}

/// The program's tag: the first 8 bytes of the SHA-256 of its instructions without what differs between loads, which are
/// the immediates of map references (`bpf_prog_calc_tag`; SHA-256 since Linux 6.18).
fn tag(insns: &[RawInsn]) -> [u8; 8] {
    const LD_IMM64: u8 = 0x18;
    let mut hash = Sha256::new();
    let mut in_map_reference = false;
    for insn in insns {
        let first = insn.code == LD_IMM64 && matches!(insn.src, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE);
        let imm = if first || in_map_reference { 0 } else { insn.imm };
        hash.update(RawInsn { imm, ..*insn }.to_bytes());
        in_map_reference = first;
    }
    let digest = hash.finalize();
    let mut tag = [0; 8];
    tag.copy_from_slice(&digest[..8]);
    tag
}
