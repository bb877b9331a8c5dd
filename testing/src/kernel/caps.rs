//! Loads with fewer capabilities.

/// Runs `work` on a thread of its own that has CAP_BPF, CAP_NET_ADMIN and no other capability.
///
/// Returns `None` when the capabilities cannot be changed.
pub fn without_perfmon<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_BPF: u32 = 39;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let header = [VERSION_3, 0];
            let low = 1u32 << CAP_NET_ADMIN;
            let high = 1u32 << (CAP_BPF - 32);
            // Effective, permitted, inheritable; the low 32 capabilities, then the high ones.
            let data = [low, low, 0, high, high, 0];
            // SAFETY: header and data have the layout of `__user_cap_header_struct` and of two
            // `__user_cap_data_struct`; the call changes this thread alone, which ends with `work`.
            let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
            (result == 0).then(work)
        });
        thread.join().ok().flatten()
    })
}
