//! The verifier: proves that a program is safe to run, or says why it is not.
//!
//! `verify` walks every path of a program over abstract states and gives a [`Verified`] (with facts for the JIT) or a
//! [`Rejection`]; `rewrite` turns a [`Verified`] into an [`Xlated`] for the interpreter and the JIT. Invariant: the verdict
//! depends on the [`ProgramSpec`] and the [`Options`] alone. Kernel counterpart: kernel/bpf/verifier.c, 6.18.
#![forbid(unsafe_code)]

pub mod state;

mod cfg;
mod check;
mod constants;
mod dataflow;
mod env;
mod explain;
mod explore;
mod fastcall;
mod live_stack;
mod log;
mod loops;
#[cfg(feature = "shadow")]
pub mod mutant;
#[cfg(not(feature = "shadow"))]
mod mutant;
mod precision;
mod print;
mod profile;
mod prune;
mod record;
mod refs_to_maps;
mod rewrite;
#[cfg(feature = "shadow")]
pub mod shadow;
#[cfg(not(feature = "shadow"))]
mod shadow;
mod spec;
mod stack_depth;
mod states;
mod verified;
mod verify;
mod versions;

pub use check::global::Signature;
pub use check::kfunc::has_kfunc;
pub use explain::{Category, Cause, Explanation, Place, Role, Source};
pub use log::Log;
pub use profile::Profile;
pub use record::{RecordError, struct_record, value_record};
pub use rewrite::{DumpOptions, RewriteError, RewriteOptions, dump_xlated, rewrite, tail_call_text};
pub use spec::{
    ExtTarget, FieldKind, FieldTarget, HelperTable, KfuncRef, MapShape, ObjectType, Options, ProgFlags, ProgramSpec,
    RecordField,
};
pub use verified::{
    AssumeVerified, Buffers, Const, InsnFacts, InsnIdx, MapArg, MemKind, Need, ObjectLayout, Poke, Rejection,
    RejectionKind, SockKind, Stats, Subprog, Verified, Xlated,
};
pub use verify::{Refusal, verify, verify_explained};
