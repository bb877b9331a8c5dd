//! `skep bench tailcall`: nanoseconds per hop of a chain of programs, by shape of the call, ours beside the kernel's.
//!
//! Every program of the chain loads a word, compares it and calls the next. A chain of 33 hops starts at its first program, a
//! shorter one further along; the time of its last program alone is subtracted. `poked` has a constant index, `cached` a
//! variable one, `dynamic` a map that depends on the path as well. `cold` runs 30 chains of 34 programs in turn.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use skep::{Engine, Loaded, Mode, Object, Program, Xdp, XdpBuff};
use skep_testing::kernel::{Prog, TestRun, TestRunResult};
use skep_testing::kernel_object::KernelObject;
use skep_testing::tail_calls::{self, PACKET};

use super::measure::{Runner, Samples, machine, rotate};
use crate::args::{Output, Peer, TailcallArgs};
use crate::exit::usage;
use crate::output::{self, Align, Table};

/// Most tail calls of a run.
const HOPS: usize = 33;
/// Chains of the cold row.
const CHAINS: usize = 30;

/// Shapes of the calls, as compiled code has them.
const SHAPES: [&str; 3] = ["poked", "cached", "dynamic"];

/// `chains` chains of 34 programs that call one another; program k is in slot k.
fn chain(shape: &str, chains: usize) -> Result<tail_calls::Case> {
    let programs = chains * (HOPS + 1);
    let mut text = format!("array t {programs}\narray other {programs}\n");
    for k in 0..programs {
        let _ = writeln!(text, "slot t {k} p{k}");
    }
    for k in 0..programs {
        let next = k + 1;
        // The last program of a chain has a call too, which it never reaches: it starts as the others do.
        let last = next % (HOPS + 1) == 0;
        let (guard, next) = if last { ("if r5 != 4242 goto out\n", k) } else { ("", next) };
        let call = match shape {
            "poked" => format!(".poked t {next}"),
            "cached" => format!("r3 = r5\nr3 += {next}\nr2 = map[t]\ncall bpf_tail_call"),
            _ => {
                format!("r3 = r5\nr3 += {next}\nr2 = map[t]\nif r5 != 7 goto pc+2\nr2 = map[other]\ncall bpf_tail_call")
            }
        };
        let _ = write!(
            text,
            "prog p{k}\nr4 = map_value[out]+0\nr5 = *(u64 *)(r4 +0)\nif r5 == 7777 goto out\n{guard}{call}\nout:\nr0 = 2\nexit\n"
        );
    }
    Ok(tail_calls::parse(&text)?)
}

/// Programs that are run in turn.
struct Ours {
    engine: &'static str,
    programs: Vec<Program>,
    packet: XdpBuff,
}

impl Runner for Ours {
    fn engine(&self) -> &'static str {
        self.engine
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        let engine = Arc::clone(self.programs.first().context("no program")?.engine());
        let guard = engine.cpus().enter()?;
        let mut programs = self.programs.iter().cycle();
        let start = Instant::now();
        for _ in 0..runs {
            if let Some(program) = programs.next() {
                black_box(program.run_on(&guard, &mut self.packet)?);
            }
        }
        Ok(start.elapsed())
    }

    fn value(&mut self) -> Result<u32> {
        let program = self.programs.first().context("no program")?;
        Ok(u32::try_from(program.run(&mut self.packet)? & 0xffff_ffff)?)
    }
}

struct Kernel<'a>(&'a Prog);

impl Kernel<'_> {
    fn test_run(&self, repeat: u32) -> Result<TestRunResult> {
        let run = TestRun { data: &[0; PACKET], repeat, ..TestRun::default() };
        self.0.test_run(&run).map_err(|errno| anyhow!("the kernel's test run: {errno}"))
    }
}

impl Runner for Kernel<'_> {
    fn engine(&self) -> &'static str {
        "kernel"
    }

    fn time(&mut self, runs: u32) -> Result<Duration> {
        // The kernel's own clock, around its loop: the system call itself waits for an RCU grace period.
        Ok(self.test_run(runs)?.duration * runs)
    }

    fn value(&mut self) -> Result<u32> {
        Ok(self.test_run(1)?.retval)
    }
}

