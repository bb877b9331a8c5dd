//! The engine: vCPUs, code memory and the choices that all its programs share.
//!
//! Invariant: an engine's handles keep its parts alive, so that a program outlives the last `Engine` handle. Where the
//! machine denies something, the engine starts in a mode that is named and shown, or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use skep_abi::ctx::CtxLayout;
use skep_jit::{Arch, CpuFeatures};
use skep_object::ProgramSpec;
use skep_runtime::ctx::{CtxType, UserContext, UserLayout};
use skep_runtime::helper::{AddedHelper, UserHelper};
use skep_runtime::syscall::Syscalls;
use skep_runtime::{EngineError, EngineState, StatsGuard, TraceSink};
use skep_sync::{Config, CpuSet, SyncError};
use skep_text::{ArenaConfig, CodeArena, TextError};
use skep_verifier::{HelperTable, Options};

use crate::bpf::Table;
use crate::error::LoadError;
use crate::load::{self, LoadOptions};
use crate::loaded::Loaded;
use crate::object::Object;
use crate::stall::{Home, Stall, StallHook};

/// How programs are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As machine code.
    #[default]
    Jit,
    /// By the checked interpreter: every access is tested as it happens.
    Interp,
}

/// Whether installed code is changed while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LivePatching {
    /// Where the machine allows it.
    #[default]
    Auto,
    /// Always: an engine does not start where the machine denies it.
    On,
    /// Never, for processes whose debugger or crash reporter owns SIGTRAP: statistics are a flag that each run tests, and
    /// tail calls go through their array.
    Off,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No vCPUs.
    #[error("the virtual CPUs cannot be made")]
    Cpus(#[from] SyncError),
    /// No memory for code. [`Mode::Interp`] needs none.
    #[error("no memory for machine code (interpreting needs none)")]
    Code(#[from] TextError),
    /// Live patching was demanded, and the machine denies it.
    #[error("live patching is not to be had")]
    NotLive(#[source] TextError),
    /// The runtime's own memory.
    #[error(transparent)]
    Runtime(#[from] EngineError),
    /// A context's description does not fit its struct.
    #[error("context for section '{0}': its fields overlap or lie outside of the struct")]
    Context(String),
}

/// An embedder's context and the section name that asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    section: String,
    pub(crate) layout: UserLayout,
    pub(crate) ctx_type: CtxType,
}

/// Choices before an engine starts.
#[derive(Default)]
pub struct Builder {
    vcpus: Option<usize>,
    mode: Mode,
    live: LivePatching,
    contexts: Vec<(String, Option<UserLayout>, CtxType)>,
    helpers: BTreeMap<u32, AddedHelper>,
    options: Options,
    share_data: bool,
    on_stall: Option<StallHook>,
}

impl Builder {
    /// How many virtual CPUs; the machine's number unless set. More threads than that wait for each other.
    #[must_use]
    pub fn vcpus(mut self, n: usize) -> Self {
        self.vcpus = Some(n);
        self
    }

    /// How programs are executed; as machine code unless set.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether installed code is changed while it runs; where the machine allows it, unless set.
    #[must_use]
    pub fn live_patching(mut self, choice: LivePatching) -> Self {
        self.live = choice;
        self
    }

    /// How programs are verified; as Linux 6.18 does, unless set.
    #[must_use]
    pub fn verify_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Puts arrays with `BPF_F_MMAPABLE` that bpf(2) makes ([`Engine::bpf`]) into files in memory, as
    /// [`LoadOptions::share_data`] does with those of an object.
    #[must_use]
    pub fn share_data(mut self) -> Self {
        self.share_data = true;
        self
    }

    /// Programs in `SEC("section")` (or `SEC("section/…")`) get a `T` as their context.
    #[must_use]
    pub fn context<T: UserContext>(mut self, section: &str) -> Self {
        let layout = UserLayout::new::<T>(T::layout());
        self.contexts.push((section.to_owned(), layout, CtxType::User(std::any::TypeId::of::<T>())));
        self
    }

    /// Programs may call the helper `H`, besides those of the kernel.
    #[must_use]
    pub fn helper<H: UserHelper>(mut self) -> Self {
        self.helpers.insert(H::ID, AddedHelper::new::<H>());
        self
    }

    /// Calls `hook` for a run that has held up a grace period for a second, on the thread that waits; unless set, one line
    /// is printed on standard error.
    #[must_use]
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Arc::new(hook));
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// vCPUs or code memory are not to be had, or a context is described wrongly.
    pub fn build(self) -> Result<Engine, BuildError> {
        let home = Home::default();
        let mut config = Config { on_stall: home.reporter(self.on_stall), ..Config::default() };
        if let Some(n) = self.vcpus {
            config.n_possible = n;
        }
        let cpus = CpuSet::new(config)?;
        let arena = match (self.mode, Arch::host()) {
            (Mode::Jit, Some(_)) => Some(CodeArena::new(&cpus, ArenaConfig::default())?),
            _ => None,
        };
        let live = match (self.live, skep_text::live()) {
            (LivePatching::Off, _) | (LivePatching::Auto, Err(_)) => false,
            (LivePatching::On, Err(error)) => return Err(BuildError::NotLive(error)),
            (LivePatching::On | LivePatching::Auto, Ok(())) => true,
        };
        let mut contexts = Vec::new();
        for (section, layout, ctx_type) in self.contexts {
            match layout {
                Some(layout) => contexts.push(Context { section, layout, ctx_type }),
                None => return Err(BuildError::Context(section)),
            }
        }
        let state = EngineState::new(&cpus, arena, self.helpers)?;
        home.set(&state);
        let layout = state.layout_base();
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            fds: Table::default(),
            layout: skep_jit::Layout {
                tail_calls: layout.tail_calls,
                cpu_id: layout.cpu_id,
                helpers: layout.helpers,
                ld_abs: layout.ld_abs,
                tsc: crate::clock::tsc_scale(),
                ..skep_jit::Layout::default()
            },
            state,
            live,
            contexts,
            options: self.options,
            share_data: self.share_data,
        });
        let calls: Weak<dyn Syscalls> = Arc::downgrade(&inner) as Weak<dyn Syscalls>;
        inner.state.set_syscalls(calls);
        Ok(Engine(inner))
    }
}

