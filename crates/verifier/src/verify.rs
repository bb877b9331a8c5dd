//! The passes of verification, in order.
//!
//! Owns the sequence from a program to its verdict. Invariant: what is returned as verified went through every pass. Kernel
//! counterpart: `bpf_check`, kernel/bpf/verifier.c, 6.18.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use skep_abi::Errno;

use crate::env::{Caps, Check, Env, InsnAux, Print, Reject, SubprogInfo, log};
use crate::explain::{Explanation, add_loop, explain};
use crate::live_stack::LiveStack;
use crate::log::Log;
use crate::loops::Visits;
use crate::precision::Backtrack;
use crate::shadow::Recorder;
use crate::spec::{Options, ProgFlags, ProgramSpec};
use crate::state::frame::{Frame, State};
use crate::state::reg::{Base, Extra, Reg, RegType};
use crate::states::States;
use crate::verified::{Buffers, InsnFacts, InsnIdx, ObjectLayout, Rejection, RejectionKind, Stats, Subprog, Verified};

/// Slots that a program may have (`BPF_COMPLEXITY_LIMIT_INSNS`, `BPF_MAXINSNS` for unprivileged users).
const MAX_INSNS: usize = 1_000_000;
const MAX_INSNS_UNPRIVILEGED: usize = 4096;

/// Verifies one program.
///
/// # Errors
/// The program is not safe, not well formed, too large, or needs something that this engine does not have; the
/// [`Rejection`] has the kernel's last message and `log` the way there.
pub fn verify(spec: &ProgramSpec<'_>, options: &Options, log: &mut Log) -> Result<Verified, Rejection> {
    let mut env = Env::new(spec, options, log);
    match env.run_timed() {
        Ok(()) => Ok(env.finish()),
        Err(refused) => Err(env.rejection(*refused)),
    }
}

/// Instructions at the end of a path that grew too long which the log shows, where no level was asked for.
const SHOWN: u32 = 2000;

/// A refusal with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The verdict, as [`verify`] gives it.
    pub rejection: Rejection,
    /// Why, for people.
    pub explanation: Explanation,
    /// How often each slot was processed.
    pub processed: Vec<u32>,
}

/// Verifies one program, and explains a refusal.
///
/// What is accepted costs no more than [`verify`] without log. What is refused is verified a second time, with the path recorded
/// and at least the log of level 1 written; `log` holds that log, and that of an accepted program at the level asked for.
///
/// # Errors
/// As [`verify`].
pub fn verify_explained(spec: &ProgramSpec<'_>, options: &Options, log: &mut Log) -> Result<Verified, Box<Refusal>> {
    let rejection = match verify(spec, options, log) {
        Ok(verified) => return Ok(verified),
        Err(rejection) => rejection,
    };
    log.reset(0);
    let loud = Options { log_level: options.log_level | Options::LOG_LEVEL1, ..options.clone() };
    let mut env;
    if rejection.kind == RejectionKind::Limit && options.log_level & 3 == 0 {
        // A path that only grew too long explains nothing and would take long to record; of its log the end is enough.
        env = Env::new(spec, options, log);
        env.stop = rejection.stats.processed.saturating_sub(SHOWN);
        env.loud = Some(&loud);
    } else {
        env = Env::new(spec, &loud, log);
        env.trace = Some(Box::default());
    }
    let refused = match env.run_timed() {
        Ok(()) => {
            *env.reject(Errno::EFAULT, RejectionKind::Internal, "verifier bug: two verdicts on one program".to_owned())
        }
        Err(refused) => *refused,
    };
    let trace = env.trace.take().unwrap_or_default();
    let mut explanation = explain(&env, &trace, &refused);
    if refused.kind == RejectionKind::Limit {
        explain_loop(spec, options, &mut explanation);
    }
    let processed = env.processed();
    Err(Box::new(Refusal { rejection: env.rejection(refused), explanation, processed }))
}

