//! What a verifier says of a program, the kernel's and ours, in a form that compares.
//!
//! Invariant: a verdict's message is the last line of the log that speaks of the program: neither an instruction nor a
//! statistic. Kernel counterpart: the log of `BPF_PROG_LOAD`, kernel/bpf/verifier.c, 6.18.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use skep_abi::{AttachType, Errno, Imm64, Insn, RawInsn};
use skep_verifier::{Log, MapShape, Options, Profile, ProgFlags, ProgramSpec, Rejection, Verified};

use crate::generate::{MAPS, MapDef, Program};
use crate::kernel::{LoadFailure, Loaded, Map, MapCreate, Prog, ProgLoad, btf_load};

/// Acceptance, or the errno and the message of a rejection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The program may run.
    Accepted,
    /// It may not.
    Rejected {
        /// What the load returns.
        errno: Errno,
        /// The last message, without line feed; empty if the log has none.
        message: String,
    },
}

/// How two verdicts on one program compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Agreement {
    /// Accepted here, rejected by the kernel: the dangerous one.
    FalseAccept,
    /// Rejected here, accepted by the kernel.
    FalseReject,
    /// Rejected by both with different messages.
    OtherMessage,
    /// The same.
    Same,
}

impl Verdict {
    /// What our verifier returned.
    #[must_use]
    pub fn of(verified: &Result<Verified, Rejection>) -> Self {
        match verified {
            Ok(_) => Self::Accepted,
            Err(rejection) => Self::Rejected { errno: rejection.errno, message: rejection.message.clone() },
        }
    }

    /// Compares ours (`self`) with the kernel's.
    #[must_use]
    pub fn compare(&self, kernel: &Self) -> Agreement {
        match (self.is_accepted(), kernel.is_accepted()) {
            (true, false) => Agreement::FalseAccept,
            (false, true) => Agreement::FalseReject,
            (false, false) if self.message() != kernel.message() => Agreement::OtherMessage,
            _ => Agreement::Same,
        }
    }

    /// Whether the program may run.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted)
    }

    /// The message of a rejection.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Accepted => "",
            Self::Rejected { message, .. } => message,
        }
    }
}

/// The kernel's maps for generated programs: one set for each program type, since a prog array belongs to one.
#[derive(Debug, Default)]
pub struct KernelMaps {
    sets: BTreeMap<u32, Vec<Map>>,
}

impl KernelMaps {
    /// No maps yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the kernel says of a generated program.
    ///
    /// # Errors
    /// The errno of a map that the kernel refuses to create, or of the program's types.
    pub fn verdict(&mut self, program: &Program) -> Result<Verdict, Errno> {
        self.load(program, 0).map(|(verdict, _)| verdict)
    }

    /// The same with the log of this level; of an accepted program too.
    ///
    /// # Errors
    /// As [`KernelMaps::verdict`].
    pub fn load(&mut self, program: &Program, log_level: u32) -> Result<(Verdict, String), Errno> {
        self.attempt(program, log_level).map(|result| match result {
            Ok(loaded) => (Verdict::Accepted, loaded.log),
            Err(LoadFailure { errno, log }) => {
                (Verdict::Rejected { errno, message: last_message(&log).to_owned() }, log)
            }
        })
    }

    /// What the kernel says of a generated program, and the program, to be run.
    ///
    /// # Errors
    /// As [`KernelMaps::verdict`].
    pub fn program(&mut self, program: &Program) -> Result<(Verdict, Option<Prog>), Errno> {
        self.attempt(program, 0).map(|result| match result {
            Ok(loaded) => (Verdict::Accepted, Some(loaded.prog)),
            Err(LoadFailure { errno, log }) => {
                (Verdict::Rejected { errno, message: last_message(&log).to_owned() }, None)
            }
        })
    }

    /// The maps of a program's set.
    ///
    /// # Errors
    /// The errno of a map that the kernel refuses to create.
    pub fn maps(&mut self, program: &Program) -> Result<&[Map], Errno> {
        Ok(match self.sets.entry(program.prog_type as u32) {
            Entry::Occupied(set) => set.into_mut(),
            Entry::Vacant(set) => set.insert(MAPS.iter().map(create).collect::<Result<_, _>>()?),
        })
    }

    fn attempt(&mut self, program: &Program, log_level: u32) -> Result<Result<Loaded, LoadFailure>, Errno> {
        let maps = self.maps(program)?;
        let fds: Vec<RawFd> = maps.iter().map(|map| map.as_fd().as_raw_fd()).collect();
        let insns = bind_maps(&program.insns, &fds);
        let load = ProgLoad { log_level, ..ProgLoad::new(program.prog_type, &insns) };
        if program.starts.len() == 1 {
            return Ok(ask(&load));
        }
        let (btf, funcs) = program.types();
        let btf = btf_load(&btf.to_bytes().map_err(|_| Errno::EINVAL)?).map_err(|failure| failure.errno)?;
        let funcs: Vec<u8> =
            funcs.iter().flat_map(|func| [func.insn_off, func.type_id.0]).flat_map(u32::to_le_bytes).collect();
        Ok(ask(&ProgLoad { btf: Some(btf.as_fd().as_raw_fd()), func_info: (&funcs, 8), ..load }))
    }
}

fn create(def: &MapDef) -> Result<Map, Errno> {
    let plain = MapCreate::new(def.map_type, def.key_size, def.value_size, def.max_entries);
    MapCreate { flags: def.flags, ..plain }.create()
}

