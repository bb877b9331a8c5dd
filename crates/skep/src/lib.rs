//! A home for eBPF outside the kernel: open an object, verify it, compile it, run it.
//!
//! Owns the pipeline from file to running program, and the IO. Everything else is in the crates underneath.
//! Invariant: public handles are owned, `Clone + Send + Sync`, without lifetimes.

mod object;

mod engine;
mod load;
mod loaded;
mod program;
mod slot;
mod typed;
mod verify;

mod clock;
mod code;
mod error;
mod maps;
mod pokes;

pub use code::Code;
pub use engine::{BuildError, Builder, Engine, Feature, LivePatching, Mode};
pub use error::LoadError;
pub use loaded::{Loaded, NotFound};
pub use maps::MapError;
pub use object::{Object, ObjectError};
pub use program::Program;
/// Descriptions of context structs.
pub use skep_abi::ctx::{CtxField, CtxFieldKind, CtxLayout};
pub use skep_runtime::ctx::{Context, Redirect};
pub use skep_runtime::ctx::{RawTp, SkBuff, Skb, Syscall, UserContext, UserLayout, Xdp, XdpAction, XdpBuff};
pub use skep_runtime::helper::{Arg, Args, UserHelper};
pub use skep_runtime::map::Map as RawMap;
pub use skep_runtime::test_run::{
    Output, SkbOutput, TestInput, TestOptions, TestRunAttr, TestRunError, TestRunResult, User, XdpOutput,
};
pub use skep_runtime::{ProgStats, RunError, StatsGuard, TraceLine, TraceSink};
pub use skep_sync::CpuGuard;
pub use slot::{Retired, Slot, SlotError, Version};
pub use typed::{MapTypeError, TypedMap};
pub use verify::{Shapes, SpecError, VerifyReport};
pub use zerocopy;
