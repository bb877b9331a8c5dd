//! `skep bench percpu`: what a counter costs, by its kind and by how many threads count.
//!
//! Each row of `bench/percpu.bpf.c` makes 128 increments in a run. `net` is a row less the same loop without them, for one
//! increment. With N threads, each runs on a virtual CPU of its own for the same time; `scaling` is their rate over one
//! thread's.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skep::{Engine, Loaded, Object, Program, Xdp};
use skep_testing::kernel::{Prog, TestRun};
use skep_testing::kernel_object::KernelObject;

use super::measure::{Runner, Samples, machine, rotate};
use crate::args::{Output, Peer, PercpuArgs};
use crate::output::{self, Align, Table};

const OBJECT: &[u8] = include_bytes!("../../../../bench/percpu.bpf.o");
/// Increments in one run.
const INCREMENTS: f64 = 128.0;
const LOOP: &str = "loop_only";
/// Heading and program.
const ROWS: [(&str, &str); 4] = [
    (".percpu variable", "percpu_variable"),
    ("per-CPU array", "percpu_lookup"),
    ("array, plain", "shared_line"),
    ("array, atomic", "shared_atomic"),
];

/// A program on one thread.
struct Ours(Program);

impl Runner for Ours {
    fn engine(&self) -> &'static str {
        "jit"
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        count(&self.0, runs)
    }

    fn value(&mut self) -> Result<u32> {
        let mut packet = Xdp::packet(&[0; 64]).build()?;
        Ok(u32::try_from(self.0.run(&mut packet)? & 0xffff_ffff)?)
    }
}

/// Time for `runs` runs with the virtual CPU held.
fn count(program: &Program, runs: u32) -> Result<Duration> {
    let engine = std::sync::Arc::clone(program.engine());
    let mut packet = Xdp::packet(&[0; 64]).build()?;
    let guard = engine.cpus().enter()?;
    let start = Instant::now();
    for _ in 0..runs {
        black_box(program.run_on(&guard, &mut packet)?);
    }
    Ok(start.elapsed())
}

/// The kernel's per-CPU array.
struct Kernel<'a>(&'a Prog);

impl Runner for Kernel<'_> {
    fn engine(&self) -> &'static str {
        "kernel"
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        let result = self.0.test_run(&TestRun { data: &[0; 64], repeat: runs, ..TestRun::default() });
        Ok(result.map_err(|errno| anyhow::anyhow!("the kernel's test run: {errno}"))?.duration * runs)
    }

    fn value(&mut self) -> Result<u32> {
        let result = self.0.test_run(&TestRun { data: &[0; 64], repeat: 1, ..TestRun::default() });
        Ok(result.map_err(|errno| anyhow::anyhow!("the kernel's test run: {errno}"))?.retval)
    }
}

/// One measured figure.
struct Figure {
    row: &'static str,
    engine: &'static str,
    threads: usize,
    net: Samples,
    /// Rate over one thread's; of one thread, 1.
    scaling: Samples,
}

pub(crate) fn run(args: &PercpuArgs, output: Output) -> Result<()> {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let engine = Engine::builder().vcpus(threads.max(1)).build()?;
    let object = Object::from_bytes("percpu.bpf.o", OBJECT)?;
    let loaded = engine.load(object.clone())?;
    let mut figures = one_thread(args, &object, &loaded)?;
    for (row, program) in ROWS {
        let mut n = 2;
        while n <= threads {
            eprintln!("measuring {row}, {n} threads …");
            figures.push(many(args, row, &loaded.program(program)?, n)?);
            n *= 2;
        }
    }
    if output.is_json() { output.print_json(&json(&figures)) } else { output::print(&table(&figures)) }
}

