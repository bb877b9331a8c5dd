//! Per-CPU data, asked of a kernel that has it and of this engine: the same questions, an answer a line.
//!
//! A line is `QUESTION => ANSWER`. Both sides have as many CPUs ([`CPUS`]), so the answers of one are the other's, line by
//! line. Invariant: nothing in an answer depends on time, addresses, or numbers that a run gets. Kernel counterpart:
//! `BPF_F_CPU`, kernel/bpf/syscall.c; `PERCPU_ARRAY` in `check_ld_imm`, kernel/bpf/verifier.c, 7.3.

mod iterators;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep::{Engine, LightSkeleton, Object, RawMap};
use skep_abi::update_flags::BPF_F_CPU;
use skep_abi::{Errno, MapType, ProgType, RawInsn};
use skep_object::ProgramSpec;
use skep_runtime::test_run::{TestOptions, TestRunAttr};
use skep_sync::CpuId;

use crate::kernel::{self, Prog, TestRun};
use crate::kernel_light::KernelLight;
use crate::kernel_object::{KernelError, KernelObject};
use crate::map_vectors::{self, OUR_CPUS, Side};
use crate::vectors::{self, Case, KernelEngine, RuntimeEngine, files, hex};
use crate::verifier_case::{self, Outcome};

/// How many CPUs the other side must have.
pub const CPUS: usize = OUR_CPUS;

/// `BPF_F_TEST_RUN_ON_CPU`, which raw tracepoints take.
const TEST_RUN_ON_CPU: u32 = 1;

/// Objects with per-CPU data: the folder in the tree, and the name there and in the questions' folder.
const OBJECTS: [(&str, &str); 6] = [
    ("examples", "percpu_counters.bpf.o"),
    ("crates/object/tests/c", "data.bpf.o"),
    ("crates/skep/tests/data", "percpu_globals.bpf.o"),
    ("crates/skep/tests/data", "percpu_globals_volatile.bpf.o"),
    ("crates/skep/tests/data", "percpu_globals_O0.bpf.o"),
    ("crates/skep/tests/data", "percpu_shared.bpf.o"),
];

/// The object with iterators.
const ITERATORS: (&str, &str) = ("crates/skep/tests/data", "map_iter.bpf.o");

/// Answers every question. `folder` holds `maps/*.txt` (map vectors), `verdict/*.txt` (verifier vectors), `runs/*.txt`
/// (vectors that run) and the objects.
///
/// # Errors
/// A file that cannot be read, or is not what it should be.
pub fn answers(side: Side, folder: &Path) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for path in files(&folder.join("maps")) {
        let (name, text) = read(&path)?;
        for case in map_vectors::parse(&text)? {
            for (step, (_, answer)) in case.steps.iter().zip(map_vectors::answers(&case, side)?) {
                out.push(format!("map {name} {}: {} => {answer}", case.name, step.words.join(" ")));
            }
        }
    }
    for path in files(&folder.join("verdict")) {
        let (name, text) = read(&path)?;
        let case = verifier_case::parse(&text).map_err(|problem| format!("{name}: {problem}"))?;
        let outcome = match side {
            Side::Kernel => case.kernel(1)?.0,
            Side::Ours => case.ours(1).0,
        };
        out.push(format!("verdict {name} => {}", one_line(&outcome)));
    }
    runs(side, folder, &mut out)?;
    for (_, name) in OBJECTS {
        let path = folder.join(name);
        let object = Object::open(&path).map_err(|error| error.to_string())?;
        match side {
            Side::Kernel => in_kernel(name, &object, &mut out)?,
            Side::Ours => here(name, &object, &mut out)?,
        }
    }
    let object = Object::open(folder.join(ITERATORS.1)).map_err(|error| error.to_string())?;
    iterators::answers(side, ITERATORS.1, &object, &mut out)?;
    Ok(out)
}

