//! An end to loads that the kernel would take too long for.
//!
//! Invariant: a verification that a signal ends answers `EAGAIN`, which no program is refused with. Kernel counterpart:
//! `signal_pending` in `do_check`, kernel/bpf/verifier.c, 6.1.

use std::time::Duration;

use skep_abi::Errno;

/// Interrupts what the kernel does for this thread once so much time has passed, until it is dropped. The process has one
/// timer and at most one thread that this may hit.
#[derive(Debug)]
pub struct Patience(());

impl Patience {
    /// From now on.
    ///
    /// # Errors
    /// The errno of sigaction(2) or setitimer(2).
    pub fn new(most: Duration) -> Result<Self, Errno> {
        extern "C" fn nothing(_: libc::c_int) {}
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: all zeros are a structure without flags, with an empty mask: calls are interrupted, not begun anew.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: the structure is complete, and the handler does nothing.
        if unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(last_errno());
        }
        set(most).map(|()| Self(()))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        // It could be set, so it can be unset.
        let _ = set(Duration::ZERO);
    }
}

/// Sets the timer, for one signal; zero unsets it.
fn set(after: Duration) -> Result<(), Errno> {
    let seconds = libc::time_t::try_from(after.as_secs()).map_err(|_| Errno::EINVAL)?;
    let value = libc::timeval { tv_sec: seconds, tv_usec: after.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: value };
    // SAFETY: reads the structure, and is not asked for the old one.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