/// One measured figure.
struct Figure {
    shape: String,
    hops: usize,
    engine: &'static str,
    per_hop: Samples,
}

pub(crate) fn run(args: &TailcallArgs, output: Output) -> Result<()> {
    if args.hops.iter().any(|hops| !(1..=HOPS).contains(hops)) {
        return usage(format!("a run has 1 to {HOPS} hops"));
    }
    let at_least = Duration::from_millis(args.millis);
    let mut figures = Vec::new();
    let mut updates = Vec::new();
    for shape in SHAPES {
        eprintln!("measuring {shape} …");
        let case = chain(shape, 1)?;
        let ours: Vec<(&'static str, Loaded)> =
            vec![("jit", load(&case, Mode::Jit)?), ("interp", load(&case, Mode::Interp)?)];
        let kernel =
            if args.against.contains(&Peer::Kernel) { Some(KernelObject::create(&case.object)?) } else { None };
        let kernel_programs = kernel.as_ref().map(|kernel| load_kernel(kernel, &case)).transpose()?;
        for &hops in &args.hops {
            let first = HOPS - hops.min(HOPS);
            let mut runners: Vec<Box<dyn Runner>> = Vec::new();
            for start in [first, HOPS] {
                for (engine, loaded) in &ours {
                    let programs = vec![loaded.program(&format!("p{start}"))?];
                    runners.push(Box::new(Ours { engine, programs, packet: packet()? }));
                }
                if let Some(Some(program)) = kernel_programs.as_ref().and_then(|programs| programs.get(start)) {
                    runners.push(Box::new(Kernel(program)));
                }
            }
            agree(&mut runners)?;
            let samples = rotate(&mut runners, args.rounds, at_least)?;
            push(&mut figures, shape, hops, &runners, &samples);
        }
        let (_, jit) = ours.first().context("no engine")?;
        updates.push((shape, update_rate(jit)?));
        figures.push(cold(shape, args, at_least)?);
    }
    if output.is_json() {
        output.print_json(&to_json(&figures, &updates))
    } else {
        output::print(&table(&figures, &updates))
    }
}

/// Runs everything once: all chains end the same way.
fn agree(runners: &mut [Box<dyn Runner + '_>]) -> Result<()> {
    for runner in runners {
        let value = runner.value()?;
        anyhow::ensure!(value == 2, "the chain returns {value} in {}", runner.engine());
    }
    Ok(())
}

/// Figures of the first half of the runners less those of the second.
fn push(figures: &mut Vec<Figure>, shape: &str, hops: usize, runners: &[Box<dyn Runner + '_>], samples: &[Samples]) {
    let (chains, alone) = samples.split_at(samples.len() / 2);
    #[expect(clippy::cast_precision_loss, reason = "at most 33")]
    let divisor = hops.max(1) as f64;
    for ((runner, chain), alone) in runners.iter().zip(chains).zip(alone) {
        let per_hop = chain.minus(alone).per(divisor);
        figures.push(Figure { shape: shape.to_owned(), hops, engine: runner.engine(), per_hop });
    }
}

/// 1,020 programs, 34 of them per run: code, slots and branch targets come from farther away.
fn cold(shape: &str, args: &TailcallArgs, at_least: Duration) -> Result<Figure> {
    let case = chain(shape, CHAINS)?;
    let loaded = load(&case, Mode::Jit)?;
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    for start in [0, HOPS] {
        let names = (0..CHAINS).map(|chain| format!("p{}", chain * (HOPS + 1) + start));
        let programs = names.map(|name| loaded.program(&name)).collect::<Result<_, _>>()?;
        runners.push(Box::new(Ours { engine: "jit", programs, packet: packet()? }));
    }
    let samples = rotate(&mut runners, args.rounds, at_least)?;
    let mut figures = Vec::new();
    push(&mut figures, &format!("{shape}, cold"), HOPS, &runners, &samples);
    figures.pop().context("no figure")
}

/// What updates of a slot cost while a thread runs the chain through it, and what the chain costs meanwhile.
struct Rate {
    update_us: f64,
    updates: u64,
    run_ns: f64,
}

fn update_rate(loaded: &Loaded) -> Result<Rate> {
    let first = loaded.program("p0")?;
    let array = loaded.raw_map("t")?;
    let targets = [loaded.program("p1")?.to_callee(), loaded.program("p2")?.to_callee()];
    let stop = Arc::new(AtomicBool::new(false));
    let runs = Arc::new(AtomicU64::new(0));
    let mut packet = packet()?;
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&runs));
    let runner = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for _ in 0..100 {
                black_box(first.run(&mut packet)).ok();
            }
            counted.fetch_add(100, Ordering::Relaxed);
        }
    });
    let start = Instant::now();
    let mut updates = 0_u64;
    while start.elapsed() < Duration::from_millis(200) {
        let target = Arc::clone(&targets[usize::from(updates.is_multiple_of(2))]);
        array
            .update_slot(&1_u32.to_ne_bytes(), skep_runtime::map::Slot::Program(target), 0)
            .map_err(|errno| anyhow!("an update of the prog array: {errno}"))?;
        updates += 1;
    }
    let time = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    runner.join().map_err(|_| anyhow!("the running thread panicked"))?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a fifth of a second")]
    let (made, ran) = (updates as f64, runs.load(Ordering::Relaxed) as f64);
    Ok(Rate { update_us: time * 1e6 / made, updates, run_ns: time * 1e9 / ran })
}

