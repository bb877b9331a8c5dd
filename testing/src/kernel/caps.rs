//! Loads with fewer capabilities, or none.

use std::path::Path;

use super::setting::Setting;

const VERSION_3: u32 = 0x2008_0522;
/// Says who may load programs: 0 everybody.
const SYSCTL: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";

/// While it lives, programs may be loaded without any capability; what the machine allowed before it allows again afterwards, even
/// if this process is killed.
#[derive(Debug)]
pub struct Unprivileged {
    _allowed: Setting,
}

impl Unprivileged {
    /// Allows it for a test, where the machine allows it anyway or the person who runs it wants it so
    /// (`SKEP_ORACLE_UNPRIVILEGED=1`).
    ///
    /// # Errors
    /// One sentence with what is in the way.
    pub fn allow_for_test() -> Result<Self, String> {
        let wanted = std::env::var_os("SKEP_ORACLE_UNPRIVILEGED").is_some_and(|may| may == "1");
        let allowed = || std::fs::read_to_string(SYSCTL).is_ok_and(|value| value.trim() == "0");
        if !wanted && !allowed() {
            return Err(format!("{SYSCTL} is not 0, and SKEP_ORACLE_UNPRIVILEGED=1 does not ask to change that"));
        }
        Self::allow()
    }

    /// Allows it.
    ///
    /// # Errors
    /// One sentence, where the machine does not let it be allowed.
    pub fn allow() -> Result<Self, String> {
        let allowed = Setting::hold(Path::new(SYSCTL), "0").map_err(|error| format!("{SYSCTL}: {error}"))?;
        Ok(Self { _allowed: allowed })
    }

    /// Does `work` on this thread without any capability.
    ///
    /// # Errors
    /// One sentence, when the capabilities cannot be laid down.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, String> {
        let mut mine = [0u32; 6];
        // SAFETY: `mine` has the layout of two `__user_cap_data_struct`, which the call fills.
        let known = unsafe { capabilities(libc::SYS_capget, mine.as_mut_ptr()) };
        let mut none = mine;
        (none[0], none[3]) = (0, 0);
        // SAFETY: as above; what is permitted stays, so that the effective ones can be taken up again.
        if !known || !unsafe { capabilities(libc::SYS_capset, none.as_mut_ptr()) } {
            return Err("the capabilities cannot be laid down".to_owned());
        }
        let done = work();
        // SAFETY: as above, with what the call has filled in.
        let restored = unsafe { capabilities(libc::SYS_capset, mine.as_mut_ptr()) };
        assert!(restored, "permitted capabilities can be taken up");
        Ok(done)
    }
}

/// capget(2) or capset(2) of this thread; whether it succeeded.
///
/// # Safety
/// `data` points to two `__user_cap_data_struct`: effective, permitted, inheritable, for the low 32 and the high capabilities.
unsafe fn capabilities(call: libc::c_long, data: *mut u32) -> bool {
    let header = [VERSION_3, 0];
    // SAFETY: the header has the layout of `__user_cap_header_struct`, the data is the caller's.
    unsafe { libc::syscall(call, header.as_ptr(), data) == 0 }
}

/// Runs `work` on a thread of its own that has CAP_BPF, CAP_NET_ADMIN and no other capability.
///
/// Returns `None` when the capabilities cannot be changed.
pub fn without_perfmon<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_BPF: u32 = 39;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let low = 1u32 << CAP_NET_ADMIN;
            let high = 1u32 << (CAP_BPF - 32);
            // Effective, permitted, inheritable; the low 32 capabilities, then the high ones.
            let mut data = [low, low, 0, high, high, 0];
            // SAFETY: it is two `__user_cap_data_struct`; the call changes this thread alone, which ends with `work`.
            unsafe { capabilities(libc::SYS_capset, data.as_mut_ptr()) }.then(work)
        });
        thread.join().ok().flatten()
    })
}
