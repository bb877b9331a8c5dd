//! Random programs: both verifiers' verdicts, shadow execution, every engine's results (`skep_testing::proof`).
//!
//! `verify_oracle [--programs N] [--seed S] [--most N] [--no-kernel] [--show SEED]`. Prints what must not be as it is found, and
//! a tally each 20,000 programs, so that a run that was stopped goes on from there; at its end the differences from the
//! kernel, each kind with a seed to reproduce it. Ends with an error if anything was found that no reviewed reason explains.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use skep_testing::proof::reviewed::{self, Entry};
use skep_testing::proof::{Prover, Report};
use skep_testing::verdict::{Agreement, KernelMaps, our_verdict, our_verdict_with, shorten};
use skep_testing::{generate, kernel};
use skep_verifier::Options;

/// Programs between two tallies.
const PIECE: u64 = 20_000;

struct Args {
    programs: u64,
    seed: u64,
    show: Option<u64>,
    most: usize,
    with_kernel: bool,
}

fn args() -> Result<Args, String> {
    let mut args = Args { programs: 10_000, seed: 1, show: None, most: 25, with_kernel: true };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--no-kernel" {
            args.with_kernel = false;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} wants a number"))?;
        let number = value.parse().map_err(|_| format!("{value} is no number"))?;
        match word.as_str() {
            "--programs" => args.programs = number,
            "--seed" => args.seed = number,
            "--show" => args.show = Some(number),
            "--most" => args.most = usize::try_from(number).unwrap_or(usize::MAX),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    match args().and_then(|args| run(&args)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("verify_oracle: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let mut with_kernel = args.with_kernel;
    if let (true, Err(why)) = (with_kernel, kernel::available()) {
        println!("without the kernel: {why}");
        with_kernel = false;
    }
    let mut prover = Prover::new(with_kernel)?;
    if let Some(seed) = args.show {
        return show(&mut prover, seed, with_kernel);
    }
    let mut tally = Tally::new();
    for seed in args.seed..args.seed.saturating_add(args.programs) {
        let program = generate::program(seed);
        match catch_unwind(AssertUnwindSafe(|| prover.ask(&program))) {
            Ok(report) => tally.add(seed, &report.map_err(|error| format!("seed {seed}: {error}"))?),
            Err(_) => tally.error(seed, "it panicked"),
        }
        if (seed + 1 - args.seed).is_multiple_of(PIECE) {
            println!("next seed {}: {}", seed + 1, tally.line());
        }
    }
    tally.print(args.most);
    Ok(if tally.unexplained == 0 && tally.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(prover: &mut Prover, seed: u64, with_kernel: bool) -> Result<ExitCode, String> {
    let program = generate::program(seed);
    let (_, our_log) = our_verdict(&program, 2);
    println!("=== ours\n{our_log}");
    let report = prover.ask(&program)?;
    if report.unpruned.as_ref().is_some_and(|unpruned| *unpruned != report.ours) {
        let options = Options { log_level: 2, prune: false, ..Options::default() };
        println!("=== ours without pruning\n{}", our_verdict_with(&program, &options).1);
    }
    if with_kernel {
        let (_, log) = KernelMaps::new().load(&program, 2).map_err(|errno| errno.to_string())?;
        println!("=== kernel\n{log}");
    }
    println!("{report:#?}");
    Ok(ExitCode::SUCCESS)
}

/// Agreements, with the first seed of each kind of difference.
struct Tally {
    started: Instant,
    reviewed: Vec<Entry>,
    counts: BTreeMap<Agreement, u64>,
    accepted: [u64; 2],
    unpruned: u64,
    witnessed: u64,
    steps: u64,
    compared: [u64; 2],
    undefined: u64,
    groups: BTreeMap<(Agreement, String), (u64, u64)>,
    unexplained: u64,
    errors: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            reviewed: reviewed::entries(),
            counts: BTreeMap::new(),
            accepted: [0; 2],
            unpruned: 0,
            witnessed: 0,
            steps: 0,
            compared: [0; 2],
            undefined: 0,
            groups: BTreeMap::new(),
            unexplained: 0,
            errors: 0,
        }
    }

    fn error(&mut self, seed: u64, what: &str) {
        self.errors += 1;
        println!("seed {seed}: {what}");
    }

    fn add(&mut self, seed: u64, report: &Report) {
        if let Some(first) = report.errors.first() {
            self.error(seed, first);
        }
        self.accepted[0] += u64::from(report.ours.is_accepted());
        self.unpruned += u64::from(report.unpruned.is_some());
        self.witnessed += u64::from(report.witnessed);
        self.steps += report.steps;
        self.compared[0] += report.compared.0;
        self.compared[1] += report.compared.1;
        self.undefined += report.undefined;
        let Some(kernel) = &report.kernel else { return };
        self.accepted[1] += u64::from(kernel.is_accepted());
        let (kind, text) = reviewed::describe(&report.ours, kernel);
        *self.counts.entry(kind).or_default() += 1;
        if kind == Agreement::Same {
            if !kernel.is_accepted() {
                self.groups.entry((kind, shorten(kernel.message()))).or_insert((0, seed)).0 += 1;
            }
            return;
        }
        let known = self.reviewed.iter().any(|entry| entry.kind == kind && entry.pattern == text);
        // A rejection by both is no question of safety.
        if !known && kind != Agreement::OtherMessage {
            self.unexplained += 1;
            println!("seed {seed}: {kind:?}: {text}");
        }
        self.groups.entry((kind, text)).or_insert((0, seed)).0 += 1;
    }

    fn line(&self) -> String {
        let asked: u64 = self.counts.values().sum();
        let same = self.counts.get(&Agreement::Same).copied().unwrap_or_default();
        format!(
            "accepted {} here and {} by the kernel, of {asked} asked {same} the same; without pruning the same {}; witnessed \
             {} programs, {} instructions; results compared {} here, {} with the kernel, {} undefined; unexplained {}, errors \
             {}; {:.0} s",
            self.accepted[0],
            self.accepted[1],
            self.unpruned,
            self.witnessed,
            self.steps,
            self.compared[0],
            self.compared[1],
            self.undefined,
            self.unexplained,
            self.errors,
            self.started.elapsed().as_secs_f64(),
        )
    }

    fn print(&self, most: usize) {
        for agreement in [Agreement::Same, Agreement::FalseAccept, Agreement::FalseReject, Agreement::OtherMessage] {
            let mut groups: Vec<_> = self.groups.iter().filter(|((kind, _), _)| *kind == agreement).collect();
            groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
            let count = self.counts.get(&agreement).copied().unwrap_or_default();
            println!("{agreement:?}: {count} ({} kinds)", groups.len());
            for ((_, text), (count, seed)) in groups.iter().take(most) {
                println!("  {count:6}  seed {seed:<8} {text}");
            }
        }
        println!("{}", self.line());
    }
}
