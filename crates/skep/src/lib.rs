//! A home for eBPF outside the kernel: open an object, verify it, compile it, run it.
//!
//! Owns the pipeline from file to running program, and the IO. Everything else is in the crates underneath.
//! Invariant: public handles are owned, `Clone + Send + Sync`, without lifetimes.
//!
//! A unit test of a program, without root and without a kernel:
//! ```
//! use skep::{Engine, Object, Xdp, XdpAction};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o");
//! let engine = Engine::new()?;
//! let object = Object::open(path)?.set_rodata("drop_fragments", 1u8)?;
//! let firewall = engine.load(object)?; // Err: Display is a summary, .log() the kernel's text
//! let out = firewall.program("firewall")?.test_run(Xdp::packet(&[0; 10]).ingress_ifindex(3));
//! assert!(out.is_err(), "a packet has at least an Ethernet header");
//! let out = firewall.program("firewall")?.test_run(Xdp::packet(&[0; 64]).ingress_ifindex(3))?;
//! assert_eq!(out.action(), XdpAction::Pass);
//! assert_eq!(firewall.map::<u32, u64>("verdicts")?.sum_cpus(&0)?, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Slot`] and [`Program::replace`] replace programs while threads run them, [`Loaded::replace_function`] one of their
//! functions, [`ProgArray`] the targets of their tail calls; [`Builder::context`] and [`Builder::helper`] make an extension point
//! of an embedder's own struct and functions; [`Engine::enable_stats`] measures code that runs.

mod object;

mod engine;
mod extension;
mod load;
mod loaded;
mod prog_array;
mod program;
mod slot;
mod stall;
mod typed;
mod verify;
mod version;

pub mod bpf;

mod clock;
mod code;
mod error;
mod kernel_types;
mod maps;
mod pokes;

pub use bpf::{Light, LightError, LightSkeleton};
pub use code::Code;
pub use engine::{BuildError, Builder, Engine, Feature, LivePatching, MemoryUse, Mode};
pub use error::LoadError;
pub use extension::{ExtendError, Replacement};
pub use load::LoadOptions;
pub use loaded::{Loaded, NotFound};
pub use maps::MapError;
pub use object::{Object, ObjectError};
pub use prog_array::ProgArray;
pub use program::Program;
/// Descriptions of context structs.
pub use skep_abi::ctx::{CtxField, CtxFieldKind, CtxLayout};
pub use skep_runtime::Program as RawProgram;
pub use skep_runtime::ctx::{Context, CtxType, Redirect};
pub use skep_runtime::ctx::{RawTp, SkBuff, Skb, Syscall, UserContext, UserLayout, Xdp, XdpAction, XdpBuff};
pub use skep_runtime::helper::{Arg, Args, UserHelper};
pub use skep_runtime::map::Map as RawMap;
pub use skep_runtime::map::arena::Arena;
pub use skep_runtime::syscall::UserMemory;
pub use skep_runtime::test_run::{
    Output, SkbOutput, TestInput, TestOptions, TestRunAttr, TestRunError, TestRunResult, User, XdpOutput,
};
pub use skep_runtime::{IterError, ProgStats, RunError, RunningProgram, StatsGuard, TraceLine, TraceSink};
pub use skep_sync::CpuGuard;
pub use skep_verifier::{Category, Cause, Explanation, Place, Role, Source};
pub use slot::Slot;
pub use stall::Stall;
pub use typed::{MapTypeError, TypedMap};
pub use verify::{HotLine, Shapes, SpecError, VerifyReport};
pub use version::{Retired, SlotError, Version};
pub use zerocopy;
