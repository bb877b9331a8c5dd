//! The first process of a machine of its own, in an initramfs: what it mounts, and how the machine ends.
//!
//! Invariant: elsewhere than in such a machine ([`is_first`]) nothing here does anything.
#![expect(clippy::print_stdout, reason = "the console is all that such a machine has")]

use std::ffi::CStr;

/// Whether this process is the first of its machine.
#[must_use]
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Mounts what the kernel shows of itself.
pub fn enter() {
    if is_first() {
        mount(c"/sys", c"sysfs");
        mount(c"/proc", c"proc");
    }
}

/// Turns the machine off.
pub fn leave() {
    if !is_first() {
        return;
    }
    // The console takes its time; the kernel's last words would come in the middle of a line.
    // SAFETY: waits for the terminal that descriptor 1 is, and fails for anything else.
    unsafe { libc::tcdrain(1) };
    // SAFETY: this is the first process of a machine of its own; nothing else runs there.
    unsafe { libc::sync() };
    // SAFETY: as above.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

fn mount(target: &CStr, kind: &CStr) {
    // SAFETY: the strings end with a NUL, and there are no options.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        println!("skep: cannot mount {}: {}", target.to_string_lossy(), std::io::Error::last_os_error());
    }
}
