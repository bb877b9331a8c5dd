//! `skep bench poke`: what it costs to change running code, and whom.
//!
//! Many programs, each with one site of the statistics switch, are run by threads as fast as they can while the switch is
//! flipped again and again: the experiment that made the kernel's references per-CPU (docs/scaling.md). A flip is timed as
//! its caller sees it; `poke` is the five steps alone, which is what the kernel's trace prints. A stall is the longest run that a
//! flip overlaps, of those that kept their CPU; behind the slash, the same for moments without a flip.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep::{Engine, Loaded, Object, Program, Xdp, XdpBuff};
use skep_text::measure::{Options, Report, Subject, measure};
use skep_text::{PokeReport, Refs, TextError, set_refs};

use super::latency_svg;
use super::measure::machine;
use crate::args::{Output, Peer, PokeArgs, RefsArg};
use crate::exit::usage;
use crate::output::{self, Align, Table};

/// The object whose smallest program is loaded again and again.
const OBJECT: &[u8] = include_bytes!("../../../../bench/rows.bpf.o");
const PROGRAM: &str = "trivial";

/// Programs of one engine, and a packet per thread.
struct Programs {
    engine: Engine,
    programs: Vec<Program>,
    packets: Vec<Mutex<XdpBuff>>,
    _loaded: Vec<Loaded>,
}

impl Programs {
    fn load(count: usize, threads: usize) -> Result<Self> {
        let engine = Engine::new()?;
        let mut object = Object::from_bytes("rows.bpf.o", OBJECT)?;
        let spec = object.spec_mut();
        spec.programs.retain(|program| program.name == PROGRAM);
        spec.maps.clear();
        spec.variables.clear();
        let loaded = (0..count).map(|_| engine.load(object.clone())).collect::<Result<Vec<_>, _>>()?;
        let programs = loaded.iter().map(|loaded| loaded.program(PROGRAM)).collect::<Result<Vec<_>, _>>()?;
        let packets = (0..threads).map(|_| Ok(Mutex::new(Xdp::packet(&[0; 64]).build()?))).collect::<Result<_>>()?;
        Ok(Self { engine, programs, packets, _loaded: loaded })
    }

    /// Runs that the statistics have counted.
    fn counted(&self) -> u64 {
        self.programs.iter().map(|program| program.stats().run_cnt).sum()
    }
}

