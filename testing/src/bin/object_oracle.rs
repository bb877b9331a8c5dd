//! Every program of some objects, ours against the running kernel:
//! `object_oracle [--show PROGRAM] [--verbose] FILE.o…`.
//!
//! Prints agreement by file, then the differences, false accepts first. Programs that the oracle cannot load as they are
//! (kernel symbols, attach targets, program types that the engine does not have) are counted and left out. Programs of types
//! that everybody may load are asked about twice, the second time without capabilities; where the machine does not let that be
//! allowed for the while, they are counted as left out.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use skep_abi::ProgType;
use skep_btf::Btf;
use skep_object::ObjectSpec;
use skep_testing::kernel::{self, Unprivileged};
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::{TYPES, apply_test_flags, kernel_verdict, options, our_verdict_with};
use skep_testing::verdict::{Agreement, Verdict};
use skep_verifier::Options;

fn main() -> ExitCode {
    let mut files = Vec::new();
    let (mut show, mut verbose) = (None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--show" => show = words.next(),
            "--verbose" => verbose = true,
            _ => files.push(word),
        }
    }
    if let Err(why) = kernel::available() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    let target = std::fs::read("/sys/kernel/btf/vmlinux").ok().and_then(|bytes| Btf::parse(&bytes).ok());
    let unprivileged = Unprivileged::allow();
    if let Err(why) = &unprivileged {
        println!("nothing is asked without capabilities: {why}");
    }
    let mut report = Report { verbose, show, unprivileged: unprivileged.ok(), ..Report::default() };
    for file in &files {
        report.object(file, target.as_ref());
    }
    report.print();
    let unsafe_accepts: usize = report.modes.iter().map(Compared::unsafe_accepts).sum();
    if unsafe_accepts == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Difference {
    agreement: Agreement,
    place: String,
    ours: Verdict,
    theirs: Verdict,
}

/// As who programs are loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Root,
    Nobody,
}

#[derive(Default)]
struct Report {
    show: Option<String>,
    verbose: bool,
    unprivileged: Option<Unprivileged>,
    /// By [`Mode`].
    modes: [Compared; 2],
    left_out: BTreeMap<String, u64>,
    times: (f64, f64),
}

/// What was found in one mode.
#[derive(Default)]
struct Compared {
    /// Same verdict, all, by file.
    files: Vec<(String, u64, u64)>,
    differences: Vec<Difference>,
    rejected_by_both: u64,
    accepted: u64,
}

