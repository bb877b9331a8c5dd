//! Live patching of running code, in user space.
//!
//! What the kernel does to its own text while other CPUs execute it, for a process: code memory that is never writable
//! and executable at one address ([`CodeArena`]), instructions that change under running threads without stopping them
//! ([`CodeArena::poke`]), and static keys on top.
//!
//! ```
//! use skep_text::{static_branch_unlikely, static_key};
//!
//! static_key!(static TRACING = false);
//!
//! fn request() -> u32 {
//!     if static_branch_unlikely!(TRACING) { 2 } else { 1 }
//! }
//!
//! std::thread::scope(|scope| {
//!     let worker = scope.spawn(|| (0..100_000).all(|_| matches!(request(), 1 | 2)));
//!     TRACING.enable()?; // while the worker runs
//!     assert_eq!(request(), 2);
//!     TRACING.disable()?;
//!     assert_eq!(request(), 1);
//!     assert!(worker.join().expect("it does not panic"));
//!     Ok::<(), skep_text::TextError>(())
//! })?;
//! # Ok::<(), skep_text::TextError>(())
//! ```
//!
//! [`key`] has more on static keys, [`measure`] says what flipping costs, and the examples `static_key`, `jit`, `flip` and
//! `soak` can be run.
//!
//! # How a site changes
//! A *site* is a five-byte nop or a `jmp rel32`. A batch of sites changes in five steps, as the kernel's `text_poke`
//! does it: publish the batch and raise a reference per CPU; write `int3` over the first byte of each; write the tails;
//! write the first bytes; drop the references and wait for them. A core-serializing `membarrier` follows each of the
//! three writes. A thread that meets the `int3` gets a SIGTRAP, whose handler looks the site up in the batch and
//! continues as the new instruction would. No thread is stopped, and none sees a torn instruction.
//!
//! # What it needs
//! Linux with `membarrier` (4.16), and on x86-64 the SIGTRAP handler. (On arm64 one aligned store replaces an instruction,
//! and there is neither trap nor handler.) Where either is denied, live patching is *off*: [`live`] says why, [`turn_off`]
//! asks for it, code can still be installed, and what would change it is an error. Programs that want to flip something
//! anyway test a flag. Threads that block SIGTRAP would be killed by a trap; a [`CpuSet`](skep_sync::CpuSet) with an arena
//! refuses to let them in.
//!
//! # Debuggers
//! A debugger sees each trap first. Once the program has started, tell it to pass them on, in gdb with
//! `handle SIGTRAP nostop noprint pass`, and continue from its own breakpoints with `signal 0`. Pages that this crate
//! writes are shared with a file, in which a debugger cannot put breakpoints of its own: in installed code, and in compiled
//! code with static keys once one was flipped, it needs those of the hardware (`hbreak`). A breakpoint that was on a branch
//! before its key was flipped for the first time makes the flip an error, and nothing changes. A trap byte that somebody
//! else put on a site, such as a uprobe, is understood: the thread goes on as the instruction under it.
//!
//! # Invariant
//! One batch at a time, behind one lock, its vector sorted; while it runs, every address in it is owned by an installed
//! image. Kernel counterpart: `arch/x86/kernel/alternative.c`, `kernel/jump_label.c` (6.18).

pub mod arch;
mod arena;
mod error;
pub mod inject;
pub mod key;
pub mod measure;
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only a trap handler asks whose a site is"))]
mod owners;
mod poke;
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only trap handlers are counted"))]
mod refs;
#[cfg(all(feature = "inject", target_arch = "x86_64"))]
pub mod soak;
#[cfg(target_arch = "x86_64")]
mod trap;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_trap.rs"]
mod trap;

pub use arch::{CodeAddr, SiteBytes};
pub use arena::{ArenaConfig, CodeArena, CodeImage, InstalledCode, RelocKind, Relocation, SiteId, SiteSpec, Target};
pub use error::TextError;
pub use key::{Key, KeyHold, StaticKey, flip};
pub use poke::{PokeReport, live, set_refs, turn_off};
pub use refs::{Refs, TrapCounts, trap_counts};