fn one_thread(args: &PercpuArgs, object: &Object, loaded: &Loaded) -> Result<Vec<Figure>> {
    let mut kernel_spec = object.spec().clone();
    // Linux before 7.3 has no per-CPU variables: its per-CPU array is what there is to compare with.
    kernel_spec.programs.retain(|program| program.name != "percpu_variable");
    let kernel = match args.against.contains(&Peer::Kernel) {
        true => Some(KernelObject::create(&kernel_spec).context("the kernel's maps")?),
        false => None,
    };
    let mut figures = Vec::new();
    for (row, program) in ROWS {
        eprintln!("measuring {row}, 1 thread …");
        let mut kernel_programs = Vec::new();
        if let Some(kernel) = &kernel {
            let find = |name: &str| kernel_spec.programs.iter().position(|p| p.name == name);
            if let (Some(own), Some(base)) = (find(program), find(LOOP)) {
                kernel_programs = vec![kernel.load(own, 0)?.prog, kernel.load(base, 0)?.prog];
            }
        }
        let mut runners: Vec<Box<dyn Runner>> = Vec::new();
        for (index, name) in [program, LOOP].into_iter().enumerate() {
            runners.push(Box::new(Ours(loaded.program(name)?)));
            if let Some(program) = kernel_programs.get(index) {
                runners.push(Box::new(Kernel(program)));
            }
        }
        let samples = rotate(&mut runners, args.rounds, Duration::from_millis(args.millis))?;
        let engines = runners.len() / 2;
        for index in 0..engines {
            let net = samples[index].minus(&samples[engines + index]).per(INCREMENTS);
            let scaling = Samples(vec![1.0; net.0.len()]);
            figures.push(Figure { row, engine: runners[index].engine(), threads: 1, net, scaling });
        }
    }
    Ok(figures)
}

/// `n` threads at once, against one thread before and after in the same round.
fn many(args: &PercpuArgs, row: &'static str, program: &Program, n: usize) -> Result<Figure> {
    let mut runs: u32 = 1000;
    while count(program, runs)? < Duration::from_millis(args.millis) {
        runs = runs.saturating_mul(2);
    }
    let (mut net, mut scaling) = (Samples::default(), Samples::default());
    for _ in 0..args.rounds {
        let before = count(program, runs)?;
        let barrier = Barrier::new(n);
        let times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
            let work = || {
                barrier.wait();
                count(program, runs)
            };
            let handles: Vec<_> = (0..n).map(|_| scope.spawn(work)).collect();
            handles
                .into_iter()
                .map(|handle| match handle.join() {
                    Ok(time) => time,
                    Err(_) => bail!("a thread panicked"),
                })
                .collect()
        })?;
        let after = count(program, runs)?;
        let single = before.min(after).as_secs_f64();
        let slowest = times.iter().max().map_or(f64::NAN, Duration::as_secs_f64);
        net.0.push(slowest * 1e9 / f64::from(runs) / INCREMENTS);
        #[expect(clippy::cast_precision_loss, reason = "a small number of threads")]
        scaling.0.push(n as f64 * single / slowest);
    }
    Ok(Figure { row, engine: "jit", threads: n, net, scaling })
}

fn json(figures: &[Figure]) -> Value {
    let mut rows = Vec::new();
    for figure in figures {
        let name = format!("{}, {} threads", figure.row, figure.threads);
        let name = if figure.threads == 1 { figure.row.to_owned() } else { name };
        rows.push(figure.net.json("percpu", &name, figure.engine, "ns/op"));
        if figure.threads > 1 {
            rows.push(figure.scaling.json("percpu", &name, figure.engine, "ratio"));
        }
    }
    json!({ "machine": machine(), "rows": rows })
}

fn table(figures: &[Figure]) -> String {
    let mut table = Table::new(&[
        ("counter", Align::Left),
        ("engine", Align::Left),
        ("threads", Align::Right),
        ("ns/increment", Align::Right),
        ("p10", Align::Right),
        ("p90", Align::Right),
        ("scaling", Align::Right),
    ]);
    for figure in figures {
        table.row(vec![
            figure.row.to_owned(),
            figure.engine.to_owned(),
            figure.threads.to_string(),
            format!("{:.2}", figure.net.median()),
            format!("{:.2}", figure.net.quantile(0.1)),
            format!("{:.2}", figure.net.quantile(0.9)),
            format!("{:.2}", figure.scaling.median()),
        ]);
    }
    format!(
        "{}one thread: less the loop without increments; more threads: the slowest thread's time, the loop included\n",
        table.render()
    )
}
