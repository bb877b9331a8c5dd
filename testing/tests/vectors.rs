//! Runs the text vectors on every engine at hand; see testing/README.md.
//!
//! `BLESS=1` rewrites expectations from the kernel (of vectors whose name contains the first argument), `BLESS=families`
//! the generated files.

use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use skep_testing::kernel;
use skep_testing::vectors::{
    self, Case, Engine, KernelEngine, Outcome, RuntimeEngine, Summary, VerifierEngine, families,
};

/// Kinds of vectors that this runner knows, one directory each.
const KINDS: [&str; 3] = ["isa", "helpers", "percpu/runs"];

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let bless = std::env::var("BLESS").unwrap_or_default();
    if bless == "families" {
        return match write_families() {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        };
    }
    if !bless.is_empty() {
        return bless_all(arguments.filter.as_deref());
    }
    let summary = Arc::new(Summary::default());
    let mut trials = vec![Trial::test("families_are_committed", families_are_committed)];
    let engines = engines();
    for kind in KINDS {
        match vectors::load(kind) {
            Ok(cases) => {
                for case in cases.into_iter().map(Arc::new) {
                    trials.extend(engines.iter().map(|engine| trial(kind, &case, engine, &summary)));
                }
            }
            Err(error) => trials.push(Trial::test(format!("{kind}_files"), move || Err(Failed::from(error)))),
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for line in summary.lines() {
        skep_testing::summary::say(&line);
    }
    conclusion.exit_code()
}

fn fail(message: &str) -> std::process::ExitCode {
    eprintln!("{message}");
    std::process::ExitCode::FAILURE
}

/// The engines at hand. What cannot be had on this machine is named, and its runs are missing from the summary.
fn engines() -> Vec<Arc<dyn Engine>> {
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(VerifierEngine), Arc::new(KernelEngine)];
    for engine in [RuntimeEngine::interp(), RuntimeEngine::jit()] {
        match engine {
            Ok(engine) => engines.push(Arc::new(engine)),
            Err(why) => eprintln!("vectors: an engine is missing: {why}"),
        }
    }
    engines
}

fn trial(kind: &'static str, case: &Arc<Case>, engine: &Arc<dyn Engine>, summary: &Arc<Summary>) -> Trial {
    let (case, engine, summary) = (Arc::clone(case), Arc::clone(engine), Arc::clone(summary));
    Trial::test(format!("{kind}/{}/{}", case.name, engine.name()), move || {
        let skipped = match case.skip_reason(engine.name()) {
            Some(reason) => Some(reason.to_owned()),
            None if engine.name() == "kernel" => kernel::available().err().map(str::to_owned),
            None => None,
        };
        if let Some(reason) = skipped {
            summary.skipped(kind, engine.name(), &reason);
            return Ok(());
        }
        let outcome = engine.run(&case);
        match &outcome {
            Outcome::Skipped(reason) => summary.skipped(kind, engine.name(), reason),
            _ => summary.ran(kind, engine.name()),
        }
        vectors::check(&case, &outcome).map_err(|problem| Failed::from(format!("{problem}\n{}", case.text)))
    })
}

fn families_are_committed() -> Result<(), Failed> {
    for (stem, text) in families::generate() {
        let path = vectors::directory("isa").join(format!("{stem}.txt"));
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        if committed != text {
            return Err(Failed::from(format!("{stem}.txt is not what the generator writes; run with BLESS=families")));
        }
    }
    Ok(())
}

fn write_families() -> std::io::Result<()> {
    std::fs::create_dir_all(vectors::directory("isa"))?;
    for (stem, text) in families::generate() {
        std::fs::write(vectors::directory("isa").join(format!("{stem}.txt")), text)?;
    }
    Ok(())
}

fn bless_all(filter: Option<&str>) -> std::process::ExitCode {
    if let Err(why) = kernel::available() {
        return fail(why);
    }
    for kind in KINDS {
        for path in vectors::files(&vectors::directory(kind)) {
            // The expectations of generated files come from their model.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gen_")) {
                continue;
            }
            match vectors::bless(&path, filter) {
                Ok(0) => {}
                Ok(changed) => println!("{}: {changed} changed", path.display()),
                Err(error) => return fail(&format!("{}: {error}", path.display())),
            }
        }
    }
    std::process::ExitCode::SUCCESS
}
