//! The vectors of `testing/vectors/tailcall` in the interpreter, in compiled code and in the kernel, with the machine code
//! of their tail calls.
//!
//! The kernel attaches no extension here, so of a vector with one it is asked for its verdict alone; in a throwaway machine
//! (`SKEP_ORACLE_ATTACH=1`) for its result too.

mod code;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep::{Engine, Mode, Object, RawTp, Xdp};
use skep_abi::ProgType;
use skep_testing::kernel::{self, TestRun};
use skep_testing::kernel_object::KernelObject;
use skep_testing::tail_calls::{self, Case, PACKET};

/// What a run gave: r0, the counter, the shapes of compiled tail calls.
type Seen = (u32, u64, Option<Vec<String>>);
type Outcome = Result<Seen, String>;

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn ours(case: &Case, mode: Mode) -> Outcome {
    let text = |error: &dyn std::fmt::Display| format!("{error:#}");
    let engine = Engine::builder().mode(mode).build().map_err(|error| text(&error))?;
    let loaded = engine.load(Object::from_spec("tailcall", case.object.clone())).map_err(|error| {
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let _ = write!(chain, ": {cause}");
            source = cause.source();
        }
        chain
    })?;
    let program = loaded.programs().next().ok_or("no program")?;
    let maps: Vec<&str> = case.object.maps.iter().map(|map| map.name.as_str()).collect();
    let mut attached = Vec::new();
    for extension in &case.extensions {
        let object = Object::from_spec("extension", extension.object.clone());
        let version = object.adopt_maps(&maps).map_err(|error| text(&error))?;
        let replacement = loaded.replace_function(&extension.target, &extension.function, version);
        attached.push(replacement.map_err(|error| text(&error))?);
    }
    let r0 = if traces(case) {
        program.run(&mut RawTp::args(&[]))
    } else {
        program.run(&mut Xdp::packet(&[0; PACKET]).build().map_err(|error| text(&error))?)
    };
    let r0 = r0.map_err(|error| text(&error))?;
    let out = loaded.raw_map("out").map_err(|error| text(&error))?;
    let out = out.lookup(&[0; 4], 0).map_err(|errno| errno.to_string())?;
    let shapes = tail_calls::shapes(&program.xlated()).into_iter().map(str::to_owned).collect();
    let r0 = u32::try_from(r0 & u64::from(u32::MAX)).unwrap_or(0);
    Ok((r0, word(&out), (mode == Mode::Jit).then_some(shapes)))
}

/// Whether its programs are of a type without a packet.
fn traces(case: &Case) -> bool {
    let sec = case.object.programs.first().and_then(|program| program.sec.as_ref());
    sec.is_some_and(|sec| sec.prog_type == ProgType::RawTracepoint)
}

/// As [`ours`]; nothing where the kernel cannot run it.
fn in_kernel(case: &Case) -> Result<Option<Seen>, String> {
    let object = KernelObject::create(&case.object).map_err(|error| error.to_string())?;
    let mut programs = Vec::new();
    for index in 0..case.object.programs.len() {
        programs.push(Some(object.load(index, 0).map_err(|error| error.to_string())?.prog));
    }
    object.fill_prog_arrays(&programs).map_err(|error| error.to_string())?;
    let mut links = Vec::new();
    for extension in &case.extensions {
        let at = case.object.programs.iter().position(|program| program.name == extension.target);
        let target = at.and_then(|at| programs.get(at)?.as_ref()).ok_or("no target")?;
        let subprogs = at.map(|at| &case.object.programs[at].subprogs).ok_or("no target")?;
        let function = subprogs.iter().find(|sub| sub.name == extension.function).and_then(|sub| sub.type_id);
        let function = function.ok_or("no function")?;
        let loaded = object.load_extension(&extension.object.programs[0], 0, (target, function));
        let loaded = loaded.map_err(|error| error.to_string())?.prog;
        if kernel::may_attach() {
            let link = loaded.attach_extension(target, function.0).map_err(|errno| format!("attach: {errno}"))?;
            links.push((loaded, link));
        }
    }
    if links.len() < case.extensions.len() {
        return Ok(None);
    }
    let main = programs.first().and_then(Option::as_ref).ok_or("no program")?;
    let packet = [0; PACKET];
    let data: &[u8] = if traces(case) { &[] } else { &packet };
    let result = main.test_run(&TestRun { data, ..TestRun::default() });
    let result = result.map_err(|errno| errno.to_string())?;
    let out = object.map("out").ok_or("no counter")?.lookup(&[0; 4], 0).map_err(|errno| errno.to_string())?;
    Ok(Some((result.retval, word(&out), None)))
}

/// Appends what differs from the vector.
fn judge(wrong: &mut String, file: &Path, engine: &str, case: &Case, outcome: Outcome) {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    match (outcome, &case.refused) {
        (Err(problem), Some(message)) if problem.ends_with(&format!(": {message}")) => {}
        (Ok(_), Some(message)) => {
            let _ = writeln!(wrong, "{name}, {engine}: it runs, expected the refusal {message:?}");
        }
        (Err(problem), _) => {
            let _ = writeln!(wrong, "{name}, {engine}: {problem}");
        }
        (Ok((r0, out, shapes)), None) => {
            if (r0, out) != (case.r0, case.out) {
                let (want_r0, want_out) = (case.r0, case.out);
                let _ = writeln!(wrong, "{name}, {engine}: r0 {r0} out {out}, expected r0 {want_r0} out {want_out}");
            }
            if let Some(shapes) = shapes
                && shapes != case.shapes
            {
                let _ = writeln!(wrong, "{name}, {engine}: compiled as {shapes:?}, expected {:?}", case.shapes);
            }
        }
    }
}

#[test]
fn every_engine_agrees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/tailcall");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("vectors").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    let kernel = kernel::available().is_ok();
    let extensions = kernel && kernel::require_extensions("verdicts on the vectors' extensions");
    let mut wrong = String::new();
    let (mut ran, mut verdicts) = (0, 0);
    for file in &files {
        let text = std::fs::read_to_string(file).expect("readable");
        let case = tail_calls::parse(&text).unwrap_or_else(|error| panic!("{}: {error:?}", file.display()));
        judge(&mut wrong, file, "interp", &case, ours(&case, Mode::Interp));
        judge(&mut wrong, file, "jit", &case, ours(&case, Mode::Jit));
        let asked = kernel && (extensions || case.extensions.is_empty());
        if asked && let Some(outcome) = in_kernel(&case).transpose() {
            ran += 1;
            judge(&mut wrong, file, "kernel", &case, outcome);
        } else if asked {
            verdicts += 1;
        }
        if case.refused.is_none() {
            code::compare(&mut wrong, file, &text, &case);
        }
    }
    let n = files.len();
    let in_kernel = format!("{ran} kernel, {verdicts} its verdict alone");
    skep_testing::summary::say(&format!("vectors: tailcall {n} interp, {n} jit, {in_kernel}"));
    assert!(files.len() >= 60, "the vectors are there");
    assert!(wrong.is_empty(), "\n{wrong}");
}
