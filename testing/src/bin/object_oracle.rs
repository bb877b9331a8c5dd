//! Every program of some objects, ours against the running kernel:
//! `object_oracle [--show PROGRAM] [--verbose] FILE.o…`.
//!
//! Prints agreement by file, then the differences, false accepts first. Programs that the oracle cannot load as they are
//! (kernel symbols, attach targets, program types that the engine does not have) are counted and left out.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use skep_abi::ProgType;
use skep_btf::Btf;
use skep_object::ObjectSpec;
use skep_testing::kernel;
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::{apply_test_flags, kernel_verdict, our_verdict};
use skep_testing::verdict::{Agreement, Verdict};

/// The program types that the engine has.
const TYPES: [ProgType; 18] = [
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::Xdp,
    ProgType::RawTracepoint,
    ProgType::RawTracepointWritable,
    ProgType::Tracepoint,
    ProgType::Kprobe,
    ProgType::PerfEvent,
    ProgType::CgroupSkb,
    ProgType::SkSkb,
    ProgType::SkMsg,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::FlowDissector,
    ProgType::Syscall,
];

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
    let mut report = Report { verbose, show, ..Report::default() };
    for file in &files {
        report.object(file, target.as_ref());
    }
    report.print();
    if report.unsafe_accepts() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Difference {
    agreement: Agreement,
    place: String,
    ours: Verdict,
    theirs: Verdict,
}

#[derive(Default)]
struct Report {
    show: Option<String>,
    verbose: bool,
    /// Same verdict, same message (of the rejected), all, by file.
    files: Vec<(String, u64, u64)>,
    differences: Vec<Difference>,
    left_out: BTreeMap<String, u64>,
    rejected_by_both: u64,
    accepted: u64,
    times: (f64, f64),
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
        let (mut same, mut all) = (0, 0);
        for program in 0..object.programs.len() {
            if let Some(agreement) = self.program(&name, &object, &in_kernel, program) {
                all += 1;
                same += u64::from(matches!(agreement, Agreement::Same | Agreement::OtherMessage));
            }
        }
        if all > 0 {
            self.files.push((name, same, all));
        }
    }

    fn program(
        &mut self,
        name: &str,
        object: &ObjectSpec,
        in_kernel: &KernelObject<'_>,
        program: usize,
    ) -> Option<Agreement> {
        let spec = &object.programs[program];
        let wanted = self.show.as_deref();
        if wanted.is_some_and(|wanted| wanted != spec.name) {
            return None;
        }
        if !spec.sec.as_ref().is_some_and(|sec| TYPES.contains(&sec.prog_type)) {
            self.leave_out("a program type that the engine does not have");
            return None;
        }
        let level = if wanted.is_some() { 2 } else { 0 };
        let started = Instant::now();
        let theirs = kernel_verdict(in_kernel, program, level);
        let there = started.elapsed();
        let (theirs, log) = match theirs {
            Ok(verdict) => verdict,
            Err(_) => {
                self.leave_out("kernel symbols");
                return None;
            }
        };
        let (ours, our_log, _) = match our_verdict(object, program, level) {
            Ok(verdict) => verdict,
            Err(error) => {
                self.leave_out(&error);
                return None;
            }
        };
        self.times.0 += started.elapsed().saturating_sub(there).as_secs_f64();
        self.times.1 += there.as_secs_f64();
        if wanted.is_some() {
            println!("=== ours\n{our_log}\n=== kernel\n{log}");
        }
        let agreement = ours.compare(&theirs);
        self.accepted += u64::from(theirs.is_accepted());
        self.rejected_by_both += u64::from(!theirs.is_accepted() && !ours.is_accepted());
        if agreement != Agreement::Same {
            self.differences.push(Difference { agreement, place: format!("{name}:{}", spec.name), ours, theirs });
        }
        Some(agreement)
    }

    fn leave_out(&mut self, why: &str) {
        *self.left_out.entry(why.to_owned()).or_default() += 1;
    }

    fn unsafe_accepts(&self) -> usize {
        self.differences.iter().filter(|difference| difference.agreement == Agreement::FalseAccept).count()
    }

    fn print(&mut self) {
        for (file, same, all) in &self.files {
            println!("{file:48} {same:4} of {all:4}");
        }
        self.differences.sort_by(|a, b| (a.agreement, &a.place).cmp(&(b.agreement, &b.place)));
        for Difference { agreement, place, ours, theirs } in &self.differences {
            let said = |verdict: &Verdict| match verdict {
                Verdict::Accepted => "accepted".to_owned(),
                Verdict::Rejected { errno, message } => format!("{errno} {message}"),
            };
            println!("{agreement:?} {place}\n    ours   {}\n    kernel {}", said(ours), said(theirs));
        }
        for (why, count) in &self.left_out {
            println!("left out: {count:5} {why}");
        }
        let all: u64 = self.files.iter().map(|(_, _, all)| all).sum();
        let same: u64 = self.files.iter().map(|(_, same, _)| same).sum();
        let other = self.differences.iter().filter(|d| d.agreement == Agreement::OtherMessage).count() as u64;
        let percent = |part: u64, all: u64| if all == 0 { 100.0 } else { 100.0 * part as f64 / all as f64 };
        println!(
            "{all} programs, the kernel accepts {}; the same verdict: {same} ({:.1} %); the same message: {} of {} \
             ({:.1} %); false accepts: {}; seconds: ours {:.1}, kernel {:.1}",
            self.accepted,
            percent(same, all),
            self.rejected_by_both - other,
            self.rejected_by_both,
            percent(self.rejected_by_both - other, self.rejected_by_both),
            self.unsafe_accepts(),
            self.times.0,
            self.times.1,
        );
    }
}
