//! The command line's grammar.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A home for eBPF outside the kernel.
#[derive(Parser)]
#[command(name = "skep", version, infer_subcommands = true, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  skep run examples/xdp_firewall.bpf.o --pcap examples/pcaps/mixed.pcap --maps
  skep verify examples/*.bpf.o
  skep prog dump xlated examples/tc_flows.bpf.o linum

Exit status: 0 done, 1 rejected or failed, 2 wrong usage, 3 cannot load or read.";

#[derive(Args, Clone, Copy, Default)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(short, long, global = true)]
    pub(crate) json: bool,
    /// Print JSON, indented
    #[arg(short, long, global = true)]
    pub(crate) pretty: bool,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) color: Color,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a program over packets or a context
    Run(Box<RunArgs>),
    /// Say whether programs verify, without running them
    Verify(VerifyArgs),
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
    /// Programs of an object: list them, dump what they became
    #[command(subcommand)]
    Prog(Prog),
    /// Maps of an object
    #[command(subcommand)]
    Map(MapCommand),
    /// Types of an object
    #[command(subcommand)]
    Btf(BtfCommand),
    /// Source code from objects
    #[command(subcommand, visible_alias = "generate")]
    Gen(Gen),
    /// Say what this machine allows and which mode the engine takes
    Feature,
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page in roff
    #[command(hide = true)]
    Man,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Machine code
    #[default]
    Jit,
    /// The checked interpreter: every access is tested as it happens
    Interp,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  skep run fw.bpf.o --pcap traffic.pcap --maps
  skep run fw.bpf.o --packet '02 00 00 00 00 01 02 00 00 00 00 02 08 00' --repeat 1000000
  skep run fw.bpf.o --pcap traffic.pcap --set-rodata drop_fragments=0 --map rules=rules.json
  skep run lb.bpf.o --pcap in.pcap --threads 2 --write out.pcap -j
  skep run fw.bpf.o --pcap traffic.pcap --iter dump_flows=flows")]
pub(crate) struct RunArgs {
    /// The object file
    pub(crate) object: PathBuf,
    /// The program, where the object has several
    #[arg(long, value_name = "NAME")]
    pub(crate) prog: Option<String>,
    #[command(flatten)]
    pub(crate) input: RunInput,
    /// Threads that run at once, each over its share of the packets
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,
    /// Runs over the whole input
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
    /// How the program is executed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: Mode,
    /// Keep run_cnt and run_time_ns while running, and print them
    #[arg(long)]
    pub(crate) stats: bool,
    /// Print the maps afterwards
    #[arg(long)]
    pub(crate) maps: bool,
    /// Write the packets as the program left them
    #[arg(long, value_name = "OUT.pcap")]
    pub(crate) write: Option<PathBuf>,
    /// Set a constant of .rodata (or an initial value of .data, .bss, .percpu) before load; JSON for arrays and structs
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set_rodata: Vec<String>,
    /// Fill a map before the first run, from JSON as `--maps -j` prints it
    #[arg(long, value_name = "NAME=FILE.json")]
    pub(crate) map: Vec<String>,
    /// Run an iterator (SEC("iter/bpf_map_elem")) over a map afterwards, and print what it writes
    #[arg(long, value_name = "PROGRAM=MAP")]
    pub(crate) iter: Vec<String>,
    /// ingress_ifindex of the packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ifindex: u32,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct RunInput {
    /// Packets of a capture (pcap or pcapng)
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// One packet, in hex
    #[arg(long, value_name = "HEX")]
    pub(crate) packet: Option<String>,
    /// One packet: the bytes of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) packet_file: Option<PathBuf>,
    /// The context's bytes, for programs without a packet
    #[arg(long, value_name = "FILE")]
    pub(crate) ctx: Option<PathBuf>,
}

impl RunInput {
    /// Whether any is named.
    pub(crate) fn is_given(&self) -> bool {
        self.pcap.is_some() || self.packet.is_some() || self.packet_file.is_some() || self.ctx.is_some()
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  skep verify fw.bpf.o
  skep verify fw.bpf.o --prog fw -l 2
  skep verify *.bpf.o -o csv > today.csv && skep verify -C yesterday.csv today.csv
  skep verify *.bpf.o -f 'xdp*' -f '!xdp_test*/' -f 'insns>1000' -s insns
  skep verify fw.bpf.o -S 10
  skep verify fw.bpf.o --kernel
  skep verify fw.bpf.o --profile 6.1