/// Walks the beginning of the program again, to say what drives the loop in which the limit was reached.
fn explain_loop(spec: &ProgramSpec<'_>, options: &Options, explanation: &mut Explanation) {
    const SAMPLE: u32 = 20_000;
    let mut profile = options.profile.clone();
    profile.max_processed = profile.max_processed.min(SAMPLE);
    let options = Options { log_level: 0, profile, ..options.clone() };
    let mut log = Log::new();
    let mut env = Env::new(spec, &options, &mut log);
    env.trace = Some(Box::default());
    if env.run().is_err()
        && let Some(trace) = env.trace.take()
    {
        add_loop(&env, &trace, explanation);
    }
}

impl<'a> Env<'a> {
    pub(crate) fn new(spec: &'a ProgramSpec<'a>, options: &'a Options, log: &'a mut Log) -> Self {
        let len = spec.insns.len();
        let privileged = !options.unprivileged;
        Self {
            spec,
            options,
            log,
            caps: Caps { bpf: privileged, perfmon: privileged },
            strict_alignment: spec.flags.has(ProgFlags::STRICT_ALIGNMENT) && !spec.flags.has(ProgFlags::ANY_ALIGNMENT),
            test_state_freq: spec.flags.has(ProgFlags::TEST_STATE_FREQ),
            code: vec![None; len],
            aux: vec![InsnAux::default(); len],
            facts: vec![InsnFacts::default(); len],
            subprogs: Vec::new(),
            cur: State::hollow(),
            insn: 0,
            prev_insn: u32::MAX,
            executed: u32::MAX,
            next_id: 0,
            pending: Vec::new(),
            states: States::new(len),
            visits: Visits::default(),
            live_stack: LiveStack::default(),
            backtrack: Backtrack::default(),
            stats: Stats::default(),
            jmps_processed: 0,
            prev_jmps: 0,
            prev_processed: 0,
            history_pushed: false,
            print: Print::default(),
            seen_direct_write: false,
            exception_callback: None,
            stop: options.profile.max_processed,
            loud: None,
            trace: None,
            kfuncs: spec.kfuncs.iter().map(|kfunc| skep_abi::kfunc::kfunc(&kfunc.name)).collect(),
            records: BTreeMap::new(),
            locked_types: Vec::new(),
            needs: Vec::new(),
            recorder: Recorder::default(),
            buffers: Buffers::default(),
            made: Vec::new(),
            arena: None,
            explores_limits: false,
        }
    }

    /// Runs every pass and closes the log.
    pub(crate) fn run_timed(&mut self) -> Check {
        let started = Instant::now();
        let verdict = self.run();
        self.stats.duration = started.elapsed();
        self.print_stats();
        verdict
    }

    fn run(&mut self) -> Check {
        let len = self.spec.insns.len();
        let max = if self.caps.bpf { MAX_INSNS } else { MAX_INSNS_UNPRIVILEGED };
        if len == 0 || len > max {
            let text = format!("program has {len} insns, 1 to {max} are allowed");
            return Err(self.reject(Errno::E2BIG, RejectionKind::Malformed, text));
        }
        if self.spec.target.is_none() && !self.has_context() {
            let text = format!("{} programs need the kernel's types and are not supported", self.spec.prog_type);
            return Err(self.reject(Errno::ENOTSUPP, RejectionKind::Unsupported, text));
        }
        self.check_release()?;
        self.find_subprogs()?;
        self.check_subprogs()?;
        self.read_func_info()?;
        self.check_references()?;
        self.decode_all();
        self.check_cfg()?;
        self.mark_points();
        self.check_ext_target()?;
        self.compute_scc();
        self.compute_live_regs();
        self.find_saves();
        self.walk(0)?;
        self.walk_globals()?;
        self.check_release_of_insns()?;
        self.drop_saves();
        self.check_stack_depth()
    }

