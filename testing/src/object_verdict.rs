//! Verdicts on the programs of an object, ours and the kernel's, on the same instructions.
//!
//! Invariant: both sides get what [`ObjectSpec`] says and nothing else, so a difference is one of the verifiers. Kernel
//! counterpart: `bpf_object_load_prog`, tools/lib/bpf/libbpf.c, 6.18.

use std::borrow::Cow;

use skep_abi::{MapType, ProgType};
use skep_btf::{Kind, TypeData, TypeId};
use skep_object::{MapSpec, ObjectSpec};
use skep_verifier::{
    ExtTarget, KfuncRef, Log, MapShape, Options, Profile, ProgFlags, ProgramSpec, RecordField, Rejection, Stats,
    Verified, value_record, verify,
};

use crate::kernel_object::{KernelError, KernelObject};
use crate::verdict::{Verdict, last_message};

/// The program types that the engine has.
pub const TYPES: [ProgType; 18] = [
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::Xdp,
    ProgType::RawTracepoint,
    ProgType::RawTracepointWritable,
    ProgType::Tracepoint,
    ProgType::Kprobe,
    ProgType::PerfEvent,
    ProgType::CgroupSkb,
    ProgType::SkSkb,
    ProgType::SkMsg,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::FlowDissector,
    ProgType::Syscall,
];

/// Inner maps are taken as without special fields.
static NO_FIELDS: Option<Vec<RecordField>> = Some(Vec::new());
/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 1 << 7;

/// What our verifier says of one program, with its log of this level and the work done; or why it cannot be asked.
///
/// # Errors
/// The section names no program type, or a map has a type or fields that are unknown.
pub fn our_verdict(object: &ObjectSpec, program: usize, log_level: u32) -> Result<(Verdict, String, Stats), String> {
    our_verdict_with(object, program, &options(log_level))
}

/// The same with other options.
///
/// # Errors
/// As for [`our_verdict`].
pub fn our_verdict_with(
    object: &ObjectSpec,
    program: usize,
    options: &Options,
) -> Result<(Verdict, String, Stats), String> {
    with_spec(object, program, |spec| {
        let (verdict, log) = verdict_of(spec, options);
        match verdict {
            Ok(verified) => (Verdict::Accepted, log, verified.stats()),
            Err(rejection) => {
                let verdict = Verdict::Rejected { errno: rejection.errno, message: rejection.message };
                (verdict, log, rejection.stats)
            }
        }
    })
}

/// What our verifier says of one program in the place of a function of another program, which is named by its object, its
/// number there, and the function's type.
///
/// # Errors
/// As for [`our_verdict`]; or the other program is refused itself.
pub fn our_verdict_of_extension(
    (object, program): (&ObjectSpec, usize),
    (target, target_program, func): (&ObjectSpec, usize, TypeId),
    log_level: u32,
) -> Result<(Verdict, String), String> {
    let (verified, prog_type, attach_type) = with_spec(target, target_program, |spec| {
        let (verdict, log) = verdict_of(spec, &options(1));
        let verified = verdict.map_err(|rejection| format!("{rejection}: {log}"))?;
        Ok::<_, String>((verified, spec.prog_type, spec.attach_type))
    })??;
    let btf = target.btf.as_deref().ok_or("the target has no types")?;
    let ext = ExtTarget { btf, func, subprogs: verified.subprogs() };
    with_spec(object, program, |spec| {
        let spec = ProgramSpec { prog_type, attach_type, target: Some(ext), ..spec.clone() };
        let (verdict, log) = verdict_of(&spec, &options(log_level));
        let rejected = |rejection: Rejection| Verdict::Rejected { errno: rejection.errno, message: rejection.message };
        (verdict.map_or_else(rejected, |_| Verdict::Accepted), log)
    })
}

/// How ours verifies where it is compared with the running kernel, which bounds a CPU's number by those of the machine.
#[must_use]
pub fn options(log_level: u32) -> Options {
    let nr_cpus = u32::try_from(crate::kernel::possible_cpus()).unwrap_or(1);
    let profile = Profile { nr_cpus, ..Profile::linux_6_18() };
    Options { log_level, profile, ..Options::default() }
}

fn verdict_of(spec: &ProgramSpec<'_>, options: &Options) -> (Result<Verified, Rejection>, String) {
    let mut log = Log::new();
    let verdict = verify(spec, options, &mut log);
    (verdict, log.into_text())
}

