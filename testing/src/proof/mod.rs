//! Everything that is asked of one generated program.
//!
//! Both verifiers judge it, ours with and without pruning. If it is accepted it runs in the interpreter on several inputs,
//! each instruction held against what the verifier knew (`shadow`), and where its result depends on nothing but its input, in
//! compiled code and in the kernel too. Invariant: a seed gives the same findings again.

mod engines;
mod input;
pub mod reviewed;

use skep_abi::{CallTarget, Insn};
use skep_runtime::interp::{Moment, Observer};
use skep_verifier::shadow::{Recording, verify_recorded};
use skep_verifier::{Log, Options, Profile, ProgramSpec, Rejection, RewriteOptions, Verified, Xlated};

pub use engines::{Bench, Ended, Outcome, Watched};
pub use input::{Input, input};

use crate::generate::Program;
use crate::kernel::{Prog, TestRun, possible_cpus};
use crate::shadow::Model;
use crate::vectors::RuntimeEngine;
use crate::verdict::{KernelMaps, Verdict, with_spec};

/// Inputs on which the engines are compared.
const COMPARED: u64 = 2;
/// Instructions of one run.
const BUDGET: u64 = 2500;
/// States that are recorded of one verification; a program with more is not witnessed.
const STATES: usize = 20_000;
/// Instructions that our walk may have processed of what the kernel is asked about: some that reach the limit take it minutes.
const ASKED: u32 = 100_000;
/// Instructions that the walk without pruning may process.
const UNPRUNED: u32 = 10_000;

/// What was found out about one program.
#[derive(Clone, Debug)]
pub struct Report {
    /// Our verdict.
    pub ours: Verdict,
    /// Instructions that our walk processed.
    pub processed: u32,
    /// The kernel's, where it was asked.
    pub kernel: Option<Verdict>,
    /// Our verdict without pruning; `None` when that would have taken too long.
    pub unpruned: Option<Verdict>,
    /// Whether executions were held against the verifier's states.
    pub witnessed: bool,
    /// Instructions that were.
    pub steps: u64,
    /// Inputs on which our engines agreed, and on which the kernel was compared as well.
    pub compared: (u64, u64),
    /// Inputs on which engines differ as they may: an address became data, or memory was read that was never written.
    pub undefined: u64,
    /// What must not be.
    pub errors: Vec<String>,
}

/// Asks everything.
#[derive(Debug)]
pub struct Prover {
    kernel: Option<KernelMaps>,
    shadow: Bench,
    plain: Bench,
    compiled: Option<Bench>,
}

impl Prover {
    /// With the running kernel or without.
    ///
    /// # Errors
    /// One sentence, when the machine refuses memory.
    pub fn new(with_kernel: bool) -> Result<Self, String> {
        Ok(Self {
            kernel: with_kernel.then(KernelMaps::new),
            shadow: Bench::new(RuntimeEngine::interp()?)?,
            plain: Bench::new(RuntimeEngine::interp()?)?,
            compiled: RuntimeEngine::jit().ok().map(Bench::new).transpose()?,
        })
    }

    /// Asks everything about one program.
    ///
    /// # Errors
    /// One sentence, when the kernel or an engine cannot be asked at all.
    pub fn ask(&mut self, program: &Program) -> Result<Report, String> {
        let (mut report, executed) = self.execute(program)?;
        let mut loaded = None;
        if let Some(kernel) = self.kernel.as_mut().filter(|_| report.processed <= ASKED) {
            let asked =
                kernel.program(program).map_err(|errno| format!("the kernel refuses maps or types: {errno}"))?;
            report.kernel = Some(asked.0);
            loaded = asked.1;
        }
        if let Some(executed) = executed.filter(|_| report.errors.is_empty()) {
            let done = self.compare(program, &executed, loaded.as_ref(), &mut report);
            report.errors.extend(done.err());
        }
        Ok(report)
    }