/// What programs return and leave that use per-CPU maps. Ours are run by both engines, which must agree.
fn runs(side: Side, folder: &Path, out: &mut Vec<String>) -> Result<(), String> {
    let engines: Vec<Box<dyn vectors::Engine>> = match side {
        Side::Kernel => vec![Box::new(KernelEngine)],
        Side::Ours => vec![Box::new(RuntimeEngine::interp()?), Box::new(RuntimeEngine::jit()?)],
    };
    for path in files(&folder.join("runs")) {
        let (name, text) = read(&path)?;
        for case in vectors::parse(&name, &text).map_err(|error| error.to_string())? {
            let mut answers = engines.iter().map(|engine| outcome(engine.as_ref(), &case));
            let answer = answers.next().unwrap_or_default();
            if let Some(other) = answers.find(|other| *other != answer) {
                return Err(format!("{}: {answer} and {other} of our engines", case.name));
            }
            out.push(format!("run {} => {answer}", case.name));
        }
    }
    Ok(())
}

fn outcome(engine: &dyn vectors::Engine, case: &Case) -> String {
    match engine.run(case) {
        vectors::Outcome::Ran { r0, out } => format!("{r0:#x} {}", hex(&out)),
        vectors::Outcome::Accepted => "accepted".to_owned(),
        vectors::Outcome::Refused(message) => format!("refused: {message}"),
        vectors::Outcome::Skipped(why) => format!("not run: {why}"),
    }
}

/// A verdict on one line.
#[must_use]
pub fn one_line(outcome: &Outcome) -> String {
    outcome.to_string().trim_end().replace('\n', ": ")
}

fn read(path: &Path) -> Result<(String, String), String> {
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((name, text))
}

/// The packets that CPU `cpu` sees: their number and lengths tell CPUs apart.
fn packets(cpu: usize) -> Vec<Vec<u8>> {
    (0..=cpu).map(|n| vec![u8::try_from(n).unwrap_or(0); 64 + 32 * (cpu + n)]).collect()
}

/// The arguments of the raw tracepoint runs on CPU `cpu`.
fn arguments(cpu: usize) -> Vec<[u8; 8]> {
    (0..=cpu as u64).map(|n| (3 * cpu as u64 + n + 1).to_ne_bytes()).collect()
}

fn is_tracepoint(spec: &ProgramSpec) -> bool {
    spec.sec.as_ref().is_some_and(|sec| sec.prog_type == ProgType::RawTracepoint)
}

/// How many moves of a rewritten program add the CPU's base to an address.
fn percpu_moves(insns: &[RawInsn]) -> usize {
    insns.iter().filter(|insn| insn.code == 0xbf && insn.off == -1).count()
}

/// The values of a map: per CPU, element by element.
fn dump(
    out: &mut Vec<String>,
    what: &str,
    map_type: MapType,
    keys: &[Vec<u8>],
    lookup: impl Fn(&[u8], u64) -> Result<Vec<u8>, Errno>,
) {
    for key in keys {
        let mut say = |at: &str, flags| {
            let answer = lookup(key, flags).map_or_else(|errno| errno.to_string(), |value| hex(&value));
            out.push(format!("{what}[{}]{at} => {answer}", hex(key)));
        };
        say("", 0);
        if map_type.is_percpu() {
            for cpu in 0..=CPUS {
                say(&format!(" cpu {cpu}"), BPF_F_CPU | (cpu as u64) << 32);
            }
        }
    }
}