    /// Names and linkage of subprograms, from BTF.
    fn read_func_info(&mut self) -> Check {
        let Some(btf) = self.spec.btf.filter(|_| !self.spec.func_info.is_empty()) else {
            return self.check_abnormal_returns();
        };
        for i in 0..self.subprogs.len() {
            let start = self.subprogs[i].start;
            let Some(info) = self.spec.func_info.iter().find(|f| f.insn_off == start) else {
                let text = "func_info BTF section doesn't match subprog layout in BPF program".to_owned();
                return Err(self.reject(Errno::EINVAL, RejectionKind::Malformed, text));
            };
            let Some(ty) = btf.get(info.type_id) else { continue };
            let sub = &mut self.subprogs[i];
            sub.func_id = info.type_id.0;
            btf.name(info.type_id).clone_into(&mut sub.name);
            let global = matches!(ty.data, skep_btf::TypeData::Func { linkage: skep_btf::Linkage::Global, .. });
            sub.is_global = i > 0 && global;
        }
        self.check_abnormal_returns()
    }

    /// Functions that may be left by a failed packet load or by a tail call must return an `int`.
    fn check_abnormal_returns(&mut self) -> Check {
        for i in 1..self.subprogs.len() {
            let sub = &self.subprogs[i];
            let what = if sub.has_ld_abs {
                "LD_ABS"
            } else if sub.has_tail_call {
                "tail_call"
            } else {
                continue;
            };
            let scalar = self.spec.btf.filter(|_| sub.func_id != 0).and_then(|b| {
                let proto = b.func_proto(skep_btf::TypeId(sub.func_id))?;
                let kind = b.kind(b.resolve(proto.ret));
                Some(matches!(kind, skep_btf::Kind::Int | skep_btf::Kind::Enum | skep_btf::Kind::Enum64))
            });
            let text = match scalar {
                Some(true) => continue,
                Some(false) => format!("{what} is only allowed in functions that return 'int'."),
                None => format!("{what} is not allowed in subprogs without BTF"),
            };
            return Err(self.reject(Errno::EINVAL, RejectionKind::Safety, text));
        }
        Ok(())
    }

    /// Walks one function: the program itself, or a global function by its prototype.
    fn walk(&mut self, sub: usize) -> Check {
        self.states.clear();
        self.visits.clear();
        self.live_stack.clear();
        self.pending.clear();
        if let Some(trace) = &mut self.trace {
            trace.clear();
        }
        let index = u32::try_from(sub).unwrap_or(u32::MAX);
        let start = self.subprogs[sub].start;
        let mut state = State::new(index, start);
        state.frames = vec![Rc::new(Frame::new(u32::MAX, 0, index))];
        let of_syscall = self.spec.prog_type == skep_abi::ProgType::Syscall && self.spec.target.is_none();
        state.sleepable = self.spec.flags.has(ProgFlags::SLEEPABLE) || of_syscall;
        self.cur = state;
        self.insn = start;
        self.print.prev_line = None;
        self.scratch_all();
        if sub == 0 && self.spec.target.is_none() {
            self.cur.frame_mut().regs[1] = Reg::pointer(RegType::of(Base::Ctx), Extra::None);
        } else {
            if self.options.log_level & 3 != 0 {
                let name = self.subprogs[sub].name.clone();
                log!(self, "Validating {name}() func#{sub}...\n");
            }
            if self.exception_callback == Some(index) {
                self.enter_exception_callback(sub)?;
            }
            self.enter_global(sub)?;
            if sub == 0 {
                self.check_ext_signature()?;
            }
        }
        self.explore()?;
        if !self.level2() {
            self.log.reset(0);
        }
        Ok(())
    }

    /// Walks the global functions that were called, until no new one is.
    fn walk_globals(&mut self) -> Check {
        let mut done = vec![false; self.subprogs.len()];
        if let Some(handler) = self.exception_callback {
            self.subprogs[handler as usize].called = true;
        }
        loop {
            let next = (1..self.subprogs.len()).find(|&i| {
                let s: &SubprogInfo = &self.subprogs[i];
                s.is_global && s.called && !done[i]
            });
            let Some(sub) = next else { return Ok(()) };
            done[sub] = true;
            self.walk(sub)?;
            if self.options.log_level & 3 != 0 {
                let name = self.subprogs[sub].name.clone();
                log!(self, "Func#{sub} ('{name}') is safe for any args that match its prototype\n");
            }
        }
    }

