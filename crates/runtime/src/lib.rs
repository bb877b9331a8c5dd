//! Maps, helpers, programs, the interpreter: what runs when a program runs.
//!
//! Owns everything that exists after a program was compiled. Invariant: nothing on the run path takes a lock, allocates, or
//! writes a line that another vCPU's runs write (the interpreter and helpers whose work is to do so excepted). Kernel
//! counterpart: kernel/bpf/{core,helpers,syscall}.c, net/core/filter.c, net/bpf/test_run.c, 6.18.
#![cfg_attr(
    target_pointer_width = "64",
    expect(clippy::cast_possible_truncation, reason = "addresses and lengths are 64 bits wide, as `usize`")
)]

pub mod ctx;
pub mod engine;
pub mod extension;
mod frame;
mod graph;
pub mod helper;
#[doc(hidden)]
pub mod inject;
pub mod interp;
pub mod iter;
pub mod kfunc;
pub mod map;
pub mod object;
pub mod program;
mod running;
pub mod syscall;
pub mod test_run;

pub use engine::{EngineError, EngineState, LayoutBase, StatsGuard, TraceLine, TraceSink};
pub use extension::{ExtendError, Extension};
pub use frame::EXCEPTION_WORDS;
pub use iter::IterError;
pub use program::{Code, ProgStats, Program, ProgramError, ProgramParts, ReplaceError, Retired, RunError, StatsOff};
pub use running::RunningProgram;
pub use test_run::{TestInput, TestOptions, TestRunAttr, TestRunError, TestRunResult};