fn in_kernel(name: &str, object: &Object, out: &mut Vec<String>) -> Result<(), String> {
    let failed = |error: KernelError| format!("{name}: {error}");
    let kernel = KernelObject::create(object.spec()).map_err(failed)?;
    let mut programs = Vec::new();
    for (index, spec) in object.programs().iter().enumerate() {
        let loaded = kernel.load(index, 0);
        let verdict = match &loaded {
            Ok(_) => "accept".to_owned(),
            Err(KernelError::Rejected { errno, message, .. }) => format!("reject {errno}: {message}"),
            Err(error) => error.to_string(),
        };
        out.push(format!("{name} program {} => {verdict}", spec.name));
        let prog = loaded.ok().map(|loaded| loaded.prog);
        if let Some(prog) = &prog {
            let xlated = prog.info().map_err(|errno| errno.to_string())?.xlated;
            out.push(format!("{name} program {} percpu moves => {}", spec.name, percpu_moves(&xlated)));
        }
        programs.push(prog);
    }
    kernel.fill_prog_arrays(&programs).map_err(failed)?;
    let map = |index: usize| kernel.map(&object.maps()[index].name).ok_or_else(|| format!("{name}: a map is missing"));
    kernel_runs(name, "", object, &map, &programs, out)?;
    drop(programs);
    let loader = skep_skel::loader(object.spec()).map_err(|error| format!("{name}: {error}"))?;
    let light = KernelLight::load(&loader.insns, &loader.data, object.maps().len(), object.programs().len())
        .map_err(|error| format!("{name}: {error}: {:?}", std::error::Error::source(&error)))?;
    let map = |index: usize| light.maps[index].as_ref().ok_or_else(|| format!("{name}: a map is missing"));
    kernel_runs(name, "light ", object, &map, &light.programs, out)
}

fn kernel_runs<'a>(
    name: &str,
    how: &str,
    object: &Object,
    map: &dyn Fn(usize) -> Result<&'a kernel::Map, String>,
    programs: &[Option<Prog>],
    out: &mut Vec<String>,
) -> Result<(), String> {
    let dump_all = |when: &str, out: &mut Vec<String>| {
        for (index, spec) in object.maps().iter().enumerate() {
            let map_type = MapType::from_u32(spec.map_type).ok_or("map type")?;
            if map_type == MapType::ProgArray {
                // Its values are numbers that a run gets.
                continue;
            }
            let map = map(index)?;
            let keys = map.keys().map_err(|errno| errno.to_string())?;
            dump(out, &format!("{name} {how}{when} {}", spec.name), map_type, &keys, |key, flags| {
                map.lookup(key, flags)
            });
        }
        Ok::<(), String>(())
    };
    dump_all("before", out)?;
    for (spec, prog) in object.programs().iter().zip(programs) {
        let Some(prog) = prog else { continue };
        for cpu in 0..CPUS {
            kernel::pin_to_cpu(cpu).map_err(|errno| format!("pin to CPU {cpu}: {errno}"))?;
            let mut answer = String::new();
            let mut run = |run: TestRun<'_>| {
                let _ = match prog.test_run(&run) {
                    Ok(result) => write!(answer, " {}", result.retval),
                    Err(errno) => write!(answer, " {errno}"),
                };
            };
            if is_tracepoint(spec) {
                arguments(cpu).iter().for_each(|args| run(TestRun { ctx: args, ..TestRun::default() }));
            } else {
                packets(cpu).iter().for_each(|data| run(TestRun { data, repeat: 1, ..TestRun::default() }));
            }
            out.push(format!("{name} {how}{} on cpu {cpu} =>{answer}", spec.name));
        }
    }
    dump_all("after", out)
}

fn here(name: &str, object: &Object, out: &mut Vec<String>) -> Result<(), String> {
    let engine = Engine::builder().vcpus(CPUS).build().map_err(|error| error.to_string())?;
    let loaded = engine.load(object.clone()).map_err(|error| format!("{name}: {error}"))?;
    for program in loaded.programs() {
        out.push(format!("{name} program {} => accept", program.name()));
        let moves = percpu_moves(&program.xlated().insns);
        out.push(format!("{name} program {} percpu moves => {moves}", program.name()));
    }
    let maps: Vec<RawMap> = loaded.maps().map(|(_, map)| map.clone()).collect();
    let programs: Vec<skep::RawProgram> = loaded.programs().map(|program| (*program).clone()).collect();
    our_runs(name, "", object, &maps, &programs, out);
    let (maps, programs) = load_light(&engine, name, object)?;
    our_runs(name, "light ", object, &maps, &programs, out);
    Ok(())
}