pub(crate) struct Inner {
    this: Weak<Inner>,
    pub(crate) fds: Table,
    state: Arc<EngineState>,
    live: bool,
    layout: skep_jit::Layout,
    contexts: Vec<Context>,
    options: Options,
    share_data: bool,
}

/// A home for programs. Clones are handles of the same engine.
///
/// ```
/// use skep::{Engine, Object, Xdp, XdpAction};
///
/// let engine = Engine::new()?;
/// let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o"))?;
/// let firewall = engine.load(object)?;
/// let mut packet = Xdp::packet(&[0; 64]).ingress_ifindex(1).build()?;
/// let action = firewall.program("firewall")?.run(&mut packet)?;
/// assert_eq!(XdpAction::from(u32::try_from(action)?), XdpAction::Pass);
/// assert_eq!(firewall.map::<u32, u64>("verdicts")?.sum_cpus(&0)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("mode", &self.mode()).field("cpus", self.cpus()).finish_non_exhaustive()
    }
}

/// One fact of `skep feature`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is about.
    pub name: &'static str,
    /// How it is here.
    pub value: String,
    /// Why, where it is less than it could be; else empty.
    pub note: String,
}

/// Memory that the programs and maps of an engine use outside of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of machine code, rounded up to cache lines.
    pub code: usize,
    /// Bytes of per-CPU memory on each vCPU.
    pub per_cpu: usize,
}

impl Engine {
    /// An engine with the machine's number of virtual CPUs that compiles its programs.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// Choices to make before the engine starts.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Creates an object's maps and verifies, compiles and installs its programs: all of it, or nothing.
    ///
    /// # Errors
    /// Something of the object cannot be loaded; what was running before is untouched.
    pub fn load(&self, object: Object) -> Result<Loaded, LoadError> {
        self.load_with(object, &LoadOptions::default())
    }

    /// As [`Engine::load`], with choices.
    ///
    /// # Errors
    /// As for [`Engine::load`], or a map that is to be used again does not fit.
    pub fn load_with(&self, object: Object, options: &LoadOptions) -> Result<Loaded, LoadError> {
        load::load(self, object, options)
    }

    /// Counts runs and their time in every program until the last guard drops.
    ///
    /// # Errors
    /// Code cannot be patched here; nothing has changed.
    pub fn enable_stats(&self) -> Result<StatsGuard, TextError> {
        self.0.state.enable_stats()
    }