/// What our verifier says of a generated program, with its log of this level.
#[must_use]
pub fn our_verdict(program: &Program, log_level: u32) -> (Verdict, String) {
    our_verdict_with(program, &Options { log_level, profile: Profile::linux_6_18(), ..Options::default() })
}

/// The same with other options.
#[must_use]
pub fn our_verdict_with(program: &Program, options: &Options) -> (Verdict, String) {
    let mut log = Log::new();
    let verdict = with_spec(program, |spec| Verdict::of(&skep_verifier::verify(spec, options, &mut log)));
    (verdict, log.into_text())
}

/// Calls `f` with a generated program as our verifier takes it.
pub fn with_spec<R>(program: &Program, f: impl FnOnce(&ProgramSpec<'_>) -> R) -> R {
    let maps: Vec<MapShape<'_>> = MAPS.iter().map(shape).collect();
    let types = (program.starts.len() > 1).then(|| program.types());
    let spec = ProgramSpec {
        name: "generated",
        prog_type: program.prog_type,
        attach_type: AttachType::default(),
        flags: ProgFlags::default(),
        insns: &program.insns,
        maps: &maps,
        kfuncs: &[],
        btf: types.as_ref().map(|(btf, _)| btf),
        func_info: types.as_ref().map_or(&[], |(_, funcs)| funcs),
        line_info: &[],
        gpl_compatible: true,
        target: None,
        ctx: None,
        helpers: None,
    };
    f(&spec)
}

fn shape(def: &MapDef) -> MapShape<'static> {
    let plain = MapShape::new(def.map_type, def.key_size, def.value_size, def.max_entries);
    MapShape { flags: def.flags, ..plain }
}

/// Puts `fds[i]` where the program names map `i`.
#[must_use]
pub fn bind_maps(insns: &[RawInsn], fds: &[RawFd]) -> Vec<RawInsn> {
    let mut bound = insns.to_vec();
    let mut at = 0;
    while at < bound.len() {
        let Ok(insn) = skep_abi::decode(&bound, at) else { break };
        if let Insn::LdImm64 { imm: Imm64::MapFd(map) | Imm64::MapValue { fd: map, .. }, .. } = insn
            && let Some(fd) = usize::try_from(map).ok().and_then(|map| fds.get(map))
        {
            bound[at].imm = *fd;
        }
        at += insn.slots();
    }
    bound
}

/// Asks the kernel, and again with a log if it refuses; the verdict and the log.
#[must_use]
pub fn kernel_verdict(load: &ProgLoad<'_>) -> (Verdict, String) {
    match ask(load) {
        Ok(loaded) => (Verdict::Accepted, loaded.log),
        Err(LoadFailure { errno, log }) => (Verdict::Rejected { errno, message: last_message(&log).to_owned() }, log),
    }
}

fn ask(load: &ProgLoad<'_>) -> Result<Loaded, LoadFailure> {
    if load.log_level == 0 { load.load_briefly() } else { load.load() }
}

/// How lines begin that are no message: statistics, source, and the two states that belong to `infinite loop detected`.
const STATISTICS: [&str; 7] =
    ["processed ", "verification time ", "stack depth ", "mark_precise: ", "cur state: ", "old state: ", "; "];

/// The last line of a verifier log that is neither an instruction, a state, a source line nor a statistic.
#[must_use]
pub fn last_message(log: &str) -> &str {
    // Since 7.3 each function has a line of its own.
    let statistic =
        |line: &str| STATISTICS.iter().any(|start| line.starts_with(start)) || line.contains(" insns_self ");
    let last = log.lines().rev().map(str::trim_end).find(|line| !line.is_empty() && !statistic(line));
    let last = last.unwrap_or_default();
    // Some of the kernel's messages lack their line feed.
    let glued = [("processed ", " insns (limit "), ("verification time ", " usec")];
    let end = glued.iter().filter(|(_, unit)| last.contains(unit)).find_map(|(start, _)| last.find(start));
    end.map_or(last, |end| &last[..end])
}

/// A message with its numbers as `#`, so that equal mistakes group.
#[must_use]
pub fn shorten(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for word in message.chars() {
        if !word.is_ascii_digit() {
            text.push(word);
        } else if !text.ends_with('#') {
            text.push('#');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_is_not_a_statistic() {
        let log = "0: R1=ctx() R10=fp0\n0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000) max_states_per_insn 0 \
                   total_states 0 peak_states 0 mark_read 0\n";
        assert_eq!(last_message(log), "R0 !read_ok");
        assert_eq!(
            last_message("invalid bpf_context access off=0 size=4\n; int x; @ a.c:7\n"),
            "invalid bpf_context access off=0 size=4"
        );
        let each = "no feed\nsubprog 0 (main) main insns_self 3 insns_total 3 stack 0\nstack depth 0 max 0\n";
        assert_eq!(last_message(each), "no feed");
        assert_eq!(last_message(""), "");
        assert_eq!(last_message("0: (95) exit\nno feedprocessed 1 insns (limit 1000000) max\n"), "no feed");
        assert_eq!(last_message("no feedverification time 3 usec\nstack depth 0\nprocessed 1 insns\n"), "no feed");
    }

    #[test]
    fn maps_are_bound_where_they_are_named() {
        let mut insns = Vec::new();
        Insn::LdImm64 { dst: skep_abi::Reg::R1, imm: Imm64::MapFd(1) }.push_to(&mut insns);
        Insn::LdImm64 { dst: skep_abi::Reg::R1, imm: Imm64::Const(1) }.push_to(&mut insns);
        let bound = bind_maps(&insns, &[30, 31]);
        assert_eq!((bound[0].imm, bound[2].imm), (31, 1));
    }
}