/// What the object's loader program makes on this engine.
fn load_light(
    engine: &Engine,
    name: &str,
    object: &Object,
) -> Result<(Vec<RawMap>, Vec<skep_runtime::Program>), String> {
    let loader = skep_skel::loader(object.spec()).map_err(|error| format!("{name}: {error}"))?;
    let map_names = object.maps().iter().map(|map| (map.name.as_str(), map.image_len())).collect::<Vec<_>>();
    let program_names: Vec<&str> = object.programs().iter().map(|program| program.name.as_str()).collect();
    let insns = RawInsn::program_to_bytes(&loader.insns);
    let light = LightSkeleton { insns: &insns, data: &loader.data, maps: &map_names, programs: &program_names };
    let light = engine.load_light(&light, &[]).map_err(|error| format!("{name}: {error}"))?;
    let missing = |error: skep::NotFound| format!("{name}: {error}");
    let maps = map_names.iter().map(|(map, _)| light.map(map)).collect::<Result<Vec<_>, _>>().map_err(missing)?;
    let programs = program_names.iter().map(|program| light.program(program));
    let programs = programs.collect::<Result<Vec<_>, _>>().map_err(missing)?;
    Ok((maps, programs))
}

fn our_runs(
    name: &str,
    how: &str,
    object: &Object,
    maps: &[RawMap],
    programs: &[skep::RawProgram],
    out: &mut Vec<String>,
) {
    let dump_all = |when: &str, out: &mut Vec<String>| {
        for (spec, map) in object.maps().iter().zip(maps) {
            if map.info().map_type == MapType::ProgArray {
                continue;
            }
            let keys: Vec<Vec<u8>> = map.keys().collect();
            let what = format!("{name} {how}{when} {}", spec.name);
            dump(out, &what, map.info().map_type, &keys, |key, flags| map.lookup(key, flags));
        }
    };
    dump_all("before", out);
    for (spec, program) in object.programs().iter().zip(programs) {
        for cpu in 0..CPUS {
            let mut answer = String::new();
            let options = |repeat| TestOptions { repeat, cpu: u32::try_from(cpu).ok().map(CpuId) };
            let mut run = |attr: TestRunAttr<'_>| {
                let _ = match program.test_run_raw(&attr) {
                    Ok(result) => write!(answer, " {}", result.retval),
                    Err(error) => write!(answer, " {}", error.errno()),
                };
            };
            if is_tracepoint(spec) {
                for args in arguments(cpu) {
                    let flags = TEST_RUN_ON_CPU;
                    run(TestRunAttr { ctx_in: Some(&args), options: options(0), flags, ..TestRunAttr::default() });
                }
            } else {
                for packet in packets(cpu) {
                    run(TestRunAttr { data_in: &packet, options: options(1), ..TestRunAttr::default() });
                }
            }
            out.push(format!("{name} {how}{} on cpu {cpu} =>{answer}", program.name()));
        }
    }
    dump_all("after", out);
}

/// Files of the tree that the questions are made of: where each goes in the questions' folder.
#[must_use]
pub fn questions() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    for (from, to) in [
        ("testing/vectors/percpu", "maps"),
        ("testing/vectors/percpu/verdict", "verdict"),
        ("testing/vectors/percpu/runs", "runs"),
    ] {
        for path in files(&root.join(from)) {
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            all.push((path, Path::new(to).join(name)));
        }
    }
    for path in files(&root.join("testing/vectors/verifier/percpu")) {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        // Those that are about one version of Linux ask for it by name.
        if !name.starts_with("linux_") {
            all.push((path, PathBuf::from(format!("verdict/rules_{name}"))));
        }
    }
    for (folder, name) in OBJECTS.into_iter().chain([ITERATORS]) {
        all.push((root.join(folder).join(name), PathBuf::from(name)));
    }
    all
}
