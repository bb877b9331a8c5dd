//! The macros, and what they leave in the program: one record per branch, in a section of its own.
//!
//! A record holds distances, not addresses, so that nothing is relocated at load time and the section stays read-only.
//! The linker puts all records of a program or library side by side and provides symbols for both ends; a constructor
//! hands them over. Invariant: [`RawSite`] has the layout that the assembly in `__static_branch!` writes.
//! Kernel counterpart: `struct jump_entry`, `arch/x86/include/asm/jump_label.h` (6.18).

use super::StaticKey;
use super::module::Module;
use crate::poke;

/// One branch in compiled code.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug)]
pub struct RawSite {
    /// Distance from this field to the instruction.
    pub(super) at: i32,
    /// Distance from this field to where the jump goes.
    pub(super) to: i32,
    /// Distance from this field to the key.
    pub(super) key: i64,
    /// 1: the branch jumps while the key is off; 0: while it is on.
    pub(super) likely: u64,
}

/// Whether a branch is compiled as a jump.
#[doc(hidden)]
#[must_use]
pub const fn initial_jump<const INITIAL: bool>(_: &StaticKey<INITIAL>, likely: bool) -> u8 {
    (INITIAL != likely) as u8
}

/// Notes the records between two addresses; again and again is the same as once.
///
/// # Safety
/// The addresses are the ends of a section of records of the calling program or library.
#[doc(hidden)]
pub unsafe fn register(start: *const RawSite, end: *const RawSite) {
    let mut held = poke::lock();
    let modules = &mut held.registry().modules;
    if start != end && !modules.iter().any(|module| module.is(start)) {
        // SAFETY: the caller's promise.
        modules.push(unsafe { Module::new(start, end) });
    }
}

/// Declares a key: `static_key!(pub NAME = false);`, with attributes and documentation as for a `static`.
///
/// ```
/// skep_text::static_key! {
///     /// Whether requests are traced.
///     static TRACING = false;
/// }
///
/// fn request() -> u32 {
///     if skep_text::static_branch_unlikely!(TRACING) { 2 } else { 1 }
/// }
///
/// assert_eq!(request(), 1);
/// TRACING.enable()?;
/// assert_eq!(request(), 2);
/// TRACING.disable()?;
/// assert_eq!(request(), 1);
/// # Ok::<(), skep_text::TextError>(())
/// ```
#[macro_export]
macro_rules! static_key {
    ($(#[$attr:meta])* $vis:vis static $name:ident = $initial:literal $(;)?) => {
        $(#[$attr])*
        $vis static $name: $crate::StaticKey<$initial> = $crate::StaticKey::new();
        $crate::__register_static_keys!();
    };
    ($(#[$attr:meta])* $vis:vis $name:ident = $initial:literal $(;)?) => {
        $crate::static_key!($(#[$attr])* $vis static $name = $initial);
    };
}

/// Makes the program or library that this is linked into hand over its records when it is loaded.
#[doc(hidden)]
#[macro_export]
macro_rules! __register_static_keys {
    () => {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        const _: () = {
            unsafe extern "C" {
                #[link_name = "__start_skep_static_sites"]
                static START: $crate::key::RawSite;
                #[link_name = "__stop_skep_static_sites"]
                static END: $crate::key::RawSite;
            }

            extern "C" fn register() {
                // SAFETY: the linker defines both symbols, as the ends of the section of this program or library.
                unsafe { $crate::key::register(&raw const START, &raw const END) }
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static REGISTER: extern "C" fn() = register;
        };
    };
}

/// Whether the key is on; the code for "on" is out of the way. While the key is off, the cost is a five-byte nop.
#[macro_export]
macro_rules! static_branch_unlikely {
    ($key:path) => {
        $crate::__static_branch!($key, false)
    };
}

/// Whether the key is on; the code for "off" is out of the way. While the key is on, the cost is a five-byte nop.
#[macro_export]
macro_rules! static_branch_likely {
    ($key:path) => {
        $crate::__static_branch!($key, true)
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(target_arch = "x86_64")]
macro_rules! __static_branch {
    ($key:path, $likely:literal) => {
        'branch: {
            // SAFETY: the instruction is a nop or a jump to the label; neither changes a register, a flag or memory.
            unsafe {
                ::core::arch::asm!(
                    "2:",
                    ".if {jump}",
                    ".byte 0xe9",
                    ".long {to} - . - 4",
                    ".else",
                    ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
                    ".endif",
                    ".pushsection skep_static_sites, \"aR\", @progbits",
                    ".balign 8",
                    ".long 2b - .",
                    ".long {to} - .",
                    ".quad {key} - .",
                    ".quad {likely}",
                    ".popsection",
                    jump = const $crate::key::initial_jump(&$key, $likely),
                    likely = const $likely as u8,
                    key = sym $key,
                    to = label { break 'branch !$likely },
                    options(nomem, nostack, preserves_flags),
                )
            }
            $likely
        }
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(target_arch = "aarch64")]
macro_rules! __static_branch {
    ($key:path, $likely:literal) => {
        'branch: {
            // SAFETY: the instruction is a nop or a jump to the label; neither changes a register, a flag or memory.
            unsafe {
                ::core::arch::asm!(
                    "2:",
                    ".if {jump}",
                    "b {to}",
                    ".else",
                    "nop",
                    ".endif",
                    ".pushsection skep_static_sites, \"aR\", @progbits",
                    ".balign 8",
                    ".long 2b - .",
                    ".long {to} - .",
                    ".quad {key} - .",
                    ".quad {likely}",
                    ".popsection",
                    jump = const $crate::key::initial_jump(&$key, $likely),
                    likely = const $likely as u8,
                    key = sym $key,
                    to = label { break 'branch !$likely },
                    options(nomem, nostack, preserves_flags),
                )
            }
            $likely
        }
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
macro_rules! __static_branch {
    ($key:path, $likely:literal) => {
        // No patcher for this architecture yet: the flag is tested.
        $key.is_enabled()
    };
}

// An empty record, so that the section exists in every program, and with it the symbols for its ends. `R` keeps the
// section although nothing refers to it by name: some linkers throw such sections away otherwise.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
std::arch::global_asm!(".pushsection skep_static_sites, \"aR\", @progbits", ".balign 8", ".skip 24", ".popsection");
crate::__register_static_keys!();
