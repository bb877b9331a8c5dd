//! `skep run`: a program over packets.
//!
//! Packets are run in batches: the buffers of a batch are filled first, then the program runs over all of them between two
//! timestamps, then they are read. So `ns per packet` is the program's time and not that of copying.

mod iterate;
mod packets;
mod report;
mod work;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use skep::{CtxType, Engine, Loaded, Object, Program};

use crate::args::{Mode, Output, RunArgs};
use crate::exit::{Rejected, usage};
use crate::{input, maps, value};

use iterate::Iteration;
use packets::Packets;
use report::Report;

pub(crate) fn run(args: &RunArgs, output: Output) -> Result<()> {
    let mut object = Object::open(&args.object)?;
    for assignment in &args.set_rodata {
        set_variable(&mut object, assignment)?;
    }
    let iterates_only = !args.iter.is_empty() && args.prog.is_none() && !args.input.is_given();
    let packets = if iterates_only { Packets::none() } else { Packets::read(&args.input)? };
    if let Some(damage) = &packets.damage {
        eprintln!("skep: {damage}: running over the {} whole packets before it", packets.list.len());
    }
    let threads = usize::try_from(args.threads)?;
    let mode = match args.mode {
        Mode::Jit => skep::Mode::Jit,
        Mode::Interp => skep::Mode::Interp,
    };
    let engine = Engine::builder().vcpus(threads.max(num_cpus())).mode(mode).build()?;
    let loaded = match engine.load(object.clone()) {
        Ok(loaded) => loaded,
        Err(error) => return refused(args, error, output),
    };
    for assignment in &args.map {
        fill_map(&loaded, assignment)?;
    }
    let iterations = Iteration::all(&loaded, args)?;
    if iterates_only {
        return iterate::alone(&iterations, output);
    }
    let program = choose(&loaded, args)?;
    if args.write.is_some() && !packets.are_packets {
        return usage("--write needs packets, --ctx gives none");
    }
    let stats = if args.stats { Some(engine.enable_stats()?) } else { None };
    let started = Instant::now();
    let outcome = work::run(&program, &packets, args)?;
    let elapsed = started.elapsed();
    if let Some(path) = &args.write {
        let mut writer = crate::capture::Writer::create(path)?;
        for (packet, after) in packets.list.iter().zip(&outcome.packets) {
            writer.write(packet.time, after)?;
        }
        writer.finish().with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = Report {
        program: &program,
        loaded: &loaded,
        mode: engine.mode(),
        threads: args.threads,
        outcome: &outcome,
        elapsed,
        with_stats: stats.is_some(),
        with_maps: args.maps,
    };
    if output.is_json() {
        let mut json = report.json()?;
        if !iterations.is_empty() {
            json["iterators"] = iterate::json(&iterations)?;
        }
        return output.print_json(&json);
    }
    match &iterations[..] {
        [] => crate::output::print(&report.text(output)?),
        some => iterate::print(some, Some(&report.text(output)?)),
    }
}

fn num_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Shows why the object did not load; a rejection by the verifier is exit 1.
fn refused(args: &RunArgs, error: skep::LoadError, output: Output) -> Result<()> {
    if !error.is_rejection() {
        return Err(anyhow::Error::new(error).context(args.object.display().to_string()));
    }
    crate::explain::eprint(&error, output);
    eprintln!("skep: {}: {error}", args.object.display());
    Err(Rejected.into())
}

fn choose(loaded: &Loaded, args: &RunArgs) -> Result<Program> {
    // Iterators run over maps, and only with --iter.
    let programs: Vec<Program> = loaded.programs().filter(|p| p.ctx_type() != CtxType::MapElem).collect();
    let names = || programs.iter().map(|program| program.name()).collect::<Vec<_>>().join(", ");
    match &args.prog {
        Some(name) => match programs.iter().find(|p| p.name() == name) {
            Some(program) => Ok(Program::clone(program)),
            None => usage(format!("{}: no program {name:?}; there are {}", args.object.display(), names())),
        },
        None => match &programs[..] {
            [program] => Ok(Program::clone(program)),
            [] => bail!("{}: has no program that loads by itself", args.object.display()),
            _ => usage(format!("{}: has several programs, choose with --prog: {}", args.object.display(), names())),
        },
    }
}

/// Sets a global variable from `NAME=VALUE`: a number, or JSON for arrays and structs.
fn set_variable(object: &mut Object, assignment: &str) -> Result<()> {
    let (name, text) = match input::split_assignment(assignment) {
        Ok(parts) => parts,
        Err(error) => return usage(format!("--set-rodata: {error}")),
    };
    let Some(variable) = object.spec().variable(name) else {
        let names: Vec<&str> = object.variables().iter().map(|v| v.name.as_str()).collect();
        let known = if names.is_empty() { "it has none".to_owned() } else { format!("there are {}", names.join(", ")) };
        return usage(format!("--set-rodata: no variable {name:?} in {}; {known}", object.file()));
    };
    let json = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
    let bytes = match (object.btf(), variable.type_id) {
        (Some(btf), Some(id)) => value::from_json(btf, id, &json),
        _ => value::raw_from_json(&json, usize::try_from(variable.size)?),
    };
    match bytes {
        Ok(bytes) => Ok(object.set_variable(name, &bytes)?),
        Err(error) => usage(format!("--set-rodata {name}: {error:#}")),
    }
}

/// Fills a map from `NAME=FILE.json`.
fn fill_map(loaded: &Loaded, assignment: &str) -> Result<()> {
    let (name, path) = match input::split_assignment(assignment) {
        Ok(parts) => parts,
        Err(error) => return usage(format!("--map: {error}")),
    };
    let Some((_, map)) = loaded.maps().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = loaded.maps().map(|(known, _)| known).collect();
        return usage(format!("--map: no map {name:?}; there are {}", names.join(", ")));
    };
    let bytes = input::read_regular(path.as_ref(), input::MAX_FILE)?;
    let json = serde_json::from_slice(&bytes).with_context(|| format!("{path}: not JSON"))?;
    maps::fill(map, &json).with_context(|| format!("{path}: map {name}"))
}