    /// Asks our verifier, and holds executions in the interpreter against what it knew. No machine code runs, so that this may
    /// be asked of a verifier that is wrong.
    ///
    /// # Errors
    /// As for [`Prover::ask`].
    pub fn watch(&self, program: &Program) -> Result<Report, String> {
        self.execute(program).map(|(report, _)| report)
    }

    fn execute(&self, program: &Program) -> Result<(Report, Option<Executed>), String> {
        with_spec(program, |spec| {
            let (verified, recording) = recorded(spec, true);
            // A walk that gave up no path is the one without pruning.
            let again = (recording.is_pruned() || !recording.is_complete()).then(|| recorded(spec, false));
            let gave_up = matches!(&again, Some((Err(refused), _)) if refused.stats.processed > UNPRUNED);
            let unpruned = again.as_ref().map_or(&verified, |(unpruned, _)| unpruned);
            let ours = Verdict::of(&verified);
            let mut report = Report {
                ours,
                processed: verified.as_ref().map_or_else(|refused| refused.stats, Verified::stats).processed,
                kernel: None,
                unpruned: (!gave_up).then(|| Verdict::of(unpruned)),
                witnessed: false,
                steps: 0,
                compared: (0, 0),
                undefined: 0,
                errors: Vec::new(),
            };
            let differs = report.unpruned.as_ref().filter(|unpruned| **unpruned != report.ours);
            if let Some(unpruned) = differs.filter(|_| !reviewed::differs_without_pruning(program.seed)) {
                report.errors.push(format!("pruning changes the verdict {unpruned:?} to {:?}", report.ours));
            }
            let Ok(verified) = &verified else { return Ok((report, None)) };
            let whole = again.as_ref().filter(|(unpruned, _)| unpruned.is_ok()).map(|(_, whole)| whole);
            let recordings =
                [Some(&recording), whole].into_iter().flatten().filter(|recording| recording.is_complete()).collect();
            let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
            let xlated = match skep_verifier::rewrite(spec, verified, &options) {
                Ok(xlated) => xlated,
                Err(error) => {
                    report.errors.push(error.to_string());
                    return Ok((report, None));
                }
            };
            let model = Model::new(spec, &xlated, recordings);
            let results = self.witness(program, &model, &xlated, &mut report)?;
            Ok((report, Some(Executed { xlated, results })))
        })
    }

    fn witness(
        &self,
        program: &Program,
        model: &Model<'_>,
        xlated: &Xlated,
        report: &mut Report,
    ) -> Result<Vec<(Input, Watched)>, String> {
        let loaded = self.shadow.program(program.prog_type, xlated)?;
        let maps = self.shadow.maps();
        report.witnessed = model.has_recordings();
        let mut results = Vec::new();
        // Other engines' stacks begin as zeros, so that what was never written shows.
        for (number, fill) in (0..).zip([0xa5, 0x7f, 0, 0xff]) {
            let input = input(program.seed, number);
            let witness = model.witness(&maps, fill);
            let mut result = self.shadow.watch(&loaded, &input, BUDGET, &witness)?;
            result.showed_address = witness.showed_address();
            report.steps += witness.steps();
            match (witness.violation(), result.ended) {
                (Some(violation), _) => report.errors.push(format!("input {number}: {violation}")),
                (None, Ended::Fault(fault)) => report.errors.push(format!("input {number}: the interpreter: {fault}")),
                (None, _) => {}
            }
            results.push((input, result));
        }
        Ok(results)
    }