impl Subject for Programs {
    fn work(&self, thread: usize, count: u32) {
        let mut packet = self.packets[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = thread * 31 % self.programs.len();
        for _ in 0..count {
            black_box(self.programs[at].run(&mut *packet).is_ok());
            at += 1;
            if at == self.programs.len() {
                at = 0;
            }
        }
    }

    fn flip(&self, on: bool) -> Result<PokeReport, TextError> {
        let key = self.engine.stats_key();
        if on { key.enable() } else { key.disable() }
    }
}

/// One row.
struct Figure {
    refs: Refs,
    report: Report,
    counted: u64,
}

pub(crate) fn run(args: &PokeArgs, output: Output) -> Result<()> {
    if args.programs.is_empty() || args.programs.contains(&0) || args.threads == 0 || args.flips == 0 {
        return usage("programs, threads and flips must not be 0".to_owned());
    }
    skep_text::live().context("there is nothing to measure")?;
    let strategies = match args.refs {
        Some(RefsArg::Shared) => vec![Refs::Shared],
        Some(RefsArg::Percpu) => vec![Refs::PerCpu],
        None => vec![Refs::Shared, Refs::PerCpu],
    };
    let options = Options { threads: args.threads, flips: args.flips, ..Options::default() };
    let mut figures = Vec::new();
    for &count in &args.programs {
        eprintln!("loading {count} programs …");
        let subject = Programs::load(count, args.threads)?;
        for &refs in &strategies {
            set_refs(refs);
            let before = subject.counted();
            let report = measure(&subject, &options)?;
            figures.push(Figure { refs, report, counted: subject.counted() - before });
        }
    }
    set_refs(Refs::default());
    let kernel = if args.against.contains(&Peer::Kernel) { Some(kernel_flips(args.flips)?) } else { None };
    if let (Some(path), Some(figure)) = (&args.svg, figures.last()) {
        std::fs::write(path, latency_svg::draw(&figure.report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if output.is_json() {
        output.print_json(&json(args, &figures, kernel.as_deref()))
    } else {
        output::print(&table(args, &figures, kernel.as_deref()))
    }
}

/// Flips the kernel's own switch; sorted times. The switch is left as it was.
fn kernel_flips(count: usize) -> Result<Vec<Duration>> {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let was = std::fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
    let flip = |on: bool| -> std::io::Result<Duration> {
        let start = Instant::now();
        std::fs::write(SWITCH, if on { "1" } else { "0" })?;
        Ok(start.elapsed())
    };
    let times: std::io::Result<Vec<Duration>> = (0..count)
        .map(|at| {
            std::thread::sleep(Duration::from_millis(1));
            flip(at % 2 == 0)
        })
        .collect();
    std::fs::write(SWITCH, was.trim()).with_context(|| format!("cannot restore {SWITCH}"))?;
    let mut times = times.with_context(|| format!("cannot write {SWITCH}"))?;
    times.sort();
    Ok(times)
}

fn us(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

fn name(refs: Refs) -> &'static str {
    match refs {
        Refs::Shared => "shared",
        Refs::PerCpu => "percpu",
    }
}

fn json(args: &PokeArgs, figures: &[Figure], kernel: Option<&[Duration]>) -> Value {
    let quantiles = |sorted: &[Duration]| {
        let at = |share: usize| sorted.get((sorted.len() - 1) * share / 100).copied().unwrap_or_default();
        json!({ "min": us(at(0)), "median": us(at(50)), "p99": us(at(99)), "max": us(at(100)) })
    };
    let rows: Vec<Value> = figures
        .iter()
        .map(|Figure { refs, report, counted }| {
            json!({
                "bench": "poke", "refs": name(*refs), "nr_entries": report.nr_entries, "threads": args.threads,
                "flip_us": quantiles(&report.flips), "poke_us": quantiles(&report.pokes),
                "run_ns": {
                    "before": report.before_ns, "during": report.during_ns, "on": report.on_ns,
                    "after": report.after_ns,
                },
                "traps": report.traps.traps, "late_traps": report.traps.late, "counted_runs": counted,
                "stall_us": quantiles(&report.stalls), "without_flip_us": quantiles(&report.undisturbed),
                "runs_that_lost_their_cpu": report.lost_cpu,
            })
        })
        .collect();
    json!({ "machine": machine(), "rows": rows, "kernel_flip_us": kernel.map(quantiles) })
}

fn table(args: &PokeArgs, figures: &[Figure], kernel: Option<&[Duration]>) -> String {
    let mut table = Table::new(&[
        ("nr_entries", Align::Right),
        ("refs", Align::Left),
        ("flip min", Align::Right),
        ("median", Align::Right),
        ("p99", Align::Right),
        ("max us", Align::Right),
        ("poke us", Align::Right),
        ("before ns", Align::Right),
        ("during", Align::Right),
        ("on", Align::Right),
        ("after", Align::Right),
        ("stall us", Align::Right),
        ("p99", Align::Right),
        ("traps", Align::Right),
        ("late", Align::Right),
    ]);
    for Figure { refs, report, .. } in figures {
        let flip = |share| format!("{:.1}", us(report.flip_at(share)));
        let stall = |share| {
            let (with, without) = report.stall_at(share);
            format!("{:.1}/{:.1}", us(with), us(without))
        };
        let poke = report.pokes.get(report.pokes.len() / 2).copied().unwrap_or_default();
        table.row(vec![
            report.nr_entries.to_string(),
            name(*refs).to_owned(),
            flip(0.0),
            flip(0.5),
            flip(0.99),
            flip(1.0),
            format!("{:.1}", us(poke)),
            format!("{:.2}", report.before_ns),
            format!("{:.2}", report.during_ns),
            format!("{:.2}", report.on_ns),
            format!("{:.2}", report.after_ns),
            stall(0.5),
            stall(0.99),
            report.traps.traps.to_string(),
            report.traps.late.to_string(),
        ]);
    }
    let machine = machine();
    let against = kernel.map_or(String::new(), |times| {
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        format!("the kernel's own switch: median {:.1} us of {} flips\n", us(median), times.len())
    });
    format!(
        "{}, {} CPUs, Linux {}; {} threads run the programs, {} flips per row\n{}{against}",
        machine["cpu"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["kernel"].as_str().unwrap_or_default(),
        args.threads,
        args.flips,
        table.render()
    )
}
