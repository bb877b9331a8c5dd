//! Per-CPU data, asked of a kernel that has it and of this engine: the same questions, an answer a line.
//!
//! A line is `QUESTION => ANSWER`. Both sides have as many CPUs ([`CPUS`]), so the answers of one are the other's, line by
//! line. Invariant: nothing in an answer depends on time, addresses, or numbers that a run gets. Kernel counterpart:
//! `BPF_F_CPU`, kernel/bpf/syscall.c; `PERCPU_ARRAY` in `check_ld_imm`, kernel/bpf/verifier.c, 7.3.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep::{Engine, LightSkeleton, Object, RawMap};
use skep_abi::update_flags::BPF_F_CPU;
use skep_abi::{Errno, MapType, RawInsn};
use skep_runtime::test_run::{TestOptions, TestRunAttr};
use skep_sync::CpuId;

use crate::kernel::{self, Prog, TestRun};
use crate::kernel_light::KernelLight;
use crate::kernel_object::{KernelError, KernelObject};
use crate::map_vectors::{self, OUR_CPUS, Side};
use crate::vectors::{files, hex};
use crate::verifier_case::{self, Outcome};

/// How many CPUs the other side must have.
pub const CPUS: usize = OUR_CPUS;

/// Objects with per-CPU data, by their place in the questions' folder.
const OBJECTS: [&str; 2] = ["percpu_counters.bpf.o", "data.bpf.o"];

/// Answers every question. `folder` holds `maps/*.txt` (map vectors), `verdict/*.txt` (verifier vectors) and the objects.
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
    for name in OBJECTS {
        let path = folder.join(name);
        let object = Object::open(&path).map_err(|error| error.to_string())?;
        match side {
            Side::Kernel => in_kernel(name, &object, &mut out)?,
            Side::Ours => here(name, &object, &mut out)?,
        }
    }
    Ok(out)
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
            let map = map(index)?;
            let map_type = MapType::from_u32(spec.map_type).ok_or("map type")?;
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
            for packet in packets(cpu) {
                let run = TestRun { data: &packet, repeat: 1, ..TestRun::default() };
                let _ = match prog.test_run(&run) {
                    Ok(result) => write!(answer, " {}", result.retval),
                    Err(errno) => write!(answer, " {errno}"),
                };
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
    our_runs(name, "light ", object, &maps, &programs, out);
    Ok(())
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
            let keys: Vec<Vec<u8>> = map.keys().collect();
            let what = format!("{name} {how}{when} {}", spec.name);
            dump(out, &what, map.info().map_type, &keys, |key, flags| map.lookup(key, flags));
        }
    };
    dump_all("before", out);
    for program in programs {
        for cpu in 0..CPUS {
            let mut answer = String::new();
            for packet in packets(cpu) {
                let options = TestOptions { repeat: 1, cpu: u32::try_from(cpu).ok().map(CpuId) };
                let attr = TestRunAttr { data_in: &packet, options, ..TestRunAttr::default() };
                let _ = match program.test_run_raw(&attr) {
                    Ok(result) => write!(answer, " {}", result.retval),
                    Err(error) => write!(answer, " {}", error.errno()),
                };
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
    for (from, to) in [("testing/vectors/percpu", "maps"), ("testing/vectors/percpu/verdict", "verdict")] {
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
    for (folder, name) in [("examples", OBJECTS[0]), ("crates/object/tests/c", OBJECTS[1])] {
        all.push((root.join(folder).join(name), PathBuf::from(name)));
    }
    all
}