Exit status: 0 all accepted, 1 one rejected, 3 one cannot be read.")]
pub(crate) struct VerifyArgs {
    /// Object files
    #[arg(required = true)]
    pub(crate) objects: Vec<PathBuf>,
    /// Only this program
    #[arg(long, value_name = "NAME")]
    pub(crate) prog: Option<String>,
    /// The log: 1 for the paths' branches, 2 for every instruction; default is the log's end, on rejection only
    #[arg(short = 'l', long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(0..=2))]
    pub(crate) log_level: Option<u32>,
    /// Print the verifier's statistics
    #[arg(long)]
    pub(crate) stats: bool,
    /// Verify as for a user without privileges
    #[arg(long)]
    pub(crate) unpriv: bool,
    /// Only these: GLOB of file or program, FILE/PROGRAM, or a condition (insns>1000, verdict=failure); `!` leaves out, @FILE
    /// reads filters
    #[arg(short = 'f', long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Order of the rows: columns, each followed by ^ (up) or v (down) where the default is not wanted
    #[arg(short, long, value_name = "COLUMN,…")]
    pub(crate) sort: Option<String>,
    /// Print the source lines that the verifier processed most
    #[arg(short = 'S', long = "top-src-lines", value_name = "N")]
    pub(crate) top_lines: Option<usize>,
    /// Ask the running kernel too (needs root), and show both verdicts
    #[arg(long, conflicts_with = "unpriv")]
    pub(crate) kernel: bool,
    /// Verify with the limits and rules of this Linux: 5.15, 6.1, 6.6, 6.12, 6.18, 7.3; 6.18's unless given, with per-CPU data
    #[arg(long, value_name = "VERSION")]
    pub(crate) profile: Option<String>,
    /// Compare two saved CSV results instead
    #[arg(short = 'C', long)]
    pub(crate) compare: bool,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: VerifyOutput,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyOutput {
    /// Aligned columns
    #[default]
    Table,
    /// Comma-separated values
    Csv,
    /// As -j
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Compute and map rows: ns per run of the JIT, the interpreter and, with --against kernel, the kernel
    Run(BenchArgs),
    /// Flip the statistics of many programs again and again while threads run them
    Poke(PokeArgs),
    /// Counters of several kinds, on one thread and on more
    Percpu(PercpuArgs),
    /// Chains of tail calls: ns per hop, poked, cached and dynamic, and updates of slots under load
    Tailcall(TailcallArgs),
}

#[derive(Args)]
pub(crate) struct TailcallArgs {
    /// Measure this beside ours, in the same process
    #[arg(long, value_enum)]
    pub(crate) against: Vec<Peer>,
    /// Lengths of the chains, 1 to 33
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 33])]
    pub(crate) hops: Vec<usize>,
    /// Rounds; each measures every engine once, in rotated order
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Milliseconds that one measurement lasts, at least
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) millis: u64,
}

#[derive(Args)]
pub(crate) struct PercpuArgs {
    /// Threads at most; the machine's CPUs unless given
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Measure this beside ours, in the same process
    #[arg(long, value_enum)]
    pub(crate) against: Vec<Peer>,
    /// Rounds of each row
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Milliseconds that one measurement lasts, at least
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) millis: u64,
}

