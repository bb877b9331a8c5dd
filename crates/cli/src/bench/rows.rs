//! `skep bench run`: the programs of `bench/rows.bpf.c`, each in our JIT, our interpreter and the kernel.
//!
//! `net` is a row less the `trivial` row of the same engine and round: what is left is the program's own work, without the
//! cost of starting a run, which the kernel's test loop makes larger than it is in life. A map row counts one lookup.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skep::{Engine, Loaded, Mode, Object, Program, Xdp, XdpBuff};
use skep_testing::kernel::{Prog, TestRun, TestRunResult};
use skep_testing::kernel_object::KernelObject;

use super::measure::{Runner, Samples, machine, rotate};
use crate::args::{BenchArgs, Output, Peer};
use crate::exit::usage;
use crate::output::{self, Align, Table};

/// The compiled rows.
const OBJECT: &[u8] = include_bytes!("../../../../bench/rows.bpf.o");
/// Lookups in one run of a map row.
const LOOKUPS: f64 = 32.0;
/// Keys that the hash row finds.
const HASH_KEYS: u64 = 512;

/// A row's heading, its program, and the row whose time is not its own.
struct Row {
    name: &'static str,
    program: &'static str,
    /// Program to subtract for the net figure.
    base: &'static str,
    /// Divides the net figure.
    per: f64,
    /// Whether our virtual CPU is held over all runs, as the kernel's test run holds its CPU.
    held: bool,
}

const fn compute(name: &'static str, program: &'static str) -> Row {
    Row { name, program, base: "trivial", per: 1.0, held: true }
}

const fn lookup(name: &'static str, program: &'static str) -> Row {
    Row { name, program, base: "lookup_loop", per: LOOKUPS, held: true }
}

const ROWS: [Row; 13] = [
    compute("trivial", "trivial"),
    Row { held: false, ..compute("trivial, vCPU taken each run", "trivial") },
    compute("alu loop", "alu_loop"),
    compute("collatz", "collatz"),
    compute("sum 1500 bytes", "sum_bytes"),
    compute("header checksum", "header_checksum"),
    compute("siphash 64 bytes", "siphash"),
    compute("copy and scan", "copy_and_scan"),
    compute("header parse", "header_parse"),
    compute("primes", "primes"),
    lookup("array lookup", "array_lookup"),
    lookup("per-CPU array lookup", "percpu_array_lookup"),
    lookup("hash lookup", "hash_lookup"),
];

/// The frame of bench/README.md.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0x05, 0xdc, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 100]);
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xfa, 0xf0, 0, 0, 0, 0]);
    frame.extend((0..1460u32).map(|i| (i * 7).to_le_bytes()[0]));
    frame
}

/// One of our modes.
struct Ours {
    engine: &'static str,
    program: Program,
    packet: XdpBuff,
    held: bool,
}

impl Runner for Ours {
    fn engine(&self) -> &'static str {
        self.engine
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        if !self.held {
            let start = Instant::now();
            for _ in 0..runs {
                black_box(self.program.run(&mut self.packet)?);
            }
            return Ok(start.elapsed());
        }
        let engine = std::sync::Arc::clone(self.program.engine());
        let guard = engine.cpus().enter()?;
        let start = Instant::now();
        for _ in 0..runs {
            black_box(self.program.run_on(&guard, &mut self.packet)?);
        }
        Ok(start.elapsed())
    }

    fn value(&mut self) -> Result<u32> {
        Ok(u32::try_from(self.program.run(&mut self.packet)? & 0xffff_ffff)?)
    }
}

/// The running kernel.
struct Kernel<'a> {
    program: &'a Prog,
    frame: &'a [u8],
}

impl Kernel<'_> {
    fn test_run(&self, runs: u32) -> Result<TestRunResult> {
        self.program
            .test_run(&TestRun { data: self.frame, repeat: runs, ..TestRun::default() })
            .map_err(|errno| anyhow::anyhow!("the kernel's test run: {errno}"))
    }
}

impl Runner for Kernel<'_> {
    fn engine(&self) -> &'static str {
        "kernel"
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        // The kernel's own clock, around its loop: the system call itself waits for an RCU grace period. It gives whole
        // nanoseconds per run.
        Ok(self.test_run(runs)?.duration * runs)
    }

    fn value(&mut self) -> Result<u32> {
        Ok(self.test_run(1)?.retval)
    }
}

/// One measured figure.
struct Figure {
    row: &'static str,
    engine: &'static str,
    raw: Samples,
    net: Samples,
    unit: &'static str,
}