    /// The switch behind [`Engine::enable_stats`], to measure it or to flip it with other keys in one batch.
    #[must_use]
    pub fn stats_key(&self) -> &skep_text::Key {
        self.0.state.stats_key()
    }

    /// Sends what programs print to `sink`; `None` drops it.
    pub fn set_trace(&self, sink: Option<TraceSink>) {
        self.0.state.set_trace(sink);
    }

    /// The virtual CPUs.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        self.0.state.cpus()
    }

    /// Memory in use, with what waits for a grace period to be freed.
    #[must_use]
    pub fn memory_use(&self) -> MemoryUse {
        MemoryUse { code: self.arena().map_or(0, CodeArena::used), per_cpu: self.cpus().percpu_used() }
    }

    /// How programs are executed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.arena().is_some() { Mode::Jit } else { Mode::Interp }
    }

    /// What the machine allows and what the engine makes of it.
    #[must_use]
    pub fn features(&self) -> Vec<Feature> {
        let fact = |name, value: &str, note: String| Feature { name, value: value.to_owned(), note };
        let jit = match (Arch::host(), CpuFeatures::detect()) {
            (None, _) => fact("jit", "off", "no back end for this architecture: programs are interpreted".to_owned()),
            (Some(arch), features) => {
                let bmi2 = if features.bmi2 { ", bmi2" } else { "" };
                let movbe = if features.movbe { ", movbe" } else { "" };
                fact("jit", if arch == Arch::X64 { "x86-64" } else { "arm64" }, format!("baseline{bmi2}{movbe}"))
            }
        };
        let live = match skep_text::live() {
            Ok(()) if self.is_live() => fact("live_patching", "on", String::new()),
            Ok(()) => fact("live_patching", "off", "as the engine's builder chose".to_owned()),
            Err(error) => fact("live_patching", "off", error.to_string()),
        };
        let mode = match self.cpus().mode() {
            skep_sync::Mode::Asymmetric => fact("vcpu_fences", "membarrier", String::new()),
            _ => fact("vcpu_fences", "symmetric", "membarrier is denied: each run pays for full fences".to_owned()),
        };
        let clock = match self.0.layout.tsc {
            Some(_) => fact("stats_clock", "tsc", String::new()),
            None => fact("stats_clock", "clock_gettime", "the time stamp counter is not invariant".to_owned()),
        };
        vec![
            fact("version", env!("CARGO_PKG_VERSION"), String::new()),
            fact("vcpus", &self.cpus().n_possible().to_string(), String::new()),
            jit,
            live,
            mode,
            clock,
            fact("verifier_profile", &self.0.options.profile.name, String::new()),
        ]
    }

    /// The descriptors of [`Engine::bpf`].
    pub(crate) fn fds(&self) -> &Table {
        &self.0.fds
    }

    pub(crate) fn state(&self) -> &Arc<EngineState> {
        &self.0.state
    }

    pub(crate) fn arena(&self) -> Option<&CodeArena> {
        self.0.state.arena()
    }

    /// Whether installed code can be changed while it runs.
    pub(crate) fn is_live(&self) -> bool {
        self.0.live
    }

    /// Whether arrays that bpf(2) makes and that may be mapped are in files.
    pub(crate) fn shares_data(&self) -> bool {
        self.0.share_data
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    /// What compiled code needs to know of the engine, without maps.
    pub(crate) fn layout(&self) -> &skep_jit::Layout {
        &self.0.layout
    }

    /// Prototypes of the embedder's helpers.
    pub(crate) fn helpers(&self) -> HelperTable {
        HelperTable(self.state().added_helpers().map(|added| added.proto.clone()).collect())
    }

    pub(crate) fn jit_options(&self) -> skep_jit::Options {
        skep_jit::Options::new(Arch::host().unwrap_or(Arch::X64)).with_features(CpuFeatures::detect())
    }

    /// The embedder's context that a program's section asks for.
    pub(crate) fn context_of(&self, program: &ProgramSpec) -> Option<&Context> {
        self.0.contexts.iter().find(|context| {
            let rest = program.section.strip_prefix(context.section.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl Inner {
    /// A handle of the engine, unless its last one is gone.
    pub(crate) fn handle(&self) -> Option<Engine> {
        self.this.upgrade().map(Engine)
    }
}

impl Context {
    /// The verifier's table.
    pub(crate) fn table(&self) -> &CtxLayout {
        self.layout.layout()
    }
}