#[derive(Args)]
pub(crate) struct PokeArgs {
    /// Programs, and so sites in each batch
    #[arg(long, value_delimiter = ',', default_values_t = [2, 164, 1000, 10_000])]
    pub(crate) programs: Vec<usize>,
    /// Threads that run them
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(2, usize::from))]
    pub(crate) threads: usize,
    /// Flips per row
    #[arg(long, default_value_t = 200)]
    pub(crate) flips: usize,
    /// Where handlers count themselves; both unless given
    #[arg(long, value_enum)]
    pub(crate) refs: Option<RefsArg>,
    /// Flip the kernel's switch as often, in the same window; needs root, and leaves the switch as it was
    #[arg(long, value_enum)]
    pub(crate) against: Vec<Peer>,
    /// Draw the latency of single runs around one flip of the last row
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RefsArg {
    /// One word for all CPUs
    Shared,
    /// One word per CPU
    Percpu,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Measure this beside ours, in the same process
    #[arg(long, value_enum)]
    pub(crate) against: Vec<Peer>,
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) row: Option<String>,
    /// Rounds; each measures every engine once, in rotated order
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Milliseconds that one measurement lasts, at least
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) millis: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// The running kernel's BPF_PROG_TEST_RUN
    Kernel,
}

#[derive(Subcommand)]
pub(crate) enum Prog {
    /// List the programs of an object as they are once loaded
    #[command(visible_alias = "list")]
    Show {
        /// The object file
        object: PathBuf,
    },
    /// Dump a program after the verifier's rewriting, or its machine code
    #[command(subcommand)]
    Dump(Dump),
}

#[derive(Subcommand)]
pub(crate) enum Dump {
    /// The rewritten program
    #[command(after_help = DUMP_EXAMPLES)]
    Xlated(DumpArgs),
    /// The machine code
    #[command(after_help = DUMP_EXAMPLES)]
    Jited(DumpArgs),
}

const DUMP_EXAMPLES: &str = "\
Examples:
  skep prog dump xlated fw.bpf.o
  skep prog dump jited fw.bpf.o name firewall opcodes linum";

#[derive(Args)]
pub(crate) struct DumpArgs {
    /// The object file
    pub(crate) object: PathBuf,
    /// `name NAME` for one program of several; `opcodes` for the bytes; `linum` for source lines
    #[arg(value_name = "name NAME|opcodes|linum")]
    pub(crate) words: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum MapCommand {
    /// List the maps of an object
    #[command(visible_alias = "list")]
    Show {
        /// The object file
        object: PathBuf,
    },
    /// Print the initial contents of an object's maps
    Dump {
        /// The object file
        object: PathBuf,
        /// `name NAME` for one map
        #[arg(value_name = "name NAME")]
        words: Vec<String>,
    },
    /// Print the value of a key
    #[command(after_help = MAP_EXAMPLES)]
    Lookup(ElemArgs),
    /// Set the value of a key
    #[command(after_help = MAP_EXAMPLES)]
    Update(ElemArgs),
    /// Remove a key
    Delete(ElemArgs),
    /// Print the first key, or the one after a key
    Getnext(ElemArgs),
    /// Print the value that pop would take
    Peek(ElemArgs),
    /// Put a value on a stack
    Push(ElemArgs),
    /// Take a value from a stack
    Pop(ElemArgs),
    /// Put a value into a queue
    Enqueue(ElemArgs),
    /// Take a value from a queue
    Dequeue(ElemArgs),
    /// Let users only read the map from now on
    Freeze(ElemArgs),
    /// Run several of these commands on one load of the object
    #[command(after_help = MAP_EXAMPLES)]
    Batch {
        /// The object file
        object: PathBuf,
        /// Commands, one a line; `-` for standard input
        file: PathBuf,
    },
}

const MAP_EXAMPLES: &str = "\
Examples:
  skep map lookup OBJ name counters key 0 0 0 0
  skep map lookup OBJ name counters key 0 cpu 1
  printf 'update name counters key 0 value 5 all-cpus\\nlookup name counters key 0\\n' | skep map batch OBJ -

An object file is loaded afresh by each command: what `update` does is gone when it ends. `batch` runs several commands
on one load. A key or value is bytes (`key 1 0 0 0`, `key hex 01 00 00 00`), one number, or JSON by its type.";

/// Which map and element.
#[derive(Args)]
pub(crate) struct ElemArgs {
    /// The object file
    pub(crate) object: PathBuf,
    /// Which map and element: `name NAME [key BYTES] [value BYTES] [any|exist|noexist|lock] [cpu N|all-cpus]`
    #[arg(value_name = "name NAME …", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// A command on elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapVerb {
    /// `lookup`
    Lookup,
    /// `update`
    Update,
    /// `delete`
    Delete,
    /// `getnext`
    Getnext,
    /// `peek`
    Peek,
    /// `push`
    Push,
    /// `pop`
    Pop,
    /// `enqueue`
    Enqueue,
    /// `dequeue`
    Dequeue,
    /// `freeze`
    Freeze,
}

impl MapVerb {
    const ALL: [Self; 10] = [
        Self::Lookup,
        Self::Update,
        Self::Delete,
        Self::Getnext,
        Self::Peek,
        Self::Push,
        Self::Pop,
        Self::Enqueue,
        Self::Dequeue,
        Self::Freeze,
    ];

    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Getnext => "getnext",
            Self::Peek => "peek",
            Self::Push => "push",
            Self::Pop => "pop",
            Self::Enqueue => "enqueue",
            Self::Dequeue => "dequeue",
            Self::Freeze => "freeze",
        }
    }

    /// The verb with this word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// The header that bpftool's users know
    #[default]
    C,
    /// A module with typed data, for crate skep
    Rust,
}