impl Report {
    fn object(&mut self, file: &str, target: Option<&Btf>) {
        let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".o").to_owned();
        let object = std::fs::read(file).map_err(|error| error.to_string());
        let object = object.and_then(|bytes| skep_object::parse(&bytes, &name).map_err(|error| error.to_string()));
        let mut object = match object {
            Ok(object) => object,
            Err(error) => {
                if self.verbose {
                    println!("{name}: {error}");
                }
                return self.leave_out("the object does not parse");
            }
        };
        if let Some(target) = target {
            let _ = object.apply_core(target);
        }
        apply_test_flags(&mut object);
        let in_kernel = match KernelObject::create(&object) {
            Ok(in_kernel) => in_kernel,
            Err(error) => {
                if self.verbose {
                    println!("{name}: {error}");
                }
                return self.leave_out("the kernel does not create a map of the object");
            }
        };
        for mode in [Mode::Root, Mode::Nobody] {
            let (mut same, mut all) = (0, 0);
            for program in 0..object.programs.len() {
                if let Some(agreement) = self.program(&name, &object, &in_kernel, program, mode) {
                    all += 1;
                    same += u64::from(matches!(agreement, Agreement::Same | Agreement::OtherMessage));
                }
            }
            if all > 0 {
                self.modes[mode as usize].files.push((name.clone(), same, all));
            }
        }
    }

    fn program(
        &mut self,
        name: &str,
        object: &ObjectSpec,
        in_kernel: &KernelObject<'_>,
        program: usize,
        mode: Mode,
    ) -> Option<Agreement> {
        let spec = &object.programs[program];
        let wanted = self.show.as_deref();
        if wanted.is_some_and(|wanted| wanted != spec.name) {
            return None;
        }
        let prog_type = spec.sec.as_ref().map(|sec| sec.prog_type).filter(|prog_type| TYPES.contains(prog_type));
        if mode == Mode::Nobody && !matches!(prog_type, Some(ProgType::SocketFilter | ProgType::CgroupSkb)) {
            return None;
        }
        if prog_type.is_none() {
            self.leave_out("a program type that the engine does not have");
            return None;
        }
        let level = if wanted.is_some() { 2 } else { 0 };
        let started = Instant::now();
        let theirs = match (mode, &self.unprivileged) {
            (Mode::Root, _) => kernel_verdict(in_kernel, program, level),
            (Mode::Nobody, Some(unprivileged)) => {
                unprivileged.run(|| kernel_verdict(in_kernel, program, level)).and_then(|verdict| verdict)
            }
            (Mode::Nobody, None) => {
                self.leave_out("without capabilities: the machine does not allow it");
                return None;
            }
        };
        let there = started.elapsed();
        let (theirs, log) = match theirs {
            Ok(verdict) => verdict,
            Err(_) => {
                self.leave_out("kernel symbols");
                return None;
            }
        };
        let unprivileged = mode == Mode::Nobody;
        let options = Options { unprivileged, ..options(level) };
        let (ours, our_log, _) = match our_verdict_with(object, program, &options) {
            Ok(verdict) => verdict,
            Err(error) => {
                self.leave_out(&error);
                return None;
            }
        };
        self.times.0 += started.elapsed().saturating_sub(there).as_secs_f64();
        self.times.1 += there.as_secs_f64();
        if wanted.is_some() {
            let who = if unprivileged { " without capabilities" } else { "" };
            println!("=== ours{who}\n{our_log}\n=== kernel{who}\n{log}");
        }
        let agreement = ours.compare(&theirs);
        let compared = &mut self.modes[mode as usize];
        compared.accepted += u64::from(theirs.is_accepted());
        compared.rejected_by_both += u64::from(!theirs.is_accepted() && !ours.is_accepted());
        if agreement != Agreement::Same {
            compared.differences.push(Difference { agreement, place: format!("{name}:{}", spec.name), ours, theirs });
        }
        Some(agreement)
    }

    fn leave_out(&mut self, why: &str) {
        *self.left_out.entry(why.to_owned()).or_default() += 1;
    }

    fn print(&mut self) {
        let [root, nobody] = &mut self.modes;
        for (file, same, all) in &root.files {
            println!("{file:48} {same:4} of {all:4}");
        }
        root.print_differences("");
        nobody.print_differences(" without capabilities");
        for (why, count) in &self.left_out {
            println!("left out: {count:5} {why}");
        }
        println!("without capabilities: {}", nobody.line());
        println!("{}; seconds of both: ours {:.1}, kernel {:.1}", root.line(), self.times.0, self.times.1);
    }
}

impl Compared {
    fn unsafe_accepts(&self) -> usize {
        self.differences.iter().filter(|difference| difference.agreement == Agreement::FalseAccept).count()
    }

    fn print_differences(&mut self, who: &str) {
        self.differences.sort_by(|a, b| (a.agreement, &a.place).cmp(&(b.agreement, &b.place)));
        for Difference { agreement, place, ours, theirs } in &self.differences {
            let said = |verdict: &Verdict| match verdict {
                Verdict::Accepted => "accepted".to_owned(),
                Verdict::Rejected { errno, message } => format!("{errno} {message}"),
            };
            println!("{agreement:?} {place}{who}\n    ours   {}\n    kernel {}", said(ours), said(theirs));
        }
    }

    fn line(&self) -> String {
        let all: u64 = self.files.iter().map(|(_, _, all)| all).sum();
        let same: u64 = self.files.iter().map(|(_, same, _)| same).sum();
        let other = self.differences.iter().filter(|d| d.agreement == Agreement::OtherMessage).count() as u64;
        let percent = |part: u64, all: u64| if all == 0 { 100.0 } else { 100.0 * part as f64 / all as f64 };
        format!(
            "{all} programs, the kernel accepts {}; the same verdict: {same} ({:.1} %); the same message: {} of {} ({:.1} \
             %); false accepts: {}",
            self.accepted,
            percent(same, all),
            self.rejected_by_both - other,
            self.rejected_by_both,
            percent(self.rejected_by_both - other, self.rejected_by_both),
            self.unsafe_accepts(),
        )
    }
}