    /// Runs the program in every engine, if its results depend on its input alone.
    fn compare(
        &mut self,
        program: &Program,
        executed: &Executed,
        loaded: Option<&Prog>,
        report: &mut Report,
    ) -> Result<(), String> {
        let Executed { xlated, results } = executed;
        if results.iter().any(|(_, result)| result.ended == Ended::Budget) || !is_repeatable(program) {
            return Ok(());
        }
        let plain = self.plain.program(program.prog_type, xlated)?;
        let compiled = self.compiled.as_ref().map(|bench| bench.program(program.prog_type, xlated)).transpose()?;
        for (number, (input, result)) in (0..COMPARED).zip(results) {
            let Some(expected) = self.plain.run(&plain, input)?.filter(|expected| result.is_like(expected)) else {
                continue;
            };
            let mut others: Vec<(&str, Option<Outcome>)> = Vec::new();
            if let (Some(bench), Some(compiled)) = (&self.compiled, &compiled) {
                others.push(("compiled", bench.run(compiled, input)?));
            }
            if let (Some(kernel), Some(loaded)) = (&mut self.kernel, loaded) {
                others.push(("the kernel", in_kernel(kernel, program, loaded, input, &xlated.used_maps)?));
            }
            if let Some((engine, got)) = others.iter().find(|(_, got)| got.as_ref() != Some(&expected)) {
                if result.showed_address || self.varies(&plain, input, &expected)? {
                    report.undefined += 1;
                } else {
                    report.errors.push(format!("input {number}: {engine} {got:?}, interpreted {expected:?}"));
                }
                continue;
            }
            report.compared.0 += 1;
            report.compared.1 += u64::from(loaded.is_some());
        }
        Ok(())
    }

    /// Whether a run's result depends on what stack is filled with before it is written.
    fn varies(&self, plain: &skep_runtime::Program, input: &Input, expected: &Outcome) -> Result<bool, String> {
        for fill in [0, 0xff, 0x5a, 0xa5, 0x7f, 0x80] {
            if !self.plain.watch(plain, input, BUDGET, &Filled(fill))?.is_like(expected) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Fills the stack and looks at nothing.
struct Filled(u8);

impl Observer for Filled {
    fn instruction(&self, _: &Moment<'_, '_>) -> bool {
        true
    }

    fn stack_fill(&self) -> u8 {
        self.0
    }
}

/// An accepted program with its witnessed runs.
struct Executed {
    xlated: Xlated,
    results: Vec<(Input, Watched)>,
}

/// Verifies and records.
fn recorded(spec: &ProgramSpec<'_>, prune: bool) -> (Result<Verified, Rejection>, Recording) {
    let mut profile = Profile { nr_cpus: u32::try_from(possible_cpus()).unwrap_or(u32::MAX), ..Profile::linux_6_18() };
    if !prune {
        profile.max_processed = UNPRUNED;
    }
    let options = Options { log_level: 0, profile, prune, ..Options::default() };
    verify_recorded(spec, &options, &mut Log::new(), STATES)
}

/// Whether nothing in the program answers differently each time, or in another engine: the time, random numbers, the CPU,
/// and how full a ring buffer is.
fn is_repeatable(program: &Program) -> bool {
    let mut at = 0;
    while let Ok(insn) = skep_abi::decode(&program.insns, at) {
        if let Insn::Call { target: CallTarget::Helper(5 | 7 | 8 | 131) } = insn {
            return false;
        }
        at += insn.slots();
        if at >= program.insns.len() {
            break;
        }
    }
    true
}

/// Runs in the kernel; `None` where that refuses the input.
fn in_kernel(
    kernel: &mut KernelMaps,
    program: &Program,
    loaded: &Prog,
    input: &Input,
    used: &[u32],
) -> Result<Option<Outcome>, String> {
    let maps = kernel.maps(program).map_err(|errno| errno.to_string())?;
    let filled = input.fill(used, possible_cpus(), |map, key, value| maps[map].update(key, value, 0));
    filled.map_err(|errno| format!("filling the kernel's maps: {errno}"))?;
    let run = TestRun { data: &input.packet, data_out: input.packet.len() + 4096, ..TestRun::default() };
    let Ok(result) = loaded.test_run(&run) else { return Ok(None) };
    let contents = input.contents(used, |map, key| maps[map].lookup(key, 0));
    Ok(Some(Outcome { retval: result.retval, packet: result.data, contents }))
}
