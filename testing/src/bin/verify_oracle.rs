//! Random programs, ours against the running kernel: `verify_oracle [--programs N] [--seed S] [--show SEED] [--most N]`.
//!
//! Prints the false accepts first, then the false rejects and the messages that differ, each grouped by what the other
//! side said, with a seed to reproduce it. Ends with an error if something was accepted here that the kernel rejects and
//! that no reviewed reason explains.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use skep_testing::generate;
use skep_testing::kernel;
use skep_testing::verdict::{Agreement, KernelMaps, Verdict, our_verdict, reviewed, shorten};

struct Args {
    programs: u64,
    seed: u64,
    show: Option<u64>,
    most: usize,
}

fn args() -> Result<Args, String> {
    let mut args = Args { programs: 10_000, seed: 1, show: None, most: 25 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
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
    if let Err(why) = kernel::available() {
        println!("skipped: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut maps = KernelMaps::new();
    if let Some(seed) = args.show {
        return show(&mut maps, seed);
    }
    let mut tally = Tally::default();
    for seed in args.seed..args.seed.saturating_add(args.programs) {
        let program = generate::program(seed);
        let started = Instant::now();
        let (ours, _) = our_verdict(&program, 0);
        let here = started.elapsed();
        let theirs = maps.verdict(&program).map_err(|errno| format!("seed {seed}: {errno}"))?;
        tally.times.0 += here.as_secs_f64();
        tally.times.1 += started.elapsed().saturating_sub(here).as_secs_f64();
        tally.add(seed, &ours, &theirs);
    }
    tally.print(args.most);
    Ok(if tally.unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(maps: &mut KernelMaps, seed: u64) -> Result<ExitCode, String> {
    let program = generate::program(seed);
    let (ours, our_log) = our_verdict(&program, 2);
    let (theirs, log) = maps.load(&program, 2).map_err(|errno| errno.to_string())?;
    println!("=== ours\n{our_log}\n=== kernel\n{log}\nours   {ours:?}\nkernel {theirs:?}");
    Ok(ExitCode::SUCCESS)
}

/// Agreements, with the first seed of each kind of difference.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<Agreement, u64>,
    accepted: u64,
    groups: BTreeMap<(Agreement, String), (u64, u64)>,
    unexplained: u64,
    times: (f64, f64),
}

impl Tally {
    fn add(&mut self, seed: u64, ours: &Verdict, theirs: &Verdict) {
        let agreement = ours.compare(theirs);
        self.accepted += u64::from(theirs.is_accepted());
        *self.counts.entry(agreement).or_default() += 1;
        let text = match agreement {
            Agreement::Same => return,
            Agreement::FalseAccept => shorten(theirs.message()),
            Agreement::FalseReject => shorten(ours.message()),
            Agreement::OtherMessage => format!("{} | {}", shorten(ours.message()), shorten(theirs.message())),
        };
        if agreement == Agreement::FalseAccept {
            self.unexplained += u64::from(reviewed(theirs).is_none());
        }
        self.groups.entry((agreement, text)).or_insert((0, seed)).0 += 1;
    }

    fn print(&self, most: usize) {
        let count = |agreement| self.counts.get(&agreement).copied().unwrap_or_default();
        let total: u64 = self.counts.values().sum();
        for agreement in [Agreement::FalseAccept, Agreement::FalseReject, Agreement::OtherMessage] {
            let mut groups: Vec<_> = self.groups.iter().filter(|((kind, _), _)| *kind == agreement).collect();
            groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
            println!("{agreement:?}: {} ({} kinds)", count(agreement), groups.len());
            for ((_, text), (count, seed)) in groups.iter().take(most) {
                println!("  {count:6}  seed {seed:<8} {text}");
            }
        }
        let rejected = total - self.accepted;
        println!(
            "{total} programs, the kernel accepts {} and rejects {rejected}; the same verdict and message: {}; false \
             accepts without a reviewed reason: {}; seconds: ours {:.1}, kernel {:.1}",
            self.accepted,
            count(Agreement::Same),
            self.unexplained,
            self.times.0,
            self.times.1
        );
    }
}