/// What code is generated of, and how.
#[derive(Args)]
pub(crate) struct Code {
    /// The object file
    pub(crate) object: PathBuf,
    /// `name NAME`: what the generated code is called; the file's name unless given
    #[arg(value_name = "name NAME")]
    pub(crate) words: Vec<String>,
    /// The language
    #[arg(long, value_enum, default_value_t)]
    pub(crate) lang: Language,
    /// C: also define the types of the object's variables
    #[arg(long)]
    pub(crate) types: bool,
}

#[derive(Subcommand)]
pub(crate) enum Gen {
    /// A skeleton: the object embedded, with its maps, programs and global variables as fields
    #[command(after_help = "\
Examples:
  skep gen skeleton fw.bpf.o > fw.skel.h
  skep gen skeleton fw.bpf.o name fw --lang rust > fw.rs
  skep gen skeleton -L fw.bpf.o > fw.lskel.h")]
    Skeleton {
        /// A light skeleton: instead of the object, a program of type syscall that loads it
        #[arg(short = 'L', long)]
        use_loader: bool,
        #[command(flatten)]
        code: Code,
    },
    /// A subskeleton: for code that is linked into an object and knows only its own variables, maps and programs
    #[command(after_help = "\
Examples:
  skep gen subskeleton lib.bpf.o > lib.subskel.h
  skep gen subskeleton lib.bpf.o name lib --lang rust > lib.rs

Variables of .percpu sections are left out: a subskeleton opens an object that is loaded, and their image is what there is
before that.")]
    Subskeleton(Code),
    /// One object of several: link them statically, with their types, data and maps
    #[command(after_help = "\
Examples:
  skep gen object all.bpf.o main.bpf.o lib.bpf.o
  skep gen object plain.bpf.o debug.bpf.o")]
    Object {
        /// The file to write
        output: PathBuf,
        /// The object files, in order
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum BtfCommand {
    /// Dump the types of a file
    #[command(after_help = "\
Examples:
  skep btf dump file fw.bpf.o
  skep btf dump file fw.bpf.o format c")]
    Dump {
        /// `file FILE`, then `format raw` (the default) or `format c`
        #[arg(required = true, value_name = "file FILE [format raw|c]")]
        words: Vec<String>,
    },
}