fn packet() -> Result<XdpBuff> {
    Ok(Xdp::packet(&[0; PACKET]).build()?)
}

fn load(case: &tail_calls::Case, mode: Mode) -> Result<Loaded> {
    let engine = Engine::builder().mode(mode).build()?;
    Ok(engine.load(Object::from_spec("tailcall", case.object.clone()))?)
}

fn load_kernel(kernel: &KernelObject<'_>, case: &tail_calls::Case) -> Result<Vec<Option<Prog>>> {
    let mut programs = Vec::new();
    for index in 0..case.object.programs.len() {
        programs.push(Some(kernel.load(index, 0)?.prog));
    }
    kernel.fill_prog_arrays(&programs)?;
    Ok(programs)
}

fn to_json(figures: &[Figure], updates: &[(&str, Rate)]) -> Value {
    let rows: Vec<Value> = figures
        .iter()
        .map(|figure| {
            let row = format!("{}, {} hops", figure.shape, figure.hops);
            figure.per_hop.json("tailcall", &row, figure.engine, "ns/hop")
        })
        .collect();
    let updates: Vec<Value> = updates
        .iter()
        .map(|(shape, rate)| {
            json!({ "shape": shape, "update_us": rate.update_us, "updates": rate.updates, "run_ns": rate.run_ns })
        })
        .collect();
    json!({ "machine": machine(), "rows": rows, "updates": updates })
}

fn table(figures: &[Figure], updates: &[(&str, Rate)]) -> String {
    let mut rows = Table::new(&[
        ("shape", Align::Left),
        ("hops", Align::Right),
        ("engine", Align::Left),
        ("ns/hop", Align::Right),
        ("p10", Align::Right),
        ("p90", Align::Right),
    ]);
    for figure in figures {
        rows.row(vec![
            figure.shape.clone(),
            figure.hops.to_string(),
            figure.engine.to_owned(),
            format!("{:.2}", figure.per_hop.median()),
            format!("{:.2}", figure.per_hop.quantile(0.1)),
            format!("{:.2}", figure.per_hop.quantile(0.9)),
        ]);
    }
    let mut rates = Table::new(&[
        ("update of a slot, the chain running", Align::Left),
        ("µs/update", Align::Right),
        ("updates", Align::Right),
        ("ns/run meanwhile", Align::Right),
    ]);
    for (shape, rate) in updates {
        rates.row(vec![
            (*shape).to_owned(),
            format!("{:.2}", rate.update_us),
            rate.updates.to_string(),
            format!("{:.0}", rate.run_ns),
        ]);
    }
    let machine = machine();
    format!(
        "{}, {} CPUs, Linux {}\n{}\n{}",
        machine["cpu"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["kernel"].as_str().unwrap_or_default(),
        rows.render(),
        rates.render()
    )
}