pub(crate) fn run(args: &BenchArgs, output: Output) -> Result<()> {
    let wanted: Vec<&Row> =
        ROWS.iter().filter(|row| args.row.as_ref().is_none_or(|text| row.name.contains(text.as_str()))).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return usage(format!("no such row; there are {}", names.join(", ")));
    }
    let object = Object::from_bytes("rows.bpf.o", OBJECT)?;
    let jit = load(&object, Mode::Jit)?;
    let interp = load(&object, Mode::Interp)?;
    let with_kernel = args.against.contains(&Peer::Kernel);
    let kernel =
        if with_kernel { Some(KernelObject::create(object.spec()).context("the kernel's maps")?) } else { None };
    if let Some(kernel) = &kernel {
        let map = kernel.map("hash").context("the rows have no hash map")?;
        for key in 0..HASH_KEYS {
            map.update(&key.to_ne_bytes(), &key.to_ne_bytes(), 0)
                .map_err(|errno| anyhow::anyhow!("the kernel's hash map: {errno}"))?;
        }
    }
    let frame = frame();
    let at_least = Duration::from_millis(args.millis);
    let mut figures = Vec::new();
    for row in wanted {
        eprintln!("measuring {} …", row.name);
        let mut kernel_programs = Vec::new();
        for name in [row.program, row.base] {
            if let Some(kernel) = &kernel {
                let index = object.programs().iter().position(|p| p.name == name).context("no such program")?;
                kernel_programs.push(kernel.load(index, 0)?.prog);
            }
        }
        let mut runners: Vec<Box<dyn Runner>> = Vec::new();
        for (index, name) in [row.program, row.base].into_iter().enumerate() {
            for (engine, loaded) in [("jit", &jit), ("interp", &interp)] {
                let packet = Xdp::packet(&frame).build()?;
                runners.push(Box::new(Ours { engine, program: loaded.program(name)?, packet, held: row.held }));
            }
            if let Some(program) = kernel_programs.get(index) {
                runners.push(Box::new(Kernel { program, frame: &frame }));
            }
        }
        let values = runners.iter_mut().map(|runner| runner.value()).collect::<Result<Vec<u32>>>()?;
        let (own, base) = values.split_at(runners.len() / 2);
        if [own, base].iter().any(|values| values.iter().any(|value| *value != values[0])) {
            bail!("{}: the engines return different values: {own:?} and {base:?}", row.name);
        }
        let samples = rotate(&mut runners, args.rounds, at_least)?;
        let engines = runners.len() / 2;
        for index in 0..engines {
            let (raw, base) = (&samples[index], &samples[engines + index]);
            let own = if row.program == row.base { raw.clone() } else { raw.minus(base) };
            figures.push(Figure {
                row: row.name,
                engine: runners[index].engine(),
                raw: raw.clone(),
                net: own.per(row.per),
                unit: if row.per > 1.0 { "ns/op" } else { "ns/run" },
            });
        }
    }
    if output.is_json() { output.print_json(&json(&figures)) } else { output::print(&table(&figures)) }
}

fn load(object: &Object, mode: Mode) -> Result<Loaded> {
    let engine = Engine::builder().mode(mode).build()?;
    let loaded = engine.load(object.clone())?;
    let map = loaded.raw_map("hash")?;
    for key in 0..HASH_KEYS {
        map.update(&key.to_ne_bytes(), &key.to_ne_bytes(), 0)
            .map_err(|errno| anyhow::anyhow!("the hash map: {errno}"))?;
    }
    Ok(loaded)
}

fn json(figures: &[Figure]) -> Value {
    let mut rows = Vec::new();
    for figure in figures {
        rows.push(figure.raw.json("run", figure.row, figure.engine, "ns/run"));
        let name = format!("{} (net)", figure.row);
        rows.push(figure.net.json("run", &name, figure.engine, figure.unit));
    }
    json!({ "machine": machine(), "rows": rows })
}

fn table(figures: &[Figure]) -> String {
    let mut table = Table::new(&[
        ("row", Align::Left),
        ("engine", Align::Left),
        ("ns/run", Align::Right),
        ("net", Align::Right),
        ("p10", Align::Right),
        ("p90", Align::Right),
        ("unit", Align::Left),
        ("net / kernel's", Align::Right),
    ]);
    for figure in figures {
        let kernel = figures.iter().find(|other| other.row == figure.row && other.engine == "kernel");
        let ratio = kernel
            .filter(|_| figure.engine != "kernel")
            .map_or(String::new(), |kernel| format!("{:.2}", figure.net.median() / kernel.net.median()));
        table.row(vec![
            figure.row.to_owned(),
            figure.engine.to_owned(),
            format!("{:.1}", figure.raw.median()),
            format!("{:.2}", figure.net.median()),
            format!("{:.2}", figure.net.quantile(0.1)),
            format!("{:.2}", figure.net.quantile(0.9)),
            figure.unit.to_owned(),
            ratio,
        ]);
    }
    let machine = machine();
    format!(
        "{}, {} CPUs, Linux {}\n{}net: less the same engine's trivial program (map rows: the loop without lookups, per lookup)\n",
        machine["cpu"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["kernel"].as_str().unwrap_or_default(),
        table.render()
    )
}