/// Calls `f` with what a program is verified as.
fn with_spec<R>(object: &ObjectSpec, program: usize, f: impl FnOnce(&ProgramSpec<'_>) -> R) -> Result<R, String> {
    let records: Vec<_> = object.maps.iter().map(|map| record(object, map)).collect();
    let maps = object.maps.iter().zip(&records).map(|(map, record)| shape(map, record));
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    let program = &object.programs[program];
    let sec = program.sec.as_ref().ok_or("the section names no program type")?;
    let kfuncs: Vec<KfuncRef<'_>> =
        program.kfuncs.iter().map(|kfunc| KfuncRef { name: Cow::Borrowed(kfunc.name.as_str()) }).collect();
    let spec = ProgramSpec {
        name: &program.name,
        prog_type: sec.prog_type,
        attach_type: sec.attach_type,
        flags: ProgFlags(sec.prog_flags),
        insns: &program.insns,
        maps: &maps,
        kfuncs: &kfuncs,
        btf: object.btf.as_deref(),
        func_info: &program.func_info,
        line_info: &program.line_info,
        gpl_compatible: is_gpl_compatible(&object.license),
        target: None,
        ctx: None,
        helpers: None,
    };
    Ok(f(&spec))
}

/// Whether the values of a map, by name, have fields that are more than data.
#[must_use]
pub fn has_record(object: &ObjectSpec, name: &str) -> bool {
    let map = object.maps.iter().find(|map| map.name == name);
    map.and_then(|map| record(object, map)).is_some_and(|record| !record.is_empty())
}

/// What the kernel says of one program; or why it cannot be asked.
///
/// # Errors
/// The program needs more than the oracle gives: kernel symbols, an attach target.
pub fn kernel_verdict(object: &KernelObject<'_>, program: usize, log_level: u32) -> Result<(Verdict, String), String> {
    match object.load(program, log_level) {
        Ok(loaded) => Ok((Verdict::Accepted, loaded.log)),
        Err(KernelError::Rejected { errno, log, .. }) => {
            Ok((Verdict::Rejected { errno, message: last_message(&log).to_owned() }, log))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Takes over the load flags that the kernel's own tests write as declaration tags of their programs
/// (`comment:test_prog_flags=BPF_F_ANY_ALIGNMENT`).
pub fn apply_test_flags(object: &mut ObjectSpec) {
    let Some(btf) = object.btf.clone() else { return };
    for program in &mut object.programs {
        let Some(sec) = &mut program.sec else { continue };
        let Some(func) = btf.find(&program.name, Kind::Func) else { continue };
        let tags = btf.types().filter_map(|(id, ty)| match ty.data {
            TypeData::DeclTag { ty, component: -1, .. } if ty == func => Some(btf.name(id)),
            _ => None,
        });
        for flag in tags.filter_map(|tag| tag.strip_prefix("comment:test_prog_flags=")) {
            sec.prog_flags |= match flag {
                "BPF_F_STRICT_ALIGNMENT" => ProgFlags::STRICT_ALIGNMENT,
                "BPF_F_ANY_ALIGNMENT" => ProgFlags::ANY_ALIGNMENT,
                "BPF_F_TEST_STATE_FREQ" => ProgFlags::TEST_STATE_FREQ,
                "BPF_F_SLEEPABLE" => ProgFlags::SLEEPABLE,
                "BPF_F_XDP_HAS_FRAGS" => ProgFlags::XDP_HAS_FRAGS,
                "BPF_F_TEST_REG_INVARIANTS" => ProgFlags::TEST_REG_INVARIANTS,
                number => number.parse().unwrap_or(0),
            };
        }
    }
}

fn is_gpl_compatible(license: &str) -> bool {
    ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"].contains(&license)
}

/// The value's special fields; `None` for types that no kernel takes, without which the map is then made.
fn record(object: &ObjectSpec, map: &MapSpec) -> Option<Vec<RecordField>> {
    match (object.btf.as_deref(), map.value_type) {
        (Some(btf), Some(id)) => value_record(btf, id).ok(),
        _ => Some(Vec::new()),
    }
}

fn shape<'a>(map: &'a MapSpec, record: &'a Option<Vec<RecordField>>) -> Result<MapShape<'a>, String> {
    let unknown = || format!("map '{}' has the unknown type {}", map.name, map.map_type);
    let read_only = map.kind.is_read_only();
    let map_type = MapType::from_u32(map.map_type).ok_or_else(unknown)?;
    Ok(MapShape {
        name: Cow::Borrowed(map.kernel_name.as_str()),
        map_type,
        user_start: MapShape::user_start_of(map_type, map.map_extra),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        flags: map.map_flags | if read_only { RDONLY_PROG } else { 0 },
        frozen: read_only,
        contents: if read_only { map.initial_value() } else { None },
        record: Cow::Borrowed(record.as_deref().unwrap_or_default()),
        btf_value_type_id: map.value_type.map_or(0, |id| id.0),
        inner: map.inner.as_deref().map(|inner| shape(inner, &NO_FIELDS).map(Box::new)).transpose()?,
        id: 0,
    })
}