    fn print_stats(&mut self) {
        if self.options.log_level & Options::LOG_STATS != 0 {
            log!(self, "verification time {} usec\n", self.stats.duration.as_micros());
            let depths: Vec<String> = self.subprogs.iter().map(|s| s.stack_depth.to_string()).collect();
            log!(self, "stack depth {}\n", depths.join("+"));
        }
        if self.options.log_level != 0 && self.stats.processed > 0 {
            let s = self.stats;
            log!(
                self,
                "processed {} insns (limit {}) max_states_per_insn {} total_states {} peak_states {} mark_read {}\n",
                s.processed,
                self.options.profile.max_processed,
                s.max_states_per_insn,
                s.total_states,
                s.peak_states,
                s.mark_read
            );
        }
    }

    fn processed(&self) -> Vec<u32> {
        self.aux.iter().map(|aux| aux.processed).collect()
    }

    pub(crate) fn rejection(&self, refused: Reject) -> Rejection {
        let insn = (self.stats.processed > 0).then_some(InsnIdx(self.insn));
        Rejection { errno: refused.errno, kind: refused.kind, insn, message: refused.message, stats: self.stats }
    }

    pub(crate) fn finish(mut self) -> Verified {
        for (fact, aux) in self.facts.iter_mut().zip(&self.aux) {
            fact.reachable = aux.processed > 0;
            fact.only_taken = match aux.branch_seen {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            };
        }
        self.find_constants();
        self.judge_main_prototype();
        let processed = self.processed();
        let subprogs = self
            .subprogs
            .iter()
            .map(|s| Subprog {
                type_id: s.func_id,
                reliable: s.func_id != 0 && !s.unreliable,
                replaceable: s.func_id != 0 && !s.unreliable && self.is_global_function(s.func_id),
                signature: s.args.clone(),
                start: s.start,
                end: s.end,
                name: s.name.clone(),
                stack_depth: s.stack_depth + s.save_depth,
                save_depth: if s.runs_saves { 0 } else { s.save_depth },
                is_global: s.is_global,
                is_callback: s.is_cb,
                is_async_callback: s.is_async_cb && !s.is_exception_cb,
                is_exception_callback: s.is_exception_cb,
                has_tail_call: s.has_tail_call,
                tail_call_reachable: s.tail_call_reachable,
                has_ld_abs: s.has_ld_abs,
                changes_pkt_data: s.changes_pkt_data,
                might_sleep: s.might_sleep,
            })
            .collect();
        let objects = self.made.iter().filter_map(|&id| self.object_layout(id)).collect();
        let insns = self.spec.insns.to_vec();
        Verified::new(insns, self.facts, subprogs, self.stats, self.options.unprivileged, self.needs)
            .with_buffers(self.buffers)
            .with_processed(processed)
            .with_objects(objects)
    }

    fn object_layout(&self, id: u32) -> Option<ObjectLayout> {
        let size = self.spec.btf?.size_of(skep_btf::TypeId(id)).ok()?;
        Some(ObjectLayout { id, size, record: self.records.get(&id)?.to_vec() })
    }

    /// The text of an instruction with its opcode byte, as the log has it.
    pub(crate) fn disassemble(&self, at: u32) -> String {
        let raw = self.spec.insns.get(at as usize).copied().unwrap_or_default();
        let names = Names { env: self };
        format!("({:02x}) {}", raw.code, skep_abi::disasm::disasm(self.spec.insns, at as usize, &names))
    }
}

/// Names for the disassembler.
struct Names<'e, 'a> {
    env: &'e Env<'a>,
}

impl skep_abi::disasm::Names for Names<'_, '_> {
    fn kfunc(&self, id: i32, _obj: i16) -> Option<String> {
        self.env.kfunc_name(id).map(str::to_owned)
    }

    fn map(&self, number: i32) -> Option<String> {
        let shape = self.env.spec.maps.get(usize::try_from(number).ok()?)?;
        Some(shape.name.to_string())
    }
}
